//! The pipe of one leader's appends to one peer: what is on its way, and when the next request leaves.
//!
//! A request that carries entries leaves when no other does: what is appended meanwhile shares the next one
//! and its fsync. One that only tells a newer commit index holds nobody up, or a lone client's next write
//! would wait for its round trip.

use crate::network::{Peer, append_response, rpc_error};
use crate::transport::{TransportError, append_timeout};
use crate::types::{LogId, TypeConfig};
use futures::StreamExt;
use futures::channel::mpsc;
use futures::stream::{self, BoxStream};
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};
use prost::Message;
use protos::raft as pb;
use std::collections::VecDeque;
use std::pin::Pin;
use tokio::time::Instant;

/// Requests on their way, at most: one with entries, and commit indexes that were told before and after it.
pub(crate) const IN_FLIGHT_MAX: usize = 8;

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;
/// What openraft is given: answers to come, which can be had at once.
pub(crate) type Opening<'a> =
    Pin<Box<dyn Future<Output = Result<BoxStream<'a, Answer>, RPCError<TypeConfig>>> + Send + 'a>>;

/// A request on its way: the log ids before and at the end of its entries, and until when it is to be answered.
struct Sent {
    prev: Option<LogId>,
    last: Option<LogId>,
    until: Instant,
}

impl Sent {
    fn carries(&self) -> bool {
        self.prev != self.last
    }
}

/// Whether another request may leave beside these.
fn may_send(sent: &VecDeque<Sent>) -> bool {
    sent.len() < IN_FLIGHT_MAX && !sent.iter().any(Sent::carries)
}

pub(crate) struct Pipe<'a> {
    peer: &'a Peer,
    /// None once it has ended.
    requests: Option<BoxStream<'static, AppendEntriesRequest<TypeConfig>>>,
    sender: mpsc::Sender<pb::AppendRequest>,
    answers: BoxStream<'a, Result<pb::AppendResponse, TransportError>>,
    sent: VecDeque<Sent>,
}

impl<'a> Pipe<'a> {
    pub(crate) fn open(peer: &'a Peer, requests: BoxStream<'static, AppendEntriesRequest<TypeConfig>>) -> Pipe<'a> {
        let (sender, sending) = mpsc::channel(IN_FLIGHT_MAX);
        let answers = peer.network.transport.appends(&peer.addr, sending);
        Pipe { peer, requests: Some(requests), sender, answers, sent: VecDeque::new() }
    }

    /// The answers, in the order of the requests. What is no success is the last.
    pub(crate) fn answers(self) -> BoxStream<'a, Answer> {
        let next = |pipe: Option<Pipe<'a>>| async move {
            let mut pipe = pipe?;
            let answer = pipe.next().await?;
            let goes_on = matches!(&answer, Ok((Ok(matching), last)) if matching == last);
            Some((answer.map(|(result, _)| result), goes_on.then_some(pipe)))
        };
        stream::unfold(Some(self), next).boxed()
    }

    /// The next answer and the last log id of its request; `None` when all are answered and no more will come.
    async fn next(&mut self) -> Option<Result<(StreamAppendResult<TypeConfig>, Option<LogId>), RPCError<TypeConfig>>> {
        loop {
            let until = self.sent.front().map(|sent| sent.until);
            if until.is_none() && self.requests.is_none() {
                return None;
            }
            let late = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let may_send = may_send(&self.sent);
            let request = async {
                match &mut self.requests {
                    Some(requests) if may_send => requests.next().await,
                    Some(_) | None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = self.answers.next(), if until.is_some() => return Some(self.answered(answer)),
                request = request => match request {
                    Some(request) if self.is_overdue(&request) => {
                        return Some(Err(failed("it is to be sent a checkpoint: these entries are overdue to go")));
                    }
                    Some(request) => match self.known(&request) {
                        Some(answer) => return Some(Ok(answer)),
                        None => self.send(request),
                    },
                    None => self.requests = None,
                },
                () = late => return Some(Err(failed("no answer in time"))),
            }
        }
    }

    fn is_overdue(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        request.entries.first().is_some_and(|entry| self.peer.network.log.is_overdue(entry.log_id.index))
    }

    /// The answer that is known without asking the peer. In their order, so none while others are to come.
    fn known(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Option<(StreamAppendResult<TypeConfig>, Option<LogId>)> {
        let matching = self.sent.is_empty().then(|| self.peer.known(request))??;
        let last = request.entries.last().map(|entry| entry.log_id);
        Some((Ok(Some(matching)), last))
    }

    fn send(&mut self, request: AppendEntriesRequest<TypeConfig>) {
        let last = request.entries.last().map(|entry| entry.log_id);
        let message = self.peer.append_request(&request);
        // Also for one without entries: its lateness would take the entries behind it down. That a peer is dead,
        // heartbeats tell, on a connection of their own.
        let until = Instant::now() + append_timeout(message.encoded_len());
        let sent = Sent { prev: request.prev_log_id, last: last.or(request.prev_log_id), until };
        self.sent.push_back(sent);
        // Full it cannot be; closed it is when the peer has hung up, which its answers say.
        drop(self.sender.try_send(message));
    }

    fn answered(
        &mut self,
        answer: Option<Result<pb::AppendResponse, TransportError>>,
    ) -> Result<(StreamAppendResult<TypeConfig>, Option<LogId>), RPCError<TypeConfig>> {
        let answer = append_response(answer.ok_or_else(|| failed("the peer hung up"))?.map_err(rpc_error)?);
        let Sent { prev, last, .. } = self.sent.pop_front().ok_or_else(|| failed("an answer to nothing"))?;
        if prev.is_none() && matches!(answer, AppendEntriesResponse::Conflict) {
            return Err(failed("a conflict before the first entry"));
        }
        let result = answer.into_stream_result(prev, last);
        if let Ok(Some(matching)) = &result {
            self.peer.note_matched(*matching);
        }
        Ok((result, last))
    }
}

fn failed(why: &str) -> RPCError<TypeConfig> {
    rpc_error(TransportError::Failed(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::impls::leader_id_adv::LeaderId;

    fn sent(prev: u64, last: u64) -> Sent {
        let log_id = |index| Some(LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index });
        Sent { prev: log_id(prev), last: log_id(last), until: Instant::now() }
    }

    #[test]
    fn entries_wait_for_entries_and_for_nothing_else() {
        let may = |pairs: &[(u64, u64)]| may_send(&pairs.iter().map(|(prev, last)| sent(*prev, *last)).collect());
        assert!(may(&[]));
        assert!(may(&[(5, 5)]));
        assert!(!may(&[(5, 6)]));
        assert!(!may(&[(5, 5), (5, 6)]));
        assert!(!may(&[(5, 5); IN_FLIGHT_MAX]), "a peer that takes no commit index is not told more");
    }
}
