//! `cargo xtask bench idle`: what a cluster without pods takes, and how long it is until it stands.

use crate::setup::{self, Purpose};
use crate::{binary, build};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The targets of the design: megabytes of an idle master and worker, seconds of `dev up`.
const TARGETS: [(&str, f64); 3] = [("master RSS, MB", 60.0), ("worker RSS, MB", 30.0), ("dev up, s", 5.0)];
/// How long the cluster is left alone before it is measured.
const SETTLE: Duration = Duration::from_secs(15);

pub(crate) fn bench() -> Result<()> {
    build(&setup::prepare(Purpose::Run)?)?;
    let measured = measure()?;
    println!("3 masters and 3 workers, no pods, release build; containerd's own memory is not counted");
    println!("{:<16} {:>9} {:>8}", "", "measured", "target");
    for ((what, target), value) in TARGETS.iter().zip(measured) {
        println!("{what:<16} {value:>9.1} {target:>8.0}");
    }
    match missed(measured).as_slice() {
        [] => Ok(()),
        missed => bail!("targets missed: {}", missed.join("; ")),
    }
}

fn missed(measured: [f64; 3]) -> Vec<String> {
    let over = TARGETS.iter().zip(measured).filter(|((_, target), value)| value > target);
    over.map(|((what, target), value)| format!("{what}: {value:.1}, at most {target:.0}")).collect()
}

/// Memory of the largest master and of the largest worker, in MiB, and the seconds of `dev up`, of the release
/// binary that was built last.
pub(crate) fn measure() -> Result<[f64; 3]> {
    let dir = setup::new_temp_dir("idle")?;
    let measured = measure_in(&dir);
    let down = dev("down", &dir).with_context(|| format!("remove {} by hand", dir.display()));
    match (measured, down) {
        (Ok(measured), Ok(())) => Ok(measured),
        (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
        (Err(error), Err(after)) => bail!("{error:#}; and then: {after:#}"),
    }
}

fn dev(verb: &str, dir: &Path) -> Result<()> {
    let output = Command::new(binary()).args(["dev", verb, "--dir"]).arg(dir).output()?;
    if !output.status.success() {
        bail!("dev {verb} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn measure_in(dir: &Path) -> Result<[f64; 3]> {
    let started = Instant::now();
    dev("up", dir)?;
    let seconds = started.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let largest = |role: &str| -> Result<f64> {
        let mut most: f64 = 0.0;
        for i in 1..=3 {
            let pid = std::fs::read_to_string(dir.join(format!("nodes/{role}-{i}/pid")))?;
            let pid = pid.split_whitespace().next().context("an empty pid file")?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
            let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
            most = most.max(kib / 1024.0);
        }
        Ok(most)
    };
    Ok([largest("master")?, largest("worker")?, seconds])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missed_is_named() {
        assert!(missed([60.0, 30.0, 5.0]).is_empty());
        assert_eq!(missed([43.0, 30.1, 5.4]), ["worker RSS, MB: 30.1, at most 30", "dev up, s: 5.4, at most 5"]);
    }
}
