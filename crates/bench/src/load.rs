//! Closed-loop load: clients that each wait for their answer before they ask again, and what they saw.

use crate::process::cpu_seconds;
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// One client. Its requests follow each other; clients run side by side.
pub(crate) trait Client: Send + 'static {
    /// Sends one request and waits for its answer; returns how many operations that was.
    fn once(&mut self) -> impl Future<Output = Result<u64>> + Send;
}

/// How long clients run before they are measured, and how long they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What one run of clients saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Of all servers together, user and system, per operation.
    pub(crate) cpu_us: f64,
    pub(crate) n_errors: u64,
    pub(crate) error: Option<String>,
}

/// A client that was refused waits this long, so that a server in trouble is not also flooded.
const AFTER_ERROR: Duration = Duration::from_millis(10);

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

#[derive(Default)]
struct Seen {
    /// Microseconds of each request that ended while measured.
    latencies: Vec<u32>,
    n_operations: u64,
    n_errors: u64,
    error: Option<String>,
}

/// Runs the clients through the window. `servers` are the processes whose CPU time is counted.
pub(crate) async fn run<C: Client>(clients: Vec<C>, window: Window, servers: &[u32]) -> Result<Sample> {
    let phase = Arc::new(AtomicU8::new(WARMING));
    let tasks: Vec<_> = clients.into_iter().map(|client| tokio::spawn(drive(client, phase.clone()))).collect();
    tokio::time::sleep(window.warm_up).await;
    let (started, cpu_before) = (Instant::now(), cpu_seconds(servers)?);
    phase.store(MEASURING, Ordering::Relaxed);
    tokio::time::sleep(window.measured).await;
    phase.store(OVER, Ordering::Relaxed);
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(servers)? - cpu_before);
    let mut all = Seen::default();
    for task in tasks {
        let seen = task.await?;
        all.latencies.extend(seen.latencies);
        all.n_operations += seen.n_operations;
        all.n_errors += seen.n_errors;
        all.error = all.error.or(seen.error);
    }
    let (p50_ms, p99_ms) = percentiles(&mut all.latencies);
    Ok(Sample {
        per_second: all.n_operations as f64 / seconds,
        p50_ms,
        p99_ms,
        cpu_us: cpu * 1e6 / all.n_operations.max(1) as f64,
        n_errors: all.n_errors,
        error: all.error,
    })
}

async fn drive<C: Client>(mut client: C, phase: Arc<AtomicU8>) -> Seen {
    let mut seen = Seen::default();
    loop {
        let asked = Instant::now();
        let answer = client.once().await;
        match (phase.load(Ordering::Relaxed), answer) {
            (OVER, _) => return seen,
            (WARMING, Ok(_)) => {}
            (_, Ok(n)) => {
                seen.latencies.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
                seen.n_operations += n;
            }
            (_, Err(error)) => {
                seen.n_errors += 1;
                seen.error.get_or_insert_with(|| format!("{error:#}"));
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

/// The median and the 99th percentile of microseconds, in milliseconds; 0 of nothing.
pub(crate) fn percentiles(micros: &mut [u32]) -> (f64, f64) {
    micros.sort_unstable();
    let at = |share: usize| {
        let index = (micros.len() * share / 100).min(micros.len().saturating_sub(1));
        micros.get(index).map_or(0.0, |us| f64::from(*us) / 1000.0)
    };
    (at(50), at(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_of_none() {
        assert_eq!(percentiles(&mut []), (0.0, 0.0));
        assert_eq!(percentiles(&mut [7000]), (7.0, 7.0));
        let mut hundred: Vec<u32> = (1..=100).rev().map(|ms| ms * 1000).collect();
        assert_eq!(percentiles(&mut hundred), (51.0, 100.0));
    }
}
