//! The seeds that every change is held against: fixed ones, fresh ones, and those with a planted fault.

use sim::{Batch, Twin};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sim");
/// Fresh seeds of one test run.
const N_FRESH: u64 = 150;
/// A planted fault is noticed by one of so many seeds, or the judgement has become blind to it.
const N_TWINS: u64 = 40;

fn batch(seeds: impl IntoIterator<Item = u64>, twin: Option<Twin>) -> Batch {
    sim::batch(Path::new(PROGRAM), seeds, twin)
}

#[test]
fn the_fixed_seeds_pass() {
    let batch = batch(1..=200, None);
    println!("{batch}");
    assert!(batch.failed.is_empty(), "{batch}");
}

#[test]
fn fresh_seeds_pass() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let first = now.as_secs() * 1_000;
    let batch = batch(first..first + N_FRESH, None);
    println!("{batch}, from {first} on");
    assert!(batch.failed.is_empty(), "{batch}");
}

#[test]
fn a_seed_is_replayed_to_the_letter() {
    for seed in 1..=10 {
        let play = || Command::new(PROGRAM).args([&seed.to_string(), "--trace"]).output().unwrap().stdout;
        let (once, again) = (play(), play());
        let lines = |trace: &[u8]| String::from_utf8_lossy(trace).lines().map(ToString::to_string).collect::<Vec<_>>();
        let (once, again) = (lines(&once), lines(&again));
        assert!(once.len() > 100, "seed {seed} has a trace");
        let first_other = once.iter().zip(&again).find(|(a, b)| a != b);
        assert_eq!(first_other, None, "seed {seed} goes another way");
        assert_eq!(once.len(), again.len());
    }
}

#[test]
fn planted_faults_are_found() {
    for twin in Twin::ALL {
        // A few at a time, until one notices.
        let mut firsts = (1..=N_TWINS).step_by(8);
        let found = firsts.find_map(|first| batch(first..first + 8, Some(twin)).failed.into_iter().next());
        let (seed, output) = found.unwrap_or_else(|| panic!("no seed of {N_TWINS} notices {}", twin.name()));
        println!("{}: seed {seed} says {}", twin.name(), output.lines().next().unwrap_or_default());
    }
}
