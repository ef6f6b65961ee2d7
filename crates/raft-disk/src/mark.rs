//! The mark: up to which of RocksDB's sequence numbers everything is synced, in a file beside its own.
//!
//! RocksDB cannot tell a record of the write-ahead log that a crash has torn from one that was synced and
//! damaged or cut off since, and ends the log at either. The second kind was acknowledged. With the mark it is
//! told: what is recovered must reach at least as far.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// RocksDB leaves files alone whose names it does not know.
pub(crate) const NAME: &str = "SYNCED";
/// The sequence number and its CRC-32C: within one sector, so that a crash leaves the old or the new.
const N_BYTES: usize = 12;
/// How old a mark may be after a power cut: damage to what was synced since then goes unnoticed. After the end of
/// the process alone it is the newest.
const SYNC_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Mark {
    file: Arc<File>,
    newest: Arc<Mutex<u64>>,
    /// Dropped, it ends the thread that syncs.
    _ended: mpsc::Sender<()>,
}

fn encode(sequence: u64) -> [u8; N_BYTES] {
    let number = sequence.to_le_bytes();
    let mut bytes = [0; N_BYTES];
    bytes[..8].copy_from_slice(&number);
    bytes[8..].copy_from_slice(&crc32c::crc32c(&number).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let sequence = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (bytes == encode(sequence)).then_some(sequence)
}

/// The mark of a folder; none when it is damaged, or was never made: then nothing is known.
pub(crate) fn read(folder: &Path) -> io::Result<Option<u64>> {
    match std::fs::read(folder.join(NAME)) {
        Ok(bytes) => Ok(decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn lock(newest: &Mutex<u64>) -> std::sync::MutexGuard<'_, u64> {
    newest.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Syncs the mark as it rises, beside the writes that raise it: one of them must not wait for it too.
fn keep_synced(file: &File, newest: &Mutex<u64>, mut synced: u64, ended: &mpsc::Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(SYNC_EVERY) {
        let now = *lock(newest);
        if now == synced {
            continue;
        }
        match file.sync_data() {
            Ok(()) => synced = now,
            Err(error) => tracing::warn!(%error, "the mark of the Raft log could not be synced"),
        }
    }
}

impl Mark {
    /// Everything up to `sequence` is synced.
    pub(crate) fn open(folder: &Path, sequence: u64) -> io::Result<Mark> {
        let path = folder.join(NAME);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.write_all_at(&encode(sequence), 0)?;
        file.sync_all()?;
        let (file, newest) = (Arc::new(file), Arc::new(Mutex::new(sequence)));
        let (_ended, ended) = mpsc::channel();
        let (of_thread, at) = (file.clone(), newest.clone());
        std::thread::Builder::new()
            .name("raft-mark".into())
            .spawn(move || keep_synced(&of_thread, &at, sequence, &ended))?;
        Ok(Mark { file, newest, _ended })
    }

    /// Everything up to `sequence` is synced. The mark itself need not be yet: an older one says less.
    pub(crate) fn raise(&self, sequence: u64) -> io::Result<()> {
        let mut newest = lock(&self.newest);
        if sequence > *newest {
            self.file.write_all_at(&encode(sequence), 0)?;
            *newest = sequence;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_rises_and_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let mark = Mark::open(dir.path(), 3).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(3));
        mark.raise(7).unwrap();
        mark.raise(5).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(7));
        let path = dir.path().join(NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(dir.path()).unwrap(), None, "a damaged mark says nothing");
    }
}
