//! The face over its real wire, on an in-memory store.

use crate::{ObjectsService, ObserveService, envelope};
use api::WorkerCall;
use async_trait::async_trait;
use authz::Identity;
use expect_test::{Expect, expect};
use front::Front;
use front::listen::Caller;
use front::workers::{WorkerStream, Workers};
use objects::{Key, Timestamp, Value, ValueExt, json, record, registry};
use protos::objects as pb;
use protos::objects::objects_client::ObjectsClient;
use protos::objects::watch_event::Type;
use protos::observe as ob;
use protos::observe::observe_client::ObserveClient;
use state::{Op, Outcome, State, Txn};
use std::sync::Arc;
use std::time::Duration;
use store::{Leadership, MemoryProposer, Proposer, Published, Route, Store};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

struct NoWorkers;

#[async_trait]
impl Workers for NoWorkers {
    async fn open(&self, call: &WorkerCall) -> Result<WorkerStream, objects::Status> {
        Err(objects::Status::unavailable(format!("node {} has no session", call.node)))
    }
}

/// A master's API on a loopback port, with one namespace, called as an administrator.
struct Face {
    front: Front,
    channel: Channel,
}

impl Face {
    async fn new() -> Face {
        Face::of(Identity { user: "ann".into(), groups: vec!["system:masters".into()] }).await
    }

    async fn of(caller: Identity) -> Face {
        let front = Front::new(MemoryProposer::store(), Arc::new(NoWorkers), Arc::new(|| NOW), 1);
        let namespace = json!({"metadata": {"name": "default", "uid": "ns"}});
        let key = Key::new(registry::NAMESPACE, "", "default");
        let op = Op::Create { key, object: record::encode(&namespace) };
        front.store.propose(Txn { ops: vec![op], ..Txn::default() }).await.unwrap();
        let routes = tonic::service::Routes::new(ObjectsService::server(front.clone()))
            .add_service(ObserveService::server(front.clone()))
            .into_axum_router()
            .layer(axum::Extension(Caller(Some(caller))))
            .layer(axum::middleware::from_fn(envelope));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Face { front, channel }
    }

    fn objects(&self) -> ObjectsClient<Channel> {
        ObjectsClient::new(self.channel.clone())
    }

    async fn create(&self, resource: &str, body: Value) -> Result<pb::Object, Status> {
        let request = pb::WriteRequest { key: key(resource, ""), json: bytes(&body), ..Default::default() };
        self.objects().create(request).await.map(tonic::Response::into_inner)
    }

    /// Stores a pod's status as its worker's report would.
    async fn report(&self, name: &str, status: Value) {
        let request = pb::PatchRequest {
            key: key("pods", name),
            subresource: "status".into(),
            patch: bytes(&json!({"status": status})),
            ..Default::default()
        };
        self.objects().patch(request).await.unwrap();
    }
}

fn key(resource: &str, name: &str) -> Option<pb::Key> {
    let group = if resource == "deployments" { "apps" } else { "" };
    let (group, resource) = (group.into(), resource.into());
    Some(pb::Key { group, resource, namespace: "default".into(), name: name.into(), ..Default::default() })
}

fn bytes(value: &Value) -> bytes::Bytes {
    value.to_string().into()
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]}})
}

fn parsed(object: &pb::Object) -> Value {
    serde_json::from_slice(&object.json).unwrap()
}

/// A refusal as a client sees it: code, reason, REST code, fields, when to try again.
fn told(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("every refusal says its reason");
    assert_eq!(info.domain, "balsa.dev");
    let mut text = format!("{:?} {} {}\n", status.code(), info.reason, info.metadata["code"]);
    for violation in details.bad_request().map_or(&[][..], |bad| &bad.field_violations) {
        text.push_str(&format!("  {}: {}\n", violation.field, violation.description));
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        text.push_str(&format!("  try again in {delay:?}\n"));
    }
    text
}

fn check(status: &Status, expected: Expect) {
    expected.assert_eq(&told(status));
}

#[tokio::test]
async fn refusals_carry_their_reason_and_the_fields() {
    let face = Face::new().await;
    let mut client = face.objects();
    check(
        &client.get(pb::GetRequest::default()).await.unwrap_err(),
        expect![[r#"
            InvalidArgument BadRequest 400
              key: Required value
        "#]],
    );
    let get = |resource: &str, name: &str| pb::GetRequest { key: key(resource, name), ..Default::default() };
    check(
        &client.get(get("pods", "")).await.unwrap_err(),
        expect![[r#"
            InvalidArgument BadRequest 400
              key.name: Required value
        "#]],
    );
    check(
        &client.get(get("things", "a")).await.unwrap_err(),
        expect![[r#"
            NotFound NotFound 404
              key.resource: Not found: "things"
        "#]],
    );
    check(
        &client.get(get("nodes", "a")).await.unwrap_err(),
        expect![[r#"
            InvalidArgument BadRequest 400
              key.namespace: Forbidden: not allowed on this type
        "#]],
    );
    check(
        &client.get(get("pods", "none")).await.unwrap_err(),
        expect![[r#"
            NotFound NotFound 404
        "#]],
    );
    check(
        &face.create("pods", json!({"metadata": {"name": "a"}, "spec": {}})).await.unwrap_err(),
        expect![[r#"
            InvalidArgument Invalid 422
              spec.containers: Required value
        "#]],
    );
    check(
        &face.create("configmaps", json!({"metadata": {"name": "a"}, "dat": {}})).await.unwrap_err(),
        expect![[r#"
            InvalidArgument BadRequest 400
              dat: unknown field "dat"
        "#]],
    );
    face.create("configmaps", config_map("a")).await.unwrap();
    check(
        &face.create("configmaps", config_map("a")).await.unwrap_err(),
        expect![[r#"
            AlreadyExists AlreadyExists 409
        "#]],
    );
    let stale = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "data": {"a": "2"}});
    let update = pb::WriteRequest { key: key("configmaps", "a"), json: bytes(&stale), ..Default::default() };
    check(
        &client.update(update).await.unwrap_err(),
        expect![[r#"
            Aborted Conflict 409
        "#]],
    );
    let delete = pb::DeleteRequest { key: key("configmaps", "a"), precondition_revision: 1, ..Default::default() };
    check(
        &client.delete(delete).await.unwrap_err(),
        expect![[r#"
            Aborted Conflict 409
              preconditions.resourceVersion: Operation cannot be fulfilled on configmaps "a": the ResourceVersion in the precondition (1) does not match the ResourceVersion in record (2). The object might have been modified
        "#]],
    );
    // Larger than a message may be, which tonic itself refuses.
    check(
        &face.create("configmaps", json!({"data": {"a": "x".repeat(4 << 20)}})).await.unwrap_err(),
        expect![[r#"
            InvalidArgument RequestEntityTooLarge 413
        "#]],
    );
    let unknown = tonic::client::Grpc::new(face.channel.clone());
    let answer = call_by_name(unknown, "/balsa.objects.v1.Objects/Guess").await;
    check(
        &answer.unwrap_err(),
        expect![[r#"
            Unimplemented MethodNotAllowed 405
        "#]],
    );
}

async fn call_by_name(mut client: tonic::client::Grpc<Channel>, path: &'static str) -> Result<(), Status> {
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<pb::GetRequest, pb::Object>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    client.unary(tonic::Request::new(pb::GetRequest::default()), path, codec).await.map(drop)
}

#[tokio::test]
async fn nobody_is_answered_beyond_his_rights() {
    let face = Face::of(Identity { user: "eve".into(), groups: vec![] }).await;
    let get = pb::GetRequest { key: key("pods", "a"), ..Default::default() };
    check(
        &face.objects().get(get).await.unwrap_err(),
        expect![[r#"
            PermissionDenied Forbidden 403
        "#]],
    );
    let all = ob::ContainersRequest::default();
    check(
        &ObserveClient::new(face.channel.clone()).containers(all).await.unwrap_err(),
        expect![[r#"
            PermissionDenied Forbidden 403
        "#]],
    );
}

#[tokio::test]
async fn a_refusal_without_details_gets_those_of_its_code() {
    use tower::ServiceExt;
    let answer = |service: axum::Router, path: &'static str, timeout: &'static str| async move {
        let request =
            http::Request::post(path).header("content-type", "application/grpc").header("grpc-timeout", timeout);
        let response = service.oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        Status::from_header_map(response.headers()).unwrap()
    };
    let refusing = axum::Router::new()
        .fallback(|| async { Status::unavailable("no").into_http::<axum::body::Body>() })
        .layer(axum::middleware::from_fn(envelope));
    check(
        &answer(refusing, "/balsa.cluster.v1.Cluster/Status", "1S").await,
        expect![[r#"
            Unavailable ServiceUnavailable 503
              try again in 350ms
        "#]],
    );
    let silent =
        axum::Router::new().fallback(std::future::pending::<String>).layer(axum::middleware::from_fn(envelope));
    check(
        &answer(silent, "/balsa.cluster.v1.Cluster/Status", "20m").await,
        expect![[r#"
            DeadlineExceeded Timeout 504
        "#]],
    );
}

#[tokio::test]
async fn a_named_write_is_applied_once_and_answered_twice() {
    let face = Face::new().await;
    let mut client = face.objects();
    let drawn = pb::WriteRequest {
        key: key("configmaps", ""),
        json: bytes(&json!({"metadata": {"generateName": "drawn-"}})),
        request_id: "one".into(),
        ..Default::default()
    };
    let first = client.create(drawn.clone()).await.unwrap().into_inner();
    assert_eq!(client.create(drawn.clone()).await.unwrap().into_inner(), first);
    let other = client.create(pb::WriteRequest { request_id: "two".into(), ..drawn }).await.unwrap().into_inner();
    assert_ne!(parsed(&other).text("metadata.name"), parsed(&first).text("metadata.name"));

    let list = json!({"metadata": {"name": "list", "finalizers": ["example.com/a"]}});
    face.create("configmaps", list).await.unwrap();
    let add = pb::PatchRequest {
        key: key("configmaps", "list"),
        r#type: pb::patch_request::Type::JsonPatch.into(),
        patch: bytes(&json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/b"}])),
        request_id: "one".into(),
        ..Default::default()
    };
    let added = client.patch(add.clone()).await.unwrap().into_inner();
    assert_eq!(parsed(&added).items("metadata.finalizers").len(), 2);
    assert_eq!(client.patch(add.clone()).await.unwrap().into_inner(), added);
    let again = client.patch(pb::PatchRequest { request_id: String::new(), ..add }).await.unwrap().into_inner();
    assert_eq!(parsed(&again).items("metadata.finalizers").len(), 3, "without a name it is another request");

    face.create("configmaps", config_map("gone")).await.unwrap();
    let delete = pb::DeleteRequest { key: key("configmaps", "gone"), request_id: "one".into(), ..Default::default() };
    let gone = client.delete(delete.clone()).await.unwrap().into_inner();
    assert_eq!(parsed(&gone).text("status"), "Success");
    face.create("configmaps", config_map("gone")).await.unwrap();
    assert_eq!(client.delete(delete).await.unwrap().into_inner(), gone, "the new one is not deleted");
    let get = pb::GetRequest { key: key("configmaps", "gone"), ..Default::default() };
    client.get(get).await.unwrap();
}

#[tokio::test]
async fn a_retry_that_overtakes_its_first_attempt_is_told_what_was_applied() {
    let face = Face::new().await;
    let drawn = pb::WriteRequest {
        key: key("configmaps", ""),
        json: bytes(&json!({"metadata": {"generateName": "drawn-"}})),
        request_id: "both".into(),
        ..Default::default()
    };
    let attempt = || async { face.objects().create(drawn.clone()).await.unwrap().into_inner() };
    let (one, two, three) = tokio::join!(attempt(), attempt(), attempt());
    assert_eq!((&one, &two), (&two, &three));
    let list = pb::ListRequest { key: key("configmaps", ""), ..Default::default() };
    assert_eq!(face.objects().list(list).await.unwrap().into_inner().items.len(), 1);
}

async fn next(stream: &mut tonic::Streaming<pb::WatchEvent>) -> (Type, String, u64) {
    let event = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap().unwrap();
    let (ty, object) = (event.r#type(), event.object.unwrap_or_default());
    (ty, parsed(&object).text("metadata.name").to_string(), object.revision)
}

#[tokio::test]
async fn a_watch_resumes_where_it_was_until_that_has_left_the_history() {
    let face = Face::new().await;
    face.create("configmaps", config_map("a")).await.unwrap();
    let watch = |after_revision| pb::WatchRequest { key: key("configmaps", ""), after_revision, ..Default::default() };
    let mut stream = face.objects().watch(watch(0)).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await, (Type::Added, "a".into(), 2));
    assert_eq!(next(&mut stream).await, (Type::Bookmark, String::new(), 2));
    face.create("configmaps", config_map("b")).await.unwrap();
    assert_eq!(next(&mut stream).await, (Type::Added, "b".into(), 3));
    drop(stream);
    face.create("configmaps", config_map("c")).await.unwrap();
    let mut stream = face.objects().watch(watch(3)).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await, (Type::Added, "c".into(), 4));
    assert_eq!(next(&mut stream).await, (Type::Bookmark, String::new(), 4));

    let create = async |kind, names: &[&str], stamp| {
        let op = |name: &&str| Op::Create {
            key: Key::new(kind, "default", name),
            object: record::encode(&config_map(name)),
        };
        face.front.store.propose(Txn { ops: names.iter().map(op).collect(), stamp, ..Txn::default() }).await.unwrap();
    };
    // More than what stays however old.
    let pods: Vec<String> = (0..1_200).map(|i| format!("p{i}")).collect();
    create(registry::POD, &pods.iter().map(String::as_str).collect::<Vec<_>>(), NOW).await;
    // Six minutes later, what was six minutes ago is forgotten.
    create(registry::CONFIG_MAP, &["d"], NOW.plus_secs(360)).await;
    assert_eq!(next(&mut stream).await, (Type::Added, "d".into(), 1_205));
    check(
        &face.objects().watch(watch(3)).await.unwrap_err(),
        expect![[r#"
            OutOfRange Expired 410
        "#]],
    );
    let observe = ob::ContainersRequest { after_revision: 3, ..Default::default() };
    let refused = ObserveClient::new(face.channel.clone()).containers(observe).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
}

/// One line per message: type, revision, and each container with its state.
async fn seen(stream: &mut tonic::Streaming<ob::ContainerEvent>) -> String {
    use ob::container::State;
    let event = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap().unwrap();
    let mut line = format!("{} {}", event.r#type().as_str_name(), event.revision);
    for c in &event.containers {
        let state = match c.state.as_ref().unwrap() {
            State::Waiting(waiting) => format!("waiting({})", waiting.reason),
            State::Running(running) => format!("running(since {})", running.started_at_ms),
            State::Terminated(t) => format!("terminated({} {} at {})", t.exit_code, t.reason, t.finished_at_ms),
        };
        let last = c.last_terminated.as_ref().map_or(String::new(), |t| format!(" last={}", t.exit_code));
        let ready = if c.ready { " ready" } else { "" };
        line.push_str(&format!(
            " | {}/{} on {:?} {state}{ready} restarts={}{last}",
            c.pod, c.name, c.node, c.restart_count
        ));
    }
    line
}

#[tokio::test]
async fn observers_are_told_of_containers() {
    let face = Face::new().await;
    face.create("pods", pod("a")).await.unwrap();
    face.create("pods", pod("b")).await.unwrap();
    let observe = async |request: ob::ContainersRequest| {
        ObserveClient::new(face.channel.clone()).containers(request).await.unwrap().into_inner()
    };
    let mut all = observe(ob::ContainersRequest::default()).await;
    let mut only_b = observe(ob::ContainersRequest { label_selector: "app=b".into(), ..Default::default() }).await;
    let mut trace = Vec::new();
    for _ in 0..3 {
        trace.push(seen(&mut all).await);
    }
    let bind = pb::WriteRequest {
        key: key("pods", "a"),
        subresource: "binding".into(),
        json: bytes(&json!({"target": {"name": "n1"}})),
        ..Default::default()
    };
    face.objects().create(bind).await.unwrap();
    trace.push(seen(&mut all).await);
    let running = json!({"running": {"startedAt": "2023-11-14T22:13:20Z"}});
    let ended = json!({"terminated": {"exitCode": 3, "reason": "Error", "finishedAt": "2023-11-14T22:13:21Z"}});
    let d = json!({"name": "d", "state": {"waiting": {"reason": "ErrImagePull"}}});
    let c = json!({"name": "c", "state": running, "ready": true, "started": true});
    face.report("a", json!({"phase": "Running", "containerStatuses": [c, d]})).await;
    trace.push(seen(&mut all).await);
    // What is not about containers is not told: the next message is of the report after it.
    face.report("a", json!({"message": "x", "containerStatuses": [c, d]})).await;
    let c = json!({"name": "c", "state": running, "lastState": ended, "restartCount": 1});
    face.report("a", json!({"containerStatuses": [c, d]})).await;
    trace.push(seen(&mut all).await);
    let delete = pb::DeleteRequest { key: key("pods", "a"), grace_period_seconds: Some(0), ..Default::default() };
    face.objects().delete(delete).await.unwrap();
    trace.push(seen(&mut all).await);
    expect![[r#"
        STATUS 0 | a/c on "" waiting() restarts=0 | a/d on "" waiting() restarts=0
        STATUS 0 | b/c on "" waiting() restarts=0 | b/d on "" waiting() restarts=0
        SYNCED 3
        STATUS 4 | a/c on "n1" waiting() restarts=0 | a/d on "n1" waiting() restarts=0
        STATUS 5 | a/c on "n1" running(since 1700000000000) ready restarts=0 | a/d on "n1" waiting(ErrImagePull) restarts=0
        STATUS 7 | a/c on "n1" running(since 1700000000000) restarts=1 last=3
        GONE 8 | a/c on "n1" running(since 1700000000000) restarts=1 last=3 | a/d on "n1" waiting(ErrImagePull) restarts=0"#]]
    .assert_eq(&trace.join("\n"));

    let first = seen(&mut only_b).await;
    assert!(first.starts_with("STATUS 0 | b/c") && seen(&mut only_b).await.starts_with("SYNCED"), "{first}");
    // From the middle: what came after, then the position.
    let mut resumed = observe(ob::ContainersRequest { after_revision: 5, ..Default::default() }).await;
    let mut rest = Vec::new();
    for _ in 0..3 {
        rest.push(seen(&mut resumed).await);
    }
    assert_eq!(rest[..2], trace[5..7]);
    assert!(rest[2].starts_with("SYNCED"), "{}", rest[2]);
    let mut of_node =
        observe(ob::ContainersRequest { node: "n1".into(), after_revision: 3, ..Default::default() }).await;
    let entered = seen(&mut of_node).await;
    assert!(entered.starts_with("STATUS 4 | a/c on \"n1\""), "a pod enters the filter when it is bound: {entered}");
}

/// A master that may lose sight of its leader.
struct Led(watch::Sender<Leadership>);

#[async_trait]
impl Proposer for Led {
    async fn propose(&self, _: Txn, _: Route) -> Result<Outcome, store::Error> {
        Err(store::Error::Unavailable("nothing is written here".into()))
    }

    async fn read_barrier(&self) -> Result<(), store::Error> {
        Ok(())
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.subscribe()
    }
}

#[tokio::test]
async fn a_master_serves_while_it_hears_a_leader() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
    use tonic_health::pb::health_client::HealthClient;
    let led = Arc::new(Led(watch::Sender::default()));
    let store = Store::new(Published::new(State::new()), led.clone());
    let (stop_sender, stop) = watch::channel(false);
    let mut client = HealthClient::new(crate::health::server(&store, stop).await);
    let ask = HealthCheckRequest { service: "balsa.observe.v1.Observe".into() };
    let mut told = client.watch(ask).await.unwrap().into_inner();
    let mut next =
        async || tokio::time::timeout(Duration::from_secs(5), told.next()).await.unwrap().unwrap().unwrap().status();
    assert_eq!(next().await, NotServing);
    led.0.send_modify(|now| now.leader = Some("master-2".into()));
    assert_eq!(next().await, Serving);
    led.0.send_modify(|now| now.leader = None);
    assert_eq!(next().await, NotServing);
    led.0.send_modify(|now| now.leader = Some("master-3".into()));
    assert_eq!(next().await, Serving);
    stop_sender.send_replace(true);
    assert_eq!(next().await, NotServing);
}

#[test]
fn the_document_names_every_code() {
    let text = include_str!("../../../proto/objects.proto");
    for (rest, reason, code) in crate::status::CODES {
        // A caller that gave up needs no row.
        if *code == Code::Cancelled {
            continue;
        }
        let debug = format!("{code:?}");
        let mut name = String::new();
        for c in debug.chars() {
            if c.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        let row = text.lines().find(|line| line.contains(&format!("| {name} |"))).unwrap_or("");
        assert!(row.contains(&rest.to_string()), "{name} for {rest} {reason} is not in objects.proto's table: {row}");
    }
}

/// What the comments say of roles is what the role table holds.
#[test]
fn the_document_names_the_roles_of_the_table() {
    use authz::roles::{Callers, SERVICES, may_call};
    let document = include_str!("../../../docs/grpc.md");
    let (mut package, mut service, mut method, mut found) = ("", "", "", 0);
    for line in document.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            package = name;
        } else if let Some(name) = line.strip_prefix("### service ") {
            service = name;
        } else if let Some(name) = line.strip_prefix("#### ") {
            method = name;
        } else if let Some(roles) = line.strip_prefix("- roles: ") {
            let full = format!("{package}.{service}");
            let row = |name: &str| SERVICES.iter().find(|(known, _)| *known == name);
            if !matches!(row(&full), Some((_, Callers::Roles(_)))) {
                continue;
            }
            found += 1;
            let may = authz::Role::ALL.into_iter().filter(|role| {
                let identity = Identity { user: "x".into(), groups: vec![role.group().to_string()] };
                may_call(Some(&identity), &full, method).is_ok()
            });
            let mut names: Vec<&str> = may.map(authz::Role::name).collect();
            names.sort_unstable();
            assert_eq!(roles.trim_end_matches('.'), names.join(", "), "{full}/{method}");
        }
    }
    assert!(found > 10, "the document was read");
}
