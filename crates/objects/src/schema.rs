//! Shapes of objects: which fields exist and what types they take.
//!
//! Compiled from the schemas that `k8s-openapi` publishes, without their prose, so that checking a
//! request costs one walk over it. The full documents are made on demand for `/openapi`.

use crate::{FieldErrors, Quantity, Timestamp, quantity};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A compiled shape. `Ref` indexes `Schemas::types`, so that recursive types stay finite.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    Any,
    Text,
    Bytes,
    Time,
    Integer { bits: u8 },
    Number,
    Boolean,
    IntOrString,
    Quantity,
    Object(BTreeMap<Box<str>, Shape>),
    Map(Box<Shape>),
    List(Box<Shape>),
    Ref(usize),
}

/// All types reachable from the registered kinds.
#[derive(Debug)]
pub struct Schemas {
    types: Vec<Shape>,
    index: BTreeMap<String, usize>,
}

/// The prose-laden definitions, by schema name, as JSON Schema.
pub fn definitions() -> Map<String, Value> {
    use k8s_openapi::api as k;
    let mut generator = schemars::generate::SchemaSettings::openapi3().into_generator();
    macro_rules! with {
        ($($t:ty),* $(,)?) => { $( generator.subschema_for::<$t>(); )* };
    }
    with!(
        k::core::v1::Namespace,
        k::core::v1::Node,
        k::core::v1::Pod,
        k::core::v1::ConfigMap,
        k::core::v1::Secret,
        k::core::v1::ServiceAccount,
        k::core::v1::Service,
        k::core::v1::Event,
        k::core::v1::Binding,
        k::events::v1::Event,
        k::apps::v1::ReplicaSet,
        k::apps::v1::Deployment,
        k::coordination::v1::Lease,
        k::scheduling::v1::PriorityClass,
        k::rbac::v1::Role,
        k::rbac::v1::ClusterRole,
        k::rbac::v1::RoleBinding,
        k::rbac::v1::ClusterRoleBinding,
        k::authentication::v1::SelfSubjectReview,
        k::authorization::v1::SelfSubjectAccessReview,
        k::authorization::v1::SelfSubjectRulesReview,
        k::authorization::v1::SubjectAccessReview,
        k::policy::v1::Eviction,
        k::autoscaling::v1::Scale,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Status,
    );
    generator.take_definitions(true)
}

/// The compiled schemas, made once.
pub fn schemas() -> &'static Schemas {
    static SCHEMAS: OnceLock<Schemas> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let definitions = definitions();
        let index: BTreeMap<String, usize> =
            definitions.keys().enumerate().map(|(i, name)| (name.clone(), i)).collect();
        let types = definitions.iter().map(|(name, schema)| compile(name, schema, &index)).collect();
        Schemas { types, index }
    })
}

fn compile(name: &str, schema: &Value, index: &BTreeMap<String, usize>) -> Shape {
    match name {
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => return Shape::Quantity,
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => return Shape::IntOrString,
        "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1" => return Shape::Any,
        _ => {}
    }
    let text = |field: &str| schema.get(field).and_then(Value::as_str);
    let reference = schema.get("allOf").and_then(|all| all.get(0)).unwrap_or(schema).get("$ref");
    if let Some(target) = reference.and_then(Value::as_str) {
        let target = target.rsplit('/').next().unwrap_or("");
        return index.get(target).map_or(Shape::Any, |i| Shape::Ref(*i));
    }
    let inner = |field: &str| schema.get(field).map(|inner| Box::new(compile("", inner, index)));
    match text("type") {
        Some("string") => match text("format") {
            Some("date-time") => Shape::Time,
            Some("byte") => Shape::Bytes,
            _ => Shape::Text,
        },
        Some("integer") => Shape::Integer { bits: if text("format") == Some("int64") { 64 } else { 32 } },
        Some("number") => Shape::Number,
        Some("boolean") => Shape::Boolean,
        Some("array") => inner("items").map_or(Shape::Any, Shape::List),
        Some("object") => match (schema.get("properties").and_then(Value::as_object), inner("additionalProperties")) {
            (Some(fields), _) => Shape::Object(
                fields.iter().map(|(field, inner)| (field.as_str().into(), compile("", inner, index))).collect(),
            ),
            (None, Some(inner)) => Shape::Map(inner),
            (None, None) => Shape::Any,
        },
        _ => Shape::Any,
    }
}

/// What a walk found: fields the schema does not have, and values of the wrong type.
#[derive(Debug, Default, PartialEq)]
pub struct Findings {
    pub unknown: Vec<String>,
    /// Path and what was expected, worded like Go's decoder.
    pub mistyped: Vec<(String, String)>,
}

impl Schemas {
    /// Checks `object` against the type named `name` (e.g. `io.k8s.api.core.v1.Pod`).
    pub fn check(&self, name: &str, object: &Value) -> Findings {
        let mut findings = Findings::default();
        match self.index.get(name) {
            Some(i) => self.walk(&Shape::Ref(*i), object, &mut String::new(), &mut findings),
            None => findings.mistyped.push((String::new(), format!("a known type, not {name}"))),
        }
        findings
    }

    /// Removes what `check` calls unknown.
    pub fn prune(&self, name: &str, object: &mut Value) {
        if let Some(i) = self.index.get(name) {
            self.prune_shape(&Shape::Ref(*i), object);
        }
    }

    /// Writes quantities in their one text: numbers become strings, `0.5` becomes `500m`.
    pub fn normalize(&self, name: &str, object: &mut Value) {
        if let Some(i) = self.index.get(name) {
            self.normalize_shape(&Shape::Ref(*i), object);
        }
    }

    fn normalize_shape(&self, shape: &Shape, value: &mut Value) {
        match (shape, value) {
            (Shape::Ref(i), value) => self.normalize_shape(&self.types[*i], value),
            (Shape::Object(fields), Value::Object(object)) => {
                for (field, inner) in object {
                    if let Some(shape) = fields.get(field.as_str()) {
                        self.normalize_shape(shape, inner);
                    }
                }
            }
            (Shape::Map(inner), Value::Object(object)) => {
                object.values_mut().for_each(|value| self.normalize_shape(inner, value));
            }
            (Shape::List(inner), Value::Array(items)) => {
                items.iter_mut().for_each(|value| self.normalize_shape(inner, value));
            }
            (Shape::Quantity, value) => {
                let text = match &*value {
                    Value::String(text) => quantity::canonical(text),
                    Value::Number(number) => quantity::canonical(&number.to_string()),
                    _ => None,
                };
                if let Some(text) = text {
                    *value = text.into();
                }
            }
            _ => {}
        }
    }

    fn prune_shape(&self, shape: &Shape, value: &mut Value) {
        match (shape, value) {
            (Shape::Ref(i), value) => self.prune_shape(&self.types[*i], value),
            (Shape::Object(fields), Value::Object(object)) => {
                object.retain(|field, _| fields.contains_key(field.as_str()));
                for (field, inner) in object {
                    self.prune_shape(&fields[field.as_str()], inner);
                }
            }
            (Shape::Map(inner), Value::Object(object)) => {
                object.values_mut().for_each(|value| self.prune_shape(inner, value));
            }
            (Shape::List(inner), Value::Array(items)) => {
                items.iter_mut().for_each(|value| self.prune_shape(inner, value));
            }
            _ => {}
        }
    }

    fn walk(&self, shape: &Shape, value: &Value, path: &mut String, findings: &mut Findings) {
        let mut wrong = |expected: &str| findings.mistyped.push((path.clone(), expected.to_string()));
        match (shape, value) {
            (Shape::Ref(i), _) => self.walk(&self.types[*i], value, path, findings),
            // Null is "not set" everywhere in the API.
            (Shape::Any, _) | (_, Value::Null) => {}
            (Shape::Text, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) | (Shape::Number, Value::Number(_)) => {}
            (Shape::Bytes, Value::String(text)) => {
                use base64::Engine;
                if base64::engine::general_purpose::STANDARD.decode(text).is_err() {
                    wrong("base64 text");
                }
            }
            (Shape::Time, Value::String(text)) => {
                if Timestamp::parse(text).is_none() {
                    wrong("a time in RFC 3339 form, e.g. 2026-01-02T15:04:05Z");
                }
            }
            (Shape::Integer { bits }, Value::Number(number)) => {
                let fits = number.as_i64().is_some_and(|n| *bits == 64 || i32::try_from(n).is_ok());
                if !fits {
                    wrong(if *bits == 64 { "int64" } else { "int32" });
                }
            }
            (Shape::IntOrString, Value::String(_)) => {}
            (Shape::IntOrString, Value::Number(number)) if number.is_i64() => {}
            (Shape::Quantity, Value::Number(number)) => {
                if Quantity::parse(&number.to_string()).is_none() {
                    wrong("a quantity such as 500m, 1.5Gi or 2e3");
                }
            }
            (Shape::Quantity, Value::String(text)) => {
                if Quantity::parse(text).is_none() {
                    wrong("a quantity such as 500m, 1.5Gi or 2e3");
                }
            }
            (Shape::Object(fields), Value::Object(object)) => {
                for (field, inner) in object {
                    let len = path.len();
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(field);
                    match fields.get(field.as_str()) {
                        Some(shape) => self.walk(shape, inner, path, findings),
                        None => findings.unknown.push(path.clone()),
                    }
                    path.truncate(len);
                }
            }
            (Shape::Map(shape), Value::Object(object)) => {
                for (field, inner) in object {
                    let len = path.len();
                    path.push('.');
                    path.push_str(field);
                    self.walk(shape, inner, path, findings);
                    path.truncate(len);
                }
            }
            (Shape::List(shape), Value::Array(items)) => {
                for (i, item) in items.iter().enumerate() {
                    let len = path.len();
                    path.push_str(&format!("[{i}]"));
                    // Null is no item: "not set" has no meaning inside a list.
                    match item {
                        Value::Null => findings.mistyped.push((path.clone(), self.expected(shape).to_string())),
                        _ => self.walk(shape, item, path, findings),
                    }
                    path.truncate(len);
                }
            }
            _ => wrong(self.expected(shape)),
        }
    }

    /// What a value of this shape looks like, in a word.
    fn expected(&self, shape: &Shape) -> &'static str {
        match shape {
            Shape::Ref(i) => self.expected(&self.types[*i]),
            Shape::Any => "a value",
            Shape::Text | Shape::Bytes | Shape::Time => "string",
            Shape::Integer { bits: 64 } => "int64",
            Shape::Integer { .. } => "int32",
            Shape::Number => "number",
            Shape::Boolean => "bool",
            Shape::IntOrString => "int or string",
            Shape::Quantity => "quantity",
            Shape::Object(_) | Shape::Map(_) => "object",
            Shape::List(_) => "array",
        }
    }
}

/// Wrong types as field errors, for faces that answer with causes.
pub fn type_errors(findings: &Findings, object: &Value) -> FieldErrors {
    let mut errors = FieldErrors::default();
    for (path, expected) in &findings.mistyped {
        let found = pointer(object, path);
        errors.type_invalid(path.clone(), found, &format!("expected {expected}, got {}", type_name(found)));
    }
    errors
}

pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Follows a path as `walk` writes it (`spec.containers[0].name`); `Null` when it leads nowhere.
pub fn pointer<'a>(object: &'a Value, path: &str) -> &'a Value {
    static NULL: Value = Value::Null;
    let steps = path.split('.').flat_map(|step| step.split(['[', ']'])).filter(|step| !step.is_empty());
    let step = |here: &'a Value, step: &str| match here {
        Value::Array(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)),
        _ => here.get(step),
    };
    steps.map(Some).try_fold(object, |here, name| step(here, name?)).unwrap_or(&NULL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_unknown_fields_and_wrong_types() {
        let pod = json!({
            "metadata": {"name": "a", "creationTimestamp": null},
            "spec": {
                "nodeNam": "x",
                "containers": [{"name": 7, "resources": {"limits": {"cpu": "1x", "memory": 5}},
                    "livenessProbe": {"httpGet": {"port": "web"}, "periodSeconds": "3"}}],
            },
        });
        let findings = schemas().check("io.k8s.api.core.v1.Pod", &pod);
        assert_eq!(findings.unknown, ["spec.nodeNam"]);
        let paths: Vec<&str> = findings.mistyped.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "spec.containers[0].livenessProbe.periodSeconds",
                "spec.containers[0].name",
                "spec.containers[0].resources.limits.cpu",
            ]
        );
        assert_eq!(pointer(&pod, "spec.containers[0].name"), &json!(7));
    }

    #[test]
    fn quantities_have_one_text() {
        let mut pod = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 1, "memory": "1024Mi"}}}]}});
        schemas().normalize("io.k8s.api.core.v1.Pod", &mut pod);
        assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "1", "memory": "1Gi"}));
    }

    #[test]
    fn a_list_holds_no_null() {
        let pod = json!({"spec": {"containers": [null, {"command": ["a", null]}]}});
        let findings = schemas().check("io.k8s.api.core.v1.Pod", &pod);
        let told: Vec<String> = findings.mistyped.iter().map(|(path, expected)| format!("{path} {expected}")).collect();
        assert_eq!(told, ["spec.containers[0] object", "spec.containers[1].command[1] string"]);
    }

    #[test]
    fn prunes_unknown_fields() {
        let mut map = json!({"data": {"a": "1"}, "extra": 1});
        schemas().prune("io.k8s.api.core.v1.ConfigMap", &mut map);
        assert_eq!(map, json!({"data": {"a": "1"}}));
    }
}
