//! The language of writes: operations plus the preconditions under which they hold.

use crate::RequestId;
use bytes::Bytes;
use compact_str::CompactString;
use objects::{Key, Revision, Timestamp};
use serde::{Deserialize, Serialize};

/// A leader's identity: no two leaders ever share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaderId {
    pub term: u64,
    pub node: u64,
}

/// One operation on one object. `object` is the encoded JSON without resourceVersion, made by
/// `objects::record::encode`; `apply` never merges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    Create { key: Key, object: Bytes },
    Update { key: Key, assumed: Revision, object: Bytes },
    Delete { key: Key, assumed: Revision },
}

impl Op {
    pub fn key(&self) -> &Key {
        match self {
            Op::Create { key, .. } | Op::Update { key, .. } | Op::Delete { key, .. } => key,
        }
    }
}

/// What must hold besides the operations' own conditions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Check {
    /// The object exists at exactly this revision.
    At(Key, Revision),
    Absent(Key),
    Exists(Key),
    /// The namespace exists and is not being deleted.
    NamespaceActive(CompactString),
}

/// All or nothing: every check and operation holds, or nothing changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Txn {
    pub ops: Vec<Op>,
    pub checks: Vec<Check>,
    /// Given by the proposing master, so that a retry is applied once.
    pub request: Option<RequestId>,
    /// Given by a client (`request_id`, hashed with its identity), for the same reason.
    pub client_request: Option<u128>,
    /// The proposer's clock; `apply` takes the maximum of the stamps so far as the time.
    pub stamp: Timestamp,
    /// Set by the manager: refused unless the entry was appended by this very leader.
    pub fence: Option<LeaderId>,
}

/// What became of a committed `Txn`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The revision each operation was given, in their order.
    Applied(Vec<Revision>),
    Refused(Refusal),
}

/// Why a `Txn` changed nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Refusal {
    AlreadyExists(Key),
    NotFound(Key),
    /// The object is at another revision than assumed.
    Conflict(Key),
    NamespaceTerminating(CompactString),
    NamespaceMissing(CompactString),
    /// Another leader appended it: the plan's author has lost leadership.
    Fenced,
    /// Too old to know whether it was applied; it is not applied (again).
    Forgotten,
    /// The proposer sent bytes that are not an object.
    Malformed(String),
}
