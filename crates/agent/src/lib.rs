//! The worker: one session with the masters, one task per pod, `podlife` deciding for each.
//!
//! Nothing here needs a master to keep alive what already runs: assignments are kept on disk and
//! acted on whether or not a session is open.

mod assignments;
mod environment;
mod epoch;
mod events;
mod hook;
mod http_get;
mod images;
mod kept;
mod last_words;
mod logs;
mod masters;
mod names;
mod network;
mod node;
mod pod;
mod probe;
mod published;
mod session;
mod sources;
mod start;
mod stop;
mod streams;
mod usage;
mod volumes;

pub use masters::{Incoming, Masters, TonicMasters};
pub use network::NetworkOptions;
pub use node::{Machine, NodeOptions};
pub use podlife::Thresholds as ImageThresholds;

use assignments::Assignment;
use objects::Timestamp;
use objects::selector::Labels;
use parking_lot::Mutex;
use protos::dispatch as pb;
use runtime::{Runtime, SandboxInfo};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
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
    /// When images that nobody uses are removed.
    pub images: podlife::Thresholds,
    /// The process runtime cannot mount; pods are warned instead.
    pub can_mount: bool,
    /// Where pods have a network of their own; without it they share the node's.
    pub network: Option<NetworkOptions>,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub boot_id: String,
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
    /// The node's labels as the masters last told them.
    pub(crate) labels: Mutex<Option<Labels>>,
    pub(crate) n_events: AtomicU64,
    pub(crate) peers: watch::Sender<pb::Peers>,
    pub(crate) health: watch::Sender<Option<String>>,
    /// Held while an assignment is written, so that an older one never lands on a newer one.
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
        labels: Mutex::default(),
        n_events: AtomicU64::default(),
        peers: watch::Sender::new(pb::Peers::default()),
        health: watch::Sender::new(None),
        saving: Mutex::default(),
        refreshing: tokio::sync::Mutex::default(),
    });
    shared.check_health().await;
    shared.refresh().await;
    assignments::resume(&shared);
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
        () = images::keep_few(&shared) => {}
        () = session::keep(&shared, up_receiver) => {}
        _ = async { drop(stop.wait_for(|stop| *stop).await) } => {}
    }
}
