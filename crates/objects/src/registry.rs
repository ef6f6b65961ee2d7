//! The registry of kinds: one entry says everything the generic machinery asks about a kind.
//!
//! Adding a kind is adding one entry here (and its rules under `kinds/`); no route, handler or
//! table is written per kind.

use crate::kinds::{core, node, pod, rbac, workload};
use crate::validate::NameRule;
use crate::{FieldErrors, KindId, Timestamp};
use serde_json::Value;

/// One column of a `Table`. Priority 0 is always shown, 1 with `-o wide`.
#[derive(Debug)]
pub struct Column {
    pub name: &'static str,
    pub ty: &'static str,
    pub priority: u8,
}

pub struct Kind {
    pub id: KindId,
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// The name of its schema in `schema::definitions`.
    pub schema: &'static str,
    pub name_rule: NameRule,
    /// `/status` exists, and writes to the object itself leave `status` alone.
    pub has_status: bool,
    /// `/scale` exists.
    pub has_scale: bool,
    /// Further subresources, for discovery: name, kind, its group and version, verbs.
    pub subresources: &'static [(&'static str, &'static str, &'static str, &'static [&'static str])],
    /// Field-selector paths besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    pub columns: &'static [Column],
    /// The cells of `columns`, without the name in front.
    pub row: fn(&Value, Timestamp) -> Vec<Value>,
    pub default: fn(&mut Value),
    pub validate: fn(&Value, &mut FieldErrors),
    /// What whoever writes it is told besides: fields that are kept and that nothing acts on.
    pub warn: fn(&Value) -> Vec<String>,
    pub validate_update: fn(new: &Value, old: &Value, &mut FieldErrors),
    /// What a write to `/status` must keep to.
    pub validate_status: fn(new: &Value, old: &Value, &mut FieldErrors),
    /// A PUT must name the revision it assumes: for what several writers contend for.
    pub needs_revision: bool,
    /// Fields (top level) whose change counts as a new generation; empty: generation is not kept.
    pub generation_of: &'static [&'static str],
    /// Served for clients that look, but nothing acts on it yet: writes are refused with this.
    pub read_only: Option<&'static str>,
    /// A question that is answered when it is created, and never stored.
    pub create_only: bool,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind)
    }
}

impl Kind {
    /// `pods`, or `deployments.apps` outside the core group: the name in messages.
    pub fn resource(&self) -> String {
        match self.group {
            "" => self.plural.to_string(),
            group => format!("{}.{group}", self.plural),
        }
    }

    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }
}

pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

/// A kind as served under one group and version. `to`/`from` convert between that form and the
/// stored one; most kinds are served as stored.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    pub kind: &'static Kind,
    pub group: &'static str,
    pub version: &'static str,
    pub schema: &'static str,
    /// Stored form to this form, and back.
    pub convert: Option<(fn(&mut Value), fn(&mut Value))>,
    /// What this form asks of writes beyond the kind's own rules; there is no old object at creation.
    pub validate: Option<StrictRule>,
    /// How this form calls a field of the stored one; `None`: the same.
    pub field: fn(&str) -> Option<String>,
}

pub type StrictRule = fn(new: &Value, old: Option<&Value>, &mut FieldErrors);

impl Served {
    /// A kind as it is stored.
    pub fn stored(kind: &'static Kind) -> Served {
        Served {
            kind,
            group: kind.group,
            version: kind.version,
            schema: kind.schema,
            convert: None,
            validate: None,
            field: |_| None,
        }
    }

    /// Findings on the stored form, told in the words of this one.
    pub fn in_its_words(&self, mut errors: FieldErrors) -> FieldErrors {
        for error in &mut errors.0 {
            if let Some(path) = (self.field)(&error.path) {
                error.path = path;
            }
        }
        errors
    }

    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }
}

pub const NAMESPACE: KindId = KindId(1);
pub const NODE: KindId = KindId(2);
pub const POD: KindId = KindId(3);
pub const CONFIG_MAP: KindId = KindId(4);
pub const SECRET: KindId = KindId(5);
pub const SERVICE_ACCOUNT: KindId = KindId(6);
pub const EVENT: KindId = KindId(7);
pub const REPLICA_SET: KindId = KindId(8);
pub const DEPLOYMENT: KindId = KindId(9);
pub const LEASE: KindId = KindId(10);
pub const PRIORITY_CLASS: KindId = KindId(11);
pub const ROLE: KindId = KindId(12);
pub const CLUSTER_ROLE: KindId = KindId(13);
pub const ROLE_BINDING: KindId = KindId(14);
pub const CLUSTER_ROLE_BINDING: KindId = KindId(15);
pub const SERVICE: KindId = KindId(16);

// Questions. They are never stored, so their numbers are in no log.
pub const SELF_SUBJECT_REVIEW: KindId = KindId(0x8000);
pub const SELF_SUBJECT_ACCESS_REVIEW: KindId = KindId(0x8001);
pub const SELF_SUBJECT_RULES_REVIEW: KindId = KindId(0x8002);
pub const SUBJECT_ACCESS_REVIEW: KindId = KindId(0x8003);

const fn column(name: &'static str, ty: &'static str) -> Column {
    Column { name, ty, priority: 0 }
}
const fn wide(name: &'static str) -> Column {
    Column { name, ty: "string", priority: 1 }
}
const TEXT: &str = "string";
const INT: &str = "integer";

fn no_default(_: &mut Value) {}
fn no_update_rule(_: &Value, _: &Value, _: &mut FieldErrors) {}

fn no_warning(_: &Value) -> Vec<String> {
    Vec::new()
}

/// What most entries share; an entry overrides what differs.
const BASE: Kind = Kind {
    id: KindId(0),
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    schema: "",
    name_rule: NameRule::Subdomain,
    has_status: false,
    has_scale: false,
    subresources: &[],
    selectable: &[],
    columns: &[column("Age", TEXT)],
    row: core::age_row,
    default: no_default,
    validate: core::validate_nothing,
    warn: no_warning,
    validate_update: no_update_rule,
    validate_status: no_update_rule,
    needs_revision: false,
    generation_of: &[],
    read_only: None,
    create_only: false,
};

/// What questions share.
const QUESTION: Kind = Kind { group: "authorization.k8s.io", namespaced: false, create_only: true, ..BASE };

/// Every built-in kind. The order is that of `kubectl api-resources` within a group.
pub static KINDS: &[Kind] = &[
    Kind {
        id: NAMESPACE,
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        schema: "io.k8s.api.core.v1.Namespace",
        name_rule: NameRule::Label,
        has_status: true,
        subresources: &[("finalize", "Namespace", "v1", &["update"])],
        selectable: &["status.phase"],
        columns: &[column("Status", TEXT), column("Age", TEXT)],
        row: core::namespace_row,
        default: core::default_namespace,
        validate: core::validate_namespace,
        validate_status: core::validate_namespace_status,
        ..BASE
    },
    Kind {
        id: NODE,
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        schema: "io.k8s.api.core.v1.Node",
        has_status: true,
        selectable: &["spec.unschedulable"],
        columns: &[
            column("Status", TEXT),
            column("Roles", TEXT),
            column("Age", TEXT),
            column("Version", TEXT),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ],
        row: node::row,
        default: node::default,
        validate: node::validate,
        validate_update: node::validate_update,
        validate_status: node::validate_status,
        ..BASE
    },
    Kind {
        id: POD,
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        schema: "io.k8s.api.core.v1.Pod",
        has_status: true,
        subresources: &[
            ("binding", "Binding", "v1", &["create"]),
            ("eviction", "Eviction", "policy/v1", &["create"]),
            ("exec", "PodExecOptions", "v1", &["create", "get"]),
            ("log", "Pod", "v1", &["get"]),
        ],
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        columns: &[
            column("Ready", TEXT),
            column("Status", TEXT),
            column("Restarts", TEXT),
            column("Age", TEXT),
            wide("IP"),
            wide("Node"),
            wide("Nominated Node"),
            wide("Readiness Gates"),
        ],
        row: pod::row,
        default: pod::default_pod,
        validate: pod::validate_pod,
        warn: pod::warn_pod,
        validate_update: pod::validate_pod_update,
        generation_of: &["spec"],
        ..BASE
    },
    Kind {
        id: CONFIG_MAP,
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        schema: "io.k8s.api.core.v1.ConfigMap",
        columns: &[column("Data", TEXT), column("Age", TEXT)],
        row: core::config_map_row,
        validate: core::validate_config_map,
        validate_update: core::validate_config_map_update,
        ..BASE
    },
    Kind {
        id: SECRET,
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        schema: "io.k8s.api.core.v1.Secret",
        selectable: &["type"],
        columns: &[column("Type", TEXT), column("Data", TEXT), column("Age", TEXT)],
        row: core::secret_row,
        default: core::default_secret,
        validate: core::validate_secret,
        validate_update: core::validate_secret_update,
        ..BASE
    },
    Kind {
        id: SERVICE_ACCOUNT,
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        schema: "io.k8s.api.core.v1.ServiceAccount",
        needs_revision: true,
        ..BASE
    },
    Kind {
        id: SERVICE,
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        schema: "io.k8s.api.core.v1.Service",
        read_only: Some("services are not supported by this version"),
        ..BASE
    },
    Kind {
        id: EVENT,
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        schema: "io.k8s.api.core.v1.Event",
        selectable: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        columns: &[
            column("Last Seen", TEXT),
            column("Type", TEXT),
            column("Reason", TEXT),
            column("Object", TEXT),
            wide("Subobject"),
            wide("Source"),
            column("Message", TEXT),
            wide("First Seen"),
            wide("Count"),
        ],
        row: core::event_row,
        validate: core::validate_event,
        ..BASE
    },
    Kind {
        id: REPLICA_SET,
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.ReplicaSet",
        has_status: true,
        has_scale: true,
        selectable: &["status.replicas"],
        columns: &[
            column("Desired", INT),
            column("Current", INT),
            column("Ready", INT),
            column("Age", TEXT),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        row: workload::replica_set_row,
        default: workload::default_replica_set,
        validate: workload::validate_replica_set,
        warn: workload::warn,
        validate_update: workload::validate_selector_kept,
        validate_status: workload::validate_replica_set_status,
        generation_of: &["spec"],
        ..BASE
    },
    Kind {
        id: DEPLOYMENT,
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        schema: "io.k8s.api.apps.v1.Deployment",
        has_status: true,
        has_scale: true,
        columns: &[
            column("Ready", TEXT),
            column("Up-to-date", TEXT),
            column("Available", TEXT),
            column("Age", TEXT),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        row: workload::deployment_row,
        default: workload::default_deployment,
        validate: workload::validate_deployment,
        warn: workload::warn,
        validate_update: workload::validate_selector_kept,
        validate_status: workload::validate_deployment_status,
        generation_of: &["spec"],
        ..BASE
    },
    Kind {
        id: LEASE,
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        schema: "io.k8s.api.coordination.v1.Lease",
        columns: &[column("Holder", TEXT), column("Age", TEXT)],
        row: core::lease_row,
        validate: core::validate_lease,
        needs_revision: true,
        ..BASE
    },
    Kind {
        id: PRIORITY_CLASS,
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        namespaced: false,
        schema: "io.k8s.api.scheduling.v1.PriorityClass",
        columns: &[
            column("Value", INT),
            column("Global-Default", "boolean"),
            column("Age", TEXT),
            column("PreemptionPolicy", TEXT),
        ],
        row: core::priority_class_row,
        default: core::default_priority_class,
        validate: core::validate_priority_class,
        validate_update: core::validate_priority_class_update,
        ..BASE
    },
    Kind {
        id: ROLE,
        group: "rbac.authorization.k8s.io",
        kind: "Role",
        plural: "roles",
        singular: "role",
        schema: "io.k8s.api.rbac.v1.Role",
        name_rule: NameRule::PathSegment,
        columns: &[column("Created At", "date")],
        row: rbac::role_row,
        validate: rbac::validate_role,
        ..BASE
    },
    Kind {
        id: CLUSTER_ROLE,
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        schema: "io.k8s.api.rbac.v1.ClusterRole",
        name_rule: NameRule::PathSegment,
        columns: &[column("Created At", "date")],
        row: rbac::role_row,
        validate: rbac::validate_cluster_role,
        ..BASE
    },
    Kind {
        id: ROLE_BINDING,
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        schema: "io.k8s.api.rbac.v1.RoleBinding",
        name_rule: NameRule::PathSegment,
        columns: rbac::BINDING_COLUMNS,
        row: rbac::binding_row,
        default: rbac::default_binding,
        validate: rbac::validate_role_binding,
        validate_update: rbac::validate_binding_update,
        ..BASE
    },
    Kind {
        id: CLUSTER_ROLE_BINDING,
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        namespaced: false,
        schema: "io.k8s.api.rbac.v1.ClusterRoleBinding",
        name_rule: NameRule::PathSegment,
        columns: rbac::BINDING_COLUMNS,
        row: rbac::binding_row,
        default: rbac::default_binding,
        validate: rbac::validate_cluster_role_binding,
        validate_update: rbac::validate_binding_update,
        ..BASE
    },
    Kind {
        id: SELF_SUBJECT_REVIEW,
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        schema: "io.k8s.api.authentication.v1.SelfSubjectReview",
        ..QUESTION
    },
    Kind {
        id: SELF_SUBJECT_ACCESS_REVIEW,
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        schema: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        ..QUESTION
    },
    Kind {
        id: SELF_SUBJECT_RULES_REVIEW,
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        schema: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        ..QUESTION
    },
    Kind {
        id: SUBJECT_ACCESS_REVIEW,
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        schema: "io.k8s.api.authorization.v1.SubjectAccessReview",
        ..QUESTION
    },
];

pub fn kinds() -> &'static [Kind] {
    KINDS
}

pub fn kind(id: KindId) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.id == id)
}

/// The entry of a built-in kind; its id is a constant of this file.
pub fn must(id: KindId) -> &'static Kind {
    kind(id).expect("the ids of this file are all registered")
}

pub fn by_kind_name(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.kind == name)
}

/// Every (group, version, kind) served: each kind as stored, and Event in its newer group too.
pub fn served() -> impl Iterator<Item = Served> {
    let stored = KINDS.iter().map(Served::stored);
    stored.chain([Served {
        kind: must(EVENT),
        group: "events.k8s.io",
        version: "v1",
        schema: "io.k8s.api.events.v1.Event",
        convert: Some((core::event_to_events_group, core::event_from_events_group)),
        validate: Some(core::validate_strict_event),
        field: core::events_group_field,
    }])
}

pub fn find_served(group: &str, version: &str, plural: &str) -> Option<Served> {
    served().find(|s| s.group == group && s.version == version && s.kind.plural == plural)
}

/// Finds a kind as a person types it: plural, singular, short name or kind, with or without group.
pub fn by_alias(alias: &str) -> Option<&'static Kind> {
    let (name, group) = alias.split_once('.').map_or((alias, None), |(name, group)| (name, Some(group)));
    let lower = name.to_lowercase();
    KINDS.iter().find(|kind| {
        group.is_none_or(|group| group == kind.group)
            && (kind.plural == lower || kind.singular == lower || kind.short_names.contains(&lower.as_str()))
    })
}
