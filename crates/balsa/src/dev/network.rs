//! The links of a development cluster: a namespace for each member, all plugged into one bridge, and
//! this machine on the same link. Nothing of this machine's own network is changed.

use super::topology::{Topology, cut_rules};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whether members can be hosts of their own here; an error says why not.
pub(crate) fn supported() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces need root");
    }
    for program in ["ip", "nsenter"] {
        if Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            bail!("network namespaces need the program {program:?} (Debian: apt-get install iproute2 util-linux)");
        }
    }
    Ok(())
}

fn run(program: &str, words: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    child.stdin.take().context("it was piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `ip` with words that hold no blanks.
fn ip(words: &str) -> Result<String> {
    run("ip", &words.split_whitespace().collect::<Vec<_>>(), "")
}

pub(crate) fn namespace_path(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

/// Whether the namespace is there; the file without its mount is what a reboot leaves.
fn exists(namespace: &str) -> bool {
    let path = namespace_path(namespace).display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path))
}

fn make_namespace(namespace: &str) -> Result<()> {
    let path = namespace_path(namespace);
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("removing the stale {}", path.display()))?;
    }
    ip(&format!("netns add {namespace}"))?;
    ip(&format!("-n {namespace} link set lo up")).map(drop)
}

/// Whether some other interface of this machine has an address in the cluster's subnet.
pub(crate) fn is_taken(topology: &Topology) -> Result<bool> {
    let machine = topology.machine();
    let (subnet, _) = machine.rsplit_once('.').context("an IPv4 address has dots")?;
    let shown = ip("-o -4 addr show")?;
    let in_subnet =
        |line: &&str| line.contains(&format!(" {subnet}.")) && !line.contains(&format!("{} ", topology.link()));
    Ok(shown.lines().any(|line| in_subnet(&line)))
}

/// Whether what `ip` shows names an address.
fn has_address(words: &[&str], address: &str) -> bool {
    run("ip", words, "").is_ok_and(|shown| shown.split([' ', '/']).any(|word| word == address))
}

/// Makes what is missing of the links for `names`.
pub(crate) fn ensure(topology: &Topology, names: &[String]) -> Result<()> {
    let (switch, link) = (topology.switch(), topology.link());
    if !(exists(&switch) && has_address(&["-o", "-4", "addr", "show", "dev", &link], &topology.machine())) {
        // Of an `up` that was cut short nothing is worth keeping.
        remove(topology)?;
        make_namespace(&switch)?;
        ip(&format!("-n {switch} link add br0 type bridge"))?;
        ip(&format!("-n {switch} link set br0 up"))?;
        ip(&format!("link add name {link} type veth peer name machine netns {switch}"))?;
        ip(&format!("-n {switch} link set machine master br0 up"))?;
        ip(&format!("link set {link} up"))?;
        // Last: with it the switch is whole.
        ip(&format!("addr add {}/24 dev {link}", topology.machine()))?;
    }
    for name in names {
        let namespace = topology.namespace(name);
        if exists(&namespace) {
            // The route comes last: with it the member is on the link.
            if has_address(&["-n", &namespace, "route", "show", "default"], &topology.machine()) {
                continue;
            }
            ip(&format!("netns del {namespace}"))?;
        }
        make_namespace(&namespace)?;
        ip(&format!("link add name eth0 netns {namespace} type veth peer name {name} netns {switch}"))?;
        ip(&format!("-n {switch} link set {name} master br0 up"))?;
        ip(&format!("-n {namespace} addr add {}/24 dev eth0", topology.address(name)))?;
        ip(&format!("-n {namespace} link set eth0 up"))?;
        ip(&format!("-n {namespace} route add default via {}", topology.machine()))?;
    }
    Ok(())
}

/// Every namespace of the cluster that is there.
pub(crate) fn namespaces(topology: &Topology) -> Vec<String> {
    let prefix = topology.namespace("");
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// Removes every link and namespace of the cluster, and ends what still runs in them.
pub(crate) fn remove(topology: &Topology) -> Result<()> {
    let started = Instant::now();
    for namespace in namespaces(topology) {
        if exists(&namespace) {
            loop {
                let pids = ip(&format!("netns pids {namespace}"))?;
                let pids: Vec<i32> = pids.lines().filter_map(|line| line.trim().parse().ok()).collect();
                if pids.is_empty() {
                    break;
                }
                if started.elapsed() > Duration::from_secs(15) {
                    bail!("processes {pids:?} in namespace {namespace} do not end");
                }
                for pid in pids {
                    if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
                        tracing::debug!(%error, pid, "a process had ended already");
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            ip(&format!("netns del {namespace}"))?;
        } else {
            std::fs::remove_file(namespace_path(&namespace))?;
        }
    }
    // It goes with its other end, but not at once.
    if Path::new("/sys/class/net").join(topology.link()).exists()
        && let Err(error) = ip(&format!("link del {}", topology.link()))
    {
        tracing::debug!(%error, "the link went by itself");
    }
    Ok(())
}

/// Makes the switch pass only what these cuts let through.
pub(crate) fn apply_cuts(topology: &Topology, groups: &[Vec<String>]) -> Result<()> {
    let inside = format!("--net={}", namespace_path(&topology.switch()).display());
    run("nsenter", &[&inside, "nft", "-f", "-"], &cut_rules(groups)).map(drop)
}
