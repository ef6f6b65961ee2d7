//! Scenarios, schedules and verdicts: the same seed plans the same, and each planted fault is found.

use crate::lines::{FaultLine, Line, Run, Seen, WriteEnd};
use crate::schedule::{self, End, Planned, Start, resolve};
use crate::{Fault, Scenario, Target, Verdict, verdict};

const KILLS: &str = "
name: kills
duration: 60s
cluster: {masters: 5, workers: 1}
faults:
- {fault: kill, target: leader, every: 5s..10s, for: 2s}
- {fault: cut, target: {any: 2, of: masters}, every: 7s, for: 1s..3s}
";

fn scenario(text: &str) -> Scenario {
    Scenario::parse(text).unwrap()
}

fn refusal(change: impl Fn(&str) -> String) -> String {
    Scenario::parse(&change(KILLS)).unwrap_err()
}

#[test]
fn a_wrong_scenario_is_refused_by_the_field() {
    let refused = |from: &str, to: &str, told: &str| {
        let error = refusal(|text| text.replace(from, to));
        assert!(error.contains(told), "{to}: {error}");
    };
    refused("duration: 60s", "duration: 0s", "duration");
    refused("duration: 60s", "duration: 60", "is not a duration");
    refused("target: leader", "target: ledaer", "faults[0].target");
    refused("any: 2", "any: 6", "faults[1].target.any: 6 of 5");
    refused("fault: kill", "fault: murder", "murder");
    refused("fault: kill", "fault: slow-disk", "faults[0].stall");
    refused("fault: kill", "fault: clock-skew", "faults[0].seconds");
    refused("fault: kill", "fault: bit-flip", "faults[0].bits");
    refused("fault: kill", "fault: kill, bits: 3", "faults[0].bits");
    refused("every: 7s", "every: recovered", "faults: `every: recovered`");
    refused("every: 7s", "evry: 7s", "evry");
    refused("name: kills", "name: kills\ninvariants: [sane]", "invariants");
    refused("name: kills", "name: kills\nworkload: {watchers: 0}", "workload.watchers");
}

#[test]
fn the_seed_fixes_the_schedule() {
    let scenario = scenario(KILLS);
    let (one, two) = (schedule::plan(&scenario, 7), schedule::plan(&scenario, 7));
    assert_eq!(one, two);
    assert_ne!(one, schedule::plan(&scenario, 8));
    assert!(one.len() > 6, "{}", one.len());
    let mut free = 0;
    for (i, fault) in one.iter().enumerate() {
        let (Start::At(at), End::After(lasts)) = (fault.start, fault.end) else { panic!("{fault:?}") };
        assert!(at >= free && at < 60_000, "fault {i} at {at} comes before {free}");
        free = at + lasts + 1_000;
    }
}

#[test]
fn a_rule_paced_by_recovery_is_done_as_often_as_it_says() {
    let text =
        "{name: x, duration: 1h, faults: [{fault: kill, target: leader, every: recovered, for: recovered, times: 9}]}";
    let planned = schedule::plan(&scenario(text), 1);
    assert_eq!(planned.len(), 9);
    assert!(planned.iter().all(|fault| fault.start == Start::Recovered && fault.end == End::Recovered));
}

#[test]
fn targets_are_chosen_by_the_draw() {
    let names: Vec<String> = (1..=5).map(|i| format!("master-{i}")).collect();
    let scenario = scenario(KILLS);
    let planned = schedule::plan(&scenario, 3);
    let of = |target: Target, leader| {
        let fault = Planned { target, ..planned[0].clone() };
        resolve(&fault, &names, &["worker-1".into()], leader)
    };
    let word = |word: &str| Target::Word(word.into());
    assert_eq!(of(word("leader"), Some("master-2")).unwrap(), ["master-2"]);
    assert!(of(word("leader"), None).is_err());
    assert!(of(word("master-9"), None).is_err());
    assert_eq!(of(word("workers"), None).unwrap(), ["worker-1"]);
    assert_ne!(of(word("follower"), Some("master-2")).unwrap(), ["master-2"]);
    let two = scenario.faults[1].target.clone();
    assert_eq!(of(two.clone(), None).unwrap().len(), 2);
    assert_eq!(of(two.clone(), None), of(two, Some("master-1")));
}

fn write(n: u64, end: WriteEnd, revision: Option<u64>) -> Line {
    Line::Write {
        who: "writer".into(),
        name: "configmaps/k".into(),
        value: format!("w-{n}"),
        creates: n == 1,
        assumed: None,
        invoked_us: n * 1_000,
        tried_us: n * 1_000,
        answered_us: n * 1_000 + 500,
        doubtful: false,
        end,
        revision,
        why: None,
    }
}

fn shown(n: u64, revision: u64) -> Line {
    Line::Shown {
        who: "watcher of configmaps/".into(),
        at_us: n * 1_000 + 400,
        revision,
        name: "configmaps/k".into(),
        value: Some(format!("w-{n}")),
    }
}

fn read(n: u64, revision: u64, value: u64) -> Line {
    let seen: Seen = [("configmaps/k".into(), (revision, format!("w-{value}")))].into();
    Line::Read { who: "reader".into(), invoked_us: n * 1_000 + 600, answered_us: n * 1_000 + 700, revision, seen }
}

fn bound(node: &str) -> Line {
    let (pod, uid) = ("p-1".into(), "u-1".into());
    Line::Bound { who: "watcher".into(), at_us: 5_100, revision: 90, pod, uid, node: node.into() }
}

/// A leader killed at 3 ms, and ten writes a millisecond apart; the first after it is acknowledged at 5.5 ms.
fn clean() -> Vec<Line> {
    let listed = Line::Listed { who: "watcher of configmaps/".into(), at_us: 0, revision: 10, seen: Seen::default() };
    let mut lines = vec![listed];
    for n in 1..=10 {
        if n == 3 || n == 4 {
            lines.push(write(n, WriteEnd::Never, None));
            continue;
        }
        lines.extend([write(n, WriteEnd::Applied, Some(10 + n)), shown(n, 10 + n), read(n, 10 + n, n)]);
    }
    lines.push(Line::Pod { name: "p-1".into(), invoked_us: 3_300, answered_us: 4_000, made: true });
    lines.push(bound("worker-1"));
    lines
}

fn fault() -> FaultLine {
    let planned = schedule::plan(&scenario(KILLS), 1).into_iter().find(|fault| fault.fault == Fault::Kill);
    FaultLine {
        planned: planned.unwrap(),
        members: vec!["master-1".into()],
        leader: Some("master-1".into()),
        majority: true,
        begun_us: 3_000,
        held_us: 3_200,
        ended_us: 6_000,
        healed_us: 7_000,
        error: None,
    }
}

fn judged(lines: &[Line]) -> crate::Report {
    let run = Run { over_us: 11_000, converged_ms: Some(1), ..Run::default() };
    verdict::judge(&scenario(KILLS), &run, &[fault()], lines)
}

fn broken(lines: &[Line]) -> Vec<String> {
    let report = judged(lines);
    assert_eq!(report.verdict, Verdict::Violated, "{}", report.text());
    let mut broken: Vec<String> = report.violations.into_iter().map(|violation| violation.invariant).collect();
    broken.dedup();
    broken
}

#[test]
fn a_clean_history_is_clean_and_its_failover_is_measured() {
    let report = judged(&clean());
    assert_eq!(report.verdict, Verdict::Clean, "{}", report.text());
    assert_eq!((report.counts.acknowledged, report.counts.lost, report.counts.double_binds), (8, 0, 0));
    let failover = &report.failovers[0];
    assert_eq!((failover.writes_us, failover.gap_us, failover.bind_us), (Some(2_500), Some(3_000), Some(2_100)));
    assert_eq!(failover.return_gap_us, Some(1_000), "the failover itself is none");
    assert!(report.text().lines().all(|line| line.len() <= 80), "{}", report.text());
}

#[test]
fn a_lost_write_is_found() {
    let mut lines = clean();
    lines.push(write(11, WriteEnd::Applied, Some(21)));
    assert_eq!(broken(&lines), ["acknowledged"]);
    assert_eq!(judged(&lines).counts.lost, 1);
}

#[test]
fn a_write_applied_twice_is_found() {
    let mut lines = clean();
    let at = lines.iter().position(|line| *line == shown(6, 16)).unwrap();
    lines.insert(at + 1, shown(6, 17));
    lines.retain(|line| {
        *line != shown(7, 17) && *line != write(7, WriteEnd::Applied, Some(17)) && *line != read(7, 17, 7)
    });
    assert!(broken(&lines).contains(&"acknowledged".to_string()));
}

#[test]
fn a_stale_read_is_found() {
    let mut lines = clean();
    lines.push(read(9, 15, 5));
    assert_eq!(broken(&lines), ["linearizable"]);
}

#[test]
fn a_double_bind_is_found() {
    let mut lines = clean();
    lines.push(bound("worker-2"));
    assert_eq!(broken(&lines), ["bound-once"]);
}

#[test]
fn a_gap_in_a_watch_is_found() {
    let mut lines = clean();
    let second = |line: &Line| match line.clone() {
        Line::Listed { at_us, revision, seen, .. } => {
            Some(Line::Listed { who: "other of configmaps/".into(), at_us, revision, seen })
        }
        Line::Shown { at_us, revision, name, value, .. } if revision != 17 => {
            Some(Line::Shown { who: "other of configmaps/".into(), at_us, revision, name, value })
        }
        _ => None,
    };
    lines.extend(clean().iter().filter_map(second));
    assert_eq!(broken(&lines), ["watched"]);
}

#[test]
fn too_little_seen_concludes_nothing() {
    let run = Run { over_us: 11_000, ..Run::default() };
    let of =
        |run: &Run, faults: &[FaultLine], lines: &[Line]| verdict::judge(&scenario(KILLS), run, faults, lines).verdict;
    assert_eq!(of(&run, &[fault()], &clean()), Verdict::Clean);
    assert_eq!(of(&run, &[], &clean()), Verdict::Inconclusive, "no fault");
    assert_eq!(of(&run, &[fault()], &clean()[..1]), Verdict::Inconclusive, "nothing seen");
    let interrupted = Run { interrupted: Some("by the user".into()), ..run.clone() };
    assert_eq!(of(&interrupted, &[fault()], &clean()), Verdict::Inconclusive);
    let list = |who: &str| Line::Listed { who: who.into(), at_us: 12_000_000, revision: 99, seen: Seen::default() };
    let and = |line: Line| clean().into_iter().chain([line]).collect::<Vec<_>>();
    assert_eq!(of(&run, &[fault()], &and(list("late"))), Verdict::Inconclusive, "a hole before a watcher goes on");
    let failed = FaultLine { error: Some("no such disk".into()), ..fault() };
    assert_eq!(of(&run, &[fault(), failed], &clean()), Verdict::Inconclusive);
    let missing = Run { missing: Some("master-1 does not answer".into()), ..run };
    assert_eq!(of(&missing, &[fault()], &clean()), Verdict::Violated);
}
