//! Node: rows, defaulting, validation.

use super::{age, or_none};
use crate::{FieldErrors, Quantity, Timestamp, Value, ValueExt, json, validate};
use std::collections::BTreeSet;
use std::net::IpAddr;

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

fn taints(node: &Value, errors: &mut FieldErrors) {
    let taints = node.items("spec.taints");
    for (i, taint) in taints.iter().enumerate() {
        let path = format!("spec.taints[{i}]");
        validate::qualified_name(taint.text("key"), &format!("{path}.key"), errors);
        validate::label_value(taint.at("value"), &format!("{path}.value"), errors);
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

fn is_cidr(text: &str) -> Option<IpAddr> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(address)
}

fn pod_cidrs(node: &Value, errors: &mut FieldErrors) {
    let cidrs = node.items("spec.podCIDRs");
    let mut families = Vec::new();
    for (i, cidr) in cidrs.iter().enumerate() {
        match is_cidr(cidr.as_str().unwrap_or("")) {
            Some(address) => families.push(address.is_ipv4()),
            None => {
                let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.invalid(format!("spec.podCIDRs[{i}]"), cidr, why);
            }
        }
    }
    if cidrs.len() > 2 || matches!(families.as_slice(), [a, b] if a == b) {
        let why = "may specify no more than one CIDR for each IP family";
        errors.invalid("spec.podCIDRs", node.at("spec.podCIDRs"), why);
    }
    let first = cidrs.first().and_then(Value::as_str).unwrap_or("");
    if !node.text("spec.podCIDR").is_empty() && !cidrs.is_empty() && node.text("spec.podCIDR") != first {
        errors.invalid("spec.podCIDR", node.at("spec.podCIDR"), "must be the first of `spec.podCIDRs`");
    }
}

pub fn validate(node: &Value, errors: &mut FieldErrors) {
    taints(node, errors);
    pod_cidrs(node, errors);
    validate_status(node, &Value::Null, errors);
}

pub fn validate_status(node: &Value, _: &Value, errors: &mut FieldErrors) {
    for list in ["capacity", "allocatable"] {
        for (resource, value) in node.at("status").at(list).as_object().into_iter().flatten() {
            let at = format!("status.{list}[{resource}]");
            validate::qualified_name(resource, &at, errors);
            if value.as_str().and_then(Quantity::parse).is_some_and(Quantity::is_negative) {
                errors.invalid(at, value, "must be greater than or equal to 0");
            }
        }
    }
    let addresses = node.items("status.addresses");
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            errors.duplicate(format!("status.addresses[{i}]"), address);
        }
    }
}

pub fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for (field, text) in [("spec.podCIDRs", "podCIDR"), ("spec.podCIDR", "podCIDR"), ("spec.providerID", "providerID")]
    {
        if !old.at(field).is_null() && new.at(field) != old.at(field) {
            errors.forbidden(field, &format!("node updates may not change {text} except from \"\" to valid"));
        }
    }
    for field in ["configSource", "externalID"] {
        if new.at("spec").at(field) != old.at("spec").at(field) {
            let why = "node updates may only change labels, taints, or capacity";
            errors.forbidden(format!("spec.{field}"), why);
        }
    }
}
