//! Closed-loop load: clients that each wait for their answer before they ask again, and what they saw.

use crate::process::Meter;
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// One client. Its requests follow each other; clients run side by side.
pub(crate) trait Client: Send + 'static {
    /// Sends one request and waits for its answer; returns how many operations that was.
    fn once(&mut self) -> impl Future<Output = Result<u64>> + Send;

    /// How many refusals it has answered by asking for the same once more.
    fn n_repeated(&self) -> u64 {
        0
    }
}

/// A client with keys of its own.
pub(crate) trait Fill: Send + 'static {
    /// Writes each of its keys once, many in a request.
    fn fill(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// The clients, once all of their keys are there, so that each replaces what it writes.
pub(crate) async fn filled<C: Fill>(clients: Vec<C>) -> Result<Vec<C>> {
    let fill = |mut client: C| async move {
        client.fill().await?;
        anyhow::Ok(client)
    };
    let tasks: Vec<_> = clients.into_iter().map(|client| tokio::spawn(fill(client))).collect();
    let mut filled = Vec::with_capacity(tasks.len());
    for task in tasks {
        filled.push(task.await??);
    }
    Ok(filled)
}

/// How long clients run before they are measured, and how long they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

impl Window {
    /// Of seconds, as flags give them.
    pub(crate) fn of(warm_up: f64, seconds: f64) -> Result<Window> {
        let duration = |flag: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds).with_context(|| format!("--{flag} {seconds}: not a length of time"))
        };
        let window = Window { warm_up: duration("warm-up", warm_up)?, measured: duration("seconds", seconds)? };
        if window.measured < Duration::from_millis(100) {
            bail!("--seconds {seconds}: at least 0.1");
        }
        Ok(window)
    }
}

/// What one run of clients saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Of all servers together, user and system, per operation.
    pub(crate) cpu_us: f64,
    /// What the clients themselves took, in percent of one processor.
    pub(crate) driver_percent: f64,
    pub(crate) n_errors: u64,
    pub(crate) error: Option<String>,
    /// Refusals that clients answered by asking once more; their time is in the latencies.
    pub(crate) n_repeated: u64,
}

/// A client that was refused waits this long, so that a server in trouble is not also flooded.
const AFTER_ERROR: Duration = Duration::from_millis(10);

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

#[derive(Default)]
struct Seen {
    /// Microseconds of each request that ended while measured, or was under way when that was over, whatever the answer
    /// was: of a server that stands still nothing ends.
    latencies: Vec<u32>,
    n_operations: u64,
    n_errors: u64,
    error: Option<String>,
    n_repeated: u64,
}

/// Runs the clients through the window. `servers` are the processes whose CPU time is counted.
pub(crate) async fn run<C: Client>(clients: Vec<C>, window: Window, servers: &[u32]) -> Result<Sample> {
    let (sample, ()) = beside(clients, window.warm_up, servers, tokio::time::sleep(window.measured)).await?;
    Ok(sample)
}

/// Runs the clients, after their warm-up, for as long as `what` takes.
pub(crate) async fn beside<C: Client, T>(
    clients: Vec<C>,
    warm_up: Duration,
    servers: &[u32],
    what: impl Future<Output = T>,
) -> Result<(Sample, T)> {
    let phase = Arc::new(AtomicU8::new(WARMING));
    let tasks: Vec<_> = clients.into_iter().map(|client| tokio::spawn(drive(client, phase.clone()))).collect();
    tokio::time::sleep(warm_up).await;
    let meter = Meter::start(servers)?;
    phase.store(MEASURING, Ordering::Relaxed);
    let made = what.await;
    phase.store(OVER, Ordering::Relaxed);
    let used = meter.stop()?;
    let mut all = Seen::default();
    for task in tasks {
        let seen = task.await?;
        all.latencies.extend(seen.latencies);
        all.n_operations += seen.n_operations;
        all.n_errors += seen.n_errors;
        all.error = all.error.or(seen.error);
        all.n_repeated += seen.n_repeated;
    }
    let (p50_ms, p99_ms) = percentiles(&mut all.latencies);
    let sample = Sample {
        per_second: all.n_operations as f64 / used.seconds,
        p50_ms,
        p99_ms,
        cpu_us: used.servers * 1e6 / all.n_operations.max(1) as f64,
        driver_percent: used.driver_percent,
        n_errors: all.n_errors,
        error: all.error,
        n_repeated: all.n_repeated,
    };
    Ok((sample, made))
}

async fn drive<C: Client>(mut client: C, phase: Arc<AtomicU8>) -> Seen {
    let mut seen = Seen::default();
    loop {
        let asked = Instant::now();
        let answer = client.once().await;
        let now = phase.load(Ordering::Relaxed);
        if now != WARMING {
            seen.latencies.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        match answer {
            Ok(n) if now == MEASURING => seen.n_operations += n,
            Ok(_) => {}
            // One that outlasted the measuring counts too: it was asked for before the end.
            Err(error) => {
                seen.n_errors += 1;
                seen.error.get_or_insert_with(|| format!("{error:#}"));
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
        if now == OVER {
            seen.n_repeated = client.n_repeated();
            return seen;
        }
    }
}

/// The median and the 99th percentile of microseconds, in milliseconds; 0 of nothing.
pub(crate) fn percentiles(micros: &mut [u32]) -> (f64, f64) {
    micros.sort_unstable();
    let at = |percent: usize| stdx::percentile(micros, percent).map_or(0.0, |us| f64::from(us) / 1000.0);
    (at(50), at(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails every other time, and ends the measuring with its fourth request.
    struct Unreliable {
        n_asked: u64,
        phase: Arc<AtomicU8>,
    }

    impl Client for Unreliable {
        async fn once(&mut self) -> Result<u64> {
            self.n_asked += 1;
            if self.n_asked == 4 {
                self.phase.store(OVER, Ordering::Relaxed);
            }
            match self.n_asked % 2 {
                0 => anyhow::bail!("request {} is refused", self.n_asked),
                _ => Ok(10),
            }
        }

        fn n_repeated(&self) -> u64 {
            7
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_have_latencies_and_are_counted_to_the_end() {
        let phase = Arc::new(AtomicU8::new(MEASURING));
        let seen = drive(Unreliable { n_asked: 0, phase: phase.clone() }, phase).await;
        assert_eq!((seen.latencies.len(), seen.n_operations, seen.n_errors, seen.n_repeated), (4, 20, 2, 7));
        assert_eq!(seen.error.as_deref(), Some("request 2 is refused"));
    }

    #[test]
    fn percentiles_are_of_any_order_and_of_none() {
        assert_eq!(percentiles(&mut []), (0.0, 0.0));
        let mut hundred: Vec<u32> = (1..=100).rev().map(|ms| ms * 1000).collect();
        assert_eq!(percentiles(&mut hundred), (50.0, 99.0));
    }
}
