//! A worker's private containerd: its configuration, its start, and its supervision.
//!
//! It is a process of its own that outlives the worker, so that a restart of the worker disturbs no
//! container; the next worker finds it by its process id. What the configuration says, and why, was
//! measured with containerd 1.6 and is noted beside each line that is not a default.

use super::channel;
use super::cri::VersionRequest;
use super::cri::runtime_service_client::RuntimeServiceClient;
use crate::image::{self, Recipe};
use crate::process_id::ProcessId;
use crate::{Error, cgroup};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use stdx::Backoff;

/// Answers within this after its start, cold disk included.
const START_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// How often its life is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// A daemon that dies at once is started again later and later, up to half a minute.
const RESTART: Backoff = Backoff::new(200, 30_000);
/// One that lived this long starts over at the short end.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// Its log is begun anew at a start when it is larger.
const LOG_BYTES_MAX: u64 = 10 << 20;
/// The sandbox image; it is made from our own program, and versioned with it.
pub const PAUSE_IMAGE: &str = concat!("registry.local/balsa-pause:", env!("CARGO_PKG_VERSION"));
/// Where distributions put CNI plugins.
const CNI_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// Images and snapshots; survives a reboot.
    pub root: PathBuf,
    /// Sockets, mounts and process state; a short path on a file system that a reboot empties.
    pub state: PathBuf,
    /// Holds the one CNI configuration, which the worker's network writes.
    pub cni_conf: PathBuf,
    /// Mirrors and credentials of registries, in containerd's `certs.d` layout.
    pub registries: Option<PathBuf>,
    /// Where exec and attach streams are served by containerd; never used from outside.
    pub stream_address: String,
    /// The program that holds a pod's namespaces when called with `pause`.
    pub pause: PathBuf,
}

/// The programs that real containers need and this machine lacks.
pub fn missing_programs() -> Vec<&'static str> {
    let on_path = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/bin"].map(PathBuf::from));
        folders.map(|folder| folder.join(name)).any(|program| program.is_file())
    };
    let mut missing: Vec<&str> =
        ["containerd", "ctr", "runc", "nft", "ip"].into_iter().filter(|name| !on_path(name)).collect();
    if cni_folder().is_none() {
        missing.push("the CNI plugins bridge and host-local");
    }
    missing
}

fn cni_folder() -> Option<&'static Path> {
    CNI_FOLDERS
        .iter()
        .map(Path::new)
        .find(|folder| folder.join("bridge").is_file() && folder.join("host-local").is_file())
}

pub struct Daemon {
    options: DaemonOptions,
}

impl Daemon {
    /// Starts containerd, or finds the one an earlier worker started, and gives it the sandbox image.
    pub async fn start(options: DaemonOptions) -> Result<Daemon, Error> {
        let missing = missing_programs();
        if !missing.is_empty() {
            return Err(Error::Failed(format!(
                "the containerd runtime needs {}; install them (Debian: apt-get install containerd runc \
                 containernetworking-plugins nftables iproute2) or set runtime: process",
                missing.join(", ")
            )));
        }
        let layout = cgroup::layout(cgroup::root());
        if layout == cgroup::Layout::Absent {
            return Err(Error::Failed("no control groups are mounted at /sys/fs/cgroup; containers need them".into()));
        }
        tracing::info!(cgroups = layout.name(), "starting the container runtime");
        for dir in [&options.root, &options.state, &options.cni_conf] {
            std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
        }
        let daemon = Daemon { options };
        daemon.configure()?;
        if !daemon.is_alive() {
            daemon.spawn()?;
        }
        daemon.wait_ready().await?;
        daemon.import_pause().await?;
        Ok(daemon)
    }

    pub fn socket(state: &Path) -> PathBuf {
        state.join("containerd.sock")
    }

    fn pid_file(&self) -> PathBuf {
        self.options.state.join("containerd.pid")
    }

    fn log_file(&self) -> PathBuf {
        self.options.root.join("containerd.log")
    }

    fn is_alive(&self) -> bool {
        ProcessId::read(&self.pid_file()).is_some_and(|id| id.is_alive())
    }

    fn config_file(&self) -> PathBuf {
        self.options.state.join("config.toml")
    }

    fn configure(&self) -> Result<(), Error> {
        let path = self.config_file();
        std::fs::write(&path, config(&self.options)).map_err(Error::io("writing", &path))
    }

    fn spawn(&self) -> Result<(), Error> {
        let path = self.log_file();
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
            std::fs::remove_file(&path).map_err(Error::io("removing", &path))?;
        }
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io("opening", &path))?;
        let again = log.try_clone().map_err(Error::io("opening", &path))?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.config_file()).stdin(Stdio::null()).stdout(again).stderr(log);
        // A group of its own: a signal to the worker's terminal is not for it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(Error::io("starting", Path::new("containerd")))?;
        ProcessId::of(child.id()).write(&self.pid_file()).map_err(Error::io("writing", &self.pid_file()))?;
        // It outlives this process; while we live, somebody must reap it.
        std::thread::spawn(move || drop(child.wait()));
        Ok(())
    }

    async fn wait_ready(&self) -> Result<(), Error> {
        let mut client = RuntimeServiceClient::new(channel(&Daemon::socket(&self.options.state)));
        let deadline = tokio::time::Instant::now() + START_MAX;
        loop {
            let asked = client.version(VersionRequest { version: "v1".into() });
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), asked).await {
                return Ok(());
            }
            if !self.is_alive() || tokio::time::Instant::now() > deadline {
                let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                return Err(Error::Failed(format!("containerd does not answer; its log ends:\n{}", last.join("\n"))));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Imports the image that holds a pod's namespaces, unless it is here.
    async fn import_pause(&self) -> Result<(), Error> {
        let socket = Daemon::socket(&self.options.state);
        if image_names(&socket).await?.iter().any(|name| name == PAUSE_IMAGE) {
            return Ok(());
        }
        let recipe = Recipe {
            reference: PAUSE_IMAGE.into(),
            entrypoint: vec!["/balsa".into(), "pause".into()],
            cmd: Vec::new(),
            entries: image::program(&self.options.pause, "balsa")?,
        };
        let path = self.options.state.join("pause.tar");
        image::write(&recipe, &path)?;
        let imported = import(&socket, &path).await;
        std::fs::remove_file(&path).map_err(Error::io("removing", &path))?;
        imported
    }

    /// Starts it again whenever it has died. Runs for as long as the worker does.
    pub async fn supervise(self) {
        let (mut n_failures, mut since) = (0, tokio::time::Instant::now());
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            if self.is_alive() {
                if since.elapsed() > STEADY_AFTER {
                    n_failures = 0;
                }
                continue;
            }
            tokio::time::sleep(Duration::from_millis(RESTART.delay_ms(n_failures))).await;
            tracing::warn!(n_failures, "containerd has ended; starting it again");
            n_failures += 1;
            since = tokio::time::Instant::now();
            let started = match self.spawn() {
                Ok(()) => self.wait_ready().await,
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                tracing::error!(%error, "containerd could not be started again");
            }
        }
    }
}

/// Ends a private containerd and everything that runs in it, and lets go of its mounts and control
/// groups: for a worker that is not to come back. Works on what is left after any crash.
pub fn clean_up(state: &Path, cgroup_parent: &str) {
    use nix::sys::signal::{Signal, kill};
    let end = |pid: i32| {
        if let Err(error) = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL) {
            tracing::debug!(%error, pid, "a process had ended already");
        }
    };
    // The daemon first, so that nothing new starts; then its shims; then what ran in them.
    if let Some(daemon) = ProcessId::read(&state.join("containerd.pid")).filter(ProcessId::is_alive) {
        end(daemon.pid);
    }
    let socket = Daemon::socket(state).display().to_string();
    for pid in processes() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("containerd-shim") && line.contains(&socket) {
            end(pid);
        }
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let left = cgroup::processes(cgroup_parent);
        if left.is_empty() {
            break;
        }
        left.into_iter().for_each(end);
        if std::time::Instant::now() > deadline {
            tracing::warn!(group = cgroup_parent, "processes of ended containers do not go away");
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    unmount_below(state);
    cgroup::remove(cgroup_parent);
    forget_networks(state);
}

/// Removes what CNI remembers of sandboxes in network namespaces under `state`: nobody will ask it to
/// take them down any more.
fn forget_networks(state: &Path) {
    let below = format!("{}/", state.display());
    for entry in std::fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten() {
        let told = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if told.contains(&below)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(%error, path = %entry.path().display(), "a file of CNI's is left");
        }
    }
}

fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
}

/// Where something is mounted; none where that cannot be read.
pub fn mount_points() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    // The kernel writes a blank in a path as \040.
    mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(|path| path.replace("\\040", " ")).collect()
}

/// Unmounts everything mounted at or below `dir`, the innermost first.
pub fn unmount_below(dir: &Path) {
    let mut below: Vec<String> = mount_points().into_iter().filter(|path| Path::new(path).starts_with(dir)).collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in below {
        if let Err(error) = nix::mount::umount2(path.as_str(), nix::mount::MntFlags::MNT_DETACH) {
            tracing::warn!(%error, path, "a mount is left");
        }
    }
}

async fn ctr(socket: &Path, words: &[&str]) -> Result<String, Error> {
    let mut command = tokio::process::Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io"]).args(words).stdin(Stdio::null());
    let output = command.kill_on_drop(true).output();
    let output = match tokio::time::timeout(Duration::from_secs(120), output).await {
        Ok(output) => output.map_err(Error::io("starting", Path::new("ctr")))?,
        Err(_) => return Err(Error::Failed(format!("ctr {} took longer than 120 s", words.join(" ")))),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(Error::Failed(format!("ctr {}: {}", words.join(" "), text(&output.stderr)))),
    }
}

/// The names of the images that a containerd has.
pub async fn image_names(socket: &Path) -> Result<Vec<String>, Error> {
    Ok(ctr(socket, &["images", "list", "--quiet"]).await?.lines().map(ToString::to_string).collect())
}

/// Imports every image of a tar: an OCI layout, or what `docker save` writes.
pub async fn import(socket: &Path, tar: &Path) -> Result<(), Error> {
    ctr(socket, &["images", "import", &tar.display().to_string()]).await.map(drop)
}

fn config(options: &DaemonOptions) -> String {
    let quoted = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
    let state = &options.state;
    let registries = match &options.registries {
        Some(dir) => format!("  [plugins.\"io.containerd.grpc.v1.cri\".registry]\n    config_path = {}\n", quoted(dir)),
        None => String::new(),
    };
    // oom_score and restrict_oom_score_adj: a machine that withholds CAP_SYS_RESOURCE refuses scores
    // below our own, and would start no sandbox at all.
    // netns_mounts_under_state_dir and runc's Root: their defaults are shared with other containerds.
    // stream_server: CRI's own streams are not used, so they listen where nobody else reaches them.
    format!(
        r#"version = 2
root = {root}
state = {own_state}
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]

[grpc]
  address = {socket}

[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  netns_mounts_under_state_dir = true
  stream_server_address = "{stream}"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {cni_bin}
    conf_dir = {cni_conf}
{registries}  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = {runc}
        SystemdCgroup = false
"#,
        root = quoted(&options.root.join("data")),
        own_state = quoted(&state.join("containerd")),
        socket = quoted(&Daemon::socket(state)),
        stream = options.stream_address,
        cni_bin = quoted(cni_folder().unwrap_or(Path::new(CNI_FOLDERS[0]))),
        cni_conf = quoted(&options.cni_conf),
        runc = quoted(&state.join("runc")),
    )
}
