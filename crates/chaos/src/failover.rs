//! How long the loss of a leader is felt: until writes are accepted again, and until a pod is bound again.

use crate::lines::{FaultLine, Line, WriteEnd};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one fault of the leader cost, in microseconds from its beginning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    pub n: usize,
    pub fault: String,
    /// Until the first answer to a write that was begun once the harm stood.
    pub writes_us: Option<u64>,
    /// The longest time without an acknowledged write from its beginning until its harm was ended, and on until
    /// writes were accepted: of a planned stop, the hand-over and the end of the process.
    pub gap_us: Option<u64>,
    /// The longest time between two in the second that followed, and before the next fault: the return of who was
    /// harmed.
    pub return_gap_us: Option<u64>,
    /// Until a pod was bound that was asked for once the harm stood.
    pub bind_us: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Percentiles {
    pub n: usize,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Percentiles {
    /// Of microseconds; `None` of none.
    pub fn of(mut values: Vec<u64>) -> Option<Percentiles> {
        values.sort_unstable();
        let last = *values.last()?;
        let at = |percent: usize| stdx::percentile(&values, percent).map_or(0.0, |us| us as f64 / 1_000.0);
        let (p50_ms, p90_ms, p99_ms) = (at(50), at(90), at(99));
        Some(Percentiles { n: values.len(), p50_ms, p90_ms, p99_ms, max_ms: last as f64 / 1_000.0 })
    }
}

/// Times of a run, in order, for looking up what came next.
pub(crate) struct Times {
    /// (invoked, answered) of every acknowledged write, by answer.
    acknowledged: Vec<(u64, u64)>,
    /// (asked for, first seen bound) of every pod, by the latter.
    bound: Vec<(u64, u64)>,
}

impl Times {
    pub(crate) fn of(lines: &[Line]) -> Times {
        let mut acknowledged = Vec::new();
        let mut asked: BTreeMap<&str, u64> = BTreeMap::new();
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        for line in lines {
            match line {
                Line::Write { invoked_us, answered_us, end: WriteEnd::Applied, .. } => {
                    acknowledged.push((*invoked_us, *answered_us));
                }
                Line::Pod { name, invoked_us, .. } => drop(asked.insert(name, *invoked_us)),
                Line::Bound { pod, at_us, .. } => {
                    let first = seen.entry(pod).or_insert(*at_us);
                    *first = (*first).min(*at_us);
                }
                _ => {}
            }
        }
        let mut bound: Vec<(u64, u64)> =
            seen.into_iter().filter_map(|(pod, at)| Some((*asked.get(pod)?, at))).collect();
        acknowledged.sort_unstable_by_key(|(_, answered)| *answered);
        bound.sort_unstable_by_key(|(_, at)| *at);
        Times { acknowledged, bound }
    }

    /// When the first write was acknowledged that was begun after `since`.
    pub(crate) fn written_after(&self, since: u64) -> Option<u64> {
        first_after(&self.acknowledged, since)
    }

    /// The longest time between two acknowledgements that overlaps `from..to`.
    fn gap(&self, from: u64, to: u64) -> Option<u64> {
        let begin = self.acknowledged.partition_point(|(_, answered)| *answered < from).saturating_sub(1);
        let around = self.acknowledged[begin..].windows(2).take_while(|pair| pair[0].1 <= to);
        around.map(|pair| pair[1].1 - pair[0].1).max()
    }
    /// The longest time between two acknowledgements that both lie in `from..=to`.
    fn gap_within(&self, from: u64, to: u64) -> Option<u64> {
        let begin = self.acknowledged.partition_point(|(_, answered)| *answered < from);
        let within = self.acknowledged[begin..].windows(2).take_while(|pair| pair[1].1 <= to);
        within.map(|pair| pair[1].1 - pair[0].1).max()
    }
}

fn first_after(times: &[(u64, u64)], since: u64) -> Option<u64> {
    let begin = times.partition_point(|(_, done)| *done < since);
    times[begin..].iter().find(|(begun, _)| *begun >= since).map(|(_, done)| *done)
}

/// Who comes back is caught up within this, and a fault that lasts is looked at no longer for its gap.
const AROUND_US: u64 = 1_000_000;

pub(crate) fn failovers(faults: &[FaultLine], times: &Times) -> Vec<Failover> {
    let unseated = faults.iter().filter(|fault| fault.error.is_none() && fault.unseated());
    let cost = |fault: &FaultLine| {
        let since = |at: u64| at - fault.begun_us;
        let written = times.written_after(fault.held_us);
        let harmed = written.unwrap_or(fault.held_us).max(fault.ended_us.min(fault.begun_us + AROUND_US));
        let back = fault.ended_us.max(harmed);
        let next = faults.iter().map(|next| next.begun_us).filter(|begun| *begun > fault.begun_us).min();
        Failover {
            n: fault.planned.n,
            fault: fault.planned.fault.name().into(),
            writes_us: written.map(since),
            gap_us: times.gap(fault.begun_us, harmed),
            return_gap_us: times.gap_within(back, next.unwrap_or(u64::MAX).min(back + AROUND_US)),
            bind_us: first_after(&times.bound, fault.held_us).map(since),
        }
    };
    unseated.map(cost).collect()
}
