//! `balsa dev up`: makes a cluster, or starts what is down of one, and waits until all of it is ready.

use super::cluster::{BALANCER, Cluster};
use super::network;
use super::topology::{MASTERS_MAX, Mode, WORKERS_MAX};
use crate::config::{Join, MasterConfig, Vip, WorkerConfig};
use crate::files::DataDir;
use crate::{kubeconfig, verbs};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long `up` waits for any one thing before it says what is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

fn write_yaml<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    Ok(std::fs::write(path, serde_json::to_string_pretty(value)?)?)
}

/// A member's configuration, as written for it.
fn master_config(cluster: &Cluster, name: &str, join: Option<Join>) -> MasterConfig {
    let topology = &cluster.topology;
    let (api_port, peer_port) = topology.ports(name);
    let vip = || Vip { address: topology.vip(), prefix: 24, interface: "eth0".into() };
    MasterConfig {
        name: name.into(),
        data_dir: cluster.data(name).0,
        address: topology.address(name),
        api_port,
        peer_port,
        profile: String::new(),
        vip: (topology.mode == Mode::Namespaces).then(vip),
        join,
        alt_names: Vec::new(),
        pod_network: topology.pod_network(),
    }
}

fn worker_config(cluster: &Cluster, name: &str, masters: Vec<String>, token: &str) -> WorkerConfig {
    WorkerConfig {
        name: name.into(),
        data_dir: cluster.data(name).0,
        address: cluster.topology.address(name),
        masters,
        token: Some(token.into()),
        runtime: cluster.topology.runtime.clone(),
        runtime_socket: None,
        registries: None,
        labels: Default::default(),
        taints: Vec::new(),
        reserved: Default::default(),
        max_pods: 110,
    }
}

/// A cluster that is there stays as large as it was made.
fn check_size(cluster: &Cluster, role: &str, wanted: Option<usize>) -> Result<()> {
    let present = cluster.names().iter().filter(|name| name.starts_with(&format!("{role}-"))).count();
    match wanted {
        Some(wanted) if wanted != present => bail!(
            "--{role}s {wanted}: the cluster in {} was made with {present}; `balsa dev down` it first",
            cluster.dir.display()
        ),
        _ => Ok(()),
    }
}

pub(super) fn up(masters: Option<usize>, workers: Option<usize>, runtime: &str, dir: &Path) -> Result<()> {
    let asked = (masters, workers);
    let (masters, workers) = (masters.unwrap_or(3), workers.unwrap_or(3));
    if ![1, 3, 5].contains(&masters) {
        bail!("--masters {masters}: a group has 1, 3 or 5 masters (at most {MASTERS_MAX} while they are replaced)");
    }
    if workers > WORKERS_MAX {
        bail!("--workers {workers}: a development cluster has at most {WORKERS_MAX}");
    }
    let started = Instant::now();
    let cluster = Cluster::plan(dir, runtime)?;
    // A cluster that was complete once is never initialized again, even if a master lost its disk.
    if cluster.dir.join("complete").exists() {
        check_size(&cluster, "master", asked.0)?;
        check_size(&cluster, "worker", asked.1)?;
        return up_again(&cluster, dir, started);
    }
    let named = |role: &str, n: usize| (1..=n).map(|i| format!("{role}-{i}")).collect::<Vec<_>>();
    let (masters, workers) = (named("master", masters), named("worker", workers));
    if cluster.topology.mode == Mode::Namespaces {
        network::ensure(&cluster.topology, &[masters.clone(), workers.clone()].concat())?;
    }
    let first = cluster.node_dir("master-1");
    if !first.join("data/identity.json").exists() {
        std::fs::create_dir_all(&first)?;
        write_yaml(&first.join("config.yaml"), &master_config(&cluster, "master-1", None))?;
        let output = Command::new(std::env::current_exe()?)
            .arg("init")
            .arg("--config")
            .arg(first.join("config.yaml"))
            .output()?;
        // An `init` that outlived an interrupted `up` may have been first.
        if !output.status.success() && !first.join("data/identity.json").exists() {
            bail!(
                "making the cluster failed: {}; `balsa dev down` clears what is there",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    cluster.start("master-1")?;
    let admin = kubeconfig::read(&first.join("data/admin.kubeconfig"))?;
    let common = std::iter::once(("balsa".to_string(), cluster.topology.common()));
    let servers: Vec<(String, String)> =
        common.chain(masters.iter().map(|name| (name.clone(), cluster.topology.api(name)))).collect();
    let text = kubeconfig::document(&servers, "balsa", &cluster.data("master-1").ca()?, &admin.credential);
    DataDir(cluster.dir.clone()).write("kubeconfig", &text)?;
    // Before there is a common address, the first master answers at its own.
    let own = kubeconfig::Access { servers: vec![cluster.topology.api("master-1")], ..admin };
    let tokens = wait_value("the first master", &cluster, "master-1", || verbs::tokens(&own))?;
    for name in &masters {
        std::fs::create_dir_all(cluster.node_dir(name))?;
        // Through the common address: any master lets a new one in. The first needs it if it ever
        // loses its disk.
        let join = Join { server: servers[0].1.clone(), token: tokens.master.clone() };
        write_yaml(&cluster.node_dir(name).join("config.yaml"), &master_config(&cluster, name, Some(join)))?;
    }
    for name in &workers {
        std::fs::create_dir_all(cluster.node_dir(name))?;
        let masters = servers[1..].iter().map(|(_, server)| server.clone()).collect();
        write_yaml(
            &cluster.node_dir(name).join("config.yaml"),
            &worker_config(&cluster, name, masters, &tokens.worker),
        )?;
    }
    if cluster.topology.mode == Mode::Loopback {
        std::fs::create_dir_all(cluster.node_dir(BALANCER))?;
    }
    std::fs::write(cluster.dir.join("complete"), "")?;
    up_again(&cluster, dir, started)
}

/// Starts what is down and waits until all of it is ready.
fn up_again(cluster: &Cluster, dir: &Path, started: Instant) -> Result<()> {
    let access = kubeconfig::read(&cluster.dir.join("kubeconfig"))?;
    let names = cluster.names();
    if cluster.topology.mode == Mode::Namespaces {
        // After a reboot the links are gone, and the cuts with them.
        network::ensure(&cluster.topology, &names)?;
        network::apply_cuts(&cluster.topology, &cluster.cuts()?)?;
    }
    for name in &names {
        cluster.start(name)?;
    }
    let n_masters = names.iter().filter(|name| name.starts_with("master-")).count();
    wait_value("all masters to be voters", cluster, "master-1", || {
        let status = verbs::cluster_status(&access)?;
        let voters = status.members.iter().filter(|member| member.voter).count();
        if voters < n_masters || status.leader.is_empty() {
            bail!("{voters} of {n_masters} masters vote");
        }
        Ok(())
    })?;
    let workers: Vec<&String> = names.iter().filter(|name| name.starts_with("worker-")).collect();
    wait_value("all workers to be ready", cluster, "worker-1", || {
        let ready = verbs::ready_nodes(&access)?;
        match workers.iter().find(|name| !ready.contains(name)) {
            Some(name) => bail!("{name} is not ready"),
            None => Ok(()),
        }
    })?;
    println!(
        "{n_masters} masters and {} workers are ready after {:.1} s.",
        workers.len(),
        started.elapsed().as_secs_f64()
    );
    println!("  export KUBECONFIG={}", cluster.dir.join("kubeconfig").display());
    println!("  balsa dev status --dir {}", dir.display());
    Ok(())
}

/// Tries until it works; fails with the member's own words.
fn wait_value<T>(what: &str, cluster: &Cluster, name: &str, attempt: impl Fn() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        let error = match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let died = cluster.node_dir(name).exists() && cluster.process(name).is_none();
        if started.elapsed() > PATIENCE || died {
            bail!("waiting for {what}: {error:#}\nthe last lines of {name}'s log:\n{}", cluster.log_tail(name));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
