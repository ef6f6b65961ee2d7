//! The gRPC face from outside: health, reflection, and the examples, each of which goes through the death
//! of a leader.

use crate::client::endpoint;
use crate::cluster::{Cluster, binary, wanted};
use protos::cluster as pb;
use protos::cluster::cluster_client::ClusterClient;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::skip;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").canonicalize().unwrap()
}

/// Whether a command runs and succeeds: what an example needs is installed.
fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs an example against a cluster until it has gone through the death of a leader.
fn tour(test: &str, example: &[&str]) {
    // On a machine that is busy otherwise, leadership may have moved on when the example names the leader.
    let killed_a_leader = (0..3).any(|_| tour_once(test, example));
    assert!(killed_a_leader, "{test}: leadership did not hold still");
}

/// Runs an example to its end; kills the master it names when it asks for that. True when that one led.
fn tour_once(test: &str, example: &[&str]) -> bool {
    let cluster = Cluster::up();
    let mut led = false;
    // An example ends by itself within its own deadlines; this ends one that hangs.
    let mut command = Command::new("timeout");
    command.arg("180").args(example).arg(cluster.dir.join("kubeconfig"));
    let mut child = command.stdout(Stdio::piped()).spawn().expect("timeout(1) runs");
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("it was piped")).lines() {
        let line = line.expect("an example writes text");
        if let Some((_, leader)) = line.split_once("balsa dev kill ") {
            led = leader == cluster.leader();
            cluster.dev(&["kill", leader]);
        }
        lines.push(line);
    }
    let told = lines.join("\n");
    let status = child.wait().expect("the child was spawned here");
    assert!(status.success(), "{test}: {status}\n{told}");
    for word in
        ["created configmap", "refused", "after reading again", "applied once", "exit code 3", "each seen once", "done"]
    {
        assert!(told.contains(word), "{test} does not tell of {word:?}:\n{told}");
    }
    eprintln!("{told}");
    led
}

#[test]
fn the_python_example_survives_its_leader() {
    const TEST: &str = "the_python_example_survives_its_leader";
    if !wanted(TEST) {
        return;
    }
    let python = "/usr/bin/python3";
    let installed = works(Command::new(python).args(["-c", "import grpc, google.protobuf"]))
        && works(Command::new("protoc").arg("--version"))
        && works(Command::new("sh").args(["-c", "command -v grpc_python_plugin"]));
    if !installed {
        return skip(TEST, "install python3-grpcio, protobuf-compiler and protobuf-compiler-grpc");
    }
    tour(TEST, &[python, "-u", &examples().join("python/main.py").to_string_lossy()]);
}

#[test]
fn the_rust_example_survives_its_leader() {
    const TEST: &str = "the_rust_example_survives_its_leader";
    if !wanted(TEST) {
        return;
    }
    tour(TEST, &[&binary().with_file_name("example-rust").to_string_lossy()]);
}

#[test]
fn the_go_example_survives_its_leader() {
    const TEST: &str = "the_go_example_survives_its_leader";
    if !wanted(TEST) {
        return;
    }
    if !works(Command::new("go").arg("version")) || !works(Command::new("protoc").arg("--version")) {
        return skip(TEST, "install Go and protobuf-compiler");
    }
    // Stubs and binary are made in a copy: the source tree stays as it is.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path();
    for file in ["main.go", "go.mod", "go.sum", "stubs.sh"] {
        std::fs::copy(examples().join("go").join(file), copy.join(file)).unwrap();
    }
    let build = |program: &str, arguments: &[&str]| {
        let proto = examples().join("../proto");
        let output = Command::new(program).args(arguments).current_dir(copy).env("PROTO", proto).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    build("./stubs.sh", &[]);
    build("go", &["build", "-o", "example", "."]);
    tour(TEST, &[&copy.join("example").to_string_lossy()]);
}

#[test]
fn health_and_reflection_tell_what_is() {
    if !wanted("health_and_reflection_tell_what_is") {
        return;
    }
    let cluster = Cluster::up();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let channel = |with_certificate| endpoint(&cluster, "master-1", with_certificate).connect_lazy();
    let (own, nobody) = (channel(true), channel(false));
    let serving = |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        let answer = runtime.block_on(HealthClient::new(nobody.clone()).check(request)).unwrap().into_inner();
        answer.status() == ServingStatus::Serving
    };
    let health = || {
        let request = pb::HealthRequest {};
        runtime.block_on(ClusterClient::new(own.clone()).health(request)).unwrap().into_inner()
    };
    assert!(serving("") && serving("balsa.objects.v1.Objects"));
    let all = health();
    assert!(all.ready && all.reason.is_empty() && all.may_lose == 1, "{all:?}");
    assert!(all.members.len() == 3 && all.members.iter().all(|member| member.answers), "{all:?}");

    let ask = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let services: Vec<ServiceResponse> = runtime.block_on(async {
        let asked = tokio_stream::iter([ask]);
        let mut client = ServerReflectionClient::new(own.clone());
        let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response {
            Some(MessageResponse::ListServicesResponse(list)) => list.service,
            other => panic!("{other:?}"),
        }
    });
    for service in ["balsa.objects.v1.Objects", "balsa.observe.v1.Observe", "balsa.cluster.v1.Cluster"] {
        assert!(services.iter().any(|known| known.name == service), "{service} is not among {services:?}");
    }

    cluster.dev(&["kill", "master-2"]);
    let one_down = health();
    assert!(one_down.may_lose == 0, "{one_down:?}");
    cluster.dev(&["kill", "master-3"]);
    cluster.wait("master-1 to say that it does not serve", Duration::from_secs(5), || !serving(""));
    let two_down = health();
    assert!(!two_down.ready && two_down.reason.contains("no leader") && two_down.may_lose == 0, "{two_down:?}");
    cluster.dev(&["start", "master-2"]);
    cluster.wait("master-1 to serve again", Duration::from_secs(10), || serving("") && health().ready);
}
