//! The `Disk` port on RocksDB. The only crate that links C++.
//!
//! One column family: log, votes and applied rows share one write-ahead log, so a sync of any makes
//! all earlier writes durable. The settings and their reasons stand at `options`.

mod mark;

use mark::Mark;
use raft_node::{Batch, Disk};
use rocksdb::{DB, DBRecoveryMode, Direction, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions};
use std::io;
use std::path::Path;

pub struct RocksDisk {
    db: DB,
    /// None where nothing is written.
    mark: Option<Mark>,
}

/// What to do about a disk that lost or garbled data, whoever finds it.
const REMEDY: &str = "empty this master's data folder and join again with a token (`balsa token` prints it); \
                      docs/operations.md says what to do when too many masters are damaged at once";

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the Raft storage in {path}; if the disk lost data, {REMEDY}")]
    Rocks { path: String, source: rocksdb::Error },
    #[error(
        "the disk of the Raft storage in {path} is full: nothing is lost; free some space (some 100 MB to start with) \
         and start this master again"
    )]
    Full { path: String, source: rocksdb::Error },
    #[error("cannot open the Raft storage in {path}")]
    Mark { path: String, source: io::Error },
    #[error(
        "the Raft storage in {path} has lost its newest writes: it was synced up to {synced} and reaches {found}. It \
         must not vote again: {REMEDY}"
    )]
    LostTail { path: String, synced: u64, found: u64 },
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    // Two of them are a large part of a busy master's memory. Small entries mostly die in them, as purges follow
    // within some 30 MB; larger ones are flushed once.
    options.set_write_buffer_size(32 << 20);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(256 << 20);
    // A torn tail after a crash is expected; damage before it must not be skipped silently, since
    // that would drop acknowledged entries. The open fails and the master rejoins.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    options.set_use_fsync(false);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_max_open_files(256);
    options
}

/// What the operating system says of a full disk, which RocksDB passes on as text alone.
const NO_SPACE: &str = "No space left on device";

/// Why RocksDB did not open the files of a folder.
fn unopened(path: &Path, source: rocksdb::Error) -> OpenError {
    let is_full = source.kind() == rocksdb::ErrorKind::IOError && source.to_string().contains(NO_SPACE);
    let path = path.display().to_string();
    if is_full { OpenError::Full { path, source } } else { OpenError::Rocks { path, source } }
}

impl RocksDisk {
    pub fn open(path: &Path) -> Result<RocksDisk, OpenError> {
        let name = path.display().to_string();
        let db = DB::open(&options(), path).map_err(|source| unopened(path, source))?;
        reaches_mark(&db, path)?;
        let mark = Mark::open(path).map_err(|source| OpenError::Mark { path: name, source })?;
        Ok(RocksDisk { db, mark: Some(mark) })
    }

    /// For looking: nothing is changed, and every write fails.
    pub fn open_read_only(path: &Path) -> Result<RocksDisk, OpenError> {
        let db = DB::open_for_read_only(&options(), path, false).map_err(|source| unopened(path, source))?;
        reaches_mark(&db, path)?;
        Ok(RocksDisk { db, mark: None })
    }
}

/// What was synced is there.
fn reaches_mark(db: &DB, path: &Path) -> Result<(), OpenError> {
    let (synced, found) = (mark::read(path), db.latest_sequence_number());
    match found < synced {
        true => Err(OpenError::LostTail { path: path.display().to_string(), synced, found }),
        false => Ok(()),
    }
}

fn failed(error: rocksdb::Error) -> io::Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => {
            io::Error::new(io::ErrorKind::InvalidData, format!("the Raft storage is damaged ({error}): {REMEDY}"))
        }
        _ => io::Error::other(error),
    }
}

impl Disk for RocksDisk {
    fn write(&self, batch: Batch, sync: bool) -> io::Result<()> {
        let mut writes = WriteBatch::default();
        for (from, to) in &batch.delete_ranges {
            writes.delete_range(from, to);
        }
        for (key, value) in &batch.puts {
            match value {
                Some(value) => writes.put(key, value),
                None => writes.delete(key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        // This batch's last number is at least this: others may get some between. All that is before it in
        // the write-ahead log is synced with it.
        let (before, n_writes) = (self.db.latest_sequence_number(), writes.len() as u64);
        self.db.write_opt(writes, &options).map_err(failed)?;
        match &self.mark {
            Some(mark) if sync && n_writes > 0 => mark.raise(before + n_writes),
            Some(_) | None => Ok(()),
        }
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<bytes::Bytes>> {
        Ok(self.db.get(key).map_err(failed)?.map(Into::into))
    }

    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> io::Result<Vec<(bytes::Bytes, bytes::Bytes)>> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        let pairs = self.db.iterator_opt(IteratorMode::From(from, Direction::Forward), options);
        pairs.take(max).map(|pair| pair.map(|(key, value)| (key.into(), value.into())).map_err(failed)).collect()
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(bytes::Bytes, bytes::Bytes)>> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        options.set_iterate_lower_bound(from);
        let mut pairs = self.db.iterator_opt(IteratorMode::End, options);
        pairs.next().map(|pair| pair.map(|(key, value)| (key.into(), value.into())).map_err(failed)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Batch {
        let mut batch = Batch::default();
        batch.put(key.as_bytes(), value.as_bytes().to_vec());
        batch
    }

    #[test]
    fn keeps_what_was_written_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        {
            let disk = RocksDisk::open(dir.path()).unwrap();
            disk.write(put("La", "1"), true).unwrap();
            disk.write(put("Lb", "2"), true).unwrap();
            let mut batch = put("Lc", "3");
            batch.delete_range(b"La".to_vec(), b"Lb".to_vec());
            disk.write(batch, true).unwrap();
        }
        let disk = RocksDisk::open(dir.path()).unwrap();
        let keys: Vec<_> = disk.scan(b"L", b"M", 10).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["Lb", "Lc"]);
        assert_eq!(disk.last(b"L", b"M").unwrap().unwrap().1, "3");
        assert_eq!(disk.get(b"La").unwrap(), None);
    }
}
