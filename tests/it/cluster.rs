//! A development cluster in a folder of its own, removed when the test ends, however it ends.

use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct Cluster {
    pub(crate) dir: PathBuf,
    /// In the names of its namespaces and links; remembered for when the folder is gone.
    tag: Mutex<String>,
}

pub(crate) fn binary() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/release/balsa");
    std::env::var_os("BALSA_BINARY").map_or(built, PathBuf::from)
}

pub(crate) use testkit::wanted;

/// The image of the tests' pods: a shell and its tools, made here. With the process runtime a name is
/// all an image is.
pub(crate) const IMAGE: &str = "registry.local/busybox:1";

impl Cluster {
    pub(crate) fn up() -> Cluster {
        Cluster::up_with(&[])
    }

    /// `dev up` with these flags.
    pub(crate) fn up_with(flags: &[&str]) -> Cluster {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("balsa-it-{}-{n}", std::process::id()));
        let cluster = Cluster { dir, tag: Mutex::default() };
        cluster.dev(&[&["up"], flags].concat());
        *cluster.tag.lock().unwrap() = cluster.planned("tag");
        if cluster.runtime() == "containerd" {
            cluster.dev(&["image", IMAGE, "/bin/busybox"]);
        }
        cluster
    }

    fn planned(&self, what: &str) -> String {
        let text = std::fs::read_to_string(self.dir.join("topology.json")).expect("dev up wrote its plan");
        let plan: Value = serde_json::from_str(&text).expect("the plan is JSON");
        plan[what].as_str().expect("the plan names it").to_string()
    }

    /// What the cluster chose: `containerd` or `process`.
    pub(crate) fn runtime(&self) -> String {
        self.planned("runtime")
    }

    /// `namespaces` or `loopback`.
    pub(crate) fn mode(&self) -> String {
        self.planned("mode")
    }

    /// The process ids of the workers' own containerds.
    pub(crate) fn containerds(&self) -> Vec<String> {
        let logs = self.dir.display().to_string();
        let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
        // A containerd writes to the log in its worker's folder.
        let is_ours = |entry: &std::fs::DirEntry| {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let log = std::fs::read_link(entry.path().join("fd/1")).unwrap_or_default();
            name.trim() == "containerd" && log.display().to_string().starts_with(&logs)
        };
        entries.filter(is_ours).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(binary());
        let (before, after) = match arguments.iter().position(|word| *word == "--") {
            Some(at) => arguments.split_at(at),
            None => (arguments, &[][..]),
        };
        command.args(before).arg("--dir").arg(&self.dir).args(after);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut stdin = child.stdin.take().expect("it was piped");
        stdin.write_all(input.as_bytes()).expect("the binary reads its input");
        drop(stdin);
        child.wait_with_output().expect("the binary ends")
    }

    /// Runs a verb that must work.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn dev(&self, arguments: &[&str]) -> String {
        self.ok(&[&["dev"], arguments].concat())
    }

    /// Applies a manifest; true when it was acknowledged.
    pub(crate) fn apply(&self, manifest: &str) -> bool {
        self.run_with(&["apply", "-f", "-"], manifest).status.success()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["-o", "json"]].concat())).expect("the output is JSON")
    }

    pub(crate) fn leader(&self) -> String {
        self.json(&["status"])["leader"].as_str().unwrap_or("").to_string()
    }

    /// (name, node, restarts) of every running, ready pod that is not leaving.
    pub(crate) fn running(&self) -> Vec<(String, String, u64)> {
        let pods = self.json(&["get", "pods"]);
        let told = |pod: &Value| {
            let status = pod["status"]["containerStatuses"].get(0)?;
            let live = status["ready"] == true && pod["metadata"].get("deletionTimestamp").is_none();
            let text = |value: &Value| value.as_str().unwrap_or("").to_string();
            live.then(|| {
                (
                    text(&pod["metadata"]["name"]),
                    text(&pod["spec"]["nodeName"]),
                    status["restartCount"].as_u64().unwrap_or(0),
                )
            })
        };
        pods["items"].as_array().into_iter().flatten().filter_map(told).collect()
    }

    pub(crate) fn wait(&self, what: &str, patience: Duration, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < patience, "waited {patience:?} in vain for {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until this many processes of the tests' pods run on this machine; tells where they belong if not.
    pub(crate) fn wait_for_processes(&self, n: usize, after: &str) {
        let patience = Duration::from_secs(40);
        let started = Instant::now();
        loop {
            let sleeping = processes(&["sleep", &mark()]);
            if sleeping.len() == n {
                return;
            }
            if started.elapsed() > patience {
                let group = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                let belong: Vec<(&String, String)> = sleeping.iter().map(|pid| (pid, group(pid))).collect();
                panic!("waited {patience:?} in vain for {n} processes after {after}; there are {belong:#?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Processes whose command line names this cluster's folder.
    pub(crate) fn processes(&self) -> Vec<String> {
        let own = self.dir.to_string_lossy().into_owned();
        let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let command = |entry: std::fs::DirEntry| {
            let bytes = std::fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
        };
        entries.filter_map(command).filter(|line| line.contains(&own)).collect()
    }

    /// After `dev down`: no namespace, mount, link or control group of the cluster, and none of its
    /// daemons. (nft tables live in namespaces.)
    pub(crate) fn left_nothing(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
        assert!(!mounts.contains(&self.dir.display().to_string()), "a mount is left");
        let named = |folder: &str| -> Vec<String> {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let tag = self.tag.lock().unwrap().clone();
        for folder in ["/run/netns", "/sys/class/net"] {
            let left: Vec<String> = named(folder).into_iter().filter(|name| name.contains(&tag)).collect();
            assert!(left.is_empty(), "{folder} still has {left:?}");
        }
        assert_eq!(self.containerds(), Vec::<String>::new(), "a containerd still runs");
    }
}

impl Drop for Cluster {
    /// A test that held must leave nothing that runs; one that failed says enough already.
    fn drop(&mut self) {
        let down = self.run(&["dev", "down"]);
        if !std::thread::panicking() {
            assert!(down.status.success(), "dev down: {}", String::from_utf8_lossy(&down.stderr));
            self.wait_for_processes(0, "dev down");
            self.left_nothing();
        }
    }
}

/// Ids of the processes whose command line holds all these words.
pub(crate) fn processes(words: &[&str]) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let holds = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        words.iter().all(|word| line.contains(word))
    };
    entries.filter(holds).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// How long the tests' pods sleep: a number that no other run on this machine has, so that their
/// processes can be told from others'.
pub(crate) fn mark() -> String {
    (10_000_000 + std::process::id()).to_string()
}

/// A Deployment of `sleep`s with a fast end; `extra` is YAML of the pod spec, indented by six.
pub(crate) fn deployment(name: &str, replicas: u32, extra: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
{extra}
      containers:
      - name: c
        image: registry.local/busybox:1
        command: [sleep, \"{}\"]
",
        mark()
    )
}

pub(crate) const ONE_PER_HOST: &str = "      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: kubernetes.io/hostname
            labelSelector: {matchLabels: {app: web}}
";
