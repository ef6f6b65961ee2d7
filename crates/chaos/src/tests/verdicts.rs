//! Verdicts: a clean history is clean, each planted fault is found, and too little says nothing.

use super::scenario;
use crate::lines::{FaultLine, Line, OWN_STATE, Run, Seen, WriteEnd};
use crate::{Fault, Planned, Verdict, schedule, verdict};

const ONE_RULE: &str = "
name: kills
duration: 60s
cluster: {masters: 5, workers: 2}
faults:
- {fault: kill, target: leader, every: 5s..10s, for: 2s}
workload: {watchers: 1}
";

fn with_pods() -> String {
    ONE_RULE.replace("watchers: 1", "watchers: 1, pods: 1")
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
        who: "watcher".into(),
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
    bound_as("u-1", node)
}

fn bound_as(uid: &str, node: &str) -> Line {
    let (pod, uid) = ("p-1".into(), uid.into());
    Line::Bound { who: "pod watcher".into(), at_us: 5_100, revision: 90, pod, uid, node: node.into() }
}

/// A leader killed at 3 ms, and ten writes a millisecond apart; the first after it is acknowledged at 5.5 ms.
fn clean() -> Vec<Line> {
    let listed = Line::Listed { who: "watcher".into(), at_us: 0, revision: 10, seen: Seen::default() };
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
    lines.extend(names("master", 5).iter().map(|name| state(name, 20, 10)));
    lines
}

fn names(role: &str, n: usize) -> Vec<String> {
    (1..=n).map(|i| format!("{role}-{i}")).collect()
}

/// What a master itself holds in the end.
fn state(name: &str, revision: u64, value: u64) -> Line {
    let seen: Seen = [("configmaps/k".into(), (revision, format!("w-{value}")))].into();
    Line::Listed { who: format!("{OWN_STATE}{name}"), at_us: 60_000_000, revision, seen }
}

fn fault() -> FaultLine {
    let planned = schedule::plan(&scenario(ONE_RULE), 1).into_iter().find(|fault| fault.fault == Fault::Kill);
    FaultLine {
        planned: planned.unwrap(),
        members: vec!["master-1".into()],
        leader: Some("master-1".into()),
        majority: true,
        begun_us: 3_000,
        held_us: 3_200,
        ended_us: 6_000,
        healed_us: 7_000,
        ended: None,
        error: None,
    }
}

/// A run that came to its end, with a file of so many lines.
fn whole(lines: &[Line]) -> Run {
    let history_lines = lines.len() as u64;
    Run {
        masters: names("master", 5),
        workers: names("worker", 2),
        over_us: 60_000_000,
        last_write: Some(20),
        history_lines,
        fault_lines: 1,
        converged_ms: Some(20),
        ..Run::default()
    }
}

fn judged(lines: &[Line]) -> crate::Report {
    judged_as(ONE_RULE, |_| {}, lines)
}

/// Judged by a scenario, as a run that is changed a little.
fn judged_as(text: &str, change: impl Fn(&mut Run), lines: &[Line]) -> crate::Report {
    let mut run = whole(lines);
    change(&mut run);
    verdict::judge(&scenario(text), &run, &[fault()], lines)
}

#[test]
fn changes_of_leaders_are_counted_where_they_are_limited() {
    let of = |limit: &str, terms: Option<[u64; 2]>| {
        let text = format!("{ONE_RULE}limits: {{{limit}}}\n");
        let report = judged_as(&text, |run| run.terms = terms, &clean());
        (report.verdict, report.violations.into_iter().map(|violation| violation.what).collect::<Vec<_>>())
    };
    let told = "limits.leaderChanges: 2 (from term 7 to 9), and 1 are allowed".to_string();
    assert_eq!(of("leaderChanges: 1", Some([7, 9])), (Verdict::Violated, vec![told]));
    assert_eq!(of("leaderChanges: 2", Some([7, 9])).0, Verdict::Clean);
    assert_eq!(of("leaderChanges: 0", None).0, Verdict::Inconclusive);
    assert_eq!(of("serves: 10s", Some([7, 9])).0, Verdict::Clean);
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
    assert_eq!((report.counts.acknowledged, report.counts.lost, report.counts.double_binds), (8, Some(0), 0));
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
    assert_eq!(judged(&lines).counts.lost, Some(1));
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

/// What leaves no hole behind is judged.
#[test]
fn a_watcher_that_goes_back_and_lists_anew_is_found() {
    let mut lines = clean();
    let at = lines.iter().position(|line| *line == shown(8, 18)).unwrap();
    let seen: Seen = [("configmaps/k".into(), (18, "w-8".into()))].into();
    let again = Line::Listed { who: "watcher".into(), at_us: 8_500, revision: 18, seen };
    lines.splice(at + 1..at + 1, [shown(1, 11), again]);
    assert_eq!(broken(&lines), ["watched"]);
}

#[test]
fn a_list_beyond_the_last_write_leaves_no_hole() {
    let mut lines = clean();
    let seen: Seen = [("configmaps/k".into(), (20, "w-10".into()))].into();
    lines.push(Line::Listed { who: "watcher".into(), at_us: 11_000, revision: 31, seen });
    assert_eq!(judged(&lines).verdict, Verdict::Clean, "{}", judged(&lines).text());
}

#[test]
fn what_a_watcher_is_named_or_told_is_printed_as_text() {
    let mut lines = clean();
    lines.push(bound_as("u-2\nviolated stays-up: no", "worker-1"));
    assert!(!judged(&lines).text().contains("\nviolated stays-up"), "{}", judged(&lines).text());
}

#[test]
fn pods_that_share_a_uid_are_found() {
    let mut lines = clean();
    let other = |line: &Line| match line.clone() {
        Line::Bound { who, at_us, revision, uid, node, .. } => {
            Some(Line::Bound { who, at_us, revision, pod: "p-2".into(), uid, node })
        }
        _ => None,
    };
    lines.extend(clean().iter().filter_map(other));
    assert_eq!(broken(&lines), ["bound-once"]);
}

#[test]
fn a_double_bind_is_found() {
    let mut lines = clean();
    lines.push(bound("worker-2"));
    assert_eq!(broken(&lines), ["bound-once"]);
}

#[test]
fn a_pod_that_is_never_bound_is_found() {
    let mut lines = clean();
    lines.push(Line::Pod { name: "p-2".into(), invoked_us: 8_000, answered_us: 8_100, made: true });
    lines.push(Line::Pod { name: "p-3".into(), invoked_us: 8_000, answered_us: 8_100, made: false });
    assert_eq!(broken(&lines), ["binds"]);
    assert_eq!(judged(&lines).violations.len(), 1, "what was not made is not missed");
    let cut = |run: &mut Run| run.interrupted = Some("by the user".into());
    assert_eq!(judged_as(ONE_RULE, cut, &lines).verdict, Verdict::Inconclusive, "it was not waited for");
}

#[test]
fn failovers_that_nothing_followed_count_against_a_limit() {
    let text = with_pods() + "invariants: [watched]\nlimits: {bindP99: 1s}\n";
    let later = FaultLine {
        planned: Planned { n: 9, ..fault().planned },
        begun_us: 8_000,
        held_us: 8_000,
        ended_us: 8_100,
        healed_us: 8_200,
        ..fault()
    };
    let lines = clean();
    let run = Run { fault_lines: 2, ..whole(&lines) };
    let report = verdict::judge(&scenario(&text), &run, &[fault(), later], &lines);
    let told: Vec<&str> = report.violations.iter().map(|violation| violation.what.as_str()).collect();
    assert_eq!(told, ["limits.bindP99: 1 of 2 failovers were not followed by a bound pod"]);
}

#[test]
fn a_harm_that_nobody_met_concludes_nothing() {
    let of = |ended: Option<Vec<String>>| {
        let mut flip = FaultLine { ended, ..fault() };
        flip.planned.fault = Fault::BitFlip;
        let lines = clean();
        let text = ONE_RULE.replace("fault: kill, target: leader", "fault: bit-flip, bits: 9, target: leader");
        verdict::judge(&scenario(&text), &whole(&lines), &[flip], &lines)
    };
    assert_eq!(of(Some(vec!["master-1".into()])).verdict, Verdict::Clean);
    assert_eq!(of(None).verdict, Verdict::Clean, "not known");
    let unmet = of(Some(Vec::new()));
    assert_eq!(unmet.verdict, Verdict::Inconclusive);
    assert!(
        unmet.inconclusive[0].starts_with("no master ended of a bit-flip: more `bits`"),
        "{:?}",
        unmet.inconclusive
    );
}

#[test]
fn what_a_damaged_master_shows_must_be_so() {
    let with = |value: &str| {
        let seen: Seen = [("configmaps/k".into(), (15, value.into()))].into();
        let who = "state of master-2, damaged".into();
        let mut lines = clean();
        lines.push(Line::Listed { who, at_us: 9_000, revision: 16, seen });
        lines
    };
    assert_eq!(judged(&with("w-5")).verdict, Verdict::Clean, "it is late, and nobody shows it more");
    assert_eq!(broken(&with("v-5")), ["watched"]);
}

#[test]
fn a_gap_in_a_watch_is_found() {
    let mut lines = clean();
    let second = |line: &Line| match line.clone() {
        Line::Listed { who, at_us, revision, seen } if who == "watcher" => {
            Some(Line::Listed { who: "other".into(), at_us, revision, seen })
        }
        Line::Shown { at_us, revision, name, value, .. } if revision != 17 => {
            Some(Line::Shown { who: "other".into(), at_us, revision, name, value })
        }
        _ => None,
    };
    lines.extend(clean().iter().filter_map(second));
    assert_eq!(broken(&lines), ["watched"]);
}

#[test]
fn a_pod_that_is_made_twice_is_found() {
    let mut lines = clean();
    lines.push(bound_as("u-2", "worker-1"));
    assert_eq!(broken(&lines), ["bound-once"]);
    assert!(judged(&lines).text().contains("p-1 was made twice"));
}

#[test]
fn a_deletion_that_nobody_asked_for_is_found() {
    let mut lines = clean();
    let gone =
        Line::Shown { who: "watcher".into(), at_us: 10_800, revision: 21, name: "configmaps/k".into(), value: None };
    lines.retain(|line| !matches!(line, Line::Listed { who, .. } if who.starts_with(OWN_STATE)));
    lines.extend(names("master", 5).into_iter().map(|name| Line::Listed {
        who: format!("{OWN_STATE}{name}"),
        at_us: 60_000_000,
        revision: 21,
        seen: Seen::new(),
    }));
    lines.push(gone);
    assert_eq!(broken(&lines), ["acknowledged"]);
}

#[test]
fn a_read_staler_than_what_a_watcher_was_shown_is_found() {
    let mut lines = clean();
    // The writer has not been answered yet.
    lines.retain(|line| *line != write(10, WriteEnd::Applied, Some(20)) && *line != read(10, 20, 10));
    lines.push(write(10, WriteEnd::Unknown, None));
    let last = |run: &mut Run| run.last_write = Some(19);
    assert_eq!(judged_as(ONE_RULE, last, &lines).verdict, Verdict::Clean);
    lines.push(read(10, 19, 9));
    assert_eq!(broken(&lines), ["linearizable"]);
}

#[test]
fn a_member_that_ends_by_itself_is_found() {
    let report = judged_as(ONE_RULE, |run| run.ended.push("master-2 ended by itself".into()), &clean());
    assert_eq!(report.verdict, Verdict::Violated);
    assert_eq!(report.violations[0].invariant, "stays-up");
}

#[test]
fn what_was_not_carried_out_or_not_judged_is_told() {
    let report = judged(&clean());
    let planned = report.counts.planned["kill"];
    assert!(planned > 1 && report.text().contains(&format!("1 of {planned} kill")), "{}", report.text());
    assert!(!report.judged.iter().any(|name| ["bound-once", "binds"].contains(&name.as_str())), "{:?}", report.judged);
    let with_pods = judged_as(&ONE_RULE.replace("watchers: 1", "watchers: 1, pods: 1"), |_| {}, &clean());
    assert!(["bound-once", "binds"].iter().all(|name| with_pods.judged.iter().any(|judged| judged == name)));
    let unseen = judged_as(ONE_RULE, |run| run.pods_unseen = Some("pod watcher 2".into()), &clean());
    assert_eq!(unseen.verdict, Verdict::Inconclusive);
    let cuts = ONE_RULE.replace("workload:", "- {fault: cut, target: follower, every: 7s, for: 1s}\nworkload:");
    let never = judged_as(&cuts, |_| {}, &clean());
    assert!(never.text().contains("faults[1] (cut of follower): none was carried out"), "{}", never.text());
    let failed = judged_as(ONE_RULE, |run| run.reads_failed = 3, &clean());
    assert!(failed.text().contains("answered, 3 failed"), "{}", failed.text());
}

#[test]
fn limits_are_judged_whatever_invariants_are() {
    let with = |limit: &str| format!("{}invariants: [watched]\nlimits: {{{limit}}}\n", with_pods());
    let exceeded = judged_as(&with("failoverP99: 2ms"), |_| {}, &clean());
    assert_eq!((exceeded.verdict, exceeded.violations[0].invariant.as_str()), (Verdict::Violated, "limits"));
    assert_eq!(judged_as(&with("failoverP99: 10ms, bindP99: 1s"), |_| {}, &clean()).verdict, Verdict::Clean);
    let mut lines = clean();
    lines.retain(|line| !matches!(line, Line::Bound { .. }));
    let unmeasured = judged_as(&with("bindP99: 1s"), |_| {}, &lines);
    assert_eq!(unmeasured.verdict, Verdict::Inconclusive);
    let is_told = |why: &String| why.starts_with("limits.bindP99: no pod");
    assert!(unmeasured.inconclusive.iter().any(is_told), "{:?}", unmeasured.inconclusive);
}

#[test]
fn too_little_seen_concludes_nothing() {
    let of = |faults: &[FaultLine], lines: &[Line], change: &dyn Fn(&mut Run)| {
        let mut run = Run { fault_lines: faults.len() as u64, ..whole(lines) };
        change(&mut run);
        verdict::judge(&scenario(ONE_RULE), &run, faults, lines)
    };
    let doubted = |report: crate::Report, why: &str| {
        assert_eq!(report.verdict, Verdict::Inconclusive, "{why}");
        assert!(report.inconclusive.iter().any(|told| told.contains(why)), "{why}: {:?}", report.inconclusive);
    };
    assert_eq!(of(&[fault()], &clean(), &|_| {}).verdict, Verdict::Clean);
    doubted(of(&[], &clean(), &|_| {}), "no fault was carried out");
    let short = |run: &mut Run| run.over_us = 11_000;
    doubted(of(&[fault()], &clean()[..1], &short), "no write was acknowledged");
    doubted(of(&[fault()], &clean()[..1], &short), "no read was answered");
    doubted(of(&[fault()], &[], &short), "0 of 1 watchers");
    doubted(of(&[fault()], &clean(), &|run| run.interrupted = Some("by the user".into())), "interrupted: by the user");
    doubted(of(&[fault()], &clean(), &|run| run.left = Some("chaos-x".into())), "namespace chaos-x");
    doubted(of(&[fault()], &clean(), &|run| run.last_write = None), "the history is not judged");
    doubted(of(&[fault()], &clean(), &|run| run.history_lines += 1), "history.jsonl has");
    doubted(of(&[fault()], &clean(), &|run| run.fault_lines = 2), "faults.jsonl has 1 lines, and 2 were written");
    doubted(of(&[fault()], &clean(), &|run| run.masters.push("master-6".into())), "what master-6 itself holds");
    let list = |who: &str| Line::Listed { who: who.into(), at_us: 12_000_000, revision: 99, seen: Seen::default() };
    let and = |line: Line| clean().into_iter().chain([line]).collect::<Vec<_>>();
    let later = |run: &mut Run| run.last_write = Some(99);
    doubted(of(&[fault()], &and(list("late")), &later), "no watcher tells of the revisions from 20 to 99");
    let after = of(&[fault()], &and(list("late")), &|_| {});
    assert_eq!(after.verdict, Verdict::Violated, "what was there with the last write is gone");
    let failed =
        FaultLine { planned: Planned { n: 9, ..fault().planned }, error: Some("no such disk".into()), ..fault() };
    doubted(of(&[fault(), failed], &clean(), &|_| {}), "no such disk");
    let gone = |run: &mut Run| run.missing = Some("master-1 does not answer".into());
    assert_eq!(of(&[fault()], &clean(), &gone).verdict, Verdict::Violated);
    let unhealed = FaultLine { error: Some("not healed: no route".into()), ..fault() };
    doubted(of(&[unhealed], &clean(), &gone), "master-1 does not answer; but not everything was healed");
}

#[test]
fn a_history_that_is_complete_is_judged_whatever_ended_the_run() {
    let mut lines = clean();
    lines.push(write(11, WriteEnd::Applied, Some(21)));
    let cut = |run: &mut Run| run.interrupted = Some("by the user".into());
    assert_eq!(judged_as(ONE_RULE, cut, &lines).verdict, Verdict::Violated);
    let unfinished = judged_as(ONE_RULE, |run| run.last_write = None, &lines);
    assert_eq!(unfinished.verdict, Verdict::Inconclusive, "{}", unfinished.text());
}

#[test]
fn a_report_that_contradicts_itself_concludes_nothing() {
    let lines = clean();
    let of = |changed_run: &dyn Fn(&mut Run), changed_fault: &dyn Fn(&mut FaultLine)| {
        let (mut run, mut fault) = (whole(&lines), fault());
        changed_run(&mut run);
        changed_fault(&mut fault);
        verdict::judge(&scenario(ONE_RULE), &run, &[fault], &lines)
    };
    let doubted = |report: crate::Report, why: &str| {
        assert_eq!(report.verdict, Verdict::Inconclusive, "{why}");
        assert!(report.inconclusive.iter().any(|told| told.contains(why)), "{why}: {:?}", report.inconclusive);
    };
    let run = |change: &dyn Fn(&mut Run), why: &str| doubted(of(change, &|_| {}), why);
    run(&|run| run.masters.clear(), "0 different masters in 0");
    run(&|run| run.masters[1] = "master-1".into(), "4 different masters in 5");
    run(&|run| run.workers.clear(), "0 different workers");
    run(&|run| run.converged_ms = None, "neither convergedMs");
    run(&|run| run.last_write = Some(19), "revision 19 was written last, and the history has 20");
    run(&|run| run.over_us = 8_000_000, "the run was over after 8s");
    run(&|run| run.begun_us = 1_000_000, "the run was over after 59s");
    let fault = |change: &dyn Fn(&mut FaultLine), why: &str| doubted(of(&|_| {}, change), why);
    fault(&|fault| fault.planned.rule = 9, "no rule 9");
    fault(&|fault| fault.planned.fault = Fault::Pause, "rule 0 is a kill, not a pause");
    fault(&|fault| fault.members.clear(), "harmed nobody");
    fault(&|fault| fault.members[0] = "zz".into(), "\"zz\" is no member");
    fault(&|fault| fault.leader = Some("zz".into()), "\"zz\", who led");
    fault(&|fault| fault.majority = false, "majority is false, and 4 of 5");
    let late = of(&|run| run.converged_ms = Some(99_999_999), &|_| {});
    assert_eq!((late.verdict, late.violations[0].invariant.as_str()), (Verdict::Violated, "converges"));
    let twice = [self::fault(), self::fault()];
    let run = Run { fault_lines: 2, ..whole(&lines) };
    doubted(verdict::judge(&scenario(ONE_RULE), &run, &twice, &lines), "tells of fault 1 twice");
}
