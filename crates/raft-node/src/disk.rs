//! The port to durable storage: an ordered key-value store with atomic batches.
//!
//! Keys live in two parts. The log's: `L` + index (big endian) is an entry, `M` + name is what there is one of
//! (vote, purge point). The rows, which are the applied state: `N` + name is what a checkpoint has one of, `O` +
//! object key is an object. A checkpoint of many objects must not hold up the log's next sync, so rows are written
//! in a way of their own.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{action} failed")]
    Io { action: &'static str, source: io::Error },
}

/// Writes that become visible and durable together, in order: range deletions first.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Half-open key ranges.
    pub delete_ranges: Vec<(Vec<u8>, Vec<u8>)>,
    /// `None` deletes.
    pub puts: Vec<(Vec<u8>, Option<Bytes>)>,
    /// Entries up to and with this key are of no use any more once the batch is durable. They may be there for a
    /// while yet, all or some of them: the disk gives up their room by and by.
    pub forgotten: Option<Vec<u8>>,
}

impl Batch {
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.puts.push((key.into(), Some(value.into())));
    }

    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.puts.push((key.into(), None));
    }

    pub fn delete_range(&mut self, from: Vec<u8>, to: Vec<u8>) {
        self.delete_ranges.push((from, to));
    }

    pub fn n_bytes(&self) -> usize {
        self.puts.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum()
    }
}

/// What to do about a disk that lost or garbled data, whoever finds it.
pub const REMEDY: &str = "while the others have a quorum, empty this master's data folder and join again with a token \
                          (`balsa token` prints it); otherwise leave it as it is, and make a group of a master that is not \
                          damaged (`balsa recover`) or of a backup: see docs/operations.md";

/// A row's key, and its value; `None` deletes.
pub type Row = (Vec<u8>, Option<Bytes>);

/// What rows come from; told to who watches over a simulated disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// What has changed since the last checkpoint.
    Checkpoint,
    /// A state that replaces the one before it.
    Snapshot,
}

pub trait Disk: Send + Sync + 'static {
    /// Applies the batch atomically, to the log's part. With `sync`, returns only once it and everything `write`
    /// was given before it is durable. An error is final: the process must stop and start again.
    fn write(&self, batch: Batch, sync: bool) -> io::Result<()>;
    /// Writes rows, at least one, in key order: all or none, and durable on return, whether or not what `write` was given
    /// before is. An error is final.
    fn write_rows(&self, origin: Origin, rows: &mut dyn Iterator<Item = Row>) -> io::Result<()>;
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;
    /// The pairs in `from..to`, at most `max`, in key order.
    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> io::Result<Vec<(Bytes, Bytes)>>;
    /// The last pair below `to` and not below `from`.
    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>>;
    /// Puts what is read from memory alone where `scan` reads it from the disk, for who looks for damage. Nothing to do
    /// for a disk that reads no files.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A disk in memory that forgets unsynced writes at `crash`. The simulator's and the tests' disk.
#[derive(Default)]
pub struct MemoryDisk {
    inner: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    now: BTreeMap<Vec<u8>, Bytes>,
    durable: BTreeMap<Vec<u8>, Bytes>,
    /// Written since the last sync.
    unsynced: Vec<Batch>,
}

fn apply_to(map: &mut BTreeMap<Vec<u8>, Bytes>, batch: &Batch) {
    for (from, to) in &batch.delete_ranges {
        let gone: Vec<Vec<u8>> = map.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| drop(map.remove(key)));
    }
    for (key, value) in &batch.puts {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
    if let Some(last) = &batch.forgotten {
        assert!(last[..] < *SINGLES_START, "only entries are forgotten");
        // Some stay, so that who reads them is found out: 0 to 6.
        let n_lingering = last.last().map_or(0, |byte| usize::from(byte % 4) * 2);
        let gone: Vec<Vec<u8>> =
            map.range(..=last.clone()).rev().skip(n_lingering).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| drop(map.remove(key)));
    }
}

impl MemoryDisk {
    /// Batches written since the last sync.
    pub fn n_unsynced(&self) -> usize {
        self.inner.lock().unsynced.len()
    }

    /// Power loss: of the batches that were not synced, the first `n_kept` had reached the disk; the
    /// others are gone.
    pub fn crash(&self, n_kept: usize) {
        let Memory { now, durable, unsynced } = &mut *self.inner.lock();
        unsynced.drain(..).take(n_kept).for_each(|batch| apply_to(durable, &batch));
        *now = durable.clone();
    }
}

impl Disk for MemoryDisk {
    fn write(&self, batch: Batch, sync: bool) -> io::Result<()> {
        let mut inner = self.inner.lock();
        apply_to(&mut inner.now, &batch);
        inner.unsynced.push(batch);
        if sync {
            let Memory { durable, unsynced, .. } = &mut *inner;
            unsynced.drain(..).for_each(|batch| apply_to(durable, &batch));
        }
        Ok(())
    }

    fn write_rows(&self, _: Origin, rows: &mut dyn Iterator<Item = Row>) -> io::Result<()> {
        let batch = Batch { puts: rows.collect(), ..Batch::default() };
        // As a real one demands.
        assert!(batch.puts.first().is_some_and(|(key, _)| key[..] >= *ROWS_START), "no rows");
        assert!(batch.puts.is_sorted_by(|(a, _), (b, _)| a < b), "rows out of order");
        let mut inner = self.inner.lock();
        apply_to(&mut inner.now, &batch);
        apply_to(&mut inner.durable, &batch);
        Ok(())
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.inner.lock().now.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        let inner = self.inner.lock();
        let range = inner.now.range(from.to_vec()..to.to_vec()).take(max);
        Ok(range.map(|(key, value)| (Bytes::copy_from_slice(key), value.clone())).collect())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        let inner = self.inner.lock();
        let last = inner.now.range(from.to_vec()..to.to_vec()).next_back();
        Ok(last.map(|(key, value)| (Bytes::copy_from_slice(key), value.clone())))
    }
}

pub(crate) const VOTE: &[u8] = b"Mvote";
pub(crate) const PURGED: &[u8] = b"Mpurged";
pub(crate) const COMMITTED: &[u8] = b"Mcommitted";
/// Keys from here on are what the log's part has one of.
pub const SINGLES_START: &[u8] = b"M";
/// Keys from here on are rows.
pub const ROWS_START: &[u8] = b"N";
pub(crate) const CHECKPOINT_HEAD: &[u8] = b"Nhead";
pub(crate) const CHECKPOINT_META: &[u8] = b"Nmeta";
pub(crate) const OBJECTS_START: &[u8] = b"O";
pub(crate) const OBJECTS_END: &[u8] = b"P";
pub(crate) const LOG_END: &[u8] = SINGLES_START;

pub(crate) fn log_key(index: u64) -> Vec<u8> {
    let mut key = vec![b'L'];
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// Orders as `Key` does.
pub(crate) fn object_key(key: &objects::Key) -> Vec<u8> {
    let mut out = vec![b'O'];
    out.extend_from_slice(&key.kind.0.to_be_bytes());
    out.extend_from_slice(key.namespace.as_bytes());
    out.push(0);
    out.extend_from_slice(key.name.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use objects::{Key, KindId};

    #[test]
    fn the_keys_of_objects_order_as_the_objects_do() {
        let names = ["", "a", "a-b", "a.b", "aa", "b", "system:a", "\u{e9}"];
        let mut keys = Vec::new();
        for kind in [1, 2, 255, 256, 300].map(KindId) {
            for namespace in names {
                keys.extend(names.map(|name| Key::new(kind, namespace, name)));
            }
        }
        keys.sort();
        assert!(keys.iter().map(object_key).is_sorted_by(|a, b| a < b));
    }
}
