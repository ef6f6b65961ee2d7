//! Whether writes were accepted again in time: after each fault that left a majority of the masters whole, and
//! after the end of each.

use crate::failover::Times;
use crate::lines::{FaultLine, Run};
use crate::scenario::Scenario;

/// Whether a fault may have kept the masters from serving at some moment between the two. One that went wrong
/// once it had begun may last for good.
fn excuses(other: &FaultLine, since: u64, until: u64) -> bool {
    let (stops, over) = match other.error {
        Some(_) => (other.begun_us > 0, u64::MAX),
        None => (!other.majority, other.healed_us),
    };
    stops && other.begun_us < until && over > since
}

/// What was not served in time. While another fault takes the majority away nothing is due: then it is that
/// fault's own end after which there must be service.
pub(crate) fn unserved(scenario: &Scenario, run: &Run, faults: &[FaultLine], times: &Times) -> Vec<String> {
    let limit_us = scenario.limits.serves.0 * 1_000;
    let late = |i: usize, since: u64| {
        let due = since + limit_us;
        // What the run was too short to see is not held against it.
        let is_late = times.written_after(since).map_or(run.over_us > due, |at| at > due);
        is_late && !faults.iter().enumerate().any(|(j, other)| j != i && excuses(other, since, due))
    };
    let mut wrong = Vec::new();
    for (i, fault) in faults.iter().enumerate().filter(|(_, fault)| fault.error.is_none()) {
        let what = |from: &str| {
            let (n, kind, members) = (fault.planned.n, fault.planned.fault.name(), fault.members.join(", "));
            format!("fault {n} ({kind} of {members}): no write was accepted within {} {from}", scenario.limits.serves)
        };
        if fault.majority && late(i, fault.held_us) {
            wrong.push(what("of its beginning, with a majority of the masters whole"));
        } else if late(i, fault.healed_us) {
            wrong.push(what("of its end"));
        }
    }
    wrong
}
