//! Roles and RBAC by small fixtures.

use super::*;
use objects::{Key, json, record, registry};
use state::{LeaderId, Op, State, Txn};

fn view() -> View {
    let mut state = State::new();
    let mut create = |kind, namespace: &str, object: objects::Value| {
        let key = Key::new(kind, namespace, object["metadata"]["name"].as_str().unwrap());
        let op = Op::Create { key, object: record::encode(&object) };
        state.apply(LeaderId::default(), &Txn { ops: vec![op], ..Txn::default() });
    };
    create(
        registry::CLUSTER_ROLE,
        "",
        json!({"metadata": {"name": "viewer"}, "rules": [
            {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
            {"nonResourceURLs": ["/metrics*"], "verbs": ["get"]},
        ]}),
    );
    create(
        registry::ROLE_BINDING,
        "web",
        json!({"metadata": {"name": "b", "namespace": "web"}, "subjects": [{"kind": "User", "name": "bob"}],
            "roleRef": {"kind": "ClusterRole", "name": "viewer"}}),
    );
    create(
        registry::CLUSTER_ROLE_BINDING,
        "",
        json!({"metadata": {"name": "c"}, "subjects": [{"kind": "Group", "name": "ops"}],
            "roleRef": {"kind": "ClusterRole", "name": "viewer"}}),
    );
    View::new(state)
}

fn allowed(user: &str, groups: &[&str], what: &str) -> bool {
    let mut words = what.split_whitespace();
    let (verb, resource, namespace) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
    let mut attributes = Attributes { verb, namespace, ..Attributes::default() };
    match resource.starts_with('/') {
        true => attributes.path = resource,
        false => attributes.resource = resource.into(),
    }
    let identity = Identity { user: user.into(), groups: groups.iter().map(ToString::to_string).collect() };
    matches!(authorize(&view(), &identity, &attributes), Verdict::Yes(_))
}

#[test]
fn bindings_reach_as_far_as_they_say() {
    assert!(allowed("bob", &[], "get pods web"));
    assert!(allowed("bob", &[], "get pods/log web"));
    assert!(!allowed("bob", &[], "get pods other"));
    assert!(!allowed("bob", &[], "delete pods web"));
    assert!(!allowed("bob", &[], "list pods"));
    assert!(allowed("eve", &["ops"], "list pods"));
    assert!(allowed("eve", &["ops"], "get /metrics/x"));
    assert!(!allowed("eve", &[], "list pods"));
}

#[test]
fn certificate_roles() {
    assert!(allowed("root", &["system:masters"], "delete secrets web"));
    assert!(allowed("r", &["balsa:readers"], "watch pods"));
    assert!(!allowed("r", &["balsa:readers"], "get secrets web"));
    assert!(!allowed("r", &["balsa:readers"], "create pods web"));
    assert!(!allowed("system:node:w1", &["system:nodes"], "list pods"));
    assert!(allowed("anyone", &[], "get /version"));
    assert!(!allowed("anyone", &[], "get /metrics"));
}

#[test]
fn services_follow_the_table() {
    let worker = Identity { user: "system:node:w1".into(), groups: vec!["system:nodes".into()] };
    assert!(roles::may_call(&worker, "balsa.dispatch.v1.Dispatch", "Session"));
    assert!(!roles::may_call(&worker, "balsa.raft.v1.Raft", "Append"));
    assert!(!roles::may_call(&worker, "balsa.cluster.v1.Cluster", "Status"));
    let reader = Identity { user: "r".into(), groups: vec!["balsa:readers".into()] };
    assert!(roles::may_call(&reader, "balsa.cluster.v1.Cluster", "Status"));
    assert!(!roles::may_call(&reader, "balsa.cluster.v1.Cluster", "RemoveMember"));
    assert!(!roles::may_call(&reader, "no.such.Service", "X"));
}
