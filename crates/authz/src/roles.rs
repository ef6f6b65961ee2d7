//! The table of certificate roles: which role may call what. The one place that says so.

use crate::{Attributes, Identity};
use objects::{Value, json, registry};

/// A role is an organization (O) in the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A master: consensus, and everything an administrator may.
    Master,
    /// A worker: its session, and nothing of the API but what its own pods need.
    Worker,
    /// An administrator: the whole API and the cluster's membership.
    Admin,
    /// A reader: get, list and watch of everything but secrets; logs; the cluster's status.
    Reader,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Master, Role::Worker, Role::Admin, Role::Reader];

    pub fn group(self) -> &'static str {
        match self {
            Role::Master => "balsa:masters",
            Role::Worker => "system:nodes",
            Role::Admin => "system:masters",
            Role::Reader => "balsa:readers",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Worker => "worker",
            Role::Admin => "admin",
            Role::Reader => "reader",
        }
    }
}

pub fn has(identity: &Identity, role: Role) -> bool {
    identity.groups.iter().any(|group| group == role.group())
}

/// Who may call a service or a method of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Also callers without a certificate.
    Everybody,
    /// Whoever shows a certificate of this cluster; the service then asks `authorize` for each call,
    /// like REST.
    Certified,
    /// Those with one of these roles.
    Roles(&'static [Role]),
}

/// The gRPC services and methods, and who may call them. A method's own row goes before its service's.
pub const SERVICES: &[(&str, Callers)] = &[
    ("balsa.raft.v1.Raft", Callers::Roles(&[Role::Master])),
    ("balsa.relay.v1.Relay", Callers::Roles(&[Role::Master])),
    ("balsa.dispatch.v1.Dispatch", Callers::Roles(&[Role::Worker])),
    ("balsa.cluster.v1.Cluster", Callers::Roles(&[Role::Admin, Role::Master])),
    ("balsa.cluster.v1.Cluster/Status", Callers::Roles(&[Role::Admin, Role::Master, Role::Reader])),
    ("balsa.cluster.v1.Cluster/Health", Callers::Roles(&[Role::Admin, Role::Master, Role::Reader])),
    ("balsa.cluster.v1.Cluster/AddMember", Callers::Roles(&[Role::Master])),
    ("balsa.cluster.v1.Cluster/JoinTokens", Callers::Roles(&[Role::Admin])),
    ("balsa.cluster.v1.Cluster/Backup", Callers::Roles(&[Role::Admin])),
    ("balsa.cluster.v1.CertificateAuthority", Callers::Everybody),
    ("balsa.objects.v1.Objects", Callers::Certified),
    ("balsa.observe.v1.Observe", Callers::Certified),
    ("grpc.health.v1.Health", Callers::Everybody),
    ("grpc.reflection.v1.ServerReflection", Callers::Certified),
];

/// Why a call is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoCertificate,
    NotAllowed,
}

/// Whether a caller (`None`: without a certificate) may call a method of a service. What is not in the
/// table is called by nobody.
pub fn may_call(identity: Option<&Identity>, service: &str, method: &str) -> Result<(), Refusal> {
    let full = format!("{service}/{method}");
    let row = |name: &str| SERVICES.iter().find(|(known, _)| *known == name).map(|(_, callers)| *callers);
    match (row(&full).or_else(|| row(service)), identity) {
        (Some(Callers::Everybody), _) | (Some(Callers::Certified), Some(_)) => Ok(()),
        (_, None) => Err(Refusal::NoCertificate),
        (Some(Callers::Roles(roles)), Some(identity)) if roles.iter().any(|role| has(identity, *role)) => Ok(()),
        (Some(Callers::Roles(_)) | None, Some(_)) => Err(Refusal::NotAllowed),
    }
}

/// What every authenticated caller may read: discovery, schemas, version, health.
const OPEN_PATHS: &[&str] = &["/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"];

pub(crate) fn allows(identity: &Identity, attributes: &Attributes) -> Option<String> {
    let by = |role: Role| Some(format!("certificate role {}", role.name()));
    if has(identity, Role::Admin) {
        return by(Role::Admin);
    }
    if has(identity, Role::Master) {
        return by(Role::Master);
    }
    let path = attributes.path;
    let under = |open: &&str| path == *open || path.strip_prefix(*open).is_some_and(|rest| rest.starts_with('/'));
    if attributes.verb == "get" && OPEN_PATHS.iter().any(|open| under(&open)) {
        return Some("open to every authenticated caller".into());
    }
    // To ask what one may do and who one is, as Kubernetes lets everybody.
    let asks_about_itself = ["authentication.k8s.io", "authorization.k8s.io"].contains(&attributes.group)
        && attributes.resource.starts_with("selfsubject");
    if attributes.verb == "create" && asks_about_itself {
        return Some("open to every authenticated caller".into());
    }
    if has(identity, Role::Reader) && READS.contains(&attributes.verb) && path.is_empty() && is_readable(attributes) {
        return by(Role::Reader);
    }
    // A worker reads its own node over REST (for tools on the machine); its session does the rest.
    if let Some(node) = identity.node()
        && attributes.verb == "get"
        && attributes.resource == "nodes"
        && attributes.group.is_empty()
        && attributes.name == node
    {
        return by(Role::Worker);
    }
    None
}

const READS: [&str; 3] = ["get", "list", "watch"];

/// What a reader may read: all but secrets, and no way into containers. Never a wildcard, which would
/// stand for those too.
fn is_readable(attributes: &Attributes) -> bool {
    let (resource, subresource) = attributes.resource.split_once('/').unwrap_or((&attributes.resource, ""));
    resource != "secrets" && subresource != "exec" && !attributes.resource.contains('*') && attributes.group != "*"
}

/// What certificate roles allow, put as RBAC rules for those who ask.
pub(crate) fn rules(identity: &Identity) -> Vec<Value> {
    let mut rules = vec![
        json!({"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]}),
        json!({"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]}),
        json!({"verbs": ["get"], "nonResourceURLs": OPEN_PATHS}),
    ];
    if has(identity, Role::Admin) || has(identity, Role::Master) {
        rules.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    } else if has(identity, Role::Reader) {
        for kind in registry::kinds().iter().filter(|kind| kind.plural != "secrets" && !kind.create_only) {
            rules.push(json!({"verbs": READS, "apiGroups": [kind.group], "resources": [kind.plural]}));
        }
        rules.push(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}));
    }
    if let Some(node) = identity.node() {
        rules.push(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"], "resourceNames": [node]}));
    }
    rules
}
