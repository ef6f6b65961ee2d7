//! The container-runtime port and its implementations.
//!
//! `process` needs no root and no image: a container is the command as a child process group. It
//! isolates nothing, and says so. `containerd` speaks CRI. Both pass one contract test.

pub mod cgroup;
pub mod containerd;
pub mod files;
pub mod image;
pub mod inherited;
mod process;
pub mod process_id;
pub mod reference;
pub mod shim;
#[cfg(test)]
mod tests;

pub use process::ProcessRuntime;

use async_trait::async_trait;
use objects::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image is not here and could not be got.
    #[error("{0}")]
    Image(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Failed(String),
    #[error("{action} {path}")]
    Io { action: &'static str, path: String, source: std::io::Error },
}

impl Error {
    /// Adds to a failure what was being done, and where.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = path.display().to_string();
        move |source| Error::Io { action, path, source }
    }
}

/// A pod's sandbox as asked for.
#[derive(Clone, Debug, Default)]
pub struct SandboxSpec {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub attempt: u32,
    pub hostname: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// All containers see each other's processes.
    pub share_pid: bool,
    /// Some container is privileged.
    pub privileged: bool,
    /// Holds the containers' log files.
    pub log_dir: PathBuf,
    pub dns: Dns,
    pub sysctls: BTreeMap<String, String>,
}

/// What a pod's resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// Who sees what is mounted later below a mount: nobody on the other side, the container, or both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, Default)]
pub struct Mount {
    pub host: PathBuf,
    pub container: String,
    pub read_only: bool,
    pub propagation: Propagation,
}

/// What a container asks of AppArmor. Where the node has none, only what was said makes a difference: a
/// container that asks for a profile does not start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppArmor {
    /// The runtime's own profile where there is AppArmor, nothing where there is none.
    #[default]
    Unsaid,
    RuntimeDefault,
    Unconfined,
}

#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub mounts: Vec<Mount>,
    /// Relative to the sandbox's log folder.
    pub log_file: String,
    /// Thousandths of a CPU, and bytes.
    pub cpu_request_milli: Option<i64>,
    pub cpu_limit_milli: Option<i64>,
    pub memory_limit: Option<i64>,
    /// -1000 (never) to 1000 (first), when the machine is out of memory.
    pub oom_score_adj: i64,
    pub privileged: bool,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub groups: Vec<i64>,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub no_new_privileges: bool,
    /// Empty for the runtime's default profile, `unconfined`, or the path of a profile.
    pub seccomp: String,
    pub app_armor: AppArmor,
    pub read_only_root: bool,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    Created,
    Running {
        started: Timestamp,
    },
    Exited {
        started: Timestamp,
        finished: Timestamp,
        code: i32,
        reason: String,
        /// Why it could not be started; empty when it could.
        message: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct ContainerInfo {
    pub id: String,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    /// What the image's name was resolved to: its digest. Empty where there is none.
    pub image_id: String,
    pub state: ContainerState,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SandboxInfo {
    pub id: String,
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub attempt: u32,
    pub ready: bool,
    pub ips: Vec<String>,
    pub containers: Vec<ContainerInfo>,
}

/// An image that is here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Who its processes run as, unless the pod says otherwise: a number, or a name.
    pub user: String,
}

/// An image on the disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredImage {
    pub id: String,
    /// Its tags and digests, in full.
    pub names: Vec<String>,
    pub bytes: u64,
    /// The runtime needs it for itself.
    pub pinned: bool,
}

/// A file system's size, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disk {
    pub capacity: u64,
    pub available: u64,
}

/// The images that are this worker's to remove.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageStore {
    pub images: Vec<StoredImage>,
    pub disk: Disk,
}

/// What a command run in a container said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecOutput {
    pub code: i32,
    pub output: Vec<u8>,
}

/// A command attached to streams: frames of (channel, bytes), channels as in `v5.channel.k8s.io`.
pub struct ExecStream {
    pub input: tokio::sync::mpsc::Sender<(u32, bytes::Bytes)>,
    pub output: tokio::sync::mpsc::Receiver<(u32, bytes::Bytes)>,
    /// The exit code, once the command has ended.
    pub exit: tokio::sync::oneshot::Receiver<Result<i32, Error>>,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    pub width: u16,
    pub height: u16,
}

impl Terminal {
    /// From a resize frame, as in `v5.channel.k8s.io`; 0 where it says nothing.
    pub fn parse(frame: &[u8]) -> Terminal {
        let size: serde_json::Value = serde_json::from_slice(frame).unwrap_or_default();
        let side = |name: &str| size[name].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
        Terminal { width: side("Width"), height: side("Height") }
    }
}

#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// For `nodeInfo.containerRuntimeVersion`.
    fn version(&self) -> String;
    /// The node's conditions depend on it.
    async fn healthy(&self) -> Result<(), Error>;
    /// Every sandbox with its containers.
    async fn list(&self) -> Result<Vec<SandboxInfo>, Error>;
    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<String, Error>;
    /// Ends everything in a sandbox; its containers stay known. Unknown ids are fine.
    async fn stop_sandbox(&self, id: &str) -> Result<(), Error>;
    /// Ends and forgets a sandbox and its containers. Unknown ids are fine.
    async fn remove_sandbox(&self, id: &str) -> Result<(), Error>;
    /// What is known of an image that is here.
    async fn image(&self, image: &str) -> Result<Option<Image>, Error>;
    async fn pull_image(&self, image: &str) -> Result<(), Error>;
    /// The images on the disk; `None` where there are none, or they are not this worker's alone.
    async fn stored_images(&self) -> Result<Option<ImageStore>, Error> {
        Ok(None)
    }
    /// Forgets an image by its id. Unknown ids are fine.
    async fn remove_image(&self, _id: &str) -> Result<(), Error> {
        Ok(())
    }
    async fn start_container(&self, sandbox: &str, pod: &SandboxSpec, spec: &ContainerSpec) -> Result<String, Error>;
    /// TERM, then KILL after `grace`. Returns when it has ended. Unknown ids are fine.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error>;
    async fn remove_container(&self, id: &str) -> Result<(), Error>;
    /// Runs a command to its end, at most `timeout`.
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, Error>;
    /// Starts a command; with a terminal it starts at that size.
    async fn exec(
        &self,
        id: &str,
        command: &[String],
        terminal: Option<Terminal>,
        stdin: bool,
    ) -> Result<ExecStream, Error>;
    /// The log file was renamed: go on in a new one.
    async fn reopen_log(&self, id: &str) -> Result<(), Error>;
}

/// Environment variables as a map, the last of a name winning.
pub(crate) fn env_map(env: &[(String, String)]) -> BTreeMap<String, String> {
    env.iter().cloned().collect()
}
