//! Scenarios and schedules: what is wrong is refused by its field, and the same seed plans the same.

use crate::schedule::{self, End, Planned, Start, check_names, never_come, resolve};
use crate::{Scenario, Target};

mod lines;
mod service;
mod verdicts;

const KILLS: &str = "
name: kills
duration: 60s
cluster: {masters: 5, workers: 2}
faults:
- {fault: kill, target: leader, every: 5s..10s, for: 2s}
- {fault: cut, target: {any: 2, of: masters}, every: 7s, for: 1s..3s}
workload: {watchers: 1}
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
    refused("any: 2", "any: 6", "faults[1].target.any: 6 of 5");
    refused("fault: kill", "fault: murder", "murder");
    refused("fault: kill", "fault: slow-disk", "faults[0].stall");
    refused("fault: kill", "fault: clock-skew", "faults[0].seconds");
    refused("fault: kill", "fault: bit-flip", "faults[0].bits");
    refused("fault: kill", "fault: kill, bits: 3", "faults[0].bits");
    refused("every: 7s", "every: recovered", "faults: `every: recovered`");
    refused("every: 7s", "evry: 7s", "evry");
    refused("name: kills", "name: kills\ninvariants: [sane]", "invariants");
    refused("name: kills", "name: kills\ninvariants: []", "name at least one, or leave it out");
    refused("fault: kill", "fault: clock-skew, seconds: 400000000", "faults[0].seconds");
    refused("watchers: 1", "watchers: 1, keys: 5000, size: 200000", "workload.keys");
    refused("watchers: 1", "watchers: 0", "workload.watchers");
    refused("target: leader", "target: [leader]", "{any: 2, of: masters} (followers, workers)");
    refused("any: 2", "some: 2", "{any: 2, of: masters} (followers, workers)");
}

#[test]
fn what_could_not_be_done_or_judged_is_refused() {
    let refused = |from: &str, to: &str, told: &str| {
        let error = refusal(|text| text.replace(from, to));
        assert!(error.contains(told), "{to}: {error}");
    };
    refused("for: 2s", "for: 2s, times: 0", "faults[0].times");
    let paced =
        |text: &str| text.replace("every: 5s..10s", "every: recovered").replace("every: 7s", "every: recovered");
    assert!(refusal(|text| paced(text).replace("for: 2s", "for: 2s, first: 1s")).contains("faults[0].first"));
    for stall in ["0s", "2001ms"] {
        refused("kill, target: leader", &format!("slow-disk, stall: {stall}, target: leader"), "faults[0].stall");
    }
    refused("watchers: 1", "writes: 0, reads: 0", "workload: nothing is asked");
    refused("watchers: 1", "keys: 0", "workload.keys");
    for (field, value) in [
        ("keys", 10_001),
        ("size", 262_145),
        ("watchers", 101),
        ("deployment", 1_001),
        ("assuming", 101),
        ("writes", u32::MAX),
    ] {
        refused("watchers: 1", &format!("{field}: {value}"), &format!("workload.{field}: {value} is more than"));
    }
    refused("name: kills", "name: kills\ninvariants: [bound-once]", "invariants: bound-once");
    assert!(
        refusal(|text| text.replace("watchers: 1", "writes: 0") + "invariants: [serves]\n")
            .contains("invariants: serves")
    );
    for n in [0, 8] {
        refused("masters: 5", &format!("masters: {n}"), "cluster.masters");
    }
    refused("workers: 2", "workers: 101", "cluster.workers");
    let one_worker =
        |text: &str| text.replace("workers: 2", "workers: 1").replace("watchers: 1", "watchers: 1, pods: 1");
    assert!(refusal(one_worker).contains("no pod can be bound twice"));
    assert!(Scenario::parse(&(one_worker(KILLS) + "invariants: [binds]\n")).is_ok());
    let limit = |limit: &str| refusal(|text| format!("{text}limits: {{{limit}}}\n"));
    assert!(limit("bindP99: 1s").contains("limits.bindP99"));
    let unwritten = |text: &str| text.replace("watchers: 1", "writes: 0");
    assert!(refusal(|text| unwritten(text) + "limits: {failoverP50: 1s}\n").contains("limits.failoverP50"));
    let harmless = "{name: x, duration: 9s, faults: [{fault: kill, target: worker, every: 1s, for: 1s}],
        cluster: {workers: 1}, limits: {failoverP99: 1s}}";
    assert!(Scenario::parse(harmless).unwrap_err().contains("limits.failoverP99"));
    let paced = "{name: x, duration: 9s, faults: [{fault: kill, target: leader, every: 1s, for: recovered}],
        workload: {writes: 0}}";
    assert!(Scenario::parse(paced).unwrap_err().contains("faults[0].for"));
    refused("name: kills", "name: kills\ntogether: 108", "together: 108 is more than 107");
    refused("name: kills", "name: kills\ninvariants: [binds]", "invariants: binds");
    refused("fault: kill", "fault: bit-flip, bits: 1000001", "faults[0].bits");
    let flips = "{name: x, duration: 9s, faults: [{fault: bit-flip, target: master, every: 1s, for: 1s, bits: 1}]";
    assert!(Scenario::parse(&format!("{flips}}}")).is_ok());
    assert!(Scenario::parse(&format!("{flips}, cluster: {{masters: 1}}}}")).unwrap_err().contains("needs 3 masters"));
    assert!(Scenario::parse(&format!("{flips}, together: 2}}")).unwrap_err().contains("together"));
}

#[test]
fn rules_that_never_come_are_told_and_a_run_without_faults_is_refused() {
    let of = |text: &str| {
        let scenario = scenario(text);
        never_come(&scenario, &schedule::plan(&scenario, 7))
    };
    assert_eq!(of(KILLS), Ok(Vec::new()));
    let late = "{name: x, duration: 4s, faults: [{fault: kill, target: leader, every: 1m, for: 1s, first: 2s},
        {fault: cut, target: follower, every: 1m, for: 1s}]}";
    assert_eq!(of(late), Ok(vec!["faults[1] (cut of follower): does not come within 4s".into()]));
    assert!(of(&late.replace(", first: 2s", "")).unwrap_err().contains("no fault comes within 4s"));
}

#[test]
fn members_are_named_as_they_are_there() {
    let (masters, workers) = (["master-1".to_string()], ["node-1".to_string()]);
    let of = |rule: &str| {
        let text =
            format!("{{name: x, duration: 9s, cluster: {{workers: 1}}, faults: [{{{rule}, every: 1s, for: 1s}}]}}");
        check_names(&scenario(&text), &masters, &workers)
    };
    assert_eq!(of("fault: kill, target: master-1"), Ok(()));
    assert_eq!(of("fault: power-cut, target: node-1"), Ok(()));
    assert_eq!(of("fault: kill, target: workers"), Ok(()));
    assert!(of("fault: kill, target: master-9").unwrap_err().contains("no member is named \"master-9\""));
    assert!(of("fault: kill, target: ledaer").unwrap_err().contains("or use leader, follower"));
    assert!(of("fault: bit-flip, bits: 1, target: node-1").unwrap_err().contains("takes a master: master-1"));
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
    let without = |target: Target, leader, harmed: &[&str]| {
        let fault = Planned { target, ..planned[0].clone() };
        resolve(&fault, &names, &["worker-1".into()], leader, |name| !harmed.contains(&name.as_str()))
    };
    let of = |target: Target, leader| without(target, leader, &[]);
    let word = |word: &str| Target::Word(word.into());
    assert_eq!(of(word("leader"), Some("master-2")).unwrap(), ["master-2"]);
    assert!(of(word("leader"), None).is_err());
    assert!(of(word("master-9"), None).is_err());
    assert_eq!(of(word("workers"), None).unwrap(), ["worker-1"]);
    assert_ne!(of(word("follower"), Some("master-2")).unwrap(), ["master-2"]);
    let two = scenario.faults[1].target.clone();
    assert_eq!(of(two.clone(), None).unwrap().len(), 2);
    assert_eq!(of(two.clone(), None), of(two.clone(), Some("master-1")));
    // Who is harmed already is passed over by a draw, and waited for where it is meant.
    let drawn = of(word("master"), None).unwrap();
    let others = without(word("master"), None, &[&drawn[0]]).unwrap();
    assert_ne!(others, drawn);
    let all_but_one: Vec<&str> = names[1..].iter().map(String::as_str).collect();
    assert_eq!(without(word("master"), None, &all_but_one).unwrap(), ["master-1"]);
    assert_eq!(without(two, None, &all_but_one).unwrap_err(), "2 cannot be chosen, as 1 of 5 are whole");
    for target in ["leader", "masters", "master-3"] {
        let error = without(word(target), Some("master-3"), &["master-3"]).unwrap_err();
        assert_eq!(error, "master-3 is harmed already");
    }
}
