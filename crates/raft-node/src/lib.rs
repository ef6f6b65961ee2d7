//! Consensus: openraft wired to our log format, our disk port and our transport port.
//!
//! No openraft type leaves this crate. The seams to the world are `Disk` (an ordered key-value
//! store with atomic, syncable batches), `Transport` (a call to a peer) and `Spawn` (who runs the
//! log writer), so that the simulator can stand in for each.

mod aside;
mod changes;
mod codec;
mod disk;
mod forward;
mod found;
mod granted;
mod halting;
mod holds;
mod log;
mod machine;
mod network;
mod node;
mod pipe;
mod remains;
mod rounds;
mod server;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
mod tail;
mod transport;
mod trim;
mod types;
mod writer;

pub use changes::{Changes, Joiner, Refusal, end_changes};
pub use codec::{outcome_from_bytes, txn_to_bytes};
pub use disk::{Batch, Disk, DiskError, MemoryDisk, Origin, REMEDY, ROWS_START, Row, SINGLES_START};
pub use found::Founding;
pub use node::{Checkpoints, Error, Failure, LAG_MAX, MemberStatus, NO_LEADER, Node, Options, Profile, Status};
pub use remains::{Reach, Remains, read_remains};
pub use server::{GROUP, RaftService};
pub use transport::{Lane, PeerReply, PeerRequest, TonicTransport, Transport, TransportError};
pub use types::Member;
pub use writer::{Spawn, spawn_inline, spawn_task, spawn_thread};

#[cfg(test)]
mod tests;
