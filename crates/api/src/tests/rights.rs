//! Who may do what, through the pipeline: escalation, questions, streams, collections.

use super::*;

fn as_user(mut request: Request, user: &str, groups: &[&str]) -> Request {
    request.identity = Identity { user: user.into(), groups: groups.iter().map(ToString::to_string).collect() };
    request
}

/// A cluster in which bob may write roles and bindings in `default`, and read its pods.
fn with_bob() -> Cluster {
    let mut cluster = Cluster::new();
    let rules = json!([
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"],
            "verbs": ["create", "patch"]},
        {"apiGroups": [""], "resources": ["pods", "pods/exec"], "verbs": ["get", "list", "delete"]},
    ]);
    cluster.object(&request(Verb::Create, "roles", "", json!({"metadata": {"name": "writer"}, "rules": rules})));
    let binding = json!({
        "metadata": {"name": "bob"}, "subjects": [{"kind": "User", "name": "bob"}],
        "roleRef": {"kind": "Role", "name": "writer"},
    });
    cluster.object(&request(Verb::Create, "rolebindings", "", binding));
    cluster
}

#[test]
fn nobody_writes_a_role_that_gives_more_than_they_have() {
    let mut cluster = with_bob();
    let role = |name: &str, resource: &str| {
        let rules = json!([{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]);
        as_user(request(Verb::Create, "roles", "", json!({"metadata": {"name": name}, "rules": rules})), "bob", &[])
    };
    cluster.run(&role("pods", "pods")).unwrap();
    let status = cluster.run(&role("secrets", "secrets")).unwrap_err();
    expect![[r#"403 roles.rbac.authorization.k8s.io "secrets" is forbidden: user "bob" (groups=[]) is attempting to grant RBAC permissions not currently held: {"apiGroups":[""],"resources":["secrets"],"verbs":["get"]}"#]]
        .assert_eq(&format!("{} {}", status.code, status.message));
    // Nor does a change of one.
    let mut grow = request(
        Verb::Patch,
        "roles",
        "pods",
        json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
    );
    grow.patch = Some(Patch::Merge);
    assert_eq!(cluster.run(&as_user(grow, "bob", &[])).unwrap_err().code, 403);
    // A change that gives nothing new is nobody's business.
    let mut label = request(Verb::Patch, "roles", "writer", json!({"metadata": {"labels": {"a": "b"}}}));
    label.patch = Some(Patch::Merge);
    cluster.run(&as_user(label, "bob", &[])).unwrap();
}

#[test]
fn nobody_binds_a_role_that_gives_more_than_they_have() {
    let mut cluster = with_bob();
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    cluster.object(&request(Verb::Create, "clusterroles", "", json!({"metadata": {"name": "all"}, "rules": rules})));
    let bind = |name: &str, kind: &str, role: &str| {
        let body = json!({
            "metadata": {"name": name}, "subjects": [{"kind": "User", "name": "bob"}],
            "roleRef": {"kind": kind, "name": role},
        });
        as_user(request(Verb::Create, "rolebindings", "", body), "bob", &[])
    };
    cluster.run(&bind("a", "Role", "writer")).unwrap();
    assert_eq!(cluster.run(&bind("b", "ClusterRole", "all")).unwrap_err().code, 403);
    assert_eq!(cluster.run(&bind("c", "ClusterRole", "not-yet")).unwrap_err().code, 403);
}

#[test]
fn an_aggregated_role_has_the_rules_of_those_it_selects() {
    let mut cluster = Cluster::new();
    let selector = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]});
    cluster.object(&request(
        Verb::Create,
        "clusterroles",
        "",
        json!({"metadata": {"name": "sum"}, "aggregationRule": selector}),
    ));
    let part = json!({
        "metadata": {"name": "part", "labels": {"to": "sum"}},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    });
    let binding = json!({
        "metadata": {"name": "eve"}, "subjects": [{"kind": "User", "name": "eve"}],
        "roleRef": {"kind": "ClusterRole", "name": "sum"},
    });
    cluster.object(&request(Verb::Create, "clusterrolebindings", "", binding));
    let list = as_user(request(Verb::List, "configmaps", "", Value::Null), "eve", &[]);
    assert_eq!(cluster.run(&list).unwrap_err().code, 403);
    cluster.object(&request(Verb::Create, "clusterroles", "", part));
    cluster.run(&list).unwrap();
}

#[test]
fn a_stream_into_a_container_needs_the_right_to_create_it() {
    let mut cluster = with_bob();
    cluster.object(&request(Verb::Create, "pods", "", pod("a")));
    let mut exec = request(Verb::Get, "pods", "a", Value::Null);
    exec.subresource = "exec".into();
    let status = cluster.run(&as_user(exec, "bob", &[])).unwrap_err();
    assert!(status.code == 403 && status.message.contains("cannot create resource \"pods/exec\""), "{status}");
}

#[test]
fn deleting_a_collection_is_a_right_of_its_own() {
    let cluster = with_bob();
    let all = as_user(request(Verb::DeleteCollection, "pods", "", Value::Null), "bob", &[]);
    let mut context = Context { now: NOW, rng: &mut Rng::new(2) };
    let Step::Fail(status) = step(&all, &cluster.view(), &mut context) else { panic!("it is not bob's to do") };
    assert!(status.message.contains("cannot deletecollection resource \"pods\""), "{status}");
    let mut everywhere = request(Verb::DeleteCollection, "pods", "", Value::Null);
    everywhere.namespace.clear();
    let Step::Fail(status) = step(&everywhere, &cluster.view(), &mut context) else { panic!("that is no route") };
    assert_eq!(status.code, 405);
}

#[test]
fn questions_are_answered_and_not_stored() {
    let mut cluster = with_bob();
    let before = cluster.view().revision();
    let may = |cluster: &mut Cluster, user: &str, groups: &[&str], attributes: Value| {
        let body = json!({"spec": {"resourceAttributes": attributes}});
        let question = as_user(request(Verb::Create, "selfsubjectaccessreviews", "", body), user, groups);
        cluster.object(&question).at("status.allowed") == true
    };
    let get_pods = json!({"verb": "get", "resource": "pods", "namespace": "default"});
    assert!(may(&mut cluster, "bob", &[], get_pods.clone()));
    assert!(!may(&mut cluster, "eve", &[], get_pods));
    let any = json!({"verb": "*", "group": "*", "resource": "*"});
    assert!(may(&mut cluster, "root", &["system:masters"], any.clone()));
    assert!(!may(&mut cluster, "r", &["balsa:readers"], any));
    let rules = as_user(
        request(Verb::Create, "selfsubjectrulesreviews", "", json!({"spec": {"namespace": "default"}})),
        "bob",
        &[],
    );
    let rules = cluster.object(&rules);
    let told: Vec<String> = rules
        .items("status.resourceRules")
        .iter()
        .map(|rule| format!("{} {}", rule.at("verbs"), rule.at("resources")))
        .collect();
    expect![[r#"
        ["create"] ["selfsubjectreviews"]
        ["create"] ["selfsubjectaccessreviews","selfsubjectrulesreviews"]
        ["create","patch"] ["roles","rolebindings"]
        ["get","list","delete"] ["pods","pods/exec"]"#]]
    .assert_eq(&told.join("\n"));
    let who = as_user(request(Verb::Create, "selfsubjectreviews", "", json!({})), "bob", &["team"]);
    assert_eq!(
        cluster.object(&who).at("status.userInfo"),
        &json!({"username": "bob", "groups": ["team", "system:authenticated"]})
    );
    let they = json!({"spec": {"user": "bob", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let they = request(Verb::Create, "subjectaccessreviews", "", they);
    assert_eq!(cluster.object(&they).at("status.allowed"), true);
    assert_eq!(
        cluster.run(&as_user(they, "bob", &[])).unwrap_err().code,
        403,
        "asking about others is no right of everybody"
    );
    assert_eq!(cluster.view().revision(), before);
}

#[test]
fn a_creator_who_may_not_read_is_not_shown_what_was_there() {
    let mut cluster = Cluster::new();
    let secret = |name: &str| json!({"metadata": {"name": name}, "stringData": {"k": "v"}});
    cluster.object(&request(Verb::Create, "secrets", "", secret("theirs")));
    let mut first = request(Verb::Create, "configmaps", "", json!({"metadata": {"name": "mine"}}));
    first.client_request = Some(7);
    cluster.object(&first);
    let mut second = request(Verb::Create, "secrets", "", secret("theirs"));
    second.client_request = Some(7);
    let told = match cluster.run(&second) {
        Ok(Reply::Object { json, .. }) => String::from_utf8_lossy(&json).into_owned(),
        Ok(Reply::Value { value, .. }) => value.to_string(),
        Ok(Reply::List(_)) => panic!("a list"),
        Err(status) => status.message,
    };
    assert!(!told.contains("\"data\""), "{told}");
}
