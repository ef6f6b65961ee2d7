//! Service: when a write is due after faults that may overlap.

use super::{KILLS, scenario};
use crate::failover::Times;
use crate::lines::{FaultLine, Line, Run, WriteEnd};
use crate::schedule;
use crate::serves::unserved;

const SECOND: u64 = 1_000_000;

/// From one second to another.
fn fault(n: usize, from: u64, to: u64, majority: bool) -> FaultLine {
    let mut planned = schedule::plan(&scenario(KILLS), 1).remove(0);
    planned.n = n;
    FaultLine {
        planned,
        members: vec!["m".into()],
        leader: None,
        majority,
        begun_us: from * SECOND,
        held_us: from * SECOND,
        ended_us: to * SECOND,
        healed_us: to * SECOND,
        ended: None,
        error: None,
    }
}

/// Of which fault, and of its beginning or its end, no write came in time, when these seconds saw one.
fn late(faults: &[FaultLine], over: u64, written: &[u64]) -> Vec<String> {
    let write = |at: &u64| Line::Write {
        who: "writer".into(),
        name: "k".into(),
        value: at.to_string(),
        creates: false,
        assumed: None,
        invoked_us: at * SECOND,
        tried_us: at * SECOND,
        answered_us: at * SECOND + 1_000,
        doubtful: false,
        end: WriteEnd::Applied,
        revision: Some(*at),
        why: None,
    };
    let lines: Vec<Line> = written.iter().map(write).collect();
    let run = Run { over_us: over * SECOND, ..Run::default() };
    let told = |what: &String| {
        let n = what.split(' ').nth(1).unwrap();
        format!("{n} {}", if what.contains("beginning") { "beginning" } else { "end" })
    };
    unserved(&scenario(KILLS), &run, faults, &Times::of(&lines)).iter().map(told).collect()
}

#[test]
fn a_write_is_due_after_the_beginning_and_after_the_end() {
    let one = [fault(1, 2, 4, true)];
    assert_eq!(late(&one, 60, &[3, 5]), [""; 0]);
    assert_eq!(late(&one, 60, &[13, 20]), ["1 beginning"]);
    assert_eq!(late(&one, 60, &[3]), ["1 end"]);
    assert_eq!(late(&one, 14, &[3]), [""; 0], "the run was too short to see");
    assert_eq!(late(&[fault(1, 2, 14, false)], 60, &[15]), [""; 0], "without a majority");
    assert_eq!(late(&[fault(1, 2, 14, false)], 60, &[25]), ["1 end"]);
}

#[test]
fn faults_that_leave_a_majority_together_excuse_nothing() {
    let two = [fault(1, 2, 6, true), fault(2, 4, 8, true)];
    assert_eq!(late(&two, 60, &[3, 5, 7, 9]), [""; 0]);
    assert_eq!(late(&two, 60, &[30]), ["1 beginning", "2 beginning"]);
    assert_eq!(late(&two, 60, &[3, 5]), ["1 end", "2 end"]);
}

#[test]
fn while_another_takes_the_majority_its_end_is_what_counts() {
    let overlapping = [fault(1, 2, 6, true), fault(2, 4, 20, false)];
    assert_eq!(late(&overlapping, 60, &[21]), [""; 0]);
    assert_eq!(late(&overlapping, 60, &[31]), ["2 end"]);
    // The leader, and all of them right after.
    let one_after_the_other = [fault(1, 2, 4, true), fault(2, 5, 7, false)];
    assert_eq!(late(&one_after_the_other, 60, &[15]), [""; 0]);
    assert_eq!(late(&one_after_the_other, 60, &[18]), ["2 end"]);
    let ended_together = [fault(1, 2, 8, false), fault(2, 3, 8, false)];
    assert_eq!(late(&ended_together, 60, &[30]), ["1 end", "2 end"], "they do not excuse each other");
    let later = [fault(1, 2, 4, true), fault(2, 14, 16, false)];
    assert_eq!(late(&later, 60, &[17]), ["1 beginning"], "all that was due was due before");
}

#[test]
fn a_fault_that_went_wrong_may_last() {
    let wrong = FaultLine { error: Some("not healed".into()), ..fault(1, 2, 4, true) };
    assert_eq!(late(&[wrong.clone(), fault(2, 20, 22, true)], 60, &[]), [""; 0]);
    let never_begun = FaultLine { begun_us: 0, ..wrong };
    assert_eq!(late(&[never_begun, fault(2, 20, 22, true)], 60, &[]), ["2 beginning"]);
}
