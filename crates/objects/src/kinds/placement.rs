//! Where a pod may run: affinity, tolerations, spread, as a pod spec says them.
//!
//! Rules: kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node.

use super::node::EFFECTS;
use crate::validate::{label_value, one_of, qualified_name};
use crate::{FieldErrors, Value, ValueExt, json, selector};
use std::collections::BTreeSet;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// One node selector term or preference: expressions over labels or fields.
fn node_term(term: &Value, base: &str, errors: &mut FieldErrors) {
    for list in ["matchExpressions", "matchFields"] {
        for (i, expression) in term.items(list).iter().enumerate() {
            let path = format!("{base}.{list}[{i}]");
            let values = expression.items("values");
            match expression.text("operator") {
                "In" | "NotIn" if values.is_empty() => {
                    errors.required(format!("{path}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
                    format!("{path}.values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
                "Gt" | "Lt" if values.len() != 1 => errors.required(
                    format!("{path}.values"),
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                ),
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                _ => errors.invalid(
                    format!("{path}.operator"),
                    expression.at("operator"),
                    "not a valid selector operator",
                ),
            }
            if list == "matchExpressions" {
                qualified_name(expression.text("key"), &format!("{path}.key"), errors);
                for (v, value) in values.iter().enumerate() {
                    label_value(value, &format!("{path}.values[{v}]"), errors);
                }
            } else {
                node_field(expression, &path, errors);
            }
        }
    }
}

/// The only field is the name, and one name at a time.
fn node_field(expression: &Value, path: &str, errors: &mut FieldErrors) {
    if expression.text("key") != "metadata.name" {
        errors.invalid(format!("{path}.key"), expression.at("key"), "not a valid field selector key");
    }
    match expression.text("operator") {
        "In" | "NotIn" if expression.items("values").len() > 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(format!("{path}.values"), why);
        }
        "Exists" | "DoesNotExist" | "Gt" | "Lt" => {
            errors.invalid(format!("{path}.operator"), expression.at("operator"), "not a valid selector operator");
        }
        _ => {}
    }
}

fn weight(item: &Value, path: &str, errors: &mut FieldErrors) {
    if !(1..=100).contains(&item.at("weight").as_i64().unwrap_or(0)) {
        let shown = item.at("weight").as_i64().unwrap_or(0);
        errors.invalid(format!("{path}.weight"), &json!(shown), "must be in the range 1-100");
    }
}

/// The label keys whose values a pod adds to a selector of its own.
fn label_keys(term: &Value, path: &str, errors: &mut FieldErrors) {
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        for (i, key) in term.items(list).iter().enumerate() {
            let at = format!("{path}.{list}[{i}]");
            qualified_name(key.as_str().unwrap_or(""), &at, errors);
            if term.at("labelSelector").is_null() {
                errors.forbidden(at, "must not be specified when labelSelector is not set");
            } else if list == "mismatchLabelKeys" && term.items("matchLabelKeys").contains(key) {
                errors.invalid(at, key, "exists in both matchLabelKeys and mismatchLabelKeys");
            }
        }
    }
}

fn pod_term(term: &Value, path: &str, errors: &mut FieldErrors) {
    for field in ["labelSelector", "namespaceSelector"] {
        selector::validate_label_selector(term.at(field), &format!("{path}.{field}"), errors);
    }
    for (i, namespace) in term.items("namespaces").iter().enumerate() {
        crate::validate::dns_label(namespace, &format!("{path}.namespaces[{i}]"), errors);
    }
    label_keys(term, path, errors);
    match term.text("topologyKey") {
        "" => errors.required(format!("{path}.topologyKey"), "can not be empty"),
        key => qualified_name(key, &format!("{path}.topologyKey"), errors),
    }
}

pub(super) fn affinity(affinity: &Value, base: &str, errors: &mut FieldErrors) {
    let node = affinity.at("nodeAffinity");
    if !node.at(REQUIRED).is_null() {
        let path = format!("{base}.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
        let terms = node.at(REQUIRED).items("nodeSelectorTerms");
        if terms.is_empty() {
            errors.required(path.clone(), "must have at least one node selector term");
        }
        for (i, term) in terms.iter().enumerate() {
            node_term(term, &format!("{path}[{i}]"), errors);
        }
    }
    for (i, item) in node.items(PREFERRED).iter().enumerate() {
        let path = format!("{base}.nodeAffinity.{PREFERRED}[{i}]");
        weight(item, &path, errors);
        node_term(item.at("preference"), &format!("{path}.preference"), errors);
    }
    for family in ["podAffinity", "podAntiAffinity"] {
        for (i, item) in affinity.at(family).items(REQUIRED).iter().enumerate() {
            pod_term(item, &format!("{base}.{family}.{REQUIRED}[{i}]"), errors);
        }
        for (i, item) in affinity.at(family).items(PREFERRED).iter().enumerate() {
            let path = format!("{base}.{family}.{PREFERRED}[{i}]");
            weight(item, &path, errors);
            pod_term(item.at("podAffinityTerm"), &format!("{path}.podAffinityTerm"), errors);
        }
    }
}

pub(super) fn tolerations(spec: &Value, base: &str, errors: &mut FieldErrors) {
    for (i, toleration) in spec.items("tolerations").iter().enumerate() {
        let path = format!("{base}.tolerations[{i}]");
        let (key, operator) = (toleration.text("key"), toleration.text("operator"));
        if !key.is_empty() {
            qualified_name(key, &format!("{path}.key"), errors);
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(format!("{path}.operator"), &json!(operator), why);
        }
        match operator {
            "" | "Equal" => label_value(toleration.at("value"), &format!("{path}.value"), errors),
            "Exists" if !toleration.text("value").is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.invalid(format!("{path}.operator"), toleration.at("value"), why);
            }
            "Exists" => {}
            _ => errors.unsupported(format!("{path}.operator"), &json!(operator), &["Equal", "Exists"]),
        }
        if toleration.at("tolerationSeconds").is_i64() && toleration.text("effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(format!("{path}.effect"), &json!(toleration.text("effect")), why);
        }
        if !toleration.text("effect").is_empty() {
            one_of(toleration, &path, "effect", EFFECTS, errors);
        }
    }
}

pub(super) fn topology_spread(spec: &Value, base: &str, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        let path = format!("{base}.topologySpreadConstraints[{i}]");
        let (key, when) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        let skew = constraint.at("maxSkew").as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.invalid(format!("{path}.maxSkew"), &json!(skew), "must be greater than zero");
        }
        match key {
            "" => errors.required(format!("{path}.topologyKey"), "can not be empty"),
            key => qualified_name(key, &format!("{path}.topologyKey"), errors),
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&when) {
            let supported = &["DoNotSchedule", "ScheduleAnyway"];
            errors.unsupported(format!("{path}.whenUnsatisfiable"), &json!(when), supported);
        }
        if !seen.insert((key, when)) {
            errors.duplicate(path.clone(), &json!(format!("{{{key}, {when}}}")));
        }
        if let Some(min) = constraint.at("minDomains").as_i64() {
            let at = format!("{path}.minDomains");
            if min <= 0 {
                errors.invalid(at, constraint.at("minDomains"), "must be greater than zero");
            } else if when != "DoNotSchedule" {
                let why = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway";
                errors.invalid(at, constraint.at("minDomains"), why);
            }
        }
        one_of(constraint, &path, "nodeAffinityPolicy", &["Honor", "Ignore"], errors);
        one_of(constraint, &path, "nodeTaintsPolicy", &["Honor", "Ignore"], errors);
        label_keys(constraint, &path, errors);
        selector::validate_label_selector(constraint.at("labelSelector"), &format!("{path}.labelSelector"), errors);
    }
}

/// What must happen before the scheduler looks at the pod.
pub(super) fn scheduling_gates(spec: &Value, base: &str, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (i, gate) in spec.items("schedulingGates").iter().enumerate() {
        let path = format!("{base}.schedulingGates[{i}]");
        qualified_name(gate.text("name"), &format!("{path}.name"), errors);
        if !names.insert(gate.text("name")) {
            errors.duplicate(path, gate.at("name"));
        }
    }
}
