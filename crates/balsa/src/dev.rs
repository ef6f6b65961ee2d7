//! `balsa dev`: clusters on one machine, each member its own process on loopback.
//!
//! Everything about a cluster lies in its folder: `nodes/NAME/` holds a member's configuration, data,
//! process id and log. Ports are derived from the folder's path, so clusters live side by side.

use crate::config::{Join, MasterConfig, WorkerConfig};
use crate::files::DataDir;
use crate::{kubeconfig, verbs};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use objects::{Value, ValueExt};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Starts a cluster and returns when all of it is ready. Repeat it to start what is down.
    Up {
        #[arg(long, default_value_t = 3)]
        masters: usize,
        #[arg(long, default_value_t = 3)]
        workers: usize,
        /// `auto` or `process`. containerd is not supported by this version.
        #[arg(long, default_value = "auto")]
        runtime: String,
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
    /// The members of the cluster and whether they run.
    Status {
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
        #[arg(short, long, default_value = "text")]
        output: String,
    },
    /// Ends a member's process at once.
    Kill {
        name: String,
        #[arg(long, default_value_t = 9)]
        signal: i32,
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
    /// Starts a member that is down.
    Start {
        name: String,
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
    /// Freezes a member's process.
    Pause {
        name: String,
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
    /// Thaws it.
    Resume {
        name: String,
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
    /// Stops the cluster and removes everything it left.
    Down {
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
}

pub(crate) fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Up { masters, workers, runtime, dir } => up(masters, workers, &runtime, &dir),
        Verb::Status { dir, output } => status(&Cluster::open(&dir)?, &output),
        Verb::Kill { name, signal, dir } => Cluster::open(&dir)?.signal(&name, Signal::try_from(signal)?),
        Verb::Start { name, dir } => {
            let cluster = Cluster::open(&dir)?;
            cluster.check_name(&name)?;
            cluster.start(&name)?;
            // A member that refuses to start says so at once.
            std::thread::sleep(Duration::from_millis(300));
            if cluster.pid(&name).is_none() {
                bail!("{name} ended at once; the last lines of its log:\n{}", cluster.log_tail(&name));
            }
            Ok(())
        }
        Verb::Pause { name, dir } => Cluster::open(&dir)?.signal(&name, Signal::SIGSTOP),
        Verb::Resume { name, dir } => Cluster::open(&dir)?.signal(&name, Signal::SIGCONT),
        Verb::Down { dir } => down(&dir),
    }
}

/// How long `up` waits for any one thing before it says what is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
const BALANCER: &str = "balancer";
/// Ports of a cluster: the balancer's, then two for each of up to nine masters.
const PORTS_PER_CLUSTER: u16 = 20;

struct Cluster {
    dir: PathBuf,
    base_port: u16,
}

/// Whether a process exists and is not a zombie.
fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

impl Cluster {
    fn at(dir: &Path) -> Result<Cluster> {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let digest = Sha256::digest(dir.to_string_lossy().as_bytes());
        // Below 32,768, where ephemeral ports begin: a client that tries such a port before its server
        // listens can be given that very port, and connect to itself.
        let slot = u16::from_be_bytes([digest[0], digest[1]]) % 600;
        Ok(Cluster { dir, base_port: 20_000 + slot * PORTS_PER_CLUSTER })
    }

    fn open(dir: &Path) -> Result<Cluster> {
        if !dir.join("nodes").is_dir() {
            bail!("there is no cluster in {}; `balsa dev up --dir {0}` makes one", dir.display());
        }
        Cluster::at(dir)
    }

    fn node_dir(&self, name: &str) -> PathBuf {
        self.dir.join("nodes").join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join("nodes")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn check_name(&self, name: &str) -> Result<()> {
        let names = self.names();
        if !names.iter().any(|known| known == name) {
            bail!("no member is named {name:?}; the members are {}", names.join(", "));
        }
        Ok(())
    }

    /// The member's process, if it runs. The start time guards against a recycled id.
    fn pid(&self, name: &str) -> Option<i32> {
        let text = std::fs::read_to_string(self.node_dir(name).join("pid")).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let pid: i32 = pid.parse().ok()?;
        (is_alive(pid) && start_time(pid).as_deref() == Some(started)).then_some(pid)
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        self.check_name(name)?;
        let pid = self.pid(name).with_context(|| format!("{name} does not run"))?;
        kill(Pid::from_raw(pid), signal)?;
        if [Signal::SIGKILL, Signal::SIGTERM].contains(&signal) {
            wait_for(&format!("{name} to end"), Duration::from_secs(15), || Ok(!is_alive(pid)))?;
        }
        println!("{name}: {signal}");
        Ok(())
    }

    fn master_ports(&self, i: usize) -> (u16, u16) {
        let api = self.base_port + 1 + 2 * u16::try_from(i).unwrap_or(0);
        (api, api + 1)
    }

    fn start(&self, name: &str) -> Result<()> {
        if self.pid(name).is_some() {
            return Ok(());
        }
        let dir = self.node_dir(name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        if name == BALANCER {
            command.arg("balancer").arg("--listen").arg(format!("127.0.0.1:{}", self.base_port));
            for (i, _) in self.names().iter().filter(|name| name.starts_with("master-")).enumerate() {
                command.arg("--target").arg(format!("127.0.0.1:{}", self.master_ports(i).0));
            }
        } else {
            let role = if name.starts_with("master-") { "master" } else { "worker" };
            command.arg(role).arg("--config").arg(dir.join("config.yaml"));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        let pid = i32::try_from(child.id())?;
        let started = start_time(pid).unwrap_or_default();
        std::fs::write(dir.join("pid"), format!("{pid} {started}"))?;
        Ok(())
    }

    /// The last lines of a member's log, for an error that explains itself.
    fn log_tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.node_dir(name).join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

fn start_time(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_whitespace().nth(19).map(ToString::to_string)
}

fn wait_for(what: &str, patience: Duration, done: impl Fn() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !done()? {
        if started.elapsed() > patience {
            bail!("waited {} s in vain for {what}", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    Ok(())
}

fn write_yaml<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    Ok(std::fs::write(path, serde_json::to_string_pretty(value)?)?)
}

fn up(masters: usize, workers: usize, runtime: &str, dir: &Path) -> Result<()> {
    if ![1, 3, 5].contains(&masters) {
        bail!("--masters {masters}: a group has 1, 3 or 5 masters");
    }
    match runtime {
        "auto" => {
            eprintln!("runtime: process (containerd is not supported by this version): containers are plain processes")
        }
        "process" => {}
        other => bail!("--runtime {other}: not supported by this version; use process"),
    }
    let cluster = Cluster::at(dir)?;
    let started = Instant::now();
    let first = cluster.node_dir("master-1");
    let config = |i: usize, join: Option<Join>| {
        let (api_port, peer_port) = cluster.master_ports(i - 1);
        MasterConfig {
            name: format!("master-{i}"),
            data_dir: cluster.node_dir(&format!("master-{i}")).join("data"),
            address: "127.0.0.1".into(),
            api_port,
            peer_port,
            profile: String::new(),
            vip: None,
            join,
            alt_names: Vec::new(),
        }
    };
    // A cluster that was complete once is never initialized again, even if a master lost its disk.
    let fresh = !cluster.dir.join("complete").exists();
    let again = first.join("data/identity.json").exists();
    if fresh && !again {
        std::fs::create_dir_all(&first)?;
        write_yaml(&first.join("config.yaml"), &config(1, None))?;
        let output = Command::new(std::env::current_exe()?)
            .arg("init")
            .arg("--config")
            .arg(first.join("config.yaml"))
            .output()?;
        if !output.status.success() {
            bail!("making the cluster failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    cluster.start("master-1")?;
    if !fresh {
        return up_again(&cluster, dir, started);
    }
    let data = DataDir(first.join("data"));
    let admin = kubeconfig::read(&first.join("data/admin.kubeconfig"))?;
    let servers: Vec<(String, String)> =
        std::iter::once(("balsa".to_string(), format!("127.0.0.1:{}", cluster.base_port)))
            .chain(
                (1..=masters).map(|i| (format!("master-{i}"), format!("127.0.0.1:{}", cluster.master_ports(i - 1).0))),
            )
            .collect();
    let text = kubeconfig::document(&servers, "balsa", &data.ca()?, &admin.credential);
    DataDir(cluster.dir.clone()).write("kubeconfig", &text)?;
    {
        let tokens = wait_value("the first master", &cluster, "master-1", || verbs::tokens(&admin))?;
        for i in 1..=masters {
            let name = format!("master-{i}");
            std::fs::create_dir_all(cluster.node_dir(&name))?;
            // Through the common address: any master lets a new one in. The first needs it if it ever
            // loses its disk.
            let join = Join { server: servers[0].1.clone(), token: tokens.master.clone() };
            write_yaml(&cluster.node_dir(&name).join("config.yaml"), &config(i, Some(join)))?;
        }
        for i in 1..=workers {
            let name = format!("worker-{i}");
            std::fs::create_dir_all(cluster.node_dir(&name))?;
            let config = WorkerConfig {
                name: name.clone(),
                data_dir: cluster.node_dir(&name).join("data"),
                address: "127.0.0.1".into(),
                masters: servers[1..].iter().map(|(_, server)| server.clone()).collect(),
                token: Some(tokens.worker.clone()),
                runtime: "process".into(),
                labels: Default::default(),
                taints: Vec::new(),
                reserved: Default::default(),
                max_pods: 110,
            };
            write_yaml(&cluster.node_dir(&name).join("config.yaml"), &config)?;
        }
        std::fs::create_dir_all(cluster.node_dir(BALANCER))?;
        std::fs::write(cluster.dir.join("complete"), "")?;
    }
    up_again(&cluster, dir, started)
}

/// Starts what is down and waits until all of it is ready.
fn up_again(cluster: &Cluster, dir: &Path, started: Instant) -> Result<()> {
    let access = kubeconfig::read(&cluster.dir.join("kubeconfig"))?;
    for name in cluster.names() {
        cluster.start(&name)?;
    }
    let names = cluster.names();
    let n_masters = names.iter().filter(|name| name.starts_with("master-")).count();
    wait_value("all masters to be voters", cluster, "master-1", || {
        let status = verbs::cluster_status(&access)?;
        let voters = status.members.iter().filter(|member| member.voter).count();
        if voters < n_masters || status.leader.is_empty() {
            bail!("{voters} of {n_masters} masters vote");
        }
        Ok(())
    })?;
    let workers: Vec<&String> = names.iter().filter(|name| name.starts_with("worker-")).collect();
    wait_value("all workers to be ready", cluster, "worker-1", || {
        let ready = verbs::ready_nodes(&access)?;
        match workers.iter().find(|name| !ready.contains(name)) {
            Some(name) => bail!("{name} is not ready"),
            None => Ok(()),
        }
    })?;
    println!(
        "{n_masters} masters and {} workers are ready after {:.1} s.",
        workers.len(),
        started.elapsed().as_secs_f64()
    );
    println!("  export KUBECONFIG={}", cluster.dir.join("kubeconfig").display());
    println!("  balsa dev status --dir {}", dir.display());
    Ok(())
}

/// Tries until it works; fails with the member's own words.
fn wait_value<T>(what: &str, cluster: &Cluster, name: &str, attempt: impl Fn() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        let error = match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let died = cluster.node_dir(name).exists() && cluster.pid(name).is_none();
        if started.elapsed() > PATIENCE || died {
            bail!("waiting for {what}: {error:#}\nthe last lines of {name}'s log:\n{}", cluster.log_tail(name));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn status(cluster: &Cluster, output: &str) -> Result<()> {
    let access = kubeconfig::read(&cluster.dir.join("kubeconfig"))?;
    let told = verbs::cluster_status(&access);
    let state = |name: &str| match cluster.pid(name) {
        Some(pid) if is_stopped(pid) => "paused",
        Some(_) => "running",
        None => "down",
    };
    if output == "json" {
        let mut value = match &told {
            Ok(status) => verbs::status_json(status),
            Err(error) => objects::json!({"leader": "", "term": 0, "members": [], "error": format!("{error:#}")}),
        };
        let processes: objects::Map<String, Value> =
            cluster.names().into_iter().map(|name| (name.clone(), state(&name).into())).collect();
        value.set("processes", processes);
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    println!("{:<12} {:<9} {}", "NAME", "PROCESS", "ROLE");
    let leader = told.as_ref().map(|status| status.leader.clone()).unwrap_or_default();
    for name in cluster.names() {
        let role = if name == leader { "leader" } else { "" };
        println!("{name:<12} {:<9} {role}", state(&name));
    }
    if let Err(error) = told {
        println!("no master answers: {error:#}");
    }
    Ok(())
}

fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

fn down(dir: &Path) -> Result<()> {
    if !dir.exists() {
        println!("nothing is there");
        return Ok(());
    }
    let cluster = Cluster::at(dir)?;
    // Workers' containers outlive them on purpose; here they go too.
    for name in cluster.names() {
        if let Some(pid) = cluster.pid(&name) {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            wait_for(&format!("{name} to end"), Duration::from_secs(15), || Ok(!is_alive(pid)))?;
        }
    }
    for name in cluster.names().iter().filter(|name| name.starts_with("worker-")) {
        end_containers(&cluster.node_dir(name).join("data/process/pods"))?;
    }
    std::fs::remove_dir_all(&cluster.dir).with_context(|| format!("removing {}", cluster.dir.display()))?;
    println!("the cluster in {} is gone", cluster.dir.display());
    Ok(())
}

/// Ends the shims and containers recorded under a process runtime's folder.
fn end_containers(pods: &Path) -> Result<()> {
    let children = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|p| p.is_dir())
            .collect()
    };
    for container in children(pods).iter().flat_map(|pod| children(pod)) {
        if let Some(runtime::shim::ShimState::Running { shim, pid, .. }) = runtime::shim::read_state(&container) {
            if let Err(error) = nix::sys::signal::killpg(Pid::from_raw(pid), Signal::SIGKILL)
                && error != nix::errno::Errno::ESRCH
            {
                tracing::warn!(%error, pid, "a container could not be ended");
            }
            wait_for("a container to end", Duration::from_secs(10), || Ok(!is_alive(pid) && !is_alive(shim)))?;
        }
    }
    Ok(())
}
