//! Roles and bindings: rows, defaulting, validation.
//!
//! Rules: kubernetes.io/docs/reference/access-authn-authz/rbac.

use super::age;
use crate::registry::Column;
use crate::selector::validate_label_selector;
use crate::validate::{self, NameRule};
use crate::{FieldErrors, Timestamp, Value, ValueExt};

const GROUP: &str = "rbac.authorization.k8s.io";

pub const BINDING_COLUMNS: &[Column] = &[
    Column { name: "Role", ty: "string", priority: 0 },
    Column { name: "Age", ty: "string", priority: 0 },
    Column { name: "Users", ty: "string", priority: 1 },
    Column { name: "Groups", ty: "string", priority: 1 },
    Column { name: "ServiceAccounts", ty: "string", priority: 1 },
];

pub fn role_row(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![object.at("metadata.creationTimestamp").clone()]
}

pub fn binding_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let subjects = |kind: &str| {
        let name = |s: &Value| match s.text("namespace") {
            "" => s.text("name").to_string(),
            namespace => format!("{namespace}/{}", s.text("name")),
        };
        let names: Vec<String> = object.items("subjects").iter().filter(|s| s.text("kind") == kind).map(name).collect();
        Value::from(names.join(", "))
    };
    vec![
        format!("{}/{}", object.text("roleRef.kind"), object.text("roleRef.name")).into(),
        age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

pub fn default_binding(object: &mut Value) {
    object.default_to("roleRef.apiGroup", GROUP);
    if let Some(subjects) = object.get_mut("subjects").and_then(Value::as_array_mut) {
        for subject in subjects {
            if matches!(subject.text("kind"), "User" | "Group") {
                subject.default_to("apiGroup", GROUP);
            }
        }
    }
}

fn rules(object: &Value, namespaced: bool, errors: &mut FieldErrors) {
    for (i, rule) in object.items("rules").iter().enumerate() {
        let path = format!("rules[{i}]");
        if rule.items("verbs").is_empty() {
            errors.required(format!("{path}.verbs"), "verbs must contain at least one value");
        }
        let urls = rule.items("nonResourceURLs");
        if !urls.is_empty() {
            let at = format!("{path}.nonResourceURLs");
            if namespaced {
                errors.invalid(at, rule.at("nonResourceURLs"), "namespaced rules cannot apply to non-resource URLs");
            } else if ["resources", "apiGroups", "resourceNames"].iter().any(|list| !rule.items(list).is_empty()) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(at, rule.at("nonResourceURLs"), why);
            }
            continue;
        }
        if rule.items("apiGroups").is_empty() {
            errors.required(format!("{path}.apiGroups"), "resource rules must supply at least one api group");
        }
        if rule.items("resources").is_empty() {
            errors.required(format!("{path}.resources"), "resource rules must supply at least one resource");
        }
    }
}

pub fn validate_role(object: &Value, errors: &mut FieldErrors) {
    rules(object, true, errors);
}

pub fn validate_cluster_role(object: &Value, errors: &mut FieldErrors) {
    rules(object, false, errors);
    let selectors = object.items("aggregationRule.clusterRoleSelectors");
    if !object.at("aggregationRule").is_null() && selectors.is_empty() {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.required("aggregationRule.clusterRoleSelectors", why);
    }
    for (i, selector) in selectors.iter().enumerate() {
        let path = format!("aggregationRule.clusterRoleSelectors[{i}]");
        validate_label_selector(selector, &path, errors);
    }
}

fn binding(object: &Value, kinds: &[&str], namespaced: bool, errors: &mut FieldErrors) {
    validate::one_of(object, "", "roleRef.apiGroup", &[GROUP], errors);
    if object.at("roleRef.kind").is_null() {
        errors.unsupported("roleRef.kind", &Value::from(""), kinds);
    }
    validate::one_of(object, "", "roleRef.kind", kinds, errors);
    if object.text("roleRef.name").is_empty() {
        errors.required("roleRef.name", "");
    } else {
        validate::name(NameRule::PathSegment, object.at("roleRef.name"), "roleRef.name", errors);
    }
    for (i, subject) in object.items("subjects").iter().enumerate() {
        let path = format!("subjects[{i}]");
        if subject.text("name").is_empty() {
            errors.required(format!("{path}.name"), "");
        }
        match subject.text("kind") {
            "ServiceAccount" => {
                if !subject.text("name").is_empty() {
                    validate::name(NameRule::Subdomain, subject.at("name"), &format!("{path}.name"), errors);
                }
                validate::one_of(subject, &path, "apiGroup", &[""], errors);
                if !namespaced && subject.text("namespace").is_empty() {
                    errors.required(format!("{path}.namespace"), "");
                }
            }
            "User" | "Group" => validate::one_of(subject, &path, "apiGroup", &[GROUP], errors),
            _ => errors.unsupported(format!("{path}.kind"), subject.at("kind"), &["ServiceAccount", "User", "Group"]),
        }
    }
}

pub fn validate_role_binding(object: &Value, errors: &mut FieldErrors) {
    binding(object, &["Role", "ClusterRole"], true, errors);
}

pub fn validate_cluster_role_binding(object: &Value, errors: &mut FieldErrors) {
    binding(object, &["ClusterRole"], false, errors);
}

pub fn validate_binding_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new.at("roleRef") != old.at("roleRef") {
        errors.invalid("roleRef", new.at("roleRef"), "cannot change roleRef");
    }
}
