//! `cargo xtask bench idle`: what an idle cluster costs.

use crate::{binary, build, setup};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The targets of the design: megabytes of an idle master and worker, seconds of `dev up`.
const TARGETS: [(&str, f64); 3] = [("master RSS, MB", 60.0), ("worker RSS, MB", 30.0), ("dev up, s", 5.0)];
/// How long the cluster is left alone before it is measured.
const SETTLE: Duration = Duration::from_secs(15);

pub(crate) fn idle() -> Result<()> {
    build(&setup::prepare()?)?;
    let dir = std::env::temp_dir().join(format!("balsa-idle-{}", std::process::id()));
    let result = measure(&dir);
    drop(Command::new(binary()).args(["dev", "down", "--dir"]).arg(&dir).output());
    let measured = result?;
    println!("3 masters and 3 workers, no pods, process runtime, release build");
    println!("{:<16} {:>9} {:>8}", "", "measured", "target");
    for ((what, target), value) in TARGETS.iter().zip(measured) {
        println!("{what:<16} {value:>9.1} {target:>8.0}");
    }
    Ok(())
}

fn measure(dir: &Path) -> Result<[f64; 3]> {
    let started = Instant::now();
    let up = Command::new(binary()).args(["dev", "up", "--dir"]).arg(dir).output()?;
    if !up.status.success() {
        bail!("dev up failed: {}", String::from_utf8_lossy(&up.stderr));
    }
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
