//! Many seeds, each in a process of its own: so that a run is alone with its randomness, and one that
//! hangs can be ended.

use crate::Twin;
use parking_lot::Mutex;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A run takes about a second of one processor; this one hangs.
const RUN_MAX: Duration = Duration::from_secs(120);

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Batch {
    pub n_played: usize,
    /// Each with what it printed.
    pub failed: Vec<(u64, String)>,
    pub took: Duration,
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (seed, output) in &self.failed {
            writeln!(f, "seed {seed} failed; replay it with: cargo run --release -p sim -- {seed} --trace\n{output}")?;
        }
        write!(f, "{} seeds, {} failed, in {:.1} s", self.n_played, self.failed.len(), self.took.as_secs_f64())
    }
}

/// Plays the seeds with `program`, the simulator's own, on every processor.
pub fn batch(program: &Path, seeds: impl IntoIterator<Item = u64>, twin: Option<Twin>) -> Batch {
    let started = Instant::now();
    let waiting: Mutex<Vec<u64>> = Mutex::new(seeds.into_iter().collect());
    waiting.lock().reverse();
    let done: Mutex<Batch> = Mutex::default();
    let n_at_once = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_at_once {
            scope.spawn(|| {
                loop {
                    let Some(seed) = waiting.lock().pop() else { return };
                    let failure = play(program, seed, twin);
                    let mut done = done.lock();
                    done.n_played += 1;
                    done.failed.extend(failure.map(|output| (seed, output)));
                }
            });
        }
    });
    let mut batch = done.into_inner();
    batch.failed.sort();
    batch.took = started.elapsed();
    batch
}

/// Plays one seed; what it printed, if it failed.
fn play(program: &Path, seed: u64, twin: Option<Twin>) -> Option<String> {
    let mut command = Command::new(program);
    command.arg(seed.to_string());
    if let Some(twin) = twin {
        command.args(["--twin", twin.name()]);
    }
    let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn() {
        Ok(child) => child,
        Err(error) => return Some(format!("{} cannot be run: {error}", program.display())),
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
        (Ok(status), Ok(_)) if status.success() => None,
        (Ok(status), Ok(output)) => Some(format!("{output}ended with {status} after {:?}", started.elapsed())),
        (Err(error), _) | (_, Err(error)) => Some(format!("cannot be watched: {error}")),
    }
}
