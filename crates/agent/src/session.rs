//! The one session with a master: any of them; the next one when it ends.

use crate::assignments::accept;
use crate::{Shared, node, streams};
use futures::StreamExt;
use protos::dispatch as pb;
use protos::dispatch::{from_worker, to_worker};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A heartbeat every second: the leader calls a node silent after four.
const BEAT: Duration = Duration::from_secs(1);
/// The node's status is reported this often even when nothing changed.
const NODE_STATUS_EVERY: Duration = Duration::from_secs(10);
/// The first one of a session comes sooner: the leader may have called the node silent until just now.
const NODE_STATUS_FIRST: Duration = Duration::from_millis(1500);
/// A master that has not taken the connection and the hello by then is passed over.
const OPEN_MAX: Duration = Duration::from_secs(4);
/// Between two tries of the same list of masters.
const PAUSE: Duration = Duration::from_millis(200);

/// Keeps a session open, for ever.
pub(crate) async fn keep(shared: &Arc<Shared>, mut up: mpsc::Receiver<from_worker::Message>) {
    // Start at a different master on each worker, so that sessions spread.
    let n_masters = shared.options.addresses.len().max(1);
    let mut turn = shared.options.boot_id.bytes().map(usize::from).sum::<usize>() % n_masters;
    loop {
        let master = shared.options.addresses[turn % n_masters].clone();
        turn += 1;
        match hold(shared, &master, &mut up).await {
            Ok(()) => tracing::info!(%master, "the session ended"),
            Err(error) => tracing::debug!(%master, %error, "no session"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn from(message: from_worker::Message) -> pb::FromWorker {
    pb::FromWorker { message: Some(message) }
}

async fn hold(
    shared: &Arc<Shared>,
    master: &str,
    up: &mut mpsc::Receiver<from_worker::Message>,
) -> Result<(), tonic::Status> {
    let (sender, receiver) = mpsc::channel(64);
    let hello = pb::Hello {
        boot_id: shared.options.boot_id.clone(),
        node: node::node(shared).to_string().into(),
        epoch: shared.newest.lock().0,
    };
    let closed = |_| tonic::Status::unavailable("the session closed");
    sender.send(from(from_worker::Message::Hello(hello))).await.map_err(closed)?;
    let mut incoming = tokio::time::timeout(OPEN_MAX, shared.options.masters.session(master, receiver))
        .await
        .map_err(|_| tonic::Status::deadline_exceeded(format!("no session within {} s", OPEN_MAX.as_secs())))??;
    tracing::info!(%master, "session opened");
    let mut beats = tokio::time::interval(BEAT);
    let mut statuses = tokio::time::interval_at(tokio::time::Instant::now() + NODE_STATUS_FIRST, NODE_STATUS_EVERY);
    let mut unacked = shared.unacked_changed.subscribe();
    let mut health = shared.health.subscribe();
    // What earlier sessions did not get acknowledged goes first.
    unacked.mark_changed();
    // One report of a pod at a time, the next once that one is stored: reports never overtake each other.
    let mut in_flight: std::collections::BTreeMap<String, u64> = Default::default();
    loop {
        tokio::select! {
            message = incoming.next() => match message {
                None => return Ok(()),
                Some(message) => {
                    let message = message?;
                    if let Some(to_worker::Message::Ack(ack)) = &message.message {
                        in_flight.remove(&ack.uid);
                        unacked.mark_changed();
                    }
                    handle(shared, master, message).await?;
                }
            },
            _ = beats.tick() => {
                let beat = from_worker::Message::Heartbeat(pb::Heartbeat {});
                sender.send(from(beat)).await.map_err(closed)?;
            }
            _ = statuses.tick() => {
                sender.send(from(node_status(shared))).await.map_err(closed)?;
            }
            _ = health.changed() => {
                sender.send(from(node_status(shared))).await.map_err(closed)?;
            }
            _ = unacked.changed() => {
                unacked.borrow_and_update();
                let fresh: Vec<pb::PodStatus> = {
                    let unacked = shared.unacked.lock();
                    unacked.values().filter(|s| !in_flight.contains_key(&s.uid)).cloned().collect()
                };
                for status in fresh {
                    in_flight.insert(status.uid.clone(), status.sequence);
                    sender.send(from(from_worker::Message::PodStatus(status))).await.map_err(closed)?;
                }
            }
            message = up.recv() => {
                let Some(message) = message else { return Ok(()) };
                sender.send(from(message)).await.map_err(closed)?;
            }
        }
    }
}

fn node_status(shared: &Shared) -> from_worker::Message {
    from_worker::Message::NodeStatus(pb::NodeStatus { status: node::status(shared).to_string().into() })
}

/// An error ends the session.
async fn handle(shared: &Arc<Shared>, master: &str, message: pb::ToWorker) -> Result<(), tonic::Status> {
    match message.message {
        Some(to_worker::Message::Assignments(assignments)) => {
            let (told, newest) = (assignments.epoch, shared.newest.lock().0);
            if told < newest {
                let why = format!("{master} is of epoch {told}, which epoch {newest} has replaced");
                tracing::warn!("{why}; looking for another master");
                return Err(tonic::Status::failed_precondition(why));
            }
            accept(shared, assignments).await;
        }
        Some(to_worker::Message::Ack(ack)) => {
            let mut unacked = shared.unacked.lock();
            if unacked.get(&ack.uid).is_some_and(|status| status.sequence <= ack.sequence) {
                unacked.remove(&ack.uid);
            }
        }
        Some(to_worker::Message::Peers(peers)) => {
            shared.peers.send_replace(peers);
        }
        Some(to_worker::Message::OpenStream(open)) => {
            let (shared, master) = (shared.clone(), master.to_string());
            tokio::spawn(async move {
                if let Err(error) = streams::serve(&shared, &master, open).await {
                    tracing::debug!(%error, "a stream ended");
                }
            });
        }
        None => tracing::warn!("a message of an unknown kind was ignored; this worker is older than its master"),
    }
    Ok(())
}
