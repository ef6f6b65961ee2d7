//! `balsa worker`: wires a worker together.

use crate::config::{Join, WorkerConfig};
use crate::files::{BOOT_ID, DataDir, Identity};
use crate::{join, renewal};
use agent::{Machine, NetworkOptions, NodeOptions, TonicMasters};
use anyhow::{Context, Result, bail};
use authz::Role;
use objects::Quantity;
use runtime::containerd::{ContainerdOptions, ContainerdRuntime, Daemon, DaemonOptions, missing_programs};
use runtime::{ProcessRuntime, Runtime};
use std::path::Path;
use std::sync::Arc;

pub(crate) fn run(path: &Path) -> Result<()> {
    let config = WorkerConfig::load(path)?;
    let dir = DataDir::create(&config.data_dir)?;
    crate::multi_thread("worker", 2)?.block_on(serve(config, dir))
}

/// Gets a certificate from the first master that gives one; tries until one does.
async fn enroll(config: &WorkerConfig, dir: &DataDir) -> Result<()> {
    let token = config.token.clone().context(
        "this worker has no certificate yet: set token in its configuration (`balsa token` on a running cluster prints it)",
    )?;
    let mut retries = join::Retries::default();
    loop {
        let mut refusals = Vec::new();
        for server in &config.masters {
            let via = Join::new(server.clone(), token.clone());
            match join::join(dir, &via, Role::Worker, &config.name, &[]).await {
                Ok(issued) => {
                    let (cluster_id, name, epoch) = (issued.cluster_id, config.name.clone(), issued.epoch);
                    return dir.save_identity(&Identity { cluster_id, node_id: 0, name, epoch });
                }
                Err(error) => {
                    retries.tell(server, &error);
                    refusals.extend(error.is::<join::Refused>().then_some(error));
                }
            }
        }
        // One address may be another's by now.
        if refusals.len() == config.masters.len()
            && let Some(refusal) = refusals.pop()
        {
            return Err(refusal);
        }
        retries.wait().await;
    }
}

/// How this worker runs containers.
struct Containers {
    runtime: Arc<dyn Runtime>,
    network: Option<NetworkOptions>,
    /// The containerd of our own, to be kept alive.
    daemon: Option<Daemon>,
}

async fn supervise(daemon: Option<Daemon>) {
    match daemon {
        Some(daemon) => daemon.supervise().await,
        None => std::future::pending().await,
    }
}

/// The runtime that `auto` stands for, with the reason when it is not containerd.
pub(crate) fn auto_runtime() -> (&'static str, String) {
    if !nix::unistd::geteuid().is_root() {
        return ("process", "containerd needs root".into());
    }
    match missing_programs() {
        missing if missing.is_empty() => ("containerd", String::new()),
        missing => ("process", format!("containerd needs {}", missing.join(", "))),
    }
}

async fn containers(config: &WorkerConfig, dir: &DataDir) -> Result<Containers> {
    let program = std::env::current_exe().context("finding this binary")?;
    let wanted = match config.runtime.as_str() {
        "auto" => {
            let (runtime, why) = auto_runtime();
            if !why.is_empty() {
                tracing::warn!(%why, "runtime auto: using the process runtime");
            }
            runtime
        }
        other => other,
    };
    if wanted == "process" {
        let runtime = ProcessRuntime::new(dir.path("process"), program, config.address.clone());
        tracing::warn!("the process runtime isolates nothing: containers are plain processes of this machine");
        runtime.healthy().await?;
        return Ok(Containers { runtime: Arc::new(runtime), network: None, daemon: None });
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("runtime: containerd needs root; run the worker as root or set runtime: process");
    }
    let state = dir.run_dir()?;
    let network = NetworkOptions { cni_conf: state.join("cni"), ipam: dir.path("ipam") };
    let daemon = match &config.runtime_socket {
        Some(_) => None,
        None => {
            let options = DaemonOptions {
                root: dir.path("containerd"),
                state: state.clone(),
                cni_conf: network.cni_conf.clone(),
                registries: config.registries.clone(),
                stream_address: "127.0.0.1".into(),
                pause: program,
            };
            Some(Daemon::start(options).await?)
        }
    };
    let runtime = ContainerdRuntime::new(ContainerdOptions {
        socket: config.runtime_socket.clone().unwrap_or_else(|| Daemon::socket(&state)),
        worker: config.name.clone(),
        cgroup_parent: dir.cgroup()?,
        pipes: state.join("exec"),
        host_ip: config.address.clone(),
        is_private: config.runtime_socket.is_none(),
    });
    Ok(Containers { runtime: Arc::new(runtime), network: Some(network), daemon })
}

async fn serve(config: WorkerConfig, dir: DataDir) -> Result<()> {
    if dir.identity_of(&config.name)?.is_none() {
        enroll(&config, &dir).await?;
    }
    tokio::spawn(renewal::keep_worker(dir.clone(), config.clone()));
    let ca = dir.ca()?;
    let containers = containers(&config, &dir).await?;
    let quantity = |text: &str| Quantity::parse(text).unwrap_or_default();
    let node = NodeOptions {
        name: config.name.clone(),
        address: config.address.clone(),
        labels: config.labels.clone(),
        taints: config.taints.iter().map(|t| (t.key.clone(), t.value.clone(), t.effect.clone())).collect(),
        reserved_cpu_milli: quantity(&config.reserved.cpu).milli(),
        reserved_memory: quantity(&config.reserved.memory).value(),
        pods_max: config.max_pods,
        machine: Machine::here(&dir.0),
    };
    let boot_id = stdx::Rng::new(crate::seed()).uuid();
    // Whoever started this worker can tell its reports from those of an earlier start.
    dir.write(BOOT_ID, &boot_id)?;
    let (stop_sender, stop) = tokio::sync::watch::channel(false);
    let tls_dir = dir.clone();
    let tls = move || {
        let credential = tls_dir.credential("worker").ok();
        pki::tls::tonic_client(credential.as_ref(), &ca, "localhost")
    };
    let options = agent::Options {
        node,
        addresses: config.masters,
        masters: Arc::new(TonicMasters::new(tls)),
        dir: dir.0,
        runtime: containers.runtime,
        images: agent::ImageThresholds {
            high_percent: config.images.high_percent,
            low_percent: config.images.low_percent,
            min_age_ms: i64::from(config.images.min_age_seconds) * 1000,
        },
        can_mount: containers.network.is_some(),
        network: containers.network,
        clock: Arc::new(crate::now),
        boot_id,
    };
    let agent = tokio::spawn(agent::run(options, stop));
    tokio::select! {
        signal = crate::master::stop_signal() => signal?,
        () = supervise(containers.daemon) => {}
    }
    stop_sender.send_replace(true);
    agent.await?;
    Ok(())
}
