//! What was measured, as a table of 80 columns and as JSON.

use crate::rounds::BATCHED_CLIENTS;
use crate::row::{self, Pair, Row, Spread, Target, spread};
use crate::{AT_ONCE, load, watch};
use objects::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// A transaction of one operation, or etcd's put.
    Raw,
    Admitted,
    Read,
    /// Raw transactions, many to a request, or etcd's transactions of as many puts; the number of clients is
    /// that of writes on their way.
    Batched,
}

/// The targets of a kind of request, as ratios to etcd.
#[derive(Default)]
struct Aims {
    rate: Option<Target>,
    p99: Option<Target>,
    cpu: Option<Target>,
}

impl What {
    pub(crate) fn word(self) -> &'static str {
        match self {
            What::Raw => "raw",
            What::Admitted => "admitted",
            What::Read => "reads",
            What::Batched => "batched",
        }
    }

    fn title(self) -> &'static str {
        match self {
            What::Raw | What::Batched => "raw transactions/s",
            What::Admitted => "admitted objects/s",
            What::Read => "linearizable reads/s",
        }
    }

    /// What of etcd it stands beside.
    fn peer(self) -> What {
        match self {
            What::Raw | What::Admitted => What::Raw,
            What::Read => What::Read,
            What::Batched => What::Batched,
        }
    }

    /// What is aimed at. Raw transactions: at least 2 x etcd's puts at 64 and 1,000 clients, one client no slower.
    /// Admitted objects: at least 1.2 x etcd's raw puts, and read-index reads: at least 1.5 x, both at 64 and 1,000
    /// clients. Batched streams: at least 4 x, reported apart. p99: no worse. Memory, no larger, is judged where
    /// the table ends. Design adds the CPU of a write, at most 0.6 x at 64 and 1,000 clients: it is judged of raw
    /// transactions, as they do what a put does, and of batches.
    fn aims(self, n_clients: usize) -> Aims {
        let rate = match (self, n_clients) {
            (What::Raw, 1) => Some(1.0),
            (What::Raw, 64 | 1000) => Some(2.0),
            (What::Admitted, 64 | 1000) => Some(1.2),
            (What::Read, 64 | 1000) => Some(1.5),
            (What::Batched, _) => Some(4.0),
            (What::Raw | What::Admitted | What::Read, _) => None,
        };
        let has_cpu = matches!((self, n_clients), (What::Raw, 64 | 1000) | (What::Batched, _));
        Aims {
            rate: rate.map(Target::AtLeast),
            p99: (self != What::Batched).then_some(Target::AtMost(1.0)),
            cpu: has_cpu.then_some(Target::AtMost(0.6)),
        }
    }
}

/// A row of one system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) size: usize,
    pub(crate) n_clients: usize,
    pub(crate) what: What,
    /// An index into the systems.
    pub(crate) system: usize,
}

/// What one round saw of a row.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) sample: load::Sample,
    /// Of the largest server, when the row was done.
    pub(crate) rss_mib: f64,
}

pub(crate) struct Report {
    pub(crate) systems: Vec<String>,
    rounds: usize,
    seconds: f64,
    n_watchers: usize,
    cells: BTreeMap<Cell, Vec<Figures>>,
    watches: BTreeMap<usize, Vec<(watch::Sample, f64)>>,
}

impl Report {
    pub(crate) fn new(systems: Vec<String>, rounds: usize, seconds: f64, n_watchers: usize) -> Report {
        Report { systems, rounds, seconds, n_watchers, cells: BTreeMap::new(), watches: BTreeMap::new() }
    }

    pub(crate) fn push(&mut self, cell: Cell, figures: Figures) {
        self.cells.entry(cell).or_default().push(figures);
    }

    pub(crate) fn push_watch(&mut self, system: usize, sample: watch::Sample, rss_mib: f64) {
        self.watches.entry(system).or_default().push((sample, rss_mib));
    }

    fn of(&self, cell: Cell, figure: impl Fn(&Figures) -> f64) -> Option<Spread> {
        spread(self.cells.get(&cell)?.iter().map(figure))
    }

    /// Over all rounds.
    fn sum(&self, cell: Cell, count: impl Fn(&load::Sample) -> u64) -> u64 {
        self.cells.get(&cell).into_iter().flatten().map(|figures| count(&figures.sample)).sum()
    }

    fn of_watch(&self, system: usize, figure: impl Fn(&(watch::Sample, f64)) -> f64) -> Option<Spread> {
        spread(self.watches.get(&system)?.iter().map(figure))
    }

    fn sum_watch(&self, system: usize, count: impl Fn(&watch::Sample) -> u64) -> u64 {
        self.watches.get(&system).into_iter().flatten().map(|(sample, _)| count(sample)).sum()
    }

    /// Resident memory of the largest server, the most that any of these rows left, or the watch.
    fn rss(&self, system: usize, is_counted: impl Fn(What) -> bool) -> Option<Spread> {
        if system >= self.systems.len() {
            return None;
        }
        let rounds = (0..self.rounds).map(|round| {
            let rows = self.cells.iter().filter(|(cell, _)| cell.system == system && is_counted(cell.what));
            let of_rows = rows.filter_map(|(_, figures)| Some(figures.get(round)?.rss_mib));
            let of_watch = self.watches.get(&system).and_then(|watches| Some(watches.get(round)?.1));
            of_rows.chain(of_watch).reduce(f64::max)
        });
        spread(rounds.collect::<Option<Vec<f64>>>()?.into_iter())
    }

    /// The same while all systems hold the same: what follows these rows is another number of keys.
    fn rss_of_equals(&self, system: usize) -> Option<Spread> {
        self.rss(system, |what| matches!(what, What::Raw | What::Read))
    }

    /// The row of puts with the highest median.
    fn most_puts(&self, system: usize, size: usize) -> Option<Cell> {
        let puts = self.cells.keys().filter(|cell| (cell.system, cell.size, cell.what) == (system, size, What::Raw));
        let rate = |cell: &Cell| self.of(*cell, |f| f.sample.per_second).map_or(0.0, |spread| spread.median);
        puts.copied().max_by(|a, b| rate(a).total_cmp(&rate(b)))
    }

    /// Whether there is an etcd to judge by.
    fn is_beside(&self, peer: usize) -> bool {
        peer < self.systems.len()
    }

    /// A table for each etcd measured, or one of Balsa alone.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let rounds = if self.rounds == 1 { "1 round" } else { &format!("{} rounds", self.rounds) };
        let _: std::fmt::Result = writeln!(
            out,
            "3 servers each, on loopback, TLS, fsync, one disk; {rounds} of {} s a row, in\n\
             turn; median (min-max). A ratio is of medians. raw transactions: a client with\n\
             a master's certificate proposes at the leader's peer port, as followers\n\
             forward; it repeats what the leader refuses, which is counted. admitted\n\
             objects: Create and Update of ConfigMaps at the leader's API port, authorized,\n\
             defaulted and validated. Both stand beside etcd's Put. All keys of raw rows and\n\
             of puts are written once, untimed, before the row. A row with failed requests\n\
             misses its target.",
            self.seconds
        );
        for peer in 1..self.systems.len().max(2) {
            self.table(peer, &mut out);
        }
        out
    }

    fn table(&self, peer: usize, out: &mut String) {
        let name = self.systems.get(peer).map_or("", String::as_str);
        let _: std::fmt::Result = writeln!(out, "\n{:<20} {:<19} {name:<19} ratio target", "", "Balsa");
        let rows = self.rows(peer);
        rows.iter().for_each(|row| row.write(out));
        let judged: Vec<bool> = rows.iter().filter_map(Row::met).collect();
        if !judged.is_empty() {
            let n_met = judged.iter().filter(|met| **met).count();
            let _: std::fmt::Result = writeln!(out, "-- {n_met} of {} targets met", judged.len());
        }
    }

    /// The targets that are missed, of every table; of Balsa alone, which has none, requests that failed.
    pub(crate) fn missed(&self) -> Vec<String> {
        if self.systems.len() == 1 {
            let n_failed: u64 = self.cells.keys().map(|cell| self.sum(*cell, |sample| sample.n_errors)).sum();
            let n_failed = n_failed + self.sum_watch(0, |sample| sample.n_errors);
            return (n_failed > 0).then(|| format!("{n_failed} requests failed")).into_iter().collect();
        }
        let of_table = |peer: usize| {
            let missed = row::missed(&self.rows(peer));
            missed.into_iter().map(move |what| format!("{}: {what}", self.systems[peer]))
        };
        (1..self.systems.len()).flat_map(of_table).collect()
    }

    fn rows(&self, peer: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut above = None;
        for cell in self.cells.keys().filter(|cell| cell.system == 0) {
            if cell.what == What::Batched {
                self.batched(*cell, peer, &mut rows);
                continue;
            }
            if above != Some((cell.size, cell.n_clients)) {
                above = Some((cell.size, cell.n_clients));
                let clients = if cell.n_clients == 1 { "client" } else { "clients" };
                rows.push(Row::title(format!("{} B values, {} {clients}", cell.size, cell.n_clients)));
            }
            let aims = if self.is_beside(peer) { cell.what.aims(cell.n_clients) } else { Aims::default() };
            self.compare(*cell, peer, aims, &mut rows);
        }
        if !self.watches.is_empty() {
            self.watch(peer, &mut rows);
        }
        rows.push(Row::title("memory of the largest server".into()));
        if self.cells.keys().any(|cell| cell.system == 0 && cell.what == What::Raw) {
            let at_most = self.is_beside(peer).then_some(Target::AtMost(1.0));
            let pair = (self.rss_of_equals(0), self.rss_of_equals(peer));
            rows.push(Row::judged("of equal states, MiB", pair, at_most, 0));
        }
        rows.push(Row::told("after all rows, MiB", (self.rss(0, |_| true), self.rss(peer, |_| true))));
        rows
    }

    /// A kind of request beside its like.
    fn compare(&self, cell: Cell, peer: usize, aims: Aims, rows: &mut Vec<Row>) {
        let other = Cell { system: peer, what: cell.what.peer(), ..cell };
        let pair = |figure: fn(&Figures) -> f64| -> Pair { (self.of(cell, figure), self.of(other, figure)) };
        let sums = |count: fn(&load::Sample) -> u64| (self.sum(cell, count), self.sum(other, count));
        let (failed, repeated) = (sums(|sample| sample.n_errors), sums(|sample| sample.n_repeated));
        let n_failed = failed.0 + failed.1;
        rows.push(Row::judged(cell.what.title(), pair(|f| f.sample.per_second), aims.rate, n_failed));
        rows.push(Row::told("  p50, ms", pair(|f| f.sample.p50_ms)));
        rows.push(Row::judged("  p99, ms", pair(|f| f.sample.p99_ms), aims.p99, n_failed));
        rows.push(Row::judged("  server CPU, us", pair(|f| f.sample.cpu_us), aims.cpu, n_failed));
        rows.push(Row::told("  driver CPU, %", pair(|f| f.sample.driver_percent)));
        if n_failed > 0 {
            rows.push(Row::told("  requests failed", pair(|f| f.sample.n_errors as f64)));
        }
        if repeated.0 + repeated.1 > 0 {
            rows.push(Row::told("  proposals repeated", pair(|f| f.sample.n_repeated as f64)));
        }
    }

    /// Batches beside the most that etcd's clients of single puts reach, which is judged, and beside batches of
    /// etcd's, which is told: a transaction of its own stands or falls as a whole, where each of Balsa's 128 has
    /// an outcome.
    fn batched(&self, cell: Cell, peer: usize, rows: &mut Vec<Row>) {
        let title = format!("{} B values, {} writes in {BATCHED_CLIENTS} requests", cell.size, cell.n_clients);
        if !self.is_beside(peer) {
            rows.push(Row::title(title));
            return self.compare(cell, peer, Aims::default(), rows);
        }
        let (aims, puts) = (cell.what.aims(cell.n_clients), self.most_puts(peer, cell.size));
        let pair = |figure: fn(&Figures) -> f64| -> Pair {
            (self.of(cell, figure), puts.and_then(|puts| self.of(puts, figure)))
        };
        let n_failed: u64 = [Some(cell), puts].into_iter().flatten().map(|cell| self.sum(cell, |s| s.n_errors)).sum();
        rows.push(Row::title(format!("{title}; etcd's single puts")));
        rows.push(Row::judged(cell.what.title(), pair(|f| f.sample.per_second), aims.rate, n_failed));
        rows.push(Row::judged("  server CPU, us", pair(|f| f.sample.cpu_us), aims.cpu, n_failed));
        rows.push(Row::title(format!("the same; etcd's Txn of {AT_ONCE} puts")));
        self.compare(cell, peer, Aims::default(), rows);
    }

    fn watch(&self, peer: usize, rows: &mut Vec<Row>) {
        rows.push(Row::title(format!("{} watchers of one prefix, 256 B values", self.n_watchers)));
        let pair = |figure: fn(&(watch::Sample, f64)) -> f64| (self.of_watch(0, figure), self.of_watch(peer, figure));
        let sum = |count: fn(&watch::Sample) -> u64| self.sum_watch(0, count) + self.sum_watch(peer, count);
        let n_failed = sum(|sample| sample.n_errors);
        let p99 = self.is_beside(peer).then_some(Target::AtMost(1.0));
        rows.push(Row::told("events delivered/s", pair(|w| w.0.events_per_second)));
        rows.push(Row::told("  server CPU, us", pair(|w| w.0.cpu_us)));
        rows.push(Row::told("  driver CPU, %", pair(|w| w.0.driver_percent)));
        rows.push(Row::told("lag p50, ms, 10/s", pair(|w| w.0.lag_p50_ms)));
        rows.push(Row::judged("lag p99, ms, 10/s", pair(|w| w.0.lag_p99_ms), p99, n_failed));
        if n_failed > 0 {
            rows.push(Row::told("  failures", pair(|w| w.0.n_errors as f64)));
        }
        if sum(|sample| sample.n_repeated) > 0 {
            rows.push(Row::told("  proposals repeated", pair(|w| w.0.n_repeated as f64)));
        }
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.cells.iter().map(|(cell, figures)| {
            let of = |figure: fn(&Figures) -> f64| spread(figures.iter().map(figure)).map(Spread::json);
            json!({
                "system": self.systems[cell.system], "what": cell.what.word(), "bytes": cell.size,
                "clients": cell.n_clients, "perSecond": of(|f| f.sample.per_second),
                "p50Ms": of(|f| f.sample.p50_ms), "p99Ms": of(|f| f.sample.p99_ms),
                "serverCpuUs": of(|f| f.sample.cpu_us), "driverCpuPercent": of(|f| f.sample.driver_percent),
                "rssMib": of(|f| f.rss_mib),
                "failed": self.sum(*cell, |s| s.n_errors), "repeated": self.sum(*cell, |s| s.n_repeated),
            })
        });
        let watches = self.watches.iter().map(|(system, watches)| {
            let of = |figure: fn(&(watch::Sample, f64)) -> f64| spread(watches.iter().map(figure)).map(Spread::json);
            json!({
                "system": self.systems[*system], "watchers": self.n_watchers,
                "eventsPerSecond": of(|w| w.0.events_per_second), "serverCpuUs": of(|w| w.0.cpu_us),
                "driverCpuPercent": of(|w| w.0.driver_percent),
                "lagP50Ms": of(|w| w.0.lag_p50_ms), "lagP99Ms": of(|w| w.0.lag_p99_ms), "rssMib": of(|w| w.1),
                "failed": self.sum_watch(*system, |s| s.n_errors),
                "repeated": self.sum_watch(*system, |s| s.n_repeated),
            })
        });
        let memory = self.systems.iter().enumerate().map(|(i, system)| {
            json!({
                "system": system, "equalStatesMib": self.rss_of_equals(i).map(Spread::json),
                "afterAllMib": self.rss(i, |_| true).map(Spread::json),
            })
        });
        json!({
            "rounds": self.rounds, "seconds": self.seconds, "systems": self.systems,
            "rows": rows.collect::<Vec<_>>(), "watch": watches.collect::<Vec<_>>(),
            "memory": memory.collect::<Vec<_>>(), "missed": self.missed(),
        })
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
