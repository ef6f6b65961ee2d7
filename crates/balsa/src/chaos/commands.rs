//! An operator's own commands for the machines of a cluster: what begins and what ends each fault, each run with
//! a deadline, and those that heal more than once.

use anyhow::{Context, Result, bail};
use chaos::Fault;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A command that takes longer is killed, and has failed.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// So often is a command tried that heals, and so far apart.
const TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);

/// Run by `sh -c`; {name} and {address} stand for the member's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Commands {
    kill: Option<String>,
    stop: Option<String>,
    start: Option<String>,
    pause: Option<String>,
    resume: Option<String>,
    cut: Option<String>,
    heal: Option<String>,
    slow_disk: Option<String>,
    full_disk: Option<String>,
    power_cut: Option<String>,
    clock_skew: Option<String>,
    bit_flip: Option<String>,
    failing_disk: Option<String>,
    /// Ends a slow, full or failing disk, a power cut, a skewed clock or a damaged disk, and leaves the member
    /// running.
    restore: Option<String>,
}

impl Commands {
    pub(super) fn read(path: &Path) -> Result<Commands> {
        let text = std::fs::read_to_string(path).with_context(|| format!("--commands: reading {}", path.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("--commands: {} is not valid", path.display()))
    }

    /// (what begins a fault, what ends it), each with its field.
    pub(super) fn of(&self, fault: Fault) -> [(&'static str, Option<&String>); 2] {
        let start = ("start", self.start.as_ref());
        let restore = ("restore", self.restore.as_ref());
        match fault {
            Fault::Kill => [("kill", self.kill.as_ref()), start],
            Fault::Stop => [("stop", self.stop.as_ref()), start],
            Fault::Pause => [("pause", self.pause.as_ref()), ("resume", self.resume.as_ref())],
            Fault::Cut => [("cut", self.cut.as_ref()), ("heal", self.heal.as_ref())],
            Fault::SlowDisk => [("slow-disk", self.slow_disk.as_ref()), restore],
            Fault::FullDisk => [("full-disk", self.full_disk.as_ref()), restore],
            Fault::PowerCut => [("power-cut", self.power_cut.as_ref()), restore],
            Fault::ClockSkew => [("clock-skew", self.clock_skew.as_ref()), restore],
            Fault::BitFlip => [("bit-flip", self.bit_flip.as_ref()), restore],
            Fault::FailingDisk => [("failing-disk", self.failing_disk.as_ref()), restore],
        }
    }

    /// Runs what begins a fault on one member.
    pub(super) fn harm(&self, fault: Fault, name: &str, address: &str) -> Result<()> {
        let [(_, command), _] = self.of(fault);
        let command = filled(command.context("no command begins this fault")?, name, address);
        shell(&command, COMMAND_MAX).with_context(|| format!("{name}: {command:?}"))
    }

    /// What ends it, as it would be run.
    pub(super) fn ends(&self, fault: Fault, name: &str, address: &str) -> Option<String> {
        let [_, (_, command)] = self.of(fault);
        Some(filled(command?, name, address))
    }

    /// Runs what ends it, more than once if it fails.
    pub(super) fn end(&self, fault: Fault, name: &str, address: &str) -> Result<()> {
        let command = self.ends(fault, name, address).context("no command ends this fault")?;
        let healed = again_and_again(TRIES, BETWEEN_TRIES, || shell(&command, COMMAND_MAX));
        healed.with_context(|| format!("{name} is still harmed; run by hand: {command}"))
    }
}

fn filled(command: &str, name: &str, address: &str) -> String {
    command.replace("{name}", name).replace("{address}", address)
}

/// Tries so often at most, and returns the last error.
fn again_and_again(tries: u32, between: Duration, mut one: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 1..tries {
        match one() {
            Ok(()) => return Ok(()),
            Err(error) => tracing::warn!("trying again: {error:#}"),
        }
        std::thread::sleep(between);
    }
    one()
}

/// Runs a command in a process group of its own, so that a Ctrl-C does not reach it and its deadline ends all of
/// it.
fn shell(command: &str, patience: Duration) -> Result<()> {
    // No pipe, which would stay open for as long as a member does that the command has started.
    let mut said = File::from(memfd_create("said", MFdFlags::MFD_CLOEXEC).context("making room for what is said")?);
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone()?)
        .process_group(0)
        .spawn()
        .context("starting sh")?;
    let Some(status) = ended(&mut child, patience)? else {
        killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL).context("ending a command")?;
        child.wait()?;
        bail!("was ended as it took longer than {} s", patience.as_secs());
    };
    if !status.success() {
        let mut text = Vec::new();
        said.rewind()?;
        said.read_to_end(&mut text)?;
        bail!("ended with {status}: {}", String::from_utf8_lossy(&text).trim());
    }
    Ok(())
}

/// How a child ended; `None` if it has not in time.
fn ended(child: &mut Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() > deadline => return Ok(None),
            None => std::thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_says_why_and_one_that_hangs_is_ended() {
        let long = Duration::from_secs(30);
        assert!(shell("true", long).is_ok());
        let failed = shell("echo no such host >&2; exit 3", long).unwrap_err().to_string();
        assert!(failed.contains("exit status: 3") && failed.ends_with("no such host"), "{failed}");
        let begun = Instant::now();
        assert!(
            shell("sleep 1000 & sleep 1000", Duration::from_millis(50)).unwrap_err().to_string().contains("longer")
        );
        shell("sleep 5 &", long).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(4), "what it leaves behind is not waited for");
    }

    #[test]
    fn what_heals_is_tried_more_than_once_and_named_when_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let tries = dir.path().join("tries");
        let third = format!("echo >> {0}; test $(wc -l < {0}) -eq 3", tries.display());
        again_and_again(3, Duration::ZERO, || shell(&third, COMMAND_MAX)).unwrap();
        assert!(again_and_again(3, Duration::ZERO, || shell("false", COMMAND_MAX)).is_err());
        let commands = Commands { heal: Some("false {name} {address}".into()), ..Commands::default() };
        let told = format!("{:#}", commands.end(Fault::Cut, "m1", "10.0.0.1").unwrap_err());
        assert!(told.starts_with("m1 is still harmed; run by hand: false m1 10.0.0.1: ended with"), "{told}");
    }
}
