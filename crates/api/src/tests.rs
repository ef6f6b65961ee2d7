//! The pipeline, by requests against a small state.

mod refusals;
mod rights;

use crate::*;
use authz::Identity;
use expect_test::{Expect, expect};
use objects::{Key, Status, Timestamp, Value, ValueExt, json, registry};
use state::{LeaderId, Op, State, Txn, View};
use stdx::Rng;

/// A cluster of one namespace, applied to directly.
struct Cluster {
    state: State,
    rng: Rng,
}

const NOW: Timestamp = Timestamp(1_700_000_000_000);

impl Cluster {
    fn new() -> Cluster {
        let mut state = State::new();
        let namespace = json!({"metadata": {"name": "default", "uid": "ns"}});
        let key = Key::new(registry::NAMESPACE, "", "default");
        let op = Op::Create { key, object: objects::record::encode(&namespace) };
        state.apply(LeaderId::default(), &Txn { ops: vec![op], ..Txn::default() });
        Cluster { state, rng: Rng::new(1) }
    }

    fn view(&self) -> View {
        View::new(self.state.clone())
    }

    /// Runs a request to its end, as a shell would.
    fn run(&mut self, request: &Request) -> Result<Reply, Status> {
        loop {
            let mut context = Context { now: NOW, rng: &mut self.rng };
            match step(request, &View::new(self.state.clone()), &mut context) {
                Step::Answer(reply) => return Ok(reply),
                Step::Fail(status) => return Err(status),
                Step::Propose(txn, pending) => {
                    let outcome = self.state.apply(LeaderId::default(), &txn).outcome;
                    match concluded(request, pending, outcome) {
                        Ok(reply) => return Ok(reply),
                        Err(Some(status)) => return Err(status),
                        Err(None) => {}
                    }
                }
                Step::Watch(_) | Step::Worker(_) => panic!("not a request with an answer"),
            }
        }
    }

    fn object(&mut self, request: &Request) -> Value {
        match self.run(request).unwrap() {
            Reply::Object { json, .. } => serde_json::from_slice(&json).unwrap(),
            Reply::Value { value, .. } => value,
            Reply::List(list) => serde_json::from_slice(&list.to_json()).unwrap(),
        }
    }
}

fn request(verb: Verb, plural: &str, name: &str, body: Value) -> Request {
    let served = registry::served().find(|served| served.kind.plural == plural).unwrap();
    let mut request = Request::new(Identity::system(), verb, served);
    request.name = name.into();
    request.namespace = if served.kind.namespaced { "default".into() } else { String::new() };
    request.body = Body::parse(body.to_string().as_bytes()).unwrap();
    request.options.field_validation = "Strict".into();
    request
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
    }})
}

/// Creates `body` and compares how it is refused.
fn refused(plural: &str, body: &str, expected: Expect) {
    let mut cluster = Cluster::new();
    let mut request = request(Verb::Create, plural, "", Value::Null);
    request.body = Body::parse(body.as_bytes()).unwrap();
    let status = cluster.run(&request).expect_err("it should be refused");
    expected.assert_eq(&format!("{} {}\n{}\n", status.code, status.reason, status.message));
    assert_eq!(cluster.view().n_objects(), 1, "a refused write leaves nothing behind");
}

/// A master that has started again has no history from before its checkpoint.
#[test]
fn a_retry_whose_object_was_replaced_is_not_shown_the_other_s() {
    let mut cluster = Cluster::new();
    let write = |verb, value: &str, id: Option<u128>| {
        let body = json!({"metadata": {"name": "c"}, "data": {"v": value}});
        let name = if verb == Verb::Create { "" } else { "c" };
        Request { client_request: id, ..request(verb, "configmaps", name, body) }
    };
    cluster.object(&write(Verb::Create, "1", None));
    let first = cluster.object(&write(Verb::Update, "2", Some(7)));
    cluster.state = state::snapshot::decode(&state::snapshot::encode(&cluster.state), 1).unwrap();
    assert_eq!(cluster.object(&write(Verb::Update, "2", Some(7))), first);
    cluster.object(&write(Verb::Update, "3", Some(8)));
    cluster.state = state::snapshot::decode(&state::snapshot::encode(&cluster.state), 1).unwrap();
    let told = cluster.object(&write(Verb::Update, "2", Some(7)));
    assert_eq!((told.text("kind"), told.text("status")), ("Status", "Success"));
    assert_eq!(told.at("metadata.resourceVersion"), first.at("metadata.resourceVersion"));
    assert_eq!(cluster.object(&request(Verb::Get, "configmaps", "c", Value::Null)).text("data.v"), "3");
}

#[test]
fn a_created_pod_is_defaulted_and_admitted() {
    let mut cluster = Cluster::new();
    let pod = cluster.object(&request(Verb::Create, "pods", "", pod("a")));
    assert_eq!(pod.text("spec.restartPolicy"), "Always");
    assert_eq!(pod.text("spec.serviceAccountName"), "default");
    assert_eq!(pod.text("status.phase"), "Pending");
    assert_eq!(pod.items("spec.tolerations").len(), 2);
    assert_eq!(pod.at("spec.tolerations")[0].at("tolerationSeconds"), 3);
    assert_eq!(pod.text("metadata.creationTimestamp"), "2023-11-14T22:13:20Z");
    assert_eq!(pod.text("metadata.resourceVersion"), "2");
}

/// A cluster with a Deployment whose pods have this field, which is refused today.
fn stored_under_older_rules(field: &str, value: Value) -> Cluster {
    let mut cluster = Cluster::new();
    let mut old = cluster.object(&request(Verb::Create, "deployments", "", deployment("web")));
    old.set(&format!("spec.template.spec.{field}"), value);
    old.remove_at("metadata.resourceVersion");
    let key = Key::new(registry::DEPLOYMENT, "default", "web");
    let assumed = cluster.view().get(&key).unwrap().header.revision;
    let op = Op::Update { key, assumed, object: objects::record::encode(&old) };
    cluster.state.apply(LeaderId::default(), &Txn { ops: vec![op], ..Txn::default() });
    cluster
}

/// Patches the pods of its Deployment.
fn patch_pods(cluster: &mut Cluster, fields: Value) -> Result<(), String> {
    let mut patch = request(Verb::Patch, "deployments", "web", json!({"spec": {"template": {"spec": fields}}}));
    patch.patch = Some(Patch::Merge);
    cluster.run(&patch).map(drop).map_err(|status| status.message)
}

#[test]
fn what_older_rules_took_is_no_reason_to_refuse_other_changes() {
    let mut cluster = stored_under_older_rules("hostUsers", json!(false));
    patch_pods(&mut cluster, json!({"terminationGracePeriodSeconds": 5})).unwrap();
    let worse = patch_pods(&mut cluster, json!({"restartPolicy": "Never"})).unwrap_err();
    assert!(worse.contains("restartPolicy") && !worse.contains("hostUsers"), "{worse}");
}

#[test]
fn what_older_rules_took_is_refused_once_it_is_changed() {
    let options = |level: &str| json!({"seLinuxOptions": {"level": level}});
    let mut cluster = stored_under_older_rules("securityContext", options("a"));
    let changed = patch_pods(&mut cluster, json!({"securityContext": options("b")})).unwrap_err();
    assert!(changed.contains("spec.template.spec.securityContext"), "{changed}");
    patch_pods(&mut cluster, json!({"securityContext": null})).unwrap();
    patch_pods(&mut cluster, json!({"securityContext": options("a")})).unwrap_err();
}

#[test]
fn quantities_and_label_keys_are_stored_as_everybody_reads_them() {
    let mut cluster = Cluster::new();
    let mut body = pod("a");
    body.set("metadata.labels", json!({"app": "web"}));
    body["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": 1, "memory": "1024Mi"}});
    body["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {}, "matchLabelKeys": ["app", "none"],
    }]);
    let pod = cluster.object(&request(Verb::Create, "pods", "", body));
    let resources = &pod["spec"]["containers"][0]["resources"];
    assert_eq!(resources, &json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}));
    assert_eq!(pod.text("status.qosClass"), "Guaranteed");
    assert_eq!(
        pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
        json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]})
    );
}

#[test]
fn there_is_one_default_priority_class() {
    let mut cluster = Cluster::new();
    let class = |name: &str| json!({"metadata": {"name": name}, "value": 1, "globalDefault": true});
    cluster.object(&request(Verb::Create, "priorityclasses", "", class("a")));
    let status = cluster.run(&request(Verb::Create, "priorityclasses", "", class("b"))).unwrap_err();
    assert!(status.code == 403 && status.message.contains("PriorityClass a is already marked as default"), "{status}");
}

#[test]
fn a_dry_run_warns_too_and_changes_nothing() {
    let mut cluster = Cluster::new();
    let mut create = request(Verb::Create, "configmaps", "", json!({"metadata": {"name": "a"}, "dat": {}}));
    (create.options.dry_run, create.options.field_validation) = (true, "Warn".into());
    let before = cluster.view().revision();
    let Reply::Value { warnings, created: true, .. } = cluster.run(&create).unwrap() else { panic!("a made object") };
    assert_eq!(warnings, ["unknown field \"dat\""]);
    assert_eq!(cluster.view().revision(), before);
}

#[test]
fn missing_fields() {
    refused(
        "pods",
        r#"{"metadata": {"name": "a"}}"#,
        expect![[r#"
        422 Invalid
        Pod "a" is invalid: spec.containers: Required value
    "#]],
    );
    refused(
        "pods",
        r#"{"metadata": {}, "spec": {"containers": [{"name": "c", "image": "i"}]}}"#,
        expect![[r#"
        422 Invalid
        Pod "" is invalid: metadata.name: Required value: name or generateName is required
    "#]],
    );
}

#[test]
fn wrong_unknown_and_duplicate_fields() {
    refused(
        "pods",
        r#"{"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": 7}]}}"#,
        expect![[r#"
            400 BadRequest
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal: spec.containers[0].image: Invalid value: 7: expected string, got number
        "#]],
    );
    refused(
        "configmaps",
        r#"{"metadata": {"name": "a"}, "dat": {}, "data": {}, "data": {}}"#,
        expect![[r#"
        400 BadRequest
        ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dat", duplicate field "data"
    "#]],
    );
}

#[test]
fn oversized_objects() {
    let body = json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(2 << 20)}});
    let mut cluster = Cluster::new();
    let status = cluster.run(&request(Verb::Create, "configmaps", "", body)).unwrap_err();
    assert_eq!((status.code, status.causes.0[0].path.as_str()), (422, "data"));
}

#[test]
fn immutable_fields_and_conflicts() {
    let mut cluster = Cluster::new();
    cluster.object(&request(Verb::Create, "deployments", "", deployment("d")));
    let patch = json!({"spec": {"selector": {"matchLabels": {"app": "b"}}, "template": {"metadata": {"labels": {"app": "b"}}}}});
    let mut change = request(Verb::Patch, "deployments", "d", patch);
    change.patch = Some(Patch::Merge);
    let status = cluster.run(&change).unwrap_err();
    assert_eq!(
        status.message,
        r#"Deployment.apps "d" is invalid: spec.selector: Invalid value: {"matchLabels":{"app":"b"}}: field is immutable"#
    );
    let mut stale = deployment("d");
    stale.set("metadata.resourceVersion", "1");
    let status = cluster.run(&request(Verb::Update, "deployments", "d", stale)).unwrap_err();
    assert_eq!((status.code, status.reason), (409, "Conflict"));
}

#[test]
fn generation_follows_the_spec_and_status_has_its_own_door() {
    let mut cluster = Cluster::new();
    cluster.object(&request(Verb::Create, "deployments", "", deployment("d")));
    let mut scale = request(Verb::Patch, "deployments", "d", json!({"spec": {"replicas": 3}}));
    (scale.patch, scale.subresource) = (Some(Patch::Merge), "scale".into());
    assert_eq!(cluster.object(&scale).at("spec.replicas"), 3);
    let mut status =
        request(Verb::Patch, "deployments", "d", json!({"spec": {"replicas": 9}, "status": {"replicas": 2}}));
    (status.patch, status.subresource) = (Some(Patch::Merge), "status".into());
    let after = cluster.object(&status);
    assert_eq!((after.at("spec.replicas"), after.at("status.replicas")), (&json!(3), &json!(2)));
    assert_eq!(after.at("metadata.generation"), 2);
}

#[test]
fn a_bound_pod_is_deleted_gracefully_and_goes_with_grace_zero() {
    let mut cluster = Cluster::new();
    cluster.object(&request(Verb::Create, "pods", "", pod("a")));
    let mut bind = request(Verb::Create, "pods", "a", json!({"target": {"kind": "Node", "name": "n1"}}));
    bind.subresource = "binding".into();
    cluster.object(&bind);
    let status = cluster.run(&bind).unwrap_err();
    assert_eq!(status.code, 409, "bound once");
    let mut evict = request(Verb::Create, "pods", "a", json!({}));
    evict.subresource = "eviction".into();
    assert_eq!(cluster.object(&evict).text("status"), "Success");
    let leaving = cluster.object(&request(Verb::Get, "pods", "a", Value::Null));
    assert_eq!(leaving.text("metadata.deletionTimestamp"), "2023-11-14T22:13:50Z");
    let mut delete = request(Verb::Delete, "pods", "a", Value::Null);
    delete.options.grace_period_seconds = Some(0);
    cluster.object(&delete);
    assert_eq!(cluster.run(&request(Verb::Get, "pods", "a", Value::Null)).unwrap_err().code, 404);
}

#[test]
fn finalizers_hold_an_object() {
    let mut cluster = Cluster::new();
    let body = json!({"metadata": {"name": "a", "finalizers": ["example.com/hold"]}});
    cluster.object(&request(Verb::Create, "configmaps", "", body));
    let held = cluster.object(&request(Verb::Delete, "configmaps", "a", Value::Null));
    assert!(!held.text("metadata.deletionTimestamp").is_empty());
    let mut release = request(Verb::Patch, "configmaps", "a", json!({"metadata": {"finalizers": null}}));
    release.patch = Some(Patch::Merge);
    cluster.object(&release);
    assert_eq!(cluster.run(&request(Verb::Get, "configmaps", "a", Value::Null)).unwrap_err().code, 404);
}

#[test]
fn lists_page_at_one_revision() {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster.object(&request(Verb::Create, "configmaps", "", json!({"metadata": {"name": name}})));
    }
    let mut list = request(Verb::List, "configmaps", "", Value::Null);
    list.options.limit = 2;
    let page = cluster.object(&list);
    assert_eq!((page.items("items").len(), page.at("metadata.remainingItemCount")), (2, &json!(1)));
    cluster.object(&request(Verb::Create, "configmaps", "", json!({"metadata": {"name": "d"}})));
    list.options.continue_token = page.text("metadata.continue").into();
    let rest = cluster.object(&list);
    let names: Vec<&str> = rest.items("items").iter().map(|item| item.text("metadata.name")).collect();
    assert_eq!(names, ["c"], "d came after the first page's revision");
}

#[test]
fn a_watch_shows_objects_entering_and_leaving_its_selector() {
    let mut cluster = Cluster::new();
    let mut watch = request(Verb::Watch, "configmaps", "", Value::Null);
    watch.options.label_selector = "app=a".into();
    watch.options.resource_version = Some(1);
    let mut context = Context { now: NOW, rng: &mut Rng::new(2) };
    let Step::Watch(mut watch) = step(&watch, &cluster.view(), &mut context) else { panic!("a watch was asked for") };
    cluster.object(&request(
        Verb::Create,
        "configmaps",
        "",
        json!({"metadata": {"name": "x", "labels": {"app": "a"}}}),
    ));
    let mut leave = request(Verb::Patch, "configmaps", "x", json!({"metadata": {"labels": {"app": "b"}}}));
    leave.patch = Some(Patch::Merge);
    cluster.object(&leave);
    let shown: Vec<&str> = watch.next(&cluster.view()).unwrap().iter().map(watch::Shown::type_name).collect();
    assert_eq!(shown, ["ADDED", "DELETED"]);
    assert!(watch.next(&cluster.view()).unwrap().is_empty());
}

#[test]
fn what_is_kept_and_not_acted_on_is_told() {
    let mut cluster = Cluster::new();
    let mut told = |kind: &str, body: Value| match cluster.run(&request(Verb::Create, kind, "", body)).unwrap() {
        Reply::Object { warnings, .. } | Reply::Value { warnings, .. } => warnings,
        Reply::List(_) => panic!("one object was made"),
    };
    let mut asking = pod("a");
    asking.set("spec.imagePullSecrets", json!([{"name": "registry"}]));
    let warnings = told("pods", asking.clone());
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("spec.imagePullSecrets: not acted on here"), "{warnings:?}");
    let mut deployed = deployment("d");
    deployed.set("spec.template.spec.imagePullSecrets", json!([{"name": "registry"}]));
    assert!(told("deployments", deployed)[0].starts_with("spec.template.spec.imagePullSecrets"));
    assert!(told("pods", pod("b")).is_empty());
}

#[test]
fn a_watch_of_one_name_keeps_to_its_selectors() {
    let mut cluster = Cluster::new();
    let mut watch = request(Verb::Watch, "pods", "a", Value::Null);
    watch.options.field_selector = "spec.nodeName=n2".into();
    watch.options.resource_version = Some(1);
    let mut context = Context { now: NOW, rng: &mut Rng::new(2) };
    let Step::Watch(mut watch) = step(&watch, &cluster.view(), &mut context) else { panic!("a watch was asked for") };
    for name in ["a", "b"] {
        cluster.object(&request(Verb::Create, "pods", "", pod(name)));
    }
    assert!(watch.next(&cluster.view()).unwrap().is_empty(), "neither is on that node");
}

#[test]
fn a_json_patch_is_held_to_the_revision_it_names_and_to_none_in_its_text() {
    let mut cluster = Cluster::new();
    cluster.object(&request(Verb::Create, "configmaps", "", json!({"metadata": {"name": "a"}})));
    let mut patched = |operations: Value| {
        let mut patch = request(Verb::Patch, "configmaps", "a", operations);
        patch.patch = Some(Patch::Json);
        cluster.run(&patch).map(drop).map_err(|status| status.code)
    };
    let says = json!([{"op": "add", "path": "/data", "value": {"note": "see /metadata/resourceVersion"}}]);
    assert_eq!(patched(says), Ok(()));
    for (path, value) in [
        ("/metadata/resourceVersion", json!("1")),
        ("/metadata", json!({"name": "a", "namespace": "default", "resourceVersion": "1"})),
    ] {
        assert_eq!(patched(json!([{"op": "replace", "path": path, "value": value}])), Err(409), "{path}");
    }
}

#[test]
fn both_event_groups_are_one_kind() {
    let mut cluster = Cluster::new();
    let body = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started", "message": "hello", "type": "Normal"});
    cluster.object(&request(Verb::Create, "events", "", body));
    let mut newer = request(Verb::Get, "events", "e", Value::Null);
    newer.served = registry::find_served("events.k8s.io", "v1", "events").unwrap();
    let event = cluster.object(&newer);
    assert_eq!((event.text("note"), event.text("regarding.name")), ("hello", "p"));
}

#[test]
fn strangers_are_refused() {
    let mut cluster = Cluster::new();
    let mut list = request(Verb::List, "pods", "", Value::Null);
    list.identity = Identity { user: "eve".into(), groups: vec![] };
    let status = cluster.run(&list).unwrap_err();
    assert_eq!(
        status.message,
        r#"pods is forbidden: User "eve" cannot list resource "pods" in API group "" in the namespace "default""#
    );
}
