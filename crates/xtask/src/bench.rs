//! `cargo xtask bench store`, `scale`, `churn` and `steady`: what `balsa-bench` measures.

use crate::setup::{self, Purpose};
use crate::{binary, build, root};
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `balsa-bench` of the release binary, with its data on the disk that this clone lies on.
pub(crate) fn command(what: &str) -> Command {
    let mut command = Command::new(binary().with_file_name("balsa-bench"));
    command.arg(what).arg("--balsa").arg(binary()).arg("--dir").arg(root().join("target"));
    command
}

/// What measures Balsa alone: `scale`, `churn` and `steady`.
pub(crate) fn alone(what: &str, flags: &[&str]) -> Result<()> {
    if !flags.iter().any(|flag| ["-h", "--help"].contains(flag)) {
        build(&setup::prepare(Purpose::Build)?)?;
    }
    Err(command(what).args(flags).exec()).context("running balsa-bench; `cargo xtask build` makes it")
}

/// Hands over to `balsa-bench`, with the distribution's etcd beside Balsa when it can be had.
pub(crate) fn store(flags: &[&str]) -> Result<()> {
    let asks = flags.iter().any(|flag| ["-h", "--help"].contains(flag));
    if !asks {
        build(&setup::prepare(Purpose::Build)?)?;
    }
    let mut command = command("store");
    let alone = flags.contains(&"--no-etcd");
    if !asks && !alone {
        match setup::etcd()? {
            Some(etcd) => drop(command.arg("--etcd").arg(etcd)),
            None if flags.iter().any(|flag| flag.starts_with("--etcd")) => {}
            None => bail!(
                "no etcd server is installed and none could be. Install etcd-server, as root: apt-get install etcd-server; \
                 or name a server with --etcd PATH; --no-etcd measures Balsa alone and judges no target"
            ),
        }
    }
    command.args(flags.iter().filter(|flag| **flag != "--no-etcd"));
    // In this process's place, so that Ctrl-C and the exit code are the bench's.
    Err(command.exec()).context("running balsa-bench; `cargo xtask build` makes it")
}
