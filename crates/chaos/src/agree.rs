//! Whether a report's files agree with each other. Where they do not, no run was like that, and no verdict says that all
//! is well.

use crate::lines::{DAMAGED, FaultLine, Line, OWN_STATE, Run, WriteEnd};
use crate::scenario::{Scenario, Target};
use crate::schedule::Start;
use crate::sound::MOMENT_US_MAX;
use crate::span::Millis;
use std::collections::BTreeSet;

const MOMENTS_US: u64 = 1_000_000;

/// What of run.json and faults.jsonl contradicts the scenario, the history, or itself.
pub(crate) fn disagreements(scenario: &Scenario, run: &Run, faults: &[FaultLine], lines: &[Line]) -> Vec<String> {
    let mut why = members(scenario, run);
    why.extend(end(scenario, run, faults, lines));
    let mut numbers = BTreeSet::new();
    for fault in faults {
        let n = fault.planned.n;
        if !numbers.insert(n) {
            why.push(format!("faults.jsonl tells of fault {n} twice"));
        }
        why.extend(of_fault(scenario, run, faults, fault).map(|what| format!("faults.jsonl, fault {n}: {what}")));
    }
    why
}

fn members(scenario: &Scenario, run: &Run) -> Vec<String> {
    let spec = &scenario.cluster;
    let groups = [("masters", &run.masters, spec.masters), ("workers", &run.workers, spec.workers)];
    let told = groups.iter().filter_map(|(role, names, n)| {
        let there = names.iter().collect::<BTreeSet<_>>().len();
        (there < *n || there < names.len())
            .then(|| format!("run.json names {there} different {role} in {}, and the scenario is for {n}", names.len()))
    });
    told.collect()
}

/// How the run ended.
fn end(scenario: &Scenario, run: &Run, faults: &[FaultLine], lines: &[Line]) -> Vec<String> {
    let mut why = Vec::new();
    let is_whole_run = run.interrupted.is_none();
    if is_whole_run && run.converged_ms.is_none() && run.missing.is_none() {
        why.push("run.json tells neither convergedMs nor what was missing in the end".into());
    }
    let is_paced = faults.iter().any(|fault| fault.planned.start == Start::Recovered);
    let lasted = Millis(run.over_us.saturating_sub(run.begun_us) / 1_000);
    if is_whole_run && !is_paced && lasted < scenario.duration {
        why.push(format!("the run was over after {lasted} by run.json, and the scenario lasts {}", scenario.duration));
    }
    let applied = lines.iter().filter_map(|line| match line {
        Line::Write { end: WriteEnd::Applied, revision, .. } => *revision,
        _ => None,
    });
    match (run.last_write, applied.max()) {
        (Some(last), Some(newest)) if last != newest => {
            why.push(format!("run.json says that revision {last} was written last, and the history has {newest}"));
        }
        (Some(last), None) => {
            why.push(format!("run.json says that revision {last} was written last, and the history has no write"));
        }
        (Some(_) | None, _) => {}
    }
    if run.over_us > MOMENT_US_MAX {
        why.push("overUs of run.json: no run lasts so long".into());
    }
    let strangers = lines.iter().filter_map(|line| match line {
        Line::Listed { who, .. } => who.strip_prefix(OWN_STATE).map(|name| name.trim_end_matches(DAMAGED)),
        _ => None,
    });
    let strangers: BTreeSet<&str> = strangers.filter(|name| !run.masters.iter().any(|master| master == name)).collect();
    why.extend(
        strangers.iter().map(|name| format!("history.jsonl has the state of {name:?}, which is no master of run.json")),
    );
    for (i, rule) in scenario.faults.iter().enumerate() {
        let n = faults.iter().filter(|fault| fault.planned.rule == i).count();
        if let Some(times) = rule.times.filter(|times| (*times as usize) < n) {
            why.push(format!("faults.jsonl has {n} of rule {i}, and {times} are to be"));
        }
    }
    why
}

fn of_fault(scenario: &Scenario, run: &Run, faults: &[FaultLine], fault: &FaultLine) -> Option<String> {
    let planned = &fault.planned;
    match scenario.faults.get(planned.rule) {
        None => return Some(format!("the scenario has no rule {}", planned.rule)),
        Some(rule) if rule.fault != planned.fault => {
            return Some(format!("rule {} is a {}, not a {}", planned.rule, rule.fault.name(), planned.fault.name()));
        }
        Some(rule) if rule.target != planned.target => {
            return Some(format!("rule {} is of {}, not of {}", planned.rule, rule.target, planned.target));
        }
        Some(_) => {}
    }
    let is_master = |name: &String| run.masters.contains(name);
    if let Some(leader) = fault.leader.as_ref().filter(|leader| !is_master(leader)) {
        return Some(format!("{leader:?}, who led, is no master of run.json"));
    }
    if let Some(name) = fault.members.iter().find(|name| !is_master(name) && !run.workers.contains(name)) {
        return Some(format!("{name:?} is no member of run.json"));
    }
    if fault.error.is_some() {
        return None;
    }
    if fault.members.is_empty() {
        return Some("it harmed nobody".into());
    }
    let led = fault.leader.as_ref().is_some_and(|leader| fault.members.contains(leader));
    match &planned.target {
        Target::Word(word) if word == "leader" && !led => {
            return Some("it is of the leader, and harmed another".into());
        }
        Target::Word(word) if word == "follower" && led => {
            return Some("it is of a follower, and harmed the leader".into());
        }
        Target::Word(_) | Target::Any(_) => {}
    }
    if fault.begun_us > run.over_us {
        return Some("it began when the run was over".into());
    }
    // Who is harmed is looked up some moments before a fault begins, and known to be no more some after another's end.
    let is_alone = faults.iter().filter(|other| other.planned.n != planned.n).all(|other| {
        other.error.is_none()
            && (other.healed_us + MOMENTS_US < fault.begun_us || other.begun_us > fault.healed_us + MOMENTS_US)
    });
    let n_whole = run.masters.iter().filter(|name| !fault.members.contains(name)).count();
    let majority = n_whole > run.masters.len() / 2;
    (is_alone && fault.majority != majority)
        .then(|| format!("majority is {}, and {n_whole} of {} masters were whole", fault.majority, run.masters.len()))
}
