//! The worker: one session with the masters, one task per pod, `podlife` deciding for each.
//!
//! Nothing here needs a master to keep alive what already runs: assignments are kept on disk and
//! acted on whether or not a session is open.

mod environment;
mod logs;
mod masters;
mod network;
mod node;
mod pod;
mod probe;
mod session;
mod streams;

pub use masters::{Incoming, Masters, TonicMasters};
pub use network::NetworkOptions;
pub use node::{Machine, NodeOptions};

use objects::{Timestamp, Value, ValueExt};
use parking_lot::Mutex;
use protos::dispatch as pb;
use runtime::{Runtime, SandboxInfo};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often the runtime is asked what it runs: the delay with which an exit is noticed.
const POLL: Duration = Duration::from_millis(250);
/// Its health is asked at every so manieth look: every 2 s.
const HEALTH_EVERY: u32 = 8;
/// Messages waiting for a session; pod statuses are kept apart, newest per pod.
const UP_MAX: usize = 1024;

pub struct Options {
    pub node: NodeOptions,
    /// host:port of each known master.
    pub addresses: Vec<String>,
    /// How they are reached.
    pub masters: Arc<dyn Masters>,
    /// State: assignments, volumes, logs.
    pub dir: PathBuf,
    pub runtime: Arc<dyn Runtime>,
    /// The process runtime cannot mount; pods are warned instead.
    pub can_mount: bool,
    /// Where pods have a network of their own; without it they share the node's.
    pub network: Option<NetworkOptions>,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub boot_id: String,
}

/// What a pod is to be, and what it refers to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) pod: Value,
    pub(crate) objects: Vec<Value>,
    /// The cluster no longer knows the pod.
    pub(crate) removed: bool,
}

impl Assignment {
    fn uid(&self) -> String {
        self.pod.text("metadata.uid").to_string()
    }
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) worlds: watch::Sender<Arc<Vec<SandboxInfo>>>,
    /// The newest observation of each pod that no master has acknowledged.
    pub(crate) unacked: Mutex<BTreeMap<String, pb::PodStatus>>,
    pub(crate) unacked_changed: watch::Sender<u64>,
    pub(crate) up: mpsc::Sender<pb::from_worker::Message>,
    pub(crate) pods: Mutex<BTreeMap<String, watch::Sender<Assignment>>>,
    /// (epoch, revision) of the newest assignments acted on.
    pub(crate) newest: Mutex<(u64, u64)>,
    pub(crate) peers: watch::Sender<pb::Peers>,
    pub(crate) health: watch::Sender<Option<String>>,
    /// Held while the assignments are written, so that an older set never lands on a newer one.
    saving: Mutex<()>,
    /// Held from asking the runtime to publishing its answer: an answer from before an action must not
    /// overwrite one from after it, or the action would be done twice.
    refreshing: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        (self.options.clock)()
    }

    /// Asks the runtime at once, after something was done.
    pub(crate) async fn refresh(&self) {
        let _refreshing = self.refreshing.lock().await;
        match self.options.runtime.list().await {
            Ok(list) => {
                self.worlds.send_if_modified(|worlds| {
                    let changed = **worlds != list;
                    if changed {
                        *worlds = Arc::new(list);
                    }
                    changed
                });
            }
            Err(error) => self.set_health(Err(error)),
        }
    }

    /// Asks the runtime how it is; the node's readiness follows.
    async fn check_health(&self) {
        self.set_health(self.options.runtime.healthy().await);
    }

    fn set_health(&self, told: Result<(), runtime::Error>) {
        let now = told.err().map(|error| error.to_string());
        self.health.send_if_modified(|health| {
            let changed = *health != now;
            if let Some(why) = now.as_ref().filter(|_| changed) {
                tracing::warn!(%why, "the container runtime is not ready");
            }
            *health = now;
            changed
        });
    }

    pub(crate) fn report(&self, status: pb::PodStatus) {
        self.unacked.lock().insert(status.uid.clone(), status);
        self.unacked_changed.send_modify(|n| *n += 1);
    }

    fn assignments_path(&self) -> PathBuf {
        self.options.dir.join("assignments.json")
    }

    /// Keeps the assignments for a restart without masters.
    pub(crate) fn save(&self) {
        let _saving = self.saving.lock();
        let pods: Vec<Value> = self
            .pods
            .lock()
            .values()
            .map(|sender| {
                let a = sender.borrow();
                json!({"pod": a.pod, "objects": a.objects, "removed": a.removed})
            })
            .collect();
        let (epoch, revision) = *self.newest.lock();
        let text = json!({"epoch": epoch, "revision": revision, "pods": pods}).to_string();
        if let Err(error) = runtime::files::replace(&self.assignments_path(), text) {
            tracing::warn!(%error, "the assignments could not be kept on disk");
        }
    }

    fn load(&self) -> Vec<Assignment> {
        let Ok(bytes) = std::fs::read(self.assignments_path()) else { return Vec::new() };
        let saved: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        *self.newest.lock() = (saved.at("epoch").as_u64().unwrap_or(0), saved.at("revision").as_u64().unwrap_or(0));
        let assignment = |item: &Value| Assignment {
            pod: item.at("pod").clone(),
            objects: item.items("objects").to_vec(),
            removed: item.at("removed") == true,
        };
        saved.items("pods").iter().map(assignment).collect()
    }
}

/// Starts or updates the task of a pod.
pub(crate) fn assign(shared: &Arc<Shared>, assignment: Assignment) {
    let uid = assignment.uid();
    let mut pods = shared.pods.lock();
    match pods.get(&uid) {
        Some(sender) => {
            sender.send_replace(assignment);
        }
        None => {
            let (sender, receiver) = watch::channel(assignment);
            pods.insert(uid.clone(), sender);
            let shared = shared.clone();
            tokio::spawn(async move {
                pod::live(&shared, receiver).await;
                shared.pods.lock().remove(&uid);
                shared.save();
            });
        }
    }
}

/// Acts on assignments from a session; older ones than those acted on are ignored.
pub(crate) async fn accept(shared: &Arc<Shared>, message: pb::Assignments) {
    {
        let mut newest = shared.newest.lock();
        let order = (message.epoch, message.revision);
        if order < *newest {
            tracing::warn!(?order, newest = ?*newest, "older assignments ignored");
            return;
        }
        *newest = order;
    }
    let parse = |bytes: &bytes::Bytes| serde_json::from_slice::<Value>(bytes).ok();
    let mut present = Vec::new();
    for changed in &message.changed {
        let Some(pod) = parse(&changed.pod) else { continue };
        let objects = changed.objects.iter().filter_map(parse).collect();
        let assignment = Assignment { pod, objects, removed: false };
        present.push(assignment.uid());
        assign(shared, assignment);
    }
    let gone: Vec<String> = match message.complete {
        true => shared.pods.lock().keys().filter(|uid| !present.contains(uid)).cloned().collect(),
        false => message.removed.clone(),
    };
    for uid in gone {
        if let Some(sender) = shared.pods.lock().get(&uid) {
            sender.send_modify(|assignment| assignment.removed = true);
        }
    }
    if message.complete {
        remove_strays(shared).await;
    }
    shared.save();
}

/// Sandboxes that belong to no assigned pod: left by a pod that went while we were away.
async fn remove_strays(shared: &Arc<Shared>) {
    shared.refresh().await;
    let worlds = shared.worlds.borrow().clone();
    for sandbox in worlds.iter() {
        if shared.pods.lock().contains_key(&sandbox.uid) {
            continue;
        }
        tracing::info!(pod = %sandbox.name, namespace = %sandbox.namespace, "stopping a pod that is no longer assigned");
        let pod = json!({
            "metadata": {"name": sandbox.name, "namespace": sandbox.namespace, "uid": sandbox.uid},
            "spec": {"containers": []},
        });
        assign(shared, Assignment { pod, objects: Vec::new(), removed: true });
    }
}

/// Runs the worker until `stop` turns true. Pods go on running without it.
pub async fn run(options: Options, mut stop: watch::Receiver<bool>) {
    let (up, up_receiver) = mpsc::channel(UP_MAX);
    let shared = Arc::new(Shared {
        options,
        worlds: watch::Sender::new(Arc::default()),
        unacked: Mutex::default(),
        unacked_changed: watch::Sender::new(0),
        up,
        pods: Mutex::default(),
        newest: Mutex::default(),
        peers: watch::Sender::new(pb::Peers::default()),
        health: watch::Sender::new(None),
        saving: Mutex::default(),
        refreshing: tokio::sync::Mutex::default(),
    });
    shared.check_health().await;
    shared.refresh().await;
    for assignment in shared.load() {
        assign(&shared, assignment);
    }
    let poll = {
        let shared = shared.clone();
        async move {
            let mut ticks = tokio::time::interval(POLL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut n_ticks = 0_u32;
            loop {
                ticks.tick().await;
                // A runtime that was not ready is asked at every look, so that the node is back soon.
                if n_ticks.is_multiple_of(HEALTH_EVERY) || shared.health.borrow().is_some() {
                    shared.check_health().await;
                }
                n_ticks = n_ticks.wrapping_add(1);
                shared.refresh().await;
            }
        }
    };
    tokio::select! {
        () = poll => {}
        () = network::keep(&shared) => {}
        () = logs::keep_short(&shared) => {}
        () = session::keep(&shared, up_receiver) => {}
        _ = async { drop(stop.wait_for(|stop| *stop).await) } => {}
    }
}
