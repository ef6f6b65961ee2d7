//! One development cluster: its folder, its plan, and the processes of its members.

use super::network;
use super::topology::{self, Mode, Topology};
use crate::files::DataDir;
use crate::worker;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::process_id::ProcessId;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(super) const BALANCER: &str = "balancer";

pub(super) struct Cluster {
    pub(super) dir: PathBuf,
    pub(super) topology: Topology,
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
    pub(super) fn plan(dir: &Path, runtime: &str) -> Result<Cluster> {
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

    pub(super) fn open(dir: &Path) -> Result<Cluster> {
        let known = dir.canonicalize().ok().map(|dir| Cluster::known(&dir)).transpose()?.flatten();
        known.with_context(|| format!("there is no cluster in {}; `balsa dev up --dir {0}` makes one", dir.display()))
    }

    pub(super) fn workers(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.starts_with("worker-")).collect()
    }

    pub(super) fn data(&self, name: &str) -> DataDir {
        DataDir(self.node_dir(name).join("data"))
    }

    /// The groups of members that are cut off.
    pub(super) fn cuts(&self) -> Result<Vec<Vec<String>>> {
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

    pub(super) fn cut(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| self.check_name(name))?;
        self.change_cuts(|groups| topology::cut(groups, names))
    }

    pub(super) fn heal(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| self.check_name(name))?;
        self.change_cuts(|groups| match names {
            [] => groups.clear(),
            names => topology::heal(groups, names),
        })
    }

    pub(super) fn node_dir(&self, name: &str) -> PathBuf {
        self.dir.join("nodes").join(name)
    }

    pub(super) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join("nodes")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub(super) fn check_name(&self, name: &str) -> Result<()> {
        let names = self.names();
        if !names.iter().any(|known| known == name) {
            bail!("no member is named {name:?}; the members are {}", names.join(", "));
        }
        Ok(())
    }

    /// The member's process, if it runs.
    pub(super) fn process(&self, name: &str) -> Option<ProcessId> {
        ProcessId::read(&self.node_dir(name).join("pid")).filter(ProcessId::is_alive)
    }

    pub(super) fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        self.check_name(name)?;
        let process = self.process(name).with_context(|| format!("{name} does not run"))?;
        kill(Pid::from_raw(process.pid), signal)?;
        if [Signal::SIGKILL, Signal::SIGTERM].contains(&signal) {
            wait_for(&format!("{name} to end"), Duration::from_secs(15), || Ok(!process.is_alive()))?;
        }
        println!("{name}: {signal}");
        Ok(())
    }

    pub(super) fn start(&self, name: &str) -> Result<()> {
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
    pub(super) fn log_tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.node_dir(name).join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

pub(super) fn wait_for(what: &str, patience: Duration, done: impl Fn() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !done()? {
        if started.elapsed() > patience {
            bail!("waited {} s in vain for {what}", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    Ok(())
}
