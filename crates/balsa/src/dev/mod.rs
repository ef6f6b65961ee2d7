//! `balsa dev`: clusters on one machine, each member its own process; as root, each its own host.
//!
//! Everything about a cluster lies in its folder: `topology.json` says where everything is,
//! `nodes/NAME/` holds a member's configuration, data, process id and log.

mod network;
mod topology;

use crate::config::{Join, MasterConfig, Vip, WorkerConfig};
use crate::files::DataDir;
use crate::{kubeconfig, verbs, worker};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use objects::{Value, ValueExt};
use runtime::containerd::{Daemon, clean_up, import, unmount_below};
use runtime::image::{self, Entry, Recipe};
use runtime::process_id::ProcessId;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use topology::{MASTERS_MAX, Mode, Topology, WORKERS_MAX};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Starts a cluster and returns when all of it is ready. Repeat it to start what is down.
    Up {
        /// 1, 3 or 5; 3 for a new cluster.
        #[arg(long)]
        masters: Option<usize>,
        /// 3 for a new cluster.
        #[arg(long)]
        workers: Option<usize>,
        /// `containerd`, `process`, or `auto`: containerd where it is installed and you are root.
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
    /// Cuts members off from all others (a network partition); those named together still see each
    /// other.
    Cut {
        #[arg(required = true)]
        names: Vec<String>,
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
    /// Ends the cuts: of all members, or of those named.
    Heal {
        names: Vec<String>,
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
    /// Gives an image (an OCI layout in a tar, or what `docker save` writes) to every worker.
    Load {
        image: PathBuf,
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
    /// Makes an image of programs of this machine, with their libraries, and gives it to every worker:
    /// for machines without a registry. A busybox brings all its applets.
    Image {
        /// NAME:TAG, as pods will ask for it.
        name: String,
        #[arg(required = true)]
        programs: Vec<PathBuf>,
        /// Writes the image here instead.
        #[arg(long)]
        out: Option<PathBuf>,
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
            if cluster.process(&name).is_none() {
                bail!("{name} ended at once; the last lines of its log:\n{}", cluster.log_tail(&name));
            }
            Ok(())
        }
        Verb::Cut { names, dir } => Cluster::open(&dir)?.cut(&names),
        Verb::Heal { names, dir } => Cluster::open(&dir)?.heal(&names),
        Verb::Load { image, dir } => {
            let cluster = Cluster::open(&dir)?;
            cluster.load(&image)?;
            println!("{} is on {}", image.display(), cluster.workers().join(", "));
            Ok(())
        }
        Verb::Image { name, programs, out, dir } => make_image(&name, &programs, out.as_deref(), &dir),
        Verb::Pause { name, dir } => Cluster::open(&dir)?.signal(&name, Signal::SIGSTOP),
        Verb::Resume { name, dir } => Cluster::open(&dir)?.signal(&name, Signal::SIGCONT),
        Verb::Down { dir } => down(&dir),
    }
}

/// How long `up` waits for any one thing before it says what is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
const BALANCER: &str = "balancer";

struct Cluster {
    dir: PathBuf,
    topology: Topology,
}

/// Whether members can be hosts, and how containers run: what `--runtime` asks for, as far as this
/// machine can; says what it cannot.
fn choose(runtime: &str) -> Result<(Mode, String)> {
    let mode = match network::supported() {
        Ok(()) => Mode::Namespaces,
        Err(why) => {
            eprintln!("members share the loopback interface: {why}");
            Mode::Loopback
        }
    };
    let runtime = match runtime {
        "auto" => {
            let (runtime, why) = worker::auto_runtime();
            if !why.is_empty() {
                eprintln!("runtime: process (containers are plain processes of this machine): {why}");
            }
            runtime
        }
        "containerd" => match worker::auto_runtime() {
            ("containerd", _) => "containerd",
            (_, why) => bail!("--runtime containerd: {why}"),
        },
        "process" => "process",
        other => bail!("--runtime {other}: use auto, containerd or process"),
    };
    if runtime == "containerd" && mode == Mode::Loopback {
        bail!("--runtime containerd: several workers on one machine need network namespaces; use --runtime process");
    }
    Ok((mode, runtime.into()))
}

impl Cluster {
    /// The cluster of a folder, planned now if it is new.
    fn plan(dir: &Path, runtime: &str) -> Result<Cluster> {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        if let Some(cluster) = Cluster::known(&dir)? {
            if runtime != "auto" && runtime != cluster.topology.runtime {
                bail!(
                    "the cluster in {} was made with --runtime {}; `balsa dev down` it first",
                    dir.display(),
                    cluster.topology.runtime
                );
            }
            return Ok(cluster);
        }
        let (mode, runtime) = choose(runtime)?;
        if runtime == "containerd" && dir.to_string_lossy().contains([':', ',']) {
            bail!("--dir {}: overlay mounts take no path with ':' or ','; choose another folder", dir.display());
        }
        let mut topology = Topology::of(&dir, mode, &runtime);
        // Leftovers of a cluster whose folder was removed by hand are in the way, and of no use.
        if mode == Mode::Namespaces {
            network::remove(&topology)?;
            while network::is_taken(&topology)? {
                topology.next_slot();
            }
        }
        std::fs::write(dir.join("topology.json"), serde_json::to_string_pretty(&topology)?)?;
        Ok(Cluster { dir, topology })
    }

    fn known(dir: &Path) -> Result<Option<Cluster>> {
        let path = dir.join("topology.json");
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
        let topology = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Some(Cluster { dir: dir.to_path_buf(), topology }))
    }

    fn open(dir: &Path) -> Result<Cluster> {
        let known = dir.canonicalize().ok().map(|dir| Cluster::known(&dir)).transpose()?.flatten();
        known.with_context(|| format!("there is no cluster in {}; `balsa dev up --dir {0}` makes one", dir.display()))
    }

    fn workers(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.starts_with("worker-")).collect()
    }

    fn data(&self, name: &str) -> DataDir {
        DataDir(self.node_dir(name).join("data"))
    }

    /// The groups of members that are cut off.
    fn cuts(&self) -> Result<Vec<Vec<String>>> {
        match std::fs::read_to_string(self.dir.join("cuts.json")) {
            Ok(text) => serde_json::from_str(&text).context("cuts.json is damaged"),
            Err(_) => Ok(Vec::new()),
        }
    }

    fn change_cuts(&self, change: impl FnOnce(&mut Vec<Vec<String>>)) -> Result<()> {
        if self.topology.mode == Mode::Loopback {
            bail!(
                "members of this cluster share the loopback interface, which cannot be cut; as root, `dev up` makes them hosts of their own"
            );
        }
        let mut groups = self.cuts()?;
        change(&mut groups);
        network::apply_cuts(&self.topology, &groups)?;
        std::fs::write(self.dir.join("cuts.json"), serde_json::to_string(&groups)?)?;
        match groups.is_empty() {
            true => println!("nothing is cut off"),
            false => groups.iter().for_each(|group| println!("cut off: {}", group.join(", "))),
        }
        Ok(())
    }

    fn cut(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| self.check_name(name))?;
        self.change_cuts(|groups| topology::cut(groups, names))
    }

    fn heal(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| self.check_name(name))?;
        self.change_cuts(|groups| match names {
            [] => groups.clear(),
            names => topology::heal(groups, names),
        })
    }

    /// Gives an image to every worker.
    fn load(&self, image: &Path) -> Result<()> {
        if self.topology.runtime != "containerd" {
            bail!("the process runtime has no images: containers run this machine's own programs");
        }
        let image = image.canonicalize().with_context(|| format!("finding {}", image.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for name in self.workers() {
            let socket = Daemon::socket(&self.data(&name).run_dir()?);
            runtime.block_on(import(&socket, &image)).with_context(|| format!("giving the image to {name}"))?;
        }
        Ok(())
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

    /// The member's process, if it runs.
    fn process(&self, name: &str) -> Option<ProcessId> {
        ProcessId::read(&self.node_dir(name).join("pid")).filter(ProcessId::is_alive)
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        self.check_name(name)?;
        let process = self.process(name).with_context(|| format!("{name} does not run"))?;
        kill(Pid::from_raw(process.pid), signal)?;
        if [Signal::SIGKILL, Signal::SIGTERM].contains(&signal) {
            wait_for(&format!("{name} to end"), Duration::from_secs(15), || Ok(!process.is_alive()))?;
        }
        println!("{name}: {signal}");
        Ok(())
    }

    fn start(&self, name: &str) -> Result<()> {
        if self.process(name).is_some() {
            return Ok(());
        }
        let dir = self.node_dir(name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
        let program = std::env::current_exe()?;
        let mut command = match self.topology.mode {
            Mode::Loopback => Command::new(program),
            // Only the network is the member's own: control groups and mounts stay this machine's.
            Mode::Namespaces => {
                let path = network::namespace_path(&self.topology.namespace(name));
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", path.display())).arg(program);
                command
            }
        };
        if name == BALANCER {
            command.arg("balancer").arg("--listen").arg(self.topology.common());
            for name in self.names().iter().filter(|name| name.starts_with("master-")) {
                command.arg("--target").arg(self.topology.api(name));
            }
        } else {
            let role = if name.starts_with("master-") { "master" } else { "worker" };
            command.arg(role).arg("--config").arg(dir.join("config.yaml"));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        ProcessId::of(child.id()).write(&dir.join("pid"))?;
        Ok(())
    }

    /// The last lines of a member's log, for an error that explains itself.
    fn log_tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.node_dir(name).join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
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

/// A member's configuration, as written for it.
fn master_config(cluster: &Cluster, name: &str, join: Option<Join>) -> MasterConfig {
    let topology = &cluster.topology;
    let (api_port, peer_port) = topology.ports(name);
    let vip = || Vip { address: topology.vip(), prefix: 24, interface: "eth0".into() };
    MasterConfig {
        name: name.into(),
        data_dir: cluster.data(name).0,
        address: topology.address(name),
        api_port,
        peer_port,
        profile: String::new(),
        vip: (topology.mode == Mode::Namespaces).then(vip),
        join,
        alt_names: Vec::new(),
        pod_network: topology.pod_network(),
    }
}

fn worker_config(cluster: &Cluster, name: &str, masters: Vec<String>, token: &str) -> WorkerConfig {
    WorkerConfig {
        name: name.into(),
        data_dir: cluster.data(name).0,
        address: cluster.topology.address(name),
        masters,
        token: Some(token.into()),
        runtime: cluster.topology.runtime.clone(),
        runtime_socket: None,
        registries: None,
        labels: Default::default(),
        taints: Vec::new(),
        reserved: Default::default(),
        max_pods: 110,
    }
}

/// A cluster that is there stays as large as it was made.
fn check_size(cluster: &Cluster, role: &str, wanted: Option<usize>) -> Result<()> {
    let present = cluster.names().iter().filter(|name| name.starts_with(&format!("{role}-"))).count();
    match wanted {
        Some(wanted) if wanted != present => bail!(
            "--{role}s {wanted}: the cluster in {} was made with {present}; `balsa dev down` it first",
            cluster.dir.display()
        ),
        _ => Ok(()),
    }
}

fn up(masters: Option<usize>, workers: Option<usize>, runtime: &str, dir: &Path) -> Result<()> {
    let asked = (masters, workers);
    let (masters, workers) = (masters.unwrap_or(3), workers.unwrap_or(3));
    if ![1, 3, 5].contains(&masters) {
        bail!("--masters {masters}: a group has 1, 3 or 5 masters (at most {MASTERS_MAX} while they are replaced)");
    }
    if workers > WORKERS_MAX {
        bail!("--workers {workers}: a development cluster has at most {WORKERS_MAX}");
    }
    let started = Instant::now();
    let cluster = Cluster::plan(dir, runtime)?;
    // A cluster that was complete once is never initialized again, even if a master lost its disk.
    if cluster.dir.join("complete").exists() {
        check_size(&cluster, "master", asked.0)?;
        check_size(&cluster, "worker", asked.1)?;
        return up_again(&cluster, dir, started);
    }
    let named = |role: &str, n: usize| (1..=n).map(|i| format!("{role}-{i}")).collect::<Vec<_>>();
    let (masters, workers) = (named("master", masters), named("worker", workers));
    if cluster.topology.mode == Mode::Namespaces {
        network::ensure(&cluster.topology, &[masters.clone(), workers.clone()].concat())?;
    }
    let first = cluster.node_dir("master-1");
    if !first.join("data/identity.json").exists() {
        std::fs::create_dir_all(&first)?;
        write_yaml(&first.join("config.yaml"), &master_config(&cluster, "master-1", None))?;
        let output = Command::new(std::env::current_exe()?)
            .arg("init")
            .arg("--config")
            .arg(first.join("config.yaml"))
            .output()?;
        // An `init` that outlived an interrupted `up` may have been first.
        if !output.status.success() && !first.join("data/identity.json").exists() {
            bail!(
                "making the cluster failed: {}; `balsa dev down` clears what is there",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    cluster.start("master-1")?;
    let admin = kubeconfig::read(&first.join("data/admin.kubeconfig"))?;
    let common = std::iter::once(("balsa".to_string(), cluster.topology.common()));
    let servers: Vec<(String, String)> =
        common.chain(masters.iter().map(|name| (name.clone(), cluster.topology.api(name)))).collect();
    let text = kubeconfig::document(&servers, "balsa", &cluster.data("master-1").ca()?, &admin.credential);
    DataDir(cluster.dir.clone()).write("kubeconfig", &text)?;
    // Before there is a common address, the first master answers at its own.
    let own = kubeconfig::Access { servers: vec![cluster.topology.api("master-1")], ..admin };
    let tokens = wait_value("the first master", &cluster, "master-1", || verbs::tokens(&own))?;
    for name in &masters {
        std::fs::create_dir_all(cluster.node_dir(name))?;
        // Through the common address: any master lets a new one in. The first needs it if it ever
        // loses its disk.
        let join = Join { server: servers[0].1.clone(), token: tokens.master.clone() };
        write_yaml(&cluster.node_dir(name).join("config.yaml"), &master_config(&cluster, name, Some(join)))?;
    }
    for name in &workers {
        std::fs::create_dir_all(cluster.node_dir(name))?;
        let masters = servers[1..].iter().map(|(_, server)| server.clone()).collect();
        write_yaml(
            &cluster.node_dir(name).join("config.yaml"),
            &worker_config(&cluster, name, masters, &tokens.worker),
        )?;
    }
    if cluster.topology.mode == Mode::Loopback {
        std::fs::create_dir_all(cluster.node_dir(BALANCER))?;
    }
    std::fs::write(cluster.dir.join("complete"), "")?;
    up_again(&cluster, dir, started)
}

/// Starts what is down and waits until all of it is ready.
fn up_again(cluster: &Cluster, dir: &Path, started: Instant) -> Result<()> {
    let access = kubeconfig::read(&cluster.dir.join("kubeconfig"))?;
    let names = cluster.names();
    if cluster.topology.mode == Mode::Namespaces {
        // After a reboot the links are gone, and the cuts with them.
        network::ensure(&cluster.topology, &names)?;
        network::apply_cuts(&cluster.topology, &cluster.cuts()?)?;
    }
    for name in &names {
        cluster.start(name)?;
    }
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
        let died = cluster.node_dir(name).exists() && cluster.process(name).is_none();
        if started.elapsed() > PATIENCE || died {
            bail!("waiting for {what}: {error:#}\nthe last lines of {name}'s log:\n{}", cluster.log_tail(name));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn status(cluster: &Cluster, output: &str) -> Result<()> {
    let access = kubeconfig::read(&cluster.dir.join("kubeconfig"))?;
    let told = verbs::cluster_status(&access);
    let state = |name: &str| match cluster.process(name) {
        Some(process) if process.is_stopped() => "paused",
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

/// Makes an image of programs of this machine and gives it to the workers, or writes it to `out`.
fn make_image(name: &str, programs: &[PathBuf], out: Option<&Path>, dir: &Path) -> Result<()> {
    let mut recipe = Recipe { reference: name.into(), ..Recipe::default() };
    for program in programs {
        let program = program.canonicalize().with_context(|| format!("finding {}", program.display()))?;
        let base = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        recipe.entries.extend(image::program(&program, &format!("bin/{base}"))?);
        if base == "busybox" {
            let listed = Command::new(&program).arg("--list").output()?;
            let applets = String::from_utf8_lossy(&listed.stdout).into_owned();
            let link = |applet: &str| Entry::Link { to: format!("/bin/{applet}"), target: "/bin/busybox".into() };
            recipe.entries.extend(applets.lines().filter(|applet| *applet != "busybox").map(link));
            recipe.cmd = vec!["sh".into()];
        } else if recipe.cmd.is_empty() {
            recipe.cmd = vec![format!("/bin/{base}")];
        }
    }
    recipe.entries.extend(["etc", "tmp", "var"].map(|to| Entry::Dir { to: to.into() }));
    if let Some(out) = out {
        image::write(&recipe, out)?;
        println!("{name} is in {}", out.display());
        return Ok(());
    }
    let cluster = Cluster::open(dir)?;
    let path = cluster.dir.join("image.tar");
    image::write(&recipe, &path)?;
    let loaded = cluster.load(&path);
    std::fs::remove_file(&path)?;
    loaded?;
    println!("{name} is on {}", cluster.workers().join(", "));
    Ok(())
}

fn down(dir: &Path) -> Result<()> {
    let cluster = match Cluster::open(dir) {
        Ok(cluster) => cluster,
        Err(error) if dir.join("topology.json").exists() => return Err(error),
        Err(error) => {
            println!("{error}");
            return Ok(());
        }
    };
    for name in cluster.names() {
        if let Some(process) = cluster.process(&name) {
            kill(Pid::from_raw(process.pid), Signal::SIGKILL)?;
            wait_for(&format!("{name} to end"), Duration::from_secs(15), || Ok(!process.is_alive()))?;
        }
    }
    // Workers' containers outlive them on purpose; here they go too.
    for name in cluster.workers().iter().filter(|name| cluster.data(name).0.exists()) {
        let data = cluster.data(name);
        end_containers(&data.path("process/pods"))?;
        if cluster.topology.runtime == "containerd" {
            let state = data.run_dir()?;
            clean_up(&state, &data.cgroup()?);
            if let Err(error) = std::fs::remove_dir_all(&state)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(error).with_context(|| format!("removing {}", state.display()));
            }
        }
    }
    unmount_below(&cluster.dir);
    if cluster.topology.mode == Mode::Namespaces {
        network::remove(&cluster.topology)?;
    }
    runtime::cgroup::remove_if_empty("/balsa");
    // Other clusters may still have theirs in it.
    drop(std::fs::remove_dir("/run/balsa"));
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
            if pid.is_alive()
                && let Err(error) = nix::sys::signal::killpg(Pid::from_raw(pid.pid), Signal::SIGKILL)
                && error != nix::errno::Errno::ESRCH
            {
                tracing::warn!(%error, pid = pid.pid, "a container could not be ended");
            }
            wait_for("a container to end", Duration::from_secs(10), || Ok(!pid.is_alive() && !shim.is_alive()))?;
        }
    }
    Ok(())
}
