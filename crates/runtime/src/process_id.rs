//! A process that outlives the one that started it: its id with its start time, as a recycled id
//! belongs to somebody else.

use crate::files;
use serde::{Deserialize, Serialize};
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
}
