//! What a request means: path and verb, authorization, admission, conflict rules, tables, errors.
//!
//! Sans-io. A face parses its wire format into a `Request`; `step` turns it and a view into an
//! answer, a `Txn` to propose, a watch to follow or a worker to call; the shell carries that out and,
//! after a proposal, calls `concluded`. Every write of every face and controller passes here.

mod accept;
pub mod admission;
pub mod discovery;
pub mod events;
mod list;
pub mod openapi;
mod read;
mod replay;
mod request;
mod review;
mod step;
pub mod table;
pub mod watch;
mod write;

#[cfg(test)]
mod tests;

pub use list::ListReply;
pub use replay::replay;
pub use request::{Body, Context, Options, Patch, Request, Verb};
pub use step::{Pending, Reply, Step, WorkerCall, concluded, step};
pub use write::{bind_object, change, creation, deletion, set_condition, success};

/// The largest object stored, as in Kubernetes (etcd's request limit): 1.5 MiB.
pub const OBJECT_BYTES_MAX: usize = 3 << 19;
/// The largest request body: an object plus room for patches of it.
pub const BODY_BYTES_MAX: usize = 3 << 20;
