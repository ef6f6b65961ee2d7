//! `cargo xtask bench --check`: a short `bench store` and `bench idle` beside the committed baseline.

use crate::baseline::{Baseline, Figure, Kind, Measured, OVER_ETCD, table};
use crate::setup::{self, Purpose};
use crate::{bench, build, idle, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const HELP: &str = "\
cargo xtask bench --check [--renew] [--etcd PATH] [--no-etcd]
  --renew      writes crates/bench/baseline.json instead of comparing with it
  --etcd PATH  the etcd to measure beside Balsa; by default the installed one
  --no-etcd    measures Balsa alone: ratios to etcd are not judged";

const BASELINE: &str = "crates/bench/baseline.json";

#[derive(Default)]
struct Flags {
    renew: bool,
    alone: bool,
    etcd: Option<PathBuf>,
}

fn parse(words: &[&str]) -> Result<Flags> {
    let mut flags = Flags::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--renew" => flags.renew = true,
            "--no-etcd" => flags.alone = true,
            "--etcd" => flags.etcd = Some(rest.next().context("--etcd needs a path")?.into()),
            other => bail!("bench --check: {other} is not known\n\n{HELP}"),
        }
    }
    if flags.alone && flags.etcd.is_some() {
        bail!("bench --check: --etcd and --no-etcd exclude each other\n\n{HELP}");
    }
    Ok(flags)
}

pub(crate) fn bench(words: &[&str]) -> Result<()> {
    if matches!(words, ["--help" | "-h"]) {
        println!("{HELP}");
        return Ok(());
    }
    let flags = parse(words)?;
    let path = root().join(BASELINE);
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => Some(Baseline::parse(&text).with_context(|| format!("reading {BASELINE}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context(format!("reading {BASELINE}")),
    };
    // One that cannot be read ends a check before it has begun, and a renewal as well: it would lose tolerances.
    let before = before.transpose()?;
    if before.is_none() && !flags.renew {
        bail!("{BASELINE} is missing; `cargo xtask bench --check --renew` writes it");
    }
    build(&setup::prepare(Purpose::Run)?)?;
    let etcd = if flags.alone { None } else { flags.etcd.or_else(setup::installed_etcd) };
    let measured = measure(etcd.as_deref())?;
    if let Some(before) = &before {
        let rows = before.compare(&measured);
        println!("{}", table(&rows));
        before.remarks(&measured).iter().for_each(|remark| println!("{remark}"));
        let failed: Vec<&str> = rows.iter().filter(|row| row.fails()).map(|row| row.name.as_str()).collect();
        if !flags.renew && !failed.is_empty() {
            bail!(
                "worse than the baseline, or missing: {}. Run it again on a machine that does nothing else; if it is meant, run \
                 `cargo xtask bench --check --renew` and say why in the commit",
                failed.join("; ")
            );
        }
    }
    if flags.renew {
        std::fs::write(&path, Baseline::renewed(before.as_ref(), &measured))
            .with_context(|| format!("writing {BASELINE}"))?;
        println!("{BASELINE} is written: {} figures", measured.figures.len());
        if measured.etcd.is_none() {
            println!("without ratios, as there was no etcd beside Balsa: name one with --etcd PATH");
        }
    }
    Ok(())
}

fn measure(etcd: Option<&Path>) -> Result<Measured> {
    let report = store(etcd)?;
    let mut figures = figures(&report)?;
    eprintln!("== an idle cluster (about 30 s)");
    let [master, worker, up] = idle::measure()?;
    for (name, kind, value) in [
        ("idle master RSS, MiB", Kind::Memory, master),
        ("idle worker RSS, MiB", Kind::Memory, worker),
        ("dev up, s", Kind::Time, up),
    ] {
        figures.push(Figure { name: name.into(), kind, value });
    }
    let processors = std::thread::available_parallelism().context("counting the processors")?.get() as u64;
    Ok(Measured { processors, etcd: report["systems"][1].as_str().map(ToString::to_string), figures })
}

/// Runs the short store bench and returns its report. That targets are missed is not this check's concern.
fn store(etcd: Option<&Path>) -> Result<Value> {
    eprintln!("== writes, reads and watches (about {} min)", if etcd.is_some() { 2 } else { 1 });
    let mut command = bench::command("store");
    // Three seconds a row: of one, the figures of two runs differ by more than is allowed.
    command.args(["--quick", "--seconds", "3", "-o", "json"]);
    if let Some(etcd) = etcd {
        command.arg("--etcd").arg(etcd);
    }
    let output = command.stderr(Stdio::inherit()).output().context("running balsa-bench")?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("balsa-bench told no figures ({})", output.status))
}

/// The figures of a report on the store, those of Balsa and, where it has an etcd, those over etcd's. Latencies
/// are not among them: on a machine that does other things too they vary more than any change of ours.
fn figures(report: &Value) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let (ours, theirs) = (&report["systems"][0], &report["systems"][1]);
    let mut push = |what: &str, kind: Kind, over: Kind, ours: f64, theirs: Option<f64>| {
        figures.push(Figure { name: what.into(), kind, value: ours });
        if let Some(theirs) = theirs {
            // Without its unit: a ratio has none.
            let name = format!("{}{OVER_ETCD}", what.trim_end_matches(" us").trim_end_matches(", MiB"));
            figures.push(Figure { name, kind: over, value: ours / theirs });
        }
    };
    let rows = |table: &str| report[table].as_array().with_context(|| format!("the report has no {table}"));
    let (cells, watches, memory) = (rows("rows")?, rows("watch")?, rows("memory")?);
    for row in cells.iter().filter(|row| row["system"] == *ours) {
        let (what, clients) = (row["what"].as_str().context("a row without a name")?, &row["clients"]);
        let beside = if what == "admitted" { "raw" } else { what };
        let is_peer = |other: &&Value| {
            other["system"] == *theirs && other["what"] == *beside && other["clients"] == row["clients"]
        };
        let name = match what {
            "batched" => format!("batched, {clients} writes"),
            _ if *clients == 1 => format!("{what}, 1 client"),
            _ => format!("{what}, {clients} clients"),
        };
        is_whole(row, &name)?;
        let peer = peer(theirs, cells.iter().find(is_peer), &name)?;
        peer.map_or(Ok(()), |peer| is_whole(peer, &name))?;
        for (unit, field, kind, over) in
            [("/s", "perSecond", Kind::Rate, Kind::RateRatio), ("CPU us", "serverCpuUs", Kind::Time, Kind::CostRatio)]
        {
            let name = format!("{name}, {unit}");
            push(&name, kind, over, median(row, field, &name)?, told(peer, field, &name)?);
        }
    }
    for row in watches.iter().filter(|row| row["system"] == *ours) {
        let name = format!("{} watchers", row["watchers"]);
        is_whole(row, &name)?;
        let peer = peer(theirs, watches.iter().find(|other| other["system"] == *theirs), &name)?;
        peer.map_or(Ok(()), |peer| is_whole(peer, &name))?;
        let (rate, field) = (format!("{name}, events/s"), "eventsPerSecond");
        push(&rate, Kind::Rate, Kind::RateRatio, median(row, field, &rate)?, told(peer, field, &rate)?);
    }
    for row in memory.iter().filter(|row| row["system"] == *ours) {
        let (name, field) = ("RSS of equal states, MiB", "equalStatesMib");
        let peer = peer(theirs, memory.iter().find(|other| other["system"] == *theirs), name)?;
        push(name, Kind::Memory, Kind::CostRatio, median(row, field, name)?, told(peer, field, name)?);
    }
    Ok(figures)
}

/// etcd's row; none without an etcd, and an error where there is one that lacks it.
fn peer<'a>(etcd: &Value, row: Option<&'a Value>, name: &str) -> Result<Option<&'a Value>> {
    if etcd.is_null() {
        return Ok(None);
    }
    row.with_context(|| format!("{name}: {etcd} was not measured")).map(Some)
}

/// Of a row with failed requests the figures say nothing.
fn is_whole(row: &Value, name: &str) -> Result<()> {
    match row["failed"].as_u64().with_context(|| format!("{name}: the report does not tell what failed"))? {
        0 => Ok(()),
        n => bail!("{name}: {n} requests to {} failed, so that nothing can be compared; run it again", row["system"]),
    }
}

fn median(row: &Value, field: &str, name: &str) -> Result<f64> {
    let median = row[field]["median"].as_f64().filter(|median| *median > 0.0);
    median.with_context(|| format!("{name}: nothing was measured"))
}

fn told(row: Option<&Value>, field: &str, name: &str) -> Result<Option<f64>> {
    row.map(|row| median(row, field, name)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(system: &str, what: &str, clients: u64, rate: f64, failed: u64) -> Value {
        json!({
            "system": system, "what": what, "clients": clients, "failed": failed,
            "perSecond": {"median": rate}, "serverCpuUs": {"median": 100.0},
        })
    }

    fn report(systems: &[&str], rows: Vec<Value>) -> Value {
        let of = |field: &str, value: f64| -> Vec<Value> {
            let row = |system| json!({"system": system, "watchers": 1000, "failed": 0, field: {"median": value}});
            systems.iter().map(row).collect()
        };
        json!({
            "systems": systems, "rows": rows, "watch": of("eventsPerSecond", 5_000.0),
            "memory": of("equalStatesMib", 200.0),
        })
    }

    fn told(report: &Value) -> Vec<String> {
        let told = |figure: Figure| format!("{} = {} ({:?})", figure.name, figure.value, figure.kind);
        figures(report).unwrap().into_iter().map(told).collect()
    }

    #[test]
    fn admitted_objects_stand_beside_puts_and_batches_beside_transactions() {
        let rows = vec![
            row("Balsa", "admitted", 64, 300.0, 0),
            row("etcd 3.4.23", "raw", 64, 200.0, 0),
            row("Balsa", "batched", 1024, 800.0, 0),
            row("etcd 3.4.23", "batched", 1024, 400.0, 0),
        ];
        let expected = [
            "admitted, 64 clients, /s = 300 (Rate)",
            "admitted, 64 clients, /s over etcd's = 1.5 (RateRatio)",
            "admitted, 64 clients, CPU us = 100 (Time)",
            "admitted, 64 clients, CPU over etcd's = 1 (CostRatio)",
            "batched, 1024 writes, /s = 800 (Rate)",
            "batched, 1024 writes, /s over etcd's = 2 (RateRatio)",
            "batched, 1024 writes, CPU us = 100 (Time)",
            "batched, 1024 writes, CPU over etcd's = 1 (CostRatio)",
            "1000 watchers, events/s = 5000 (Rate)",
            "1000 watchers, events/s over etcd's = 1 (RateRatio)",
            "RSS of equal states, MiB = 200 (Memory)",
            "RSS of equal states over etcd's = 1 (CostRatio)",
        ];
        assert_eq!(told(&report(&["Balsa", "etcd 3.4.23"], rows)), expected);
    }

    #[test]
    fn alone_there_are_no_ratios() {
        let expected = [
            "raw, 1 client, /s = 600 (Rate)",
            "raw, 1 client, CPU us = 100 (Time)",
            "1000 watchers, events/s = 5000 (Rate)",
            "RSS of equal states, MiB = 200 (Memory)",
        ];
        assert_eq!(told(&report(&["Balsa"], vec![row("Balsa", "raw", 1, 600.0, 0)])), expected);
    }

    #[test]
    fn what_failed_or_is_absent_is_not_compared() {
        let error = |systems: &[&str], rows| figures(&report(systems, rows)).unwrap_err().to_string();
        let failed = error(&["Balsa"], vec![row("Balsa", "raw", 1, 600.0, 3)]);
        assert!(failed.contains("3 requests to \"Balsa\" failed"), "{failed}");
        let absent = error(&["Balsa", "etcd 3.4.23"], vec![row("Balsa", "raw", 1, 600.0, 0)]);
        assert!(absent.contains("was not measured"), "{absent}");
        let nothing = error(&["Balsa"], vec![row("Balsa", "raw", 1, 0.0, 0)]);
        assert_eq!(nothing, "raw, 1 client, /s: nothing was measured");
    }

    #[test]
    fn the_committed_baseline_is_one() {
        Baseline::parse(&std::fs::read_to_string(root().join(BASELINE)).unwrap()).unwrap();
    }

    #[test]
    fn flags_that_are_not_known_are_refused() {
        assert!(parse(&["--renew", "--etcd", "/usr/bin/etcd"]).is_ok_and(|flags| flags.renew && flags.etcd.is_some()));
        assert!(parse(&["--quick"]).is_err());
        assert!(parse(&["--etcd"]).is_err());
        assert!(parse(&["--no-etcd", "--etcd", "x"]).is_err());
    }
}
