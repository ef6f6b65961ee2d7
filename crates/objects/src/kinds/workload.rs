//! ReplicaSet and Deployment: rows, defaulting, validation.
//!
//! Rules: kubernetes.io/docs/reference/kubernetes-api/workload-resources/deployment-v1.

use super::{age, or_none, pod};
use crate::selector::{Requirement, Selector, validate_label_selector};
use crate::{FieldErrors, Timestamp, Value, ValueExt, json, validate};

/// A selector as kubectl prints it: `app=web,tier in (a,b)`.
pub fn selector_text(selector: &Value) -> String {
    let Some(selector) = Selector::from_object(selector) else { return String::new() };
    let text = |requirement: &Requirement| match requirement {
        Requirement::In(key, values) if values.len() == 1 => format!("{key}={}", values[0]),
        Requirement::In(key, values) => format!("{key} in ({})", values.join(",")),
        Requirement::NotIn(key, values) => format!("{key} notin ({})", values.join(",")),
        Requirement::Exists(key) => key.clone(),
        Requirement::NotExists(key) => format!("!{key}"),
        Requirement::Gt(key, bound) => format!("{key}>{bound}"),
        Requirement::Lt(key, bound) => format!("{key}<{bound}"),
    };
    selector.0.iter().map(text).collect::<Vec<_>>().join(",")
}

fn wide_cells(object: &Value) -> [Value; 3] {
    let containers = object.items("spec.template.spec.containers");
    let joined = |field: &str| containers.iter().map(|c| c.text(field)).collect::<Vec<_>>().join(",");
    [joined("name").into(), joined("image").into(), or_none(&selector_text(object.at("spec.selector")))]
}

fn number(object: &Value, path: &str) -> i64 {
    object.at(path).as_i64().unwrap_or(0)
}

pub fn replica_set_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells: Vec<Value> = ["spec.replicas", "status.replicas", "status.readyReplicas"]
        .iter()
        .map(|path| number(object, path).into())
        .collect();
    cells.push(age(object, now));
    cells.extend(wide_cells(object));
    cells
}

pub fn deployment_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        format!("{}/{}", number(object, "status.readyReplicas"), number(object, "spec.replicas")).into(),
        number(object, "status.updatedReplicas").into(),
        number(object, "status.availableReplicas").into(),
        age(object, now),
    ];
    cells.extend(wide_cells(object));
    cells
}

fn default_template(object: &mut Value) {
    object.object("spec.template.spec");
    let spec = object.get_mut("spec").and_then(|s| s.get_mut("template")).and_then(|t| t.get_mut("spec"));
    pod::default_spec(spec.expect("made on the line above"));
}

pub fn default_replica_set(object: &mut Value) {
    object.default_to("spec.replicas", 1);
    object.default_to("status.replicas", 0);
    default_template(object);
}

pub fn default_deployment(object: &mut Value) {
    object.default_to("spec.replicas", 1);
    object.default_to("spec.revisionHistoryLimit", 10);
    object.default_to("spec.progressDeadlineSeconds", 600);
    object.default_to("spec.strategy.type", "RollingUpdate");
    if object.text("spec.strategy.type") == "RollingUpdate" {
        object.default_to("spec.strategy.rollingUpdate.maxUnavailable", "25%");
        object.default_to("spec.strategy.rollingUpdate.maxSurge", "25%");
    }
    object.default_to("status", json!({}));
    default_template(object);
}

fn validate_workload(object: &Value, errors: &mut FieldErrors) {
    validate::non_negative(object, "", "spec.replicas", errors);
    validate::non_negative(object, "", "spec.minReadySeconds", errors);
    let selector = object.at("spec.selector");
    if selector.is_null() {
        errors.required("spec.selector", "");
    }
    validate_label_selector(selector, "spec.selector", errors);
    match Selector::from_object(selector) {
        // Absent, or with an operator that is refused above.
        None => {}
        Some(parsed) => {
            if parsed.0.is_empty() {
                errors.invalid("spec.selector", selector, "empty selector is invalid for deployment");
            }
            let labels = object.at("spec.template.metadata.labels");
            let pairs = labels.as_object().into_iter().flatten();
            let map = pairs.map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or("").into())).collect();
            if !parsed.matches(&map) {
                let shown = if labels.is_null() { json!({}) } else { labels.clone() };
                errors.invalid("spec.template.metadata.labels", &shown, "`selector` does not match template `labels`");
            }
        }
    }
    let metadata = object.at("spec.template.metadata");
    validate::labels(metadata.at("labels"), "spec.template.metadata.labels", errors);
    validate::annotations(metadata.at("annotations"), "spec.template.metadata.annotations", errors);
    validate::finalizers(metadata.at("finalizers"), "spec.template.metadata.finalizers", errors);
    let template = object.at("spec.template.spec");
    pod::validate_spec(template, "spec.template.spec", errors);
    if !template.items("ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.forbidden("spec.template.spec.ephemeralContainers", why);
    }
    match template.text("restartPolicy") {
        "Always" => {}
        // Another valid policy is not one for what must run for ever; an invalid one is told above.
        "OnFailure" | "Never" => {
            errors.unsupported("spec.template.spec.restartPolicy", template.at("restartPolicy"), &["Always"]);
        }
        _ => {}
    }
    if !template.at("activeDeadlineSeconds").is_null() {
        let why = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.forbidden("spec.template.spec.activeDeadlineSeconds", why);
    }
}

pub fn warn(object: &Value) -> Vec<String> {
    pod::unheeded(object.at("spec.template.spec"), "spec.template.spec")
}

pub fn validate_replica_set(object: &Value, errors: &mut FieldErrors) {
    validate_workload(object, errors);
}

/// An int or a percentage of at most 100 %; returns whether it is zero.
fn int_or_percent(object: &Value, path: &str, most_100: bool, errors: &mut FieldErrors) -> bool {
    let value = object.at(path);
    match value {
        Value::Number(number) => {
            if number.as_i64().is_none_or(|n| n < 0) {
                errors.invalid(path, value, "must be greater than or equal to 0");
            }
            number.as_i64() == Some(0)
        }
        Value::String(text) => match text.strip_suffix('%').and_then(|digits| digits.parse::<u32>().ok()) {
            None => {
                let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  \
                           or '93%', regex used for validation is '[0-9]+%')";
                errors.invalid(path, value, why);
                false
            }
            Some(percent) => {
                if most_100 && percent > 100 {
                    errors.invalid(path, value, "must not be greater than 100%");
                }
                percent == 0
            }
        },
        _ => false,
    }
}

pub fn validate_deployment(object: &Value, errors: &mut FieldErrors) {
    validate_workload(object, errors);
    let strategy = object.at("spec.strategy");
    match strategy.text("type") {
        "RollingUpdate" => {
            let base = "spec.strategy.rollingUpdate";
            let no_unavailable = int_or_percent(object, &format!("{base}.maxUnavailable"), true, errors);
            let no_surge = int_or_percent(object, &format!("{base}.maxSurge"), false, errors);
            if no_unavailable && no_surge {
                let value = strategy.at("rollingUpdate.maxUnavailable");
                errors.invalid(format!("{base}.maxUnavailable"), value, "may not be 0 when `maxSurge` is 0");
            }
        }
        "Recreate" => {
            if !strategy.at("rollingUpdate").is_null() {
                let why = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden("spec.strategy.rollingUpdate", why);
            }
        }
        _ => errors.unsupported("spec.strategy.type", strategy.at("type"), &["Recreate", "RollingUpdate"]),
    }
    validate::non_negative(object, "", "spec.revisionHistoryLimit", errors);
    let (deadline, min_ready) = (object.at("spec.progressDeadlineSeconds"), number(object, "spec.minReadySeconds"));
    validate::non_negative(object, "", "spec.progressDeadlineSeconds", errors);
    if deadline.as_i64().is_some_and(|seconds| seconds <= min_ready) {
        errors.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
    }
}

/// Counts are not negative, and none is more than the pods there are.
fn counts(new: &Value, total: &str, parts: &[&str], errors: &mut FieldErrors) {
    let replicas = number(new, total);
    for path in parts {
        validate::non_negative(new, "", path, errors);
        if number(new, path) > replicas {
            errors.invalid(*path, new.at(path), &format!("cannot be greater than {total}"));
        }
    }
    validate::non_negative(new, "", total, errors);
    validate::non_negative(new, "", "status.observedGeneration", errors);
}

pub fn validate_replica_set_status(new: &Value, _: &Value, errors: &mut FieldErrors) {
    let parts = ["status.fullyLabeledReplicas", "status.readyReplicas", "status.availableReplicas"];
    counts(new, "status.replicas", &parts, errors);
}

pub fn validate_deployment_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let parts = ["status.updatedReplicas", "status.readyReplicas", "status.availableReplicas"];
    counts(new, "status.replicas", &parts, errors);
    validate::non_negative(new, "", "status.unavailableReplicas", errors);
    let collisions = "status.collisionCount";
    if number(new, collisions) < number(old, collisions) {
        errors.invalid(collisions, new.at(collisions), "cannot be decremented");
    }
}

pub fn validate_selector_kept(new: &Value, old: &Value, errors: &mut FieldErrors) {
    validate::immutable(new, old, "spec.selector", errors);
}
