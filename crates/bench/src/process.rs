//! The servers' processes: started with their output in a file, ended when dropped, and what they use.

use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A server that ends with this value.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command` with its output in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Server> {
        let file = std::fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A group of its own: Ctrl-C reaches the bench, which ends its servers in order.
        let child = command.process_group(0).spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Server { child, log: log.to_path_buf() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a power cut does to a process.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Fails with the server's last words when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let text = std::fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                bail!("a server ended ({status}): {}", lines[lines.len().saturating_sub(5)..].join("\n"))
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("process {} could not be ended: {error}", self.child.id());
        }
    }
}

/// The folder that everything of a run lies in; removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn create(path: PathBuf) -> Result<Folder> {
        std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Folder(path.canonicalize()?))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("remove {} by hand: {error}", self.0.display());
        }
    }
}

/// Loopback ports that are free now.
pub(crate) fn free_ports(n: usize) -> Result<Vec<u16>> {
    let held: Vec<_> = (0..n).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// What servers and the driver use from one moment to another.
pub(crate) struct Meter<'a> {
    servers: &'a [u32],
    started: Instant,
    servers_before: f64,
    driver_before: f64,
}

/// What a `Meter` has seen.
pub(crate) struct Used {
    pub(crate) seconds: f64,
    /// CPU seconds of all servers together, user and system.
    pub(crate) servers: f64,
    /// CPU time of this process, in percent of one processor's.
    pub(crate) driver_percent: f64,
}

impl Meter<'_> {
    pub(crate) fn start(servers: &[u32]) -> Result<Meter<'_>> {
        let (servers_before, driver_before) = (cpu_seconds(servers)?, cpu_seconds(&[std::process::id()])?);
        Ok(Meter { servers, started: Instant::now(), servers_before, driver_before })
    }

    pub(crate) fn stop(&self) -> Result<Used> {
        let seconds = self.started.elapsed().as_secs_f64();
        let driver = cpu_seconds(&[std::process::id()])? - self.driver_before;
        let servers = cpu_seconds(self.servers)? - self.servers_before;
        Ok(Used { seconds, servers, driver_percent: 100.0 * driver / seconds })
    }
}

/// CPU seconds that the processes have used so far, user and system.
fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")? as f64;
    let ticks = pids.iter().map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        cpu_ticks(&stat).with_context(|| format!("/proc/{pid}/stat cannot be read"))
    });
    Ok(ticks.sum::<Result<u64>>()? as f64 / ticks_per_second)
}

/// utime and stime, the 14th and 15th field; the second is a name in parentheses that may hold spaces.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Open files of all the processes together.
pub(crate) fn open_files(pids: &[u32]) -> Result<usize> {
    pids.iter().map(|pid| Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())).sum()
}

/// Bytes that the files under a folder take. A file that goes while it is looked at counts as gone.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// Resident memory of the largest of the processes, in MiB.
pub(crate) fn largest_rss_mib(pids: &[u32]) -> Result<f64> {
    let mut largest: f64 = 0.0;
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        largest = largest.max(kib / 1024.0);
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_of_a_name_with_spaces() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 5 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (short) S 1"), None);
    }
}
