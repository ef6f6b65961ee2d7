//! Doubts: why a run in which nothing was found wrong says nothing all the same.

use crate::agree::disagreements;
use crate::failover::Failover;
use crate::lines::{FaultLine, Line, OWN_STATE, Run};
use crate::scenario::{Fault, Rule, Scenario, Target};
use crate::schedule;
use crate::verdict::Counts;
use std::collections::BTreeSet;

pub(crate) fn doubts(
    scenario: &Scenario,
    run: &Run,
    faults: &[FaultLine],
    lines: &[Line],
    counts: &Counts,
    failovers: &[Failover],
    hole: Option<(u64, u64)>,
) -> Vec<String> {
    let mut why = Vec::new();
    why.extend(run.interrupted.as_ref().map(|reason| format!("the run was interrupted: {reason}")));
    why.extend(run.left.as_ref().map(|namespace| format!("namespace {namespace} could not be deleted by the run")));
    why.extend(cut_short(run, faults, lines));
    why.extend(disagreements(scenario, run, faults, lines));
    for fault in faults {
        why.extend(fault.error.as_ref().map(|error| format!("fault {} went wrong: {error}", fault.planned.n)));
    }
    if !is_healed(run, faults) {
        why.extend(unwhole(scenario, run).map(|what| format!("{what}; but not everything was healed")));
    }
    if counts.faults.is_empty() {
        why.push("no fault was carried out".into());
    }
    why.extend(unseen(scenario, run, lines, counts));
    why.extend(run.pods_unseen.as_ref().map(|who| format!("what became of the pods was not seen to the end: {who}")));
    why.extend(never_came(scenario, run, faults));
    why.extend(unmet(faults));
    let limits = &scenario.limits;
    let written = failovers.iter().any(|failover| failover.writes_us.is_some());
    let bound = failovers.iter().any(|failover| failover.bind_us.is_some());
    let unmeasured = [
        (limits.failover_p50.is_some() && !written, "limits.failoverP50: no failover was seen"),
        (limits.failover_p99.is_some() && !written, "limits.failoverP99: no failover was seen"),
        (limits.bind_p99.is_some() && !bound, "limits.bindP99: no pod was bound that was asked for after a failover"),
        (limits.leader_changes.is_some() && run.terms.is_none(), "limits.leaderChanges: no master told of its term"),
    ];
    why.extend(named(&unmeasured));
    if run.last_write.is_none() {
        why.push("no write after all others was acknowledged and waited for: the history is not judged".into());
    }
    why.extend(
        hole.map(|(from, to)| {
            format!("no watcher tells of the revisions from {from} to {to}: they had left the history")
        }),
    );
    why
}

/// Whether everything that was harmed is known to have been healed: what is missing in the end is the cluster's own
/// fault then, and not that of who harmed it.
pub(crate) fn is_healed(run: &Run, faults: &[FaultLine]) -> bool {
    run.interrupted.is_none() && !faults.iter().any(|fault| fault.error.is_some() && fault.begun_us > 0)
}

/// What was still missing of a whole cluster when its time was over.
pub(crate) fn unwhole(scenario: &Scenario, run: &Run) -> Option<String> {
    let limit = scenario.limits.converges;
    if let Some(missing) = &run.missing {
        return Some(format!("not whole {limit} after everything was healed: {missing}"));
    }
    let late = run.converged_ms.filter(|ms| *ms > limit.0)?;
    Some(format!("whole {late} ms after everything was healed, and {limit} are allowed"))
}

/// Whether the end of the history is not there, or may not be: what each master itself holds is written last, unless the
/// cluster was not whole then.
pub(crate) fn is_cut(run: &Run, lines: &[Line]) -> bool {
    let ends_open = run.missing.is_some() || untold(run, &listed(lines)).is_some();
    (lines.len() as u64) < run.history_lines && ends_open
}

/// Who was listed something.
fn listed(lines: &[Line]) -> BTreeSet<&str> {
    let listed = lines.iter().filter_map(|line| match line {
        Line::Listed { who, .. } => Some(who.as_str()),
        _ => None,
    });
    listed.collect()
}

/// A master of which nobody saw what it holds in the end, though all are whole.
fn untold<'a>(run: &'a Run, listed: &BTreeSet<&str>) -> Option<&'a String> {
    let is_due = run.last_write.is_some() && run.missing.is_none();
    run.masters.iter().find(|name| is_due && !listed.contains(format!("{OWN_STATE}{name}").as_str()))
}

fn named(of: &[(bool, &str)]) -> Vec<String> {
    of.iter().filter(|(is, _)| *is).map(|(_, what)| (*what).to_string()).collect()
}

/// What the files lack of what was written.
fn cut_short(run: &Run, faults: &[FaultLine], lines: &[Line]) -> Vec<String> {
    let files = [
        ("history.jsonl", lines.len() as u64, run.history_lines),
        ("faults.jsonl", faults.len() as u64, run.fault_lines),
    ];
    let differs = |(name, n, written): &(&str, u64, u64)| {
        (n != written).then(|| format!("{name} has {n} lines, and {written} were written"))
    };
    files.iter().filter_map(differs).collect()
}

/// Rules that the schedule has faults of, and of which none was carried out.
fn never_came(scenario: &Scenario, run: &Run, faults: &[FaultLine]) -> Vec<String> {
    let due = schedule::plan(scenario, run.seed);
    let never = scenario.faults.iter().enumerate().filter(|(i, _)| {
        due.iter().any(|fault| fault.rule == *i) && !faults.iter().any(|fault| fault.planned.rule == *i)
    });
    let told = |(i, rule): (usize, &Rule)| {
        format!("faults[{i}] ({} of {}): none was carried out; make `duration` longer", rule.fault.name(), rule.target)
    };
    // Who ends a run early knows, and is told so.
    never.filter(|_| run.interrupted.is_none() && !faults.is_empty()).map(told).collect()
}

/// Faults that were carried out and met nobody: what a member does under them was not seen.
fn unmet(faults: &[FaultLine]) -> Vec<String> {
    let told = Fault::ALL.into_iter().filter(|fault| fault.is_met_by_ending()).filter_map(|kind| {
        let done = faults.iter().filter(|fault| fault.planned.fault == kind && fault.error.is_none());
        let ended: Vec<&Vec<String>> = done.filter_map(|fault| fault.ended.as_ref()).collect();
        let is_unmet = !ended.is_empty() && ended.iter().all(|ended| ended.is_empty());
        is_unmet.then(|| {
            let remedy = match kind {
                Fault::FullDisk => "more or larger `workload.writes`, or a longer `for`, fill a log file",
                Fault::BitFlip => "more `bits`, or more of these faults, hit what is read",
                _ => "a longer `for` gives it time",
            };
            format!("no master ended of a {}: {remedy}", kind.name())
        })
    });
    told.collect()
}

/// What nobody saw that had to be seen.
fn unseen(scenario: &Scenario, run: &Run, lines: &[Line], counts: &Counts) -> Vec<String> {
    let work = &scenario.workload;
    let nothing = [
        (work.writes > 0 && counts.acknowledged == 0, "no write was acknowledged"),
        (work.writes > 0 && counts.shown == 0, "no watcher was shown anything"),
        (work.pods + work.deployment > 0 && counts.bound == 0, "no pod was bound"),
    ];
    let mut why = named(&nothing);
    if work.reads > 0 && counts.reads == 0 {
        let last = run.read_error.as_ref().map_or_else(String::new, |error| format!("; the last failed: {error}"));
        why.push(format!("no read was answered{last}"));
    }
    let aims = scenario
        .faults
        .iter()
        .any(|rule| rule.fault.unseats() && matches!(&rule.target, Target::Word(word) if word == "leader"));
    if aims && work.writes > 0 && counts.failovers == 0 {
        why.push("the leader is a target, and no failover was seen".into());
    }
    let listed = listed(lines);
    let n_watchers = listed.iter().filter(|who| !who.starts_with(OWN_STATE)).count();
    if n_watchers < work.watchers as usize {
        why.push(format!("{n_watchers} of {} watchers were ever listed anything", work.watchers));
    }
    why.extend(untold(run, &listed).map(|name| format!("what {name} itself holds in the end was not seen")));
    why
}
