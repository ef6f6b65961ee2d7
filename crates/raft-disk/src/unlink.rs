//! Unlinks the log's tables that hold only what was forgotten.
//!
//! That writes RocksDB's manifest, which is synced, and ends files of many megabytes: a thread of its own does it, as
//! the log's next entries would wait.

use rocksdb::DB;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

pub(crate) struct Unlinker {
    /// The last key that is of no use. Dropped, it ends the thread.
    queue: Option<mpsc::Sender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

fn unlink_all(log: &DB, queue: &mpsc::Receiver<Vec<u8>>) {
    for last in queue {
        // RocksDB lets no write pass any more after an error that would lose something: this is about room alone.
        if let Err(error) = log.delete_file_in_range(&b""[..], &last) {
            tracing::warn!(%error, "tables of the log that are of no use take room until the next checkpoint");
        }
    }
}

impl Unlinker {
    pub(crate) fn start(log: Arc<DB>) -> io::Result<Unlinker> {
        let (sender, queue) = mpsc::channel();
        let thread = std::thread::Builder::new().name("raft-unlink".into());
        let thread = thread.spawn(move || unlink_all(&log, &queue))?;
        Ok(Unlinker { queue: Some(sender), thread: Some(thread) })
    }

    /// Has the tables ended that hold nothing after `last`, by and by.
    pub(crate) fn unlink(&self, last: Vec<u8>) {
        if self.queue.as_ref().is_none_or(|queue| queue.send(last).is_err()) {
            tracing::warn!("nothing unlinks the log's old tables any more; they take room until the next start");
        }
    }
}

impl Drop for Unlinker {
    /// Waits for the thread: the database can be opened again once it has let go of it.
    fn drop(&mut self) {
        self.queue = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the thread that unlinks the log's old tables has panicked");
        }
    }
}
