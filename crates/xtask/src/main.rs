//! The project's automation: `cargo xtask test`, `demo`, `bench`. Nothing here is needed to use
//! Balsa; everything needed to build and test it is.

mod baseline;
mod bench;
mod check;
mod demo;
mod failover;
mod idle;
mod kills;
mod setup;
mod test;

use anyhow::{Result, bail};
use setup::Purpose;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

const HELP: &str = "\
cargo xtask test [--quick] [--no-skips] [-- FILTER]
                            every test; --quick leaves out those that start
                            clusters; --no-skips fails if any was left out
cargo xtask demo            installs what is missing, builds, starts three
                            masters and three workers, runs an example, kills
                            the leader, and leaves the cluster running
cargo xtask bench --check [--renew] [--etcd PATH] [--no-etcd]
                            a short `bench store`, beside etcd where there is
                            one, and `bench idle`: fails when a figure is worse
                            than crates/bench/baseline.json allows (2 min, 3
                            with etcd); --renew writes that file instead
cargo xtask bench idle      memory of an idle master and worker, and the time
                            of `dev up`; fails when a target is missed
cargo xtask bench kills [N] N leaders killed with -9 (30) idle, in a rollout,
                            and while 200 pods are created: what each costs;
                            fails when writes pause for longer than design asks
cargo xtask bench store [--quick] [--etcd PATH] [--no-etcd] [-o json] ...
                            writes, reads and watches beside the distribution's
                            etcd and each --etcd PATH (about 8 min; --quick: 2);
                            fails when a target is missed; `bench store --help`
                            lists its flags
cargo xtask bench scale     a million objects: memory, restart, catch-up, and
                            lists beside writes
cargo xtask bench churn     20 million writes over few keys: nothing may grow
cargo xtask bench steady    writes for an hour beside --beside COMMAND, such as
                            a build, with an election timing (--profile): the
                            leader must not change
cargo xtask bench failover [--kills N] [--others N] [--report DIR] [-o json]
                            N leaders killed with -9 (1000, about 35 min), and
                            frozen, cut off and stopped (100 each) under 500
                            writes/s: ms until writes and binds go on; fails
                            when a target is missed
cargo xtask build           the release binary, with RocksDB from the cache";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test", flags @ ..] => test::run(flags),
        ["demo"] => demo::run(),
        ["bench", "--check", flags @ ..] => check::bench(flags),
        ["bench", "idle"] => idle::bench(),
        ["bench", "kills"] => kills::bench("30"),
        ["bench", "kills", n] => kills::bench(n),
        ["bench", "failover", flags @ ..] => failover::bench(flags),
        ["bench", "store", flags @ ..] => bench::store(flags),
        ["bench", what @ ("scale" | "churn" | "steady"), flags @ ..] => bench::alone(what, flags),
        ["build"] => build(&setup::prepare(Purpose::Build)?),
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("{} is not known\n\n{HELP}", other.join(" ")),
    }
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("this file lies in the workspace")
}

pub(crate) fn binary() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("release/balsa")
}

/// Says what is done and about how long it takes, does it, and says how long it took.
pub(crate) fn step(what: &str, about: &str, command: &mut Command) -> Result<()> {
    eprintln!("== {what} ({about})");
    let started = Instant::now();
    let status = command.current_dir(root()).status()?;
    if !status.success() {
        bail!("{what} failed ({status}); the command was {command:?}");
    }
    eprintln!("== {what}: done in {} s", started.elapsed().as_secs());
    Ok(())
}

/// cargo, told where the prebuilt RocksDB is.
pub(crate) fn cargo(setup: &setup::Setup) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.env("ROCKSDB_LIB_DIR", &setup.rocksdb).env("ROCKSDB_STATIC", "1");
    command
}

pub(crate) fn build(setup: &setup::Setup) -> Result<()> {
    let mut command = cargo(setup);
    command.args(["build", "--release", "--workspace", "--locked"]);
    step("building", "about 8 min the first time on 2 cores, seconds after", &mut command)
}
