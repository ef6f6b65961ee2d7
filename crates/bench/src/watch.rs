//! Many watchers of one prefix: how late a change reaches them, and how many changes can.

use crate::body::nanos;
use crate::load::{Client, Window, percentiles};
use crate::process::Meter;
use anyhow::Result;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One watcher's stream.
pub(crate) trait Watcher: Send + 'static {
    /// The stamps of the changes in the next message; none for a message of another kind.
    fn next(&mut self) -> impl Future<Output = Result<Vec<u64>>> + Send;
}

/// Time between the writes whose lag is measured: 10 a second reach 1,000 watchers as 10,000 events a
/// second, which leaves both systems' cores idle part of the time.
const PACE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// With one writer at a quiet pace.
    pub(crate) lag_p50_ms: f64,
    pub(crate) lag_p99_ms: f64,
    /// With writers that write as fast as they are answered: delivered to all watchers together.
    pub(crate) events_per_second: f64,
    pub(crate) cpu_us: f64,
    /// What watchers and writers themselves took then, in percent of one processor.
    pub(crate) driver_percent: f64,
    pub(crate) n_errors: u64,
    pub(crate) error: Option<String>,
    /// Refusals that writers answered by asking once more.
    pub(crate) n_repeated: u64,
}

const PACED: u8 = 0;
const SATURATING: u8 = 1;
const MEASURING: u8 = 2;
const OVER: u8 = 3;

#[derive(Default)]
struct Seen {
    lags_us: Vec<u32>,
    n_events: u64,
    error: Option<String>,
}

/// Runs both halves; the watchers are open and the writers connected.
pub(crate) async fn run<W: Watcher, C: Client>(
    watchers: Vec<W>,
    mut writers: Vec<C>,
    window: Window,
    servers: &[u32],
) -> Result<Sample> {
    let phase = Arc::new(AtomicU8::new(PACED));
    let followed: Vec<_> = watchers
        .into_iter()
        .map(|watcher| {
            let seen = Arc::new(Mutex::new(Seen::default()));
            (tokio::spawn(follow(watcher, phase.clone(), seen.clone())), seen)
        })
        .collect();
    let mut sample = Sample::default();
    let mut refused = |error: anyhow::Error| {
        sample.n_errors += 1;
        sample.error.get_or_insert_with(|| format!("{error:#}"));
    };
    let started = Instant::now();
    while started.elapsed() < window.measured {
        if let Err(error) = writers[0].once().await {
            refused(error);
        }
        tokio::time::sleep(PACE).await;
    }
    phase.store(SATURATING, Ordering::Relaxed);
    let writing: Vec<_> = writers.into_iter().map(|writer| tokio::spawn(write(writer, phase.clone()))).collect();
    tokio::time::sleep(window.warm_up).await;
    let meter = Meter::start(servers)?;
    phase.store(MEASURING, Ordering::Relaxed);
    tokio::time::sleep(window.measured).await;
    phase.store(OVER, Ordering::Relaxed);
    let used = meter.stop()?;
    let mut n_repeated = 0;
    for task in writing {
        let (n, written) = task.await?;
        n_repeated += n;
        written.err().map(&mut refused);
    }
    sample.n_repeated = n_repeated;
    let (mut lags, mut n_events) = (Vec::new(), 0);
    for (task, seen) in followed {
        // It may wait for an event that never comes.
        task.abort();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        lags.append(&mut seen.lags_us);
        n_events += seen.n_events;
        if let Some(error) = seen.error.take() {
            sample.n_errors += 1;
            sample.error.get_or_insert(error);
        }
    }
    (sample.lag_p50_ms, sample.lag_p99_ms) = percentiles(&mut lags);
    sample.events_per_second = n_events as f64 / used.seconds;
    sample.cpu_us = used.servers * 1e6 / n_events.max(1) as f64;
    sample.driver_percent = used.driver_percent;
    Ok(sample)
}

async fn follow<W: Watcher>(mut watcher: W, phase: Arc<AtomicU8>, seen: Arc<Mutex<Seen>>) {
    loop {
        let stamps = watcher.next().await;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match (phase.load(Ordering::Relaxed), stamps) {
            (OVER, _) => return,
            (_, Err(error)) => return seen.error = Some(format!("{error:#}")),
            (PACED, Ok(stamps)) => {
                let late = |stamp: u64| u32::try_from(nanos().saturating_sub(stamp) / 1000).unwrap_or(u32::MAX);
                seen.lags_us.extend(stamps.into_iter().map(late));
            }
            (MEASURING, Ok(stamps)) => seen.n_events += stamps.len() as u64,
            (_, Ok(_)) => {}
        }
    }
}

/// Writes until it is over or a write fails; tells how many it asked for more than once.
async fn write<C: Client>(mut writer: C, phase: Arc<AtomicU8>) -> (u64, Result<()>) {
    let mut written = Ok(());
    while written.is_ok() && phase.load(Ordering::Relaxed) != OVER {
        written = writer.once().await.map(drop);
    }
    (writer.n_repeated(), written)
}
