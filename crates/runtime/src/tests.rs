//! The one contract every runtime keeps. `process` always runs; `containerd` where it is installed and
//! the test is root (RUN_SLOW_TESTS).

use crate::containerd::{ContainerdOptions, ContainerdRuntime, Daemon, DaemonOptions, missing_programs};
use crate::image::{Entry, Recipe};
use crate::{ContainerSpec, ContainerState, Error, ProcessRuntime, Runtime, SandboxInfo, SandboxSpec, Terminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const IMAGE: &str = "registry.local/contract:1";
/// A machine at load 10 is slow; nothing here waits this long when it works.
const PATIENCE: Duration = Duration::from_secs(30);

fn sandbox(dir: &Path, attempt: u32) -> SandboxSpec {
    SandboxSpec {
        uid: "11111111-2222".into(),
        name: "pod".into(),
        namespace: "default".into(),
        attempt,
        hostname: "pod".into(),
        // No network is set up by this test.
        host_network: true,
        log_dir: dir.join("logs"),
        ..SandboxSpec::default()
    }
}

fn container(name: &str, attempt: u32, script: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        attempt,
        image: IMAGE.into(),
        command: ["sh", "-c", script].map(String::from).into(),
        env: vec![("GREETING".into(), "hello".into())],
        log_file: format!("{name}/{attempt}.log"),
        ..ContainerSpec::default()
    }
}

async fn see<T>(what: &str, runtime: &dyn Runtime, pick: impl Fn(&[SandboxInfo]) -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        let list = runtime.list().await.unwrap();
        if let Some(found) = pick(&list) {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}: {list:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn exit_code(list: &[SandboxInfo], name: &str) -> Option<i32> {
    let all = list.iter().flat_map(|sandbox| &sandbox.containers);
    all.filter(|container| container.name == name).find_map(|container| match container.state {
        ContainerState::Exited { code, .. } => Some(code),
        ContainerState::Created | ContainerState::Running { .. } => None,
    })
}

/// What the container's log holds once it has that many lines.
async fn logged(dir: &Path, container: &str, lines: usize) -> String {
    let log = dir.join(format!("logs/{container}/0.log"));
    let started = Instant::now();
    loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.lines().count() >= lines {
            return text;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {lines} lines of {container}: {text:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn keeps_the_contract(runtime: &dyn Runtime, dir: &Path) {
    runtime.healthy().await.unwrap();
    assert!(runtime.version().contains("://"), "{}", runtime.version());
    assert!(runtime.image(IMAGE).await.unwrap().is_some());
    let pod = sandbox(dir, 0);
    let id = runtime.start_sandbox(&pod).await.unwrap();

    // It runs, under the id it was given; the very same attempt is not started twice.
    let server =
        container("server", 0, "trap 'exit 7' TERM; echo $GREETING; echo oops >&2; while :; do sleep 0.1; done");
    let started = runtime.start_container(&id, &pod, &server).await.unwrap();
    assert_eq!(runtime.start_container(&id, &pod, &server).await.unwrap(), started);
    let info = see("the container to run", runtime, |list| {
        let sandbox = list.iter().find(|sandbox| sandbox.id == id && sandbox.ready)?;
        sandbox.containers.iter().find(|c| matches!(c.state, ContainerState::Running { .. })).cloned()
    });
    let info = info.await;
    assert_eq!((info.id.as_str(), info.name.as_str(), info.image.as_str()), (started.as_str(), "server", IMAGE));

    // Its output is logged line by line, with the stream's name.
    let text = logged(dir, "server", 2).await;
    assert!(text.contains(" stdout F hello\n") && text.contains(" stderr F oops\n"), "{text}");

    // Commands inside: their code and output, a deadline, standard input to its end.
    let words = |script: &str| ["sh", "-c", script].map(String::from).to_vec();
    let said = runtime.exec_sync(&started, &words("echo in; exit 3"), PATIENCE).await.unwrap();
    assert_eq!((said.code, said.output.as_slice()), (3, &b"in\n"[..]));
    let late = runtime.exec_sync(&started, &words("sleep 60"), Duration::from_secs(1)).await;
    assert!(matches!(&late, Err(Error::Failed(why)) if why.contains("timed out after 1 s")), "{late:?}");
    let mut stream = runtime.exec(&started, &words("cat; echo done >&2; exit 4"), None, true).await.unwrap();
    stream.input.send((0, "from outside".into())).await.unwrap();
    stream.input.send((255, vec![0].into())).await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((channel, data)) = stream.output.recv().await {
        if channel == 1 { out.extend_from_slice(&data) } else { err.extend_from_slice(&data) }
    }
    assert_eq!((out.as_slice(), err.as_slice()), (&b"from outside"[..], &b"done\n"[..]));
    assert_eq!(stream.exit.await.unwrap().unwrap(), 4);

    // TERM is given its chance; what ignores it is killed once the grace is over.
    runtime.stop_container(&started, PATIENCE).await.unwrap();
    assert_eq!(see("its own exit code", runtime, |list| exit_code(list, "server")).await, 7);
    // It says when it ignores TERM: until then it is a shell like any other, and would end of it.
    let stubborn = container("stubborn", 0, "trap '' TERM; echo deaf; while :; do sleep 0.1; done");
    let deaf = runtime.start_container(&id, &pod, &stubborn).await.unwrap();
    logged(dir, "stubborn", 1).await;
    runtime.stop_container(&deaf, Duration::from_secs(1)).await.unwrap();
    assert_eq!(see("the kill", runtime, |list| exit_code(list, "stubborn")).await, 137);

    // What cannot be started says why and counts as ended.
    let absent = ContainerSpec { command: vec!["/no/such/program".into()], ..container("absent", 0, "") };
    let error = runtime.start_container(&id, &pod, &absent).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/program"), "{error}");
    assert_eq!(see("the failed start", runtime, |list| exit_code(list, "absent")).await, 128);

    // Nothing is left; unknown ids are fine.
    runtime.remove_container(&deaf).await.unwrap();
    runtime.remove_container(&deaf).await.unwrap();
    runtime.stop_sandbox(&id).await.unwrap();
    see("the sandbox to be down", runtime, |list| list.iter().find(|sandbox| !sandbox.ready).map(drop)).await;
    runtime.remove_sandbox(&id).await.unwrap();
    runtime.remove_sandbox(&id).await.unwrap();
    runtime.stop_container(&started, Duration::ZERO).await.unwrap();
    assert_eq!(runtime.list().await.unwrap(), []);
}

/// The test's own image: a shell.
fn shell_image(dir: &Path) -> PathBuf {
    let links = ["sh", "sleep", "cat", "echo"]
        .map(|tool| Entry::Link { to: format!("bin/{tool}"), target: "/bin/busybox".into() });
    let entries = [
        vec![Entry::File { from: "/bin/busybox".into(), to: "bin/busybox".into() }, Entry::Dir { to: "tmp".into() }],
        links.to_vec(),
    ];
    let recipe =
        Recipe { reference: IMAGE.into(), cmd: vec!["sh".into()], entries: entries.concat(), ..Recipe::default() };
    let path = dir.join("shell.tar");
    crate::image::write(&recipe, &path).unwrap();
    path
}

fn binary() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/release/balsa");
    std::env::var_os("BALSA_BINARY").map_or(built, PathBuf::from)
}

#[tokio::test(flavor = "multi_thread")]
async fn process_keeps_the_contract() {
    let binary = binary();
    if !binary.exists() {
        return testkit::skip("process_keeps_the_contract", "build the binary first: cargo xtask build");
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(dir.path().join("process"), binary, "127.0.0.1".into());
    keeps_the_contract(&runtime, dir.path()).await;
}

/// The containerd of a test; ended with it, however it ends.
struct Contained {
    state: PathBuf,
    cgroup: String,
}

impl Drop for Contained {
    fn drop(&mut self) {
        crate::containerd::clean_up(&self.state, &self.cgroup);
        drop(std::fs::remove_dir_all(&self.state));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_keeps_the_contract() {
    if !testkit::wanted("containerd_keeps_the_contract") {
        return;
    }
    if !nix::unistd::geteuid().is_root() || !missing_programs().is_empty() || !Path::new("/bin/busybox").exists() {
        return testkit::skip("containerd_keeps_the_contract", "needs root, containerd and busybox-static");
    }
    let dir = tempfile::tempdir().unwrap();
    let name = format!("balsa-contract-{}", std::process::id());
    let contained = Contained { state: Path::new("/run").join(&name), cgroup: format!("/{name}") };
    let options = DaemonOptions {
        root: dir.path().join("containerd"),
        state: contained.state.clone(),
        cni_conf: dir.path().join("cni"),
        registries: None,
        stream_address: "127.0.0.1".into(),
        pause: binary(),
    };
    let daemon = Daemon::start(options).await.unwrap();
    let socket = Daemon::socket(&contained.state);
    crate::containerd::import(&socket, &shell_image(dir.path())).await.unwrap();
    let runtime = ContainerdRuntime::new(ContainerdOptions {
        socket: socket.clone(),
        worker: "worker-1".into(),
        cgroup_parent: contained.cgroup.clone(),
        pipes: contained.state.join("exec"),
        host_ip: "127.0.0.1".into(),
        is_private: true,
    });
    std::fs::create_dir_all(dir.path().join("cni")).unwrap();
    // The contract's pods are on the host's network, but containerd calls itself ready only with one.
    let conf = r#"{"cniVersion":"0.4.0","name":"none","plugins":[{"type":"loopback"}]}"#;
    std::fs::write(dir.path().join("cni/10-none.conflist"), conf).unwrap();
    let supervised = tokio::spawn(daemon.supervise());
    let started = Instant::now();
    while runtime.healthy().await.is_err() {
        assert!(started.elapsed() < PATIENCE, "{:?}", runtime.healthy().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    keeps_the_contract(&runtime, dir.path()).await;

    // containerd dies under a running container: it is started again, and nothing else happened.
    let pod = sandbox(dir.path(), 1);
    let id = runtime.start_sandbox(&pod).await.unwrap();
    let server = container("survivor", 0, "while :; do sleep 0.1; done");
    let survivor = runtime.start_container(&id, &pod, &server).await.unwrap();
    let pid = crate::process_id::ProcessId::read(&contained.state.join("containerd.pid")).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let died = Instant::now();
    while pid.is_alive() || runtime.healthy().await.is_err() {
        assert!(died.elapsed() < PATIENCE, "containerd does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let list = runtime.list().await.unwrap();
    assert_eq!(list[0].containers[0].id, survivor);
    assert!(matches!(list[0].containers[0].state, ContainerState::Running { .. }), "{list:?}");
    runtime.remove_sandbox(&id).await.unwrap();
    supervised.abort();
}

#[test]
fn a_terminal_has_the_size_that_was_told() {
    assert_eq!(Terminal::parse(br#"{"Width":99,"Height":33}"#), Terminal { width: 99, height: 33 });
    assert_eq!(Terminal::parse(br#"{"Width":100000}"#), Terminal::default());
    assert_eq!(Terminal::parse(b"none"), Terminal::default());
}
