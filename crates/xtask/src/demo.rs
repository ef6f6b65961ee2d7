//! `cargo xtask demo`: from a clone to a highly available cluster that loses its leader and goes on.

use crate::setup::{self, Purpose};
use crate::{binary, build, root};
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::{Duration, Instant};

const DIR: &str = ".balsa";
/// As `cluster-configs/examples/web.yaml` asks for.
const IMAGE: &str = "registry.local/busybox:1";

fn balsa(arguments: &[&str]) -> Result<String> {
    let output = Command::new(binary()).args(arguments).current_dir(root()).output()?;
    if !output.status.success() {
        bail!("balsa {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a verb whose words are for the person who watches.
fn show(arguments: &[&str]) -> Result<()> {
    let status = Command::new(binary()).args(arguments).current_dir(root()).status()?;
    if !status.success() {
        bail!("balsa {} failed ({status}); `balsa dev down` clears what is there", arguments.join(" "));
    }
    Ok(())
}

/// How the cluster runs containers.
fn runtime() -> Result<&'static str> {
    let plan = std::fs::read_to_string(root().join(DIR).join("topology.json")).context("dev up left no plan")?;
    Ok(if plan.contains("\"runtime\": \"containerd\"") { "containerd" } else { "process" })
}

fn say(text: &str) {
    println!("\n== {text}");
}

/// Waits until `done` says so.
fn wait(what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !done().unwrap_or(false) {
        if started.elapsed() > Duration::from_secs(60) {
            bail!("waited 60 s in vain for {what}; look at {DIR}/nodes/*/log");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn leader() -> Result<String> {
    let text = balsa(&["status", "--dir", DIR, "-o", "json"])?;
    let line =
        text.lines().find_map(|line| line.trim().strip_prefix("\"leader\": \"")).context("no leader in the status")?;
    let name = line.trim_end_matches(['"', ',']).to_string();
    if name.is_empty() { bail!("there is no leader") } else { Ok(name) }
}

pub(crate) fn run() -> Result<()> {
    build(&setup::prepare(Purpose::Run)?)?;
    say("three masters, three workers");
    show(&["dev", "up", "--dir", DIR])?;
    if runtime()? == "containerd" {
        say("an image, made of this machine's busybox: there may be no registry");
        print!("{}", balsa(&["dev", "image", IMAGE, "/bin/busybox", "--dir", DIR])?);
    } else {
        println!("containers are plain processes here: real ones need root and containerd");
    }
    say("an example: one pod a worker, by required anti-affinity");
    print!("{}", balsa(&["apply", "--dir", DIR, "-f", "cluster-configs/examples/web.yaml"])?);
    wait("three pods to run", || Ok(balsa(&["get", "pods", "--dir", DIR])?.matches("Running").count() >= 3))?;
    print!("{}", balsa(&["get", "pods", "-o", "wide", "--dir", DIR])?);
    let leader_was = leader()?;
    say(&format!("killing the leader, {leader_was}"));
    let killed = Instant::now();
    balsa(&["dev", "kill", &leader_was, "--dir", DIR])?;
    wait("a write to be taken again", || {
        balsa(&["apply", "--dir", DIR, "-f", "cluster-configs/examples/after-failover.yaml"]).map(|_| true)
    })?;
    println!(
        "a write was acknowledged {} ms after the kill; the leader is {}",
        killed.elapsed().as_millis(),
        leader()?
    );
    print!("{}", balsa(&["get", "pods", "--dir", DIR])?);
    balsa(&["dev", "start", &leader_was, "--dir", DIR])?;
    say("the cluster is left running");
    println!("  export KUBECONFIG={}", root().join(DIR).join("kubeconfig").display());
    println!("  kubectl get pods                 (tested with 1.32)");
    println!("  {} get pods", binary().display());
    println!("  {} dev status", binary().display());
    println!("  {} dev down                 (removes it all)", binary().display());
    Ok(())
}
