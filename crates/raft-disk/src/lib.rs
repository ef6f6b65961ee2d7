//! The `Disk` port on RocksDB. The only crate that links C++.
//!
//! One column family: log, votes and applied rows share one write-ahead log, so a sync of any makes
//! all earlier writes durable. The settings and their reasons stand at `options`.

use raft_node::{Batch, Disk};
use rocksdb::{DB, DBRecoveryMode, Direction, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions};
use std::io;
use std::path::Path;

pub struct RocksDisk {
    db: DB,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot open the Raft storage in {path}; if the disk lost data, remove that folder and join this master again \
     with a token (`balsa members` shows how)"
)]
pub struct OpenError {
    path: String,
    source: rocksdb::Error,
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    // Entries should die in the memtable, before they are ever flushed: purges follow within 64 MB.
    options.set_write_buffer_size(64 << 20);
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

impl RocksDisk {
    pub fn open(path: &Path) -> Result<RocksDisk, OpenError> {
        let db = DB::open(&options(), path).map_err(|source| OpenError { path: path.display().to_string(), source })?;
        Ok(RocksDisk { db })
    }
}

fn failed(error: rocksdb::Error) -> io::Error {
    io::Error::other(error)
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
        self.db.write_opt(writes, &options).map_err(failed)
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

    #[test]
    fn damage_before_the_tail_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        {
            let disk = RocksDisk::open(dir.path()).unwrap();
            for i in 0..100 {
                disk.write(put(&format!("L{i:03}"), &"x".repeat(2000)), true).unwrap();
            }
            std::mem::forget(disk);
        }
        let wal = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let wal = wal.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap();
        let mut bytes = std::fs::read(&wal).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xFF;
        std::fs::write(&wal, bytes).unwrap();
        let _ = std::fs::remove_file(dir.path().join("LOCK"));
        assert!(RocksDisk::open(dir.path()).is_err(), "a flipped byte in the middle went unnoticed");
    }
}
