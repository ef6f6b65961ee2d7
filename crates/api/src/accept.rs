//! Taking a body in: what it claims to be, the types of its fields, the fields nobody knows.
//!
//! Rules: kubernetes.io/docs/reference/using-api/api-concepts (field validation).

use crate::{OBJECT_BYTES_MAX, Request};
use bytes::Bytes;
use objects::registry::api_version;
use objects::schema::{self, Findings, schemas};
use objects::{Served, Status, Value, ValueExt, json, record};

/// What a body should be: the object a path names, or one of the small kinds that subresources and
/// verbs take.
#[derive(Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) schema: &'static str,
}

pub(crate) const SCALE: Expected =
    Expected { group: "autoscaling", version: "v1", kind: "Scale", schema: "io.k8s.api.autoscaling.v1.Scale" };
pub(crate) const BINDING: Expected =
    Expected { group: "", version: "v1", kind: "Binding", schema: "io.k8s.api.core.v1.Binding" };
pub(crate) const EVICTION: Expected =
    Expected { group: "policy", version: "v1", kind: "Eviction", schema: "io.k8s.api.policy.v1.Eviction" };

impl Expected {
    pub(crate) fn of(served: &Served) -> Expected {
        Expected { group: served.group, version: served.version, kind: served.kind.kind, schema: served.schema }
    }

    /// `Pod in version "v1" cannot be handled as a Pod: WHY`.
    fn unfit(&self, why: &str) -> Status {
        let Expected { version, kind, .. } = self;
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    }
}

/// Checks an object against what is expected; returns it without unknown fields and nulls, its
/// quantities in their one text, and the warnings for the caller.
pub(crate) fn accept(
    request: &Request,
    expected: &Expected,
    mut object: Value,
) -> Result<(Value, Vec<String>), Status> {
    if !object.is_object() {
        let what = schema::type_name(&object);
        let why = format!("the request must hold one {} as a JSON object; its body is of type {what}", expected.kind);
        return Err(Status::bad_request(why));
    }
    claims(expected, &object)?;
    object.set("apiVersion", api_version(expected.group, expected.version));
    object.set("kind", expected.kind);
    let findings = schemas().check(expected.schema, &object);
    if !findings.mistyped.is_empty() {
        return Err(mistyped(expected, &findings, &object));
    }
    let warnings = unknown(request, expected, &findings)?;
    if !findings.unknown.is_empty() {
        schemas().prune(expected.schema, &mut object);
    }
    schemas().normalize(expected.schema, &mut object);
    drop_nulls(&mut object);
    Ok((object, warnings))
}

/// A body that says what it is must say what the path says.
fn claims(expected: &Expected, object: &Value) -> Result<(), Status> {
    let due = api_version(expected.group, expected.version);
    for field in ["apiVersion", "kind"] {
        let claim = object.at(field);
        if !claim.is_null() && !claim.is_string() {
            return Err(expected.unfit("json: cannot unmarshal").at(field));
        }
    }
    let (claimed, kind) = (object.text("apiVersion"), object.text("kind"));
    if !claimed.is_empty() && claimed != due {
        let why = format!("the API version in the data ({claimed}) does not match the expected API version ({due})");
        return Err(Status::bad_request(why).at("apiVersion"));
    }
    if !kind.is_empty() && kind != expected.kind {
        let why = format!("the object provided is a {kind}, this request is for a {}", expected.kind);
        return Err(Status::bad_request(why).at("kind"));
    }
    Ok(())
}

fn mistyped(expected: &Expected, findings: &Findings, object: &Value) -> Status {
    let causes = schema::type_errors(findings, object);
    let text: Vec<String> = causes.0.iter().map(ToString::to_string).collect();
    let mut status = expected.unfit(&format!("json: cannot unmarshal: {}", text.join(", ")));
    status.causes = causes;
    status
}

/// Fields that the schema lacks or the body has twice: an error, warnings or nothing, as asked.
fn unknown(request: &Request, expected: &Expected, findings: &Findings) -> Result<Vec<String>, Status> {
    let unknown = findings.unknown.iter().map(|path| ("unknown", path));
    let found: Vec<(&str, &String)> =
        unknown.chain(request.body.duplicates.iter().map(|path| ("duplicate", path))).collect();
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let told: Vec<String> = found.iter().map(|(what, path)| format!("{what} field {path:?}")).collect();
    match request.options.field_validation.as_str() {
        "Strict" => {
            let mut status = expected.unfit(&format!("strict decoding error: {}", told.join(", ")));
            for ((_, path), told) in found.iter().zip(&told) {
                status.causes.told(path.as_str(), told.clone());
            }
            Err(status)
        }
        "Ignore" => Ok(Vec::new()),
        _ => Ok(told),
    }
}

/// Null means "not set" in the API; stored objects do not hold it.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, inner| !inner.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The bytes to store, unless they are too many: then the field that holds most of them is named.
pub(crate) fn encoded(object: &Value) -> Result<Bytes, Status> {
    let encoded = record::encode(object);
    if encoded.len() <= OBJECT_BYTES_MAX {
        return Ok(encoded);
    }
    let path = heaviest(object);
    let why = format!(
        "Request entity too large: the object takes {} bytes, most of them in {path}: limit is {OBJECT_BYTES_MAX}",
        encoded.len()
    );
    Err(Status { message: why, ..Status::too_large(OBJECT_BYTES_MAX) }.at(path))
}

/// The smallest part that still holds more than half of the object.
fn heaviest(object: &Value) -> String {
    let size = |value: &Value| value.to_string().len();
    let half = size(object) / 2;
    let (mut here, mut path) = (object, String::new());
    loop {
        let heavy = match here {
            Value::Object(fields) => fields
                .iter()
                .find(|(_, inner)| size(inner) > half)
                .map(|(field, inner)| (if path.is_empty() { field.clone() } else { format!("{path}.{field}") }, inner)),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find(|(_, inner)| size(inner) > half)
                .map(|(i, inner)| (format!("{path}[{i}]"), inner)),
            _ => None,
        };
        match heavy {
            Some((inner_path, inner)) => (path, here) = (inner_path, inner),
            None => return path,
        }
    }
}

/// The options of a request that are words: each has its few, whatever the face.
pub(crate) fn options(request: &Request) -> Result<(), Status> {
    let options = &request.options;
    let words = [
        ("fieldValidation", &options.field_validation, &["", "Ignore", "Strict", "Warn"][..]),
        ("propagationPolicy", &options.propagation, &["", "Background", "Foreground", "Orphan"][..]),
        ("resourceVersionMatch", &options.resource_version_match, &["", "Exact", "NotOlderThan"][..]),
    ];
    for (name, word, supported) in words {
        if !supported.contains(&word.as_str()) {
            let mut status = Status::bad_request("");
            status.causes.unsupported(name, &json!(word), &supported[1..]);
            status.message = status.causes.0[0].to_string();
            return Err(status);
        }
    }
    Ok(())
}
