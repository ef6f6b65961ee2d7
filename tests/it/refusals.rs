//! Refusals from outside: of each kind and each class of faults the first one, over REST and gRPC. The
//! answers are those that the files of faults tell, and after each everything is as it was.

use crate::client::endpoint;
use crate::cluster::{Cluster, wanted};
use crate::wire::{RestCall, Wire};
use objects::Served;
use objects::registry::{self, served};
use pki::Credential;
use protos::objects as pb;
use protos::objects::objects_client::ObjectsClient;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use testkit::faults::{Fault, File, file_name};
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

const NAMESPACE: &str = "refusals";
const CLASSES: [&str; 7] = ["missing", "type", "unknown", "duplicate", "immutable", "conflict", "oversized"];

/// A refusal, whatever the face: what it is, and the fields it names.
#[derive(Debug, PartialEq)]
struct Refusal {
    code: u16,
    reason: String,
    fields: Vec<String>,
}

/// What the file says of a fault.
fn expected(fault: &Fault) -> Refusal {
    let (first, rest) = fault.answer.split_first().unwrap_or_else(|| panic!("{fault:?} has no answer"));
    let (code, reason) = first.split_once(' ').unwrap();
    let (code, reason) = (code.parse().unwrap(), reason.to_string());
    // A conflict names no field: its one line is the message.
    let fields = rest.iter().filter(|_| fault.class != "conflict").filter_map(|line| line.split_once(": "));
    Refusal { code, reason, fields: fields.map(|(path, _)| path.to_string()).collect() }
}

struct Stage<'a> {
    wire: &'a Wire,
    admin: &'a Credential,
    client: ObjectsClient<Channel>,
    served: Served,
    file: File,
}

impl Stage<'_> {
    fn collection(&self) -> String {
        let Served { kind, group, version, .. } = self.served;
        let base = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match kind.namespaced {
            true => format!("{base}/namespaces/{NAMESPACE}/{}", kind.plural),
            false => format!("{base}/{}", kind.plural),
        }
    }

    /// A good object that nothing acts on, so that it stays as it is.
    fn good(&self, name: &str) -> Value {
        let mut good = self.file.good.clone();
        good["metadata"]["name"] = name.into();
        match self.served.kind.id {
            registry::POD => good["spec"]["nodeSelector"] = json!({"no": "node"}),
            registry::REPLICA_SET | registry::DEPLOYMENT => good["spec"]["replicas"] = json!(0),
            registry::EVENT => {
                let about = if good.get("regarding").is_some() { "regarding" } else { "involvedObject" };
                good[about]["namespace"] = NAMESPACE.into();
            }
            _ => {}
        }
        good
    }

    fn get(&self, path: &str) -> Value {
        self.wire.rest(RestCall::get(Some(self.admin), path)).got().json()
    }

    /// Names and revisions of the kind's objects.
    fn everything(&self) -> Vec<(String, String)> {
        let list = self.get(&self.collection());
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let items = list["items"].as_array().unwrap_or_else(|| panic!("{list}")).iter();
        items.map(|item| (text(&item["metadata"]["name"]), text(&item["metadata"]["resourceVersion"]))).collect()
    }

    fn rest(&self, verb: &str, validation: &str, body: &str) -> Refusal {
        let (method, path) = match verb {
            "create" => ("POST", self.collection()),
            _ => ("PUT", format!("{}/x", self.collection())),
        };
        let path = format!("{path}?fieldValidation={validation}");
        let answer = self.wire.rest(RestCall::new(Some(self.admin), method, &path).json(body)).got();
        let status = answer.json();
        assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Failure")), "{status}");
        assert_eq!(status["code"], answer.code);
        let causes = status["details"]["causes"].as_array().into_iter().flatten();
        Refusal {
            code: answer.code,
            reason: status["reason"].as_str().unwrap().to_string(),
            fields: causes.map(|cause| cause["field"].as_str().unwrap().to_string()).collect(),
        }
    }

    fn grpc(&mut self, verb: &str, validation: &str, body: &str) -> Refusal {
        let Served { kind, group, version, .. } = self.served;
        let key = pb::Key {
            group: group.into(),
            version: version.into(),
            resource: kind.plural.into(),
            namespace: if kind.namespaced { NAMESPACE.into() } else { String::new() },
            name: if verb == "create" { String::new() } else { "x".into() },
        };
        let request = pb::WriteRequest {
            key: Some(key),
            json: body.to_string().into(),
            field_validation: validation.into(),
            ..pb::WriteRequest::default()
        };
        let client = &mut self.client;
        let answer = self.wire.block_on(async {
            match verb {
                "create" => client.create(request).await,
                _ => client.update(request).await,
            }
        });
        let status = answer.expect_err("it is to be refused");
        let info = status.get_details_error_info().unwrap_or_else(|| panic!("{status} has no ErrorInfo"));
        let code: u16 = info.metadata["code"].parse().unwrap();
        let due = match code {
            409 => Code::Aborted,
            403 => Code::PermissionDenied,
            _ => Code::InvalidArgument,
        };
        assert_eq!(status.code(), due, "{status}");
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        Refusal { code, reason: info.reason, fields: violations.into_iter().map(|v| v.field).collect() }
    }
}

#[test]
fn every_kind_refuses_each_class_of_faults_on_both_faces() {
    if !wanted("every_kind_refuses_each_class_of_faults_on_both_faces") {
        return;
    }
    let cluster = Cluster::up_with(&["--runtime", "process"]);
    let wire = Wire::new(&cluster, "master-1");
    let admin = wire.authority.issue(authz::Role::Admin, "admin", &[]).unwrap();
    let client = wire.block_on(async { ObjectsClient::new(endpoint(&cluster, "master-1", true).connect_lazy()) });
    let namespace = json!({"metadata": {"name": NAMESPACE}}).to_string();
    let made = wire.rest(RestCall::new(Some(&admin), "POST", "/api/v1/namespaces").json(&namespace)).got();
    assert_eq!(made.code, 201, "{}", made.json());
    for served in served().filter(|served| !served.kind.create_only && served.kind.read_only.is_none()) {
        let name = file_name(served.kind.kind, served.convert.map(|_| served.group));
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/api/test_data/refusals");
        let file = File::parse(&std::fs::read_to_string(files.join(&name)).unwrap());
        let mut stage = Stage { wire: &wire, admin: &admin, client: client.clone(), served, file };
        let (path, good) = (stage.collection(), stage.good("x").to_string());
        let made = wire.rest(RestCall::new(Some(&admin), "POST", &path).json(&good)).got();
        // Of the two groups of events, the second finds the object of the first.
        assert!(made.code == 201 || served.convert.is_some(), "{name}: {}", made.json());
        // Controllers have their say about a new object; then it rests.
        cluster.wait("the object to rest", Duration::from_secs(30), || {
            let before = stage.everything();
            std::thread::sleep(Duration::from_secs(1));
            stage.everything() == before
        });
        for class in CLASSES {
            let fits = |fault: &&Fault| fault.class == class && ["create", "update"].contains(&fault.verb.as_str());
            let fault = stage.file.faults().find(fits).cloned();
            let fault = fault.unwrap_or_else(|| panic!("{name} has no {class} of create or update"));
            let start = if fault.verb == "create" { stage.good("fresh") } else { stage.get(&format!("{path}/x")) };
            let (body, expected, before) = (fault.body(start), expected(&fault), stage.everything());
            let told = stage.rest(&fault.verb, &fault.validation, &body);
            assert_eq!(told, expected, "{name}, REST: {fault:?}");
            assert_eq!(stage.everything(), before, "{name}, REST: {fault:?}");
            let told = stage.grpc(&fault.verb, &fault.validation, &body);
            assert_eq!(told, expected, "{name}, gRPC: {fault:?}");
            assert_eq!(stage.everything(), before, "{name}, gRPC: {fault:?}");
        }
        let gone = wire.rest(RestCall::new(Some(&admin), "DELETE", &format!("{path}/x"))).got();
        assert!([200, 202].contains(&gone.code), "{name}: {}", gone.json());
    }
}

#[test]
fn bodies_have_limits_and_strangeness_is_told_as_asked() {
    if !wanted("bodies_have_limits_and_strangeness_is_told_as_asked") {
        return;
    }
    let cluster = Cluster::up_with(&["--masters", "1", "--workers", "1", "--runtime", "process"]);
    let wire = Wire::new(&cluster, "master-1");
    let admin = wire.authority.issue(authz::Role::Admin, "admin", &[]).unwrap();
    let path = "/api/v1/namespaces/default/configmaps";
    let post = |query: &str, content_type: &str, body: &str| {
        wire.rest(RestCall::new(Some(&admin), "POST", &format!("{path}{query}")).sending(content_type, body)).got()
    };
    let json_type = "application/json";
    let huge = json!({"metadata": {"name": "huge"}, "data": {"a": "x".repeat(4 << 20)}}).to_string();
    let answer = post("", json_type, &huge);
    assert_eq!((answer.code, &answer.json()["reason"]), (413, &json!("RequestEntityTooLarge")));
    let mut client = wire.block_on(async { ObjectsClient::new(endpoint(&cluster, "master-1", true).connect_lazy()) });
    let key = pb::Key { resource: "configmaps".into(), namespace: "default".into(), ..pb::Key::default() };
    let request = pb::WriteRequest { key: Some(key.clone()), json: huge.into(), ..pb::WriteRequest::default() };
    let refused = wire.block_on(client.create(request)).unwrap_err();
    // Not OUT_OF_RANGE, which would tell a watcher to list again.
    assert!([Code::InvalidArgument, Code::ResourceExhausted].contains(&refused.code()), "{refused:?}");
    let key = pb::Key { name: "one".into(), ..key };
    let other = json!({"metadata": {"name": "huge"}}).to_string().into();
    let request = pb::WriteRequest { key: Some(key), json: other, ..pb::WriteRequest::default() };
    let refused = wire.block_on(client.create(request)).unwrap_err();
    let field = refused.get_details_bad_request().unwrap().field_violations[0].field.clone();
    assert_eq!((refused.code(), field.as_str()), (Code::InvalidArgument, "key.name"));
    let none = wire.rest(RestCall::get(Some(&admin), &format!("{path}/huge"))).got();
    assert_eq!(none.code, 404);

    let odd = r#"{"metadata": {"name": "odd"}, "dat": {}, "data": {"a": "1", "a": "2"}}"#;
    let warned = post("?fieldValidation=Warn", json_type, odd);
    let warnings: Vec<&str> = warned.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    let due = [r#"299 - "unknown field \"dat\"""#, r#"299 - "duplicate field \"data.a\"""#];
    assert_eq!((warned.code, warnings.as_slice()), (201, due.as_slice()));
    assert!(warned.json().get("dat").is_none(), "what nobody knows is not kept");
    let ignored = post("?fieldValidation=Ignore&dryRun=All", json_type, &odd.replace("odd", "odder"));
    assert_eq!((ignored.code, ignored.headers.get("warning")), (201, None));
    let dry = post("?dryRun=All", json_type, &odd.replace("odd", "odder"));
    assert_eq!((dry.code, dry.headers.get_all("warning").iter().count()), (201, 2));
    assert_eq!(post("?fieldValidation=Maybe", json_type, odd).code, 400);
    assert_eq!(post("?dryRun=Some", json_type, odd).code, 400);
    assert_eq!(post("", "text/csv", odd).code, 415);
    assert_eq!(post("", json_type, "{\"metadata\":").code, 400);
    let apply = wire
        .rest(
            RestCall::new(Some(&admin), "PATCH", &format!("{path}/odd"))
                .sending("application/apply-patch+yaml", "a: b"),
        )
        .got();
    assert!(apply.code == 415 && apply.json()["message"].as_str().unwrap().contains("application/merge-patch+json"));
    let listed = wire.rest(RestCall::get(Some(&admin), &format!("{path}?resourceVersion=new"))).got();
    assert_eq!((listed.code, &listed.json()["details"]["causes"][0]["field"]), (400, &json!("resourceVersion")));
}
