//! RBAC: roles and bindings stored in the cluster.
//!
//! Rules: kubernetes.io/docs/reference/access-authn-authz/rbac.

use crate::{Attributes, Identity};
use objects::{Key, Value, ValueExt, registry};
use state::View;

/// The first binding that allows the attributes, named; `None` when there is none.
pub(crate) fn allows(view: &View, identity: &Identity, attributes: &Attributes) -> Option<String> {
    let namespace = attributes.namespace;
    let cluster_wide = view.list(registry::CLUSTER_ROLE_BINDING, "", None);
    let local = view.list(registry::ROLE_BINDING, namespace, None).filter(|_| !namespace.is_empty());
    for record in cluster_wide.chain(local) {
        let binding = record.value();
        let bound = binding.items("subjects").iter().any(|subject| is_subject(identity, subject));
        if bound && rules(view, &binding).iter().any(|rule| covers(rule, attributes)) {
            return Some(format!("RBAC: {}", record.key));
        }
    }
    None
}

fn is_subject(identity: &Identity, subject: &Value) -> bool {
    let name = subject.text("name");
    match subject.text("kind") {
        "User" => name == identity.user,
        "Group" => {
            let everyone = name == "system:authenticated";
            everyone || identity.groups.iter().any(|group| group == name)
        }
        "ServiceAccount" => identity.user == format!("system:serviceaccount:{}:{name}", subject.text("namespace")),
        _ => false,
    }
}

/// The rules of the role a binding refers to; a missing role allows nothing.
fn rules(view: &View, binding: &Value) -> Vec<Value> {
    let name = binding.text("roleRef.name");
    let key = match binding.text("roleRef.kind") {
        "ClusterRole" => Key::new(registry::CLUSTER_ROLE, "", name),
        _ => Key::new(registry::ROLE, binding.text("metadata.namespace"), name),
    };
    view.get(&key).map(|record| record.value().items("rules").to_vec()).unwrap_or_default()
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
