//! The run: systems in turn, A B A B, each from an empty disk, and every row of the table in each.

use crate::balsa::Balsa;
use crate::etcd::{self, Etcd};
use crate::load;
use crate::process::{Folder, largest_rss_mib};
use crate::report::{Cell, Figures, Report, What};
use crate::{AT_ONCE, Options, Part, watch};
use anyhow::Result;
use std::path::PathBuf;

/// Writers that saturate the watchers.
const WATCH_WRITERS: usize = 8;
/// Bytes of the values that are watched.
const WATCH_BYTES: usize = 256;

/// Clients of the batched row, each with a connection and one request of `AT_ONCE` writes on its way: 1,024 in
/// all, as with 1,000 clients of one.
pub(crate) const BATCHED_CLIENTS: usize = 8;

/// The name of the keys that a row of raw writes makes, and one of reads reads.
fn raw_cell(size: usize, n: usize) -> String {
    format!("r{size}-{n}")
}

enum System {
    Balsa(Balsa),
    Etcd(Etcd),
}

impl System {
    fn pids(&self) -> Vec<u32> {
        match self {
            System::Balsa(balsa) => balsa.pids(),
            System::Etcd(etcd) => etcd.pids(),
        }
    }
}

/// A system to be measured: its label and its binary; Balsa comes first.
struct Candidate {
    label: String,
    binary: PathBuf,
}

pub(crate) async fn run(options: &Options) -> Result<Report> {
    let mut candidates = vec![Candidate { label: "Balsa".into(), binary: options.at.balsa.clone() }];
    for binary in &options.etcd {
        candidates.push(Candidate { label: etcd::label(binary)?, binary: binary.clone() });
    }
    let window = options.window()?;
    let mut report = Report::new(
        candidates.iter().map(|candidate| candidate.label.clone()).collect(),
        options.rounds(),
        window.measured.as_secs_f64(),
        options.watchers,
    );
    let root = Folder::create(options.at.dir.join(format!("bench-store-{}", std::process::id())))?;
    for round in 0..options.rounds() {
        for (index, candidate) in candidates.iter().enumerate() {
            eprintln!("== round {} of {}: {}", round + 1, options.rounds(), candidate.label);
            let folder = Folder::create(root.0.join(format!("{round}-{index}")))?;
            let system = match index {
                0 => System::Balsa(Balsa::start(&candidate.binary, &folder.0).await?),
                _ => System::Etcd(Etcd::start(&candidate.binary, &folder.0).await?),
            };
            let mut measuring = Measuring { options, window, system, index, report: &mut report };
            measuring.all().await?;
        }
    }
    Ok(report)
}

/// One system in one round.
struct Measuring<'a> {
    options: &'a Options,
    window: load::Window,
    system: System,
    index: usize,
    report: &'a mut Report,
}

impl Measuring<'_> {
    /// Before each row.
    async fn ready(&mut self) -> Result<()> {
        match &mut self.system {
            System::Balsa(balsa) => balsa.follow_leader().await,
            System::Etcd(etcd) => etcd.follow_leader().await,
        }
    }

    /// First the rows after which all systems hold the same; admitted objects are Balsa's alone.
    async fn all(&mut self) -> Result<()> {
        for size in self.options.sizes() {
            for n in self.options.clients.clone() {
                self.raw(size, n).await?;
                self.reads(size, n).await?;
            }
        }
        if self.options.measures(Part::Watch) {
            self.watch().await?;
        }
        for size in self.options.sizes() {
            for n in self.options.clients.clone() {
                self.admitted(size, n).await?;
            }
            self.batched(size).await?;
        }
        Ok(())
    }

    async fn raw(&mut self, size: usize, n: usize) -> Result<()> {
        // Reads need what the raw row wrote, and every row of writes of Balsa's stands beside etcd's puts.
        let needed: &[Part] = match self.system {
            System::Balsa(_) => &[Part::Raw, Part::Reads],
            System::Etcd(_) => &[Part::Raw, Part::Reads, Part::Admitted, Part::Batched],
        };
        if !needed.iter().any(|part| self.options.measures(*part)) {
            return Ok(());
        }
        self.ready().await?;
        let (cell, window, pids) = (raw_cell(size, n), self.window, self.system.pids());
        let sample = match &self.system {
            System::Balsa(balsa) => load::run(balsa.raw(&cell, n, size).await?, window, &pids).await?,
            System::Etcd(etcd) => load::run(etcd.writers(&cell, n, size).await?, window, &pids).await?,
        };
        self.push(What::Raw, size, n, sample)
    }

    async fn reads(&mut self, size: usize, n: usize) -> Result<()> {
        if !self.options.measures(Part::Reads) {
            return Ok(());
        }
        self.ready().await?;
        let (cell, window, pids) = (raw_cell(size, n), self.window, self.system.pids());
        let sample = match &self.system {
            System::Balsa(balsa) => load::run(balsa.readers(&cell, n).await?, window, &pids).await?,
            System::Etcd(etcd) => load::run(etcd.readers(&cell, n).await?, window, &pids).await?,
        };
        self.push(What::Read, size, n, sample)
    }

    async fn admitted(&mut self, size: usize, n: usize) -> Result<()> {
        if !self.options.measures(Part::Admitted) {
            return Ok(());
        }
        self.ready().await?;
        let System::Balsa(balsa) = &self.system else { return Ok(()) };
        let clients = balsa.admitted(&format!("a{size}-{n}"), n, size).await?;
        let sample = load::run(clients, self.window, &self.system.pids()).await?;
        self.push(What::Admitted, size, n, sample)
    }

    async fn batched(&mut self, size: usize) -> Result<()> {
        if !self.options.measures(Part::Batched) {
            return Ok(());
        }
        self.ready().await?;
        let (cell, n, window, pids) = (format!("b{size}"), BATCHED_CLIENTS, self.window, self.system.pids());
        let sample = match &self.system {
            System::Balsa(balsa) => load::run(balsa.batched(&cell, n, AT_ONCE, size).await?, window, &pids).await?,
            System::Etcd(etcd) => load::run(etcd.batched(&cell, n, AT_ONCE, size).await?, window, &pids).await?,
        };
        self.push(What::Batched, size, BATCHED_CLIENTS * AT_ONCE, sample)
    }

    fn push(&mut self, what: What, size: usize, n_clients: usize, sample: load::Sample) -> Result<()> {
        let label = &self.report.systems[self.index];
        let rss_mib = largest_rss_mib(&self.system.pids())?;
        eprintln!(
            "   {label:<12} {size:>5} B {n_clients:>5} {:<9} {:>7.0}/s  p50 {:.1}  p99 {:.1} ms  {rss_mib:.0} MiB",
            what.word(),
            sample.per_second,
            sample.p50_ms,
            sample.p99_ms
        );
        if let Some(error) = &sample.error {
            eprintln!("   {} requests failed, the first: {error}", sample.n_errors);
        }
        if sample.n_repeated > 0 {
            eprintln!("   {} proposals refused and repeated", sample.n_repeated);
        }
        let cell = Cell { system: self.index, what, size, n_clients };
        self.report.push(cell, Figures { sample, rss_mib });
        Ok(())
    }

    async fn watch(&mut self) -> Result<()> {
        let (window, pids, n) = (self.window, self.system.pids(), self.options.watchers);
        self.ready().await?;
        let sample = match &self.system {
            System::Balsa(balsa) => {
                let writers = balsa.raw("watched", WATCH_WRITERS, WATCH_BYTES).await?;
                watch::run(balsa.watchers(n).await?, writers, window, &pids).await?
            }
            System::Etcd(etcd) => {
                let writers = etcd.writers("watched", WATCH_WRITERS, WATCH_BYTES).await?;
                watch::run(etcd.watchers(n).await?, writers, window, &pids).await?
            }
        };
        eprintln!(
            "   {:<12} {n} watchers  {:.0} events/s  lag p50 {:.1}  p99 {:.1} ms",
            self.report.systems[self.index], sample.events_per_second, sample.lag_p50_ms, sample.lag_p99_ms
        );
        if let Some(error) = &sample.error {
            eprintln!("   {} failures, the first: {error}", sample.n_errors);
        }
        let rss_mib = largest_rss_mib(&pids)?;
        self.report.push_watch(self.index, sample, rss_mib);
        Ok(())
    }
}
