//! Masters and workers as plain processes on the loopback interface, each from a configuration file as an
//! operator would write it: for tests that replace machines. Ended and removed with the test, however it
//! ends.

use crate::cluster::binary;
use client::{Access, Client, Patience};
use protos::objects as pb;
use protos::objects::objects_client::ObjectsClient;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct Group {
    pub(crate) dir: tempfile::TempDir,
    /// API and peer port of each master that ever was.
    ports: Mutex<BTreeMap<String, (u16, u16)>>,
    processes: Mutex<BTreeMap<String, Child>>,
}

fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below where ephemeral ports begin, and apart from those of development clusters.
    let base = 10_000 + u16::try_from(std::process::id() % 90).unwrap() * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 900;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Group {
    /// A group of these masters, the first of which is made with `init`; all vote when this returns.
    pub(crate) fn of(names: &[&str]) -> Group {
        let group = Group::empty();
        group.configure(names[0], json!({}));
        group.must(&["init", "--config", &group.config(names[0])]);
        group.start(names[0]);
        group.adopt(names[0]);
        for name in &names[1..] {
            group.join(name, json!({}));
        }
        group.wait_voters(names);
        group
    }

    pub(crate) fn empty() -> Group {
        let dir = tempfile::tempdir().unwrap();
        Group { dir, ports: Mutex::default(), processes: Mutex::default() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self, name: &str) -> String {
        self.path(&format!("{name}.yaml")).display().to_string()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// Writes a master's configuration; a name keeps its ports.
    pub(crate) fn configure(&self, name: &str, join: Value) {
        self.configure_with(name, join, json!({}));
    }

    pub(crate) fn configure_with(&self, name: &str, join: Value, extra: Value) {
        let mut ports = self.ports.lock().unwrap();
        let (api, peer) = *ports.entry(name.into()).or_insert_with(|| (free_port(), free_port()));
        let mut config = json!({
            "name": name, "dataDir": self.path(name), "address": "127.0.0.1", "apiPort": api, "peerPort": peer,
        });
        if join != json!({}) {
            config["join"] = join;
        }
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        std::fs::write(self.config(name), config.to_string()).unwrap();
    }

    pub(crate) fn api(&self, name: &str) -> String {
        format!("127.0.0.1:{}", self.ports.lock().unwrap()[name].0)
    }

    /// Takes the administrator's kubeconfig that `init` or `restore` wrote for `first`.
    pub(crate) fn adopt(&self, first: &str) {
        self.save_kubeconfig(&self.path(first).join("admin.kubeconfig"), first);
    }

    /// Saves `source` with a context for every master there is.
    fn save_kubeconfig(&self, source: &Path, current: &str) {
        let mut config: Value = serde_json::from_slice(&std::fs::read(source).unwrap()).unwrap();
        let authority = config["clusters"][0]["cluster"]["certificate-authority-data"].clone();
        let names: Vec<String> = self.ports.lock().unwrap().keys().cloned().collect();
        let cluster = |name: &String| {
            let server = format!("https://{}", self.api(name));
            json!({"name": name, "cluster": {"server": server, "certificate-authority-data": authority}})
        };
        let context = |name: &String| json!({"name": name, "context": {"cluster": name, "user": "admin"}});
        config["clusters"] = names.iter().map(cluster).collect();
        config["contexts"] = names.iter().map(context).collect();
        config["current-context"] = json!(current);
        // As a whole: a writer may be reading it.
        let part = self.path("kubeconfig.part");
        std::fs::write(&part, config.to_string()).unwrap();
        std::fs::rename(part, self.kubeconfig()).unwrap();
    }

    /// Has a master join with a token, on an empty data folder. `extra` goes under `join`.
    pub(crate) fn join(&self, name: &str, extra: Value) {
        let mut join = json!({"server": self.api(&self.leader()), "token": self.json(&["token"])["master"]});
        join.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        self.configure(name, join);
        self.start(name);
        // For those who write to everybody.
        let config: Value = serde_json::from_slice(&std::fs::read(self.kubeconfig()).unwrap()).unwrap();
        self.save_kubeconfig(&self.kubeconfig(), config["current-context"].as_str().unwrap());
    }

    fn spawn(&self, name: &str, role: &str) {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{name}.log"))).unwrap();
        let mut command = Command::new(binary());
        command.args([role, "--config", &self.config(name)]).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        assert!(self.processes.lock().unwrap().insert(name.into(), child).is_none(), "{name} runs already");
    }

    pub(crate) fn start(&self, name: &str) {
        self.spawn(name, "master");
    }

    pub(crate) fn start_worker(&self, name: &str, masters: &[&str]) {
        let config = json!({
            "name": name, "dataDir": self.path(name), "address": "127.0.0.1", "runtime": "process",
            "masters": masters.iter().map(|master| self.api(master)).collect::<Vec<_>>(),
            "token": self.json(&["token"])["worker"],
        });
        std::fs::write(self.config(name), config.to_string()).unwrap();
        self.spawn(name, "worker");
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    fn signal(&self, name: &str, signal: &str) {
        let mut child = self.processes.lock().unwrap().remove(name).unwrap_or_else(|| panic!("{name} runs"));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        child.wait().unwrap();
    }

    /// Stops a process in good order.
    pub(crate) fn stop(&self, name: &str) {
        self.signal(name, "-TERM");
    }

    pub(crate) fn kill(&self, name: &str) {
        self.signal(name, "-KILL");
    }

    /// Waits for a process to end by itself; what its log says in the end.
    pub(crate) fn ended(&self, name: &str) -> String {
        let mut child = self.processes.lock().unwrap().remove(name).unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(10) {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{name} goes on: {}", self.log(name));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.log(name)
    }

    pub(crate) fn wipe(&self, name: &str) {
        std::fs::remove_dir_all(self.path(name)).unwrap();
    }

    /// Runs a verb that speaks with the cluster.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        let kubeconfig = self.kubeconfig().display().to_string();
        command.args(arguments).args(["--kubeconfig", &kubeconfig]).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a verb that must fail; what it says.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} was not refused: {}", text(&output.stdout));
        text(&output.stderr)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["-o", "json"]].concat())).unwrap()
    }

    /// Runs a verb that speaks with nobody.
    pub(crate) fn local(&self, arguments: &[&str]) -> Output {
        Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn must(&self, arguments: &[&str]) -> String {
        let output = self.local(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The leader, once there is one.
    pub(crate) fn leader(&self) -> String {
        let mut leader = String::new();
        self.wait("a leader", || {
            let output = self.run(&["status", "-o", "json"]);
            let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            leader = status["leader"].as_str().unwrap_or("").to_string();
            !leader.is_empty()
        });
        leader
    }

    pub(crate) fn members(&self) -> Vec<Value> {
        let output = self.run(&["members", "list", "-o", "json"]);
        serde_json::from_slice::<Value>(&output.stdout).ok().and_then(|m| m.as_array().cloned()).unwrap_or_default()
    }

    pub(crate) fn voters(&self) -> BTreeSet<String> {
        let voters = self.members().into_iter().filter(|member| member["voter"] == true);
        voters.map(|member| member["name"].as_str().unwrap().to_string()).collect()
    }

    pub(crate) fn wait_voters(&self, names: &[&str]) {
        let wanted: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
        self.wait(&format!("{names:?} to be the voters"), || self.voters() == wanted);
    }

    pub(crate) fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            if started.elapsed() > Duration::from_secs(30) {
                let names: Vec<String> = self.processes.lock().unwrap().keys().cloned().collect();
                let tail = |name: &String| self.log(name).lines().rev().take(8).map(String::from).collect::<Vec<_>>();
                let logs: Vec<_> = names.iter().map(|name| (name, tail(name))).collect();
                panic!("waited in vain for {what}; the last lines of the logs, newest first: {logs:#?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for child in self.processes.lock().unwrap().values_mut() {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// What a writer has had acknowledged.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) names: BTreeSet<String>,
    /// The longest time that a write took, since it was last asked for.
    pub(crate) longest: Duration,
}

/// Creates ConfigMaps `PREFIX-N`, one after the other at up to 500 a second, at whichever master takes
/// them, and each under a name of its own until it is acknowledged; until told to stop.
pub(crate) fn write(kubeconfig: &Path, prefix: &str, written: &Mutex<Written>, stop: &AtomicBool) {
    pki::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let access = Access::read(kubeconfig).unwrap();
        // A broken path is found by silence, not only by an answer.
        let (connect, answer) = ([Duration::from_millis(100); 2], Duration::from_millis(500));
        let (pause, total) = (Duration::from_millis(2), Duration::from_secs(20));
        let client = Client::with_patience(access, Patience { connect, answer, pause, total });
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for i in 0.. {
            ticks.tick().await;
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let name = format!("{prefix}-{i:06}");
            let object = json!({"metadata": {"name": name}, "data": {"x": "y".repeat(200)}});
            let request = pb::WriteRequest {
                key: Some(crate::client::key("configmaps", "")),
                json: object.to_string().into(),
                request_id: format!("create-{name}"),
                ..pb::WriteRequest::default()
            };
            let started = Instant::now();
            let created = client.call(async |channel| ObjectsClient::new(channel).create(request.clone()).await).await;
            created.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            let mut written = written.lock().unwrap();
            written.longest = written.longest.max(started.elapsed());
            written.names.insert(name);
        }
    });
}
