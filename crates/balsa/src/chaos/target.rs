//! Whom faults are done to, and how: the members of a `balsa dev` cluster, or machines that an operator's
//! own commands kill, start and cut.

use super::bits;
use crate::dev::Cluster;
use crate::dev::disk::{self, Disk};
use anyhow::{Context, Result, bail};
use chaos::{Fault, Planned, Scenario};
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// An operator's commands, run by `sh -c`; {name} and {address} stand for the member's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Commands {
    kill: Option<String>,
    stop: Option<String>,
    start: Option<String>,
    pause: Option<String>,
    resume: Option<String>,
    cut: Option<String>,
    heal: Option<String>,
    slow_disk: Option<String>,
    full_disk: Option<String>,
    power_cut: Option<String>,
    clock_skew: Option<String>,
    bit_flip: Option<String>,
    /// Ends a slow or full disk, a power cut, a skewed clock or a damaged disk, and leaves the member running.
    restore: Option<String>,
}

pub(super) enum Target {
    Dev(Cluster),
    /// The commands, and every member's address by its name.
    Machines(Commands, BTreeMap<String, String>),
}

/// A fault that stands, with what ending it needs.
pub(super) struct Harm {
    names: Vec<String>,
    fault: Fault,
    disks: Vec<Disk>,
    stalls: Option<(Arc<AtomicBool>, std::thread::JoinHandle<Result<()>>)>,
}

impl Commands {
    pub(super) fn read(path: &Path) -> Result<Commands> {
        let text = std::fs::read_to_string(path).with_context(|| format!("--commands: reading {}", path.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("--commands: {} is not valid", path.display()))
    }

    /// (what begins a fault, what ends it), each with its field.
    fn of(&self, fault: Fault) -> [(&'static str, Option<&String>); 2] {
        let start = ("start", self.start.as_ref());
        let restore = ("restore", self.restore.as_ref());
        match fault {
            Fault::Kill => [("kill", self.kill.as_ref()), start],
            Fault::Stop => [("stop", self.stop.as_ref()), start],
            Fault::Pause => [("pause", self.pause.as_ref()), ("resume", self.resume.as_ref())],
            Fault::Cut => [("cut", self.cut.as_ref()), ("heal", self.heal.as_ref())],
            Fault::SlowDisk => [("slow-disk", self.slow_disk.as_ref()), restore],
            Fault::FullDisk => [("full-disk", self.full_disk.as_ref()), restore],
            Fault::PowerCut => [("power-cut", self.power_cut.as_ref()), restore],
            Fault::ClockSkew => [("clock-skew", self.clock_skew.as_ref()), restore],
            Fault::BitFlip => [("bit-flip", self.bit_flip.as_ref()), restore],
        }
    }
}

fn shell(command: &str, name: &str, address: &str) -> Result<()> {
    let command = command.replace("{name}", name).replace("{address}", address);
    let output = Command::new("sh").arg("-c").arg(&command).output().context("starting sh")?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

impl Target {
    /// Refuses, before anything starts, what cannot be done here.
    pub(super) fn check(&self, scenario: &Scenario, masters: &[String]) -> Result<()> {
        for (i, rule) in scenario.faults.iter().enumerate() {
            let (fault, name) = (rule.fault, rule.fault.name());
            match self {
                Target::Machines(commands, _) => {
                    for (field, command) in commands.of(fault) {
                        if command.is_none() {
                            bail!("faults[{i}]: {name} needs a command {field:?} in --commands");
                        }
                    }
                }
                Target::Dev(cluster) => {
                    if fault == Fault::Cut && !cluster.has_hosts() {
                        bail!(
                            "faults[{i}]: members of this cluster share the loopback interface, which cannot be cut; as root, `balsa dev up` makes them hosts of their own"
                        );
                    }
                    let is_of_workers = matches!(&rule.target, chaos::Target::Word(word) if word.starts_with("worker"))
                        || rule.target.to_string().ends_with("workers");
                    if fault.needs_disk() && is_of_workers {
                        bail!("faults[{i}]: only masters have disks of their own; {name} takes no workers");
                    }
                    let without = masters.iter().find(|name| !disk::has(cluster, name));
                    if let (true, Some(without)) = (fault.needs_disk(), without) {
                        bail!(
                            "faults[{i}]: {name} needs masters with disks of their own, which {without} has not; as root, make the cluster with `balsa dev up --master-disk 512`"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Starts members that their storage ended, after its harm was healed: on machines of their own the system
    /// does so. Any other end by themselves is an error.
    pub(super) fn start_ended(&self, names: &[String]) -> Result<()> {
        let Target::Dev(cluster) = self else { return Ok(()) };
        cluster.reap();
        for name in names.iter().filter(|name| !cluster.runs(name)) {
            let last_words = cluster.log_tail(name);
            if !["consensus stopped", "Raft storage"].iter().any(|why| last_words.contains(why)) {
                bail!("{name} ended by itself, and not of its storage:\n{last_words}");
            }
            eprintln!("{name} had ended of its storage: started");
            cluster.start(name)?;
        }
        Ok(())
    }

    /// Does what a fault says. When it fails, what was done is undone.
    pub(super) fn harm(&self, fault: &Planned, names: &[String]) -> Result<Harm> {
        self.start_ended(names)?;
        let mut harm = Harm { names: names.to_vec(), fault: fault.fault, disks: Vec::new(), stalls: None };
        if let Err(error) = self.begin(fault, &mut harm) {
            return match self.end(harm) {
                Ok(()) => Err(error),
                Err(and) => Err(error.context(format!("and it could not be undone: {and:#}"))),
            };
        }
        Ok(harm)
    }

    fn begin(&self, fault: &Planned, harm: &mut Harm) -> Result<()> {
        let names = harm.names.clone();
        let cluster = match self {
            Target::Dev(cluster) => cluster,
            Target::Machines(commands, addresses) => {
                let [(_, command), _] = commands.of(fault.fault);
                let command = command.context("no command for this fault")?;
                return names.iter().try_for_each(|name| shell(command, name, &addresses[name]));
            }
        };
        let signal = |signal: Signal| names.iter().try_for_each(|name| cluster.signal(name, signal).map(drop));
        if fault.fault.needs_disk() {
            for name in &names {
                harm.disks.push(Disk::of(cluster, name)?);
            }
        }
        match fault.fault {
            Fault::Kill => signal(Signal::SIGKILL)?,
            Fault::Stop => signal(Signal::SIGTERM)?,
            Fault::Pause => signal(Signal::SIGSTOP)?,
            Fault::Cut => drop(cluster.cut(&names)?),
            Fault::FullDisk => harm.disks.iter().try_for_each(Disk::fill)?,
            Fault::PowerCut => {
                harm.disks.iter().try_for_each(Disk::cut_power)?;
                // A sync that fails ends a master by itself, perhaps before it is killed.
                for name in names.iter().filter(|name| cluster.runs(name)) {
                    match cluster.signal(name, Signal::SIGKILL) {
                        Err(error) if cluster.runs(name) => return Err(error),
                        Ok(_) | Err(_) => {}
                    }
                }
            }
            Fault::SlowDisk => {
                let stall = Duration::from_millis(fault.stall_ms.unwrap_or(0));
                harm.stalls = Some(stall_again_and_again(std::mem::take(&mut harm.disks), stall));
            }
            Fault::ClockSkew => {
                signal(Signal::SIGKILL)?;
                let seconds = fault.seconds.unwrap_or(0).to_string();
                for name in &names {
                    cluster.start_with(name, &[(crate::CLOCK_SKEW, &seconds)])?;
                }
            }
            Fault::BitFlip => {
                signal(Signal::SIGKILL)?;
                for name in &names {
                    bits::flip(&cluster.data(name).0, fault.bits.unwrap_or(0), fault.draw)?;
                    cluster.start(name)?;
                }
            }
        }
        if fault.fault != Fault::Cut {
            cluster.reap();
        }
        Ok(())
    }

    /// Heals what a fault has done, and starts whoever ended of it.
    pub(super) fn end(&self, harm: Harm) -> Result<()> {
        let names = &harm.names;
        let cluster = match self {
            Target::Dev(cluster) => cluster,
            Target::Machines(commands, addresses) => {
                let [_, (_, command)] = commands.of(harm.fault);
                let command = command.context("no command to end this fault")?;
                return names.iter().try_for_each(|name| shell(command, name, &addresses[name]));
            }
        };
        match harm.fault {
            Fault::Kill | Fault::Stop => {}
            // It may have ended itself.
            Fault::Pause => {
                for name in names.iter().filter(|name| cluster.runs(name)) {
                    cluster.signal(name, Signal::SIGCONT)?;
                }
            }
            Fault::Cut => drop(cluster.heal(names)?),
            Fault::SlowDisk => {
                if let Some((stop, thread)) = harm.stalls {
                    stop.store(true, Ordering::Relaxed);
                    thread.join().map_err(|_| anyhow::anyhow!("the thread that stalled the disks panicked"))??;
                }
            }
            Fault::FullDisk => harm.disks.iter().try_for_each(Disk::free)?,
            Fault::PowerCut => {
                // Their descriptors keep the file systems busy.
                drop(harm.disks);
                names.iter().try_for_each(|name| disk::remount(cluster, name))?;
            }
            Fault::ClockSkew => {
                for name in names.iter().filter(|name| cluster.runs(name)) {
                    cluster.signal(name, Signal::SIGKILL)?;
                }
            }
            Fault::BitFlip => {
                cluster.reap();
                for name in names {
                    match cluster.runs(name) {
                        // Nobody has read the damage yet; an operator who knows of it does the same.
                        true => drop(cluster.signal(name, Signal::SIGKILL)?),
                        false if bits::names_remedy(&cluster.log_tail(name)) => {}
                        false => bail!("{name} ended of damage and names no remedy:\n{}", cluster.log_tail(name)),
                    }
                    bits::empty(&cluster.data(name).0)?;
                }
            }
        }
        cluster.reap();
        names.iter().try_for_each(|name| cluster.start(name).map(drop))
    }
}

/// A disk between two stalls: long enough for what waited to be written.
const BREATH: Duration = Duration::from_millis(5);

/// Freezes the disks for `stall`, lets them go for a breath, and again, until told to stop.
fn stall_again_and_again(disks: Vec<Disk>, stall: Duration) -> (Arc<AtomicBool>, std::thread::JoinHandle<Result<()>>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            disks.iter().try_for_each(Disk::freeze)?;
            std::thread::sleep(stall);
            disks.iter().try_for_each(Disk::thaw)?;
            std::thread::sleep(BREATH);
        }
        Ok(())
    });
    (stop, thread)
}
