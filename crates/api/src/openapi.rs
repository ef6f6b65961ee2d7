//! OpenAPI v3 documents: the schemas of `k8s-openapi` with the extensions kubectl looks for.

use objects::registry::{self, Served};
use objects::{Map, Value, json, patch, schema};

/// Every group-version's path under `/openapi/v3`.
fn paths() -> Vec<(String, &'static str, &'static str)> {
    let mut all: Vec<(String, &str, &str)> = Vec::new();
    for served in registry::served() {
        let path = match served.group {
            "" => format!("api/{}", served.version),
            group => format!("apis/{group}/{}", served.version),
        };
        if !all.iter().any(|(known, _, _)| *known == path) {
            all.push((path, served.group, served.version));
        }
    }
    all
}

/// `/openapi/v3`.
pub fn index() -> Value {
    let entries: Map<String, Value> = paths()
        .into_iter()
        .map(|(path, _, _)| {
            let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": entries})
}

/// `/openapi/v3/PATH`; `None` when the group-version is not served.
pub fn document(path: &str) -> Option<Value> {
    let (_, group, version) = paths().into_iter().find(|(known, _, _)| known == path)?;
    let served: Vec<Served> =
        registry::served().filter(|served| served.group == group && served.version == version).collect();
    let mut schemas = schema::definitions();
    for served in &served {
        if let Some(definition) = schemas.get_mut(served.schema) {
            definition["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "version": version, "kind": served.kind.kind}]);
        }
    }
    schemas.values_mut().for_each(mark_merge_facts);
    schemas.values_mut().for_each(let_metadata_be_absent);
    let mut operations = Map::new();
    for served in &served {
        let base = match (group, served.kind.namespaced) {
            ("", true) => format!("/api/{version}/namespaces/{{namespace}}/{}", served.kind.plural),
            ("", false) => format!("/api/{version}/{}", served.kind.plural),
            (group, true) => format!("/apis/{group}/{version}/namespaces/{{namespace}}/{}", served.kind.plural),
            (group, false) => format!("/apis/{group}/{version}/{}", served.kind.plural),
        };
        let operation = |action: &str| {
            json!({
                "operationId": format!("{action}{}", served.kind.kind),
                "parameters": [
                    {"name": "fieldValidation", "in": "query", "schema": {"type": "string", "uniqueItems": true}},
                    {"name": "dryRun", "in": "query", "schema": {"type": "string", "uniqueItems": true}},
                    {"name": "fieldManager", "in": "query", "schema": {"type": "string", "uniqueItems": true}},
                ],
                "responses": {"200": {"description": "OK"}},
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind":
                    {"group": group, "version": version, "kind": served.kind.kind},
            })
        };
        if served.kind.create_only {
            operations.insert(base, json!({"post": operation("post")}));
            continue;
        }
        operations.insert(base.clone(), json!({"get": operation("list"), "post": operation("post")}));
        let one = json!({
            "get": operation("get"), "put": operation("put"), "patch": operation("patch"), "delete": operation("delete"),
        });
        operations.insert(format!("{base}/{{name}}"), one);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": format!("v1.{}.0", crate::discovery::MINOR)},
        "paths": operations,
        "components": {"schemas": schemas},
    }))
}

/// Adds the patch strategies, which the schemas lack.
fn mark_merge_facts(definition: &mut Value) {
    let Some(fields) = definition.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, schema) in fields {
        if schema.get("type").and_then(Value::as_str) == Some("array")
            && let Some(key) = patch::published_merge_key(field)
        {
            let strategy = if patch::retains_keys(field) { "merge,retainKeys" } else { "merge" };
            schema["x-kubernetes-patch-merge-key"] = key.into();
            schema["x-kubernetes-patch-strategy"] = strategy.into();
        }
    }
}

/// Only the names of a kind's fields are Kubernetes': there an object's metadata is not required.
fn let_metadata_be_absent(definition: &mut Value) {
    let is_object = definition.pointer("/properties/apiVersion").is_some();
    if let Some(required) = definition.get_mut("required").and_then(Value::as_array_mut).filter(|_| is_object) {
        required.retain(|field| field != "metadata");
        if required.is_empty()
            && let Some(definition) = definition.as_object_mut()
        {
            definition.remove("required");
        }
    }
}

/// An OpenAPI v2 document in protobuf that says nothing: the field `swagger` = "2.0". kubectl reads
/// it and falls back to what it knows; a 404 would fail its handling of lists.
pub const EMPTY_V2_PROTOBUF: &[u8] = &[0x0A, 0x03, b'2', b'.', b'0'];
