//! What a new cluster starts with: its system namespaces, and the roles that Kubernetes' users expect.

use crate::proposals::{Failure, propose};
use api::Context;
use front::Front;
use objects::{Key, KindId, Value, ValueExt, json, registry};
use state::{LeaderId, Refusal, Txn};

/// `cluster-admin`, `admin`, `edit` and `view`, as far as there are kinds for them.
/// (kubernetes.io, "Using RBAC Authorization", user-facing roles.)
fn roles() -> [Value; 4] {
    let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let read = ["get", "list", "watch"];
    let all = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
    let shown = ["configmaps", "events", "namespaces", "pods", "pods/log", "pods/status", "serviceaccounts"];
    let workloads = ["deployments", "deployments/scale", "replicasets", "replicasets/scale"];
    let view = vec![
        rule("", &shown, &read),
        rule("apps", &[&workloads[..], &["deployments/status", "replicasets/status"]].concat(), &read),
        rule("events.k8s.io", &["events"], &read),
    ];
    let edit = [
        view.clone(),
        vec![
            rule("", &["configmaps", "pods", "secrets", "serviceaccounts"], &all),
            rule("", &["pods/eviction", "pods/exec"], &["create"]),
            rule("", &["pods/exec"], &["get"]),
            rule("apps", &workloads, &all),
        ],
    ]
    .concat();
    let admin = [edit.clone(), vec![rule("rbac.authorization.k8s.io", &["roles", "rolebindings"], &all)]].concat();
    let everything = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    [
        role("cluster-admin", everything),
        role("admin", admin.into()),
        role("edit", edit.into()),
        role("view", view.into()),
    ]
}

/// What is there stays as it is, whoever changed it.
pub(crate) async fn ensure(front: &Front, leader: LeaderId) -> Result<(), Failure> {
    let namespaces = api::admission::SYSTEM_NAMESPACES.map(|name| json!({"metadata": {"name": name}}));
    let first = namespaces.map(|object| (registry::NAMESPACE, object));
    let then = roles().map(|object| (registry::CLUSTER_ROLE, object));
    let objects: Vec<(KindId, Value)> = first.into_iter().chain(then).collect();
    for (kind, object) in objects {
        let view = front.store.view();
        if view.get(&Key::new(kind, "", object.text("metadata.name"))).is_some() {
            continue;
        }
        let mut rng = front.rng();
        let mut context = Context { now: front.now(), rng: &mut rng };
        let (op, checks) = api::creation(object, registry::must(kind), &view, &mut context)?;
        drop(view);
        match propose(front, leader, Txn { ops: vec![op], checks, ..Txn::default() }).await {
            Ok(()) | Err(Failure::Refused(Refusal::AlreadyExists(_))) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
