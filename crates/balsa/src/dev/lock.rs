//! One `balsa dev` at a time changes a cluster: a lock on its folder, gone with the process that holds it.

use anyhow::{Context, Result, bail};
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a verb that is done in a moment waits for another such verb.
pub(super) const BRIEF: Duration = Duration::from_secs(10);

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _folder: File,
}

impl Lock {
    /// Locks the cluster in `dir`, which is there; fails when another holds the lock for longer than
    /// `patience`.
    pub(super) fn take(dir: &Path, patience: Duration) -> Result<Lock> {
        let started = Instant::now();
        loop {
            let folder = File::open(dir).with_context(|| format!("opening {}", dir.display()))?;
            match folder.try_lock() {
                Ok(()) => {
                    // `down` removes the folder while it holds the lock: whoever waited holds nothing.
                    let same = |there: std::fs::Metadata, ours: std::fs::Metadata| {
                        (there.dev(), there.ino()) == (ours.dev(), ours.ino())
                    };
                    let ours = folder.metadata()?;
                    if std::fs::metadata(dir).is_ok_and(|there| same(there, ours)) {
                        return Ok(Lock { _folder: folder });
                    }
                }
                Err(TryLockError::WouldBlock) if started.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => bail!(
                    "another `balsa dev` is at work on the cluster in {}; try again when it has ended",
                    dir.display()
                ),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", dir.display()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_changed_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::take(dir.path(), Duration::ZERO).unwrap();
        let refused = Lock::take(dir.path(), Duration::ZERO).unwrap_err().to_string();
        assert!(refused.contains("another `balsa dev` is at work"), "{refused}");
        let path = dir.path().to_path_buf();
        let waiting = std::thread::spawn(move || Lock::take(&path, Duration::from_secs(20)).map(drop));
        drop(held);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn the_lock_of_a_folder_that_is_gone_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        std::fs::create_dir(&path).unwrap();
        let held = Lock::take(&path, Duration::ZERO).unwrap();
        std::fs::remove_dir(&path).unwrap();
        assert!(Lock::take(&path, Duration::ZERO).unwrap_err().to_string().contains("opening"));
        std::fs::create_dir(&path).unwrap();
        drop(Lock::take(&path, Duration::ZERO).unwrap());
        drop(held);
    }
}
