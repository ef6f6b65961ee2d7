//! The type configuration of openraft, and short names for its types.

use bytes::Bytes;
use openraft::type_config::alias as a;
use serde::{Deserialize, Serialize};
use state::{LeaderId, Outcome};
use std::fmt;

/// A master as the membership knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    /// host:port of its peer listener.
    pub peer_addr: String,
    /// host:port of its API listener.
    pub api_addr: String,
    /// The highest feature level that its binary knows.
    pub feature_level: u32,
}

/// What a normal log entry holds: an encoded `Txn`. It is encoded once, where it is proposed, and decoded
/// once more where it is applied; the log, the disk and the peers handle bytes.
#[derive(Clone, Debug)]
pub struct Command {
    pub(crate) txn: Bytes,
    /// The log's entry that `txn` is a part of, when it comes from there: peers are sent these bytes. They hold the
    /// entry's log id, so that a command with them is never proposed again.
    pub(crate) entry: Option<Bytes>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "txn of {} bytes", self.txn.len())
    }
}

openraft::declare_raft_types!(
    /// Seeded randomness everywhere, so that a simulated run can be replayed from its seed.
    pub TypeConfig:
        D = Command,
        R = Outcome,
        Node = Member,
        AsyncRuntime = openraft::rt::deterministic_rng::DeterministicRng<openraft_rt_tokio::TokioRuntime>,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, crate::machine::Machine>;
pub(crate) type LogId = a::LogIdOf<TypeConfig>;
pub(crate) type Vote = a::VoteOf<TypeConfig>;
pub(crate) type Entry = a::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = a::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = a::SnapshotMetaOf<TypeConfig>;
/// A snapshot in memory is the state itself: an O(1) clone, encoded only when it is sent.
pub(crate) type SnapshotData = state::State;
pub(crate) type Snapshot = a::SnapshotOf<TypeConfig, SnapshotData>;

/// Whether a snapshot holds entries of a later leader than that of this vote.
pub(crate) fn is_later(meta: &SnapshotMeta, vote: &Vote) -> bool {
    meta.last_log_id.is_some_and(|last| last.leader_id > vote.leader_id)
}

pub(crate) fn leader_id(log_id: &LogId) -> LeaderId {
    LeaderId { term: log_id.leader_id.term, node: log_id.leader_id.node_id }
}
