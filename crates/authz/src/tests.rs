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
fn a_reader_reads_no_secret_by_any_name() {
    let reader = ["balsa:readers"];
    for what in ["get secrets/status web", "get * web", "get pods/* web", "get */exec web", "get pods/exec web"] {
        assert!(!allowed("r", &reader, what), "{what}");
    }
    assert!(allowed("r", &reader, "get pods/log web"));
}

#[test]
fn services_follow_the_table() {
    use roles::Refusal::{NoCertificate, NotAllowed};
    let with = |user: &str, group: &str| Identity { user: user.into(), groups: vec![group.into()] };
    let (worker, reader) = (with("system:node:w1", "system:nodes"), with("r", "balsa:readers"));
    let admin = with("root", "system:masters");
    for (caller, service, method, want) in [
        (Some(&worker), "balsa.dispatch.v1.Dispatch", "Session", Ok(())),
        (Some(&worker), "balsa.raft.v1.Raft", "Append", Err(NotAllowed)),
        (Some(&worker), "balsa.cluster.v1.Cluster", "Status", Err(NotAllowed)),
        (Some(&reader), "balsa.cluster.v1.Cluster", "Status", Ok(())),
        (Some(&reader), "balsa.cluster.v1.Cluster", "RemoveMember", Err(NotAllowed)),
        (Some(&admin), "balsa.cluster.v1.Cluster", "RemoveMember", Ok(())),
        (Some(&admin), "balsa.cluster.v1.Cluster", "AddMember", Err(NotAllowed)),
        (Some(&admin), "balsa.cluster.v1.Cluster", "Backup", Ok(())),
        (Some(&reader), "balsa.cluster.v1.Cluster", "Backup", Err(NotAllowed)),
        (Some(&admin), "no.such.Service", "X", Err(NotAllowed)),
        (None, "no.such.Service", "X", Err(NoCertificate)),
        (None, "balsa.objects.v1.Objects", "Get", Err(NoCertificate)),
        (None, "balsa.cluster.v1.CertificateAuthority", "Issue", Ok(())),
    ] {
        assert_eq!(roles::may_call(caller, service, method), want, "{service}/{method}");
    }
}

/// What of `rules` somebody lacks in the namespace web.
fn lacks(user: &str, groups: &[&str], rules: objects::Value) -> usize {
    let identity = Identity { user: user.into(), groups: groups.iter().map(ToString::to_string).collect() };
    lacking(&view(), &identity, "web", rules.as_array().unwrap()).len()
}

#[test]
fn nobody_gives_away_more_than_they_have() {
    let pods = |verbs: &[&str]| json!([{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]);
    assert_eq!(lacks("bob", &[], pods(&["get", "list"])), 0);
    assert_eq!(lacks("bob", &[], pods(&["get", "delete"])), 1);
    assert_eq!(lacks("bob", &[], pods(&["*"])), 1);
    assert_eq!(lacks("bob", &[], json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get"]}])), 1);
    assert_eq!(lacks("eve", &["ops"], json!([{"nonResourceURLs": ["/metrics/*"], "verbs": ["get"]}])), 0);
    assert_eq!(lacks("r", &["balsa:readers"], json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get"]}])), 1);
    assert_eq!(lacks("root", &["system:masters"], pods(&["*"])), 0);
}
