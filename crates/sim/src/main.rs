//! `sim SEED`, `sim --seeds N --from FIRST`: plays seeds and says what was wrong with them.

mod entropy;

use sim::{Batch, FIRED, Options, PASSED, Point, Twin, WRONG};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
sim SEED [--trace] [--twin NAME]    plays one seed; --trace prints what happens,
                                    --twin plants a fault
sim --seeds N [--from FIRST] [--twin NAME] [--twice]
sim FIRST..=LAST [--twin NAME] [--twice]
                                    plays each in a process of its own, as many
                                    at once as there are processors; exits with
                                    1 when one fails. FIRST is 1 unless given;
                                    --twice plays them all again, and holds the
                                    traces of both runs against each other
sim --catch [--seeds N] [--from FIRST] [--twin NAME]
                                    plants each fault, or the one named, and
                                    tells the first of N seeds (1,000) where an
                                    invariant that has to notices it, and which
                                    passes without it; exits with 1 when there
                                    is none
sim --points                        lists the failpoints
sim --twins                         lists the faults that can be planted, each with
                                    its room and the invariants that have to notice
RUST_LOG=openraft=debug shows the product's own log";

/// A planted fault is noticed by one of so many seeds, or the judgement is blind to it.
const CATCH_MAX: u64 = 1_000;
/// One cause has many effects; the first few tell enough, and the first of each invariant.
const SHOWN_MAX: usize = 10;

#[derive(Default)]
struct Arguments {
    which: Option<String>,
    n_seeds: Option<u64>,
    from: Option<u64>,
    options: Options,
    twice: bool,
    catch: bool,
    points: bool,
    twins: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--trace" => arguments.options.printed = true,
            "--twice" => arguments.twice = true,
            "--catch" => arguments.catch = true,
            "--points" => arguments.points = true,
            "--twins" => arguments.twins = true,
            "--seeds" => arguments.n_seeds = Some(words.next()?.parse().ok()?),
            "--from" => arguments.from = Some(words.next()?.parse().ok()?),
            "--twin" => {
                let name = words.next()?;
                arguments.options.twin = Some(Twin::ALL.into_iter().find(|twin| twin.name() == name)?);
            }
            _ if word.starts_with('-') || arguments.which.is_some() => return None,
            _ => arguments.which = Some(word),
        }
    }
    Some(arguments)
}

fn main() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1)) else { return help() };
    let Arguments { which, n_seeds, from, options, twice, catch, points, twins } = arguments;
    if points {
        sim::points::all().iter().for_each(|point| println!("{point}"));
        return ExitCode::SUCCESS;
    }
    if twins {
        let line = |twin: &Twin| println!("{:<18}{:<18}{}", twin.name(), twin.room(), twin.noticed_by().join(", "));
        Twin::ALL.iter().for_each(line);
        return ExitCode::SUCCESS;
    }
    let first = from.unwrap_or(1);
    if catch {
        let seeds = first..first.saturating_add(n_seeds.unwrap_or(CATCH_MAX));
        return as_code(catch_all(seeds, options.twin));
    }
    let range = which.as_deref().and_then(|which| which.split_once("..="));
    let passed = match (n_seeds, range, which.as_deref()) {
        (Some(n_seeds), _, None) => batch(first..first.saturating_add(n_seeds), options.twin, twice),
        (None, Some((first, last)), _) => {
            let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else { return help() };
            batch(first..last.saturating_add(1), options.twin, twice)
        }
        (None, None, Some(seed)) => {
            let Ok(seed) = seed.parse() else { return help() };
            one(Options { seed, ..options })
        }
        _ => return help(),
    };
    as_code(passed)
}

fn as_code(passed: bool) -> ExitCode {
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn program() -> PathBuf {
    std::env::current_exe().expect("a running program has a path")
}

fn batch(seeds: Range<u64>, twin: Option<Twin>, twice: bool) -> bool {
    if seeds.is_empty() {
        eprintln!("no seed lies in {seeds:?}: nothing was played");
        return false;
    }
    let batch: Batch = sim::batch(&program(), seeds.clone(), twin, true);
    println!("{batch}");
    let differing = if twice { batch.differing(&sim::batch(&program(), seeds, twin, true)) } else { Vec::new() };
    if twice {
        println!("{} seeds went another way when they were played again: {differing:?}", differing.len());
    }
    batch.failed.is_empty() && differing.is_empty()
}

fn catch_all(seeds: Range<u64>, twin: Option<Twin>) -> bool {
    let twins = Twin::ALL.into_iter().filter(|other| twin.is_none_or(|twin| twin == *other));
    let mut n_missed = 0;
    for twin in twins {
        match sim::catch(&program(), twin, seeds.clone()) {
            Some(caught) => println!("{caught}"),
            None => {
                n_missed += 1;
                println!("no seed of {seeds:?} notices {}", twin.name());
            }
        }
    }
    n_missed == 0
}

fn one(options: Options) -> bool {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    let report = sim::play(options);
    let (mut n_shown, mut invariants) = (0, BTreeSet::new());
    for wrong in &report.wrong {
        if invariants.insert(sim::invariant(wrong)) || n_shown < SHOWN_MAX {
            println!("{WRONG}{wrong}");
            n_shown += 1;
        }
    }
    let n_more = report.wrong.len() - n_shown;
    if n_more > 0 {
        println!("and {n_more} more");
    }
    println!("seed {} trace {:016x}: {}", report.seed, report.trace, report.story);
    let names = |points: &BTreeSet<Point>| points.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    println!("{PASSED}{}\n{FIRED}{}", names(&report.passed), names(&report.fired));
    report.wrong.is_empty()
}

fn help() -> ExitCode {
    eprintln!("{HELP}");
    ExitCode::FAILURE
}
