//! Small kinds: Namespace, ConfigMap, Secret, Event, Lease, PriorityClass.
//!
//! Rules: kubernetes.io/docs/reference/kubernetes-api.

use super::age;
use crate::{FieldErrors, Timestamp, Value, ValueExt, json, time, validate};
use base64::Engine;

/// ConfigMap and Secret data, all values together.
const DATA_BYTES_MAX: usize = 1024 * 1024;

pub fn validate_nothing(_: &Value, _: &mut FieldErrors) {}

pub fn age_row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![age(object, now)]
}

pub fn namespace_row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.text("status.phase").into(), age(object, now)]
}

pub fn default_namespace(namespace: &mut Value) {
    let name = namespace.text("metadata.name").to_string();
    namespace.object("metadata.labels").insert("kubernetes.io/metadata.name".into(), name.into());
    namespace.default_to("spec.finalizers", json!(["kubernetes"]));
    namespace.default_to("status.phase", "Active");
}

fn n_entries(object: &Value, field: &str) -> usize {
    object.at(field).as_object().map_or(0, serde_json::Map::len)
}

pub fn config_map_row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![(n_entries(object, "data") + n_entries(object, "binaryData")).into(), age(object, now)]
}

fn data_keys(object: &Value, fields: &[&str], errors: &mut FieldErrors) {
    let mut n_bytes = 0;
    for field in fields {
        for (key, value) in object.at(field).as_object().into_iter().flatten() {
            let valid = key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            if !valid || key.is_empty() || key.len() > 253 || key == "." || key.starts_with("..") {
                errors.invalid(
                    format!("{field}[{key}]"),
                    &json!(key),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  \
                     or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                );
            }
            n_bytes += value.as_str().map_or(0, str::len);
        }
    }
    if n_bytes > DATA_BYTES_MAX {
        errors.too_long(fields[0], DATA_BYTES_MAX);
    }
}

fn immutable_data(new: &Value, old: &Value, fields: &[&str], errors: &mut FieldErrors) {
    if old.at("immutable") != true {
        return;
    }
    for field in ["immutable"].iter().chain(fields) {
        if new.at(field) != old.at(field) {
            errors.forbidden(*field, "field is immutable when `immutable` is set");
        }
    }
}

pub fn validate_config_map(object: &Value, errors: &mut FieldErrors) {
    data_keys(object, &["data", "binaryData"], errors);
    for (key, _) in object.at("data").as_object().into_iter().flatten() {
        if object.at("binaryData").get(key).is_some() {
            errors.invalid(format!("data[{key}]"), &json!(key), "duplicate of key present in binaryData");
        }
    }
}

pub fn validate_config_map_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    immutable_data(new, old, &["data", "binaryData"], errors);
}

pub fn secret_row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.text("type").into(), n_entries(object, "data").into(), age(object, now)]
}

/// `stringData` is write-only: it overrides `data` and is not stored.
pub fn default_secret(secret: &mut Value) {
    secret.default_to("type", "Opaque");
    if let Some(Value::Object(strings)) = secret.remove_at("stringData") {
        for (key, text) in strings {
            let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or(""));
            secret.object("data").insert(key, encoded.into());
        }
    }
}

pub fn validate_secret(object: &Value, errors: &mut FieldErrors) {
    data_keys(object, &["data"], errors);
    let required: &[&str] = match object.text("type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required.iter().filter(|key| object.at("data").get(key).is_none()) {
        errors.required(format!("data[{key}]"), "");
    }
}

pub fn validate_secret_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    validate::immutable(new, old, "type", errors);
    immutable_data(new, old, &["data"], errors);
}

pub fn lease_row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![object.text("spec.holderIdentity").into(), age(object, now)]
}

pub fn validate_lease(object: &Value, errors: &mut FieldErrors) {
    if object.at("spec.leaseDurationSeconds").as_i64().is_some_and(|seconds| seconds <= 0) {
        errors.invalid("spec.leaseDurationSeconds", object.at("spec.leaseDurationSeconds"), "must be greater than 0");
    }
    validate::non_negative(object, "", "spec.leaseTransitions", errors);
}

pub fn priority_class_row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        object.at("value").as_i64().unwrap_or(0).into(),
        (object.at("globalDefault") == true).into(),
        age(object, now),
        object.text("preemptionPolicy").into(),
    ]
}

pub fn default_priority_class(object: &mut Value) {
    object.default_to("preemptionPolicy", "PreemptLowerPriority");
    object.default_to("value", 0);
}

/// Above this lie the system classes.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

pub fn validate_priority_class(object: &Value, errors: &mut FieldErrors) {
    let is_system = ["system-node-critical", "system-cluster-critical"].contains(&object.text("metadata.name"));
    if object.text("metadata.name").starts_with("system-") && !is_system {
        let why = "priority class names with 'system-' prefix are reserved for system use only";
        errors.forbidden("metadata.name", why);
    }
    if object.at("value").as_i64().unwrap_or(0) > USER_PRIORITY_MAX && !is_system {
        errors.forbidden("value", &format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}"));
    }
    validate::one_of(object, "", "preemptionPolicy", &["PreemptLowerPriority", "Never"], errors);
}

pub fn validate_priority_class_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new.at("value") != old.at("value") {
        errors.forbidden("value", "may not be changed in an update.");
    }
    validate::immutable(new, old, "preemptionPolicy", errors);
}

pub fn event_row(event: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |paths: &[&str]| paths.iter().map(|path| event.text(path)).find(|text| !text.is_empty());
    let first = first_of(&["firstTimestamp", "eventTime"]);
    let last = first_of(&["series.lastObservedTime", "lastTimestamp"]).or(first);
    let component = first_of(&["source.component", "reportingComponent"]).unwrap_or("");
    let host = first_of(&["source.host", "reportingInstance"]).map(|host| format!(", {host}")).unwrap_or_default();
    let count = event.at("series.count").as_i64().or(event.at("count").as_i64()).unwrap_or(1).max(1);
    let object = format!("{}/{}", event.text("involvedObject.kind").to_lowercase(), event.text("involvedObject.name"));
    vec![
        time::age(last, now).into(),
        event.text("type").into(),
        event.text("reason").into(),
        object.into(),
        event.text("involvedObject.fieldPath").into(),
        format!("{component}{host}").into(),
        event.text("message").trim().into(),
        time::age(first, now).into(),
        count.into(),
    ]
}

/// New-style events (those with an eventTime) hold messages of at most this many bytes.
const NOTE_BYTES_MAX: usize = 1024;

pub fn validate_event(event: &Value, errors: &mut FieldErrors) {
    let (about, own) = (event.text("involvedObject.namespace"), event.text("metadata.namespace"));
    let expected = if about.is_empty() { "default" } else { about };
    if expected != own {
        errors.invalid("involvedObject.namespace", &json!(about), "does not match event.namespace");
    }
    if !event.at("eventTime").is_null() {
        for field in ["reportingComponent", "reportingInstance", "action", "reason"] {
            if event.text(field).is_empty() {
                let name = if field == "reportingComponent" { "reportingController" } else { field };
                errors.required(name, "");
            }
        }
        if event.text("message").len() > NOTE_BYTES_MAX {
            errors.too_long("message", NOTE_BYTES_MAX);
        }
    }
    validate::one_of(event, "", "type", &["Normal", "Warning"], errors);
}

/// Field names that differ between core/v1 and events.k8s.io/v1.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

pub fn event_to_events_group(event: &mut Value) {
    for (core, newer) in EVENT_FIELDS {
        if let Some(value) = event.remove_at(core) {
            event.set(newer, value);
        }
    }
    event.default_to("eventTime", Value::Null);
    event.set("apiVersion", "events.k8s.io/v1");
}

pub fn event_from_events_group(event: &mut Value) {
    for (core, newer) in EVENT_FIELDS {
        if let Some(value) = event.remove_at(newer) {
            event.set(core, value);
        }
    }
    event.set("apiVersion", "v1");
}
