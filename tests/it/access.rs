//! Who may do what: every route and RPC, tried with no certificate, a foreign, an expired, a reader's, and
//! another worker's. The outcomes are docs/access.txt; UPDATE_EXPECT=1 renews it, for a person to read.

use crate::cluster::{Cluster, IMAGE, wanted};
use crate::wire::{Answer, GrpcCall, RestCall, Wire};
use authz::Role;
use expect_test::expect_file;
use objects::Served;
use objects::registry::{self, served};
use pki::{Authority, Credential};
use prost::Message;
use protos::dispatch::{self as dp, from_worker, to_worker};
use protos::objects as pb;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::faults;
use tonic::Code;

const NAMESPACE: &str = "access";
/// Whose pods and node the worker of the test has no business with.
const OTHER: &str = "worker-2";
const INTRO: &str = "\
Who may do what: each route and RPC tried with each certificate on a running cluster, and what came of it.
Written by a test (tests/it/access.rs): UPDATE_EXPECT=1 renews it.

  none      no certificate
  foreign   an administrator's of another cluster's authority
  expired   an administrator's of this cluster, good until yesterday
  reader    a reader's
  worker    the one of worker-1; what is tried is not its own: worker-2 and its pods, unless told
  admin     an administrator's. Its writes are dry runs, so that the next line finds what this one found
  master    a master's, likewise

REST shows HTTP codes, gRPC its own; tls: the handshake was refused; open: a stream that goes on.
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The callers, by the columns of the table.
fn callers(wire: &Wire) -> Vec<(&'static str, Option<Credential>)> {
    let issue = |role, holder| Some(wire.authority.issue(role, holder, &[]).unwrap());
    let foreign = Authority::generate("another").unwrap().issue(Role::Admin, "admin", &[]).unwrap();
    vec![
        ("none", None),
        ("foreign", Some(foreign)),
        ("expired", Some(wire.expired(Role::Admin, "admin"))),
        ("reader", issue(Role::Reader, "reader")),
        ("worker", issue(Role::Worker, "worker-1")),
        ("admin", issue(Role::Admin, "admin")),
        ("master", issue(Role::Master, "master-1")),
    ]
}

fn is_trusted(caller: &str) -> bool {
    ["admin", "master"].contains(&caller)
}

// ---- REST ----

struct Route {
    method: &'static str,
    path: String,
    content_type: &'static str,
    body: String,
}

impl Route {
    fn get(path: impl Into<String>) -> Route {
        Route { method: "GET", path: path.into(), content_type: "", body: String::new() }
    }

    fn send(method: &'static str, path: impl Into<String>, body: &Value) -> Route {
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Route { method, path: path.into(), content_type, body }
    }
}

/// A well-formed object of a kind, from the files of faults.
fn good(served: &Served) -> Value {
    let name = faults::file_name(served.kind.kind, served.convert.map(|_| served.group));
    let text = std::fs::read_to_string(root().join("crates/api/test_data/refusals").join(name)).unwrap();
    let mut good = faults::File::parse(&text).good;
    if ["ReplicaSet", "Deployment"].contains(&served.kind.kind) {
        good["spec"]["replicas"] = json!(0);
    }
    let text = good.to_string().replace("\"namespace\":\"default\"", &format!("\"namespace\":\"{NAMESPACE}\""));
    serde_json::from_str(&text).unwrap()
}

fn base(served: &Served) -> String {
    match served.group {
        "" => format!("/api/{}", served.version),
        group => format!("/apis/{group}/{}", served.version),
    }
}

fn collection(served: &Served) -> String {
    match served.kind.namespaced {
        true => format!("{}/namespaces/{NAMESPACE}/{}", base(served), served.kind.plural),
        false => format!("{}/{}", base(served), served.kind.plural),
    }
}

/// The object of a kind that the routes are about.
fn target(served: &Served) -> &'static str {
    if served.kind.id == registry::NODE { OTHER } else { "x" }
}

/// Makes what the routes are about; a pod of the other worker runs.
fn prepare(cluster: &Cluster, wire: &Wire, admin: Option<&Credential>) {
    let create = |path: &str, object: &Value| {
        let answer = wire.rest(RestCall::new(admin, "POST", path).json(&object.to_string())).got();
        assert!([201, 409].contains(&answer.code), "{path}: {}", answer.json());
    };
    create("/api/v1/namespaces", &json!({"metadata": {"name": NAMESPACE}}));
    for served in served().filter(|served| !served.kind.create_only && served.kind.read_only.is_none()) {
        let mut object = good(&served);
        object["metadata"]["name"] = target(&served).into();
        match served.kind.id {
            registry::NODE => continue,
            registry::POD => {
                let container = json!({"name": "c", "image": IMAGE, "command": ["sleep", "100000"]});
                object["spec"] =
                    json!({"nodeName": OTHER, "containers": [container], "terminationGracePeriodSeconds": 0});
            }
            // The two groups show the same events.
            registry::EVENT if served.convert.is_some() => continue,
            _ => {}
        }
        create(&collection(&served), &object);
    }
    cluster.wait("the pod on the other worker", Duration::from_secs(60), || {
        let pod = wire.rest(RestCall::get(admin, &format!("/api/v1/namespaces/{NAMESPACE}/pods/x"))).got().json();
        pod["status"]["containerStatuses"][0]["state"].get("running").is_some()
    });
}

/// The body of a PUT that changes nothing.
fn present(wire: &Wire, admin: Option<&Credential>, path: &str) -> Value {
    let mut object = wire.rest(RestCall::get(admin, path)).got().json();
    // Whoever changes it meanwhile is not this test's subject; some kinds ask for it, though.
    if !["Lease", "ServiceAccount"].contains(&object["kind"].as_str().unwrap_or("")) {
        let metadata = object["metadata"].as_object_mut();
        metadata.unwrap_or_else(|| panic!("{path} is not there")).remove("resourceVersion");
    }
    object
}

const TOUCH: &str = r#"{"metadata": {"labels": {"tried": "yes"}}}"#;

fn routes_of(served: &Served, wire: &Wire, admin: Option<&Credential>) -> Vec<Route> {
    let (kind, all) = (served.kind, collection(served));
    let touch: Value = serde_json::from_str(TOUCH).unwrap();
    if kind.create_only {
        return vec![Route::get(&all), Route::send("POST", &all, &good(served))];
    }
    let mut fresh = good(served);
    fresh["metadata"]["name"] = "y".into();
    let mut routes = Vec::new();
    if kind.namespaced {
        let everywhere = format!("{}/{}", base(served), kind.plural);
        routes.extend([Route::get(&everywhere), Route::send("POST", &everywhere, &fresh)]);
        routes.push(Route::send("DELETE", &everywhere, &Value::Null));
    }
    routes.extend([Route::get(&all), Route::get(format!("{all}?watch=true")), Route::send("POST", &all, &fresh)]);
    let one = format!("{all}/{}", target(served));
    if kind.read_only.is_some() {
        routes.push(Route::get(&one));
        return routes;
    }
    routes.push(Route::get(&one));
    routes.push(Route::send("PUT", &one, &present(wire, admin, &one)));
    routes.push(Route::send("PATCH", &one, &touch));
    routes.push(Route::send("DELETE", &one, &Value::Null));
    let subresource = |name: &str| format!("{one}/{name}");
    for name in [("status", kind.has_status), ("scale", kind.has_scale)].iter().filter(|(_, has)| *has).map(|(n, _)| *n)
    {
        let path = subresource(name);
        routes.push(Route::get(&path));
        routes.push(Route::send("PUT", &path, &present(wire, admin, &path)));
        routes.push(Route::send("PATCH", &path, &touch));
    }
    for (name, _, _, verbs) in kind.subresources {
        for verb in *verbs {
            let path = subresource(name);
            routes.push(match (*verb, *name) {
                ("get", "exec") => Route::get(format!("{path}?command=true&stdout=true")),
                ("get", _) => Route::get(path),
                ("create", "binding") => {
                    Route::send("POST", path, &json!({"target": {"kind": "Node", "name": "worker-1"}}))
                }
                ("create", "exec") => Route::send("POST", format!("{path}?command=true&stdout=true"), &Value::Null),
                ("create", _) => Route::send("POST", path, &json!({})),
                ("update", _) => Route::send("PUT", path, &present(wire, admin, &one)),
                (other, _) => panic!("a verb without a try: {other} {name}"),
            });
        }
    }
    routes.push(Route::get(subresource("none")));
    // Last: dry or not, it is about all of them.
    routes.push(Route::send("DELETE", &all, &Value::Null));
    routes
}

/// Routes that belong to no kind, and ways around those that do.
fn other_routes() -> Vec<Route> {
    let secret = "/api/v1/namespaces/kube-system/secrets/balsa-cluster";
    let documents = [
        "/",
        "/version",
        "/healthz",
        "/livez",
        "/readyz",
        "/metrics",
        "/api",
        "/apis",
        "/api/v1",
        "/apis/apps",
        "/apis/apps/v1",
        "/apis/none",
        "/apis/none/v1",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/api/v1",
        "/openapi/v3/none",
        "/logs",
        "/debug/pprof",
        "/none",
    ];
    let mut routes: Vec<Route> = documents.iter().map(|path| Route::get(*path)).collect();
    routes.extend(["/version", "/healthz", "/apis"].map(|path| Route::send("POST", path, &json!({}))));
    routes.extend([
        Route::get(secret),
        Route::get(format!("{secret}/status")),
        Route::get("/api/v1/namespaces/kube-system/secrets?fieldSelector=metadata.name%3Dbalsa-cluster"),
        Route::get("/api/v1/watch/namespaces/kube-system/secrets?watch=true"),
        Route::get("//api//v1//namespaces/kube-system//secrets/balsa-cluster"),
        Route::get("/api/v1/namespaces/kube-system/%73ecrets/balsa-cluster"),
        Route::get("/api/v1/namespaces/kube-system/secrets/balsa%2Dcluster"),
        Route::get("/api/v1/namespaces/default/configmaps/..%2F..%2Fkube-system%2Fsecrets%2Fbalsa-cluster"),
        Route::get("/api/v1/nodes/worker-1"),
        Route::send("PATCH", "/api/v1/nodes/worker-1", &serde_json::from_str(TOUCH).unwrap()),
        Route::send("PATCH", "/api/v1/nodes/worker-1/status", &serde_json::from_str(TOUCH).unwrap()),
        Route::get("/balsa.objects.v1.Objects/Get"),
        Route::send("POST", "/balsa.raft.v1.Raft/Propose", &json!({})),
    ]);
    routes
}

fn rest_cell(wire: &Wire, caller: &str, credential: Option<&Credential>, route: &Route) -> String {
    let writes = route.method != "GET";
    let dry = if is_trusted(caller) && writes {
        if route.path.contains('?') { "&dryRun=All" } else { "?dryRun=All" }
    } else {
        ""
    };
    let path = format!("{}{dry}", route.path);
    match wire.rest(RestCall::new(credential, route.method, &path).sending(route.content_type, &route.body)) {
        Answer::Got(answer) => answer.code.to_string(),
        Answer::Tls => "tls".into(),
        Answer::Broken(why) => panic!("{caller} {} {path}: {why}", route.method),
    }
}

// ---- gRPC ----

/// Every method of every service: ours from the descriptors, and the two of others.
fn methods() -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(protos::DESCRIPTORS).unwrap();
    let mut all: Vec<String> = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            all.extend(service.method.iter().map(|method| format!("{name}/{}", method.name())));
        }
    }
    all.extend(["Check", "List", "Watch"].map(|method| format!("grpc.health.v1.Health/{method}")));
    all.push("grpc.reflection.v1.ServerReflection/ServerReflectionInfo".into());
    all.push("balsa.none.v1.None/Nothing".into());
    all
}

/// The messages to try a method with, each with what it is about. Most are tried with an empty one: who
/// is let in is told that something is missing.
fn messages(method: &str, trusted: bool) -> Vec<(&'static str, Vec<u8>)> {
    let key = |resource: &str, namespace: &str, name: &str| {
        Some(pb::Key {
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..pb::Key::default()
        })
    };
    let about = [
        ("the cluster's secret", key("secrets", "kube-system", "balsa-cluster")),
        ("a pod of worker-2", key("pods", NAMESPACE, "x")),
    ];
    let list = |key: &Option<pb::Key>| key.clone().map(|key| pb::Key { name: String::new(), ..key });
    let each = |encode: &dyn Fn(Option<pb::Key>) -> Vec<u8>| {
        about.iter().map(|(what, key)| (*what, encode(key.clone()))).collect()
    };
    let write = |key: Option<pb::Key>| {
        let (name, namespace) = key.as_ref().map(|key| (key.name.clone(), key.namespace.clone())).unwrap_or_default();
        let json = json!({"metadata": {"name": name, "namespace": namespace}}).to_string().into();
        pb::WriteRequest { key, json, dry_run: trusted, ..pb::WriteRequest::default() }.encode_to_vec()
    };
    let (namespace, pod) = (NAMESPACE.to_string(), "x".to_string());
    match method {
        "balsa.objects.v1.Objects/Get" => each(&|key| pb::GetRequest { key, ..Default::default() }.encode_to_vec()),
        "balsa.objects.v1.Objects/List" => {
            each(&|key| pb::ListRequest { key: list(&key), ..Default::default() }.encode_to_vec())
        }
        "balsa.objects.v1.Objects/Watch" => {
            each(&|key| pb::WatchRequest { key: list(&key), ..Default::default() }.encode_to_vec())
        }
        "balsa.objects.v1.Objects/Create" | "balsa.objects.v1.Objects/Update" => each(&write),
        "balsa.objects.v1.Objects/Patch" => each(&|key| {
            let request = pb::PatchRequest { key, patch: TOUCH.into(), dry_run: trusted, ..Default::default() };
            request.encode_to_vec()
        }),
        // There is no dry deletion; the precondition holds for nothing.
        "balsa.objects.v1.Objects/Delete" => each(&|key| {
            pb::DeleteRequest { key, precondition_uid: "nobody's".into(), ..Default::default() }.encode_to_vec()
        }),
        "balsa.objects.v1.Objects/Logs" => {
            vec![(about[1].0, pb::LogsRequest { namespace, pod, ..Default::default() }.encode_to_vec())]
        }
        "balsa.objects.v1.Objects/Exec" => {
            let start = pb::ExecStart { namespace, pod, command: vec!["true".into()], ..Default::default() };
            vec![(about[1].0, pb::ExecRequest { start: Some(start), ..Default::default() }.encode_to_vec())]
        }
        // To nobody: leadership stays where it is.
        "balsa.cluster.v1.Cluster/TransferLeader" => {
            vec![("", protos::cluster::TransferLeaderRequest { to: "nobody".into() }.encode_to_vec())]
        }
        _ => vec![("", Vec::new())],
    }
}

const GRPC: &str = "application/grpc";

fn grpc_cell(wire: &Wire, call: GrpcCall) -> String {
    match wire.grpc(call) {
        Answer::Got(answer) => match answer.code {
            None => "open".into(),
            Some(Code::Ok) => "OK".into(),
            Some(code) => {
                // As in the protocol: PERMISSION_DENIED.
                let name = format!("{code:?}");
                let parts = name.char_indices().map(|(i, c)| {
                    if c.is_uppercase() && i > 0 { format!("_{c}") } else { c.to_uppercase().to_string() }
                });
                parts.collect()
            }
        },
        Answer::Tls => "tls".into(),
        // Without gRPC's content type an answer need not be one of gRPC.
        Answer::Broken(why) if call.content_type != GRPC && why.starts_with("HTTP ") => why[5..8].to_string(),
        Answer::Broken(why) => panic!("{}: {why}", call.method),
    }
}

/// gRPC's codes, short enough for a column.
fn short(cell: &str) -> &str {
    match cell {
        "UNAUTHENTICATED" => "UNAUTH",
        "PERMISSION_DENIED" => "DENIED",
        "INVALID_ARGUMENT" => "INVALID",
        "FAILED_PRECONDITION" => "FAILED",
        "UNIMPLEMENTED" => "UNIMPL",
        "ALREADY_EXISTS" => "EXISTS",
        other => other,
    }
}

// ---- the table ----

struct Table {
    text: String,
    callers: Vec<(&'static str, Option<Credential>)>,
}

impl Table {
    fn title(&mut self, title: &str) {
        self.text.push_str(&format!("\n{title:<100}"));
        for (name, _) in &self.callers {
            self.text.push_str(&format!(" {name:<8}"));
        }
        self.text.truncate(self.text.trim_end().len());
        self.text.push('\n');
    }

    /// One line: the answers to all callers, the untrusted first.
    fn row(&mut self, label: &str, cell: impl Fn(&str, Option<&Credential>) -> String) {
        let mut line = format!("{label:<100}");
        for (name, credential) in &self.callers {
            line.push_str(&format!(" {:<8}", short(&cell(name, credential.as_ref()))));
        }
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }
}

/// What there is in the kinds that were tried: names, and whether somebody left a mark.
fn everything(wire: &Wire, admin: Option<&Credential>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for served in served().filter(|served| !served.kind.create_only) {
        let list = wire.rest(RestCall::get(admin, &collection(&served))).got().json();
        for item in list["items"].as_array().unwrap() {
            let (kind, metadata) = (served.kind.kind, &item["metadata"]);
            assert!(metadata["labels"].get("tried").is_none(), "{kind} {} was changed", metadata["name"]);
            assert!(metadata.get("deletionTimestamp").is_none(), "{kind} {} was deleted", metadata["name"]);
            // Events come and go by themselves.
            if kind != "Event" || metadata["name"] == "y" {
                all.insert(format!("{kind} {}", metadata["name"]));
            }
        }
    }
    all
}

#[test]
fn every_route_and_rpc_answers_each_certificate_as_written() {
    if !wanted("every_route_and_rpc_answers_each_certificate_as_written") {
        return;
    }
    let cluster = Cluster::up_with(&["--runtime", "process"]);
    let leader = cluster.leader();
    let wire = Wire::new(&cluster, &leader);
    let mut table = Table { text: INTRO.into(), callers: callers(&wire) };
    let admin = table.callers.iter().find(|(name, _)| *name == "admin").unwrap().1.clone();
    let admin = admin.as_ref();
    prepare(&cluster, &wire, admin);
    let before = everything(&wire, admin);

    table.title("REST");
    let mut routes = other_routes();
    for served in served() {
        routes.extend(routes_of(&served, &wire, admin));
    }
    for route in &routes {
        let label = format!("{:<6} {}", route.method, route.path);
        table.row(&label, |caller, credential| rest_cell(&wire, caller, credential, route));
    }
    assert_eq!(everything(&wire, admin), before, "nothing came, went or changed");

    for (title, addr) in [("gRPC on the API port", &wire.api), ("gRPC on the peer port", &wire.peer)] {
        table.title(title);
        for method in methods() {
            let n_messages = messages(&method, true).len();
            for i in 0..n_messages {
                let what = messages(&method, true)[i].0;
                let label = if what.is_empty() { method.clone() } else { format!("{method} ({what})") };
                table.row(&label, |caller, credential| {
                    let message = &messages(&method, is_trusted(caller))[i].1;
                    grpc_cell(&wire, GrpcCall { addr, credential, method: &method, content_type: GRPC, message })
                });
            }
        }
        for method in
            ["balsa.raft.v1.Raft/ReadIndex", "balsa.raft.v1.Raft/Propose", "balsa.cluster.v1.Cluster/JoinTokens"]
        {
            table.row(&format!("{method} (sent as text/plain)"), |_, credential| {
                grpc_cell(&wire, GrpcCall { addr, credential, method, content_type: "text/plain", message: &[] })
            });
        }
    }
    assert_eq!(everything(&wire, admin), before, "nothing came, went or changed");
    expect_file![root().join("docs/access.txt")].assert_eq(&table.text);
}

// ---- what a worker may say and hear ----

type Down = tonic::Streaming<dp::ToWorker>;
type Up = tokio::sync::mpsc::Sender<dp::FromWorker>;

/// Opens a session with a worker's certificate and a hello for `node`.
async fn session(wire: &Wire, holder: &str, node: &str) -> Result<(Up, Down), tonic::Status> {
    session_after(wire, holder, node, 0).await
}

/// The same of a worker that has served `epoch`.
async fn session_after(wire: &Wire, holder: &str, node: &str, epoch: u64) -> Result<(Up, Down), tonic::Status> {
    let credential = wire.authority.issue(Role::Worker, holder, &[]).unwrap();
    let tls = pki::tls::tonic_client(Some(&credential), &wire.authority.credential.certificate, "localhost");
    let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{}", wire.api)).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let (up, receiver) = tokio::sync::mpsc::channel(16);
    let hello = dp::Hello {
        boot_id: "a-test".into(),
        node: json!({"metadata": {"name": node}, "status": {}}).to_string().into(),
        epoch,
    };
    up.send(dp::FromWorker { message: Some(from_worker::Message::Hello(hello)) }).await.unwrap();
    let mut client = dp::dispatch_client::DispatchClient::new(channel);
    let down = client.session(tokio_stream::wrappers::ReceiverStream::new(receiver)).await?.into_inner();
    Ok((up, down))
}

#[test]
fn a_worker_speaks_for_its_own_node_and_pods_only() {
    if !wanted("a_worker_speaks_for_its_own_node_and_pods_only") {
        return;
    }
    let cluster = Cluster::up_with(&["--runtime", "process"]);
    let wire = Wire::new(&cluster, &cluster.leader());
    let admin = wire.authority.issue(Role::Admin, "admin", &[]).unwrap();
    let admin = Some(&admin);
    prepare(&cluster, &wire, admin);
    let pod = || wire.rest(RestCall::get(admin, &format!("/api/v1/namespaces/{NAMESPACE}/pods/x"))).got().json();
    let before = pod();

    // The session lives until the end of the test: what is said in it is taken in one by one.
    let _session = wire.block_on(async {
        let refused = session(&wire, "worker-1", OTHER).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        // One that has served a later group of this cluster has no use for a master of an earlier one.
        let refused = session_after(&wire, "worker-9", "worker-9", 2).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("epoch 1, which epoch 2 has replaced"), "{refused}");
        let (up, mut down) = session(&wire, "worker-9", "worker-9").await.unwrap();
        // Its assignments are its own: it has none, so it is told of no pod, ConfigMap or Secret.
        let assigned = loop {
            match down.message().await.unwrap().unwrap().message.unwrap() {
                to_worker::Message::Assignments(assignments) => break assignments,
                to_worker::Message::Ack(_) | to_worker::Message::OpenStream(_) | to_worker::Message::Peers(_) => {}
            }
        };
        assert!(assigned.complete && assigned.changed.is_empty(), "{assigned:?}");
        let uid = before["metadata"]["uid"].as_str().unwrap().to_string();
        let report = dp::PodStatus {
            namespace: NAMESPACE.into(),
            name: "x".into(),
            uid: uid.clone(),
            sequence: 1_000_000,
            status: json!({"phase": "Failed"}).to_string().into(),
            stopped: true,
        };
        up.send(dp::FromWorker { message: Some(from_worker::Message::PodStatus(report)) }).await.unwrap();
        loop {
            if let to_worker::Message::Ack(ack) = down.message().await.unwrap().unwrap().message.unwrap() {
                assert_eq!(ack.uid, uid);
                break;
            }
        }
        for (kind, namespace, name) in
            [("Pod", NAMESPACE, "x"), ("Node", "", OTHER), ("Secret", NAMESPACE, "x"), ("Node", "", "worker-9")]
        {
            let place = if namespace.is_empty() { "default" } else { namespace };
            let event = json!({
                "metadata": {"generateName": "tried-", "namespace": place}, "reason": format!("About-{name}"),
                "message": "said by worker-9", "type": "Warning",
                "involvedObject": {"kind": kind, "namespace": namespace, "name": name},
            });
            let event = dp::Event { event: event.to_string().into() };
            up.send(dp::FromWorker { message: Some(from_worker::Message::Event(event)) }).await.unwrap();
        }
        (up, down)
    });
    // The last it says is about itself, and is heard.
    let said = || {
        let events = wire.rest(RestCall::get(admin, "/api/v1/events")).got().json();
        let all = events["items"].as_array().unwrap().clone();
        let own = all.iter().filter(|event| event["message"] == "said by worker-9");
        own.map(|event| event["reason"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    cluster.wait("the event about itself", Duration::from_secs(5), || !said().is_empty());
    assert_eq!(said(), ["About-worker-9"]);
    let after = pod();
    assert_eq!(
        (&after["status"]["phase"], &after["metadata"]["uid"]),
        (&before["status"]["phase"], &before["metadata"]["uid"])
    );
}

#[test]
fn a_certificate_is_renewed_as_what_it_was_and_for_whom() {
    if !wanted("a_certificate_is_renewed_as_what_it_was_and_for_whom") {
        return;
    }
    let cluster = Cluster::up_with(&["--runtime", "process"]);
    let wire = Wire::new(&cluster, "master-1");
    let tokens = cluster.json(&["token"]);
    let issue_as = |credential: Option<&Credential>, token: &str, name: &str, role: &str| {
        let tls = pki::tls::tonic_client(credential, &wire.authority.credential.certificate, "localhost");
        let (_, csr) = pki::signing_request("whatever", &["10.0.0.1".into(), "kubernetes".into()]).unwrap();
        let request = protos::cluster::IssueRequest { token: token.into(), name: name.into(), csr, role: role.into() };
        wire.block_on(async {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{}", wire.api)).unwrap();
            let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
            let mut client = protos::cluster::certificate_authority_client::CertificateAuthorityClient::new(channel);
            client.issue(request).await.map(|response| response.into_inner().certificate)
        })
    };
    let issue = |credential: Option<&Credential>, token: &str, name: &str| issue_as(credential, token, name, "");
    let told = |certificate: &str| {
        let der = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            certificate.lines().filter(|line| !line.starts_with("-----")).collect::<String>(),
        );
        let identity = pki::identity_of(&der.unwrap()).unwrap();
        let names = pki::alt_names_of(certificate).unwrap();
        format!("{} {:?} {names:?}", identity.user, identity.groups)
    };
    let worker = wire.authority.issue(Role::Worker, "worker-1", &[]).unwrap();
    let reader = wire.authority.issue(Role::Reader, "reader", &[]).unwrap();
    let worker_token = tokens["worker"].as_str().unwrap_or_else(|| panic!("{tokens}"));
    assert_eq!(told(&issue(Some(&worker), "", "worker-1").unwrap()), r#"system:node:worker-1 ["system:nodes"] []"#);
    assert_eq!(told(&issue(Some(&reader), "", "reader").unwrap()), r#"reader ["balsa:readers"] []"#);
    assert_eq!(told(&issue(None, worker_token, "worker-9").unwrap()), r#"system:node:worker-9 ["system:nodes"] []"#);
    let refused =
        |credential: Option<&Credential>, token: &str, name: &str| issue(credential, token, name).unwrap_err().code();
    assert_eq!(refused(Some(&worker), "", OTHER), Code::PermissionDenied);
    assert_eq!(refused(Some(&reader), "", "admin"), Code::PermissionDenied);
    // Those of users are made for administrators and masters.
    let admin = wire.authority.issue(Role::Admin, "admin", &[]).unwrap();
    assert_eq!(told(&issue_as(Some(&admin), "", "alice", "reader").unwrap()), r#"alice ["balsa:readers"] []"#);
    let user = |credential: &Credential, token: &str, role: &str| {
        issue_as(Some(credential), token, "alice", role).map(drop).map_err(|status| status.code())
    };
    assert_eq!(user(&wire.authority.issue(Role::Master, "m", &[]).unwrap(), "", "admin"), Ok(()));
    for own in [&worker, &reader] {
        assert_eq!(user(own, "", "reader"), Err(Code::PermissionDenied));
    }
    assert_eq!(user(&admin, "", "master"), Err(Code::InvalidArgument));
    assert_eq!(user(&admin, worker_token, "reader"), Err(Code::InvalidArgument));
    assert_eq!(refused(None, "", "worker-9"), Code::Unauthenticated);
    let forged = worker_token.replacen("worker", "master", 1);
    assert_eq!(refused(None, &forged, "master-9"), Code::PermissionDenied);
    let secret = worker_token.split('.').nth(2).unwrap();
    let guessed = worker_token.replacen(secret, &"0".repeat(secret.len()), 1);
    assert_eq!(refused(None, &guessed, "worker-9"), Code::PermissionDenied);
}
