//! `bench scale`: a state of a million objects. How large and how late it makes a master, and whether a
//! list of many objects holds writes up.

use crate::balsa::Balsa;
use crate::load::{self, Sample, Window};
use crate::process::{Folder, disk_bytes, largest_rss_mib};
use crate::proposer::{Keys, Raw};
use crate::{At, body, rest, show};
use anyhow::{Result, bail};
use objects::json;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Fills three masters with objects, and measures lists beside writes, a restart, and a master that lost its disk and is
/// rebuilt, without and beside writes.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    at: At,
    #[arg(long, default_value_t = 1_000_000)]
    objects: usize,
    /// Bytes of an object.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Of the objects, how many lie in the namespace that is listed.
    #[arg(long, default_value_t = 100_000)]
    listed: usize,
    /// How long writes are measured, alone and beside lists.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

/// Clients that fill the state, and objects in each of their transactions.
const FILLERS: usize = 8;
const FILL_OPS: usize = 100;
/// Clients whose writes are timed: few, so that it is the lists that hold them up and not each other.
const WRITERS: usize = 8;
/// The most that lists may slow writes: the 99th percentile beside them over the one without.
const SLOWED_MAX: f64 = 2.0;
/// Where the objects lie that are not listed.
const ELSEWHERE: &str = "kube-public";

pub(crate) async fn run(options: &Options) -> Result<()> {
    if options.listed > options.objects || options.listed == 0 {
        bail!("--listed {}: from 1 to --objects {}", options.listed, options.objects);
    }
    let seconds = Duration::try_from_secs_f64(options.seconds)?;
    let window = Window { warm_up: Duration::from_secs(1), measured: seconds };
    let root = Folder::create(options.at.dir.join(format!("bench-scale-{}", std::process::id())))?;
    let mut balsa = Balsa::start(&options.at.balsa, &root.0).await?;
    eprintln!("== writing {} objects of {} bytes", options.objects, options.size);
    let started = Instant::now();
    fill(&balsa, body::NAMESPACE, options.listed, options.size).await?;
    fill(&balsa, ELSEWHERE, options.objects - options.listed, options.size).await?;
    let filled = started.elapsed().as_secs_f64();
    let full_rss = largest_rss_mib(&balsa.pids())?;
    eprintln!("== writes without lists, {} s", options.seconds);
    let alone = writes(&balsa, "alone", options.size, window).await?;
    eprintln!("== writes beside lists of {} objects", options.listed);
    let over = Arc::new(AtomicBool::new(false));
    let listing = tokio::spawn(lists(balsa.access().clone(), balsa.api().to_string(), over.clone()));
    let beside = writes(&balsa, "beside", options.size, window).await;
    over.store(true, Ordering::Relaxed);
    let (lists, beside) = (listing.await??, beside?);
    if let Some(short) = lists.iter().find(|(n_bytes, _)| *n_bytes < options.listed * options.size) {
        bail!("a list of {} objects had only {} bytes", options.listed, short.0);
    }
    let rss = largest_rss_mib(&balsa.pids())?;
    eprintln!("== a master is killed and started again");
    balsa.follow_leader().await?;
    let restart = balsa.restart_follower().await?.as_secs_f64();
    eprintln!("== a master loses its disk and joins again");
    balsa.follow_leader().await?;
    let rebuilt = balsa.rebuild_follower().await?.as_secs_f64();
    eprintln!("== the same, beside writes");
    balsa.follow_leader().await?;
    let (pids, writers) = (balsa.pids(), writers(&balsa, "meanwhile", options.size).await?);
    let leader = [pids[balsa.leader()]];
    let (meanwhile, rebuilt_beside) = load::beside(writers, window.warm_up, &leader, balsa.rebuild_follower()).await?;
    if let Some(error) = &meanwhile.error {
        bail!("{} writes failed beside a master that joins, the first: {error}", meanwhile.n_errors);
    }
    let rebuilt_beside = rebuilt_beside?.as_secs_f64();
    let disk = balsa.folders().iter().map(|folder| disk_bytes(folder)).max().unwrap_or(0) >> 20;
    let mut list_s: Vec<f64> = lists.iter().map(|(_, took)| took.as_secs_f64()).collect();
    list_s.sort_by(f64::total_cmp);
    let slowed = beside.p99_ms / alone.p99_ms.max(0.001);
    let figures = [
        ("filled, objects/s", options.objects as f64 / filled),
        ("master RSS when full, MiB", full_rss),
        ("master RSS after lists, MiB", rss),
        ("master's disk, MiB", disk as f64),
        ("writes alone, p50 ms", alone.p50_ms),
        ("writes alone, p99 ms", alone.p99_ms),
        ("writes beside lists, p50 ms", beside.p50_ms),
        ("writes beside lists, p99 ms", beside.p99_ms),
        ("p99 beside over alone (at most 2)", slowed),
        ("lists meanwhile", list_s.len() as f64),
        ("a list, median s", list_s[list_s.len() / 2]),
        ("restart until caught up, s", restart),
        ("lost disk until caught up, s", rebuilt),
        ("the same beside writes, s", rebuilt_beside),
        ("writes meanwhile, /s", meanwhile.per_second),
        ("writes meanwhile, p50 ms", meanwhile.p50_ms),
        ("writes meanwhile, p99 ms", meanwhile.p99_ms),
    ];
    let text = || {
        let mut out = format!("3 masters, {} objects of {} bytes, fsync on\n", options.objects, options.size);
        for (what, value) in figures {
            writeln!(out, "{what:<36} {value:>12.1}").expect("a string takes any text");
        }
        out
    };
    show(&options.at, text, || figures.iter().map(|(what, value)| (what.to_string(), json!(value))).collect())?;
    if slowed > SLOWED_MAX {
        bail!("lists slow the 99th percentile of writes {slowed:.1} times; at most {SLOWED_MAX}");
    }
    Ok(())
}

async fn fill(balsa: &Balsa, namespace: &str, n: usize, n_bytes: usize) -> Result<()> {
    let share = |i: usize| (i..n).step_by(FILLERS).map(|j| format!("filled-{j:07}")).collect();
    let keys = (0..FILLERS).map(|i| Keys::new(namespace, share(i))).filter(|keys| !keys.is_empty()).collect();
    load::filled(balsa.proposers(keys, n_bytes, FILL_OPS).await?).await.map(drop)
}

async fn writers(balsa: &Balsa, cell: &str, n_bytes: usize) -> Result<Vec<Raw>> {
    let names = |i: usize| (0..100).map(|j| format!("{cell}-{i}-{j}")).collect();
    let keys = (0..WRITERS).map(|i| Keys::new(ELSEWHERE, names(i))).collect();
    balsa.proposers(keys, n_bytes, 1).await
}

async fn writes(balsa: &Balsa, cell: &str, n_bytes: usize, window: Window) -> Result<Sample> {
    let sample = load::run(writers(balsa, cell, n_bytes).await?, window, &balsa.pids()).await?;
    match &sample.error {
        Some(error) => bail!("{} writes failed, the first: {error}", sample.n_errors),
        None => Ok(sample),
    }
}

/// Lists the namespace again and again; returns the bytes of each list and how long it took.
async fn lists(access: crate::wire::Access, addr: String, over: Arc<AtomicBool>) -> Result<Vec<(usize, Duration)>> {
    let path = format!("/api/v1/namespaces/{}/configmaps", body::NAMESPACE);
    let mut lists = Vec::new();
    while !over.load(Ordering::Relaxed) || lists.is_empty() {
        let started = Instant::now();
        lists.push((rest::list(&access, &addr, &path).await?, started.elapsed()));
    }
    Ok(lists)
}
