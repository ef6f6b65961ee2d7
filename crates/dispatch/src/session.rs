//! A worker's session: assignments down, reports up.

use crate::assigned::{Assigned, Due};
use crate::networks::Networks;
use crate::{DOWN_MAX, Down, Hub, intake};
use front::Front;
use front::listen::Caller;
use front::workers::Frame;
use futures::{Stream, StreamExt};
use objects::{Key, registry};
use protos::dispatch as pb;
use protos::dispatch::dispatch_server::{Dispatch, DispatchServer};
use protos::dispatch::{from_worker, to_worker};
use state::View;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use stdx::Backoff;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A session whose worker is not heard for this long is ended.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Between two tries to store a report, while there is no leader or it is overloaded.
const RETRY: Backoff = Backoff::new(20, 1_000);

pub struct DispatchService {
    front: Front,
    hub: Arc<Hub>,
    epoch: u64,
}

type ToWorker = Result<pb::ToWorker, Status>;

impl DispatchService {
    /// `epoch` orders assignments across restores of the cluster from a backup.
    pub fn new(front: Front, hub: Arc<Hub>, epoch: u64) -> DispatchService {
        DispatchService { front, hub, epoch }
    }

    pub fn server(front: Front, hub: Arc<Hub>, epoch: u64) -> DispatchServer<DispatchService> {
        DispatchServer::new(DispatchService::new(front, hub, epoch))
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20)
    }

    /// Holds the session of a worker, whatever carries it, until one of its ends is dropped. `incoming`
    /// begins with a hello.
    pub async fn open(
        &self,
        node: String,
        mut incoming: impl Stream<Item = Result<pb::FromWorker, Status>> + Send + Unpin + 'static,
    ) -> Result<mpsc::Receiver<ToWorker>, Status> {
        let first =
            incoming.next().await.ok_or_else(|| Status::invalid_argument("the session ended before its hello"))??;
        let Some(from_worker::Message::Hello(hello)) = first.message else {
            return Err(Status::invalid_argument("the first message of a session must be a hello"));
        };
        if hello.epoch > self.epoch {
            tracing::error!(%node, own = self.epoch, newer = hello.epoch, "a worker serves a newer epoch: this group was replaced");
            return Err(Status::failed_precondition(format!(
                "this master is of epoch {}, which epoch {} has replaced",
                self.epoch, hello.epoch
            )));
        }
        intake::hello(&self.front, &node, &hello).await.map_err(|status| match status.code {
            403 => Status::permission_denied(status.message),
            500.. => Status::unavailable(status.message),
            _ => Status::invalid_argument(status.message),
        })?;
        crate::addresses::ensure(&self.front, &node).await.map_err(|status| Status::unavailable(status.message))?;
        let (down, receiver) = mpsc::channel(DOWN_MAX);
        let number = self.hub.register(&node, down.clone());
        self.hub.liveness.beat(&node);
        tracing::info!(%node, "worker session opened");
        let (front, hub, epoch) = (self.front.clone(), self.hub.clone(), self.epoch);
        tokio::spawn(async move {
            tokio::select! {
                () = take_in(&front, &hub, &node, &hello.boot_id, incoming, &down) => {}
                () = send_assignments(&front, &hub, epoch, &node, &down) => {}
                () = down.closed() => {}
                () = front.store.leaderless() => tracing::info!(%node, "no leader: the session is ended so that the worker moves"),
            }
            hub.unregister(&node, number);
            hub.liveness.session_ended(&node);
            tracing::info!(%node, "worker session closed");
        });
        Ok(receiver)
    }
}

/// The node a caller speaks for.
fn node_of<T>(request: &Request<T>) -> Result<String, Status> {
    let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
    let identity = caller.ok_or_else(|| Status::unauthenticated("a worker's certificate is needed"))?;
    match identity.node() {
        Some(node) => Ok(node.to_string()),
        None => Err(Status::permission_denied(format!("user {:?} is not a worker", identity.user))),
    }
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Dispatch for DispatchService {
    type SessionStream = Outgoing<pb::ToWorker>;

    async fn session(
        &self,
        request: Request<Streaming<pb::FromWorker>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = node_of(&request)?;
        let receiver = self.open(node, request.into_inner()).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type StreamStream = Outgoing<pb::Frame>;

    async fn stream(&self, request: Request<Streaming<pb::Frame>>) -> Result<Response<Self::StreamStream>, Status> {
        let node = node_of(&request)?;
        let mut incoming = request.into_inner();
        let first = incoming.next().await.ok_or_else(|| Status::invalid_argument("a stream starts with its id"))??;
        let id = String::from_utf8_lossy(&first.data).into_owned();
        let (from_client, to_client) =
            self.hub.opened(&node, &id).ok_or_else(|| Status::not_found("no such stream is waited for"))?;
        tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.next().await {
                if to_client.send(Frame { channel: frame.channel, data: frame.data }).await.is_err() {
                    return;
                }
            }
        });
        let outgoing =
            ReceiverStream::new(from_client).map(|frame| Ok(pb::Frame { channel: frame.channel, data: frame.data }));
        Ok(Response::new(Box::pin(outgoing)))
    }
}

async fn take_in(
    front: &Front,
    hub: &Arc<Hub>,
    node: &str,
    boot_id: &str,
    mut incoming: impl Stream<Item = Result<pb::FromWorker, Status>> + Unpin,
    down: &Down,
) {
    loop {
        let message = match tokio::time::timeout(SILENCE_MAX, incoming.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return tracing::debug!(%node, %error, "session failed"),
            Ok(None) => return,
            Err(_) => return tracing::info!(%node, "worker is silent"),
        };
        hub.liveness.beat(node);
        match message.message {
            Some(from_worker::Message::Heartbeat(_)) | Some(from_worker::Message::Hello(_)) => {}
            Some(from_worker::Message::PodStatus(report)) => {
                // The worker sends a pod's next report once this one is acknowledged; different pods
                // need not wait for each other.
                let (front, node, down) = (front.clone(), node.to_string(), down.clone());
                let boot_id = boot_id.to_string();
                tokio::spawn(async move {
                    let (uid, sequence) = (report.uid.clone(), report.sequence);
                    let mut n_failures = 0;
                    let stored = loop {
                        match intake::pod_status(&front, &node, &boot_id, &report).await {
                            Ok(()) => break true,
                            Err(status) if status.code < 500 => {
                                tracing::warn!(%node, %status, "a pod status was refused");
                                break true;
                            }
                            Err(status) => tracing::debug!(%node, %status, "a pod status is not stored yet"),
                        }
                        n_failures += 1;
                        // A worker that is gone says it again to the next master.
                        tokio::select! {
                            () = down.closed() => break false,
                            () = tokio::time::sleep(Duration::from_millis(RETRY.delay_ms(n_failures))) => {}
                        }
                    };
                    if stored {
                        let ack = to_worker::Message::Ack(pb::Ack { uid, sequence });
                        drop(down.send(Ok(pb::ToWorker { message: Some(ack) })).await);
                    }
                });
            }
            Some(from_worker::Message::NodeStatus(report)) => {
                if let Err(status) = intake::node_status(front, node, &report).await {
                    tracing::debug!(%node, %status, "a node status was not stored; the next one will be");
                }
            }
            Some(from_worker::Message::Event(report)) => {
                let (front, node) = (front.clone(), node.to_string());
                tokio::spawn(async move {
                    if let Err(status) = intake::event(&front, &node, &report).await {
                        tracing::debug!(%status, "an event was not stored");
                    }
                });
            }
            None => tracing::warn!(%node, "a message of an unknown kind; this master is older than the worker"),
        }
    }
}

async fn send_assignments(front: &Front, hub: &Hub, epoch: u64, node: &str, down: &Down) {
    let mut pods = front.store.watch(registry::POD);
    let mut maps = front.store.watch(registry::CONFIG_MAP);
    let mut secrets = front.store.watch(registry::SECRET);
    let mut nodes = front.store.watch(registry::NODE);
    // The opening set is the truth as of now: without a quorum none is sent.
    let Ok(mut view) = front.store.read().await else { return };
    let own = Key::new(registry::NODE, "", node);
    let uid = |view: &View| view.get(&own).map(|record| record.header.uid.clone());
    let registered = uid(&view);
    let mut assigned = Assigned::new(node);
    let mut told: Option<Arc<Networks>> = None;
    let mut complete = true;
    loop {
        // The session's hello had stored the Node. Whoever deletes it while its worker lives sees it come
        // back, registered anew, with the worker's next session: it is not in a limbo of its own. One that is there again
        // at the next look is another, without the pod network that a session's beginning gives.
        if registered.is_none() || uid(&view) != registered {
            return tracing::info!(%node, "its Node was deleted: the session is ended so that the worker registers again");
        }
        let Due { changed, removed } = assigned.due(&view);
        if complete || !changed.is_empty() || !removed.is_empty() {
            let revision = view.revision().0;
            let node_labels = labels(&view, node);
            let message = pb::Assignments { epoch, revision, complete, changed, removed, node_labels };
            let message = pb::ToWorker { message: Some(to_worker::Message::Assignments(message)) };
            if down.send(Ok(message)).await.is_err() {
                return;
            }
            complete = false;
        }
        let networks = hub.networks(&view);
        if !told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &networks)) {
            if let Some(peers) = networks.told_to(node) {
                let message = to_worker::Message::Peers(peers);
                if down.send(Ok(pb::ToWorker { message: Some(message) })).await.is_err() {
                    return;
                }
            }
            told = Some(networks);
        }
        // Who waits with a view keeps in memory whatever is replaced meanwhile.
        drop(view);
        let changed = tokio::select! {
            changed = pods.changed() => changed,
            changed = maps.changed() => changed,
            changed = secrets.changed() => changed,
            changed = nodes.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        view = front.store.view();
    }
}

/// The labels of a node.
fn labels(view: &View, node: &str) -> HashMap<String, String> {
    let record = view.get(&Key::new(registry::NODE, "", node));
    let labels = record.into_iter().flat_map(|record| &record.header.labels);
    labels.map(|(key, value)| (key.to_string(), value.to_string())).collect()
}
