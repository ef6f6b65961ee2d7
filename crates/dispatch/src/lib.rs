//! The masters' side of the workers: sessions, liveness, status intake, and the relay of log and
//! exec streams.

pub mod addresses;
mod assigned;
mod intake;
mod liveness;
mod networks;
mod relay;
mod session;
#[cfg(test)]
mod tests;

pub use intake::BOOT_ID;
pub use liveness::Liveness;
pub use relay::{RelayService, ask};
pub use session::DispatchService;

use crate::networks::Networks;
use api::WorkerCall;
use async_trait::async_trait;
use front::workers::{FRAMES_MAX, Frame, WorkerStream, Workers};
use objects::Status;
use parking_lot::Mutex;
use protos::dispatch as pb;
use protos::dispatch::to_worker;
use state::View;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A worker that is asked for a stream opens it within this.
const STREAM_OPEN_MAX: Duration = Duration::from_secs(5);
/// Messages waiting for one worker; a session that lets more pile up is ended, and begins anew.
pub(crate) const DOWN_MAX: usize = 256;

type Down = mpsc::Sender<Result<pb::ToWorker, tonic::Status>>;

/// Finds the peer masters to ask for sessions they hold.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    async fn relay(&self, call: &WorkerCall, open: pb::OpenStream) -> Option<Result<WorkerStream, Status>>;
}

/// The sessions this master holds.
pub struct Hub {
    sessions: Mutex<BTreeMap<String, (u64, Down)>>,
    /// Streams asked for and not yet opened, by id, with the node that is to open each.
    waiting: Mutex<BTreeMap<String, (String, oneshot::Sender<WorkerStream>)>>,
    next: AtomicU64,
    pub liveness: Arc<Liveness>,
    networks: Mutex<networks::Newest>,
    peers: Mutex<Option<Arc<dyn Peers>>>,
}

impl Hub {
    pub fn new(liveness: Arc<Liveness>) -> Arc<Hub> {
        Arc::new(Hub {
            sessions: Mutex::default(),
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            liveness,
            networks: Mutex::default(),
            peers: Mutex::default(),
        })
    }

    pub fn set_peers(&self, peers: Arc<dyn Peers>) {
        *self.peers.lock() = Some(peers);
    }

    /// The pod networks as of `view`, or newer.
    pub(crate) fn networks(&self, view: &View) -> Arc<Networks> {
        self.networks.lock().as_of(view)
    }

    /// Registers a session, replacing an older one of the same node.
    pub(crate) fn register(&self, node: &str, down: Down) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.sessions.lock().insert(node.into(), (number, down));
        number
    }

    pub(crate) fn unregister(&self, node: &str, number: u64) {
        let mut sessions = self.sessions.lock();
        if sessions.get(node).is_some_and(|(current, _)| *current == number) {
            sessions.remove(node);
        }
    }

    /// Opens a stream through a session held here; `None` when there is none.
    pub async fn open_here(&self, node: &str, mut open: pb::OpenStream) -> Option<Result<WorkerStream, Status>> {
        let down = self.sessions.lock().get(node).map(|(_, down)| down.clone())?;
        open.id = format!("{:x}-{:x}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        let id = open.id.clone();
        let (sender, opened) = oneshot::channel();
        self.waiting.lock().insert(id.clone(), (node.to_string(), sender));
        let message = pb::ToWorker { message: Some(to_worker::Message::OpenStream(open)) };
        if down.send(Ok(message)).await.is_err() {
            self.waiting.lock().remove(&id);
            return None;
        }
        let result = tokio::time::timeout(STREAM_OPEN_MAX, opened).await;
        self.waiting.lock().remove(&id);
        Some(match result {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(_)) | Err(_) => Err(Status::unavailable(format!("node {node} did not open the stream in time"))),
        })
    }

    /// A worker has come with a stream that it was asked for; what another was asked for is not its.
    pub(crate) fn opened(&self, node: &str, id: &str) -> Option<(mpsc::Receiver<Frame>, mpsc::Sender<Frame>)> {
        let mut all = self.waiting.lock();
        let (_, waiting) = all.get(id).is_some_and(|(asked, _)| asked == node).then(|| all.remove(id)).flatten()?;
        let (to_worker, from_client) = mpsc::channel(FRAMES_MAX);
        let (to_client, from_worker) = mpsc::channel(FRAMES_MAX);
        waiting.send(WorkerStream { to_worker, from_worker }).ok()?;
        Some((from_client, to_client))
    }
}

#[async_trait]
impl Workers for Hub {
    async fn open(&self, call: &WorkerCall) -> Result<WorkerStream, Status> {
        let open = pb::OpenStream {
            id: String::new(),
            what: call.what.clone(),
            pod_uid: call.uid.clone(),
            container: call.container.clone(),
            params: call
                .params
                .iter()
                .map(|(name, value)| pb::Param { name: name.clone(), value: value.clone() })
                .collect(),
        };
        if let Some(stream) = self.open_here(&call.node, open.clone()).await {
            return stream;
        }
        let peers = self.peers.lock().clone();
        if let Some(peers) = peers
            && let Some(stream) = peers.relay(call, open).await
        {
            return stream;
        }
        Err(Status::unavailable(format!("node {} has no session with any master that answers", call.node)))
    }
}
