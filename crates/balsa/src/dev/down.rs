//! `balsa dev down`: ends a cluster and everything it left on this machine.

use super::cluster::{Cluster, wait_for};
use super::disk;
use super::leftovers;
use super::lock::Lock;
use super::network;
use super::topology::Mode;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::containerd::{clean_up, unmount_below};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) fn down(dir: &Path) -> Result<()> {
    let cluster = match Cluster::open(dir) {
        Ok(cluster) => cluster,
        Err(error) if dir.join("topology.json").exists() => return Err(error),
        Err(error) => return without_a_plan(dir, &error),
    };
    let _lock = Lock::take(&cluster.dir, Duration::ZERO)?;
    for name in cluster.names() {
        if let Some(process) = cluster.process(&name) {
            kill(Pid::from_raw(process.pid), Signal::SIGKILL)?;
            wait_for(&format!("{name} to end"), Duration::from_secs(15), || Ok(!process.is_alive()))?;
        }
    }
    // Workers' containers outlive them on purpose; here they go too.
    for name in cluster.workers().iter().filter(|name| cluster.data(name).0.exists()) {
        let data = cluster.data(name);
        end_containers(&data.path("process/pods"))?;
        if cluster.topology.runtime == "containerd" {
            let state = data.run_dir()?;
            clean_up(&state, &data.cgroup()?);
            leftovers::remove_dir(&state)?;
        }
    }
    disk::release(&cluster);
    unmount_below(&cluster.dir);
    if cluster.topology.mode == Mode::Namespaces {
        network::remove(&cluster.topology)?;
    }
    runtime::cgroup::remove_if_empty("/balsa");
    // Other clusters may still have theirs in it.
    drop(std::fs::remove_dir("/run/balsa"));
    std::fs::remove_dir_all(&cluster.dir).with_context(|| format!("removing {}", cluster.dir.display()))?;
    println!("the cluster in {} is gone", cluster.dir.display());
    Ok(())
}

/// There is no plan in the folder: it was removed by hand, or there never was one. What runs under its name
/// goes; files that may be anybody's stay.
fn without_a_plan(dir: &Path, error: &anyhow::Error) -> Result<()> {
    let dir = leftovers::absolute(dir)?;
    let left = leftovers::remove(&dir)?;
    if left.is_empty() {
        println!("{error}");
        return Ok(());
    }
    println!("the plan of the cluster in {} was gone; removed what ran of it: {}", dir.display(), left.join(", "));
    if dir.exists() {
        println!("{} itself is still there; remove it if it holds nothing of yours", dir.display());
    }
    Ok(())
}

/// Ends the shims and containers recorded under a process runtime's folder.
fn end_containers(pods: &Path) -> Result<()> {
    let children = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|p| p.is_dir())
            .collect()
    };
    for container in children(pods).iter().flat_map(|pod| children(pod)) {
        if let Some(runtime::shim::ShimState::Running { shim, pid, .. }) = runtime::shim::read_state(&container) {
            if pid.is_alive()
                && let Err(error) = nix::sys::signal::killpg(Pid::from_raw(pid.pid), Signal::SIGKILL)
                && error != nix::errno::Errno::ESRCH
            {
                tracing::warn!(%error, pid = pid.pid, "a container could not be ended");
            }
            wait_for("a container to end", Duration::from_secs(10), || Ok(!pid.is_alive() && !shim.is_alive()))?;
        }
    }
    Ok(())
}
