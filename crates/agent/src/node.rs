//! The Node object this worker reports: labels, capacity, addresses, conditions.

use crate::Shared;
use objects::needs::amounts;
use objects::selector::Labels;
use objects::{Timestamp, Value};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    pub name: String,
    pub address: String,
    pub labels: BTreeMap<String, String>,
    /// (key, value, effect).
    pub taints: Vec<(String, String, String)>,
    pub reserved_cpu_milli: i64,
    pub reserved_memory: i64,
    pub pods_max: i64,
    pub machine: Machine,
}

/// What a worker tells of the machine it runs on.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub n_cpus: i64,
    pub memory_bytes: i64,
    /// Of the file system that volumes, logs and images lie on; 0 where there is none.
    pub disk_bytes: i64,
    /// `amd`, `intel`, `arm` or `other`.
    pub cpu_class: String,
    /// `fast` or `slow`.
    pub disk_class: String,
    pub kernel_version: String,
    pub os_image: String,
    pub machine_id: String,
    /// The kernel's, of this boot of the machine.
    pub boot_id: String,
}

impl Machine {
    /// This one, of a worker whose files lie in `dir`.
    pub fn here(dir: &Path) -> Machine {
        let os_release = read("/etc/os-release");
        let pretty = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        let uname = nix::sys::utsname::uname().ok();
        Machine {
            n_cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as i64,
            memory_bytes: memory_bytes(),
            disk_bytes: disk_bytes(dir),
            cpu_class: cpu_model_class().into(),
            disk_class: disk_class().into(),
            kernel_version: uname.map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default(),
            os_image: pretty.trim_matches('"').into(),
            machine_id: read("/etc/machine-id").trim().into(),
            boot_id: read("/proc/sys/kernel/random/boot_id").trim().into(),
        }
    }
}

impl NodeOptions {
    /// Bytes of memory that pods may have.
    pub(crate) fn memory_for_pods(&self) -> i64 {
        (self.machine.memory_bytes - self.reserved_memory).max(0)
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn memory_bytes() -> i64 {
    let meminfo = read("/proc/meminfo");
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or("0 kB");
    line.split_whitespace().next().and_then(|kib| kib.parse::<i64>().ok()).unwrap_or(0) * 1024
}

fn disk_bytes(dir: &Path) -> i64 {
    match nix::sys::statvfs::statvfs(dir) {
        Ok(stat) => i64::try_from(stat.blocks() * stat.fragment_size()).unwrap_or(i64::MAX),
        Err(error) => {
            tracing::warn!(%error, dir = %dir.display(), "the size of the disk is not known");
            0
        }
    }
}

fn cpu_model_class() -> &'static str {
    let cpuinfo = read("/proc/cpuinfo").to_lowercase();
    match () {
        () if cpuinfo.contains("epyc") || cpuinfo.contains("amd") => "amd",
        () if cpuinfo.contains("intel") => "intel",
        () if cpuinfo.contains("arm") || cpuinfo.contains("neoverse") => "arm",
        () => "other",
    }
}

/// `fast` when no disk of the machine is rotational.
fn disk_class() -> &'static str {
    let disks = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut rotational = disks.filter_map(|disk| std::fs::read_to_string(disk.path().join("queue/rotational")).ok());
    if rotational.any(|text| text.trim() == "1") { "slow" } else { "fast" }
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn node(shared: &Shared) -> Value {
    let options = &shared.options.node;
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", options.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch()),
        ("balsa.dev/cpu-class", &options.machine.cpu_class),
        ("balsa.dev/disk-class", &options.machine.disk_class),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .into();
    labels.extend(options.labels.clone());
    let taint = |(key, value, effect): &(String, String, String)| json!({"key": key, "value": value, "effect": effect});
    json!({
        "metadata": {"name": options.name, "labels": labels},
        "spec": {"taints": options.taints.iter().map(taint).collect::<Vec<_>>()},
        "status": status(shared),
    })
}

/// What pods may have of the machine.
pub(crate) fn allocatable(options: &NodeOptions) -> Value {
    json!({
        "cpu": format!("{}m", (options.machine.n_cpus * 1000 - options.reserved_cpu_milli).max(0)),
        "memory": format!("{}Ki", options.memory_for_pods() / 1024),
        "ephemeral-storage": format!("{}Ki", options.machine.disk_bytes / 1024),
        "pods": options.pods_max.to_string(),
    })
}

/// The node that pods are admitted to, with the labels that the masters told, if they did.
pub(crate) fn for_admission(options: &NodeOptions, labels: Option<Labels>) -> podlife::Node {
    podlife::Node { name: options.name.clone(), allocatable: amounts(&allocatable(options)), labels }
}

/// The status with its conditions as of now.
pub(crate) fn status(shared: &Shared) -> Value {
    let options = &shared.options.node;
    let now: Timestamp = shared.now();
    let machine = &options.machine;
    let unhealthy = shared.health.borrow().clone();
    let condition = |ty: &str, status: bool, reason: &str, message: &str| {
        json!({"type": ty, "status": if status { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": now.rfc3339(), "lastTransitionTime": now.rfc3339()})
    };
    let ready = match &unhealthy {
        None => condition("Ready", true, "KubeletReady", "balsa worker is posting ready status"),
        Some(why) => condition("Ready", false, "KubeletNotReady", &format!("container runtime is down: {why}")),
    };
    json!({
        "capacity": {
            "cpu": machine.n_cpus.to_string(), "memory": format!("{}Ki", machine.memory_bytes / 1024),
            "ephemeral-storage": format!("{}Ki", machine.disk_bytes / 1024),
            "pods": options.pods_max.to_string(),
        },
        "allocatable": allocatable(options),
        "addresses": [
            {"type": "InternalIP", "address": options.address}, {"type": "Hostname", "address": options.name},
        ],
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "worker has sufficient memory available"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "worker has no disk pressure"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "worker has sufficient PID available"),
            ready,
        ],
        "nodeInfo": {
            "architecture": arch(), "operatingSystem": "linux",
            "kernelVersion": machine.kernel_version,
            "osImage": machine.os_image, "containerRuntimeVersion": shared.options.runtime.version(),
            "kubeletVersion": format!("v1.36.0+balsa-{}", env!("CARGO_PKG_VERSION")), "kubeProxyVersion": "",
            "machineID": machine.machine_id, "systemUUID": "",
            "bootID": machine.boot_id,
        },
    })
}
