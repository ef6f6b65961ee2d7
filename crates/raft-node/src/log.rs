//! openraft's log storage over the `Disk` port: recent entries in memory, all of them on disk.

use crate::codec;
use crate::disk::{self, Batch, Disk, REMEDY, log_key};
use crate::tail::Tail;
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::writer::{Job, WriterHandle};
use bytes::Bytes;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Entries of one replication request, by bytes: well below the transport's message limit.
const REQUEST_BYTES_MAX: usize = 4 << 20;

#[derive(Clone)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    writer: WriterHandle,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    vote: Option<Vote>,
    /// The last vote given to the writer: whoever is told of a vote is told after it is here.
    promised: Option<Vote>,
    committed: Option<LogId>,
    /// Whether `committed` has moved since it was last written.
    committed_moved: bool,
    purged: Option<LogId>,
    last: Option<LogId>,
    tail: Tail,
}

impl Log {
    pub(crate) fn open(disk: Arc<dyn Disk>, writer: WriterHandle) -> io::Result<Log> {
        let log_id = |key: &[u8]| disk.get(key)?.map(|bytes| codec::log_id_from_bytes(&bytes)).transpose();
        let vote = disk.get(disk::VOTE)?.map(|bytes| codec::vote_from_bytes(&bytes)).transpose()?;
        let (committed, purged) = (log_id(disk::COMMITTED)?, log_id(disk::PURGED)?);
        let last_entry = disk.last(&log_key(0), disk::LOG_END)?;
        let last_entry = last_entry.map(|(_, bytes)| codec::entry_from_bytes(&bytes)).transpose()?;
        // Purged entries may still be there.
        let first = purged.map_or(0, |purged| purged.index + 1);
        let last = last_entry.map(|entry| entry.log_id).filter(|last| last.index >= first);
        if last.is_some() && disk.get(&log_key(first))?.is_none() {
            let why = format!("the Raft storage has lost entry {first} of its log, with which it begins; {REMEDY}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let last = last.or(purged);
        let shared = Shared { vote, promised: vote, committed, purged, last, ..Shared::default() };
        Ok(Log { disk, writer, shared: Arc::new(Mutex::new(shared)) })
    }

    /// The newest vote that anybody can have been told of.
    pub(crate) fn promised(&self) -> Option<Vote> {
        self.shared.lock().promised
    }

    /// Submits a batch and waits until it is written (and synced, when asked).
    async fn write(&self, batch: Batch, sync: bool) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        let done = Box::new(move |result| drop(done.send(result)));
        self.writer.submit(Job { batch, sync, done });
        written.await.unwrap_or_else(|_| Err(io::Error::other("the log writer has stopped")))
    }

    fn read(&self, from: u64, to: u64, n_bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (first_in_tail, purged) = {
            let shared = self.shared.lock();
            (shared.tail.first().unwrap_or(u64::MAX), shared.purged.map_or(0, |id| id.index + 1))
        };
        let (from, mut n_bytes, mut entries) = (from.max(purged), 0, Vec::new());
        // Older than the tail: from disk, in pages.
        let mut next = from;
        while next < to.min(first_in_tail) && (entries.is_empty() || n_bytes < n_bytes_max) {
            let page: Vec<(Bytes, Bytes)> = self.disk.scan(&log_key(next), &log_key(to.min(first_in_tail)), 256)?;
            let Some((_, _)) = page.last() else { break };
            for (_, bytes) in page {
                if !entries.is_empty() && n_bytes + bytes.len() > n_bytes_max {
                    return Ok(entries);
                }
                n_bytes += bytes.len();
                let entry = codec::entry_from_bytes(&bytes)?;
                next = entry.log_id.index + 1;
                entries.push(entry);
            }
        }
        let shared = self.shared.lock();
        for bytes in shared.tail.range(next.max(from), to) {
            if !entries.is_empty() && n_bytes + bytes.len() > n_bytes_max {
                break;
            }
            n_bytes += bytes.len();
            entries.push(codec::entry_from_bytes(bytes)?);
        }
        Ok(entries)
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(from) => from + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(to) => to + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, REQUEST_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let shared = self.shared.lock();
        Ok(LogState { last_purged_log_id: shared.purged, last_log_id: shared.last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.shared.lock().promised = Some(*vote);
        let mut batch = Batch::default();
        batch.put(disk::VOTE, codec::vote_to_bytes(vote));
        self.write(batch, true).await?;
        self.shared.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // A hint for the next start: losing it only means that start waits for the leader. It goes with the next
        // entries, as a write of its own would wake the writer once more for each batch.
        let mut shared = self.shared.lock();
        shared.committed = committed;
        shared.committed_moved = true;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::default();
        {
            let mut shared = self.shared.lock();
            for entry in entries {
                let bytes = codec::entry_to_bytes(&entry);
                shared.last = Some(entry.log_id);
                shared.tail.push(entry.log_id.index, bytes.clone());
                batch.put(log_key(entry.log_id.index), bytes);
            }
            if std::mem::take(&mut shared.committed_moved)
                && let Some(committed) = &shared.committed
            {
                batch.put(disk::COMMITTED, codec::log_id_to_bytes(committed));
            }
        }
        let done = Box::new(move |result| callback.io_completed(result));
        self.writer.submit(Job { batch, sync: true, done });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let first_gone = last.map_or(0, |last| last.index + 1);
        let end = {
            let mut shared = self.shared.lock();
            let end = shared.last.map_or(0, |last| last.index + 1);
            if end > first_gone {
                shared.last = last.or(shared.purged);
            }
            shared.tail.truncate(first_gone);
            end
        };
        let mut batch = Batch::default();
        // No further than the log reaches: the disk's tables of later entries would overlap with it.
        batch.delete_range(log_key(first_gone), log_key(end.max(first_gone)));
        self.write(batch, true).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        {
            let mut shared = self.shared.lock();
            shared.purged = Some(upto);
            if shared.last.is_none_or(|last| last.index <= upto.index) {
                shared.last = Some(upto);
            }
            shared.tail.purge(upto.index);
        }
        let mut batch = Batch { forgotten: Some(log_key(upto.index)), ..Batch::default() };
        batch.put(disk::PURGED, codec::log_id_to_bytes(&upto));
        self.write(batch, false).await
    }
}
