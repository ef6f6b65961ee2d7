//! The table of certificate roles: which role may call what. The one place that says so.

use crate::{Attributes, Identity};

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

/// The gRPC services and who may call them. The objects and logs services are not listed: they ask
/// `authorize` for each call, like REST.
pub const SERVICES: &[(&str, &[Role])] = &[
    ("balsa.raft.v1.Raft", &[Role::Master]),
    ("balsa.dispatch.v1.Dispatch", &[Role::Worker]),
    ("balsa.relay.v1.Relay", &[Role::Master]),
    ("balsa.cluster.v1.Cluster", &[Role::Admin, Role::Master]),
];

/// Methods of a service that more roles may call than its row says.
pub const METHODS: &[(&str, &[Role])] =
    &[("balsa.cluster.v1.Cluster/Status", &[Role::Admin, Role::Master, Role::Reader])];

/// Whether one of the caller's roles may call a method of a listed service.
pub fn may_call(identity: &Identity, service: &str, method: &str) -> bool {
    let full = format!("{service}/{method}");
    let row = METHODS.iter().find(|(name, _)| *name == full).or(SERVICES.iter().find(|(name, _)| *name == service));
    row.is_some_and(|(_, roles)| roles.iter().any(|role| has(identity, *role)))
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
    let reads = ["get", "list", "watch"].contains(&attributes.verb);
    let readable = path.is_empty() && attributes.resource != "secrets" && attributes.resource != "pods/exec";
    if has(identity, Role::Reader) && reads && readable {
        return by(Role::Reader);
    }
    // A worker reads its own node over REST (for tools on the machine); its session does the rest.
    if let Some(node) = identity.node()
        && attributes.verb == "get"
        && attributes.resource == "nodes"
        && attributes.name == node
    {
        return by(Role::Worker);
    }
    None
}
