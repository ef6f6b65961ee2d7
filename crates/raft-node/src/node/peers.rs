//! What this master answers its peers: appends, votes, snapshots, forwarded proposals and reads.

use super::{Attempt, DEADLINE, Error, Inner, Node};
use crate::aside::aside;
use crate::codec;
use crate::pipe;
use crate::transport::{PeerReply, PeerRequest};
use crate::types::{Command, Snapshot, TypeConfig, is_later};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use parking_lot::Mutex;
use protos::raft as pb;
use std::sync::Arc;

impl Node {
    /// Answers a leader's appends, in their order, each once it is synced. One that is refused ends them, after
    /// the answers to those before it. An append that overtakes another on its way to the core is one without
    /// entries: the leader sends no others side by side.
    pub fn appends(
        &self,
        requests: BoxStream<'static, pb::AppendRequest>,
    ) -> BoxStream<'static, Result<pb::AppendResponse, Error>> {
        let (inner, refusal) = (self.0.clone(), Arc::new(Mutex::new(None)));
        let (checking, refused) = (inner.clone(), refusal.clone());
        let requests = requests.scan((), move |(), request| {
            let request = checking.check(request.to.clone()).and_then(|()| checking.append_request(request));
            std::future::ready(request.map_err(|error| *refused.lock() = Some(error)).ok())
        });
        let answer = move |request| {
            let inner = inner.clone();
            async move {
                let reply = inner.raft.append_entries(request).await;
                reply.map(append_response).map_err(|error| Error::Fatal(error.to_string()))
            }
        };
        let refusal = std::iter::from_fn(move || refusal.lock().take().map(Err));
        requests.map(answer).buffered(pipe::IN_FLIGHT_MAX).chain(stream::iter(refusal)).boxed()
    }

    /// Answers a peer.
    pub async fn handle(&self, request: PeerRequest) -> Result<PeerReply, Error> {
        let inner = &self.0;
        let to = match &request {
            PeerRequest::Append(r) => r.to.clone(),
            PeerRequest::Vote(r) | PeerRequest::PreVote(r) => r.to.clone(),
            PeerRequest::Snapshot { to, .. } => Some(to.clone()),
            PeerRequest::TransferLeader(r) => r.to.clone(),
            PeerRequest::Propose(r) => r.to.clone(),
            PeerRequest::ProposeBatch(r) => r.to.clone(),
            PeerRequest::ReadIndex(r) => r.to.clone(),
            PeerRequest::Beats(r) => r.to.clone(),
            PeerRequest::Greet(r) => r.to.clone(),
        };
        inner.check(to)?;
        let fatal = |error: &dyn std::fmt::Display| Error::Fatal(error.to_string());
        Ok(match request {
            PeerRequest::Append(request) if request.heartbeat => PeerReply::Append(inner.heartbeat(request).await?),
            PeerRequest::Append(request) => {
                let reply = inner.raft.append_entries(inner.append_request(request)?).await;
                PeerReply::Append(append_response(reply.map_err(|error| fatal(&error))?))
            }
            PeerRequest::Vote(request) => {
                let reply = inner.raft.vote(vote_request(request)).await.map_err(|error| fatal(&error))?;
                PeerReply::Vote(vote_response(&reply))
            }
            PeerRequest::PreVote(request) => {
                let reply = inner.raft.pre_vote(vote_request(request)).await.map_err(|error| fatal(&error))?;
                PeerReply::Vote(vote_response(&reply))
            }
            PeerRequest::Snapshot { vote, meta, data, .. } => {
                let meta = codec::meta_from_bytes(&meta).map_err(Error::Storage)?;
                let vote = codec::vote_from_pb(Some(vote));
                // Such a pair ends openraft's core, and with it the process.
                if is_later(&meta, &vote) {
                    return Err(Error::Refused("the snapshot is of a later term than its leader".into()));
                }
                let n_bytes = data.len();
                let knows = inner.feature_level;
                let state = aside(move || state::snapshot::decode(&data, knows)).await;
                let state = state.map_err(|error| fatal(&error))?;
                let state = state.map_err(|error| {
                    // It would be sent again and again.
                    if matches!(error, state::snapshot::Error::FeatureLevel { .. }) {
                        inner.refused.send_replace(Some(error.to_string()));
                    }
                    Error::Refused(error.to_string())
                })?;
                let snapshot = Snapshot { meta, snapshot: state };
                let reply = inner.raft.install_full_snapshot(vote, snapshot).await;
                let vote = reply.map_err(|error| fatal(&error))?.vote;
                tracing::info!(n_bytes, "caught up by snapshot: the log here ended before the leader's begins");
                PeerReply::Snapshot(pb::SnapshotResponse { vote: Some(codec::vote_to_pb(&vote)) })
            }
            PeerRequest::TransferLeader(request) => {
                let from = codec::vote_from_pb(request.from);
                let last = request.last_log_id.map(codec::log_id_from_pb);
                let request = TransferLeaderRequest::new(from, request.target, last);
                let reply = inner.raft.handle_transfer_leader(request).await.map_err(|error| fatal(&error))?;
                let refusal = reply.err().map_or_else(String::new, |error| format!("{error:?}"));
                PeerReply::TransferLeader(pb::TransferLeaderResponse { refusal })
            }
            PeerRequest::Propose(request) => {
                let attempt = match inner.out_of_breath() {
                    Some(refusal) => refusal,
                    None => {
                        let command = Command::from_peer(&request.txn).map_err(Error::Storage)?;
                        let written = tokio::time::timeout(DEADLINE, inner.propose_here(command)).await;
                        written.unwrap_or_else(|_| Attempt::too_late())
                    }
                };
                PeerReply::Propose(attempt.to_pb())
            }
            PeerRequest::ProposeBatch(request) => {
                let attempts = match inner.out_of_breath() {
                    Some(refusal) => vec![refusal; request.txns.len()],
                    None => inner.propose_batch_here(&request.txns).await,
                };
                let answers = attempts.iter().map(Attempt::to_pb).collect();
                PeerReply::ProposeBatch(pb::ProposeBatchResponse { answers })
            }
            PeerRequest::ReadIndex(_) => {
                let mut response = pb::ReadIndexResponse::default();
                match inner.read_index_here().await {
                    Ok(index) => response.index = index,
                    Err(why) => response.not_leader = why,
                }
                PeerReply::ReadIndex(response)
            }
            PeerRequest::Beats(request) => {
                inner.beats.tell(request.silent_ms);
                PeerReply::Beats(pb::BeatsResponse {})
            }
            PeerRequest::Greet(_) => PeerReply::Greet(pb::GreetResponse {}),
        })
    }
}

impl Inner {
    /// Refuses a message that is meant for another.
    fn check(&self, to: Option<pb::To>) -> Result<(), Error> {
        let to = to.unwrap_or_default();
        match to.cluster_id == self.cluster_id && to.node_id == self.id {
            true => Ok(()),
            false => Err(Error::Misdirected { cluster: to.cluster_id, node: to.node_id }),
        }
    }

    /// Answers a heartbeat. openraft does so once all that was appended before it is synced: behind a busy disk a
    /// leader would hear of no quorum in time, though everybody follows it, and refuse writes that are only slow.
    /// So after a while the answer is given for it: that nobody can have been told of a higher vote from here is
    /// all that the leader's lease and its read indexes build on. (Raft, 6.4: a majority heard of after the read
    /// came has elected nobody else before.) What only openraft knows, that the log here has lost its end, it says
    /// on a calmer day, or to the next append.
    async fn heartbeat(&self, request: pb::AppendRequest) -> Result<pb::AppendResponse, Error> {
        let request = self.append_request(request)?;
        let vote = request.vote;
        let answer = self.raft.append_entries(request);
        tokio::pin!(answer);
        // A quarter of what the leader waits for leaves the rest for the way.
        let reply = match tokio::time::timeout(self.heartbeat / 4, &mut answer).await {
            Ok(reply) => reply,
            Err(_) if self.log.promised() == Some(vote) => Ok(AppendEntriesResponse::Success),
            Err(_) => answer.await,
        };
        let response = reply.map(append_response).map_err(|error| Error::Fatal(error.to_string()))?;
        Ok(pb::AppendResponse { feature_level: self.told_level().unwrap_or_default(), ..response })
    }

    /// A leader's append, which is also a sign of life.
    fn append_request(&self, request: pb::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Error> {
        *self.heard.lock() = tokio::time::Instant::now();
        let prev_log_id = request.prev_log_id.map(codec::log_id_from_pb);
        let entries = request.entries.iter().map(codec::entry_from_peer);
        let entries: Vec<crate::types::Entry> = entries.collect::<Result<_, _>>().map_err(|error| {
            // It would be sent again and again, and who cannot follow must not look as if it did.
            let why =
                format!("an entry that the leader sent cannot be read by this build: {error}; install the leader's");
            self.refused.send_replace(Some(why));
            Error::Storage(error)
        })?;
        // openraft looks at the first and the last of them: a hole between would be taken for the log.
        let first = prev_log_id.map_or(0, |prev| prev.index + 1);
        if !entries.iter().zip(first..).all(|(entry, index)| entry.log_id.index == index) {
            return Err(Error::Refused(format!("the entries sent do not follow each other from {first} on")));
        }
        Ok(AppendEntriesRequest {
            vote: codec::vote_from_pb(request.vote),
            prev_log_id,
            entries,
            leader_commit: request.leader_commit.map(codec::log_id_from_pb),
        })
    }
}

fn append_response(reply: AppendEntriesResponse<TypeConfig>) -> pb::AppendResponse {
    use pb::append_response::Result as Kind;
    let mut response = pb::AppendResponse::default();
    match reply {
        AppendEntriesResponse::Success => response.set_result(Kind::Success),
        AppendEntriesResponse::PartialSuccess(matching) => {
            response.set_result(Kind::PartialSuccess);
            response.matching = matching.as_ref().map(codec::log_id_to_pb);
        }
        AppendEntriesResponse::Conflict => response.set_result(Kind::Conflict),
        AppendEntriesResponse::HigherVote(vote) => {
            response.set_result(Kind::HigherVote);
            response.vote = Some(codec::vote_to_pb(&vote));
        }
    }
    response
}

fn vote_request(request: pb::VoteRequest) -> VoteRequest<TypeConfig> {
    VoteRequest {
        vote: codec::vote_from_pb(request.vote),
        last_log_id: request.last_log_id.map(codec::log_id_from_pb),
        leadership_transfer: request.leadership_transfer,
    }
}

fn vote_response(reply: &openraft::raft::VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(codec::vote_to_pb(&reply.vote)),
        granted: reply.vote_granted,
        last_log_id: reply.last_log_id.as_ref().map(codec::log_id_to_pb),
    }
}
