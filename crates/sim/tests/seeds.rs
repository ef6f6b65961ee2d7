//! The seeds that every change is held against: fixed ones, fresh ones, and those with a planted fault.

use sim::{Batch, Twin, catch, noticed, points};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sim");
/// Of one test run; some 20 s of two processors, and so long again for the other tests.
const N_FIXED: u64 = 60;
const N_FRESH: u64 = 100;
/// What is rare, or was seen at a seed that is another run by now, must show in one of so many.
const N_OTHERS: u64 = 300;
/// The issue asks for so many failpoints, each shown to be reached.
const N_POINTS: usize = 45;

fn batch(seeds: impl IntoIterator<Item = u64>, twin: Option<Twin>) -> Batch {
    sim::batch(Path::new(PROGRAM), seeds, twin, false)
}

/// Tells on standard error, past the test harness, which keeps what a test that passes prints to itself.
fn say(what: impl std::fmt::Display) {
    writeln!(std::io::stderr(), "{what}").expect("standard error can be written");
}

#[test]
fn the_fixed_seeds_pass_reach_the_failpoints_and_are_the_same_when_played_again() {
    let first = batch(1..=N_FIXED, None);
    say(&first);
    assert!(first.failed.is_empty(), "{first}");
    let unreached: Vec<_> = points::all().into_iter().filter(|p| !first.passed.contains_key(&p.to_string())).collect();
    assert!(unreached.is_empty(), "never passed: {unreached:?}");
    assert!(first.fired.len() >= N_POINTS, "power was lost at these only: {:?}", first.fired);
    assert_eq!(first.traces.len() as u64, N_FIXED, "each tells the hash of its trace");
    assert_eq!(first.differing(&batch(1..=N_FIXED, None)), [0; 0], "these seeds go another way");
}

#[test]
fn fresh_seeds_pass() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let first = now.as_secs() * 1_000;
    say(format_args!("sim plays seeds {first}..={}", first + N_FRESH - 1));
    let batch = batch(first..first + N_FRESH, None);
    say(&batch);
    assert!(batch.failed.is_empty(), "{batch}");
}

/// The story of a run, which tells how many workers it had, and the lines of its trace before that.
fn told(seed: u64) -> (bool, Vec<String>) {
    let output = Command::new(PROGRAM).args([&seed.to_string(), "--trace"]).output().expect("it can be run");
    let lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(Into::into).collect();
    let story = lines.iter().find(|line| line.starts_with("seed ")).expect("a run ends with its story");
    (!story.contains("; 0 workers,"), lines)
}

#[test]
fn a_seed_is_replayed_to_the_letter_with_workers_and_without() {
    let (mut n_with, mut n_without) = (0, 0);
    for seed in 1..=8 {
        let ((has_workers, once), (_, again)) = (told(seed), told(seed));
        *if has_workers { &mut n_with } else { &mut n_without } += 1;
        assert!(once.len() > 100, "seed {seed} has a trace");
        // The hash of the trace is on the last lines.
        let first_other = once.iter().zip(&again).find(|(a, b)| a != b);
        assert_eq!(first_other, None, "seed {seed} goes another way");
        assert_eq!(once.len(), again.len());
    }
    assert!(n_with > 0 && n_without > 0, "{n_with} seeds have workers, {n_without} have none");
}

#[test]
fn statuses_reach_masters_after_their_workers_have_gone_elsewhere() {
    let n_late = |seed| told(seed).1.iter().filter(|line| line.ends_with(" late pod status")).count();
    let mut counts = (1..=N_OTHERS).map(|seed| (seed, n_late(seed)));
    let (seed, n_late) = counts.find(|(_, n_late)| *n_late > 0).expect("some status is taken in late");
    say(format_args!("seed {seed}: masters took {n_late} pod statuses in after their workers had hung up"));
}

#[test]
fn planted_faults_are_noticed() {
    let mut seeds = Twin::ALL.map(Twin::seed).to_vec();
    seeds.sort_unstable();
    seeds.dedup();
    let healthy = batch(seeds, None);
    assert!(healthy.failed.is_empty(), "these pass without a planted fault: {healthy}");
    for twin in Twin::ALL {
        let (name, room, seed) = (twin.name(), twin.room(), twin.seed());
        let played = batch([seed], Some(twin));
        if let Some(said) = played.failed.first().and_then(|(_, output)| noticed(output, twin)) {
            say(format_args!("{name} of {room}: seed {seed} says {said}"));
            continue;
        }
        let other = catch(Path::new(PROGRAM), twin, 1..N_OTHERS + 1);
        let other = other.unwrap_or_else(|| {
            panic!("by {:?} neither {seed} nor any of {N_OTHERS} seeds notices {name}", twin.noticed_by())
        });
        say(format_args!("{name} of {room}: no longer seed {seed}, but {} says {}", other.seed, other.said));
    }
}
