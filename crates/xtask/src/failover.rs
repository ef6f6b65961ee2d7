//! `cargo xtask bench failover`: what the loss of a leader costs, by `balsa chaos` and its judgement.

use crate::setup::{self, Purpose};
use crate::{binary, build};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

const HELP: &str = "\
cargo xtask bench failover [--kills N] [--others N] [--report DIR] [-o FORMAT]
  --kills N     leaders killed with -9 (1000, about 35 min)
  --others N    leaders frozen, cut off, and stopped as planned, each (100)
  --report DIR  keeps the reports of `balsa chaos` there
  -o FORMAT     text (the default) or json
Fails when a target of the design is missed, when fewer faults than asked for
were carried out, and when a verdict is not clean.";

/// The targets of the design, in milliseconds: after a kill until writes are accepted, and until a pod is bound;
/// the longest gap between writes at a planned stop.
pub(crate) const WRITES_P50_MAX: f64 = 350.0;
pub(crate) const WRITES_P99_MAX: f64 = 600.0;
const BIND_P99_MAX: f64 = 1_000.0;
const HAND_OVER_P99_MAX: f64 = 50.0;

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
            "-o" => {
                flags.json = match value()? {
                    "json" => true,
                    "text" => false,
                    other => bail!("-o {other}: text or json\n\n{HELP}"),
                }
            }
            other => bail!("bench failover: {other} is not known\n\n{HELP}"),
        }
    }
    if flags.kills + flags.others == 0 {
        bail!("bench failover: with --kills 0 and --others 0 nothing is measured");
    }
    Ok(flags)
}

/// Three masters and as many workers (on one alone no pod could be bound twice), 500 writes a second to any surviving
/// master; one fault of the leader after the other, each as soon as the cluster is whole again.
fn scenario(fault: &str, times: u32) -> String {
    let minutes = 2 + times.div_ceil(15);
    format!(
        "{{name: bench-{fault}, duration: {minutes}m, cluster: {{masters: 3, workers: 3}},
 faults: [{{fault: {fault}, target: leader, every: recovered, for: recovered, times: {times}}}],
 workload: {{writes: 500, keys: 256, size: 256, assuming: 10, reads: 2, watchers: 2, pods: 10}}}}
"
    )
}

/// Runs one and returns its report; a verdict that is not clean is a failure of the bench.
fn run(fault: &str, times: u32, dir: &Path) -> Result<Value> {
    let (file, report) = (dir.join(format!("{fault}.yaml")), dir.join(fault));
    std::fs::write(&file, scenario(fault, times))?;
    eprintln!("== {times} x {fault} of the leader (about {} min)", 1 + times / 30);
    let output = Command::new(binary())
        .args(["chaos", "run"])
        .arg(&file)
        .args(["--seed", "1", "-o", "json", "--report"])
        .arg(&report)
        .stderr(Stdio::inherit())
        .output()?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{fault}: no verdict; what is told above says why"))
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

/// A figure of a report and what the design allows.
struct Judged {
    what: String,
    ms: Option<f64>,
    max: f64,
}

impl Judged {
    fn is_met(&self) -> bool {
        self.ms.is_some_and(|ms| ms <= self.max)
    }

    fn json(&self) -> Value {
        json!({"what": self.what, "ms": self.ms, "atMostMs": self.max, "met": self.is_met()})
    }

    fn text(&self) -> String {
        let met = if self.is_met() { "met" } else { "MISSED" };
        format!("{:<40} {:>8} {:>8.0} {met}", self.what, cell(self.ms), self.max)
    }
}

/// What has a target; of a freeze and a cut the design names none.
fn judged(fault: &str, report: &Value) -> Vec<Judged> {
    let bounds: &[(&str, &str, &str, f64)] = match fault {
        "kill" => &[
            ("p50 until writes", "writes", "p50Ms", WRITES_P50_MAX),
            ("p99 until writes", "writes", "p99Ms", WRITES_P99_MAX),
            ("p99 until a bind", "binds", "p99Ms", BIND_P99_MAX),
        ],
        "stop" => &[("p99 of the longest gap between writes", "gaps", "p99Ms", HAND_OVER_P99_MAX)],
        _ => &[],
    };
    let judge = |(what, table, which, max): &(&str, &str, &str, f64)| Judged {
        what: format!("{fault}: {what}"),
        ms: ms(report, table, which),
        max: *max,
    };
    bounds.iter().map(judge).collect()
}

/// Targets that are missed, faults that were asked for and did not cost a leader, and every violation.
fn wrong(fault: &str, times: u32, report: &Value) -> Vec<String> {
    let missed = judged(fault, report).into_iter().filter(|judged| !judged.is_met());
    let mut wrong: Vec<String> =
        missed.map(|judged| format!("{}: {} ms, at most {:.0}", judged.what, cell(judged.ms), judged.max)).collect();
    let counts = &report["counts"];
    for (what, n) in [
        ("carried out", &counts["faults"][fault]),
        ("followed by an acknowledged write", &counts["failovers"]),
        ("followed by a new bind", &report["binds"]["all"]["n"]),
    ] {
        let n = n.as_u64().unwrap_or(0);
        if n < u64::from(times) {
            wrong.push(format!("{fault}: {n} of {times} were {what}"));
        }
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
    let faults = [("kill", flags.kills), ("pause", flags.others), ("cut", flags.others), ("stop", flags.others)];
    let asked: Vec<(&str, u32)> = faults.into_iter().filter(|(_, times)| *times > 0).collect();
    if let Some(report) = &flags.report
        && let Some((fault, _)) = asked.iter().find(|(fault, _)| Path::new(report).join(fault).exists())
    {
        bail!("--report {report}: {fault} is there already; name another folder");
    }
    build(&setup::prepare(Purpose::Run)?)?;
    let kept = flags.report.is_some();
    let dir = match &flags.report {
        Some(report) => {
            std::fs::create_dir_all(report)?;
            report.into()
        }
        None => setup::new_temp_dir("failover")?,
    };
    // One that fails takes nothing from what the others have measured.
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for (fault, times) in asked {
        match run(fault, times, &dir) {
            Ok(report) => reports.push((fault, times, report)),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    if !kept {
        std::fs::remove_dir_all(&dir)?;
    }
    let missed = reports.iter().flat_map(|(fault, times, report)| wrong(fault, *times, report));
    let wrong: Vec<String> = missed.chain(failed).collect();
    let judged: Vec<Judged> = reports.iter().flat_map(|(fault, _, report)| judged(fault, report)).collect();
    if flags.json {
        let judged: Vec<Value> = judged.iter().map(Judged::json).collect();
        let all: serde_json::Map<String, Value> =
            reports.into_iter().map(|(fault, _, report)| (fault.to_string(), report)).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"reports": all, "judged": judged, "wrong": wrong}))?);
    } else {
        println!("3 masters, 500 writes/s open loop to any surviving master; ms from the fault");
        println!(
            "{:<16} {:>5} {:>6} {:>6} {:>6} {:>7} {:>7} {:>5} {:>8}",
            "leader", "n", "p50", "p99", "max", "gap p99", "bind99", "lost", "2x bound"
        );
        for (fault, _, report) in &reports {
            println!("{}", row(fault, report));
            if *fault == "stop" {
                // Of the one that was stopped: it starts, beside the others on one disk.
                let gap = cell(ms(report, "returnGaps", "p99Ms"));
                println!("{:<16} {:>5} {:>6} {:>6} {:>6} {gap:>7}", "its return", "", "-", "-", "-");
            }
        }
        println!("\n{:<40} {:>8} {:>8}", "target, ms", "measured", "at most");
        judged.iter().for_each(|judged| println!("{}", judged.text()));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => bail!("{}", wrong.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(n: usize, p50: f64, p99: f64) -> Value {
        json!({
            "verdict": "clean", "violations": [], "inconclusive": [],
            "counts": {"faults": {"kill": n, "stop": n}, "failovers": n, "lost": 0, "doubleBinds": 0},
            "writes": {"all": {"p50Ms": p50, "p99Ms": p99, "maxMs": p99}},
            "binds": {"all": {"n": n, "p99Ms": 462.0}}, "gaps": {"all": {"p99Ms": p99}},
        })
    }

    #[test]
    fn every_bound_of_a_kill_is_judged() {
        assert!(wrong("kill", 10, &report(10, 350.0, 600.0)).is_empty());
        let late = wrong("kill", 10, &report(10, 351.0, 601.0));
        assert_eq!(
            late,
            ["kill: p50 until writes: 351 ms, at most 350", "kill: p99 until writes: 601 ms, at most 600"]
        );
    }

    #[test]
    fn a_hand_over_is_judged_by_its_gap() {
        assert_eq!(
            wrong("stop", 1, &report(1, 9.0, 51.0)),
            ["stop: p99 of the longest gap between writes: 51 ms, at most 50"]
        );
    }

    #[test]
    fn fewer_than_asked_for_are_not_enough() {
        let expected = [
            "kill: 9 of 10 were carried out",
            "kill: 9 of 10 were followed by an acknowledged write",
            "kill: 9 of 10 were followed by a new bind",
        ];
        assert_eq!(wrong("kill", 10, &report(9, 340.0, 400.0)), expected);
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let mut report = report(1, 340.0, 400.0);
        report["binds"] = json!({});
        let expected = ["kill: p99 until a bind: - ms, at most 1000", "kill: 0 of 1 were followed by a new bind"];
        assert_eq!(wrong("kill", 1, &report), expected);
    }
}
