//! Whom faults are done to, and how: the members of a `balsa dev` cluster, or machines that an operator's
//! own commands kill, start and cut.

use super::bits;
use super::commands::Commands;
use crate::dev::disk::{self, Disk};
use crate::dev::{Cluster, shell_word};
use anyhow::{Context, Result, bail};
use chaos::scenario::STAYS_UP;
use chaos::{Fault, Planned, Scenario};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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

/// Does it for each, whatever comes of it for the others; what failed is told together.
fn each(names: &[String], one: impl Fn(&str) -> Result<()>) -> Result<()> {
    let failed: Vec<String> = names.iter().filter_map(|name| Some(format!("{:#}", one(name).err()?))).collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(())
}

/// What is cut off is written down in one file.
static CUTTING: Mutex<()> = Mutex::new(());

/// Whether these last words tell of storage: they hold what `Failure` and `OpenError` say.
fn ended_of_storage(last_words: &str) -> bool {
    ["the disk is full", "Raft storage"].iter().any(|why| last_words.contains(why))
}

impl Target {
    /// Refuses, before anything starts, what cannot be done here.
    pub(super) fn check(&self, scenario: &Scenario, masters: &[String]) -> Result<()> {
        if !self.sees_for_itself() && scenario.names(STAYS_UP) {
            bail!("invariants: {STAYS_UP} is judged of development clusters alone: on machines nobody sees who ended");
        }
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

    /// Starts members that have ended after their harm was healed, as a service manager would: on machines of
    /// their own the system does so. Tells who ended by itself, with its last words: not those whose storage was
    /// harmed (`may_end`) and who say that they ended of it.
    pub(super) fn start_ended(
        &self,
        names: &[String],
        may_end: impl Fn(&str) -> bool,
        by_itself: impl Fn(&str, &str),
    ) -> Result<()> {
        let Target::Dev(cluster) = self else { return Ok(()) };
        cluster.reap();
        for name in names.iter().filter(|name| !cluster.runs(name)) {
            let last_words = cluster.log_tail(name);
            if may_end(name) && ended_of_storage(&last_words) {
                eprintln!("{name} had ended of its storage: started");
            } else {
                eprintln!("{name} had ended by itself: started");
                by_itself(name, &last_words);
            }
            cluster.start(name)?;
        }
        Ok(())
    }

    /// Whether it knows by itself that a member was taken away: it did that, and to a process of its own.
    pub(super) fn sees_for_itself(&self) -> bool {
        matches!(self, Target::Dev(_))
    }

    /// Of these, who has ended; `None` where that cannot be known.
    pub(super) fn ended(&self, names: &[String]) -> Option<Vec<String>> {
        let Target::Dev(cluster) = self else { return None };
        cluster.reap();
        Some(names.iter().filter(|name| !cluster.runs(name)).cloned().collect())
    }

    /// The commands with which a fault of these is ended by hand.
    pub(super) fn remedies(&self, fault: Fault, names: &[String]) -> Vec<String> {
        match self {
            Target::Dev(cluster) => {
                let of = |name: &String| by_hand(fault, name, &cluster.dir, &cluster.data(name).0);
                names.iter().flat_map(of).collect()
            }
            Target::Machines(commands, addresses) => {
                let address = |name: &String| addresses.get(name).map_or("", String::as_str);
                names.iter().filter_map(|name| commands.ends(fault, name, address(name))).collect()
            }
        }
    }

    /// Does what a fault says. When it fails, what was done is undone.
    pub(super) fn harm(&self, fault: &Planned, names: &[String]) -> Result<Harm> {
        let mut harm = Harm { names: names.to_vec(), fault: fault.fault, disks: Vec::new(), stalls: None };
        if let Err(error) = self.begin(fault, &mut harm) {
            return match self.end(harm, |_, _| {}) {
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
                return names
                    .iter()
                    .try_for_each(|name| commands.harm(fault.fault, name, address_of(addresses, name)?));
            }
        };
        let signal = |signal: Signal| cluster.signal_all(&names, signal);
        if fault.fault.needs_disk() {
            for name in &names {
                harm.disks.push(Disk::of(cluster, name)?);
            }
        }
        match fault.fault {
            Fault::Kill => signal(Signal::SIGKILL)?,
            Fault::Stop => signal(Signal::SIGTERM)?,
            Fault::Pause => signal(Signal::SIGSTOP)?,
            Fault::Cut => {
                let _cutting = CUTTING.lock();
                cluster.cut(&names)?;
            }
            Fault::FullDisk => harm.disks.iter().try_for_each(Disk::fill)?,
            Fault::PowerCut => {
                harm.disks.iter().try_for_each(Disk::cut_power)?;
                names.iter().try_for_each(|name| kill_if_it_runs(cluster, name))?;
            }
            Fault::FailingDisk => harm.disks.iter().try_for_each(Disk::cut_power)?,
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

    /// Heals what a fault has done, and starts whoever ended of it: each member, whatever comes of the others. Tells
    /// who ended by itself under a fault that ends nobody, or of damage without naming the remedy, with its last words.
    pub(super) fn end(&self, harm: Harm, by_itself: impl Fn(&str, &str)) -> Result<()> {
        let Harm { names, fault, disks, stalls } = harm;
        let cluster = match self {
            Target::Dev(cluster) => cluster,
            Target::Machines(commands, addresses) => {
                return each(&names, |name| commands.end(fault, name, address_of(addresses, name)?));
            }
        };
        if matches!(fault, Fault::Pause | Fault::Cut | Fault::SlowDisk | Fault::ClockSkew) {
            cluster.reap();
            names.iter().filter(|name| !cluster.runs(name)).for_each(|name| by_itself(name, &cluster.log_tail(name)));
        }
        if fault == Fault::BitFlip {
            cluster.reap();
            let ended = names.iter().filter(|name| !cluster.runs(name)).map(|name| (name, cluster.log_tail(name)));
            let mute = ended.filter(|(_, last_words)| !bits::names_remedy(last_words));
            mute.for_each(|(name, last_words)| by_itself(name, &format!("of damage, naming no remedy: {last_words}")));
        }
        let let_go = match fault {
            Fault::Cut => {
                let _cutting = CUTTING.lock();
                cluster.heal(&names).map(drop)
            }
            Fault::SlowDisk => match stalls {
                Some((stop, thread)) => {
                    stop.store(true, Ordering::Relaxed);
                    // A thread that panics ends the process.
                    thread.join().unwrap_or(Ok(()))
                }
                None => Ok(()),
            },
            Fault::FullDisk => disks.iter().map(Disk::free).fold(Ok(()), Result::and),
            // Their descriptors keep the file systems busy.
            Fault::PowerCut | Fault::FailingDisk => {
                drop(disks);
                Ok(())
            }
            Fault::Kill | Fault::Stop | Fault::Pause | Fault::ClockSkew | Fault::BitFlip => Ok(()),
        };
        let healed = each(&names, |name| heal(cluster, fault, name).with_context(|| format!("healing {name}")));
        match (let_go, healed) {
            (Err(error), Err(and)) => Err(error.context(format!("and {and:#}"))),
            (let_go, healed) => let_go.and(healed),
        }
    }
}

/// The commands that heal one member of a development cluster in `dir`, in their order; its data is in `data`.
fn by_hand(fault: Fault, name: &str, dir: &Path, data: &Path) -> Vec<String> {
    let (dir, data) = (shell_word(&dir.to_string_lossy()), shell_word(&data.to_string_lossy()));
    let dev = |verb: &str| format!("balsa dev {verb} {name} --dir {dir}");
    // It may have ended already.
    let kill = format!("{} || true", dev("kill"));
    let first = match fault {
        Fault::Kill | Fault::Stop | Fault::Pause => vec![],
        Fault::Cut => vec![dev("heal")],
        // Between two stalls it is not frozen.
        Fault::SlowDisk => vec![format!("fsfreeze --unfreeze {data} || true")],
        Fault::FullDisk => vec![format!("rm -f {data}/{}", disk::FILLER)],
        Fault::PowerCut | Fault::FailingDisk => vec![kill, format!("umount {data}")],
        Fault::ClockSkew => vec![kill],
        Fault::BitFlip => vec![kill, format!("find {data} -mindepth 1 -delete")],
    };
    first.into_iter().chain([dev("start")]).collect()
}

/// Heals one member of a development cluster, and starts it if it has ended.
fn heal(cluster: &Cluster, fault: Fault, name: &str) -> Result<()> {
    match fault {
        Fault::Kill | Fault::Stop | Fault::Cut | Fault::SlowDisk | Fault::FullDisk => {}
        // It may have ended itself.
        Fault::Pause if !cluster.runs(name) => {}
        Fault::Pause => drop(cluster.signal(name, Signal::SIGCONT)?),
        Fault::PowerCut | Fault::FailingDisk => {
            kill_if_it_runs(cluster, name)?;
            cluster.reap();
            disk::remount(cluster, name)?;
        }
        Fault::ClockSkew => kill_if_it_runs(cluster, name)?,
        Fault::BitFlip => {
            // Nobody may have read the damage yet; an operator who knows of it does the same.
            kill_if_it_runs(cluster, name)?;
            cluster.reap();
            bits::empty(&cluster.data(name).0)?;
        }
    }
    cluster.reap();
    cluster.start(name).map(drop)
}

/// A member whose disk fails ends by itself, perhaps just before it is killed.
fn kill_if_it_runs(cluster: &Cluster, name: &str) -> Result<()> {
    match cluster.runs(name).then(|| cluster.signal(name, Signal::SIGKILL)) {
        Some(Err(error)) if cluster.runs(name) => Err(error),
        Some(Ok(_) | Err(_)) | None => Ok(()),
    }
}

fn address_of<'a>(addresses: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str> {
    addresses.get(name).map(String::as_str).with_context(|| format!("the cluster tells no address of {name}"))
}

/// A disk between two stalls: long enough for what waited to be written.
const BREATH: Duration = Duration::from_millis(5);

/// Freezes the disks for `stall`, lets them go for a breath, and again, until told to stop.
fn stall_again_and_again(disks: Vec<Disk>, stall: Duration) -> (Arc<AtomicBool>, std::thread::JoinHandle<Result<()>>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            freeze(&disks)?;
            std::thread::sleep(stall);
            thaw(&disks)?;
            std::thread::sleep(BREATH);
        }
        Ok(())
    });
    (stop, thread)
}

/// Freezes them all, or none.
fn freeze(disks: &[Disk]) -> Result<()> {
    for (i, disk) in disks.iter().enumerate() {
        if let Err(error) = disk.freeze() {
            return match thaw(&disks[..i]) {
                Ok(()) => Err(error),
                Err(and) => Err(error.context(format!("and others stay frozen: {and:#}"))),
            };
        }
    }
    Ok(())
}

/// Thaws each, whatever comes of the others; tells the first that failed.
fn thaw(disks: &[Disk]) -> Result<()> {
    disks.iter().map(Disk::thaw).fold(Ok(()), Result::and)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_disk::OpenError;
    use raft_node::Failure;

    #[test]
    fn each_fault_can_be_healed_by_hand() {
        let of =
            |fault| by_hand(fault, "master-1", Path::new("/a b"), Path::new("/a b/nodes/master-1/data")).join("\n");
        let start = "balsa dev start master-1 --dir '/a b'";
        for fault in Fault::ALL {
            assert!(of(fault).ends_with(start), "{}", of(fault));
        }
        assert_eq!(of(Fault::Kill), start);
        assert_eq!(
            of(Fault::PowerCut),
            format!("balsa dev kill master-1 --dir '/a b' || true\numount '/a b/nodes/master-1/data'\n{start}")
        );
        assert_eq!(of(Fault::FullDisk), format!("rm -f '/a b/nodes/master-1/data'/filler\n{start}"));
    }

    #[test]
    fn whoever_ends_of_storage_is_known_by_the_last_words() {
        let (path, why) = (String::from("/d"), String::from("x"));
        let io = || std::io::Error::other("x");
        let told = [
            Failure::DiskFull(why.clone()).to_string(),
            Failure::Storage(why.clone()).to_string(),
            OpenError::Damaged { path: path.clone(), why }.to_string(),
            OpenError::LostTail { path: path.clone(), synced: 2, found: 1 }.to_string(),
            OpenError::Earlier { path: path.clone() }.to_string(),
            OpenError::Io { path, source: io() }.to_string(),
        ];
        told.iter().for_each(|words| assert!(ended_of_storage(words), "{words}"));
        [Failure::Other("panicked".into()).to_string(), "killed".into()]
            .iter()
            .for_each(|words| assert!(!ended_of_storage(words), "{words}"));
    }
}
