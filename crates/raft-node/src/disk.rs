//! The port to durable storage: an ordered key-value store with atomic batches.
//!
//! Keys live in three ranges: `L` + index (big endian) is the log, `M` + name is what there is one
//! of (vote, purge point, identity, checkpoint), `O` + object key is the applied state.

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

pub trait Disk: Send + Sync + 'static {
    /// Applies the batch atomically. With `sync`, returns only once it and everything before it is
    /// durable. An error is final: the process must stop and start again.
    fn write(&self, batch: Batch, sync: bool) -> io::Result<()>;
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;
    /// The pairs in `from..to`, at most `max`, in key order.
    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> io::Result<Vec<(Bytes, Bytes)>>;
    /// The last pair below `to` and not below `from`.
    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>>;
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
pub(crate) const CHECKPOINT_META: &[u8] = b"Mcheckpoint-meta";
pub(crate) const CHECKPOINT_HEAD: &[u8] = b"Mcheckpoint-head";
pub(crate) const OBJECTS_START: &[u8] = b"O";
pub(crate) const OBJECTS_END: &[u8] = b"P";
pub(crate) const LOG_END: &[u8] = b"M";

pub(crate) fn log_key(index: u64) -> Vec<u8> {
    let mut key = vec![b'L'];
    key.extend_from_slice(&index.to_be_bytes());
    key
}

pub(crate) fn object_key(key: &objects::Key) -> Vec<u8> {
    let mut out = vec![b'O'];
    out.extend_from_slice(&key.kind.0.to_be_bytes());
    out.extend_from_slice(key.namespace.as_bytes());
    out.push(0);
    out.extend_from_slice(key.name.as_bytes());
    out
}
