//! `sim SEED`, `sim FIRST..=LAST`: plays seeds and says what was wrong with them.

mod entropy;

use sim::{Options, Twin};
use std::process::ExitCode;

const HELP: &str = "\
sim SEED [--trace] [--twin NAME]    plays one seed; --trace prints what happens,
                                    --twin plants a fault
sim FIRST..=LAST [--twin NAME]      plays each in a process of its own, as many
                                    at once as there are processors
RUST_LOG=openraft=debug shows the product's own log";

/// One cause has many effects; the first few tell enough.
const SHOWN_MAX: usize = 10;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut which, mut options) = (None, Options::default());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--trace" => options.printed = true,
            "--twin" => {
                let name = arguments.next().unwrap_or_default();
                options.twin = Twin::ALL.into_iter().find(|twin| twin.name() == name);
                if options.twin.is_none() {
                    return help();
                }
            }
            _ => which = Some(argument),
        }
    }
    let Some(which) = which else { return help() };
    let passed = match which.split_once("..=") {
        Some((first, last)) => {
            let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else { return help() };
            let program = std::env::current_exe().expect("a running program has a path");
            let batch = sim::batch(&program, first..=last, options.twin);
            println!("{batch}");
            batch.failed.is_empty()
        }
        None => {
            let Ok(seed) = which.parse() else { return help() };
            if std::env::var_os("RUST_LOG").is_some() {
                let filter = tracing_subscriber::EnvFilter::from_default_env();
                tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
            }
            let report = sim::play(Options { seed, ..options });
            report.wrong.iter().take(SHOWN_MAX).for_each(|wrong| println!("WRONG: {wrong}"));
            let n_more = report.wrong.len().saturating_sub(SHOWN_MAX);
            if n_more > 0 {
                println!("and {n_more} more");
            }
            println!("seed {} trace {:016x}: {}", report.seed, report.trace, report.story);
            report.wrong.is_empty()
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn help() -> ExitCode {
    eprintln!("{HELP}");
    ExitCode::FAILURE
}
