//! `cargo xtask bench failover`: what the loss of a leader costs, by `balsa chaos` and its judgement.

use crate::setup::{self, Purpose};
use crate::{binary, build};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

const HELP: &str = "\
cargo xtask bench failover [--kills N] [--others N] [--report DIR] [-o json]
  --kills N     leaders killed with -9 (1000, about 30 min)
  --others N    leaders frozen, cut off, and stopped as planned, each (100)
  --report DIR  keeps the reports of `balsa chaos` there";

/// The targets of the design, in milliseconds.
const WRITES_P50_MAX: f64 = 350.0;
const WRITES_P99_MAX: f64 = 600.0;
const BIND_P99_MAX: f64 = 1_000.0;
const HAND_OVER_MAX: f64 = 50.0;

struct Flags {
    kills: u32,
    others: u32,
    report: Option<String>,
    json: bool,
}

fn parse(words: &[&str]) -> Result<Flags> {
    let mut flags = Flags { kills: 1_000, others: 100, report: None, json: false };
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().copied().with_context(|| format!("{word} needs a value\n\n{HELP}"));
        match *word {
            "--kills" => flags.kills = value()?.parse().context("--kills: a number")?,
            "--others" => flags.others = value()?.parse().context("--others: a number")?,
            "--report" => flags.report = Some(value()?.into()),
            "-o" if value()? == "json" => flags.json = true,
            other => bail!("bench failover: {other} is not known\n\n{HELP}"),
        }
    }
    Ok(flags)
}

/// Three masters and a worker, 500 writes a second to any surviving master; one fault of the leader after the
/// other, each as soon as the cluster is whole again.
fn scenario(fault: &str, times: u32) -> String {
    let minutes = 2 + times.div_ceil(15);
    format!(
        "{{name: bench-{fault}, duration: {minutes}m, cluster: {{masters: 3, workers: 1}},
 faults: [{{fault: {fault}, target: leader, every: recovered, for: recovered, times: {times}}}],
 workload: {{writes: 500, keys: 256, size: 256, assuming: 10, reads: 2, watchers: 2, pods: 10}}}}
"
    )
}

/// Runs one and returns its report; a verdict that is not clean is a failure of the bench.
fn run(fault: &str, times: u32, dir: &Path) -> Result<Value> {
    let (file, report) = (dir.join(format!("{fault}.yaml")), dir.join(fault));
    std::fs::write(&file, scenario(fault, times))?;
    eprintln!("== {times} x {fault} of the leader (about {} min)", 1 + times / 40);
    let output = Command::new(binary())
        .args(["chaos", "run"])
        .arg(&file)
        .args(["--seed", "1", "-o", "json", "--report"])
        .arg(&report)
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| format!("no verdict on {fault}: {told}"))
}

fn ms(report: &Value, table: &str, which: &str) -> Option<f64> {
    report[table]["all"][which].as_f64()
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.0}"))
}

/// A report as a row of at most 80 columns.
fn row(what: &str, report: &Value) -> String {
    let counts = &report["counts"];
    let cells: Vec<String> =
        [("writes", "p50Ms"), ("writes", "p99Ms"), ("writes", "maxMs"), ("gaps", "p99Ms"), ("binds", "p99Ms")]
            .iter()
            .map(|(table, which)| cell(ms(report, table, which)))
            .collect();
    format!(
        "{what:<16} {:>5} {:>6} {:>6} {:>6} {:>7} {:>7} {:>5} {:>8}",
        counts["failovers"], cells[0], cells[1], cells[2], cells[3], cells[4], counts["lost"], counts["doubleBinds"]
    )
}

/// What is worse than its target, and every violation.
fn wrong(fault: &str, report: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut at_most = |what: &str, value: Option<f64>, max: f64| {
        if value.is_none_or(|value| value > max) {
            wrong.push(format!("{fault}: {what} is {} ms, the target {max:.0} ms", cell(value)));
        }
    };
    match fault {
        "kill" => {
            at_most("p50 until writes", ms(report, "writes", "p50Ms"), WRITES_P50_MAX);
            at_most("p99 until writes", ms(report, "writes", "p99Ms"), WRITES_P99_MAX);
            at_most("p99 until a bind", ms(report, "binds", "p99Ms"), BIND_P99_MAX);
        }
        "stop" => at_most("p99 of the gap", ms(report, "gaps", "p99Ms"), HAND_OVER_MAX),
        _ => {}
    }
    if report["verdict"] != "clean" {
        wrong.push(format!("{fault}: {} {} {}", report["verdict"], report["violations"], report["inconclusive"]));
    }
    wrong
}

pub(crate) fn bench(words: &[&str]) -> Result<()> {
    if matches!(words, ["--help" | "-h"]) {
        println!("{HELP}");
        return Ok(());
    }
    let flags = parse(words)?;
    build(&setup::prepare(Purpose::Run)?)?;
    let kept = flags.report.is_some();
    let own = std::env::temp_dir().join(format!("balsa-failover-{}", std::process::id()));
    let dir = flags.report.clone().map_or(own, Into::into);
    std::fs::create_dir_all(&dir)?;
    let faults = [("kill", flags.kills), ("pause", flags.others), ("cut", flags.others), ("stop", flags.others)];
    let ran = faults.into_iter().filter(|(_, times)| *times > 0);
    let reports = ran.map(|(fault, times)| Ok((fault, run(fault, times, &dir)?))).collect::<Result<Vec<_>>>();
    if !kept {
        std::fs::remove_dir_all(&dir)?;
    }
    let reports = reports?;
    let wrong: Vec<String> = reports.iter().flat_map(|(fault, report)| wrong(fault, report)).collect();
    if flags.json {
        let all: serde_json::Map<String, Value> =
            reports.into_iter().map(|(fault, report)| (fault.to_string(), report)).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"reports": all, "wrong": wrong}))?);
    } else {
        println!("3 masters, 500 writes/s open loop to any surviving master; ms from the fault");
        println!(
            "{:<16} {:>5} {:>6} {:>6} {:>6} {:>7} {:>7} {:>5} {:>8}",
            "leader", "n", "p50", "p99", "max", "gap p99", "bind99", "lost", "2x bound"
        );
        for (fault, report) in &reports {
            println!("{}", row(fault, report));
            if *fault == "stop" {
                // Of the one that was stopped: it starts, beside the others on one disk.
                let gap = cell(ms(report, "returnGaps", "p99Ms"));
                println!("{:<16} {:>5} {:>6} {:>6} {:>6} {gap:>7}", "its return", "", "-", "-", "-");
            }
        }
        println!(
            "{:<16} {:>5} {:>6.0} {:>6.0} {:>6} {:>7} {:>7.0} {:>5} {:>8}",
            "target (kill)", "", WRITES_P50_MAX, WRITES_P99_MAX, "-", "-", BIND_P99_MAX, 0, 0
        );
        println!("{:<16} {:>5} {:>6} {:>6} {:>6} {:>7.0}", "target (stop)", "", "-", "-", "-", HAND_OVER_MAX);
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => bail!("{}", wrong.join("\n")),
    }
}
