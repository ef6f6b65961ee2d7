//! `exec` with streams, through containerd's tasks and named pipes.
//!
//! CRI's own streaming ends in a WebSocket protocol that cannot close standard input, so that
//! `echo hi | kubectl exec -i POD -- cat` would never end. containerd's task service can.

use super::failed;
use crate::{Error, ExecStream, Terminal};
use bytes::Bytes;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tonic::Request;
use tonic::transport::Channel;

mod tasks {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("containerd.services.tasks.v1");
}
mod containers {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("containerd.services.containers.v1");
}

use tasks::tasks_client::TasksClient;

/// Where CRI keeps its containers within containerd.
const NAMESPACE: &str = "k8s.io";
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Frames waiting in each direction.
const FRAMES_MAX: usize = 16;
/// What is written before the end of a command arrives within this after it; a process it left behind
/// may hold the pipe for ever.
const DRAIN_MAX: Duration = Duration::from_secs(2);

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const RESIZE: u32 = 4;
const CLOSE: u32 = 255;

fn scoped<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", NAMESPACE.parse().expect("it is a valid header"));
    request
}

/// The named pipes of one command, removed with this value.
struct Pipes {
    dir: PathBuf,
}

impl Pipes {
    fn make(dir: PathBuf, names: &[&str]) -> std::io::Result<Pipes> {
        std::fs::create_dir_all(&dir)?;
        let pipes = Pipes { dir };
        for name in names {
            mkfifo(&pipes.path(name), Mode::from_bits_truncate(0o600))?;
        }
        Ok(pipes)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Opens one end; returns once somebody has the other, or `release` was called.
    fn open(&self, name: &str, write: bool) -> tokio::task::JoinHandle<std::io::Result<File>> {
        let path = self.path(name);
        tokio::task::spawn_blocking(move || OpenOptions::new().read(!write).write(write).open(path))
    }

    /// Lets go of opens that wait for an end that will never come.
    fn release(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let both = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(entry.path());
            drop(both);
        }
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.release();
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::debug!(%error, "the pipes of an exec are left");
        }
    }
}

/// The container's own process as a template for the command.
async fn process(channel: Channel, id: &str, command: &[String], terminal: Option<Terminal>) -> Result<Vec<u8>, Error> {
    let mut client = containers::containers_client::ContainersClient::new(channel);
    let call = scoped(containers::GetContainerRequest { id: id.into() });
    let container = client.get(call).await.map_err(failed)?.into_inner().container.unwrap_or_default();
    let spec: Value = serde_json::from_slice(&container.spec.unwrap_or_default().value)
        .map_err(|error| Error::Failed(format!("the container's spec is not JSON: {error}")))?;
    let mut process =
        spec.get("process").cloned().ok_or_else(|| Error::Failed("the container has no process".into()))?;
    process["args"] = command.into();
    process["terminal"] = terminal.is_some().into();
    if let Some(Terminal { width, height }) = terminal {
        if let Some(env) = process.get_mut("env").and_then(Value::as_array_mut) {
            env.push("TERM=xterm".into());
        }
        if width > 0 && height > 0 {
            process["consoleSize"] = json!({"width": width, "height": height});
        }
    }
    Ok(process.to_string().into_bytes())
}

pub(super) async fn start(
    channel: Channel,
    pipes_dir: &Path,
    id: &str,
    command: &[String],
    terminal: Option<Terminal>,
    stdin: bool,
) -> Result<ExecStream, Error> {
    let tty = terminal.is_some();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let exec_id = format!("balsa-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let spec = process(channel.clone(), id, command, terminal).await?;
    let mut names = vec!["out"];
    names.extend((!tty).then_some("err"));
    names.extend(stdin.then_some("in"));
    let failed_pipes = |source| Error::Io { action: "making pipes in", path: pipes_dir.display().to_string(), source };
    let pipes = Pipes::make(pipes_dir.join(&exec_id), &names).map_err(failed_pipes)?;
    let named = |name: &str| match names.contains(&name) {
        true => pipes.path(name).display().to_string(),
        false => String::new(),
    };
    // Both ends must open for either to: ours wait while containerd opens its own.
    let open_out = pipes.open("out", false);
    let open_err = (!tty).then(|| pipes.open("err", false));
    let open_in = stdin.then(|| pipes.open("in", true));
    let mut client = TasksClient::new(channel);
    let call = tasks::ExecProcessRequest {
        container_id: id.into(),
        stdin: named("in"),
        stdout: named("out"),
        stderr: named("err"),
        terminal: tty,
        spec: Some(prost_types::Any { type_url: PROCESS_TYPE.into(), value: spec }),
        exec_id: exec_id.clone(),
    };
    client.exec(scoped(call)).await.map_err(failed)?;
    let mut command = Command { client, container: id.into(), exec: exec_id, pipes };
    let mut waiting = command.client.clone();
    let call = scoped(tasks::WaitRequest { container_id: id.into(), exec_id: command.exec.clone() });
    let end = tokio::spawn(async move { waiting.wait(call).await });
    let call = scoped(tasks::StartRequest { container_id: id.into(), exec_id: command.exec.clone() });
    if let Err(status) = command.client.start(call).await {
        command.pipes.release();
        command.forget().await;
        end.abort();
        return Err(failed(status));
    }
    let out = opened(open_out).await?;
    let err = match open_err {
        Some(open) => Some(opened(open).await?),
        None => None,
    };
    let input_end = match open_in {
        Some(open) => Some(opened(open).await?),
        None => None,
    };
    Ok(command.carry(out, err, input_end, end))
}

async fn opened(open: tokio::task::JoinHandle<std::io::Result<File>>) -> Result<File, Error> {
    let file = open.await.map_err(|error| Error::Failed(error.to_string()))?;
    file.map_err(|error| Error::Failed(format!("opening a pipe: {error}")))
}

struct Command {
    client: TasksClient<Channel>,
    container: String,
    exec: String,
    pipes: Pipes,
}

type End = tokio::task::JoinHandle<Result<tonic::Response<tasks::WaitResponse>, tonic::Status>>;

impl Command {
    /// Carries bytes until the command has ended; the pipes go with it.
    fn carry(mut self, out: File, err: Option<File>, input_end: Option<File>, end: End) -> ExecStream {
        let (input, from_client) = mpsc::channel::<(u32, Bytes)>(FRAMES_MAX);
        let (to_client, output) = mpsc::channel(FRAMES_MAX);
        let (done, exit) = oneshot::channel();
        let feeder =
            tokio::spawn(feed(self.client.clone(), self.container.clone(), self.exec.clone(), input_end, from_client));
        tokio::spawn(async move {
            let mut pumps = vec![tokio::spawn(pump(out, STDOUT, to_client.clone()))];
            pumps.extend(err.map(|err| tokio::spawn(pump(err, STDERR, to_client.clone()))));
            let ended = tokio::select! {
                ended = end => ended,
                // Nobody listens any more: the command is ended, not left to fill its pipe.
                () = to_client.closed() => {
                    self.kill().await;
                    pumps.iter().for_each(tokio::task::JoinHandle::abort);
                    self.forget().await;
                    feeder.abort();
                    return;
                }
            };
            drop(to_client);
            drop(tokio::time::timeout(DRAIN_MAX, futures::future::join_all(pumps.iter_mut())).await);
            pumps.iter().for_each(tokio::task::JoinHandle::abort);
            let code = match ended {
                Ok(Ok(response)) => Ok(i32::try_from(response.into_inner().exit_status).unwrap_or(255)),
                Ok(Err(status)) => Err(failed(status)),
                Err(error) => Err(Error::Failed(error.to_string())),
            };
            drop(done.send(code));
            self.forget().await;
            feeder.abort();
        });
        ExecStream { input, output, exit }
    }

    async fn kill(&mut self) {
        let call = tasks::KillRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            signal: nix::libc::SIGKILL as u32,
            all: false,
        };
        if let Err(status) = self.client.kill(scoped(call)).await {
            tracing::debug!(%status, "an abandoned command has ended already");
        }
        let call = scoped(tasks::WaitRequest { container_id: self.container.clone(), exec_id: self.exec.clone() });
        drop(tokio::time::timeout(DRAIN_MAX, self.client.wait(call)).await);
    }

    /// containerd keeps an ended command until it is told that nobody asks any more.
    async fn forget(&mut self) {
        let call = tasks::DeleteProcessRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        if let Err(status) = self.client.delete_process(scoped(call)).await {
            tracing::debug!(%status, "containerd did not forget a command");
        }
    }
}

async fn pump(file: File, channel: u32, to_client: mpsc::Sender<(u32, Bytes)>) {
    let Ok(mut pipe) = pipe::Receiver::from_file(file) else { return };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n) = pipe.read(&mut buffer).await {
        if n == 0 || to_client.send((channel, Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
            return;
        }
    }
}

/// Carries the client's frames in: standard input, its end, and the terminal's size.
async fn feed(
    mut client: TasksClient<Channel>,
    container_id: String,
    exec_id: String,
    input_end: Option<File>,
    mut from_client: mpsc::Receiver<(u32, Bytes)>,
) {
    let mut stdin = input_end.and_then(|file| pipe::Sender::from_file(file).ok());
    while let Some((channel, data)) = from_client.recv().await {
        let mut close = false;
        match channel {
            STDIN => match stdin.as_mut() {
                Some(pipe) => close = pipe.write_all(&data).await.is_err(),
                None => tracing::debug!("input without an open standard input is dropped"),
            },
            CLOSE => close = data.first().is_none_or(|channel| u32::from(*channel) == STDIN),
            RESIZE => {
                let Terminal { width, height } = Terminal::parse(&data);
                let call = tasks::ResizePtyRequest {
                    container_id: container_id.clone(),
                    exec_id: exec_id.clone(),
                    width: width.into(),
                    height: height.into(),
                };
                if let Err(status) = client.resize_pty(scoped(call)).await {
                    tracing::debug!(%status, "the terminal was not resized");
                }
            }
            other => tracing::debug!(channel = other, "a frame on an unknown channel is dropped"),
        }
        if close && stdin.take().is_some() {
            let call =
                tasks::CloseIoRequest { container_id: container_id.clone(), exec_id: exec_id.clone(), stdin: true };
            if let Err(status) = client.close_io(scoped(call)).await {
                tracing::debug!(%status, "standard input was not closed");
            }
        }
    }
}
