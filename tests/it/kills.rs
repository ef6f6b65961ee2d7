//! The leader is killed with -9, again and again: idle, in the middle of a rollout, and while 200 pods
//! are being created. A client writes every 5 ms through the common address all the while.
//!
//! 30 kills of each kind by default; BALSA_KILLS says otherwise. `cargo xtask bench kills` prints the
//! figures beside their targets; a test has no opinion on times.

use crate::client::Writer;
use crate::cluster::{Cluster, IMAGE, deployment, wanted};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WRITE_EVERY: Duration = Duration::from_millis(5);
/// A cluster without a leader for this long is not failing over, it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn n_kills() -> usize {
    std::env::var("BALSA_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(30)
}

/// What the writer has had acknowledged, and when it last had.
#[derive(Default)]
struct Written {
    names: BTreeSet<String>,
    /// The longest time between two acknowledgements since it was last asked for.
    gap: Duration,
    last: Option<Instant>,
}

/// Writes until told to stop.
fn write(cluster: &Cluster, written: &Mutex<Written>, stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let writer = Writer::new(&cluster.dir.join("kubeconfig"), "balsa", PATIENCE);
        let mut ticks = tokio::time::interval(WRITE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for i in 0.. {
            ticks.tick().await;
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let name = format!("w-{i:06}");
            writer.create(&name).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            let (now, mut written) = (Instant::now(), written.lock().unwrap());
            let since = written.last.map_or(Duration::ZERO, |last| now - last);
            written.gap = written.gap.max(since);
            written.last = Some(now);
            written.names.insert(name);
        }
    });
}

/// What one kill cost.
struct Cost {
    write_gap: Duration,
    /// Until a kubectl started at the kill had its write acknowledged.
    kubectl: Duration,
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> bool {
    let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(cluster.dir.join("kubeconfig")).arg("--request-timeout=2s").args(arguments);
    command.output().is_ok_and(|output| output.status.success())
}

fn has_kubectl() -> bool {
    let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
    Command::new(program).args(["version", "--client"]).output().is_ok()
}

/// Kills the leader, and waits until another one leads and the killed one is back and has caught up.
fn kill_leader(cluster: &Cluster, written: &Mutex<Written>, with_kubectl: Option<usize>) -> Cost {
    let leader = cluster.leader();
    written.lock().unwrap().gap = Duration::ZERO;
    let killed = Instant::now();
    cluster.dev(&["kill", &leader]);
    let mut spent = Duration::ZERO;
    if let Some(i) = with_kubectl {
        let name = format!("kubectl-{i}");
        cluster.wait("kubectl to write again", PATIENCE, || kubectl(cluster, &["create", "configmap", &name]));
        spent = killed.elapsed();
    }
    cluster.wait("writes to go on", PATIENCE, || {
        written.lock().unwrap().last.is_some_and(|last| last > killed + Duration::from_millis(100))
    });
    cluster.wait("another leader", PATIENCE, || {
        let now = cluster.leader();
        !now.is_empty() && now != leader
    });
    let write_gap = written.lock().unwrap().gap;
    cluster.dev(&["start", &leader]);
    cluster.wait("the killed master to catch up", PATIENCE, || {
        let members = cluster.json(&["status"])["members"].clone();
        let lag = |member: &Value| member["lag"].as_u64().is_none_or(|lag| lag < 100);
        members.as_array().is_some_and(|all| all.len() == 3 && all.iter().all(lag))
    });
    Cost { write_gap, kubectl: spent }
}

fn report(what: &str, costs: &[Cost], n_written: usize) {
    let mut gaps: Vec<Duration> = costs.iter().map(|cost| cost.write_gap).collect();
    let mut kubectl: Vec<Duration> = costs.iter().map(|cost| cost.kubectl).collect();
    gaps.sort();
    kubectl.sort();
    let ms = |duration: Duration| duration.as_millis();
    let at = |sorted: &[Duration], percent| ms(stdx::percentile(sorted, percent).unwrap_or_default());
    // One line a story, for the bench to read.
    println!(
        "kills of {what}: n={} gap_p50_ms={} gap_p90_ms={} gap_p99_ms={} gap_max_ms={} kubectl_p50_ms={} kubectl_max_ms={} written={n_written}",
        gaps.len(),
        at(&gaps, 50),
        at(&gaps, 90),
        at(&gaps, 99),
        ms(gaps[gaps.len() - 1]),
        at(&kubectl, 50),
        ms(kubectl[kubectl.len() - 1]),
    );
}

/// Every acknowledged write is there, on every master.
fn nothing_is_lost(cluster: &Cluster, written: &Written) {
    for context in ["balsa", "master-1", "master-2", "master-3"] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stored = runtime.block_on(async {
            let channel = crate::client::endpoint(cluster, context, true).connect_lazy();
            let mut client =
                protos::objects::objects_client::ObjectsClient::new(channel).max_decoding_message_size(64 << 20);
            let request =
                protos::objects::ListRequest { key: Some(crate::client::key("configmaps", "")), ..Default::default() };
            client.list(request).await.unwrap().into_inner().items
        });
        let name = |object: &protos::objects::Object| {
            let value: Value = serde_json::from_slice(&object.json).unwrap();
            value["metadata"]["name"].as_str().unwrap().to_string()
        };
        let stored: BTreeSet<String> = stored.iter().map(name).collect();
        let lost: Vec<&String> = written.names.difference(&stored).collect();
        assert!(lost.is_empty(), "{context} has lost {lost:?}");
    }
}

/// Follows every pod from its first binding on; a second one is a fault.
#[derive(Default)]
struct Bindings {
    of: Mutex<BTreeMap<String, String>>,
    wrong: Mutex<Vec<String>>,
}

impl Bindings {
    fn look(&self, cluster: &Cluster) {
        let output = cluster.run(&["get", "pods", "-o", "json"]);
        let Ok(list) = serde_json::from_slice::<Value>(&output.stdout) else { return };
        for pod in list["items"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or("").to_string();
            let (uid, node) = (text(&pod["metadata"]["uid"]), text(&pod["spec"]["nodeName"]));
            if node.is_empty() {
                continue;
            }
            let before = self.of.lock().unwrap().insert(uid.clone(), node.clone());
            if before.as_ref().is_some_and(|before| *before != node) {
                self.wrong.lock().unwrap().push(format!("{uid} was on {before:?} and then on {node}"));
            }
        }
    }
}

/// Runs `story` with a writer and an observer of bindings beside it, then checks what they saw.
fn beside_a_writer(cluster: &Cluster, what: &str, story: impl FnOnce(&Mutex<Written>) -> Vec<Cost>) {
    let (written, stop, bindings) =
        (Mutex::new(Written::default()), AtomicBool::new(false), Arc::new(Bindings::default()));
    let costs = std::thread::scope(|scope| {
        scope.spawn(|| write(cluster, &written, &stop));
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bindings.look(cluster);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        // A story that fails must not leave the others running for ever.
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.wait("the first write", PATIENCE, || !written.lock().unwrap().names.is_empty());
            story(&written)
        }));
        stop.store(true, Ordering::Relaxed);
        told.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let written = written.into_inner().unwrap();
    report(what, &costs, written.names.len());
    assert_eq!(*bindings.wrong.lock().unwrap(), Vec::<String>::new());
    nothing_is_lost(cluster, &written);
}

#[test]
fn thirty_leaders_are_killed_while_nothing_else_happens() {
    const TEST: &str = "thirty_leaders_are_killed_while_nothing_else_happens";
    if !wanted(TEST) {
        return;
    }
    let with_kubectl = has_kubectl();
    if !with_kubectl {
        testkit::skip(TEST, "the part with kubectl: none is installed");
    }
    let cluster = Cluster::up();
    beside_a_writer(&cluster, "idle", |written| {
        (0..n_kills()).map(|i| kill_leader(&cluster, written, with_kubectl.then_some(i))).collect()
    });
}

#[test]
fn thirty_leaders_are_killed_in_the_middle_of_a_rollout() {
    if !wanted("thirty_leaders_are_killed_in_the_middle_of_a_rollout") {
        return;
    }
    let cluster = Cluster::up();
    let manifest = |i: usize| {
        let stamp = format!("      terminationGracePeriodSeconds: 1\n      hostname: roll-{i}");
        deployment("web", 4, "").replace("      terminationGracePeriodSeconds: 1", &stamp)
    };
    let is_rolled_out = |i: usize| {
        let deployment = cluster.json(&["get", "deployment", "web"]);
        let (status, generation) = (&deployment["status"], &deployment["metadata"]["generation"]);
        deployment["spec"]["template"]["spec"]["hostname"] == format!("roll-{i}")
            && status["observedGeneration"] == *generation
            && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| status[*field] == 4)
    };
    assert!(cluster.apply(&manifest(0)));
    cluster.wait("the first rollout", Duration::from_secs(60), || is_rolled_out(0));
    beside_a_writer(&cluster, "rollout", |written| {
        let one = |i: usize| {
            cluster.wait("the manifest to be taken", PATIENCE, || cluster.apply(&manifest(i)));
            let cost = kill_leader(&cluster, written, None);
            cluster.wait("the rollout", Duration::from_secs(120), || is_rolled_out(i));
            cost
        };
        (1..=n_kills()).map(one).collect()
    });
}

#[test]
fn thirty_leaders_are_killed_while_two_hundred_pods_are_created() {
    if !wanted("thirty_leaders_are_killed_while_two_hundred_pods_are_created") {
        return;
    }
    // Placed, bound and reported, but not run: the containers of 200 pods would have the machine's two
    // cores busy for minutes at every kill, and a process that lacks its configuration costs nothing.
    let cluster = Cluster::up_with(&["--runtime", "process"]);
    let manifest = |replicas: usize| {
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: many}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: many}}}}
  template:
    metadata: {{labels: {{app: many}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: {IMAGE}
        command: [sleep, \"100000\"]
        env: [{{name: X, valueFrom: {{configMapKeyRef: {{name: never, key: made}}}}}}]
"
        )
    };
    let pods = || {
        let pods = cluster.json(&["get", "pods"]);
        pods["items"].as_array().cloned().unwrap_or_default()
    };
    let n_bound = || pods().iter().filter(|pod| pod["spec"].get("nodeName").is_some()).count();
    beside_a_writer(&cluster, "200 pods", |written| {
        let one = |_| {
            cluster.wait("the manifest to be taken", PATIENCE, || cluster.apply(&manifest(200)));
            let cost = kill_leader(&cluster, written, None);
            cluster.wait("200 pods to be bound", Duration::from_secs(60), || n_bound() == 200 && pods().len() == 200);
            cluster.wait("the manifest to be taken", PATIENCE, || cluster.apply(&manifest(0)));
            cluster.wait("no pods", Duration::from_secs(60), || pods().is_empty());
            cost
        };
        (0..n_kills()).map(one).collect()
    });
}
