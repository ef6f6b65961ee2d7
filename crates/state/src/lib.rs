//! The replicated state machine: a `Txn` in, an outcome and events out.
//!
//! Pure and deterministic: `apply` reads no clock, no random source, no environment. Every master
//! computes the same state from the same log. The tables are persistent maps, so a `View` is an
//! O(1) clone that lives as long as its holder wants and never blocks a writer.

mod apply;
pub mod backup;
mod dedup;
mod history;
pub mod snapshot;
mod txn;
mod view;

#[cfg(test)]
mod tests;

pub use apply::{Applied, State};
pub use dedup::RequestId;
pub use history::{Event, EventKind};
pub use txn::{Check, LeaderId, Op, Outcome, Refusal, Txn};
pub use view::{ListError, View};

/// The newest version of the rules in `apply` that this binary knows. The replicated state holds the level in force,
/// which alone `apply` may branch on: it rises once every member's binary knows a higher one. A master that meets a
/// level it does not know stops before applying.
pub const FEATURE_LEVEL: u32 = 1;
