//! Forwarding of proposals to the leader: what waits while one message is on its way shares the next.

use crate::node::{Attempt, TRY};
use crate::transport::{Lane, PeerReply, PeerRequest, Transport, TransportError};
use crate::types::Command;
use bytes::Bytes;
use parking_lot::Mutex;
use protos::raft as pb;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Messages on their way to one leader: two keep it busy while the answers of one travel back.
const MESSAGES_MAX: usize = 2;
/// Proposals and bytes of one message, at most: an append of the leader's is no larger.
const PROPOSALS_MAX: usize = 512;
const BYTES_MAX: usize = 1 << 20;

pub(crate) struct Forwarder {
    cluster_id: String,
    transport: Arc<dyn Transport>,
    /// By leader; a queue lives while it is worked on.
    queues: Mutex<BTreeMap<u64, Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    n_senders: usize,
}

/// A transaction as the leader takes it, and who waits for what becomes of it.
type Waiting = (Bytes, oneshot::Sender<Attempt>);

/// What fits into one message; one proposal always does.
fn take(queue: &mut Queue) -> Vec<Waiting> {
    let (mut taken, mut n_bytes) = (Vec::new(), 0);
    while let Some((txn, answer)) = queue.waiting.pop_front() {
        // Whoever asked may have given up, and asks again under the same request id.
        if answer.is_closed() {
            continue;
        }
        if !taken.is_empty() && (n_bytes + txn.len() > BYTES_MAX || taken.len() == PROPOSALS_MAX) {
            queue.waiting.push_front((txn, answer));
            break;
        }
        n_bytes += txn.len();
        taken.push((txn, answer));
    }
    taken
}

impl Forwarder {
    pub(crate) fn new(cluster_id: String, transport: Arc<dyn Transport>) -> Forwarder {
        Forwarder { cluster_id, transport, queues: Mutex::default() }
    }

    /// Proposes at the leader `id`, and returns what became of it there.
    pub(crate) async fn propose(self: &Arc<Self>, id: u64, addr: String, command: &Command) -> Attempt {
        let (answer, answered) = oneshot::channel();
        let starts = {
            let mut queues = self.queues.lock();
            let queue = queues.entry(id).or_default();
            queue.waiting.push_back((command.forwarded(), answer));
            let starts = queue.n_senders < MESSAGES_MAX;
            queue.n_senders += usize::from(starts);
            starts
        };
        if starts {
            tokio::spawn(self.clone().send(id, addr));
        }
        answered.await.unwrap_or_else(|_| Attempt::Unknown("this master is stopping".into()))
    }

    /// Sends what waits for the leader `id`, message by message, until nothing does.
    async fn send(self: Arc<Self>, id: u64, addr: String) {
        while let Some(taken) = self.next(id) {
            let to = Some(pb::To { cluster_id: self.cluster_id.clone(), node_id: id });
            let request = match &taken[..] {
                [(txn, _)] => PeerRequest::Propose(pb::ProposeRequest { to, txn: txn.clone() }),
                several => {
                    let txns = several.iter().map(|(txn, _)| txn.clone()).collect();
                    PeerRequest::ProposeBatch(pb::ProposeBatchRequest { to, txns })
                }
            };
            let reply = self.transport.call(Lane::Client, &addr, request, TRY).await;
            for (i, (_, answer)) in taken.into_iter().enumerate() {
                // Who asked may have given up meanwhile.
                drop(answer.send(attempt(&reply, i)));
            }
        }
    }

    /// The next message; without one, its sender is done.
    fn next(&self, id: u64) -> Option<Vec<Waiting>> {
        let mut queues = self.queues.lock();
        let queue = queues.get_mut(&id)?;
        let taken = take(queue);
        if taken.is_empty() {
            queue.n_senders -= 1;
            if queue.n_senders == 0 {
                queues.remove(&id);
            }
            return None;
        }
        Some(taken)
    }
}

/// What the reply says of the `i`th proposal of its message.
fn attempt(reply: &Result<PeerReply, TransportError>, i: usize) -> Attempt {
    match reply {
        Err(TransportError::Unreachable(why)) => Attempt::NotAppended(why.clone()),
        Err(TransportError::Failed(why)) => Attempt::Unknown(why.clone()),
        Ok(PeerReply::Propose(answer)) => Attempt::answered(answer),
        Ok(PeerReply::ProposeBatch(reply)) => match reply.answers.get(i) {
            Some(answer) => Attempt::answered(answer),
            None => Attempt::Unknown("the leader answered fewer proposals than it was sent".into()),
        },
        Ok(_) => Attempt::Unknown("the leader answered something else".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_what_fits_and_skips_who_gave_up() {
        let mut queue = Queue::default();
        let mut kept = Vec::new();
        for n_bytes in [BYTES_MAX + 1, 10, 20, BYTES_MAX, 30] {
            let (answer, answered) = oneshot::channel();
            queue.waiting.push_back((Bytes::from(vec![0; n_bytes]), answer));
            // Who asked with 20 bytes has gone.
            kept.extend((n_bytes != 20).then_some(answered));
        }
        let mut sizes = || take(&mut queue).iter().map(|(txn, _)| txn.len()).collect::<Vec<_>>();
        assert_eq!(sizes(), [BYTES_MAX + 1]);
        assert_eq!(sizes(), [10]);
        assert_eq!(sizes(), [BYTES_MAX]);
        assert_eq!(sizes(), [30]);
        assert!(sizes().is_empty());
    }

    #[test]
    fn every_proposal_gets_its_own_answer() {
        let answer = |not_leader: &str| pb::ProposeResponse { not_leader: not_leader.into(), ..Default::default() };
        let reply = pb::ProposeBatchResponse { answers: vec![answer("a"), answer("b")] };
        let reply = Ok(PeerReply::ProposeBatch(reply));
        assert!(matches!(attempt(&reply, 1), Attempt::NotAppended(why) if why == "b"));
        assert!(matches!(attempt(&reply, 2), Attempt::Unknown(_)));
        let lost = Err(TransportError::Failed("lost".into()));
        assert!(matches!(attempt(&lost, 0), Attempt::Unknown(_)));
        let refused = Err(TransportError::Unreachable("down".into()));
        assert!(matches!(attempt(&refused, 0), Attempt::NotAppended(_)));
    }
}
