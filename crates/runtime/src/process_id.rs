//! A process that outlives the one that started it: its id with its start time, as a recycled id
//! belongs to somebody else.

use crate::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// In clock ticks since boot, as /proc tells; empty when it had ended before it was looked at.
    started: String,
}

/// The fields of /proc/PID/stat after the name, which may hold spaces: state first.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(ToString::to_string).collect())
}

/// The sockets that listen at a port, as links in /proc/PID/fd name them, of a table of /proc/PID/net
/// (proc_pid_net(5)): the local address in hexadecimal, the state, and later the inode.
fn listeners(table: &str, port: u16) -> impl Iterator<Item = String> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, at) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(at, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        is_it.then(|| fields.get(9)).flatten().map(|inode| format!("socket:[{inode}]"))
    })
}

impl ProcessId {
    /// A process just started.
    pub fn of(pid: u32) -> ProcessId {
        let pid = i32::try_from(pid).unwrap_or(0);
        ProcessId { pid, started: stat(pid).and_then(|fields| fields.get(19).cloned()).unwrap_or_default() }
    }

    pub fn read(path: &Path) -> Option<ProcessId> {
        let text = std::fs::read_to_string(path).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        Some(ProcessId { pid: pid.parse().ok()?, started: started.into() })
    }

    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        files::replace(path, format!("{} {}", self.pid, self.started))
    }

    /// Whether it still runs (or is frozen); a zombie does not. One whose first thread has ended before the
    /// others is shown as a zombie, too, while they still hold its files: it is alive until they have ended.
    pub fn is_alive(&self) -> bool {
        let has_threads = |fields: &[String]| fields.get(17).is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n > 1));
        stat(self.pid)
            .is_some_and(|fields| fields.get(19) == Some(&self.started) && (fields[0] != "Z" || has_threads(&fields)))
    }

    /// Whether it listens itself at a TCP port, in the network that it is in.
    pub fn listens_at(&self, port: u16) -> bool {
        let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/{}/net/{table}", self.pid)));
        let listening: BTreeSet<String> = tables.iter().flatten().flat_map(|table| listeners(table, port)).collect();
        // Nobody's files can be read once it has ended.
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        let mut sockets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        self.is_alive() && sockets.any(|socket| listening.contains(&*socket.to_string_lossy()))
    }

    /// Whether it is frozen by a signal.
    pub fn is_stopped(&self) -> bool {
        self.is_alive() && stat(self.pid).is_some_and(|fields| fields[0] == "T")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_id_is_not_the_process() {
        let own = ProcessId::of(std::process::id());
        assert!(own.is_alive() && !own.is_stopped());
        let other = ProcessId { started: "1".into(), ..own.clone() };
        assert!(!other.is_alive());
        let dir = tempfile::tempdir().unwrap();
        own.write(&dir.path().join("pid")).unwrap();
        assert_eq!(ProcessId::read(&dir.path().join("pid")), Some(own));
    }

    #[test]
    fn a_process_listens_where_it_does_itself() {
        let own = ProcessId::of(std::process::id());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(own.listens_at(port));
        let other = ProcessId::of(std::os::unix::process::parent_id());
        assert!(!other.listens_at(port), "another's port");
        let connected = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let from = connected.local_addr().unwrap().port();
        assert!(!own.listens_at(from), "a connection");
        drop(listener);
        assert!(!own.listens_at(port));
    }
}
