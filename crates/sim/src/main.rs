//! `sim SEED`, `sim --seeds N --from FIRST`: plays seeds and says what was wrong with them.

mod entropy;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use sim::{Batch, FIRED, Options, PASSED, Point, Twin, WRONG};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// A planted fault is noticed by one of so many seeds, or the judgement is blind to it.
const CATCH_MAX: u64 = 1_000;
/// One cause has many effects; the first few tell enough, and the first of each invariant.
const SHOWN_MAX: usize = 10;

/// Plays seeds: each is a cluster, those who use it, and what goes wrong with it, the same each time. Exits with 1 when one
/// fails. RUST_LOG=openraft=debug shows the product's own log.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// One seed, or FIRST..=LAST: each in a process of its own then, as many at once as there are processors.
    #[arg(value_name = "SEED")]
    which: Option<Which>,
    /// So many seeds, as a range.
    #[arg(long, value_name = "N", conflicts_with = "which", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// The first of them [default: 1].
    #[arg(long, value_name = "FIRST", conflicts_with = "which")]
    from: Option<u64>,
    /// Plants this fault (see --twins).
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Twin::ALL.map(Twin::name)), hide_possible_values = true)]
    twin: Option<String>,
    /// Prints what happens in one seed.
    #[arg(long)]
    trace: bool,
    /// Plays all of them again, and holds the traces of both runs against each other.
    #[arg(long, conflicts_with = "trace")]
    twice: bool,
    /// Plants each fault, or the one named, and tells the first of N seeds (1,000) where an invariant that has to notices it,
    /// and which passes without it; exits with 1 when there is none.
    #[arg(long, conflicts_with_all = ["which", "trace", "twice"])]
    catch: bool,
    /// Lists the failpoints.
    #[arg(long, exclusive = true)]
    points: bool,
    /// Lists the faults that can be planted, each with its room and the invariants that have to notice.
    #[arg(long, exclusive = true)]
    twins: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Which {
    One(u64),
    All(Range<u64>),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Which, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no seed: 17, or 1..=1000"));
        let Some((first, last)) = text.split_once("..=") else { return Ok(Which::One(number(text)?)) };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("no seed lies in {text}"));
        }
        Ok(Which::All(first..last.saturating_add(1)))
    }
}

impl Arguments {
    /// What to play; what it makes no sense to ask for together is an error.
    fn which(&self) -> Result<Which, String> {
        let first = self.from.unwrap_or(1);
        let which = match (&self.which, self.seeds) {
            (Some(which), _) => which.clone(),
            (None, Some(n)) => Which::All(first..first.saturating_add(n)),
            (None, None) if self.catch => Which::All(first..first.saturating_add(CATCH_MAX)),
            (None, None) => return Err("which seed? SEED, FIRST..=LAST, or --seeds N (--help)".into()),
        };
        match which {
            Which::One(seed) if self.twice => Ok(Which::All(seed..seed.saturating_add(1))),
            Which::All(_) if self.trace => Err("--trace prints one seed: sim SEED --trace".into()),
            which => Ok(which),
        }
    }

    fn twin(&self) -> Option<Twin> {
        let name = self.twin.as_ref()?;
        Twin::ALL.into_iter().find(|twin| twin.name() == name)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.points {
        sim::points::all().iter().for_each(|point| println!("{point}"));
        return ExitCode::SUCCESS;
    }
    if arguments.twins {
        let line = |twin: &Twin| println!("{:<18}{:<18}{}", twin.name(), twin.room(), twin.noticed_by().join(", "));
        Twin::ALL.iter().for_each(line);
        return ExitCode::SUCCESS;
    }
    let which = arguments.which().unwrap_or_else(|error| {
        eprintln!("error: {error}");
        std::process::exit(2);
    });
    as_code(match which {
        Which::All(seeds) if arguments.catch => catch_all(seeds, arguments.twin()),
        Which::All(seeds) => batch(seeds, arguments.twin(), arguments.twice),
        Which::One(seed) => one(Options { seed, twin: arguments.twin(), printed: arguments.trace }),
    })
}

fn as_code(passed: bool) -> ExitCode {
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn program() -> PathBuf {
    std::env::current_exe().expect("a running program has a path")
}

fn batch(seeds: Range<u64>, twin: Option<Twin>, twice: bool) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name() {
        let which = |text: &str| {
            let words = std::iter::once("sim").chain(text.split_whitespace());
            let arguments = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
            arguments.which()
        };
        assert_eq!(which("17"), Ok(Which::One(17)));
        assert_eq!(which("17 --twice"), Ok(Which::All(17..18)));
        assert_eq!(which("3..=5 --twice"), Ok(Which::All(3..6)));
        assert_eq!(which("--seeds 2 --from 7 --twin careless"), Ok(Which::All(7..9)));
        assert_eq!(which("--catch"), Ok(Which::All(1..1_001)));
        for (text, told) in [
            ("", "which seed?"),
            ("x", "\"x\" is no seed"),
            ("5..=3", "no seed lies in 5..=3"),
            ("--seeds 0", "--seeds"),
            ("17 --from 3", "--from"),
            ("17 --seeds 3", "--seeds"),
            ("1..=3 --trace", "--trace"),
            ("17 --trace --twice", "--twice"),
            ("17 --catch", "--catch"),
            ("17 --twin ghost", "ghost"),
            ("--points 17", "--points"),
        ] {
            let error = which(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
