//! Sandboxes and containers in the words of CRI.

use super::cri;
use super::{CONTAINER_NAME, ContainerdRuntime, IMAGE, POD_NAME, POD_NAMESPACE, POD_UID, WORKER};
use crate::{AppArmor, ContainerSpec, Propagation, SandboxSpec};
use std::collections::HashMap;

/// The period over which a CPU limit is measured, in microseconds: the kernel's default.
const CPU_PERIOD_US: i64 = 100_000;

/// What an unprivileged container must not see of /proc and /sys, as container runtimes agree.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

impl ContainerdRuntime {
    pub(super) fn pod_cgroup(&self, uid: &str) -> String {
        format!("{}/pod{uid}", self.options.cgroup_parent)
    }

    pub(super) fn labels(&self, pod: &SandboxSpec) -> HashMap<String, String> {
        [(POD_UID, &pod.uid), (POD_NAME, &pod.name), (POD_NAMESPACE, &pod.namespace), (WORKER, &self.options.worker)]
            .map(|(key, value)| (key.to_string(), value.clone()))
            .into()
    }

    pub(super) fn namespaces(pod: &SandboxSpec) -> cri::NamespaceOption {
        let mode = |host: bool, otherwise: cri::NamespaceMode| if host { cri::NamespaceMode::Node } else { otherwise };
        // A container has its own process tree unless the pod shares one: it must be process 1.
        let pid = if pod.share_pid { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Container };
        cri::NamespaceOption {
            network: mode(pod.host_network, cri::NamespaceMode::Pod).into(),
            pid: mode(pod.host_pid, pid).into(),
            ipc: mode(pod.host_ipc, cri::NamespaceMode::Pod).into(),
        }
    }

    pub(super) fn sandbox_config(&self, pod: &SandboxSpec) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                namespace: pod.namespace.clone(),
                attempt: pod.attempt,
            }),
            // A pod on the host's network has the host's name.
            hostname: if pod.host_network { String::new() } else { pod.hostname.clone() },
            log_directory: pod.log_dir.display().to_string(),
            dns_config: (!pod.dns.servers.is_empty()).then(|| cri::DnsConfig {
                servers: pod.dns.servers.clone(),
                searches: pod.dns.searches.clone(),
                options: pod.dns.options.clone(),
            }),
            labels: self.labels(pod),
            annotations: HashMap::new(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.pod_cgroup(&pod.uid),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(Self::namespaces(pod)),
                    privileged: pod.privileged,
                    ..Default::default()
                }),
                sysctls: pod.sysctls.clone().into_iter().collect(),
            }),
        }
    }

    pub(super) fn container_config(&self, pod: &SandboxSpec, spec: &ContainerSpec) -> cri::ContainerConfig {
        let mut labels = self.labels(pod);
        labels.insert(CONTAINER_NAME.into(), spec.name.clone());
        let profile = |ty: cri::security_profile::ProfileType, path: &str| cri::SecurityProfile {
            profile_type: ty.into(),
            localhost_ref: path.into(),
        };
        use cri::security_profile::ProfileType;
        let seccomp = match spec.seccomp.as_str() {
            _ if spec.privileged => profile(ProfileType::Unconfined, ""),
            "unconfined" => profile(ProfileType::Unconfined, ""),
            "" => profile(ProfileType::RuntimeDefault, ""),
            path => profile(ProfileType::Localhost, path),
        };
        let app_armor = match spec.app_armor {
            AppArmor::Unsaid => None,
            AppArmor::RuntimeDefault => Some(profile(ProfileType::RuntimeDefault, "")),
            AppArmor::Unconfined => Some(profile(ProfileType::Unconfined, "")),
        };
        let paths = |paths: &[&str]| match spec.privileged {
            true => Vec::new(),
            false => paths.iter().map(ToString::to_string).collect(),
        };
        let mount = |mount: &crate::Mount| cri::Mount {
            container_path: mount.container.clone(),
            host_path: mount.host.display().to_string(),
            readonly: mount.read_only,
            propagation: match mount.propagation {
                Propagation::Private => cri::MountPropagation::PropagationPrivate,
                Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
                Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
            }
            .into(),
        };
        let limit_cpu = spec.cpu_limit_milli.filter(|milli| *milli > 0);
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: spec.name.clone(), attempt: spec.attempt }),
            image: Some(cri::ImageSpec { image: spec.image.clone() }),
            command: spec.command.clone(),
            args: spec.args.clone(),
            working_dir: spec.working_dir.clone(),
            envs: spec
                .env
                .iter()
                .map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() })
                .collect(),
            mounts: spec.mounts.iter().map(mount).collect(),
            labels,
            annotations: [(IMAGE.to_string(), spec.image.clone())].into(),
            log_path: spec.log_file.clone(),
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            tty: spec.tty,
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(cri::LinuxContainerResources {
                    cpu_period: CPU_PERIOD_US,
                    // The kernel takes no less than 1 ms of 100 ms.
                    cpu_quota: limit_cpu.map_or(0, |milli| (milli * CPU_PERIOD_US / 1000).max(1000)),
                    // 1,024 shares are one CPU; the kernel takes no less than 2.
                    cpu_shares: spec.cpu_request_milli.or(limit_cpu).map_or(2, |milli| (milli * 1024 / 1000).max(2)),
                    memory_limit_in_bytes: spec.memory_limit.unwrap_or(0),
                    oom_score_adj: spec.oom_score_adj,
                }),
                security_context: Some(cri::LinuxContainerSecurityContext {
                    capabilities: Some(cri::Capability {
                        add_capabilities: spec.add_capabilities.clone(),
                        drop_capabilities: spec.drop_capabilities.clone(),
                    }),
                    privileged: spec.privileged,
                    namespace_options: Some(Self::namespaces(pod)),
                    run_as_user: spec.run_as_user.map(|value| cri::Int64Value { value }),
                    run_as_group: spec.run_as_group.map(|value| cri::Int64Value { value }),
                    readonly_rootfs: spec.read_only_root,
                    supplemental_groups: spec.groups.clone(),
                    no_new_privs: spec.no_new_privileges,
                    masked_paths: paths(&MASKED),
                    readonly_paths: paths(&READ_ONLY),
                    seccomp: Some(seccomp),
                    apparmor: app_armor,
                }),
            }),
        }
    }
}
