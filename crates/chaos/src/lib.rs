//! Chaos: from a scenario and a seed to a schedule of faults, and from what was recorded to a verdict.
//!
//! Pure. A scenario, a seed and the names of the members fix the schedule; the files of a report fix
//! the verdict. Who harms members and runs clients is `balsa chaos`; docs/chaos.md is for users.

mod agree;
mod doubts;
mod failover;
pub mod lines;
mod refusals;
pub mod scenario;
pub mod schedule;
mod serves;
mod sound;
mod span;
mod text;
pub mod verdict;

pub use failover::{Failover, Percentiles};
pub use scenario::{Fault, Scenario, Target};
pub use schedule::{End, Planned, Start};
pub use span::Millis;
pub use verdict::{Report, Verdict};

#[cfg(test)]
mod tests;
