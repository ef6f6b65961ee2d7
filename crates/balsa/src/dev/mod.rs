//! `balsa dev`: clusters on one machine, each member its own process; as root, each its own host.
//!
//! Everything about a cluster lies in its folder: `topology.json` says where everything is,
//! `nodes/NAME/` holds a member's configuration, data, process id and log.

mod cluster;
pub(crate) mod disk;
mod down;
mod images;
mod leftovers;
mod lock;
mod network;
mod readiness;
mod topology;
mod up;

use crate::output::Format;
use crate::{kubeconfig, verbs};
use anyhow::{Result, bail};
use clap::Subcommand;
pub(crate) use cluster::Cluster;
use cluster::{Started, wait_for};
use lock::Lock;
pub(crate) use network::supported as can_have_hosts;
use nix::sys::signal::Signal;
use objects::{Value, ValueExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
pub(crate) use up::check_new;

/// `start` waits so long for a member to be at work. One that has yet to join may take longer.
const AT_WORK_MAX: Duration = Duration::from_secs(15);

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Starts a cluster and returns when all of it is ready. Repeat it to start what is down and resume
    /// what is paused.
    Up {
        /// 1, 3 or 5; 3 for a new cluster.
        #[arg(long)]
        masters: Option<usize>,
        /// 3 for a new cluster.
        #[arg(long)]
        workers: Option<usize>,
        /// Gives each master of a new cluster a disk of its own, of so many MiB: an ext4 file system on a
        /// loop device, for `balsa chaos` to fill, slow and cut the power of. As root.
        #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=65536))]
        master_disk: Option<u64>,
        /// `containerd`, `process`, or `auto`: containerd where it is installed and you are root.
        #[arg(long, default_value = "auto")]
        runtime: String,
        /// The masters' timing profile; `lan` for a new cluster.
        #[arg(long, value_parser = ["lan", "wan", "slow-disk"])]
        profile: Option<String>,
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
    /// The members of the cluster and whether they run.
    Status {
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Ends a member's process at once.
    Kill {
        name: String,
        /// A name or a number: KILL, SIGSTOP, 15.
        #[arg(long, default_value = "KILL", value_parser = signal_of)]
        signal: Signal,
        #[arg(long, default_value = ".balsa")]
        dir: PathBuf,
    },
    /// Starts a member that is down and waits until it is at work, or resumes one that is paused.
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
        /// NAME[:TAG], as pods will ask for it: `busybox` is docker.io/library/busybox:latest.
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
        Verb::Up { masters, workers, master_disk, runtime, profile, dir } => {
            up::up(&up::Asked { masters, workers, master_disk, profile }, &runtime, &dir)
        }
        Verb::Status { dir, output } => status(&Cluster::open(&dir)?, output),
        Verb::Kill { name, signal, dir } => send(&dir, &name, signal),
        Verb::Start { name, dir } => start(&Cluster::open(&dir)?, &name),
        Verb::Cut { names, dir } => {
            let cluster = Cluster::open(&dir)?;
            let _lock = Lock::take(&cluster.dir, lock::BRIEF)?;
            tell_cuts(&cluster.cut(&names)?);
            Ok(())
        }
        Verb::Heal { names, dir } => {
            let cluster = Cluster::open(&dir)?;
            let _lock = Lock::take(&cluster.dir, lock::BRIEF)?;
            tell_cuts(&cluster.heal(&names)?);
            Ok(())
        }
        Verb::Load { image, dir } => {
            let cluster = Cluster::open(&dir)?;
            cluster.load(&image)?;
            println!("{} is on {}", image.display(), cluster.workers().join(", "));
            Ok(())
        }
        Verb::Image { name, programs, out, dir } => images::make(&name, &programs, out.as_deref(), &dir),
        Verb::Pause { name, dir } => send(&dir, &name, Signal::SIGSTOP),
        Verb::Resume { name, dir } => send(&dir, &name, Signal::SIGCONT),
        Verb::Down { dir } => down::down(&dir),
    }
}

fn signal_of(text: &str) -> Result<Signal, String> {
    let name = text.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let by_number = text.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok());
    by_number.or_else(|| name.parse().ok()).ok_or_else(|| "not a signal; say KILL, TERM, STOP, or a number as 9".into())
}

fn tell_cuts(groups: &[Vec<String>]) {
    match groups.is_empty() {
        true => println!("nothing is cut off"),
        false => groups.iter().for_each(|group| println!("cut off: {}", group.join(", "))),
    }
}

fn send(dir: &Path, name: &str, signal: Signal) -> Result<()> {
    match Cluster::open(dir)?.signal(name, signal)? {
        Some(wake) => println!("{name}: {signal}, and {wake} as it was paused"),
        None => println!("{name}: {signal}"),
    }
    Ok(())
}

fn start(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.check_name(name)?;
    let lock = Lock::take(&cluster.dir, lock::BRIEF)?;
    let started = cluster.start(name)?;
    drop(lock);
    match started {
        Started::RunsAlready => println!("{name} runs already"),
        Started::Resumed => println!("{name} was paused: resumed"),
        Started::Anew => {
            // What a member refuses to start for, it finds mostly before that: it ends, and its log tells why.
            let has_ended = || cluster.process(name).is_none();
            let waited = wait_for(name, AT_WORK_MAX, || Ok(has_ended() || cluster.is_at_work(name)));
            if has_ended() {
                bail!("{name} has ended; the last lines of its log:\n{}", cluster.log_tail(name));
            }
            match waited {
                Ok(()) => println!("{name}: started"),
                Err(_) => println!("{name}: started; it is not at work yet, see {}", cluster.log_path(name).display()),
            }
        }
    }
    Ok(())
}

/// A word as a shell takes it.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn status(cluster: &Cluster, output: Format) -> Result<()> {
    let access = kubeconfig::read(&cluster.dir.join("kubeconfig"))?;
    let told = verbs::cluster_status(&access);
    let state = |name: &str| cluster.activity(name).name();
    if output == Format::Json {
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
        println!("{error:#}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{shell_word, signal_of};
    use nix::sys::signal::Signal;

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        for text in ["9", "KILL", "SIGKILL", "kill"] {
            assert_eq!(signal_of(text), Ok(Signal::SIGKILL), "{text}");
        }
        for text in ["0", "-1", "99", "", "SIG", "HUMBUG"] {
            assert!(signal_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_can_be_pasted() {
        for (word, want) in [
            ("/a/.balsa-1", "/a/.balsa-1"),
            ("/a b/c", "'/a b/c'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(word), want);
        }
    }
}
