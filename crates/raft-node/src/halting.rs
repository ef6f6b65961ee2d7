//! A disk that takes no write after one has failed.
//!
//! A failed write ends the process, but not at once: what is queued behind it would still be written, and a
//! disk that has room again, or was only disturbed, would take it. An append without the one before
//! is a hole in the log, and a master that finds one stops for good.

use crate::disk::{Batch, Disk, Origin, Row};
use bytes::Bytes;
use std::io;
use std::sync::{Arc, OnceLock};

pub(crate) struct HaltingDisk {
    disk: Arc<dyn Disk>,
    /// The first failure.
    failed: OnceLock<(io::ErrorKind, String)>,
}

impl HaltingDisk {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> HaltingDisk {
        HaltingDisk { disk, failed: OnceLock::new() }
    }

    pub(crate) fn failure(&self) -> Option<&(io::ErrorKind, String)> {
        self.failed.get()
    }

    fn unless_failed(&self, write: impl FnOnce(&dyn Disk) -> io::Result<()>) -> io::Result<()> {
        if self.failure().is_some() {
            return Err(io::Error::other("an earlier write failed; this master must restart"));
        }
        write(&*self.disk).inspect_err(|error| {
            self.failed.get_or_init(|| (error.kind(), error.to_string()));
        })
    }
}

impl Disk for HaltingDisk {
    fn write(&self, batch: Batch, sync: bool) -> io::Result<()> {
        self.unless_failed(|disk| disk.write(batch, sync))
    }

    fn write_rows(&self, origin: Origin, rows: &mut dyn Iterator<Item = Row>) -> io::Result<()> {
        self.unless_failed(|disk| disk.write_rows(origin, rows))
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.disk.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.disk.scan(from, to, max)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        self.disk.last(from, to)
    }

    fn flush(&self) -> io::Result<()> {
        self.unless_failed(Disk::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use std::sync::atomic::Ordering;

    /// Has no room for the second write, and again for the third.
    #[derive(Default)]
    struct FullOnce {
        disk: MemoryDisk,
        n_written: std::sync::atomic::AtomicUsize,
    }

    impl Disk for FullOnce {
        fn write(&self, batch: Batch, sync: bool) -> io::Result<()> {
            match self.n_written.fetch_add(1, Ordering::Relaxed) {
                1 => Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device")),
                _ => self.disk.write(batch, sync),
            }
        }

        fn write_rows(&self, origin: Origin, rows: &mut dyn Iterator<Item = Row>) -> io::Result<()> {
            self.disk.write_rows(origin, rows)
        }

        fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
            self.disk.get(key)
        }

        fn scan(&self, from: &[u8], to: &[u8], max: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
            self.disk.scan(from, to, max)
        }

        fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
            self.disk.last(from, to)
        }
    }

    #[test]
    fn nothing_is_written_after_a_failure() {
        let disk = HaltingDisk::new(Arc::new(FullOnce::default()));
        let write = |key: &[u8]| {
            let mut batch = Batch::default();
            batch.put(key, Bytes::from_static(b"x"));
            disk.write(batch, true).map_err(|error| error.to_string())
        };
        assert_eq!(write(b"1"), Ok(()));
        assert_eq!(write(b"2"), Err("no space left on device".into()));
        assert_eq!(write(b"3"), Err("an earlier write failed; this master must restart".into()));
        assert_eq!(disk.failure().map(|(kind, _)| *kind), Some(io::ErrorKind::StorageFull));
        assert!(disk.write_rows(Origin::Checkpoint, &mut std::iter::once((b"4".to_vec(), None))).is_err());
        let keys: Vec<Bytes> = disk.scan(b"0", b"9", 9).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [Bytes::from_static(b"1")]);
    }
}
