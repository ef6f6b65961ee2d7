//! `balsa-bench`: Balsa's consensus core under load, beside etcd or alone. `cargo xtask bench` runs it.

mod balsa;
mod body;
mod churn;
mod etcd;
mod load;
mod process;
mod proposer;
mod report;
mod rest;
mod rounds;
mod row;
mod scale;
mod slow_link;
mod steady;
mod watch;
mod wire;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use objects::Value;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Transactions proposed at the leader's peer port with a master's certificate, beside etcd's puts.
    Raw,
    /// Objects created and replaced through the whole API pipeline, beside etcd's puts.
    Admitted,
    /// As raw, with 128 transactions in each request, beside the most puts that etcd's clients reach, and beside
    /// its transactions of 128 puts.
    Batched,
    /// Linearizable reads of one object.
    Reads,
    /// 1,000 watchers of one prefix.
    Watch,
}

/// Runs three masters and three members of etcd in turn, over TLS, with fsync, and prints how many
/// writes and reads each serves, how late, and at what cost. Fails when a target is missed.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// One short round: 256 B values, all clients; under two minutes.
    #[arg(long)]
    quick: bool,
    /// Rounds; each runs every system once. Medians and extremes are over rounds.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long each row is measured in a round.
    #[arg(long)]
    seconds: Option<f64>,
    /// How long its clients run before that.
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Bytes of a value, by default 256,2048.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// Clients with one outstanding request each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 1000])]
    clients: Vec<usize>,
    /// Only these parts; all by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    #[command(flatten)]
    at: At,
    /// An etcd server to measure beside it. Repeat it for more columns; none measures Balsa alone.
    #[arg(long)]
    etcd: Vec<PathBuf>,
}

/// What every bench is told.
#[derive(clap::Args)]
pub(crate) struct At {
    /// The `balsa` to measure.
    #[arg(long)]
    balsa: PathBuf,
    /// Where the data of all systems lies while they run: one folder, so one disk.
    #[arg(long)]
    dir: PathBuf,
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Parser)]
#[command(name = "cargo xtask bench", disable_help_subcommand = true)]
enum Bench {
    Store(Options),
    Scale(scale::Options),
    Churn(churn::Options),
    Steady(steady::Options),
}

impl Options {
    fn check(&self) -> Result<()> {
        if [self.watchers, self.rounds()].contains(&0) || self.clients.contains(&0) {
            bail!("--clients, --watchers and --rounds are at least 1");
        }
        Ok(())
    }

    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn window(&self) -> Result<load::Window> {
        let seconds = self.seconds.unwrap_or(if self.quick { 1.0 } else { 3.0 });
        load::Window::of(self.warm_up, seconds)
    }

    fn sizes(&self) -> Vec<usize> {
        match (self.sizes.is_empty(), self.quick) {
            (false, _) => self.sizes.clone(),
            (true, true) => vec![256],
            (true, false) => vec![256, 2048],
        }
    }

    fn measures(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Keys that all clients of a row write, together and again and again.
const KEYS: usize = 10_000;
/// Writes in a request where many are: as many as etcd takes in a transaction, by default.
const AT_ONCE: usize = 128;

/// The names that client `i` of `n` writes in a row of the table, in turn.
pub(crate) fn names(cell: &str, i: usize, n: usize) -> Vec<String> {
    (0..(KEYS / n).max(1)).map(|j| format!("{cell}-{i}-{j}")).collect()
}

fn main() -> Result<()> {
    let bench = Bench::parse();
    if matches!(&bench, Bench::Steady(options) if options.has_slow_link()) {
        slow_link::own_network()?;
    }
    pki::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Dropping the run ends its servers and removes its folder.
        tokio::select! {
            done = run(&bench) => done,
            stopped = stop_signal() => {
                stopped?;
                bail!("interrupted")
            }
        }
    })
}

async fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Store(options) => {
            options.check()?;
            let report = rounds::run(options).await?;
            show(&options.at, || report.text(), || report.json())?;
            match report.missed().as_slice() {
                [] => Ok(()),
                missed => bail!("targets missed:\n  {}", missed.join("\n  ")),
            }
        }
        Bench::Scale(options) => scale::run(options).await,
        Bench::Churn(options) => churn::run(options).await,
        Bench::Steady(options) => steady::run(options).await,
    }
}

/// Prints what was measured, as it was asked for.
pub(crate) fn show(at: &At, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Result<()> {
    match at.output {
        Output::Text => print!("{}", text()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&json())?),
    }
    Ok(())
}

async fn stop_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
