//! The verdict: what a report's files say about what had to hold.

use crate::failover::{Failover, Percentiles, Times, failovers};
use crate::lines::{FaultLine, Line, Run, WriteEnd, history, hole};
use crate::scenario::{BOUND_ONCE, CONVERGES, SERVES, Scenario};
use crate::span::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    pub failovers: usize,
    pub acknowledged: usize,
    /// Acknowledged, and not there.
    pub lost: usize,
    pub refused: usize,
    pub unknown: usize,
    pub never: usize,
    pub unsent: u64,
    pub reads: usize,
    pub shown: usize,
    pub pods: usize,
    pub bound: usize,
    pub double_binds: usize,
}

/// So many violations are listed; the rest is counted.
const LISTED_MAX: usize = 100;

/// Judges a report from its files.
pub fn judge(scenario: &Scenario, run: &Run, faults: &[FaultLine], lines: &[Line]) -> Report {
    let history = history(lines);
    let mut violations = Vec::new();
    let mut found = |invariant: &str, wrong: Vec<String>| {
        if scenario.judges(invariant) {
            violations.extend(wrong.into_iter().map(|what| Violation { invariant: invariant.into(), what }));
        }
    };
    let hole = hole(lines);
    let mut counts = counts(faults, lines, run);
    // An interrupted run's watchers were cut short, and a hole in the truth accuses the innocent.
    if run.interrupted.is_none() && hole.is_none() {
        for (name, check) in judge::CHECKS.iter().filter(|(name, _)| *name != "fenced") {
            let wrong = check(&history);
            if *name == "acknowledged" {
                counts.lost = wrong.iter().filter(|what| what.contains("and is not there")).count();
            }
            found(name, wrong);
        }
        found("watched", history.problems.clone());
    }
    let doubles = double_binds(lines);
    counts.double_binds = doubles.len();
    found(BOUND_ONCE, doubles);
    let times = Times::of(lines);
    let failovers = failovers(faults, &times);
    counts.failovers = failovers.iter().filter(|failover| failover.writes_us.is_some()).count();
    if scenario.workload.writes > 0 {
        found(SERVES, unserved(scenario, run, faults, &times));
    }
    if let (Some(missing), None) = (&run.missing, &run.interrupted) {
        found(
            CONVERGES,
            vec![format!("not whole {} after everything was healed: {missing}", scenario.limits.converges)],
        );
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
    found("limits", over_limits(scenario, &writes, &binds));
    let inconclusive = inconclusive(scenario, run, faults, &counts, hole);
    let verdict = match (violations.is_empty(), inconclusive.is_empty()) {
        (false, _) => Verdict::Violated,
        (true, true) => Verdict::Clean,
        (true, false) => Verdict::Inconclusive,
    };
    let further = violations.len().saturating_sub(LISTED_MAX);
    violations.truncate(LISTED_MAX);
    Report {
        scenario: scenario.name.clone(),
        seed: run.seed,
        verdict,
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

fn counts(faults: &[FaultLine], lines: &[Line], run: &Run) -> Counts {
    let mut counts = Counts { unsent: run.unsent, ..Counts::default() };
    for fault in faults.iter().filter(|fault| fault.error.is_none()) {
        *counts.faults.entry(fault.planned.fault.name().into()).or_default() += 1;
    }
    let mut bound = std::collections::BTreeSet::new();
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

/// A pod stays where it was bound first.
fn double_binds(lines: &[Line]) -> Vec<String> {
    let mut nodes: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let mut wrong = std::collections::BTreeSet::new();
    for line in lines {
        let Line::Bound { pod, uid, node, .. } = line else { continue };
        let (_, first) = nodes.entry(uid).or_insert((pod, node));
        if first != node {
            wrong.insert(format!("{pod} ({uid}) was bound to {first}, and to {node}"));
        }
    }
    wrong.into_iter().collect()
}

/// After each fault that left a majority, and after the end of each, writes are accepted in time.
fn unserved(scenario: &Scenario, run: &Run, faults: &[FaultLine], times: &Times) -> Vec<String> {
    let limit_us = scenario.limits.serves.0 * 1_000;
    let mut wrong = Vec::new();
    // With several faults at once, only when the last is over is it known who had to serve.
    let alone = scenario.together == 1;
    for fault in faults.iter().filter(|fault| fault.error.is_none()) {
        let what = |from: &str| {
            let (n, kind, members) = (fault.planned.n, fault.planned.fault.name(), fault.members.join(", "));
            format!("fault {n} ({kind} of {members}): no write was accepted within {} {from}", scenario.limits.serves)
        };
        let late = |since: u64| {
            // What the run was too short to see is not held against it.
            let due = since + limit_us;
            times.written_after(since).map_or(run.over_us > due, |at| at > due)
        };
        if alone && fault.majority && late(fault.held_us) {
            wrong.push(what("of its beginning, with a majority of the masters whole"));
        } else if alone && late(fault.healed_us) {
            wrong.push(what("of its end"));
        }
    }
    wrong
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
        (value > limit.0 as f64).then(|| format!("limits.{name}: {value:.0} ms, and {limit} are allowed"))
    };
    told.iter().filter_map(over).collect()
}

fn inconclusive(
    scenario: &Scenario,
    run: &Run,
    faults: &[FaultLine],
    counts: &Counts,
    hole: Option<(u64, u64)>,
) -> Vec<String> {
    let mut why = Vec::new();
    why.extend(run.interrupted.as_ref().map(|reason| format!("the run was interrupted: {reason}")));
    for fault in faults {
        why.extend(fault.error.as_ref().map(|error| format!("fault {} went wrong: {error}", fault.planned.n)));
    }
    if counts.faults.is_empty() {
        why.push("no fault was carried out".into());
    }
    let work = &scenario.workload;
    let nothing = [
        (work.writes > 0 && counts.acknowledged == 0, "no write was acknowledged"),
        (work.reads > 0 && counts.reads == 0, "no read was answered"),
        (work.writes > 0 && counts.shown == 0, "no watcher was shown anything"),
        (work.pods > 0 && counts.bound == 0, "no pod was bound"),
    ];
    why.extend(nothing.iter().filter(|(is, _)| *is).map(|(_, what)| (*what).to_string()));
    let aims = scenario
        .faults
        .iter()
        .any(|rule| rule.fault.unseats() && matches!(&rule.target, crate::Target::Word(word) if word == "leader"));
    if aims && work.writes > 0 && counts.failovers == 0 {
        why.push("the leader is a target, and no failover was seen".into());
    }
    why.extend(
        hole.map(|(from, to)| {
            format!("no watcher tells of the revisions from {from} to {to}: they had left the history")
        }),
    );
    why
}

impl Report {
    /// For people, at 80 columns.
    pub fn text(&self) -> String {
        let counts = &self.counts;
        let verdict = match self.verdict {
            Verdict::Clean => "clean",
            Verdict::Violated => "VIOLATED",
            Verdict::Inconclusive => "inconclusive",
        };
        let faults: Vec<String> = counts.faults.iter().map(|(name, n)| format!("{n} {name}")).collect();
        let faults = if faults.is_empty() { "none".into() } else { faults.join(", ") };
        let mut text = format!(
            "{}, seed {}: {verdict}\n  faults   {faults}\n  writes   {} acknowledged ({} lost), {} refused, {} never, {} unknown\n  reads    {}; {} changes shown to watchers\n",
            self.scenario,
            self.seed,
            counts.acknowledged,
            counts.lost,
            counts.refused,
            counts.never,
            counts.unknown,
            counts.reads,
            counts.shown,
        );
        if counts.pods > 0 {
            let (pods, bound, doubles) = (counts.pods, counts.bound, counts.double_binds);
            text.push_str(&format!("  pods     {pods} made, {bound} bound, {doubles} bound twice\n"));
        }
        if counts.unsent > 0 {
            text.push_str(&format!("  unsent   {} requests, as too many were under way\n", counts.unsent));
        }
        if let Some(ms) = self.converged_ms {
            text.push_str(&format!("  whole again {ms} ms after the last fault was healed\n"));
        }
        if !self.writes.is_empty() {
            text.push_str(&format!(
                "\n  {:<34} {:>5} {:>8} {:>8} {:>8} {:>8}\n",
                "leader lost, ms until", "n", "p50", "p90", "p99", "max"
            ));
        }
        let tables = [
            ("writes", &self.writes),
            ("longest gap", &self.gaps),
            ("gap at the return", &self.return_gaps),
            ("a new bind", &self.binds),
        ];
        for (what, table) in tables {
            for (fault, p) in table.iter().filter(|(fault, _)| table.len() > 2 || *fault != "all") {
                let row = format!("{what} ({fault})");
                text.push_str(&format!(
                    "  {row:<34} {:>5} {:>8.0} {:>8.0} {:>8.0} {:>8.0}\n",
                    p.n, p.p50_ms, p.p90_ms, p.p99_ms, p.max_ms
                ));
            }
        }
        for violation in &self.violations {
            text.push_str(&format!("\nviolated {}: {}\n", violation.invariant, violation.what));
        }
        if self.further > 0 {
            text.push_str(&format!("\nand {} more\n", self.further));
        }
        for why in &self.inconclusive {
            text.push_str(&format!("\ninconclusive: {why}\n"));
        }
        text
    }
}
