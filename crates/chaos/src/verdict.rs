//! The verdict: what a report's files say about what had to hold.

use crate::doubts::{doubts, is_cut, is_healed, unwhole};
use crate::failover::{Failover, Percentiles, Times, failovers};
use crate::lines::{FaultLine, Line, Run, WriteEnd, history, hole};
use crate::scenario::{BINDS, BOUND_ONCE, CONVERGES, SERVES, STAYS_UP, Scenario, invariants};
use crate::schedule::{self, Start};
use crate::serves::unserved;
use crate::span::Millis;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Clean,
    Violated,
    /// Nothing was found wrong, and too little was seen to say that nothing is.
    Inconclusive,
}

impl Verdict {
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Clean => 0,
            Verdict::Violated => 1,
            Verdict::Inconclusive => 2,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    pub invariant: String,
    pub what: String,
}

/// report.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub scenario: String,
    pub seed: u64,
    pub verdict: Verdict,
    /// The invariants that were judged; limits are besides.
    pub judged: Vec<String>,
    pub violations: Vec<Violation>,
    /// Violations beyond those listed.
    pub further: usize,
    /// Why nothing can be concluded.
    pub inconclusive: Vec<String>,
    pub counts: Counts,
    /// Percentiles over the faults that took the leader away, by fault, and `all`.
    pub writes: BTreeMap<String, Percentiles>,
    pub gaps: BTreeMap<String, Percentiles>,
    pub return_gaps: BTreeMap<String, Percentiles>,
    pub binds: BTreeMap<String, Percentiles>,
    pub failovers: Vec<Failover>,
    pub converged_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub faults: BTreeMap<String, usize>,
    /// Of the same, where the scenario fixes how many.
    #[serde(default)]
    pub planned: BTreeMap<String, usize>,
    pub failovers: usize,
    pub acknowledged: usize,
    /// Acknowledged, and not there; `None` where the history could not be judged.
    pub lost: Option<usize>,
    pub refused: usize,
    pub unknown: usize,
    pub never: usize,
    pub unsent: u64,
    pub reads: usize,
    #[serde(default)]
    pub reads_failed: u64,
    pub shown: usize,
    /// Made one by one by clients.
    pub pods: usize,
    /// Of these and of the Deployment's.
    pub bound: usize,
    pub double_binds: usize,
}

/// So many violations are listed; the rest is counted.
const LISTED_MAX: usize = 100;

/// Judges a report from its files.
pub fn judge(scenario: &Scenario, run: &Run, faults: &[FaultLine], lines: &[Line]) -> Report {
    let history = history(lines, run.last_write);
    let mut violations = Vec::new();
    let mut found = |invariant: &str, wrong: Vec<String>| {
        if scenario.judges(invariant) {
            let told = |what: String| Violation { invariant: invariant.into(), what: printable(&what) };
            violations.extend(wrong.into_iter().map(told));
        }
    };
    let hole = hole(lines, run.last_write);
    let mut counts = Counts { planned: planned(scenario, run.seed), ..counts(faults, lines, run) };
    let is_cut = is_cut(run, lines);
    // Watchers that were cut short, a hole in the truth, and a file without its end accuse the innocent.
    if run.last_write.is_some() && hole.is_none() && !is_cut {
        for (name, check) in judge::CHECKS.iter().filter(|(name, _)| *name != "fenced") {
            found(name, check(&history));
        }
        counts.lost = Some(judge::n_lost(&history));
        found("watched", history.problems.clone());
    }
    let wrongly = wrongly_bound(lines);
    counts.double_binds = wrongly.iter().filter(|wrong| wrong.is_double).count();
    found(BOUND_ONCE, wrongly.into_iter().map(|wrong| wrong.what).collect());
    if is_healed(run, faults) && hole.is_none() && !is_cut {
        found(BINDS, unbound(lines));
    }
    let times = Times::of(lines);
    let failovers = failovers(faults, &times);
    counts.failovers = failovers.iter().filter(|failover| failover.writes_us.is_some()).count();
    // A fault that is missing from its file may have been what kept the masters from serving.
    if scenario.has_grounds(SERVES) && !is_cut && faults.len() as u64 >= run.fault_lines {
        found(SERVES, unserved(scenario, run, faults, &times));
    }
    found(STAYS_UP, run.ended.clone());
    if is_healed(run, faults) {
        found(CONVERGES, unwhole(scenario, run).into_iter().collect());
    }
    let by_fault = |value: fn(&Failover) -> Option<u64>| {
        let mut values: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for failover in &failovers {
            for key in [failover.fault.as_str(), "all"] {
                values.entry(key.into()).or_default().extend(value(failover));
            }
        }
        let told = values.into_iter().filter_map(|(key, values)| Some((key, Percentiles::of(values)?)));
        told.collect::<BTreeMap<_, _>>()
    };
    let (writes, binds) = (by_fault(|f| f.writes_us), by_fault(|f| f.bind_us));
    let (gaps, return_gaps) = (by_fault(|f| f.gap_us), by_fault(|f| f.return_gap_us));
    // Whoever names a limit has it judged, whatever else is.
    let mut over = over_limits(scenario, &writes, &binds);
    over.extend(too_many_leaders(scenario, run));
    if run.interrupted.is_none() {
        over.extend(never(scenario, &failovers));
    }
    violations.extend(over.into_iter().map(|what| Violation { invariant: "limits".into(), what }));
    let inconclusive = doubts(scenario, run, faults, lines, &counts, &failovers, hole);
    let inconclusive: Vec<String> = inconclusive.iter().map(|why| printable(why)).collect();
    let verdict = match (violations.is_empty(), inconclusive.is_empty()) {
        (false, _) => Verdict::Violated,
        (true, true) => Verdict::Clean,
        (true, false) => Verdict::Inconclusive,
    };
    let is_judged =
        |name: &&str| scenario.judges(name) && scenario.has_grounds(name) && !(run.ends_unseen && *name == STAYS_UP);
    let judged = invariants().into_iter().filter(is_judged);
    let further = violations.len().saturating_sub(LISTED_MAX);
    violations.truncate(LISTED_MAX);
    Report {
        scenario: scenario.name.clone(),
        seed: run.seed,
        verdict,
        judged: judged.map(String::from).collect(),
        violations,
        further,
        inconclusive,
        counts,
        writes,
        gaps,
        return_gaps,
        binds,
        failovers,
        converged_ms: run.converged_ms,
    }
}

/// Names and values are anybody's: what a terminal would obey is told by its number.
fn printable(what: &str) -> String {
    let mut told = String::with_capacity(what.len());
    for c in what.chars() {
        match c.is_control() {
            true => told.extend(c.escape_default()),
            false => told.push(c),
        }
    }
    told
}

/// How many faults of a kind there are to be, where that is fixed: the seed's schedule, or `times`.
fn planned(scenario: &Scenario, seed: u64) -> BTreeMap<String, usize> {
    let mut planned = BTreeMap::new();
    for fault in schedule::plan(scenario, seed) {
        let is_fixed = fault.start != Start::Recovered || scenario.faults[fault.rule].times.is_some();
        *planned.entry(fault.fault.name().into()).or_default() += usize::from(is_fixed);
    }
    planned
}

fn counts(faults: &[FaultLine], lines: &[Line], run: &Run) -> Counts {
    let mut counts = Counts { unsent: run.unsent, reads_failed: run.reads_failed, ..Counts::default() };
    for fault in faults.iter().filter(|fault| fault.error.is_none()) {
        *counts.faults.entry(fault.planned.fault.name().into()).or_default() += 1;
    }
    let mut bound = BTreeSet::new();
    for line in lines {
        match line {
            Line::Write { end, .. } => match end {
                WriteEnd::Applied => counts.acknowledged += 1,
                WriteEnd::Unknown => counts.unknown += 1,
                WriteEnd::Never => counts.never += 1,
                WriteEnd::Exists | WriteEnd::NotFound | WriteEnd::Conflict | WriteEnd::Refused => counts.refused += 1,
            },
            Line::Read { .. } => counts.reads += 1,
            Line::Shown { .. } => counts.shown += 1,
            Line::Listed { .. } => {}
            Line::Pod { made, .. } => counts.pods += usize::from(*made),
            Line::Bound { uid, .. } => drop(bound.insert(uid)),
        }
    }
    counts.bound = bound.len();
    counts
}

struct WronglyBound {
    /// To two nodes.
    is_double: bool,
    what: String,
}

/// A pod is made once, after it was asked for, and stays where it was bound first.
fn wrongly_bound(lines: &[Line]) -> Vec<WronglyBound> {
    let mut asked: BTreeMap<&str, u64> = BTreeMap::new();
    let mut made: BTreeSet<&str> = BTreeSet::new();
    let mut wrong = BTreeMap::new();
    for line in lines {
        if let Line::Pod { name, invoked_us, made: is_made, .. } = line {
            asked.entry(name).or_insert(*invoked_us);
            if *is_made && !made.insert(name) {
                wrong.insert((name.as_str(), "asked"), format!("{name} was made twice, as who asked for it was told"));
            }
        }
    }
    let mut nodes: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let mut uids: BTreeMap<&str, &str> = BTreeMap::new();
    for line in lines {
        let Line::Bound { who, at_us, revision, pod, uid, node } = line else { continue };
        let mut tell = |kind, what: String| {
            let told = || format!("{what} (shown to {who} at {at_us}, revision {revision})");
            wrong.entry((pod.as_str(), kind)).or_insert_with(told);
        };
        let (named, first) = nodes.entry(uid).or_insert((pod, node));
        if named != pod {
            tell("uid", format!("{named} and {pod} have one uid, {uid}"));
        } else if first != node {
            tell("node", format!("{pod} ({uid}) was bound to {first}, and to {node}"));
        }
        let made = uids.entry(pod).or_insert(uid);
        if made != uid {
            tell("made", format!("{pod} was made twice, as {made} and as {uid}"));
        }
        if asked.get(pod.as_str()).is_some_and(|asked| at_us < asked) {
            tell("early", format!("{pod} was bound before it was asked for"));
        }
    }
    wrong.into_iter().map(|((_, kind), what)| WronglyBound { is_double: kind == "node", what }).collect()
}

/// Pods that were made and never seen on a node, though the run waits for them.
fn unbound(lines: &[Line]) -> Vec<String> {
    let bound = lines.iter().filter_map(|line| match line {
        Line::Bound { pod, .. } => Some(pod.as_str()),
        _ => None,
    });
    let bound: BTreeSet<&str> = bound.collect();
    let never = lines.iter().filter_map(|line| match line {
        Line::Pod { name, made: true, invoked_us, .. } if !bound.contains(name.as_str()) => {
            Some(format!("{name}, made at {:.1} s, was never bound", *invoked_us as f64 / 1e6))
        }
        _ => None,
    });
    never.collect()
}

/// Failovers that no write, or no bound pod, followed: the percentiles do not have them in them. That none of them was
/// followed by any is a doubt, which `doubts` tells.
fn never(scenario: &Scenario, failovers: &[Failover]) -> Vec<String> {
    let limits = &scenario.limits;
    let n = |is_missing: fn(&Failover) -> bool| failovers.iter().filter(|failover| is_missing(failover)).count();
    let (unwritten, unbound) = (n(|f| f.writes_us.is_none()), n(|f| f.bind_us.is_none()));
    let told = [
        ("failoverP50", limits.failover_p50, 50, unwritten, "an acknowledged write"),
        ("failoverP99", limits.failover_p99, 1, unwritten, "an acknowledged write"),
        ("bindP99", limits.bind_p99, 1, unbound, "a bound pod"),
    ];
    let of = failovers.len();
    let over = told.iter().filter(|(_, limit, of_100, n, _)| limit.is_some() && *n < of && n * 100 > of_100 * of);
    over.map(|(name, .., n, what)| format!("limits.{name}: {n} of {of} failovers were not followed by {what}"))
        .collect()
}

fn too_many_leaders(scenario: &Scenario, run: &Run) -> Option<String> {
    let (limit, [first, last]) = (scenario.limits.leader_changes?, run.terms?);
    let n = last.saturating_sub(first);
    (n > limit).then(|| format!("limits.leaderChanges: {n} (from term {first} to {last}), and {limit} are allowed"))
}

fn over_limits(
    scenario: &Scenario,
    writes: &BTreeMap<String, Percentiles>,
    binds: &BTreeMap<String, Percentiles>,
) -> Vec<String> {
    let limits = &scenario.limits;
    let (writes, binds) = (writes.get("all"), binds.get("all"));
    let told: [(&str, Option<Millis>, Option<f64>); 3] = [
        ("failoverP50", limits.failover_p50, writes.map(|p| p.p50_ms)),
        ("failoverP99", limits.failover_p99, writes.map(|p| p.p99_ms)),
        ("bindP99", limits.bind_p99, binds.map(|p| p.p99_ms)),
    ];
    let over = |(name, limit, value): &(&str, Option<Millis>, Option<f64>)| {
        let (limit, value) = ((*limit)?, (*value)?);
        (value > limit.0 as f64).then(|| format!("limits.{name}: {value:.1} ms, and {limit} are allowed"))
    };
    told.iter().filter_map(over).collect()
}
