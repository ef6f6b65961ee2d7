//! `cargo xtask demo`: from a clone to a highly available cluster that loses its leader and goes on.

use crate::setup::{self, Purpose};
use crate::{binary, build, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;
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

/// What a verb answers with `-o json`.
fn asked(arguments: &[&str]) -> Result<Value> {
    let arguments = [arguments, &["--dir", DIR, "-o", "json"]].concat();
    serde_json::from_str(&balsa(&arguments)?)
        .with_context(|| format!("reading what balsa {} says", arguments.join(" ")))
}

/// How the cluster runs containers.
fn runtime() -> Result<String> {
    let plan = std::fs::read_to_string(root().join(DIR).join("topology.json")).context("dev up left no plan")?;
    let plan: Value = serde_json::from_str(&plan).context("reading topology.json")?;
    Ok(plan["runtime"].as_str().context("topology.json does not tell the runtime")?.into())
}

fn say(text: &str) {
    println!("\n== {text}");
}

/// Waits until `done` says so; tells the last failure when it never does.
fn wait(what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    loop {
        let told = match done() {
            Ok(true) => return Ok(()),
            Ok(false) => String::new(),
            Err(error) => format!(" ({error:#})"),
        };
        if started.elapsed() > Duration::from_secs(60) {
            bail!("waited 60 s in vain for {what}{told}; look at {DIR}/nodes/*/log");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn leader() -> Result<String> {
    let status = asked(&["status"])?;
    let name = status["leader"].as_str().filter(|name| !name.is_empty());
    Ok(name.context("there is no leader")?.into())
}

/// How many of the example's pods run.
fn running() -> Result<usize> {
    let pods = asked(&["get", "pods", "-l", "app=web"])?;
    let pods = pods["items"].as_array().context("no list of pods")?;
    Ok(pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count())
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
    wait("three pods to run", || Ok(running()? >= 3))?;
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
    println!("  kubectl get pods                 (1.30 or newer)");
    println!("  {} get pods", binary().display());
    println!("  {} dev status", binary().display());
    println!("  {} dev down                 (removes it all)", binary().display());
    Ok(())
}
