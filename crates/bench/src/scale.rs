//! `bench scale`: a state of a million objects. How large and how late it makes a master, and whether a
//! list of many objects holds writes up.

use crate::balsa::Balsa;
use crate::load::{self, Sample, Window};
use crate::process::{Folder, disk_bytes, largest_rss_mib};
use crate::proposer::{Keys, Raw};
use crate::row::spread;
use crate::{At, body, rest, show};
use anyhow::{Context, Result, bail};
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
    /// How long writes are measured, alone and beside lists, in each round.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How often writes are measured alone, then beside lists. Latencies are medians over rounds: of the state that has
    /// just been written each master merges its tables, seconds of work that fall into one measurement or another.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Clients that fill the state, and objects in each of their transactions.
const FILLERS: usize = 8;
const FILL_OPS: usize = 100;
/// Clients whose writes are timed: few, so that it is the lists that hold them up and not each other.
const WRITERS: usize = 8;
const WARM_UP_S: f64 = 1.0;
/// The most that lists may slow writes: the 99th percentile beside them over the one without.
const SLOWED_MAX: f64 = 2.0;
/// A list that takes longer is not waited for.
const LISTED_WITHIN: Duration = Duration::from_secs(60);
/// Where the objects lie that are not listed.
const ELSEWHERE: &str = "kube-public";

pub(crate) async fn run(options: &Options) -> Result<()> {
    if options.listed > options.objects || options.listed == 0 {
        bail!("--listed {}: from 1 to --objects {}", options.listed, options.objects);
    }
    if options.rounds == 0 {
        bail!("--rounds 0: at least 1");
    }
    let window = Window::of(WARM_UP_S, options.seconds)?;
    let root = Folder::create(options.at.dir.join(format!("bench-scale-{}", std::process::id())))?;
    let mut balsa = Balsa::start(&options.at.balsa, &root.0).await?;
    eprintln!("== writing {} objects of {} bytes", options.objects, options.size);
    let started = Instant::now();
    fill(&balsa, body::NAMESPACE, options.listed, options.size).await?;
    fill(&balsa, ELSEWHERE, options.objects - options.listed, options.size).await?;
    let filled = started.elapsed().as_secs_f64();
    let full_rss = largest_rss_mib(&balsa.pids())?;
    let Listed { alone, beside, lists } = beside_lists(&balsa, options, window).await?;
    let rss = largest_rss_mib(&balsa.pids())?;
    let Returns { restart, rebuilt, rebuilt_beside, meanwhile } = returns(&mut balsa, options, window).await?;
    let disk = balsa.folders().iter().map(|folder| disk_bytes(folder)).max().unwrap_or(0) >> 20;
    let list_s = median(&lists, |(_, took)| took.as_secs_f64());
    let (alone_p99, beside_p99) = (median(&alone, |sample| sample.p99_ms), median(&beside, |sample| sample.p99_ms));
    let slowed = beside_p99 / alone_p99.max(0.001);
    let figures = [
        ("filled, objects/s", options.objects as f64 / filled),
        ("master RSS when full, MiB", full_rss),
        ("master RSS after lists, MiB", rss),
        ("master's disk, MiB", disk as f64),
        ("writes alone, p50 ms", median(&alone, |sample| sample.p50_ms)),
        ("writes alone, p99 ms", alone_p99),
        ("writes beside lists, p50 ms", median(&beside, |sample| sample.p50_ms)),
        ("writes beside lists, p99 ms", beside_p99),
        ("p99 beside over alone (at most 2)", slowed),
        ("lists meanwhile", lists.len() as f64),
        ("a list, median s", list_s),
        ("restart until caught up, s", restart),
        ("lost disk until caught up, s", rebuilt),
        ("the same beside writes, s", rebuilt_beside),
        ("writes meanwhile, /s", meanwhile.per_second),
        ("writes meanwhile, p50 ms", meanwhile.p50_ms),
        ("writes meanwhile, p99 ms", meanwhile.p99_ms),
    ];
    let text = || {
        let rounds = format!("medians of {} rounds of {} s", options.rounds, options.seconds);
        let mut out = format!("3 masters, {} objects of {} bytes, fsync on; {rounds}\n", options.objects, options.size);
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

/// Writes without lists and beside them, a round each, and what each list brought in which time.
struct Listed {
    alone: Vec<Sample>,
    beside: Vec<Sample>,
    lists: Vec<(usize, Duration)>,
}

async fn beside_lists(balsa: &Balsa, options: &Options, window: Window) -> Result<Listed> {
    let mut all = Listed { alone: Vec::new(), beside: Vec::new(), lists: Vec::new() };
    for round in 1..=options.rounds {
        eprintln!("== round {round} of {}: writes alone and beside lists, {} s each", options.rounds, options.seconds);
        let before = writes(balsa, &format!("alone-{round}"), options.size, window).await?;
        let over = Arc::new(AtomicBool::new(false));
        let listing = tokio::spawn(list_until_over(balsa.access().clone(), balsa.api().to_string(), over.clone()));
        let during = writes(balsa, &format!("beside-{round}"), options.size, window).await;
        over.store(true, Ordering::Relaxed);
        all.lists.extend(listing.await??);
        let during = during?;
        eprintln!("   p99 {:.1} ms alone, {:.1} beside lists", before.p99_ms, during.p99_ms);
        all.alone.push(before);
        all.beside.push(during);
    }
    if let Some(short) = all.lists.iter().find(|(n_bytes, _)| *n_bytes < options.listed * options.size) {
        bail!("a list of {} objects had only {} bytes", options.listed, short.0);
    }
    Ok(all)
}

/// Seconds until a master has all again: that was killed, that lost its disk, and that did so beside writes.
struct Returns {
    restart: f64,
    rebuilt: f64,
    rebuilt_beside: f64,
    meanwhile: Sample,
}

async fn returns(balsa: &mut Balsa, options: &Options, window: Window) -> Result<Returns> {
    eprintln!("== a master is killed and started again");
    balsa.follow_leader().await?;
    let restart = balsa.restart_follower().await?.as_secs_f64();
    eprintln!("== a master loses its disk and joins again");
    balsa.follow_leader().await?;
    let rebuilt = balsa.rebuild_follower().await?.as_secs_f64();
    eprintln!("== the same, beside writes");
    balsa.follow_leader().await?;
    let (pids, writers) = (balsa.pids(), writers(balsa, "meanwhile", options.size).await?);
    let leader = [pids[balsa.leader()]];
    let (meanwhile, rebuilt_beside) = load::beside(writers, window.warm_up, &leader, balsa.rebuild_follower()).await?;
    if let Some(error) = &meanwhile.error {
        bail!("{} writes failed beside a master that joins, the first: {error}", meanwhile.n_errors);
    }
    Ok(Returns { restart, rebuilt, rebuilt_beside: rebuilt_beside?.as_secs_f64(), meanwhile })
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

/// 0 of nothing.
fn median<T>(of: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    spread(of.iter().map(figure)).map_or(0.0, |spread| spread.median)
}

/// Lists the namespace again and again; returns the bytes of each list and how long it took.
async fn list_until_over(
    access: crate::wire::Access,
    addr: String,
    over: Arc<AtomicBool>,
) -> Result<Vec<(usize, Duration)>> {
    let path = format!("/api/v1/namespaces/{}/configmaps", body::NAMESPACE);
    let mut lists = Vec::new();
    while !over.load(Ordering::Relaxed) || lists.is_empty() {
        let started = Instant::now();
        let listed = tokio::time::timeout(LISTED_WITHIN, rest::list(&access, &addr, &path)).await;
        lists.push((listed.context("a list was not answered in time")??, started.elapsed()));
    }
    Ok(lists)
}
