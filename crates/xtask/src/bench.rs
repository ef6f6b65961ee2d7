//! `cargo xtask bench`: what an idle cluster costs, what the death of a leader does, and the consensus
//! core beside etcd.

use crate::setup::{self, Purpose};
use crate::{binary, build, cargo, root};
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The targets of the design: megabytes of an idle master and worker, seconds of `dev up`.
const TARGETS: [(&str, f64); 3] = [("master RSS, MB", 60.0), ("worker RSS, MB", 30.0), ("dev up, s", 5.0)];
/// How long the cluster is left alone before it is measured.
const SETTLE: Duration = Duration::from_secs(15);

pub(crate) fn idle() -> Result<()> {
    build(&setup::prepare(Purpose::Run)?)?;
    let dir = std::env::temp_dir().join(format!("balsa-idle-{}", std::process::id()));
    let result = measure(&dir);
    drop(Command::new(binary()).args(["dev", "down", "--dir"]).arg(&dir).output());
    let measured = result?;
    println!("3 masters and 3 workers, no pods, release build; containerd's own memory is not counted");
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

/// What design.md asks of half of the kills, in milliseconds without an acknowledged write.
const GAP_P50_MAX_MS: u64 = 500;

/// Runs the tests that kill leaders, `n` times each, and shows what they measured.
pub(crate) fn kills(n: &str) -> Result<()> {
    let n: usize = n.parse().with_context(|| format!("bench kills {n}: how many kills?"))?;
    let setup = setup::prepare(Purpose::Run)?;
    build(&setup)?;
    eprintln!("== {n} kills of each kind (about {} min)", 1 + n / 5);
    let mut command = cargo(&setup);
    command.args([
        "test",
        "--release",
        "--locked",
        "--package",
        "tests",
        "--",
        "kills::",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env("RUN_SLOW_TESTS", "1").env("BALSA_BINARY", binary()).env("BALSA_KILLS", n.to_string());
    let output = command.current_dir(root()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut late = Vec::new();
    println!(
        "{:<10} {:>5} {:>24} {:>20} {:>8}",
        "", "kills", "write gap p50/p90/max ms", "kubectl p50/max ms", "writes"
    );
    for line in text.lines().filter_map(|line| line.split_once("kills of ").map(|(_, told)| told)) {
        let (what, figures) = line.split_once(": ").context("a story names itself")?;
        let figure = |name: &str| -> Result<u64> {
            let value = figures.split(' ').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
            Ok(value.with_context(|| format!("{what} does not tell {name}"))?.parse()?)
        };
        let gap = format!("{} / {} / {}", figure("gap_p50_ms")?, figure("gap_p90_ms")?, figure("gap_max_ms")?);
        let kubectl = format!("{} / {}", figure("kubectl_p50_ms")?, figure("kubectl_max_ms")?);
        println!("{what:<10} {:>5} {gap:>24} {kubectl:>20} {:>8}", figure("n")?, figure("written")?);
        if figure("gap_p50_ms")? > GAP_P50_MAX_MS {
            late.push(what.to_string());
        }
    }
    if !output.status.success() {
        bail!("a story failed:\n{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    if !late.is_empty() {
        bail!("half of the write gaps are longer than {GAP_P50_MAX_MS} ms in: {}", late.join(", "));
    }
    Ok(())
}

fn bench(what: &str) -> Command {
    let mut command = Command::new(binary().with_file_name("balsa-bench"));
    command.arg(what);
    command
}

/// What measures Balsa alone: `scale`, `churn` and `steady`.
pub(crate) fn alone(what: &str, flags: &[&str]) -> Result<()> {
    if !flags.iter().any(|flag| ["-h", "--help"].contains(flag)) {
        build(&setup::prepare(Purpose::Build)?)?;
    }
    let mut command = bench(what);
    command.arg("--balsa").arg(binary()).arg("--dir").arg(root().join("target")).args(flags);
    Err(command.exec()).context("running balsa-bench; `cargo xtask build` makes it")
}

/// Hands over to `balsa-bench`, with the distribution's etcd beside Balsa when it can be had.
pub(crate) fn store(flags: &[&str]) -> Result<()> {
    let asks = flags.iter().any(|flag| ["-h", "--help"].contains(flag));
    if !asks {
        build(&setup::prepare(Purpose::Build)?)?;
    }
    let mut command = bench("store");
    command.arg("--balsa").arg(binary()).arg("--dir").arg(root().join("target"));
    let alone = flags.contains(&"--no-etcd");
    if !asks && !alone {
        match setup::etcd()? {
            Some(etcd) => drop(command.arg("--etcd").arg(etcd)),
            None => eprintln!(
                "no etcd server is installed and none could be: only Balsa is measured. Install etcd-server, as root: \
                 apt-get install etcd-server; or name a server with --etcd PATH"
            ),
        }
    }
    command.args(flags.iter().filter(|flag| **flag != "--no-etcd"));
    // In this process's place, so that Ctrl-C and the exit code are the bench's.
    Err(command.exec()).context("running balsa-bench; `cargo xtask build` makes it")
}
