//! RBAC: roles and bindings stored in the cluster.
//!
//! Rules: kubernetes.io/docs/reference/access-authn-authz/rbac.

use crate::{Attributes, Identity};
use objects::selector::Selector;
use objects::{Key, Record, Value, ValueExt, json, registry};
use state::View;
use std::sync::Arc;

/// The bindings that name the caller and reach into `namespace` (empty: the cluster's only).
fn bindings<'a>(
    view: &'a View,
    identity: &'a Identity,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a Arc<Record>, Value)> {
    let cluster_wide = view.list(registry::CLUSTER_ROLE_BINDING, "", None);
    let local = view.list(registry::ROLE_BINDING, namespace, None).filter(move |_| !namespace.is_empty());
    let all = cluster_wide.chain(local).map(|record| (record, record.value()));
    all.filter(|(_, binding)| {
        binding
            .items("subjects")
            .iter()
            .any(|subject| is_subject(identity, subject, binding.text("metadata.namespace")))
    })
}

/// The first binding that allows the attributes, named; `None` when there is none.
pub(crate) fn allows(view: &View, identity: &Identity, attributes: &Attributes) -> Option<String> {
    let mut bound = bindings(view, identity, attributes.namespace);
    let (record, _) =
        bound.find(|(_, binding)| rules_of_binding(view, binding).iter().any(|rule| covers(rule, attributes)))?;
    Some(format!("RBAC: {}", record.key))
}

/// Every rule that holds for the caller in `namespace`.
pub(crate) fn rules(view: &View, identity: &Identity, namespace: &str) -> Vec<Value> {
    bindings(view, identity, namespace).flat_map(|(_, binding)| rules_of_binding(view, &binding)).collect()
}

/// Whether a subject of a binding in `namespace` is the caller.
fn is_subject(identity: &Identity, subject: &Value, namespace: &str) -> bool {
    let name = subject.text("name");
    match subject.text("kind") {
        "User" => name == identity.user,
        "Group" => {
            let everyone = name == "system:authenticated";
            everyone || identity.groups.iter().any(|group| group == name)
        }
        "ServiceAccount" => {
            let own = Some(subject.text("namespace")).filter(|own| !own.is_empty()).unwrap_or(namespace);
            identity.user == format!("system:serviceaccount:{own}:{name}")
        }
        _ => false,
    }
}

/// The role a binding refers to.
pub(crate) fn role_of_binding(binding: &Value) -> Key {
    let name = binding.text("roleRef.name");
    match binding.text("roleRef.kind") {
        "ClusterRole" => Key::new(registry::CLUSTER_ROLE, "", name),
        _ => Key::new(registry::ROLE, binding.text("metadata.namespace"), name),
    }
}

/// The rules of the role a binding refers to; a missing role allows nothing.
pub(crate) fn rules_of_binding(view: &View, binding: &Value) -> Vec<Value> {
    let Some(record) = view.get(&role_of_binding(binding)) else { return Vec::new() };
    let role = record.value();
    let selectors = role.items("aggregationRule.clusterRoleSelectors");
    let mut rules = role.items("rules").to_vec();
    // An aggregated role has the rules of those it selects.
    for selector in selectors.iter().filter_map(Selector::from_object) {
        let others = view.list(registry::CLUSTER_ROLE, "", None);
        let selected = others.filter(|other| other.key != record.key && selector.matches(&other.header.labels));
        rules.extend(selected.flat_map(|other| other.value().items("rules").to_vec()));
    }
    rules
}

fn covers(rule: &Value, attributes: &Attributes) -> bool {
    let lists = |field: &str, wanted: &str| {
        rule.items(field).iter().filter_map(Value::as_str).any(|item| item == "*" || item == wanted)
    };
    if !lists("verbs", attributes.verb) {
        return false;
    }
    if !attributes.path.is_empty() {
        let matches = |url: &str| match url.strip_suffix('*') {
            Some(prefix) => attributes.path.starts_with(prefix),
            None => url == attributes.path,
        };
        return rule.items("nonResourceURLs").iter().filter_map(Value::as_str).any(matches);
    }
    let (_, subresource) = attributes.resource.split_once('/').unwrap_or(("", ""));
    let any_sub = !subresource.is_empty() && lists("resources", &format!("*/{subresource}"));
    let names = rule.items("resourceNames");
    lists("apiGroups", attributes.group)
        && (lists("resources", &attributes.resource) || any_sub)
        && (names.is_empty() || names.iter().any(|name| name == attributes.name))
}

/// A rule taken apart: each right it gives, as a rule of its own.
pub(crate) fn rights(rule: &Value) -> Vec<Value> {
    let list = |field: &str| rule.items(field).iter().filter_map(Value::as_str).collect::<Vec<_>>();
    let mut all = Vec::new();
    for verb in list("verbs") {
        all.extend(list("nonResourceURLs").iter().map(|url| json!({"verbs": [verb], "nonResourceURLs": [url]})));
        for group in list("apiGroups") {
            for resource in list("resources") {
                let right = json!({"verbs": [verb], "apiGroups": [group], "resources": [resource]});
                match list("resourceNames").as_slice() {
                    [] => all.push(right),
                    names => all.extend(names.iter().map(|name| {
                        let mut named = right.clone();
                        named["resourceNames"] = json!([name]);
                        named
                    })),
                }
            }
        }
    }
    all
}

/// One right of `rights`, as the question whether somebody has it.
pub(crate) fn question<'a>(right: &'a Value, namespace: &'a str) -> Attributes<'a> {
    let first = |field: &str| right.items(field).first().and_then(Value::as_str).unwrap_or("");
    Attributes {
        verb: first("verbs"),
        group: first("apiGroups"),
        resource: first("resources").to_string(),
        namespace,
        name: first("resourceNames"),
        path: first("nonResourceURLs"),
    }
}
