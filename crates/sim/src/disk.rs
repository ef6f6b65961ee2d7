//! One boot's hold on a master's disk: writes take time, can fail, and end with the boot.

use crate::Twin;
use crate::points::{Edge, Point, Subject};
use bytes::Bytes;
use parking_lot::Mutex;
use raft_node::{Batch, Disk, MemoryDisk, Origin, Row};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Asked at each point of a disk; true when the machine has just lost its power.
pub(crate) type Trip = Box<dyn Fn(Point) -> bool + Send + Sync>;

pub(crate) struct Mount {
    disk: Arc<MemoryDisk>,
    twin: Option<Twin>,
    health: Mutex<Health>,
    /// A write of this boot has failed, as was ordered. The next would not: it is the product that must
    /// write no more.
    was_failed: AtomicBool,
    /// The disk has no room, whichever boot writes.
    full: Arc<AtomicBool>,
    trip: Trip,
}

#[derive(Clone, Copy, PartialEq)]
enum Health {
    Fine,
    /// The next write fails; whether it reached the disk all the same.
    Failing {
        reached: bool,
    },
    /// The power is off.
    Over,
}

/// What a batch is about; `disk.rs` of raft-node says what stands under which key.
fn subject(batch: &Batch) -> Subject {
    let puts = |prefix: &[u8]| batch.puts.iter().any(|(key, _)| key.starts_with(prefix));
    let cuts = |prefix: u8| batch.delete_ranges.iter().any(|(from, _)| from.first() == Some(&prefix));
    match () {
        () if puts(b"Mpurged") => Subject::Purge,
        () if cuts(b'L') => Subject::Truncate,
        () if puts(b"Mvote") => Subject::Vote,
        () => Subject::Append,
    }
}

impl Mount {
    pub(crate) fn new(disk: Arc<MemoryDisk>, twin: Option<Twin>, full: Arc<AtomicBool>, trip: Trip) -> Arc<Mount> {
        Arc::new(Mount { disk, twin, health: Mutex::new(Health::Fine), was_failed: AtomicBool::default(), full, trip })
    }

    /// Of a boot that has power.
    pub(crate) fn fail_next_write(&self, reached: bool) {
        *self.health.lock() = Health::Failing { reached };
    }

    /// Whether a failure was ordered, so that the end of its master is no surprise.
    pub(crate) fn was_failed(&self) -> bool {
        self.was_failed.load(Relaxed) || *self.health.lock() != Health::Fine
    }

    /// Power off. `keep` draws how many of so many unsynced writes had reached the disk.
    pub(crate) fn cut_power(&self, keep: impl FnOnce(usize) -> usize) {
        *self.health.lock() = Health::Over;
        self.disk.crash(keep(self.disk.n_unsynced()));
    }

    fn alive(&self) -> io::Result<()> {
        match *self.health.lock() {
            Health::Over => Err(io::Error::other("the disk is gone")),
            Health::Fine | Health::Failing { .. } => Ok(()),
        }
    }

    /// How a write fails, if it does, and whether it reaches the disk all the same.
    fn failure(&self) -> Option<(io::Error, bool)> {
        if self.full.load(Relaxed) {
            self.was_failed.store(true, Relaxed);
            return Some((io::Error::new(io::ErrorKind::StorageFull, "no space left on device"), false));
        }
        let mut health = self.health.lock();
        let Health::Failing { reached } = *health else { return None };
        *health = Health::Fine;
        self.was_failed.store(true, Relaxed);
        Some((io::Error::other(if reached { "the sync failed" } else { "a bad sector" }), reached))
    }

    /// Passes a point; an error when the power went.
    fn pass(&self, subject: Subject, edge: Edge) -> io::Result<()> {
        match (self.trip)(Point(subject, edge)) {
            true => Err(io::Error::other("the power is off")),
            false => Ok(()),
        }
    }
}

impl Disk for Mount {
    fn write(&self, batch: Batch, sync: bool) -> io::Result<()> {
        self.alive()?;
        let subject = subject(&batch);
        self.pass(subject, Edge::Before)?;
        if let Some((error, reached)) = self.failure() {
            if reached {
                self.disk.write(batch, false)?;
            }
            return Err(error);
        }
        let sync = sync && self.twin != Some(Twin::LyingDisk);
        self.disk.write(batch, false)?;
        if sync {
            self.pass(subject, Edge::Unsynced)?;
            self.disk.write(Batch::default(), true)?;
        }
        self.pass(subject, Edge::After)
    }

    fn write_rows(&self, origin: Origin, rows: &mut dyn Iterator<Item = Row>) -> io::Result<()> {
        self.alive()?;
        let subject = match origin {
            Origin::Checkpoint => Subject::Checkpoint,
            Origin::Snapshot => Subject::Install,
        };
        self.pass(subject, Edge::Before)?;
        if let Some((error, reached)) = self.failure() {
            if reached {
                self.disk.write_rows(origin, rows)?;
            }
            return Err(error);
        }
        match self.twin {
            Some(Twin::LyingDisk) => self.disk.write(Batch { puts: rows.collect(), ..Batch::default() }, false)?,
            _ => self.disk.write_rows(origin, rows)?,
        }
        self.pass(subject, Edge::After)
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.alive()?;
        self.disk.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.alive()?;
        self.disk.scan(from, to, max)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
        self.alive()?;
        self.disk.last(from, to)
    }
}
