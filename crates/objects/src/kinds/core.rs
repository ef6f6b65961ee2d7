//! Small kinds: Namespace, ConfigMap, Secret, Event, Lease, PriorityClass.
//!
//! Rules: kubernetes.io/docs/reference/kubernetes-api.

use super::age;
use super::volume::config_key;
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

pub fn validate_namespace(namespace: &Value, errors: &mut FieldErrors) {
    validate::finalizers(namespace.at("spec.finalizers"), "spec.finalizers", errors);
}

pub fn validate_namespace_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (phase, leaving) = (new.text("status.phase"), !old.at("metadata.deletionTimestamp").is_null());
    match (leaving, phase) {
        (false, "Active") | (true, "Terminating") => {}
        (false, _) => {
            let why = "may only be 'Active' if `deletionTimestamp` is empty";
            errors.invalid("status.phase", new.at("status.phase"), why);
        }
        (true, _) => {
            let why = "may only be 'Terminating' if `deletionTimestamp` is not empty";
            errors.invalid("status.phase", new.at("status.phase"), why);
        }
    }
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

/// The keys of the maps, and all their values together. `encoded` maps hold base64.
fn data_keys(object: &Value, fields: &[(&str, bool)], errors: &mut FieldErrors) {
    let mut n_bytes = 0;
    for (field, encoded) in fields {
        for (key, value) in object.at(field).as_object().into_iter().flatten() {
            config_key(key, format!("{field}[{key}]"), errors);
            let text = value.as_str().unwrap_or("");
            n_bytes += match encoded {
                true => text.trim_end_matches('=').len() * 3 / 4,
                false => text.len(),
            };
        }
    }
    if n_bytes > DATA_BYTES_MAX {
        errors.too_long(fields[0].0, DATA_BYTES_MAX);
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
    data_keys(object, &[("data", false), ("binaryData", true)], errors);
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
    data_keys(object, &[("data", true)], errors);
    let data = object.at("data");
    let required: &[&str] = match object.text("type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        // One of the two is enough.
        "kubernetes.io/basic-auth" if ["username", "password"].iter().all(|key| data.get(key).is_none()) => {
            &["username", "password"]
        }
        _ => &[],
    };
    for key in required.iter().filter(|key| data.get(key).is_none()) {
        errors.required(format!("data[{key}]"), "");
    }
    for key in required.iter().filter(|key| key.starts_with(".docker")) {
        let Some(text) = data.get(key).and_then(Value::as_str) else { continue };
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
        if serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes).is_err() {
            errors.invalid(format!("data[{key}]"), &json!("<secret contents redacted>"), "must hold a JSON object");
        }
    }
    let account = "kubernetes.io/service-account.name";
    if object.text("type") == "kubernetes.io/service-account-token"
        && object.annotation(account).is_none_or(str::is_empty)
    {
        errors.required(format!("metadata.annotations[{account}]"), "");
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
    if object.at("spec.holderIdentity") == "" {
        errors.invalid("spec.holderIdentity", &json!(""), "must not be empty");
    }
    if !object.at("spec.preferredHolder").is_null() && object.text("spec.strategy").is_empty() {
        errors.forbidden("spec.preferredHolder", "may only be specified if `strategy` is defined");
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
        let why = "priority class names with 'system-' prefix are reserved for system use only. error: the name is not \
                   one of system-cluster-critical, system-node-critical";
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
const EVENT_NAMES_BYTES_MAX: usize = 128;

fn at_most(event: &Value, field: &str, max: usize, errors: &mut FieldErrors) {
    if event.text(field).len() > max {
        errors.invalid(field, &json!(""), &format!("can have at most {max} characters"));
    }
}

pub fn validate_event(event: &Value, errors: &mut FieldErrors) {
    let (about, own) = (event.text("involvedObject.namespace"), event.text("metadata.namespace"));
    // Events about what lies in no namespace are kept in one of these.
    let matches = if about.is_empty() { ["default", "kube-system"].contains(&own) } else { about == own };
    if !matches {
        errors.invalid("involvedObject.namespace", &json!(about), "does not match event.namespace");
    }
    if event.at("eventTime").is_null() {
        return;
    }
    match event.text("reportingComponent") {
        "" => errors.required("reportingComponent", ""),
        component => validate::qualified_name(component, "reportingComponent", errors),
    }
    for field in ["reportingInstance", "action", "reason"] {
        if event.text(field).is_empty() {
            errors.required(field, "");
        }
        at_most(event, field, EVENT_NAMES_BYTES_MAX, errors);
    }
    at_most(event, "message", NOTE_BYTES_MAX, errors);
}

fn validate_series(event: &Value, errors: &mut FieldErrors) {
    if event.at("series").is_null() {
        return;
    }
    if event.at("series.count").as_i64().unwrap_or(0) < 2 {
        errors.invalid("series.count", event.at("series.count"), "should be at least 2");
    }
    if event.text("series.lastObservedTime").is_empty() {
        errors.required("series.lastObservedTime", "");
    }
}

/// What events.k8s.io/v1 asks beyond core/v1: a new-style event, and nothing but its series changes.
pub fn validate_strict_event(event: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let Some(old) = old else {
        validate_series(event, errors);
        if event.at("eventTime").is_null() {
            errors.required("eventTime", "");
        }
        if !["Normal", "Warning"].contains(&event.text("type")) {
            errors.invalid("type", event.at("type"), "must be Normal or Warning");
        }
        for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
            if !event.at(field).is_null() {
                errors.invalid(field, event.at(field), "needs to be unset");
            }
        }
        return;
    };
    if event.at("series") != old.at("series") {
        validate_series(event, errors);
    }
    let kept = [
        "involvedObject",
        "reason",
        "message",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
        "type",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "source",
    ];
    for field in kept {
        validate::immutable(event, old, field, errors);
    }
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

/// How events.k8s.io/v1 calls a field of the stored form.
pub fn events_group_field(path: &str) -> Option<String> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let (_, newer) = EVENT_FIELDS.iter().find(|(core, _)| *core == first)?;
    Some(match rest {
        Some(rest) => format!("{newer}.{rest}"),
        None => (*newer).to_string(),
    })
}

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
