//! Containers as plain processes. No root, no images, and no isolation: for laptops and first contact.

use crate::process_id::ProcessId;
use crate::shim::{ShimSpec, ShimState, read_state};
use crate::{
    ContainerInfo, ContainerSpec, ContainerState, Error, ExecOutput, ExecStream, Image, Runtime, SandboxInfo,
    SandboxSpec, Terminal, env_map, files,
};
use async_trait::async_trait;
use bytes::Bytes;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use objects::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

/// How often the end of a process is looked for while it is being stopped.
const POLL: Duration = Duration::from_millis(20);
/// A shim writes its first state within this, or it has died.
const SHIM_START_MAX: Duration = Duration::from_secs(10);

pub struct ProcessRuntime {
    dir: PathBuf,
    shim: PathBuf,
    host_ip: String,
}

#[derive(Serialize, Deserialize)]
struct SavedSandbox {
    uid: String,
    name: String,
    namespace: String,
    attempt: u32,
    ready: bool,
}

#[derive(Serialize, Deserialize)]
struct SavedContainer {
    name: String,
    attempt: u32,
    image: String,
    env: Vec<(String, String)>,
    working_dir: String,
}

fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::Failed(error.to_string()))?;
    files::replace(path, bytes).map_err(Error::io("writing", path))
}

fn load<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    paths.sort();
    paths
}

fn ended(started: Timestamp, finished: Timestamp, code: i32, reason: String) -> ContainerState {
    ContainerState::Exited { started, finished, code, reason, message: String::new() }
}

impl ProcessRuntime {
    /// `dir` keeps the state; `shim` is the binary whose hidden verb runs a container.
    pub fn new(dir: PathBuf, shim: PathBuf, host_ip: String) -> ProcessRuntime {
        ProcessRuntime { dir, shim, host_ip }
    }

    fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.dir.join("pods").join(id)
    }

    /// A container's id is `SANDBOX.NAME.ATTEMPT`; its folder lies in its sandbox's.
    fn container_dir(&self, id: &str) -> PathBuf {
        let sandbox = id.split('.').next().unwrap_or("");
        self.sandbox_dir(sandbox).join(id)
    }

    fn state(&self, dir: &Path) -> ContainerState {
        match read_state(dir) {
            Some(ShimState::Exited { started, finished, code, reason }) => ended(started, finished, code, reason),
            Some(ShimState::Running { shim, pid, started }) => {
                // The shim reports the end; if it was killed, its container is as good as ended.
                if shim.is_alive() || pid.is_alive() {
                    ContainerState::Running { started }
                } else {
                    match read_state(dir) {
                        Some(ShimState::Exited { started, finished, code, reason }) => {
                            ended(started, finished, code, reason)
                        }
                        _ => ended(started, started, 255, "Unknown".into()),
                    }
                }
            }
            None => ContainerState::Created,
        }
    }

    fn containers(&self, sandbox: &Path) -> Vec<ContainerInfo> {
        let info = |dir: PathBuf| {
            let saved: SavedContainer = load(&dir.join("container.json"))?;
            let id = dir.file_name()?.to_string_lossy().into_owned();
            let state = self.state(&dir);
            let SavedContainer { name, attempt, image, .. } = saved;
            Some(ContainerInfo { id, name, attempt, image, image_id: String::new(), state })
        };
        children(sandbox).into_iter().filter_map(info).collect()
    }

    /// The processes of a container: the shim and the leader of its group.
    fn pids(&self, id: &str) -> Option<(ProcessId, ProcessId)> {
        match read_state(&self.container_dir(id))? {
            ShimState::Running { shim, pid, .. } => Some((shim, pid)),
            ShimState::Exited { .. } => None,
        }
    }

    async fn wait_gone(&self, id: &str, patience: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.state(&self.container_dir(id)) {
                ContainerState::Exited { .. } => return true,
                _ if tokio::time::Instant::now() >= deadline => return false,
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn command(&self, id: &str, command: &[String]) -> Result<tokio::process::Command, Error> {
        let saved: SavedContainer = load(&self.container_dir(id).join("container.json"))
            .ok_or_else(|| Error::NotFound(format!("container {id} does not exist")))?;
        let (program, args) =
            command.split_first().ok_or_else(|| Error::Failed("you must specify at least one command".into()))?;
        let mut command = tokio::process::Command::new(program);
        command.args(args).env_clear().envs(env_map(&saved.env)).kill_on_drop(true).process_group(0);
        if !saved.working_dir.is_empty() {
            command.current_dir(saved.working_dir);
        }
        Ok(command)
    }
}

/// Signals a group; one that is gone already is what was wanted.
fn signal_group(pid: &ProcessId, signal: Signal) {
    if let Err(error) = killpg(Pid::from_raw(pid.pid), signal)
        && error != nix::errno::Errno::ESRCH
    {
        tracing::warn!(pid = pid.pid, %error, "signalling a container failed");
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn version(&self) -> String {
        format!("process://{}", env!("CARGO_PKG_VERSION"))
    }

    async fn healthy(&self) -> Result<(), Error> {
        let pods = self.dir.join("pods");
        std::fs::create_dir_all(&pods).map_err(Error::io("creating", &pods))
    }

    async fn list(&self) -> Result<Vec<SandboxInfo>, Error> {
        let info = |dir: PathBuf| {
            let saved: SavedSandbox = load(&dir.join("sandbox.json"))?;
            Some(SandboxInfo {
                id: dir.file_name()?.to_string_lossy().into_owned(),
                uid: saved.uid,
                name: saved.name,
                namespace: saved.namespace,
                attempt: saved.attempt,
                ready: saved.ready,
                ips: vec![self.host_ip.clone()],
                containers: self.containers(&dir),
            })
        };
        Ok(children(&self.dir.join("pods")).into_iter().filter_map(info).collect())
    }

    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<String, Error> {
        let id = format!("{}-{}", spec.uid, spec.attempt);
        let dir = self.sandbox_dir(&id);
        std::fs::create_dir_all(&dir).map_err(Error::io("creating", &dir))?;
        std::fs::create_dir_all(&spec.log_dir).map_err(Error::io("creating", &spec.log_dir))?;
        let saved = SavedSandbox {
            uid: spec.uid.clone(),
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            attempt: spec.attempt,
            ready: true,
        };
        save(&dir.join("sandbox.json"), &saved)?;
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let dir = self.sandbox_dir(id);
        for container in self.containers(&dir) {
            self.stop_container(&container.id, Duration::ZERO).await?;
        }
        if let Some(saved) = load::<SavedSandbox>(&dir.join("sandbox.json")) {
            save(&dir.join("sandbox.json"), &SavedSandbox { ready: false, ..saved })?;
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.stop_sandbox(id).await?;
        let dir = self.sandbox_dir(id);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing", &dir)(error)),
            _ => Ok(()),
        }
    }

    async fn image(&self, _: &str) -> Result<Option<Image>, Error> {
        Ok(Some(Image { user: nix::unistd::geteuid().to_string() }))
    }

    async fn pull_image(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn start_container(&self, sandbox: &str, pod: &SandboxSpec, spec: &ContainerSpec) -> Result<String, Error> {
        let id = format!("{sandbox}.{}.{}", spec.name, spec.attempt);
        let dir = self.container_dir(&id);
        if dir.join("spec.json").exists() {
            // This very attempt was started before; a second process must not be.
            return Ok(id);
        }
        std::fs::create_dir_all(&dir).map_err(Error::io("creating", &dir))?;
        let log = pod.log_dir.join(&spec.log_file);
        if let Some(parent) = log.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io("creating", parent))?;
        }
        let mut env =
            vec![("PATH".to_string(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_string())];
        env.push(("HOSTNAME".into(), pod.hostname.clone()));
        env.extend(spec.env.iter().cloned());
        let argv: Vec<String> = spec.command.iter().chain(&spec.args).cloned().collect();
        if argv.is_empty() {
            return Err(Error::Failed("the process runtime has no images: the container must name its command".into()));
        }
        let saved = SavedContainer {
            name: spec.name.clone(),
            attempt: spec.attempt,
            image: spec.image.clone(),
            env: env.clone(),
            working_dir: spec.working_dir.clone(),
        };
        save(&dir.join("container.json"), &saved)?;
        save(&dir.join("spec.json"), &ShimSpec { argv, env, working_dir: spec.working_dir.clone(), log })?;
        let mut child = std::process::Command::new(&self.shim);
        child.arg("process-shim").arg(&dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut child, 0);
        let mut child = child.spawn().map_err(Error::io("starting", &self.shim))?;
        // The shim outlives this process; while we live, somebody must reap it.
        std::thread::spawn(move || drop(child.wait()));
        let deadline = tokio::time::Instant::now() + SHIM_START_MAX;
        while read_state(&dir).is_none() {
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::Failed("the container's shim did not start".into()));
            }
            tokio::time::sleep(POLL).await;
        }
        match read_state(&dir) {
            Some(ShimState::Exited { reason, .. }) if reason == "StartError" => {
                let log = std::fs::read_to_string(pod.log_dir.join(&spec.log_file)).unwrap_or_default();
                let why = log
                    .lines()
                    .last()
                    .and_then(|line| line.splitn(4, ' ').nth(3))
                    .unwrap_or("the command could not be started");
                Err(Error::Failed(why.to_string()))
            }
            _ => Ok(id),
        }
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let Some((shim, pid)) = self.pids(id) else { return Ok(()) };
        if !grace.is_zero() {
            signal_group(&pid, Signal::SIGTERM);
            if self.wait_gone(id, grace).await {
                return Ok(());
            }
        }
        signal_group(&pid, Signal::SIGKILL);
        if self.wait_gone(id, Duration::from_secs(5)).await {
            return Ok(());
        }
        // A shim that does not see its child's end is ended too.
        if let Err(error) = kill(Pid::from_raw(shim.pid), Signal::SIGKILL) {
            tracing::debug!(%error, "the shim is gone already");
        }
        match self.wait_gone(id, Duration::from_secs(1)).await {
            true => Ok(()),
            false => Err(Error::Failed(format!("container {id} does not end"))),
        }
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let dir = self.container_dir(id);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing", &dir)(error)),
            _ => Ok(()),
        }
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, Error> {
        let mut command = self.command(id, command)?;
        let output = command.stdin(Stdio::null()).output();
        match tokio::time::timeout(timeout, output).await {
            Ok(Ok(output)) => {
                let mut text = output.stdout;
                text.extend_from_slice(&output.stderr);
                Ok(ExecOutput { code: output.status.code().unwrap_or(137), output: text })
            }
            Ok(Err(error)) => Err(Error::Failed(error.to_string())),
            Err(_) => Err(Error::Failed(format!("command timed out after {} s", timeout.as_secs()))),
        }
    }

    async fn exec(&self, id: &str, command: &[String], _: Option<Terminal>, stdin: bool) -> Result<ExecStream, Error> {
        let mut command = self.command(id, command)?;
        command.stdin(if stdin { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Error::Failed(error.to_string()))?;
        let (input, mut from_client) = mpsc::channel::<(u32, Bytes)>(16);
        let (to_client, output) = mpsc::channel(16);
        let (done, exit) = oneshot::channel();
        let mut pipe_in = child.stdin.take();
        let (abandon, abandoned) = oneshot::channel::<()>();
        let feeder = tokio::spawn(async move {
            while let Some((channel, data)) = from_client.recv().await {
                match channel {
                    0 => {
                        let Some(pipe) = pipe_in.as_mut() else { continue };
                        if pipe.write_all(&data).await.is_err() {
                            pipe_in = None;
                        }
                    }
                    255 => pipe_in = None,
                    _ => {}
                }
            }
            // Whoever asked is gone.
            drop(abandon);
        });
        let out = child.stdout.take().map(|pipe| forward(pipe, 1, to_client.clone()));
        let err = child.stderr.take().map(|pipe| forward(pipe, 2, to_client));
        tokio::spawn(async move {
            let ended = async {
                for pump in [out, err].into_iter().flatten() {
                    drop(pump.await);
                }
            };
            tokio::select! {
                () = ended => {}
                _ = abandoned => {
                    if let Err(error) = child.start_kill() {
                        tracing::debug!(%error, "an abandoned command has ended already");
                    }
                }
            }
            let code = child.wait().await.map(|status| status.code().unwrap_or(137));
            drop(done.send(code.map_err(|error| Error::Failed(error.to_string()))));
            feeder.abort();
        });
        Ok(ExecStream { input, output, exit })
    }

    /// Shims notice a renamed log by themselves.
    async fn reopen_log(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
}

fn forward(
    mut pipe: impl tokio::io::AsyncRead + Unpin + Send + 'static,
    channel: u32,
    to_client: mpsc::Sender<(u32, Bytes)>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n) = pipe.read(&mut buffer).await {
            if n == 0 || to_client.send((channel, Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                return;
            }
        }
    })
}
