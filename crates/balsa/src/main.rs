//! The one binary: masters, workers, development clusters, and the verbs of operators and users.

#[macro_use]
mod output;

mod backup;
mod balancer;
mod chaos;
mod cluster_service;
mod config;
mod credentials;
mod dev;
mod files;
mod join;
mod kubeconfig;
mod master;
mod members;
mod pause;
mod recover;
mod renewal;
mod scrub;
mod user;
mod verbs;
mod vip;
mod worker;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Freed memory goes back to the system after a second, and two arenas serve our few threads: an idle
/// master stays small.
#[unsafe(export_name = "malloc_conf")]
#[expect(unsafe_code, reason = "jemalloc reads its settings from this symbol")]
pub static MALLOC_CONF: &[u8] = b"narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:1000,background_thread:true\0";

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A highly available container orchestrator in one binary.
#[derive(Parser)]
#[command(name = "balsa", version, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a master. A new one joins as its configuration says, or was made by `init`.
    Master {
        /// The master's configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Makes a new cluster on this machine's empty data folder: once, before its first `master`.
    Init {
        /// The master's configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Runs a worker.
    Worker {
        /// The worker's configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Backups: the whole state of the cluster in one file.
    #[command(subcommand)]
    Backup(backup::Verb),
    /// Prints a kubeconfig with a fresh certificate, valid for 90 days. Takes an administrator's, or on a master's
    /// machine that master's configuration (--config).
    Kubeconfig(credentials::Args),
    /// Repairs a cluster whose majority of masters is gone for good: makes a survivor, whose process is
    /// stopped, a group of its own, which others join with a token.
    Recover(recover::Args),
    /// Development clusters on this machine.
    #[command(subcommand)]
    Dev(dev::Verb),
    /// Harms a cluster while clients use it, and judges what they were told.
    #[command(subcommand)]
    Chaos(chaos::Verb),
    #[command(flatten)]
    User(Box<verbs::Verb>),
    /// Holds a pod's sandbox (handled before anything else; named here for --help's sake).
    #[command(hide = true)]
    Pause,
    /// Carries one container of the process runtime.
    #[command(hide = true)]
    ProcessShim { dir: PathBuf },
    /// Balances a development cluster's common address.
    #[command(hide = true)]
    Balancer {
        #[arg(long)]
        listen: String,
        #[arg(long)]
        target: Vec<String>,
    },
}

/// The exit code of a `balsa chaos` that came to no verdict: nothing is concluded.
const INCONCLUSIVE: u8 = 2;

fn main() {
    leave(run());
}

/// Ends the process without what libraries do at its end: RocksDB would take away what threads of its own, which outlive
/// `main`, still use, and abort. All that must be on a disk is there.
fn leave(code: u8) -> ! {
    use std::io::Write;
    // Whoever read it may be gone: then there is nobody to tell, either.
    let is_written = std::io::stdout().flush().is_ok();
    let code = if code == 0 && !is_written { output::UNWRITTEN } else { code };
    #[expect(unsafe_code, reason = "the one way to end without destructors")]
    unsafe {
        nix::libc::_exit(code.into())
    }
}

/// Returns the exit code.
fn run() -> u8 {
    // First of all: a sandbox must cost next to nothing.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "pause") {
        pause::run();
    }
    // Those that outlive whoever started them keep nothing of his open.
    if std::env::args_os().nth(1).is_some_and(|verb| ["master", "worker", "process-shim"].iter().any(|v| verb == *v)) {
        runtime::inherited::close();
    }
    pki::tls::install_provider();
    // A panic anywhere must not leave half a master behind: the process ends and is started again.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    let cli = Cli::parse();
    let daemon = matches!(cli.command, Command::Master { .. } | Command::Worker { .. } | Command::Balancer { .. });
    // openraft warns of every heartbeat to a dead peer, and tells its own end as an error, also of a planned stop; what
    // matters of it reaches our own lines.
    let default = if daemon { "info,openraft=off" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("BALSA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    // What cannot be told is not told: the library would panic when nobody listens.
    let told = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    told.log_internal_errors(false).init();
    let result = match cli.command {
        Command::Master { config } => master::run(&config),
        Command::Init { config } => join::init(&config),
        Command::Worker { config } => worker::run(&config),
        Command::Kubeconfig(args) => credentials::run(&args),
        Command::Backup(verb) => backup::run(verb),
        Command::Recover(args) => recover::run(&args),
        Command::Dev(verb) => dev::run(verb),
        Command::Chaos(verb) => match chaos::run(verb) {
            Ok(code) => return code,
            Err(error) => {
                eprintln!("error: {error:#}");
                return INCONCLUSIVE;
            }
        },
        Command::User(verb) => verbs::run(*verb),
        Command::Pause => pause::run(),
        Command::ProcessShim { dir } => runtime::shim::run(&dir).map_err(Into::into),
        Command::Balancer { listen, target } => balancer::run(&listen, target),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            if daemon {
                tracing::error!("{error:#}");
            }
            eprintln!("error: {error:#}");
            1
        }
    }
}

/// Seconds by which this process's clock is off: set by `balsa chaos`, on members of development clusters.
pub(crate) const CLOCK_SKEW: &str = "BALSA_DEV_CLOCK_SKEW_S";

fn clock_skew_ms() -> i64 {
    static SKEW: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *SKEW.get_or_init(|| {
        let Ok(text) = std::env::var(CLOCK_SKEW) else { return 0 };
        match text.parse::<i64>() {
            Ok(seconds) => {
                tracing::warn!(seconds, "the clock is off, as {CLOCK_SKEW} says");
                seconds.saturating_mul(1_000)
            }
            Err(error) => {
                tracing::error!(%error, text, "{CLOCK_SKEW} is not a number of seconds");
                0
            }
        }
    })
}

/// The process's clock: the one place that reads it.
pub(crate) fn now() -> objects::Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    objects::Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)).plus_ms(clock_skew_ms())
}

/// A seed from the operating system.
pub(crate) fn seed() -> u64 {
    rand::random()
}

pub(crate) fn multi_thread(name: &str, n_threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(n_threads).thread_name(name).enable_all().build()?)
}
