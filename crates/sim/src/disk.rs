//! One boot's hold on a master's disk: writes take time, can fail, and end with the boot.

use crate::Twin;
use bytes::Bytes;
use parking_lot::Mutex;
use raft_node::{Batch, Disk, MemoryDisk};
use std::io;
use std::sync::Arc;

pub(crate) struct Mount {
    disk: Arc<MemoryDisk>,
    twin: Option<Twin>,
    health: Mutex<Health>,
}

#[derive(Clone, Copy, PartialEq)]
enum Health {
    Fine,
    /// The next write fails; whether it reached the disk all the same.
    Failing {
        reached: bool,
    },
    /// A write has failed, or the power is off.
    Over,
}

impl Mount {
    pub(crate) fn new(disk: Arc<MemoryDisk>, twin: Option<Twin>) -> Arc<Mount> {
        Arc::new(Mount { disk, twin, health: Mutex::new(Health::Fine) })
    }

    pub(crate) fn fail_next_write(&self, reached: bool) {
        *self.health.lock() = Health::Failing { reached };
    }

    /// Whether a failure was ordered, so that the end of its master is no surprise.
    pub(crate) fn was_failed(&self) -> bool {
        *self.health.lock() != Health::Fine
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
}

impl Disk for Mount {
    fn write(&self, batch: Batch, sync: bool) -> io::Result<()> {
        self.alive()?;
        let health = std::mem::replace(&mut *self.health.lock(), Health::Over);
        match health {
            Health::Failing { reached: false } => Err(io::Error::other("a bad sector")),
            Health::Failing { reached: true } => {
                self.disk.write(batch, false)?;
                Err(io::Error::other("the sync failed"))
            }
            Health::Fine | Health::Over => {
                *self.health.lock() = health;
                self.disk.write(batch, sync && self.twin != Some(Twin::LyingDisk))
            }
        }
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
