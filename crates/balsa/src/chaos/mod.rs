//! `balsa chaos`: harms a cluster as a scenario and a seed say, while clients use it, and judges what they
//! were told. docs/chaos.md is its manual; what is decided is decided in the `chaos` crate.

mod bits;
mod clients;
mod faults;
mod folder;
mod target;
mod watchers;
mod world;

use crate::dev::Cluster;
use crate::kubeconfig;
use crate::output::Format;
use anyhow::{Context, Result, bail};
use chaos::lines::Run;
use chaos::{Planned, Report, Scenario, schedule};
use clap::Subcommand;
use client::Access;
use faults::Faults;
use folder::Folder;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use stdx::Rng;
use target::{Commands, Target};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use world::{Master, World};

/// MiB of a master's disk in a cluster that is made for a scenario with faults of disks.
const DISK_MIB: u64 = 512;
/// Watchers that have not been shown the last write by then have missed it.
const LAST_SIGHT_MAX: Duration = Duration::from_secs(20);

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Runs a scenario. Exit code 0: clean, 1: an invariant was violated, 2: inconclusive. Without --dir
    /// and --kubeconfig a development cluster is made for it, and removed.
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
        #[arg(long, requires = "kubeconfig")]
        commands: Option<PathBuf>,
        /// Without it no cluster but a development cluster is harmed.
        #[arg(long)]
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
    let (report, output) = match verb {
        Verb::Check { report, output } => (report, output),
        Verb::Run { scenario, seed, report, dir, kubeconfig, commands, allow_production, output } => {
            let text = std::fs::read_to_string(&scenario).with_context(|| format!("reading {}", scenario.display()))?;
            let parsed = Scenario::parse(&text).map_err(|why| anyhow::anyhow!("{}: {why}", scenario.display()))?;
            let seed = seed.unwrap_or_else(crate::seed);
            let plan = Plan { planned: schedule::plan(&parsed, seed), scenario: parsed, text, seed };
            match (kubeconfig, commands) {
                (Some(kubeconfig), Some(commands)) => {
                    if !allow_production {
                        bail!("this is not a development cluster: say --allow-production if it is to be harmed");
                    }
                    let access = kubeconfig::read(&kubeconfig)?;
                    let addresses = world::members(&access)?.masters.into_iter().collect();
                    plan.on(Target::Machines(Commands::read(&commands)?, addresses), &access, &report)?;
                }
                _ => match dir {
                    Some(dir) => plan.on_dev(&dir, &report)?,
                    None => plan.on_one_of_its_own(&report)?,
                },
            }
            (report, output)
        }
    };
    let report = Folder::open(&report).judge()?;
    show(&report, output)?;
    Ok(report.verdict.exit_code())
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
}

/// `balsa dev …`, whose words go to standard error: standard output is the report's.
fn dev(words: &[&str], dir: &Path) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("dev").args(words).arg("--dir").arg(dir).stdin(Stdio::null()).stdout(std::io::stderr());
    let status = command.status()?;
    if !status.success() {
        bail!("balsa dev {} failed ({status})", words.join(" "));
    }
    Ok(())
}

impl Plan {
    fn on_dev(&self, dir: &Path, report: &Path) -> Result<()> {
        let cluster = Cluster::open(dir)?;
        let access = kubeconfig::read(&dir.join("kubeconfig"))?;
        self.on(Target::Dev(cluster), &access, report)
    }

    /// Makes a cluster, and removes it whatever comes of the run.
    fn on_one_of_its_own(&self, report: &Path) -> Result<()> {
        let dir = std::env::temp_dir().join(format!("balsa-chaos-{}", std::process::id()));
        let spec = &self.scenario.cluster;
        let (masters, workers, disk) = (spec.masters.to_string(), spec.workers.to_string(), DISK_MIB.to_string());
        let mut words = vec!["up", "--masters", &masters, "--workers", &workers, "--runtime", "process"];
        words.extend(["--profile", spec.profile.name()]);
        if self.scenario.faults.iter().any(|rule| rule.fault.needs_disk()) {
            words.extend(["--master-disk", &disk]);
        }
        let ran = dev(&words, &dir).and_then(|()| self.on(self.target(&dir)?, &self.access(&dir)?, report));
        let removed = dev(&["down"], &dir);
        ran.and(removed)
    }

    fn target(&self, dir: &Path) -> Result<Target> {
        Ok(Target::Dev(Cluster::open(dir)?))
    }

    fn access(&self, dir: &Path) -> Result<Access> {
        kubeconfig::read(&dir.join("kubeconfig"))
    }

    /// The run itself; its files are complete when this returns, also after Ctrl-C.
    fn on(&self, target: Target, access: &Access, report: &Path) -> Result<()> {
        let members = world::members(access)?;
        let names: Vec<String> = members.masters.iter().map(|(name, _)| name.clone()).collect();
        let spec = &self.scenario.cluster;
        if names.len() < spec.masters || members.workers.len() < spec.workers {
            bail!(
                "cluster: the scenario is for {} masters and {} workers, and here are {} and {}",
                spec.masters,
                spec.workers,
                names.len(),
                members.workers.len()
            );
        }
        target.check(&self.scenario, &names)?;
        let folder = Folder::create(report)?;
        let recorder = folder.begin(&self.text, &self.planned)?;
        let connected = members
            .masters
            .iter()
            .map(|(name, address)| Ok(Master { name: name.clone(), channel: world::connect(access, address)? }));
        let runtime = crate::multi_thread("chaos", 2)?;
        let entered = runtime.enter();
        let masters = connected.collect::<Result<Vec<Master>>>()?;
        drop(entered);
        let mut run = Run {
            seed: self.seed,
            version: env!("CARGO_PKG_VERSION").into(),
            started: crate::now().rfc3339(),
            masters: names,
            workers: members.workers.clone(),
            ..Run::default()
        };
        // What clients draw need not be told again: only faults are fixed by the seed.
        let rng = Rng::new(crate::seed());
        let world = Arc::new(World::new(self.scenario.clone(), recorder, masters, members.workers, rng));
        eprintln!("seed {}: {} faults are planned", self.seed, self.planned.len());
        let ran = runtime.block_on(self.play(&world, target, &mut run));
        if let Err(error) = ran {
            run.interrupted.get_or_insert_with(|| format!("{error:#}"));
        }
        run.unsent = world.unsent.load(Ordering::Relaxed);
        if let Some(failed) = world.recorder.finish() {
            run.interrupted.get_or_insert(failed);
        }
        folder.write("run.json", &(serde_json::to_string_pretty(&run)? + "\n"))
    }

    async fn play(&self, world: &Arc<World>, target: Target, run: &mut Run) -> Result<()> {
        let (stop, stopped) = watch::channel(false);
        let interrupted = tokio::spawn(until_interrupted(stop.clone()));
        clients::prepare(world).await?;
        let maps = Arc::new(clients::Maps::new(world));
        // Watchers begin before anything is there to see, so that they are shown all of it.
        let (until, due) = watch::channel(watchers::ENDLESS);
        let mut watching = JoinSet::new();
        for i in 0..world.scenario.workload.watchers as usize {
            watching.spawn(watchers::maps(world.clone(), i, due.clone()));
        }
        let mut of_pods = JoinSet::new();
        if world.scenario.workload.pods > 0 {
            for i in 0..world.masters.len() {
                of_pods.spawn(watchers::pods(world.clone(), i, due.clone()));
            }
        }
        maps.create().await?;
        let (end, ended) = watch::channel(false);
        let mut asking = JoinSet::new();
        asking.spawn(clients::writers(world.clone(), maps.clone(), ended.clone()));
        asking.spawn(clients::readers(world.clone(), ended.clone()));
        asking.spawn(clients::pods(world.clone(), ended.clone()));
        let target = Arc::new(target);
        let faults = Arc::new(Faults { world: world.clone(), target: target.clone(), stop: stopped.clone() });
        faults.carry_out(self.planned.clone()).await;
        if !self.is_paced_by_recovery() && !*stopped.borrow() {
            self.rest_of_the_time(world, stopped.clone()).await;
        }
        run.over_us = world.recorder.now_us();
        let began = Instant::now();
        let everyone = [world.names(), world.workers.clone()].concat();
        tokio::task::spawn_blocking(move || target.start_ended(&everyone)).await??;
        let whole = timeout(Duration::from_millis(world.scenario.limits.converges.0), converge(world, &maps)).await;
        match whole {
            Ok(()) => run.converged_ms = u64::try_from(began.elapsed().as_millis()).ok(),
            Err(_) => {
                let missing = world.missing().await;
                let missing = match missing {
                    Some(missing) => Some(missing),
                    None => clients::missing(world, &maps).await,
                };
                run.missing = Some(missing.unwrap_or_else(|| "it came too late".into()));
            }
        }
        end.send_replace(true);
        while asking.join_next().await.is_some() {}
        // The last write: whoever is shown it has been shown all.
        let last = maps.write_last().await;
        until.send_replace(last.unwrap_or(0));
        let all_watched = timeout(LAST_SIGHT_MAX, async { while watching.join_next().await.is_some() {} }).await;
        if all_watched.is_err() {
            tracing::warn!("a watcher was not shown the last write in time");
        }
        drop(of_pods);
        if let Some(missing) = watchers::own_states(world, last.unwrap_or(0), LAST_SIGHT_MAX).await {
            run.missing.get_or_insert(missing);
        }
        if *stopped.borrow() {
            run.interrupted = Some("by the user".into());
        }
        interrupted.abort();
        clients::clean_up(world).await
    }

    fn is_paced_by_recovery(&self) -> bool {
        self.planned.first().is_some_and(|fault| fault.start == chaos::Start::Recovered)
    }

    /// A scenario lasts as long as it says, also when its faults are over.
    async fn rest_of_the_time(&self, world: &World, mut stopped: watch::Receiver<bool>) {
        let over = tokio::time::sleep_until(world.recorder.at(self.scenario.duration.0).into());
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => {}
            () = over => {}
        }
    }
}

/// Waits until the cluster and the workload are whole.
async fn converge(world: &World, maps: &clients::Maps) {
    while world.missing().await.is_some() || clients::missing(world, maps).await.is_some() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Ctrl-C, or a TERM: the run ends early, and heals what it has harmed.
async fn until_interrupted(stop: watch::Sender<bool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        tracing::warn!("signals cannot be waited for; do not interrupt this run");
        return;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
    eprintln!("interrupted: healing what was harmed");
    stop.send_replace(true);
}
