//! The mark: up to which of RocksDB's sequence numbers everything is synced, in a file beside its own.
//!
//! RocksDB cannot tell a record of the write-ahead log that a crash has torn from one that was synced and
//! damaged or cut off since, and ends the log at either. The second kind was acknowledged. With the mark it is
//! told: what is recovered must reach at least as far.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

/// RocksDB leaves files alone whose names it does not know.
const NAME: &str = "SYNCED";
/// The sequence number and its CRC-32C: within one sector, so that a crash leaves the old or the new.
const N_BYTES: usize = 12;

pub(crate) struct Mark {
    file: File,
    newest: Mutex<u64>,
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

/// The mark of a folder; 0 when there is none, or none that can be read: then nothing is known.
pub(crate) fn read(folder: &Path) -> u64 {
    std::fs::read(folder.join(NAME)).ok().and_then(|bytes| decode(&bytes)).unwrap_or(0)
}

impl Mark {
    pub(crate) fn open(folder: &Path) -> io::Result<Mark> {
        let newest = Mutex::new(read(folder));
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join(NAME));
        Ok(Mark { file: options?, newest })
    }

    /// Everything up to `sequence` is synced. The mark itself need not be: an older one says less.
    pub(crate) fn raise(&self, sequence: u64) -> io::Result<()> {
        let mut newest = self.newest.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
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
        assert_eq!(read(dir.path()), 0);
        let mark = Mark::open(dir.path()).unwrap();
        mark.raise(7).unwrap();
        mark.raise(5).unwrap();
        assert_eq!(read(dir.path()), 7);
        let path = dir.path().join(NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(dir.path()), 0, "a damaged mark says nothing");
    }
}
