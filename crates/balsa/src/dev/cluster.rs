//! One development cluster: its folder, its plan, and the processes of its members.

use super::disk;
use super::leftovers;
use super::network;
use super::readiness::Activity;
use super::topology::{self, Mode, Topology};
use crate::files::{BOOT_ID, DataDir};
use crate::worker;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use runtime::process_id::ProcessId;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(super) const BALANCER: &str = "balancer";

pub(crate) struct Cluster {
    pub(crate) dir: PathBuf,
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

/// Whether something listens at one of these ports of loopback already.
fn any_port_taken(mut ports: std::ops::Range<u16>) -> bool {
    ports.any(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_err())
}

/// What `start` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Started {
    Anew,
    Resumed,
    RunsAlready,
}

/// What to send after a signal so that a member takes it: one that is paused ends only when it goes on.
fn wake_after(signal: Signal, activity: Activity) -> Option<Signal> {
    let ends = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].contains(&signal);
    (ends && activity == Activity::Paused).then_some(Signal::SIGCONT)
}

impl Cluster {
    /// The cluster of a folder, planned now if it is new.
    pub(super) fn plan(dir: &Path, runtime: &str, profile: Option<&str>) -> Result<Cluster> {
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
            match profile {
                Some(profile) if profile != cluster.topology.profile => {
                    bail!("the cluster in {} was made with another --profile; `balsa dev down` it first", dir.display())
                }
                Some(_) | None => return Ok(cluster),
            }
        }
        if dir.join("nodes").exists() {
            bail!(
                "{} holds members of a cluster whose plan (topology.json) is gone; end it with `balsa dev down --dir {0}`, then remove the folder",
                dir.display()
            );
        }
        let (mode, runtime) = choose(runtime)?;
        if runtime == "containerd" && dir.to_string_lossy().contains([':', ',']) {
            bail!("--dir {}: overlay mounts take no path with ':' or ','; choose another folder", dir.display());
        }
        // Leftovers of a cluster whose folder was removed by hand are in the way, and of no use.
        let left = leftovers::remove(&dir)?;
        if !left.is_empty() {
            eprintln!("removed what an earlier cluster in {} had left: {}", dir.display(), left.join(", "));
        }
        let profile = profile.unwrap_or_default().to_string();
        let topology =
            Topology { profile, ..Topology::of(&dir, mode, &runtime) }.in_free_slot(|topology| match mode {
                Mode::Namespaces => network::is_taken(topology),
                Mode::Loopback => Ok(any_port_taken(topology.all_ports())),
            })?;
        let topology = topology.context("every slot for a cluster on this machine is taken; end another cluster")?;
        std::fs::write(dir.join("topology.json"), serde_json::to_string_pretty(&topology)?)?;
        Ok(Cluster { dir, topology })
    }

    fn known(dir: &Path) -> Result<Option<Cluster>> {
        let path = dir.join("topology.json");
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
        let topology = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Some(Cluster { dir: dir.to_path_buf(), topology }))
    }

    pub(crate) fn open(dir: &Path) -> Result<Cluster> {
        let known = dir.canonicalize().ok().map(|dir| Cluster::known(&dir)).transpose()?.flatten();
        known.with_context(|| format!("there is no cluster in {}; `balsa dev up --dir {0}` makes one", dir.display()))
    }

    pub(super) fn workers(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.starts_with("worker-")).collect()
    }

    pub(crate) fn data(&self, name: &str) -> DataDir {
        DataDir(self.node_dir(name).join("data"))
    }

    /// The groups of members that are cut off.
    pub(super) fn cuts(&self) -> Result<Vec<Vec<String>>> {
        match std::fs::read_to_string(self.dir.join("cuts.json")) {
            Ok(text) => serde_json::from_str(&text).context("cuts.json is damaged"),
            Err(_) => Ok(Vec::new()),
        }
    }

    fn change_cuts(&self, change: impl FnOnce(&mut Vec<Vec<String>>)) -> Result<Vec<Vec<String>>> {
        if self.topology.mode == Mode::Loopback {
            bail!(
                "members of this cluster share the loopback interface, which cannot be cut; as root, `dev up` makes them hosts of their own"
            );
        }
        let mut groups = self.cuts()?;
        change(&mut groups);
        network::apply_cuts(&self.topology, &groups)?;
        std::fs::write(self.dir.join("cuts.json"), serde_json::to_string(&groups)?)?;
        Ok(groups)
    }

    /// Whether members are hosts of their own, and so can be cut off.
    pub(crate) fn has_hosts(&self) -> bool {
        self.topology.mode == Mode::Namespaces
    }

    /// The groups that are cut off then.
    pub(crate) fn cut(&self, names: &[String]) -> Result<Vec<Vec<String>>> {
        names.iter().try_for_each(|name| self.check_name(name))?;
        self.change_cuts(|groups| topology::cut(groups, names))
    }

    pub(crate) fn heal(&self, names: &[String]) -> Result<Vec<Vec<String>>> {
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

    /// What the member's process does.
    pub(super) fn activity(&self, name: &str) -> Activity {
        Activity::of(self.process(name).as_ref())
    }

    /// Returns the signal that had to follow.
    pub(crate) fn signal(&self, name: &str, signal: Signal) -> Result<Option<Signal>> {
        let (process, wake) = self.send(name, signal)?;
        wait_for_end(name, &process, signal)?;
        Ok(wake)
    }

    /// Sends all of them the signal before it waits for any to end of it.
    pub(crate) fn signal_all(&self, names: &[String], signal: Signal) -> Result<()> {
        let sent: Vec<_> = names.iter().map(|name| self.send(name, signal)).collect();
        for (name, sent) in names.iter().zip(sent) {
            wait_for_end(name, &sent?.0, signal)?;
        }
        Ok(())
    }

    fn send(&self, name: &str, signal: Signal) -> Result<(ProcessId, Option<Signal>)> {
        self.check_name(name)?;
        let process = self.process(name).with_context(|| format!("{name} does not run"))?;
        let pid = Pid::from_raw(process.pid);
        let wake = wake_after(signal, Activity::of(Some(&process)));
        kill(pid, signal)?;
        if let Some(wake) = wake {
            kill(pid, wake)?;
        }
        Ok((process, wake))
    }

    pub(crate) fn runs(&self, name: &str) -> bool {
        self.process(name).is_some()
    }

    /// Lets go of the ended members that this very process had started.
    pub(crate) fn reap(&self) {
        for name in self.names() {
            let Some(process) = ProcessId::read(&self.node_dir(&name).join("pid")) else { continue };
            if let Err(error) = waitpid(Pid::from_raw(process.pid), Some(WaitPidFlag::WNOHANG)) {
                tracing::trace!(%error, name, "is not a child of this process");
            }
        }
    }

    /// Makes a member run, whatever it does now.
    pub(crate) fn start(&self, name: &str) -> Result<Started> {
        self.start_with(name, &[])
    }

    /// The same; one that has to be started gets these variables.
    pub(crate) fn start_with(&self, name: &str, environment: &[(&str, &str)]) -> Result<Started> {
        if let Some(process) = self.process(name) {
            return match Activity::of(Some(&process)) {
                Activity::Paused => {
                    kill(Pid::from_raw(process.pid), Signal::SIGCONT)?;
                    Ok(Started::Resumed)
                }
                Activity::Running | Activity::Down => Ok(Started::RunsAlready),
            };
        }
        disk::mount(self, name)?;
        let dir = self.node_dir(name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path(name))?;
        std::fs::write(self.log_start_path(name), log.metadata()?.len().to_string())?;
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
        // Of an earlier start nothing may be taken for this one's.
        match std::fs::remove_file(self.data(name).path(BOOT_ID)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("starting {name}"));
            }
            _ => {}
        }
        command.envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        ProcessId::of(child.id()).write(&dir.join("pid"))?;
        Ok(Started::Anew)
    }

    /// Whether a member has come as far as its work: a server as far as its port, a worker as far as its runtime.
    pub(super) fn is_at_work(&self, name: &str) -> bool {
        let listens = |port| self.process(name).is_some_and(|process| process.listens_at(port));
        match name {
            BALANCER => listens(self.topology.common_port()),
            name if name.starts_with("master-") => listens(self.topology.ports(name).0),
            worker => self.data(worker).path(BOOT_ID).exists(),
        }
    }

    pub(super) fn log_path(&self, name: &str) -> PathBuf {
        self.node_dir(name).join("log")
    }

    /// Where a member's log had its end when the member was started last.
    fn log_start_path(&self, name: &str) -> PathBuf {
        self.node_dir(name).join("log-start")
    }

    /// The last lines that a member has logged since it was started, for an error that explains itself. What it said in
    /// an earlier life explains nothing.
    pub(crate) fn log_tail(&self, name: &str) -> String {
        let start = std::fs::read_to_string(self.log_start_path(name)).ok().and_then(|text| text.parse().ok());
        let log = std::fs::read(self.log_path(name)).unwrap_or_default();
        last_lines(&log, start.unwrap_or(0))
    }
}

fn wait_for_end(name: &str, process: &ProcessId, signal: Signal) -> Result<()> {
    if ![Signal::SIGKILL, Signal::SIGTERM].contains(&signal) {
        return Ok(());
    }
    wait_for(&format!("{name} to end"), Duration::from_secs(15), || Ok(!process.is_alive()))
}

/// The last five lines behind the first `start` bytes.
fn last_lines(log: &[u8], start: usize) -> String {
    let text = String::from_utf8_lossy(log.get(start..).unwrap_or_default());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_member_is_woken_to_end() {
        assert_eq!(wake_after(Signal::SIGTERM, Activity::Paused), Some(Signal::SIGCONT));
        assert_eq!(wake_after(Signal::SIGTERM, Activity::Running), None);
        assert_eq!(wake_after(Signal::SIGKILL, Activity::Paused), None);
        assert_eq!(wake_after(Signal::SIGSTOP, Activity::Paused), None);
    }

    #[test]
    fn last_words_are_of_this_life() {
        let log = b"1\n2\nthe disk is full\n4\n5\n6\n7\n";
        assert_eq!(last_lines(log, 0), "the disk is full\n4\n5\n6\n7");
        assert_eq!(last_lines(log, log.len() - 4), "6\n7");
        assert_eq!(last_lines(log, log.len()), "");
        assert_eq!(last_lines(log, log.len() + 1), "");
    }

    #[test]
    fn a_port_that_is_listened_at_is_taken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(any_port_taken(port..port + 1));
        assert!(!any_port_taken(port..port));
    }
}
