//! `balsa chaos`: harms a cluster as a scenario and a seed say, while clients use it, and judges what they
//! were told. docs/chaos.md is its manual; what is decided is decided in the `chaos` crate.

mod bits;
mod clients;
mod commands;
mod faults;
mod folder;
mod target;
mod watchers;
mod world;

use crate::dev::{self, Cluster};
use crate::kubeconfig;
use crate::output::Format;
use anyhow::{Context, Result, bail};
use chaos::lines::Run;
use chaos::{Fault, Planned, Report, Scenario, Verdict, schedule};
use clap::Subcommand;
use client::Access;
use commands::Commands;
use faults::Faults;
use folder::Folder;
use std::fs::{File, TryLockError};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use stdx::Rng;
use target::Target;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use watchers::Watchers;
use world::{Master, World};

/// MiB of a master's disk in a cluster that is made for a scenario with faults of disks.
const DISK_MIB: u64 = 512;
/// A cluster that is not whole by then is not harmed: what comes of it would not be the faults'.
const WHOLE_AT_FIRST_MAX: Duration = Duration::from_secs(20);

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Runs a scenario. Exit code 0: clean, 1: an invariant was violated, 2: inconclusive. Without --dir
    /// and --kubeconfig a development cluster is made for it, and removed. Ctrl-C ends the run early: what was
    /// harmed is healed, what was made is removed, and what was seen is judged.
    Run {
        /// YAML; examples are in cluster-configs/chaos, docs/chaos.md describes the fields.
        scenario: PathBuf,
        /// Fixes the schedule of faults; drawn and told by default.
        #[arg(long)]
        seed: Option<u64>,
        /// Where the report is written: a folder that holds none yet.
        #[arg(long)]
        report: PathBuf,
        /// The development cluster to harm.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// A cluster of machines: how to reach it as an administrator.
        #[arg(long, requires = "commands", conflicts_with = "dir")]
        kubeconfig: Option<PathBuf>,
        /// How its machines are killed, started, cut: YAML, as docs/chaos.md describes.
        #[arg(long, requires = "kubeconfig", conflicts_with = "dir")]
        commands: Option<PathBuf>,
        /// Without it no cluster but a development cluster is harmed.
        #[arg(long, conflicts_with = "dir")]
        allow_production: bool,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Judges a report again, from its files.
    Check {
        report: PathBuf,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// Returns the exit code.
pub(crate) fn run(verb: Verb) -> Result<u8> {
    match verb {
        Verb::Check { report, output } => Ok(judged(&report, output)?.exit_code()),
        Verb::Run { scenario, seed, report, dir, kubeconfig, commands, allow_production, output } => {
            let plan = Plan::read(&scenario, seed)?;
            let removed = match (kubeconfig, commands) {
                (Some(kubeconfig), Some(commands)) => {
                    if !allow_production {
                        bail!("this is not a development cluster: say --allow-production if it is to be harmed");
                    }
                    let access = kubeconfig::read(&kubeconfig)?;
                    let members = world::members(&access)?;
                    let addresses = members.masters.into_iter().chain(members.workers).collect();
                    plan.on(Target::Machines(Commands::read(&commands)?, addresses), &access, &report)?;
                    Ok(())
                }
                _ if allow_production => {
                    bail!("--allow-production is of a cluster of machines: name it with --kubeconfig and --commands")
                }
                _ => match dir {
                    Some(dir) => {
                        plan.on_dev(&dir, &report)?;
                        Ok(())
                    }
                    None => plan.on_one_of_its_own(&report)?,
                },
            };
            let verdict = judged(&report, output);
            // Told last, so that it is seen, and also when there is no verdict.
            if let Err(error) = &removed {
                eprintln!("error: {error:#}");
            }
            Ok(exit_code(verdict?, removed.is_ok()))
        }
    }
}

/// A run that leaves its cluster behind is not clean.
fn exit_code(verdict: Verdict, is_removed: bool) -> u8 {
    match (verdict, is_removed) {
        (Verdict::Clean, false) => Verdict::Inconclusive.exit_code(),
        (verdict, _) => verdict.exit_code(),
    }
}

/// Judges a report and shows it.
fn judged(report: &Path, output: Format) -> Result<Verdict> {
    let report = Folder::open(report).judge()?;
    show(&report, output)?;
    Ok(report.verdict)
}

fn show(report: &Report, output: Format) -> Result<()> {
    match output {
        Format::Json => println!("{}", serde_json::to_string_pretty(report)?),
        Format::Text => crate::output::print(format_args!("{}", report.text())),
    }
    Ok(())
}

struct Plan {
    scenario: Scenario,
    text: String,
    seed: u64,
    planned: Vec<Planned>,
    runtime: Runtime,
    /// True once the run is to end early.
    stopped: watch::Receiver<bool>,
}

/// `balsa dev …`, whose words go to standard error: standard output is the report's. It has a process group of its
/// own: a Ctrl-C is for the run, which ends what it has begun.
fn of_dev(words: &[&str], dir: &Path) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("dev").args(words).arg("--dir").arg(dir).stdin(Stdio::null()).stdout(std::io::stderr());
    let status = command.process_group(0).status()?;
    if !status.success() {
        bail!("balsa dev {} failed ({status})", words.join(" "));
    }
    Ok(())
}

/// Held until it is dropped: of two runs on one cluster each would take the other's victims for members that ended by
/// themselves.
fn harmed_by_one(dir: &Path) -> Result<File> {
    let path = dir.join("chaos.lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another `balsa chaos run` harms the cluster in {}: try again when it has ended", dir.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

impl Plan {
    /// Refuses what can never be done, and from now on takes a Ctrl-C for the wish to end.
    fn read(path: &Path, seed: Option<u64>) -> Result<Plan> {
        let told = |why: String| anyhow::anyhow!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let scenario = Scenario::parse(&text).map_err(told)?;
        let seed = seed.unwrap_or_else(crate::seed);
        let planned = schedule::plan(&scenario, seed);
        for rule in schedule::never_come(&scenario, &planned).map_err(told)? {
            eprintln!("{rule}");
        }
        let runtime = crate::multi_thread("chaos", 2)?;
        let stopped = until_interrupted(&runtime)?;
        Ok(Plan { scenario, text, seed, planned, runtime, stopped })
    }

    fn on_dev(&self, dir: &Path, report: &Path) -> Result<()> {
        let cluster = Cluster::open(dir)?;
        let _alone = harmed_by_one(dir)?;
        let access = kubeconfig::read(&dir.join("kubeconfig"))?;
        self.on(Target::Dev(cluster), &access, report)
    }

    /// Makes a cluster, and removes it whatever comes of the run. Returns whether it could be removed.
    fn on_one_of_its_own(&self, report: &Path) -> Result<Result<()>> {
        let spec = &self.scenario.cluster;
        let named = |role: &str, n: usize| (1..=n).map(|i| format!("{role}-{i}")).collect::<Vec<String>>();
        self.check_names(&named("master", spec.masters), &named("worker", spec.workers))?;
        dev::check_new(spec.masters, spec.workers).map_err(|(role, why)| anyhow::anyhow!("cluster.{role}: {why}"))?;
        if let Some(i) = self.scenario.faults.iter().position(|rule| rule.fault == Fault::Cut) {
            dev::can_have_hosts()
                .with_context(|| format!("faults[{i}]: members that can be cut off are hosts of their own"))?;
        }
        Folder::check_is_new(report)?;
        let (masters, workers, disk) = (spec.masters.to_string(), spec.workers.to_string(), DISK_MIB.to_string());
        let mut words = vec!["up", "--masters", &masters, "--workers", &workers, "--runtime", "process"];
        words.extend(["--profile", spec.profile.name()]);
        if self.scenario.faults.iter().any(|rule| rule.fault.needs_disk()) {
            words.extend(["--master-disk", &disk]);
        }
        // New, and nobody else's: who is root here runs and mounts what lies in it.
        let made =
            tempfile::Builder::new().prefix("balsa-chaos-").tempdir().context("making a folder for the cluster")?;
        let dir = made.keep();
        // An `up` is not cut short: what it has not written down, no `down` finds.
        let ran = of_dev(&words, &dir).and_then(|()| self.on_dev(&dir, report));
        let removed = of_dev(&["down"], &dir);
        let removed = removed.with_context(|| {
            format!("the cluster in {0} may still be there; end it with `balsa dev down --dir {0}`", dir.display())
        });
        match (ran, removed) {
            (Ok(()), removed) => Ok(removed),
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(and)) => Err(error.context(format!("and {and:#}"))),
        }
    }

    fn check_names(&self, masters: &[String], workers: &[String]) -> Result<()> {
        schedule::check_names(&self.scenario, masters, workers).map_err(anyhow::Error::msg)
    }

    /// The run itself; its files are complete when this returns, also after Ctrl-C.
    fn on(&self, target: Target, access: &Access, report: &Path) -> Result<()> {
        if *self.stopped.borrow() {
            bail!("interrupted before it began");
        }
        let members = world::members(access)?;
        let names: Vec<String> = members.masters.keys().cloned().collect();
        let workers: Vec<String> = members.workers.into_keys().collect();
        let spec = &self.scenario.cluster;
        if names.len() < spec.masters || workers.len() < spec.workers {
            bail!(
                "cluster: the scenario is for {} masters and {} workers, and here are {} and {}",
                spec.masters,
                spec.workers,
                names.len(),
                workers.len()
            );
        }
        self.check_names(&names, &workers)?;
        target.check(&self.scenario, &names)?;
        let folder = Folder::create(report)?;
        let recorder = folder.begin(&self.text, &self.planned)?;
        let connected = members
            .masters
            .iter()
            .map(|(name, address)| Ok(Master { name: name.clone(), channel: world::connect(access, address)? }));
        let entered = self.runtime.enter();
        let masters = connected.collect::<Result<Vec<Master>>>()?;
        drop(entered);
        let mut run = Run {
            seed: self.seed,
            version: env!("CARGO_PKG_VERSION").into(),
            started: crate::now().rfc3339(),
            masters: names,
            workers: workers.clone(),
            ends_unseen: !target.sees_for_itself(),
            ..Run::default()
        };
        // What clients draw need not be told again: only faults are fixed by the seed.
        let rng = Rng::new(crate::seed());
        let world = Arc::new(World::new(self.scenario.clone(), recorder, masters, workers, rng));
        eprintln!("seed {}: {} faults are planned", self.seed, self.planned.len());
        let played = self.runtime.block_on(self.play(&world, target, &mut run));
        run.unsent = world.unsent.load(Ordering::Relaxed);
        run.reads_failed = world.reads_failed.load(Ordering::Relaxed);
        run.read_error = world.read_error.lock().take();
        run.ended = std::mem::take(&mut *world.ended.lock());
        let (history_lines, fault_lines, unwritten) = world.recorder.finish();
        (run.history_lines, run.fault_lines) = (history_lines, fault_lines);
        if unwritten.is_some() {
            // Of a history with holes nothing is judged.
            run.last_write = None;
        }
        let by_the_user = self.stopped.borrow().then(|| "by the user".to_string());
        let failed = played.err().map(|error| format!("{error:#}"));
        let why: Vec<String> = [by_the_user, run.interrupted.take(), failed, unwritten].into_iter().flatten().collect();
        run.interrupted = (!why.is_empty()).then(|| why.join("; "));
        folder.write("run.json", &(serde_json::to_string_pretty(&run)? + "\n"))
    }

    /// What was made is removed whatever comes of the rest.
    async fn play(&self, world: &Arc<World>, target: Target, run: &mut Run) -> Result<()> {
        let played = self.work_and_faults(world, target, run).await;
        if let Err(error) = clients::clean_up(world).await {
            eprintln!("{error:#}");
            run.left = Some(world.namespace.clone());
        }
        played
    }

    async fn work_and_faults(&self, world: &Arc<World>, target: Target, run: &mut Run) -> Result<()> {
        if let Err(missing) = world.until_whole(WHOLE_AT_FIRST_MAX).await {
            bail!("nothing was harmed, as the cluster is not whole: {missing}; `balsa status` tells of its masters");
        }
        clients::prepare(world).await?;
        let maps = Arc::new(clients::Maps::new(world));
        let (of_maps, of_pods) = (watchers::of_maps(world).await?, watchers::of_pods(world));
        maps.create(&self.stopped).await?;
        let first_term = world.term().await;
        run.begun_us = world.recorder.begin();
        let (end, ended) = watch::channel(false);
        let mut asking = JoinSet::new();
        asking.spawn(clients::writers(world.clone(), maps.clone(), ended.clone()));
        asking.spawn(clients::readers(world.clone(), ended.clone()));
        asking.spawn(clients::pods(world.clone(), ended.clone()));
        let faults = Faults { world: world.clone(), target: Arc::new(target), stop: self.stopped.clone() };
        let faults = Arc::new(faults);
        faults.clone().carry_out(self.planned.clone()).await;
        if !self.is_paced_by_recovery() && !*self.stopped.borrow() {
            self.rest_of_the_time(world).await;
        }
        run.over_us = world.recorder.now_us();
        // What is down then does not converge; and it is told why.
        run.interrupted = faults.start_ended().await.err();
        match until_converged(world, &maps, &faults).await {
            Converged::In(ms) => run.converged_ms = Some(ms),
            Converged::Not(missing) => run.missing = Some(missing),
            Converged::Broken(why) => run.interrupted = run.interrupted.take().or(Some(why)),
        }
        run.terms = first_term.zip(world.term().await).map(<[u64; 2]>::from);
        end.send_replace(true);
        while asking.join_next().await.is_some() {}
        if timeout(Duration::from_millis(world.scenario.limits.converges.0), world.unbound.none()).await.is_err() {
            run.missing.get_or_insert_with(|| format!("{} pods are not bound", world.unbound.n_waiting()));
        }
        // The last write: whoever is shown it has been shown all.
        if let Some(last) = maps.write_last().await {
            if of_maps.end(last).await > 0 {
                tracing::warn!("a watcher was not shown the last write in time");
            }
            run.last_write = Some(last);
            if let Some(missing) = watchers::own_states(world, last).await {
                run.missing.get_or_insert(missing);
            }
        }
        if let Some(of_pods) = of_pods {
            run.pods_unseen = watched_pods(world, of_pods).await.err();
        }
        Ok(())
    }

    fn is_paced_by_recovery(&self) -> bool {
        self.planned.first().is_some_and(|fault| fault.start == chaos::Start::Recovered)
    }

    /// A scenario lasts as long as it says, also when its faults are over.
    async fn rest_of_the_time(&self, world: &World) {
        let over = tokio::time::sleep_until(world.recorder.at(self.scenario.duration.0).into());
        let mut stopped = self.stopped.clone();
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => {}
            () = over => {}
        }
    }
}

/// Waits until all watchers of pods have been shown what became of them; says why they were not.
async fn watched_pods(world: &World, watchers: Watchers) -> Result<(), String> {
    let last = clients::last_pod(world).await.ok_or("a pod after all others could not be made")?;
    match watchers.end(last).await {
        0 => Ok(()),
        n => Err(format!("{n} of their watchers were not shown the last pod in time")),
    }
}

enum Converged {
    /// After so many milliseconds.
    In(u64),
    /// What was missing when it was due.
    Not(String),
    /// Why a member could not be started, so that nobody can say.
    Broken(String),
}

async fn until_converged(world: &World, maps: &clients::Maps, faults: &Faults) -> Converged {
    let began = Instant::now();
    let limit = Duration::from_millis(world.scenario.limits.converges.0);
    match timeout(limit, converge(world, maps, faults)).await {
        Ok(Ok(())) => Converged::In(began.elapsed().as_millis() as u64),
        Ok(Err(why)) => Converged::Broken(why),
        Err(_) => Converged::Not(missing(world, maps).await.unwrap_or_else(|| "it came too late".into())),
    }
}

/// Waits until the cluster and the workload are whole. Who ends only now, of a fault that he was slow to notice, is
/// started too: a service manager does not stop looking.
async fn converge(world: &World, maps: &clients::Maps, faults: &Faults) -> Result<(), String> {
    while missing(world, maps).await.is_some() {
        sleep(Duration::from_millis(50)).await;
        faults.start_ended().await?;
    }
    Ok(())
}

/// What there is not of the cluster, or of the workload.
async fn missing(world: &World, maps: &clients::Maps) -> Option<String> {
    match world.missing().await {
        Some(missing) => Some(missing),
        None => clients::missing(world, maps).await,
    }
}

/// From now on no Ctrl-C, no TERM and no terminal that closes ends this process: the first is told, as a wish to end
/// early, and the others change nothing.
fn until_interrupted(runtime: &Runtime) -> Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let entered = runtime.enter();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
    let signals = kinds.into_iter().map(signal).collect::<std::io::Result<Vec<_>>>()?;
    drop(entered);
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    for (kind, mut signal) in kinds.into_iter().zip(signals) {
        let stop = stop.clone();
        runtime.spawn(async move {
            while signal.recv().await.is_some() {
                if kind == SignalKind::hangup() {
                    // Whoever writes to a terminal that is gone panics.
                    say_no_more();
                }
                if !stop.send_replace(true) {
                    eprintln!("interrupted: healing what was harmed, and ending what was begun");
                }
            }
        });
    }
    Ok(stopped)
}

/// From now on what is printed goes nowhere.
fn say_no_more() {
    if let Ok(nowhere) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let shut = nix::unistd::dup2_stdout(&nowhere).and_then(|()| nix::unistd::dup2_stderr(&nowhere));
        shut.unwrap_or_else(|error| tracing::debug!(%error, "the terminal stays open"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_harmed_by_one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = harmed_by_one(dir.path()).unwrap();
        let refused = harmed_by_one(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("another `balsa chaos run`"), "{refused}");
        drop(held);
        harmed_by_one(dir.path()).unwrap();
    }

    #[test]
    fn a_run_that_leaves_its_cluster_behind_is_not_clean() {
        assert_eq!([true, false].map(|removed| exit_code(Verdict::Clean, removed)), [0, 2]);
        assert_eq!([true, false].map(|removed| exit_code(Verdict::Violated, removed)), [1, 1]);
        assert_eq!([true, false].map(|removed| exit_code(Verdict::Inconclusive, removed)), [2, 2]);
    }
}
