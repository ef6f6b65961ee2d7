//! Real containers: a containerd (or another CRI runtime) over its socket.
//!
//! Only what this worker made is looked at: a socket may be shared with others. The labels are those
//! that CRI tools know (`io.kubernetes.pod.uid`, …) and one that names the worker.

mod daemon;
mod exec;
mod spec;

pub use daemon::{Daemon, DaemonOptions, clean_up, image_names, import, missing_programs, mount_points, unmount_below};

use crate::{
    ContainerInfo, ContainerSpec, ContainerState, Disk, Error, ExecOutput, ExecStream, Image, ImageStore, Runtime,
    SandboxInfo, SandboxSpec, StoredImage, Terminal, cgroup,
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
    /// Nobody else uses this runtime: images that our pods do not use are nobody's.
    pub is_private: bool,
}

pub struct ContainerdRuntime {
    options: ContainerdOptions,
    channel: Channel,
    version: Mutex<String>,
    /// What does not change any more, so that a look at a hundred pods asks two questions: addresses
    /// of sandboxes and ends of containers, by id.
    addresses: Mutex<HashMap<String, Vec<String>>>,
    states: Mutex<HashMap<String, (i32, Told)>>,
}

/// What a container's status tells beyond the list.
#[derive(Clone)]
struct Told {
    state: ContainerState,
    image_id: String,
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
    async fn told(&self, container: &cri::Container) -> Result<Option<Told>, Error> {
        if container.state() == cri::ContainerState::ContainerCreated {
            return Ok(Some(Told { state: ContainerState::Created, image_id: String::new() }));
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
        let observed = status.state();
        let state = match observed {
            cri::ContainerState::ContainerCreated => ContainerState::Created,
            cri::ContainerState::ContainerRunning => ContainerState::Running { started: time(status.started_at) },
            cri::ContainerState::ContainerExited | cri::ContainerState::ContainerUnknown => ContainerState::Exited {
                started: time(if status.started_at > 0 { status.started_at } else { status.created_at }),
                finished: time(status.finished_at.max(status.created_at)),
                code: status.exit_code,
                reason: if status.reason.is_empty() { "Unknown".into() } else { status.reason },
                message: status.message,
            },
        };
        let told = Told { state, image_id: status.image_ref };
        self.states.lock().insert(container.id.clone(), (status.state, told.clone()));
        Ok(Some(told))
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
            let Some(Told { state, image_id }) = self.told(container).await? else { continue };
            let metadata = container.metadata.clone().unwrap_or_default();
            of.entry(container.pod_sandbox_id.clone()).or_default().push(ContainerInfo {
                id: format!("containerd://{}", container.id),
                name: metadata.name,
                attempt: metadata.attempt,
                image: container.annotations.get(IMAGE).cloned().unwrap_or_default(),
                image_id,
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

    async fn stored_images(&self) -> Result<Option<ImageStore>, Error> {
        if !self.options.is_private {
            return Ok(None);
        }
        let call = request(cri::ListImagesRequest {}, QUICK);
        let list = within(QUICK, self.images().list_images(call)).await.map_err(failed)?.images;
        let image = |image: cri::Image| {
            let names: Vec<String> = image.repo_tags.into_iter().chain(image.repo_digests).collect();
            // Runtimes before containerd 1.7 do not say what they need.
            let pinned = image.pinned || names.iter().any(|name| name == daemon::PAUSE_IMAGE);
            StoredImage { id: image.id, names, bytes: image.size, pinned }
        };
        let images = list.into_iter().map(image).collect();
        let call = request(cri::ImageFsInfoRequest {}, QUICK);
        let told = within(QUICK, self.images().image_fs_info(call)).await.map_err(failed)?.image_filesystems;
        let mount = told.into_iter().find_map(|usage| usage.fs_id).map(|id| id.mountpoint);
        let path =
            PathBuf::from(mount.ok_or_else(|| Error::Failed("the runtime does not say where images are".into()))?);
        let stat = nix::sys::statvfs::statvfs(&path).map_err(std::io::Error::from);
        let stat = stat.map_err(Error::io("looking at the file system of", &path))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        // As `df` counts: what the file system keeps back is neither full nor free.
        let (used, available) = (bytes(stat.blocks() - stat.blocks_free()), bytes(stat.blocks_available()));
        let disk = Disk { capacity: used + available, available };
        Ok(Some(ImageStore { images, disk }))
    }

    async fn remove_image(&self, id: &str) -> Result<(), Error> {
        let call = cri::RemoveImageRequest { image: Some(cri::ImageSpec { image: id.into() }) };
        gone_is_fine(within(SLOW, self.images().remove_image(request(call, SLOW))).await.map(drop))
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
