//! What runs on a master beside consensus, wired as `balsa::master` wires it: the front, the worker
//! sessions and the manager.

use crate::cluster::Cluster;
use crate::desk::Desk;
use crate::network::Host;
use api::WorkerCall;
use async_trait::async_trait;
use controllers::Facts;
use dispatch::{DispatchService, Hub, Liveness};
use front::Front;
use front::workers::{WorkerStream, Workers};
use manager::FactSource;
use objects::{Key, Status, Timestamp, json, registry};
use raft_node::Node;
use std::sync::Arc;
use std::time::Duration;

/// Followers tell the leader of their workers this often.
const BEATS_EVERY: Duration = Duration::from_millis(500);

/// The cluster was not restored from a backup.
const EPOCH: u64 = 1;

#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) front: Front,
    pub(crate) dispatch: Arc<DispatchService>,
    liveness: Arc<Liveness>,
}

/// Logs and commands are not played.
struct NoStreams;

#[async_trait]
impl Workers for NoStreams {
    async fn open(&self, _: &WorkerCall) -> Result<WorkerStream, Status> {
        Err(Status::unavailable("the simulator has no streams"))
    }
}

struct LeaderFacts {
    liveness: Arc<Liveness>,
    front: Front,
}

impl FactSource for LeaderFacts {
    fn facts(&self) -> Facts {
        let view = self.front.store.view();
        let nodes = view.list(registry::NODE, "", None).map(|record| record.key.name.to_string());
        Facts { silent_ms: self.liveness.silent_ms(nodes), ca: "CA".into() }
    }

    fn took_office(&self) {
        self.liveness.start_window();
    }
}

impl Office {
    pub(crate) fn open(
        cluster: &Arc<Cluster>,
        master: usize,
        node: &Node,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Office {
        let store = node.store();
        let desk = Desk { cluster: Arc::downgrade(cluster), master, store: store.clone(), twin: cluster.twin };
        let store = store.through(Arc::new(desk));
        let front = Front::new(store, Arc::new(NoStreams), clock, cluster.fork_rng().next_u64());
        let liveness = Arc::new(Liveness::default());
        let dispatch = Arc::new(DispatchService::new(front.clone(), Hub::new(liveness.clone()), EPOCH));
        Office { front, dispatch, liveness }
    }

    /// Runs the manager, and tells the leader of the workers' beats, until the boot ends.
    pub(crate) async fn keep(self, host: Host) {
        let facts = Arc::new(LeaderFacts { liveness: self.liveness.clone(), front: self.front.clone() });
        tokio::select! {
            biased;
            () = host.ended() => {}
            () = manager::run(self.front.clone(), facts) => {}
            () = send_beats(&host.node, &self.liveness) => {}
            () = take_beats(&host.node, &self.liveness) => {}
            () = found(&self.front) => {}
        }
    }
}

async fn send_beats(node: &Node, liveness: &Liveness) {
    let mut ticks = tokio::time::interval(BEATS_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let leader = node.status().leader;
        if leader.is_some() && leader != Some(node.id()) {
            // Lost ones are superseded by the next.
            drop(node.send_beats(liveness.own_silent_ms()).await);
        }
    }
}

async fn take_beats(node: &Node, liveness: &Liveness) {
    loop {
        liveness.reported(node.beats().await);
    }
}

/// Writes down what the pods' network is, as `balsa init` does, once there is a place for it.
async fn found(front: &Front) {
    let key = Key::new(registry::CONFIG_MAP, dispatch::addresses::NAMESPACE, dispatch::addresses::NAME);
    let home = Key::new(registry::NAMESPACE, "", dispatch::addresses::NAMESPACE);
    let mut changes = front.store.revisions();
    loop {
        let view = front.store.view();
        if view.get(&key).is_some() {
            return std::future::pending().await;
        }
        if view.get(&home).is_some() {
            let kind = registry::must(registry::CONFIG_MAP);
            let mut request =
                api::Request::new(authz::Identity::system(), api::Verb::Create, objects::Served::stored(kind));
            request.namespace = key.namespace.to_string();
            let data = json!({dispatch::addresses::CLUSTER_CIDRS: "10.244.0.0/16"});
            request.body.value = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": key.name.as_str(), "namespace": key.namespace.as_str()}, "data": data});
            // Another master may be faster, and a failure is tried again at the next change.
            drop(front.call(&request).await);
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
