//! openraft's network over the `Transport` port.

use crate::aside::aside;
use crate::codec;
use crate::granted::Granted;
use crate::holds::Sending;
use crate::log::Log;
use crate::node::Heard;
use crate::pipe::{Opening, Pipe};
use crate::transport::{Lane, PeerReply, PeerRequest, Transport, TransportError, append_timeout};
use crate::types::{LogId, Member, Snapshot, SnapshotData, TypeConfig, Vote, is_later};
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use prost::Message;
use protos::raft as pb;
use std::sync::Arc;
use std::time::Duration;

/// A snapshot is given up when it takes longer than a minute and a second for each so many bytes: to be sent, and to be
/// installed. That a peer is gone, keep-alives tell before.
const SNAPSHOT_BYTES_PER_SECOND: usize = 1 << 20;

/// For a connection and one small message.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);

fn snapshot_timeout(n_bytes: usize) -> Duration {
    Duration::from_secs(60 + (n_bytes / SNAPSHOT_BYTES_PER_SECOND) as u64)
}

#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) cluster_id: String,
    pub(crate) transport: Arc<dyn Transport>,
    /// What the answers to heartbeats tell besides.
    pub(crate) heard_levels: Heard,
    /// What the votes for this master tell of the voters' logs.
    pub(crate) granted: Granted,
    pub(crate) log: Log,
}

pub(crate) struct Peer {
    pub(crate) network: Network,
    lane: Lane,
    id: u64,
    pub(crate) addr: String,
    /// The last entry that openraft has been told the peer holds.
    matched: Mutex<Option<LogId>>,
}

impl Peer {
    fn to(&self) -> Option<pb::To> {
        Some(pb::To { cluster_id: self.network.cluster_id.clone(), node_id: self.id })
    }

    async fn call(&self, request: PeerRequest, timeout: Duration) -> Result<PeerReply, RPCError<TypeConfig>> {
        self.network.transport.call(self.lane, &self.addr, request, timeout).await.map_err(rpc_error)
    }

    /// The answer to a request that only looks for where the peer's log agrees with this one's, when the peer's vote
    /// has told it already: that the entry before those of the request is there. None when it must be sent: because
    /// nothing is known, or it was told as much before.
    ///
    /// It tells of no entry of the request itself, so openraft does not count it as word from the peer that this
    /// master leads still: reads and the lease wait for that.
    pub(crate) fn known(&self, rpc: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
        let prev = rpc.prev_log_id.filter(|_| !rpc.entries.is_empty())?;
        let agreed = self.network.granted.agreed(rpc.vote.leader_id.term, self.id)?;
        (prev.index <= agreed.index && self.note_matched(prev)).then_some(prev)
    }

    /// Notes what openraft is told that the peer holds; whether that is more than before.
    pub(crate) fn note_matched(&self, log_id: LogId) -> bool {
        let mut matched = self.matched.lock();
        let is_more = Some(log_id) > *matched;
        *matched = matched.max(Some(log_id));
        self.network.log.holds().matched(self.id, log_id.index);
        is_more
    }

    pub(crate) fn append_request(&self, rpc: &AppendEntriesRequest<TypeConfig>) -> pb::AppendRequest {
        pb::AppendRequest {
            to: self.to(),
            vote: Some(codec::vote_to_pb(&rpc.vote)),
            prev_log_id: rpc.prev_log_id.as_ref().map(codec::log_id_to_pb),
            entries: rpc.entries.iter().map(codec::entry_to_bytes).collect(),
            leader_commit: rpc.leader_commit.as_ref().map(codec::log_id_to_pb),
            heartbeat: self.lane == Lane::Heartbeat,
        }
    }
}

pub(crate) fn rpc_error(error: TransportError) -> RPCError<TypeConfig> {
    match error {
        TransportError::Unreachable(why) => RPCError::Unreachable(Unreachable::from_string(why)),
        TransportError::Failed(why) => RPCError::Network(NetworkError::from_string(why)),
    }
}

pub(crate) fn append_response(reply: pb::AppendResponse) -> AppendEntriesResponse<TypeConfig> {
    use pb::append_response::Result as Kind;
    match reply.result() {
        Kind::Success => AppendEntriesResponse::Success,
        Kind::PartialSuccess => AppendEntriesResponse::PartialSuccess(reply.matching.map(codec::log_id_from_pb)),
        Kind::Conflict => AppendEntriesResponse::Conflict,
        Kind::HigherVote => AppendEntriesResponse::HigherVote(codec::vote_from_pb(reply.vote)),
    }
}

fn unexpected() -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string("the peer answered something else"))
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, id: u64, member: &Member) -> Peer {
        Peer {
            network: self.clone(),
            lane: Lane::Replication,
            id,
            addr: member.peer_addr.clone(),
            matched: Mutex::default(),
        }
    }

    async fn new_heartbeat_client(&mut self, id: u64, member: &Member) -> Peer {
        Peer { lane: Lane::Heartbeat, ..self.new_client(id, member).await }
    }

    async fn new_snapshot_client(&mut self, id: u64, member: &Member) -> Peer {
        Peer { lane: Lane::Snapshot, ..self.new_client(id, member).await }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = self.append_request(&rpc);
        let timeout = if rpc.entries.is_empty() { option.hard_ttl() } else { append_timeout(message.encoded_len()) };
        match self.call(PeerRequest::Append(message), timeout).await? {
            PeerReply::Append(reply) => {
                if self.lane == Lane::Heartbeat {
                    self.network.heard_levels.hear(rpc.vote.leader_id.term, self.id, reply.feature_level);
                }
                Ok(append_response(reply))
            }
            _ => Err(unexpected()),
        }
    }

    fn stream_append<'s, S>(&'s mut self, input: S, option: RPCOption) -> Opening<'s>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        match self.lane {
            Lane::Replication => {
                let answers = Pipe::open(self, input.boxed()).answers();
                Box::pin(std::future::ready(Ok(answers)))
            }
            // openraft sends each heartbeat as a stream of one: a call is all it takes.
            Lane::Heartbeat | Lane::Snapshot | Lane::Client => stream_append_sequential(self, input, option),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (vote, mine) = (rpc.vote, rpc.last_log_id);
        let response = self.ask_vote(rpc, option, PeerRequest::Vote).await?;
        if response.vote_granted && response.vote == vote {
            self.network.granted.note(vote.leader_id.term, self.id, mine, response.last_log_id);
        }
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(rpc, option, PeerRequest::PreVote).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        // A leader that was replaced a moment ago may still be sending, what it has applied of its successor's log too.
        if is_later(&snapshot.meta, &vote) {
            return Err(Unreachable::<TypeConfig>::from_string("this master does not lead any more").into());
        }
        // To encode a large state takes seconds, in vain for a peer that is down, whom openraft tries again and again.
        self.call(PeerRequest::Greet(pb::GreetRequest { to: self.to() }), GREETING_TIMEOUT).await?;
        let ends = snapshot.meta.last_log_id.map_or(0, |last| last.index);
        let _sending = Sending::begin(self.network.log.clone(), self.id, ends);
        let state = snapshot.snapshot;
        let encoded = aside(move || state::snapshot::encode(&state)).await;
        let data: bytes::Bytes = encoded.map_err(|error| Unreachable::<TypeConfig>::from_string(error))?.into();
        let n_bytes = data.len();
        let request = PeerRequest::Snapshot {
            to: self.to().unwrap_or_default(),
            vote: codec::vote_to_pb(&vote),
            meta: codec::meta_to_bytes(&snapshot.meta),
            data,
        };
        tokio::select! {
            biased;
            reply = self.call(request, snapshot_timeout(n_bytes)) => match reply {
                Ok(PeerReply::Snapshot(reply)) => Ok(SnapshotResponse::new(codec::vote_from_pb(reply.vote))),
                Ok(_) => Err(unexpected().into()),
                Err(error) => {
                    tracing::warn!(to = %self.addr, n_bytes, %error, "a snapshot did not arrive; it is sent anew");
                    Err(error.into())
                }
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = pb::TransferLeaderRequest {
            to: self.to(),
            from: Some(codec::vote_to_pb(request.from_leader())),
            last_log_id: request.last_log_id().map(codec::log_id_to_pb),
            target: *request.to_node_id(),
        };
        match self.call(PeerRequest::TransferLeader(request), option.hard_ttl()).await? {
            PeerReply::TransferLeader(reply) if reply.refusal.is_empty() => Ok(Ok(())),
            PeerReply::TransferLeader(reply) => Err(RPCError::Network(NetworkError::from_string(reply.refusal))),
            _ => Err(unexpected()),
        }
    }
}

impl Peer {
    async fn ask_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
        wrap: fn(pb::VoteRequest) -> PeerRequest,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = pb::VoteRequest {
            to: self.to(),
            vote: Some(codec::vote_to_pb(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(codec::log_id_to_pb),
            leadership_transfer: rpc.leadership_transfer,
        };
        match self.call(wrap(request), option.hard_ttl()).await? {
            PeerReply::Vote(reply) => Ok(VoteResponse {
                vote: codec::vote_from_pb(reply.vote),
                vote_granted: reply.granted,
                last_log_id: reply.last_log_id.map(codec::log_id_from_pb),
            }),
            _ => Err(unexpected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checkpoints;
    use crate::disk::{Disk, MemoryDisk};
    use crate::tests::Nowhere;
    use crate::types::Entry;
    use crate::writer::{Writer, spawn_inline};
    use openraft::EntryPayload;
    use openraft::impls::leader_id_adv::LeaderId;

    fn log_id(index: u64) -> LogId {
        LogId { leader_id: LeaderId { term: 4, node_id: 1 }, index }
    }

    #[test]
    fn what_a_vote_has_told_is_not_asked_and_told_once() {
        let granted = Granted::default();
        granted.note(5, 2, Some(log_id(900)), Some(log_id(800)));
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let network = Network {
            cluster_id: "test".into(),
            transport: Arc::new(Nowhere),
            heard_levels: Heard::default(),
            granted,
            log: Log::open(disk.clone(), spawn_inline()(Writer::new(disk)), Checkpoints::default()).unwrap(),
        };
        let peer = |id| Peer {
            network: network.clone(),
            lane: Lane::Replication,
            id,
            addr: "peer".into(),
            matched: Mutex::default(),
        };
        let request = |term, prev: Option<u64>, n_entries| AppendEntriesRequest {
            vote: Vote::new_committed(term, 1),
            prev_log_id: prev.map(log_id),
            entries: (0..n_entries)
                .map(|i| Entry { log_id: log_id(prev.map_or(0, |prev| prev + 1) + i), payload: EntryPayload::Blank })
                .collect(),
            leader_commit: None,
        };
        let known = |peer: &Peer, term, prev, n_entries| peer.known(&request(term, prev, n_entries)).map(|id| id.index);
        let voter = peer(2);
        assert_eq!(known(&voter, 5, Some(400), 8), Some(400));
        assert_eq!(known(&voter, 5, Some(400), 8), None, "told as much already: now for the entries themselves");
        assert_eq!(known(&voter, 5, Some(300), 8), None);
        assert_eq!(known(&voter, 5, Some(600), 0), None, "a commit index is to arrive");
        voter.note_matched(log_id(700));
        assert_eq!(known(&voter, 5, Some(650), 8), None, "the peer has said so itself");
        assert_eq!(known(&voter, 5, Some(800), 8), Some(800));
        assert_eq!(known(&voter, 5, Some(801), 8), None, "its log may end there");
        assert_eq!(known(&peer(2), 5, None, 8), None, "nothing is before the first entry");
        assert_eq!(known(&peer(2), 6, Some(400), 8), None, "another leadership");
        assert_eq!(known(&peer(3), 5, Some(400), 8), None, "who has not voted");
    }
}
