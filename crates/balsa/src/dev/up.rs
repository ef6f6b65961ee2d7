//! `balsa dev up`: makes a cluster, or starts what is down of one, and waits until all of it is ready.

use super::cluster::{BALANCER, Cluster, Started};
use super::lock::Lock;
use super::topology::{MASTERS_MAX, Mode, WORKERS_MAX};
use super::{disk, network, readiness, shell_word};
use crate::config::{Join, MasterConfig, Vip, WorkerConfig};
use crate::files::{BOOT_ID, DataDir};
use crate::{kubeconfig, verbs};
use anyhow::{Context, Result, bail};
use client::Access;
use pki::Credential;
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
    let vip = || Vip { address: topology.vip().into(), prefix: 24, interface: "eth0".into() };
    MasterConfig {
        name: name.into(),
        data_dir: cluster.data(name).0,
        address: topology.address(name),
        api_port,
        peer_port,
        profile: topology.profile.clone(),
        vip: (topology.mode == Mode::Namespaces).then(vip),
        join,
        alt_names: Vec::new(),
        pod_network: topology.pod_network(),
        backup: None,
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
        images: Default::default(),
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

/// Whether a cluster can be made of so many; else of which there are too many or few, and why.
pub(crate) fn check_new(masters: usize, workers: usize) -> Result<(), (&'static str, String)> {
    if ![1, 3, 5].contains(&masters) {
        let why = format!("{masters}: a group has 1, 3 or 5 masters (at most {MASTERS_MAX} while they are replaced)");
        return Err(("masters", why));
    }
    if workers > WORKERS_MAX {
        return Err(("workers", format!("{workers}: a development cluster has at most {WORKERS_MAX}")));
    }
    Ok(())
}

/// What `up` was asked to make.
pub(super) struct Asked {
    pub(super) masters: Option<usize>,
    pub(super) workers: Option<usize>,
    /// MiB.
    pub(super) master_disk: Option<u64>,
    /// The masters' timing profile; `lan` for a new cluster.
    pub(super) profile: Option<String>,
}

pub(super) fn up(asked: &Asked, runtime: &str, dir: &Path) -> Result<()> {
    let &Asked { masters: asked_masters, workers: asked_workers, master_disk, ref profile } = asked;
    let (masters, workers) = (asked_masters.unwrap_or(3), asked_workers.unwrap_or(3));
    check_new(masters, workers).map_err(|(role, why)| anyhow::anyhow!("--{role} {why}"))?;
    let started = Instant::now();
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let _lock = Lock::take(dir, Duration::ZERO)?;
    let cluster = Cluster::plan(dir, runtime, profile.as_deref())?;
    // A cluster that was complete once is never initialized again, even if a master lost its disk.
    if cluster.dir.join("complete").exists() {
        check_size(&cluster, "master", asked_masters)?;
        check_size(&cluster, "worker", asked_workers)?;
        if let (Some(_), false) = (master_disk, disk::has(&cluster, "master-1")) {
            bail!(
                "--master-disk: the cluster in {} was made without; `balsa dev down` it first",
                cluster.dir.display()
            );
        }
        return up_again(&cluster, dir, started);
    }
    let named = |role: &str, n: usize| (1..=n).map(|i| format!("{role}-{i}")).collect::<Vec<_>>();
    let (masters, workers) = (named("master", masters), named("worker", workers));
    if cluster.topology.mode == Mode::Namespaces {
        network::ensure(&cluster.topology, &[masters.clone(), workers.clone()].concat())?;
    }
    if let Some(mib) = master_disk {
        masters.iter().try_for_each(|name| disk::make(&cluster, name, mib))?;
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
    let own = admin.identity.clone().context("a kubeconfig names its user")?;
    let credential = Credential { certificate: own.certificate, key: own.key };
    let text = kubeconfig::document(&servers, "balsa", &admin.ca, &credential);
    DataDir(cluster.dir.clone()).write("kubeconfig", &text)?;
    // Before there is a common address, the first master answers at its own.
    let at_first = admin.at(&cluster.topology.api("master-1"));
    let tokens = wait_value("the first master", &cluster, "master-1", || verbs::tokens(&at_first))?;
    for name in &masters {
        std::fs::create_dir_all(cluster.node_dir(name))?;
        // Through the common address: any master lets a new one in. The first needs it if it ever
        // loses its disk.
        let join = Join::new(servers[0].1.clone(), tokens.master.clone());
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
        if cluster.start(name)? == Started::Resumed {
            println!("{name} was paused: resumed");
        }
    }
    wait_until_ready(cluster, &names, &access)?;
    let n_masters = names.iter().filter(|name| name.starts_with("master-")).count();
    let n_workers = cluster.workers().len();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    println!(
        "{} and {} are ready after {:.1} s.",
        count(n_masters, "master"),
        count(n_workers, "worker"),
        started.elapsed().as_secs_f64()
    );
    println!("  export KUBECONFIG={}", shell_word(&cluster.dir.join("kubeconfig").to_string_lossy()));
    println!("  balsa dev status --dir {}", shell_word(&dir.to_string_lossy()));
    Ok(())
}

/// A member that is not ready, and why.
struct Unready {
    name: String,
    why: String,
    /// It will not become ready by itself.
    for_good: bool,
}

/// What is not ready of the cluster right now; all that was true before is looked at again.
fn first_unready(cluster: &Cluster, names: &[String], access: &Access) -> Result<(), Unready> {
    let cuts = cluster.cuts().unwrap_or_default();
    for name in names {
        if let Some(why) = readiness::hindrance(cluster.activity(name), cuts.iter().flatten().any(|cut| cut == name)) {
            return Err(Unready { name: name.clone(), why: why.into(), for_good: true });
        }
    }
    let not_yet = |name: &str, why: String| Unready { name: name.into(), why, for_good: false };
    let told = |name: &str| {
        let name = name.to_string();
        move |error: anyhow::Error| not_yet(&name, format!("{error:#}"))
    };
    let status = verbs::cluster_status(access).map_err(told("master-1"))?;
    let voters: Vec<String> =
        status.members.into_iter().filter(|member| member.voter).map(|member| member.name).collect();
    for name in names.iter().filter(|name| name.starts_with("master-")) {
        let own = access.at(&cluster.topology.api(name));
        let health = verbs::health(&own).map_err(|error| format!("{error:#}"));
        readiness::master(name, &voters, health.as_ref().map_err(Clone::clone)).map_err(|why| not_yet(name, why))?;
    }
    let nodes = verbs::nodes(access).map_err(told("master-1"))?;
    for name in cluster.workers() {
        let boot_id = cluster.data(&name).read(BOOT_ID).map_err(|error| not_yet(&name, format!("{error:#}")))?;
        readiness::worker(nodes.get(&name), boot_id.as_deref()).map_err(|why| not_yet(&name, why))?;
    }
    Ok(())
}

/// Waits until every member is ready at once; fails with the words of one that is not.
fn wait_until_ready(cluster: &Cluster, names: &[String], access: &Access) -> Result<()> {
    let started = Instant::now();
    loop {
        let Err(Unready { name, why, for_good }) = first_unready(cluster, names, access) else { return Ok(()) };
        if for_good && cluster.process(&name).is_some() {
            bail!("{name} is not ready: {why}");
        }
        if for_good || started.elapsed() > PATIENCE {
            bail!("{name} is not ready: {why}\nthe last lines of its log:\n{}", cluster.log_tail(&name));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
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
