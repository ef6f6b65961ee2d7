//! Real containers: a containerd (or another CRI runtime) over its socket.
//!
//! Only what this worker made is looked at: a socket may be shared with others. The labels are those
//! that CRI tools know (`io.kubernetes.pod.uid`, …) and one that names the worker.

mod daemon;
mod exec;

pub use daemon::{Daemon, DaemonOptions, clean_up, image_names, import, missing_programs, unmount_below};

use crate::{
    ContainerInfo, ContainerSpec, ContainerState, Error, ExecOutput, ExecStream, Image, Runtime, SandboxInfo,
    SandboxSpec, Terminal, cgroup,
};
use async_trait::async_trait;
use cri::image_service_client::ImageServiceClient;
use cri::runtime_service_client::RuntimeServiceClient;
use objects::Timestamp;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Messages and clients generated from `proto/cri.proto`.
mod cri {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("runtime.v1");
}

const POD_UID: &str = "io.kubernetes.pod.uid";
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Whose containers these are; anything else on the socket is left alone.
const WORKER: &str = "balsa.dev/worker";
/// The image as the pod names it: the runtime tells only what it resolved that to.
const IMAGE: &str = "balsa.dev/image";

/// Answers from memory.
const QUICK: Duration = Duration::from_secs(5);
/// Answers after work: network set-up, mounts, starting a process. A cold disk takes seconds.
const SLOW: Duration = Duration::from_secs(60);
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

pub struct ContainerdOptions {
    pub socket: PathBuf,
    /// The worker's name: labels what is ours.
    pub worker: String,
    /// The control group under which pods get theirs, such as `/balsa/1a2b/worker-1`.
    pub cgroup_parent: String,
    /// Holds the named pipes of running `exec`s; a short path.
    pub pipes: PathBuf,
    /// The address of pods on the host's network.
    pub host_ip: String,
}

pub struct ContainerdRuntime {
    options: ContainerdOptions,
    channel: Channel,
    version: Mutex<String>,
    /// What does not change any more, so that a look at a hundred pods asks two questions: addresses
    /// of sandboxes and ends of containers, by id.
    addresses: Mutex<HashMap<String, Vec<String>>>,
    states: Mutex<HashMap<String, (i32, ContainerState)>>,
}

/// A channel to a Unix socket, connected when it is first used and again after it broke.
fn channel(socket: &Path) -> Channel {
    let socket = socket.to_path_buf();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector)
}

fn failed(status: Status) -> Error {
    match status.code() {
        Code::NotFound => Error::NotFound(status.message().to_string()),
        Code::DeadlineExceeded | Code::Cancelled => {
            Error::Failed("the container runtime did not answer in time".into())
        }
        Code::Unavailable => Error::Failed(format!("the container runtime cannot be reached: {}", status.message())),
        _ => Error::Failed(status.message().to_string()),
    }
}

fn request<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// Waits for a call at most `deadline`: a frozen runtime ignores the deadline it was sent.
async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("")),
    }
}

fn gone_is_fine(result: Result<(), Status>) -> Result<(), Error> {
    match result {
        Err(status) if status.code() != Code::NotFound => Err(failed(status)),
        _ => Ok(()),
    }
}

fn time(nanos: i64) -> Timestamp {
    Timestamp(nanos / 1_000_000)
}

impl ContainerdRuntime {
    pub fn new(options: ContainerdOptions) -> ContainerdRuntime {
        let channel = channel(&options.socket);
        ContainerdRuntime {
            options,
            channel,
            version: Mutex::new("containerd://".into()),
            addresses: Mutex::default(),
            states: Mutex::default(),
        }
    }

    fn client(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    fn pod_cgroup(&self, uid: &str) -> String {
        format!("{}/pod{uid}", self.options.cgroup_parent)
    }

    fn labels(&self, pod: &SandboxSpec) -> HashMap<String, String> {
        [(POD_UID, &pod.uid), (POD_NAME, &pod.name), (POD_NAMESPACE, &pod.namespace), (WORKER, &self.options.worker)]
            .map(|(key, value)| (key.to_string(), value.clone()))
            .into()
    }

    fn namespaces(pod: &SandboxSpec) -> cri::NamespaceOption {
        let mode = |host: bool, otherwise: cri::NamespaceMode| if host { cri::NamespaceMode::Node } else { otherwise };
        // A container has its own process tree unless the pod shares one: it must be process 1.
        let pid = if pod.share_pid { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Container };
        cri::NamespaceOption {
            network: mode(pod.host_network, cri::NamespaceMode::Pod).into(),
            pid: mode(pod.host_pid, pid).into(),
            ipc: mode(pod.host_ipc, cri::NamespaceMode::Pod).into(),
        }
    }

    fn sandbox_config(&self, pod: &SandboxSpec) -> cri::PodSandboxConfig {
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

    fn container_config(&self, pod: &SandboxSpec, spec: &ContainerSpec) -> cri::ContainerConfig {
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
        let paths = |paths: &[&str]| match spec.privileged {
            true => Vec::new(),
            false => paths.iter().map(ToString::to_string).collect(),
        };
        let mount = |mount: &crate::Mount| cri::Mount {
            container_path: mount.container.clone(),
            host_path: mount.host.display().to_string(),
            readonly: mount.read_only,
            propagation: cri::MountPropagation::PropagationPrivate.into(),
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
                }),
            }),
        }
    }

    async fn sandboxes(&self) -> Result<Vec<cri::PodSandbox>, Error> {
        let call = request(cri::ListPodSandboxRequest {}, QUICK);
        let list = within(QUICK, self.client().list_pod_sandbox(call)).await.map_err(failed)?;
        Ok(list.items.into_iter().filter(|item| item.labels.get(WORKER) == Some(&self.options.worker)).collect())
    }

    async fn containers(&self) -> Result<Vec<cri::Container>, Error> {
        let call = request(cri::ListContainersRequest {}, QUICK);
        let list = within(QUICK, self.client().list_containers(call)).await.map_err(failed)?;
        Ok(list.containers.into_iter().filter(|item| item.labels.get(WORKER) == Some(&self.options.worker)).collect())
    }

    async fn addresses(&self, sandbox: &str) -> Result<Vec<String>, Error> {
        if let Some(known) = self.addresses.lock().get(sandbox) {
            return Ok(known.clone());
        }
        let call = request(cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.into() }, QUICK);
        let network = match within(QUICK, self.client().pod_sandbox_status(call)).await {
            Ok(response) => response.status.and_then(|status| status.network).unwrap_or_default(),
            Err(status) if status.code() == Code::NotFound => return Ok(Vec::new()),
            Err(status) => return Err(failed(status)),
        };
        let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|more| more.ip));
        let mut ips: Vec<String> = all.filter(|ip| !ip.is_empty()).collect();
        if ips.is_empty() {
            ips.push(self.options.host_ip.clone());
        }
        self.addresses.lock().insert(sandbox.into(), ips.clone());
        Ok(ips)
    }

    /// A container's state with its times; asked once per change, as the list does not tell them.
    async fn state(&self, container: &cri::Container) -> Result<Option<ContainerState>, Error> {
        if container.state() == cri::ContainerState::ContainerCreated {
            return Ok(Some(ContainerState::Created));
        }
        if let Some((state, known)) = self.states.lock().get(&container.id)
            && *state == container.state
        {
            return Ok(Some(known.clone()));
        }
        let call = request(cri::ContainerStatusRequest { container_id: container.id.clone() }, QUICK);
        let status = match within(QUICK, self.client().container_status(call)).await {
            Ok(response) => response.status.unwrap_or_default(),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(failed(status)),
        };
        let state = match status.state() {
            cri::ContainerState::ContainerCreated => ContainerState::Created,
            cri::ContainerState::ContainerRunning => ContainerState::Running { started: time(status.started_at) },
            cri::ContainerState::ContainerExited | cri::ContainerState::ContainerUnknown => ContainerState::Exited {
                started: time(if status.started_at > 0 { status.started_at } else { status.created_at }),
                finished: time(status.finished_at.max(status.created_at)),
                code: status.exit_code,
                reason: if status.reason.is_empty() { "Unknown".into() } else { status.reason },
            },
        };
        self.states.lock().insert(container.id.clone(), (status.state, state.clone()));
        Ok(Some(state))
    }

    /// Ends what an earlier try at this very sandbox left half made: the runtime keeps its name taken.
    async fn clear_half_made(&self, spec: &SandboxSpec) -> Result<(), Error> {
        for sandbox in self.sandboxes().await? {
            let same = sandbox.metadata.as_ref().is_some_and(|m| m.uid == spec.uid && m.attempt == spec.attempt);
            if same {
                self.remove_sandbox(&sandbox.id).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Runtime for ContainerdRuntime {
    fn version(&self) -> String {
        self.version.lock().clone()
    }

    async fn healthy(&self) -> Result<(), Error> {
        let call = request(cri::VersionRequest { version: "v1".into() }, QUICK);
        let version = within(QUICK, self.client().version(call)).await.map_err(failed)?;
        *self.version.lock() = format!("{}://{}", version.runtime_name, version.runtime_version);
        let call = request(cri::StatusRequest {}, QUICK);
        let status = within(QUICK, self.client().status(call)).await.map_err(failed)?.status.unwrap_or_default();
        match status.conditions.iter().find(|condition| !condition.status) {
            None => Ok(()),
            Some(bad) => Err(Error::Failed(format!("{}: {} {}", bad.r#type, bad.reason, bad.message))),
        }
    }

    async fn list(&self) -> Result<Vec<SandboxInfo>, Error> {
        let (sandboxes, containers) = tokio::try_join!(self.sandboxes(), self.containers())?;
        let mut of: BTreeMap<String, Vec<ContainerInfo>> = BTreeMap::new();
        for container in &containers {
            let Some(state) = self.state(container).await? else { continue };
            let metadata = container.metadata.clone().unwrap_or_default();
            of.entry(container.pod_sandbox_id.clone()).or_default().push(ContainerInfo {
                id: format!("containerd://{}", container.id),
                name: metadata.name,
                attempt: metadata.attempt,
                image: container.annotations.get(IMAGE).cloned().unwrap_or_default(),
                state,
            });
        }
        self.states.lock().retain(|id, _| containers.iter().any(|container| container.id == *id));
        self.addresses.lock().retain(|id, _| sandboxes.iter().any(|sandbox| sandbox.id == *id));
        let mut list = Vec::new();
        for sandbox in sandboxes {
            let metadata = sandbox.metadata.clone().unwrap_or_default();
            let ready = sandbox.state() == cri::PodSandboxState::SandboxReady;
            let mut containers = of.remove(&sandbox.id).unwrap_or_default();
            containers.sort_by(|a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt)));
            list.push(SandboxInfo {
                ips: if ready { self.addresses(&sandbox.id).await? } else { Vec::new() },
                id: sandbox.id,
                uid: metadata.uid,
                name: metadata.name,
                namespace: metadata.namespace,
                attempt: metadata.attempt,
                ready,
                containers,
            });
        }
        list.sort_by(|a, b| (&a.uid, a.attempt).cmp(&(&b.uid, b.attempt)));
        Ok(list)
    }

    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<String, Error> {
        std::fs::create_dir_all(&spec.log_dir).map_err(|source| Error::Io {
            action: "creating",
            path: spec.log_dir.display().to_string(),
            source,
        })?;
        let call =
            cri::RunPodSandboxRequest { config: Some(self.sandbox_config(spec)), runtime_handler: String::new() };
        match within(SLOW, self.client().run_pod_sandbox(request(call, SLOW))).await {
            Ok(response) => Ok(response.pod_sandbox_id),
            Err(status) => {
                self.clear_half_made(spec).await?;
                Err(failed(status))
            }
        }
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let call = request(cri::StopPodSandboxRequest { pod_sandbox_id: id.into() }, SLOW);
        gone_is_fine(within(SLOW, self.client().stop_pod_sandbox(call)).await.map(drop))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.stop_sandbox(id).await?;
        let known = self.sandboxes().await?;
        let uid = known.iter().find(|sandbox| sandbox.id == id).and_then(|sandbox| sandbox.labels.get(POD_UID));
        let call = request(cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() }, SLOW);
        gone_is_fine(within(SLOW, self.client().remove_pod_sandbox(call)).await.map(drop))?;
        if let Some(uid) = uid {
            cgroup::remove(&self.pod_cgroup(uid));
        }
        Ok(())
    }

    async fn image(&self, image: &str) -> Result<Option<Image>, Error> {
        let call = cri::ImageStatusRequest { image: Some(cri::ImageSpec { image: image.into() }) };
        let status = within(QUICK, self.images().image_status(request(call, QUICK))).await.map_err(failed)?;
        Ok(status.image.map(|image| Image {
            user: match (image.uid, image.username.as_str()) {
                (Some(uid), _) => uid.value.to_string(),
                (None, "") => "0".into(),
                (None, name) => name.into(),
            },
        }))
    }

    async fn pull_image(&self, image: &str) -> Result<(), Error> {
        let call = cri::PullImageRequest { image: Some(cri::ImageSpec { image: image.into() }) };
        // The caller says how long a pull may take.
        match self.images().pull_image(Request::new(call)).await {
            Ok(_) => Ok(()),
            Err(status) => Err(Error::Image(status.message().to_string())),
        }
    }

    async fn start_container(&self, sandbox: &str, pod: &SandboxSpec, spec: &ContainerSpec) -> Result<String, Error> {
        let same = |container: &cri::Container| {
            let metadata = container.metadata.clone().unwrap_or_default();
            container.pod_sandbox_id == sandbox && metadata.name == spec.name && metadata.attempt == spec.attempt
        };
        let made = self.containers().await?.into_iter().find(same);
        let id = match made {
            // Made by an earlier try that was cut short; anything further along is this very attempt.
            Some(container) if container.state() == cri::ContainerState::ContainerCreated => container.id,
            Some(container) => return Ok(format!("containerd://{}", container.id)),
            None => {
                if let Some(dir) = pod.log_dir.join(&spec.log_file).parent() {
                    let failed = |source| Error::Io { action: "creating", path: dir.display().to_string(), source };
                    std::fs::create_dir_all(dir).map_err(failed)?;
                }
                let call = cri::CreateContainerRequest {
                    pod_sandbox_id: sandbox.into(),
                    config: Some(self.container_config(pod, spec)),
                    sandbox_config: Some(self.sandbox_config(pod)),
                };
                let made = within(SLOW, self.client().create_container(request(call, SLOW))).await;
                made.map_err(failed)?.container_id
            }
        };
        let call = request(cri::StartContainerRequest { container_id: id.clone() }, SLOW);
        within(SLOW, self.client().start_container(call)).await.map_err(failed)?;
        Ok(format!("containerd://{id}"))
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let deadline = grace + SLOW;
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let call = request(cri::StopContainerRequest { container_id: bare(id).into(), timeout }, deadline);
        gone_is_fine(within(deadline, self.client().stop_container(call)).await.map(drop))
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let call = request(cri::RemoveContainerRequest { container_id: bare(id).into() }, SLOW);
        gone_is_fine(within(SLOW, self.client().remove_container(call)).await.map(drop))
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, Error> {
        let seconds = i64::try_from(timeout.as_secs().max(1)).unwrap_or(i64::MAX);
        let call = cri::ExecSyncRequest { container_id: bare(id).into(), cmd: command.to_vec(), timeout: seconds };
        // The runtime's own clock first; ours is for a runtime that does not answer at all.
        let deadline = timeout + Duration::from_secs(2);
        match within(deadline, self.client().exec_sync(request(call, deadline))).await {
            Ok(response) => {
                let mut output = response.stdout;
                output.extend_from_slice(&response.stderr);
                Ok(ExecOutput { code: response.exit_code, output })
            }
            Err(status) if status.code() == Code::DeadlineExceeded => {
                Err(Error::Failed(format!("command timed out after {} s", timeout.as_secs())))
            }
            Err(status) => Err(failed(status)),
        }
    }

    async fn exec(
        &self,
        id: &str,
        command: &[String],
        terminal: Option<Terminal>,
        stdin: bool,
    ) -> Result<ExecStream, Error> {
        exec::start(self.channel.clone(), &self.options.pipes, bare(id), command, terminal, stdin).await
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let call = request(cri::ReopenContainerLogRequest { container_id: bare(id).into() }, QUICK);
        within(QUICK, self.client().reopen_container_log(call)).await.map(drop).map_err(failed)
    }
}

/// The runtime's own id of `containerd://ID`, the form in which statuses name containers.
fn bare(id: &str) -> &str {
    id.rsplit_once("://").map_or(id, |(_, id)| id)
}
