//! The process runtime's shim: one small process per container that outlives the worker.
//!
//! It starts the command in a process group of its own, writes its output as CRI log lines
//! (`TIME stream F text`), and leaves the exit code in a file when it ends.

use crate::files;
use crate::process_id::ProcessId;
use objects::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// What the shim is to run; `spec.json` in the container's folder.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShimSpec {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub log: PathBuf,
}

/// What became of it; `state.json` in the container's folder, replaced as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ShimState {
    Running { shim: ProcessId, pid: ProcessId, started: Timestamp },
    Exited { started: Timestamp, finished: Timestamp, code: i32, reason: String },
}

/// Log lines longer than this are split, as CRI runtimes do.
const LINE_MAX: u64 = 16 * 1024;

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn write_state(dir: &Path, state: &ShimState) -> std::io::Result<()> {
    files::replace(&dir.join("state.json"), serde_json::to_vec(state)?)
}

pub fn read_state(dir: &Path) -> Option<ShimState> {
    serde_json::from_slice(&std::fs::read(dir.join("state.json")).ok()?).ok()
}

/// Runs the shim in `dir` to the end of its command. Called by the binary's hidden verb.
pub fn run(dir: &Path) -> std::io::Result<()> {
    let spec: ShimSpec = serde_json::from_slice(&std::fs::read(dir.join("spec.json"))?)?;
    let started = now();
    let fail = |error: std::io::Error| {
        let exited = ShimState::Exited { started, finished: now(), code: 128, reason: "StartError".into() };
        write_state(dir, &exited)?;
        Err(error)
    };
    let log = match Log::open(spec.log.clone()) {
        Ok(log) => Arc::new(Mutex::new(log)),
        Err(error) => return fail(error),
    };
    let Some((program, args)) = spec.argv.split_first() else {
        return fail(std::io::Error::other("the container names no command"));
    };
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(spec.env).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    if !spec.working_dir.is_empty() {
        command.current_dir(&spec.working_dir);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            log_line(&log, "stderr", "F", format!("cannot start {program:?}: {error}").as_bytes());
            return fail(error);
        }
    };
    let pid = ProcessId::of(child.id());
    let group = nix::unistd::Pid::from_raw(pid.pid);
    write_state(dir, &ShimState::Running { shim: ProcessId::of(std::process::id()), pid, started })?;
    let out = child.stdout.take().map(|pipe| pump(pipe, "stdout", log.clone()));
    let err = child.stderr.take().map(|pipe| pump(pipe, "stderr", log.clone()));
    let status = child.wait()?;
    // Whatever the command left behind in its group ends with it, as in a container.
    if let Err(error) = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL)
        && error != nix::errno::Errno::ESRCH
    {
        tracing::debug!(%error, "ending the group failed");
    }
    for pump in [out, err].into_iter().flatten() {
        drop(pump.join());
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let reason = if code == 0 { "Completed" } else { "Error" }.to_string();
    write_state(dir, &ShimState::Exited { started, finished: now(), code, reason })
}

fn pump(pipe: impl Read + Send + 'static, stream: &'static str, log: Arc<Mutex<Log>>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line.last() == Some(&b'\n') => log_line(&log, stream, "F", &line[..line.len() - 1]),
                Ok(_) => log_line(&log, stream, "P", &line),
            }
        }
    })
}

/// The log file, opened anew once the worker has renamed it away.
struct Log {
    path: PathBuf,
    file: File,
    inode: u64,
}

impl Log {
    fn open(path: PathBuf) -> std::io::Result<Log> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let inode = file.metadata()?.ino();
        Ok(Log { path, file, inode })
    }

    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if std::fs::metadata(&self.path).map(|meta| meta.ino()).ok() != Some(self.inode) {
            *self = Log::open(self.path.clone())?;
        }
        self.file.write_all(line)
    }
}

fn log_line(log: &Mutex<Log>, stream: &str, tag: &str, text: &[u8]) {
    let mut line = format!("{} {stream} {tag} ", now().rfc3339_micro()).into_bytes();
    line.extend_from_slice(text);
    line.push(b'\n');
    // A full disk must not end the container: its output is lost, it is not.
    if let Ok(mut log) = log.lock() {
        drop(log.write(&line));
    }
}
