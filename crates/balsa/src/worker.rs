//! `balsa worker`: wires a worker together.

use crate::config::{Join, WorkerConfig};
use crate::files::{DataDir, Identity};
use crate::join;
use agent::NodeOptions;
use anyhow::{Context, Result};
use authz::Role;
use objects::Quantity;
use runtime::{ProcessRuntime, Runtime};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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
    loop {
        for server in &config.masters {
            let via = Join { server: server.clone(), token: token.clone() };
            match join::join(dir, &via, Role::Worker, &config.name, &[]).await {
                Ok(issued) => {
                    let (cluster_id, name) = (issued.cluster_id, config.name.clone());
                    return dir.save_identity(&Identity { cluster_id, node_id: 0, name });
                }
                Err(error) if error.is::<join::Refused>() => return Err(error),
                Err(error) => tracing::info!(%server, "cannot join yet: {error:#}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn serve(config: WorkerConfig, dir: DataDir) -> Result<()> {
    if dir.identity().is_none() {
        enroll(&config, &dir).await?;
    }
    let ca = dir.ca()?;
    let binary = std::env::current_exe().context("finding this binary")?;
    let runtime: Arc<dyn Runtime> = Arc::new(ProcessRuntime::new(dir.path("process"), binary, config.address.clone()));
    tracing::warn!("the process runtime isolates nothing: containers are plain processes of this machine");
    runtime.healthy().await?;
    let quantity = |text: &str| Quantity::parse(text).unwrap_or_default();
    let node = NodeOptions {
        name: config.name.clone(),
        address: config.address.clone(),
        labels: config.labels.clone(),
        taints: config.taints.iter().map(|t| (t.key.clone(), t.value.clone(), t.effect.clone())).collect(),
        reserved_cpu_milli: quantity(&config.reserved.cpu).milli(),
        reserved_memory: quantity(&config.reserved.memory).value(),
        pods_max: config.max_pods,
        pod_cidrs: Vec::new(),
    };
    let (stop_sender, stop) = tokio::sync::watch::channel(false);
    let tls_dir = dir.clone();
    let tls = move || {
        let credential = tls_dir.credential("worker").ok();
        pki::tls::tonic_client(credential.as_ref(), &ca, "localhost")
    };
    let options = agent::Options {
        node,
        masters: config.masters,
        tls: Arc::new(tls),
        dir: dir.0,
        runtime,
        can_mount: false,
        clock: Arc::new(crate::now),
        boot_id: stdx::Rng::new(crate::seed()).uuid(),
    };
    let agent = tokio::spawn(agent::run(options, stop));
    crate::master::stop_signal().await?;
    stop_sender.send_replace(true);
    agent.await?;
    Ok(())
}
