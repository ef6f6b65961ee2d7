//! `bench steady`: how often a group that nothing happens to changes its leader, with every processor taken.

use crate::balsa::Balsa;
use crate::load::{self, Window};
use crate::process::Folder;
use crate::{At, show};
use anyhow::{Context, Result, bail};
use objects::{Value, json};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Writes to three masters without a pause, beside a command that takes the processors, and counts the
/// elections. Fails when there is one.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    at: At,
    /// The masters' election timing: lan, wan or slow-disk.
    #[arg(long, default_value = "lan")]
    profile: String,
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Of messages between the masters, in milliseconds; above 0 as root, with the programs ip and nft, and
    /// the command beside them has no network either.
    #[arg(long, default_value_t = 0)]
    round_trip: u64,
    /// Clients with one outstanding write each.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Run by the shell beside them, again whenever it ends, such as a release build.
    #[arg(long)]
    beside: Option<String>,
}

impl Options {
    /// Whether it takes a network of its own, which is to be made before threads are.
    pub(crate) fn has_slow_link(&self) -> bool {
        self.round_trip > 0
    }
}

/// Between two looks at the term, which counts the elections in between.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_secs(60);
/// So often is the term looked up again after the run, when nobody tells it.
const LAST_LOOKS: usize = 10;
/// Of all writes; who leads must also serve, and without a load there is nothing to be steady under.
const FAILED_MAX: f64 = 0.01;
/// A command that ends sooner takes no processor worth speaking of, or fails.
const COMMAND_MIN: Duration = Duration::from_secs(1);

/// A command that is started again whenever it ends, until this value does.
struct Beside {
    command: String,
    child: Child,
    started: Instant,
    n_ended: u64,
}

impl Beside {
    fn start(command: &str) -> Result<Beside> {
        let child = Beside::spawn(command)?;
        Ok(Beside { command: command.into(), child, started: Instant::now(), n_ended: 0 })
    }

    fn spawn(command: &str) -> Result<Child> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null());
        // A group of its own, so that all it started ends with it.
        shell.process_group(0).spawn().with_context(|| format!("running {command:?}"))
    }

    /// Starts it again when it has ended. A failure of its own is one of the bench.
    fn keep_up(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        if !status.success() {
            bail!("{:?} failed ({status}), so that the masters were not beside it", self.command);
        }
        if self.started.elapsed() < COMMAND_MIN {
            bail!("{:?} ended within a second: it takes no processor", self.command);
        }
        (self.child, self.started, self.n_ended) = (Beside::spawn(&self.command)?, Instant::now(), self.n_ended + 1);
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let killed = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        if let Err(error) = killed.map_err(std::io::Error::from).and_then(|()| self.child.wait().map(drop)) {
            eprintln!("{:?} could not be ended: {error}", self.command);
        }
    }
}

/// The terms that were seen.
struct Terms {
    started: Instant,
    /// The last, and who led it.
    now: (u64, String),
    n_changes: u64,
    /// By the seconds they were seen after.
    changes: Vec<(u64, u64)>,
    n_missed: u64,
}

impl Terms {
    fn new(now: (u64, String)) -> Terms {
        Terms { started: Instant::now(), now, n_changes: 0, changes: Vec::new(), n_missed: 0 }
    }

    /// Whether there was an answer. Terms only rise: what one look misses, the next one counts.
    async fn look(&mut self, balsa: &Balsa) -> Result<()> {
        let term = balsa.term().await.inspect_err(|_| self.n_missed += 1)?;
        if term.0 > self.now.0 {
            let seconds = self.started.elapsed().as_secs();
            let (was, is) = (&self.now, &term);
            eprintln!("   {seconds:>6} s  term {} led by {:?}, after term {} led by {:?}", is.0, is.1, was.0, was.1);
            self.n_changes += term.0 - self.now.0;
            self.changes.push((seconds, term.0));
            self.now = term;
        }
        Ok(())
    }

    /// The look that must not be missed.
    async fn look_last(&mut self, balsa: &Balsa) -> Result<()> {
        for _ in 0..LAST_LOOKS {
            if self.look(balsa).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.look(balsa).await.context("the term after the run cannot be looked up")
    }
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let measured = Duration::try_from_secs_f64(options.minutes * 60.0).ok().filter(|time| *time >= TELL_EVERY / 60);
    let measured = measured.with_context(|| format!("--minutes {}: at least a second", options.minutes))?;
    if options.clients == 0 {
        bail!("--clients 0: at least one");
    }
    let root = Folder::create(options.at.dir.join(format!("bench-steady-{}", std::process::id())))?;
    let round_trip = Duration::from_millis(options.round_trip);
    let balsa = Balsa::start_with(&options.at.balsa, &root.0, &options.profile, round_trip).await?;
    let window = Window { warm_up: Duration::from_secs(1), measured };
    let clients = balsa.admitted("steady", options.clients, options.size).await?;
    let mut beside = options.beside.as_deref().map(Beside::start).transpose()?;
    let pids = balsa.pids();
    let writing = load::run(clients, window, &pids);
    tokio::pin!(writing);
    let mut terms = Terms::new(balsa.term().await?);
    let mut told = Instant::now();
    let sample = loop {
        tokio::select! {
            sample = &mut writing => break sample?,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        beside.as_mut().map_or(Ok(()), Beside::keep_up)?;
        // Missed looks are counted, and told of.
        drop(terms.look(&balsa).await);
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let seconds = terms.started.elapsed().as_secs();
            eprintln!("   {seconds:>6} s of {}  {} leader changes", measured.as_secs(), terms.n_changes);
        }
    };
    terms.look_last(&balsa).await?;
    let n_commands = beside.as_ref().map(|beside| beside.n_ended);
    let text = || {
        let mut out = format!(
            "{}, {} ms of round trip, {} clients with values of {} bytes, for {:.1} min{}\n",
            options.profile,
            options.round_trip,
            options.clients,
            options.size,
            options.minutes,
            options.beside.as_deref().map_or_else(String::new, |command| format!(", beside {command:?}")),
        );
        let mut row = |what: &str, value: String| out += &format!("{what:<24} {value:>12}\n");
        row("writes/s", format!("{:.0}", sample.per_second));
        row("p50, ms", format!("{:.1}", sample.p50_ms));
        row("p99, ms", format!("{:.1}", sample.p99_ms));
        row("writes failed", sample.n_errors.to_string());
        n_commands.map(|n| row("ends of the command", n.to_string()));
        row("looks at the term missed", terms.n_missed.to_string());
        row("leader changes", terms.n_changes.to_string());
        out
    };
    let json = || -> Value {
        json!({
            "profile": options.profile, "roundTripMs": options.round_trip, "minutes": options.minutes, "clients": options.clients,
            "size": options.size, "beside": options.beside, "writesPerSecond": sample.per_second,
            "p50Ms": sample.p50_ms, "p99Ms": sample.p99_ms, "failed": sample.n_errors,
            "firstFailure": sample.error, "commandEnds": n_commands,
            "looksMissed": terms.n_missed, "leaderChanges": terms.n_changes,
            "changes": terms.changes.iter().map(|(s, term)| json!({"second": s, "term": term})).collect::<Vec<_>>(),
        })
    };
    show(&options.at, text, json)?;
    if terms.n_changes > 0 {
        bail!("the leader changed {} times, though nothing was done to it", terms.n_changes);
    }
    let n_acknowledged = sample.per_second * measured.as_secs_f64();
    if sample.n_errors as f64 > n_acknowledged * FAILED_MAX {
        let first = sample.error.as_deref().unwrap_or("no reason was told");
        bail!("{} writes failed beside {n_acknowledged:.0} acknowledged, the first with: {first}", sample.n_errors);
    }
    Ok(())
}
