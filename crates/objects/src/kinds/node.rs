//! Node: rows, defaulting, validation.

use super::{age, or_none};
use crate::{FieldErrors, Timestamp, Value, ValueExt, json, validate};
use std::collections::BTreeSet;

pub const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The status of the condition of type `ty` of any object: `True`, `False`, `Unknown` or `""`.
pub fn condition<'a>(object: &'a Value, ty: &str) -> &'a str {
    let conditions = object.items("status.conditions");
    conditions.iter().find(|c| c.text("type") == ty).map_or("", |c| c.text("status"))
}

pub fn row(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match condition(node, "Ready") {
        "True" => "Ready".to_string(),
        "" => "Unknown".to_string(),
        _ => "NotReady".to_string(),
    };
    if node.at("spec.unschedulable") == true {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles = BTreeSet::new();
    for (key, value) in node.at("metadata.labels").as_object().into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.insert(role.to_string()),
            _ if key == "kubernetes.io/role" => roles.insert(value.as_str().unwrap_or("").to_string()),
            _ => false,
        };
    }
    let address = |ty: &str| {
        let addresses = node.items("status.addresses");
        or_none(addresses.iter().find(|a| a.text("type") == ty).map_or("", |a| a.text("address")))
    };
    let info = |field: &str| match node.text(&format!("status.nodeInfo.{field}")) {
        "" => Value::from("<unknown>"),
        text => text.into(),
    };
    vec![
        status.into(),
        or_none(&roles.into_iter().collect::<Vec<_>>().join(",")),
        age(node, now),
        node.text("status.nodeInfo.kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub fn default(node: &mut Value) {
    let capacity = node.at("status.capacity").clone();
    if !capacity.is_null() {
        node.default_to("status.allocatable", capacity);
    }
}

pub fn validate(node: &Value, errors: &mut FieldErrors) {
    let taints = node.items("spec.taints");
    for (i, taint) in taints.iter().enumerate() {
        let path = format!("spec.taints[{i}]");
        validate::qualified_name(taint.text("key"), &format!("{path}.key"), errors);
        if !validate::is_label_value(taint.text("value")) {
            errors.invalid(format!("{path}.value"), taint.at("value"), "a valid label value is required");
        }
        if taint.text("effect").is_empty() {
            errors.required(format!("{path}.effect"), "");
        } else {
            validate::one_of(taint, &path, "effect", EFFECTS, errors);
        }
        let same = |t: &&Value| t.text("key") == taint.text("key") && t.text("effect") == taint.text("effect");
        if taints[..i].iter().find(same).is_some() {
            errors.duplicate(path, &json!({"key": taint.text("key"), "effect": taint.text("effect")}));
        }
    }
}

pub fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for (field, text) in [("spec.podCIDRs", "podCIDR"), ("spec.providerID", "providerID")] {
        if !old.at(field).is_null() && new.at(field) != old.at(field) {
            errors.forbidden(field, &format!("node updates may not change {text} except from \"\" to valid"));
        }
    }
}
