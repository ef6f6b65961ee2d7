//! Who is asking, may they, and by which rule.
//!
//! Two layers, asked in order: the role a certificate carries (a fixed table, `roles`), then RBAC as
//! stored in the cluster. Whatever neither allows is refused.

mod rbac;
pub mod roles;

#[cfg(test)]
mod tests;

use objects::{Key, Value};
use state::View;

pub use roles::Role;

/// The authenticated caller, as its certificate names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
}

impl Identity {
    /// The cluster's own controllers: what the manager's plans run as.
    pub fn system() -> Identity {
        Identity { user: "system:balsa".into(), groups: vec!["system:masters".into()] }
    }

    /// The node a worker's certificate speaks for.
    pub fn node(&self) -> Option<&str> {
        let is_node = self.groups.iter().any(|group| group == "system:nodes");
        self.user.strip_prefix("system:node:").filter(|_| is_node)
    }
}

/// What is to be done, in RBAC's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// Plural, with the subresource after a slash: `pods/log`.
    pub resource: String,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Set for requests that name no resource, e.g. `/version`.
    pub path: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// With the rule that allows it, for the audit trail.
    Yes(String),
    No(String),
}

/// Which rights that `rules` give in `namespace` (empty: everywhere) the caller does not have itself.
/// Nobody gives away more than they have.
pub fn lacking(view: &View, identity: &Identity, namespace: &str, rules: &[Value]) -> Vec<Value> {
    let lacks = |right: &Value| matches!(authorize(view, identity, &rbac::question(right, namespace)), Verdict::No(_));
    rules.iter().flat_map(rbac::rights).filter(lacks).collect()
}

/// The role that a binding gives, and the rules in it.
pub fn bound_role(view: &View, binding: &Value) -> (Key, Vec<Value>) {
    (rbac::role_of_binding(binding), rbac::rules_of_binding(view, binding))
}

/// All that the caller may do in `namespace`, as RBAC rules; certificate roles included.
pub fn rules(view: &View, identity: &Identity, namespace: &str) -> Vec<Value> {
    let mut all = roles::rules(identity);
    all.extend(rbac::rules(view, identity, namespace));
    all
}

/// Decides; the text of a no is Kubernetes' sentence.
pub fn authorize(view: &View, identity: &Identity, attributes: &Attributes) -> Verdict {
    if let Some(rule) = roles::allows(identity, attributes) {
        return Verdict::Yes(rule);
    }
    if let Some(rule) = rbac::allows(view, identity, attributes) {
        return Verdict::Yes(rule);
    }
    let Attributes { verb, group, resource, namespace, path, .. } = attributes;
    let user = &identity.user;
    Verdict::No(match (path.is_empty(), namespace.is_empty()) {
        (false, _) => format!("User {user:?} cannot {verb} path {path:?}"),
        (_, true) => {
            format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} at the cluster scope")
        }
        (_, false) => format!(
            "User {user:?} cannot {verb} resource {resource:?} in API group {group:?} in the namespace {namespace:?}"
        ),
    })
}
