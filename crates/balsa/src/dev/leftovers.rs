//! What a cluster leaves on this machine when its folder is removed by hand: found again by the names that
//! are made from the folder.

use super::cluster::wait_for;
use super::network;
use super::topology::{Mode, Topology, WORKERS_MAX};
use crate::files::DataDir;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use runtime::cgroup;
use runtime::containerd::{clean_up, unmount_below};
use runtime::process_id::ProcessId;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The verbs of our own processes; the others that name a cluster's folder are somebody's.
const OURS: [&str; 4] = ["master", "worker", "process-shim", "balancer"];

/// `dir` as it was named while it was there: links resolved as far as it exists.
pub(super) fn absolute(dir: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(dir).with_context(|| format!("finding {}", dir.display()))?;
    for there in whole.ancestors() {
        if let Ok(resolved) = there.canonicalize() {
            let rest = whole.strip_prefix(there).unwrap_or(Path::new(""));
            return Ok(if rest.as_os_str().is_empty() { resolved } else { resolved.join(rest) });
        }
    }
    Ok(whole)
}

/// Whether a process with this command line and standard output is a member of the cluster in `dir`, or
/// holds a container of one.
fn belongs(command: &[String], stdout: &Path, dir: &Path) -> bool {
    let nodes = dir.join("nodes");
    command.get(1).is_some_and(|verb| OURS.contains(&verb.as_str()))
        && (stdout.starts_with(&nodes) || command.iter().any(|word| Path::new(word).starts_with(&nodes)))
}

fn members(dir: &Path) -> Vec<ProcessId> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let ours = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command: Vec<String> = String::from_utf8_lossy(&line).split('\0').map(ToString::to_string).collect();
        let stdout = std::fs::read_link(format!("/proc/{pid}/fd/1")).unwrap_or_default();
        belongs(&command, &stdout, dir)
    };
    pids.filter(ours).map(ProcessId::of).collect()
}

/// The process groups of what a shim carries: each of its children leads one.
fn carried(shim: &ProcessId) -> Vec<Pid> {
    let path = format!("/proc/{0}/task/{0}/children", shim.pid);
    let told = std::fs::read_to_string(path).unwrap_or_default();
    told.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

fn end(process: &ProcessId) -> Result<()> {
    for group in carried(process) {
        if let Err(error) = killpg(group, Signal::SIGKILL) {
            tracing::debug!(%error, %group, "a container had ended already");
        }
    }
    if let Err(error) = kill(Pid::from_raw(process.pid), Signal::SIGKILL) {
        tracing::debug!(%error, pid = process.pid, "a process had ended already");
    }
    wait_for(&format!("process {} to end", process.pid), Duration::from_secs(15), || Ok(!process.is_alive()))
}

/// The workers that have a runtime's state or control group on this machine: their folders.
fn workers(dir: &Path) -> Result<Vec<DataDir>> {
    let mut found = Vec::new();
    for number in 1..=WORKERS_MAX {
        let data = DataDir(dir.join(format!("nodes/worker-{number}/data")));
        if data.run_dir()?.exists() || !cgroup::processes(&data.cgroup()?).is_empty() {
            found.push(data);
        }
    }
    Ok(found)
}

/// Ends and removes what is left of the cluster that was in `dir` (absolute); says what there was.
pub(super) fn remove(dir: &Path) -> Result<Vec<String>> {
    let mut told = Vec::new();
    let mut tell = |n: usize, one: &str, several: &str| match n {
        0 => {}
        1 => told.push(format!("1 {one}")),
        n => told.push(format!("{n} {several}")),
    };
    let members = members(dir);
    members.iter().try_for_each(end)?;
    tell(members.len(), "process", "processes");
    let workers = workers(dir)?;
    for data in &workers {
        let state = data.run_dir()?;
        clean_up(&state, &data.cgroup()?);
        remove_dir(&state)?;
    }
    tell(workers.len(), "container runtime", "container runtimes");
    unmount_below(dir);
    if network::supported().is_ok() {
        let topology = Topology::of(dir, Mode::Namespaces, "");
        tell(network::namespaces(&topology).len(), "network namespace", "network namespaces");
        network::remove(&topology)?;
    }
    if !told.is_empty() {
        cgroup::remove_if_empty("/balsa");
    }
    Ok(told)
}

/// Removes a folder and all in it, if it is there.
pub(super) fn remove_dir(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_known_by_their_folder() {
        let dir = Path::new("/c/.balsa");
        let is = |line: &str, stdout: &str| {
            let command: Vec<String> = line.split(' ').map(ToString::to_string).collect();
            belongs(&command, Path::new(stdout), dir)
        };
        assert!(is("/b/balsa master --config /c/.balsa/nodes/master-1/config.yaml", "/dev/null"));
        assert!(is("/b/balsa process-shim /c/.balsa/nodes/worker-1/data/process/pods/p/c", ""));
        assert!(is("/b/balsa balancer --listen 127.0.0.1:1", "/c/.balsa/nodes/balancer/log (deleted)"));
        assert!(!is("/b/balsa master --config /c/.balsa-2/nodes/master-1/config.yaml", "/dev/null"));
        assert!(!is("/b/balsa balancer --listen 127.0.0.1:1", "/dev/null"));
        assert!(!is("tail -f /c/.balsa/nodes/master-1/log", "/dev/null"));
    }

    #[test]
    fn a_folder_that_is_gone_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::create_dir_all(real.join("deep")).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let there = absolute(&link.join("deep")).unwrap();
        assert_eq!(there, real.join("deep").canonicalize().unwrap());
        std::fs::remove_dir(real.join("deep")).unwrap();
        assert_eq!(absolute(&link.join("deep")).unwrap(), there);
    }
}
