//! `bench churn`: a day of writes over a bounded set of keys. What must not grow: disk, memory, open files.

use crate::balsa::Balsa;
use crate::load::Client;
use crate::process::{Folder, disk_bytes, largest_rss_mib, open_files};
use crate::proposer::Keys;
use crate::{At, body, show};
use anyhow::{Result, bail};
use objects::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Writes over and over the same keys of three masters and compares the last quarter of the run with the
/// second.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    at: At,
    #[arg(long, default_value_t = 20_000_000)]
    writes: u64,
    #[arg(long, default_value_t = 10_000)]
    keys: usize,
    /// Bytes of an object.
    #[arg(long, default_value_t = 256)]
    size: usize,
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Writes in a transaction.
    #[arg(long, default_value_t = 16)]
    batch: usize,
}

/// The most that the last quarter may use, over the second.
const GROWTH_MAX: f64 = 1.05;
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// With fewer samples a quarter tells nothing.
const SAMPLES_MIN: usize = 40;
const WHAT: [&str; 3] = ["disk, MiB", "RSS, MiB", "open files"];

/// Disk and open files of all masters together, memory of the largest.
type Use = [f64; 3];

pub(crate) async fn run(options: &Options) -> Result<()> {
    if options.clients == 0 || options.batch == 0 || options.keys < options.clients * options.batch {
        bail!("--keys {}: at least --clients times --batch, so that no two writes meet", options.keys);
    }
    let root = Folder::create(options.at.dir.join(format!("bench-churn-{}", std::process::id())))?;
    let balsa = Balsa::start(&options.at.balsa, &root.0).await?;
    let share = |i: usize| (i..options.keys).step_by(options.clients).map(|j| format!("churned-{j}")).collect();
    let keys = (0..options.clients).map(|i| Keys::new(body::NAMESPACE, share(i))).collect();
    let writers = balsa.proposers(keys, options.size, options.batch).await?;
    let (started, done) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for mut writer in writers {
        let (done, wanted) = (done.clone(), options.writes);
        tasks.spawn(async move {
            while done.load(Ordering::Relaxed) < wanted {
                done.fetch_add(writer.once().await?, Ordering::Relaxed);
            }
            anyhow::Ok(writer.n_repeated())
        });
    }
    let (pids, folders) = (balsa.pids(), balsa.folders());
    let mut samples: Vec<(u64, Use)> = Vec::new();
    let (mut tenths, mut repeated) = (0, 0);
    let mut pace = tokio::time::interval(SAMPLE_EVERY);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !tasks.is_empty() {
        tokio::select! {
            Some(ended) = tasks.join_next() => repeated += ended??,
            _ = pace.tick() => {
                let disk = folders.iter().map(|folder| disk_bytes(folder)).sum::<u64>() as f64 / f64::from(1 << 20);
                let used = [disk, largest_rss_mib(&pids)?, open_files(&pids)? as f64];
                let n = done.load(Ordering::Relaxed);
                samples.push((n, used));
                if n * 10 / options.writes.max(1) > tenths {
                    tenths = n * 10 / options.writes.max(1);
                    eprintln!("   {n:>11} writes  {:>7.0} s  {used:.0?} {WHAT:?}", started.elapsed().as_secs_f64());
                }
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let n = done.load(Ordering::Relaxed);
    let Some((second, last)) = quarters(&samples, n) else {
        bail!("{} samples are too few to compare quarters; ask for more --writes", samples.len());
    };
    let growth: Vec<f64> = (0..3).map(|i| last[i] / second[i].max(1.0)).collect();
    let text = || {
        let mut out = format!("{n} writes over {} keys of {} bytes in {seconds:.0} s\n", options.keys, options.size);
        out += &format!("{:<12} {:>14} {:>14} {:>8}\n", "", "second quarter", "last quarter", "ratio");
        for i in 0..3 {
            out += &format!("{:<12} {:>14.1} {:>14.1} {:>8.3}\n", WHAT[i], second[i], last[i], growth[i]);
        }
        out += &format!("{repeated} refused and repeated\n");
        out
    };
    let json = || -> Value {
        let of =
            |used: &Use| -> Value { WHAT.iter().zip(used).map(|(what, v)| (what.to_string(), json!(v))).collect() };
        json!({"writes": n, "repeated": repeated, "keys": options.keys, "size": options.size, "seconds": seconds,
               "secondQuarter": of(&second), "lastQuarter": of(&last), "growthMax": GROWTH_MAX})
    };
    show(&options.at, text, json)?;
    match (0..3).find(|i| growth[*i] > GROWTH_MAX) {
        Some(i) => {
            bail!("{} grew {:.3} times from the second quarter to the last; at most {GROWTH_MAX}", WHAT[i], growth[i])
        }
        None => Ok(()),
    }
}

/// The means of the second and the last quarter of `n` writes; none of too few samples.
fn quarters(samples: &[(u64, Use)], n: u64) -> Option<(Use, Use)> {
    if samples.len() < SAMPLES_MIN {
        return None;
    }
    let mean = |from: u64, to: u64| -> Option<Use> {
        let within: Vec<&Use> = samples
            .iter()
            .filter(|(at, _)| (n / 4 * from..n / 4 * to + 4).contains(at))
            .map(|(_, used)| used)
            .collect();
        let mean = |i: usize| within.iter().map(|used| used[i]).sum::<f64>() / within.len() as f64;
        (!within.is_empty()).then(|| [mean(0), mean(1), mean(2)])
    };
    Some((mean(1, 2)?, mean(3, 4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_are_of_writes_and_not_of_time() {
        let steady: Vec<(u64, Use)> = (0..100).map(|i| (i * 10, [i as f64, 1.0, 2.0])).collect();
        let (second, last) = quarters(&steady, 1000).unwrap();
        assert_eq!((second[1], last[2]), (1.0, 2.0));
        assert_eq!((second[0].round(), last[0].round()), (38.0, 87.0));
        assert_eq!(quarters(&steady[..10], 100), None);
    }
}
