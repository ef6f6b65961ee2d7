//! Many seeds, each in a process of its own: so that a run is alone with its randomness, and one that
//! hangs can be ended.

use crate::Twin;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A run takes about a quarter of a second of one processor; this one hangs.
const RUN_MAX: Duration = Duration::from_secs(120);

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Batch {
    pub n_played: usize,
    /// Each with what it printed.
    pub failed: Vec<(u64, String)>,
    /// In how many runs power was lost at each failpoint.
    pub fired: BTreeMap<String, usize>,
    pub passed: BTreeMap<String, usize>,
    /// The hash of each run's trace.
    pub traces: BTreeMap<u64, String>,
    pub took: Duration,
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (seed, output) in &self.failed {
            let output: String =
                output.lines().filter(|line| !line.starts_with(PASSED)).map(|l| format!("{l}\n")).collect();
            writeln!(f, "seed {seed} failed; replay it with: cargo run --release -p sim -- {seed} --trace\n{output}")?;
        }
        let n_points = crate::points::all().len();
        writeln!(
            f,
            "power was lost at {} of {n_points} failpoints, {} were passed",
            self.fired.len(),
            self.passed.len()
        )?;
        write!(f, "{} seeds, {} failed, in {:.1} s", self.n_played, self.failed.len(), self.took.as_secs_f64())
    }
}

/// How often a batch that is watched says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Plays the seeds with `program`, the simulator's own, on every processor; `watched` tells of the
/// progress on standard error.
pub fn batch(program: &Path, seeds: impl IntoIterator<Item = u64>, twin: Option<Twin>, watched: bool) -> Batch {
    let started = Instant::now();
    let waiting: Mutex<Vec<u64>> = Mutex::new(seeds.into_iter().collect());
    waiting.lock().reverse();
    let n_seeds = waiting.lock().len();
    let done: Mutex<Batch> = Mutex::default();
    let told: Mutex<Instant> = Mutex::new(started);
    let n_at_once = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_at_once {
            scope.spawn(|| {
                loop {
                    let Some(seed) = waiting.lock().pop() else { return };
                    let (output, passed) = play(program, seed, twin);
                    let mut done = done.lock();
                    done.n_played += 1;
                    done.count(&output);
                    done.traces.extend(trace(&output).map(|trace| (seed, trace.to_string())));
                    if !passed {
                        if watched {
                            eprintln!("seed {seed} failed: {}", first_wrong(&output));
                        }
                        done.failed.push((seed, output));
                    }
                    let mut told = told.lock();
                    if watched && told.elapsed() > PROGRESS_EVERY {
                        *told = Instant::now();
                        let (n, n_failed) = (done.n_played, done.failed.len());
                        eprintln!(
                            "{n} of {n_seeds} seeds, {n_failed} failed, {:.0} s",
                            started.elapsed().as_secs_f64()
                        );
                    }
                }
            });
        }
    });
    let mut batch = done.into_inner();
    batch.failed.sort();
    batch.took = started.elapsed();
    batch
}

/// The hash that a run's last lines tell of.
fn trace(output: &str) -> Option<&str> {
    let line = output.lines().find_map(|line| line.strip_prefix("seed "))?;
    line.split_once(" trace ")?.1.split_once(':').map(|(trace, _)| trace)
}

/// How a run begins each line about what was wrong with it; the name of an invariant and a colon follow.
pub const WRONG: &str = "WRONG: ";

/// The invariant that something wrong is named after.
pub fn invariant(wrong: &str) -> &str {
    wrong.split_once(':').map_or("", |(name, _)| name)
}

/// The first thing that was wrong by an invariant that has to notice a planted fault. A panic, or a run that had to
/// be ended, is none.
pub fn noticed(output: &str, twin: Twin) -> Option<&str> {
    let mut wrong = output.lines().filter_map(|line| line.strip_prefix(WRONG));
    wrong.find(|wrong| twin.noticed_by().contains(&invariant(wrong)))
}

/// The first thing that was wrong with a run that failed.
pub(crate) fn first_wrong(output: &str) -> &str {
    let wrong = output.lines().find_map(|line| line.strip_prefix(WRONG));
    wrong.or_else(|| output.lines().last()).unwrap_or_default()
}

/// How a run tells of the failpoints it passed, and of those at which power was lost.
pub const PASSED: &str = "passed: ";
pub const FIRED: &str = "fired: ";

impl Batch {
    /// The seeds that went another way in another batch.
    pub fn differing(&self, other: &Batch) -> Vec<u64> {
        let seeds: BTreeSet<u64> = self.traces.keys().chain(other.traces.keys()).copied().collect();
        seeds.into_iter().filter(|seed| self.traces.get(seed) != other.traces.get(seed)).collect()
    }

    fn count(&mut self, output: &str) {
        for (prefix, counts) in [(PASSED, &mut self.passed), (FIRED, &mut self.fired)] {
            let names = output.lines().filter_map(|line| line.strip_prefix(prefix)).flat_map(str::split_whitespace);
            names.for_each(|name| *counts.entry(name.into()).or_default() += 1);
        }
    }
}

/// Plays one seed; what it printed, and whether it passed.
fn play(program: &Path, seed: u64, twin: Option<Twin>) -> (String, bool) {
    let mut command = Command::new(program);
    command.arg(seed.to_string());
    if let Some(twin) = twin {
        command.args(["--twin", twin.name()]);
    }
    let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn() {
        Ok(child) => child,
        Err(error) => return (format!("{} cannot be run: {error}", program.display()), false),
    };
    // Read by a thread of its own, so that a full pipe does not hold the run up.
    let mut stdout = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut output = String::new();
        stdout.read_to_string(&mut output).map(|_| output)
    });
    let started = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(None) if started.elapsed() < RUN_MAX => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => break child.kill().and_then(|()| child.wait()),
            Ok(Some(status)) => break Ok(status),
            Err(error) => break Err(error),
        }
    };
    let output = reader.join().expect("the reader does not panic");
    match (ended, output) {
        (Ok(status), Ok(output)) if status.success() => (output, true),
        (Ok(status), Ok(output)) => (format!("{output}ended with {status} after {:?}", started.elapsed()), false),
        (Err(error), _) | (_, Err(error)) => (format!("cannot be watched: {error}"), false),
    }
}

#[cfg(test)]
mod tests {
    use super::noticed;
    use crate::Twin;

    #[test]
    fn only_the_invariant_that_has_to_notice_a_fault_counts() {
        let other = "WRONG: panic: capacity: overflow\nWRONG: converged: app-1 is Pending\n";
        let output = format!("{other}WRONG: capacity: revision 3: too much\nended with 1");
        assert_eq!(noticed(&output, Twin::Crowding), Some("capacity: revision 3: too much"));
        assert_eq!(noticed(other, Twin::Crowding), None);
        assert_eq!(noticed("ended with signal 9", Twin::Crowding), None);
    }
}
