//! openraft's log storage over the `Disk` port: recent entries in memory, all of them on disk.

use crate::aside::aside;
use crate::codec;
use crate::disk::{self, Batch, Disk, REMEDY, log_key};
use crate::holds::Holds;
use crate::node::Checkpoints;
use crate::tail::Tail;
use crate::trim::{Growth, Trim};
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::writer::{Job, WriterHandle};
use bytes::Bytes;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::{Mutex, MutexGuard};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, oneshot};

/// Entries of one replication request, by bytes: well below the transport's message limit.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Entries read from disk at once: of a size that is not known yet, and at most.
const FIRST_PAGE: usize = 8;
const PAGE_MAX: usize = 256;

#[derive(Clone)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    writer: WriterHandle,
    shared: Arc<Mutex<Shared>>,
    checkpoints: Checkpoints,
    /// Told when the log may have to be trimmed.
    grown: Arc<Notify>,
    /// The entries before this one are overdue to go.
    overdue: Arc<AtomicU64>,
    holds: Arc<Mutex<Holds>>,
}

struct Shared {
    vote: Option<Vote>,
    /// The last vote given to the writer: whoever is told of a vote is told after it is here.
    promised: Option<Vote>,
    committed: Option<LogId>,
    /// Whether `committed` has moved since it was last written.
    committed_moved: bool,
    purged: Option<LogId>,
    /// The index with which the log begins, or will.
    first: u64,
    last: Option<LogId>,
    tail: Tail,
    growth: Growth,
}

impl Shared {
    /// The last entry on disk; 0 without one.
    fn written(&self) -> u64 {
        self.tail.last_written().unwrap_or(self.last.map_or(0, |last| last.index))
    }
}

fn lost(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the Raft storage has lost {what}; {REMEDY}"))
}

fn lost_entry(index: u64) -> io::Error {
    lost(format_args!("entry {index} of its log"))
}

/// The bytes of the entries from `first` to `last`, all of which are there.
fn measured(disk: &dyn Disk, checkpoints: Checkpoints, first: u64, last: u64) -> io::Result<Growth> {
    let (mut growth, mut next, mut page) = (Growth::new(checkpoints), first, FIRST_PAGE);
    while next <= last {
        let pairs = disk.scan(&log_key(next), &log_key(last + 1), page)?;
        for (key, bytes) in &pairs {
            if key[..] != log_key(next) {
                return Err(lost_entry(next));
            }
            growth.appended(next, bytes.len());
            next += 1;
        }
        let n_bytes: usize = pairs.iter().map(|(_, bytes)| bytes.len()).sum();
        let mean = n_bytes.checked_div(pairs.len()).ok_or_else(|| lost_entry(next))?;
        page = (REQUEST_BYTES_MAX / mean.max(1)).clamp(1, PAGE_MAX);
    }
    Ok(growth)
}

impl Log {
    pub(crate) fn open(disk: Arc<dyn Disk>, writer: WriterHandle, checkpoints: Checkpoints) -> io::Result<Log> {
        let log_id = |key: &[u8]| disk.get(key)?.map(|bytes| codec::log_id_from_bytes(&bytes)).transpose();
        let vote = disk.get(disk::VOTE)?.map(|bytes| codec::vote_from_bytes(&bytes)).transpose()?;
        let (committed, purged) = (log_id(disk::COMMITTED)?, log_id(disk::PURGED)?);
        let last_entry = disk.last(&log_key(0), disk::LOG_END)?;
        let last_entry = last_entry.map(|(_, bytes)| codec::entry_from_bytes(&bytes)).transpose()?;
        // Purged entries may still be there.
        let first = purged.map_or(0, |purged| purged.index + 1);
        let last = last_entry.map(|entry| entry.log_id).filter(|last| last.index >= first);
        let growth = match last {
            Some(last) => measured(&*disk, checkpoints, first, last.index)?,
            None => Growth::new(checkpoints),
        };
        let last = last.or(purged);
        // Nobody appends entries of a term without having written a vote of it, or of a later one.
        let term = |vote: &Vote| vote.leader_id.term;
        let (voted, reached) = (vote.as_ref().map_or(0, term), last.map_or(0, |last| last.leader_id.term));
        if voted < reached {
            return Err(lost(format!(
                "this master's vote: its log reaches term {reached}, its vote is of term {voted}"
            )));
        }
        let shared = Shared {
            vote,
            promised: vote,
            committed,
            committed_moved: false,
            purged,
            first,
            last,
            tail: Tail::default(),
            growth,
        };
        let grown = Arc::new(Notify::new());
        // It may have ended before it was trimmed.
        grown.notify_one();
        Ok(Log {
            disk,
            writer,
            shared: Arc::new(Mutex::new(shared)),
            checkpoints,
            grown,
            overdue: Arc::default(),
            holds: Arc::default(),
        })
    }

    /// Waits until so many more bytes are there that the log may have to be trimmed.
    pub(crate) async fn grown(&self) {
        self.grown.notified().await;
    }

    /// The last entry on this master's disk; 0 without one.
    pub(crate) fn written(&self) -> u64 {
        self.shared.lock().written()
    }

    /// The bytes, to 256 KiB, of the entries that are not applied, being those behind `applied`, or not on this master's
    /// disk.
    pub(crate) fn n_bytes_open(&self, applied: u64) -> u64 {
        let shared = self.shared.lock();
        shared.growth.behind(applied.min(shared.written()))
    }

    /// What is to be done about the log's length when the newest checkpoint has the entries up to `checkpoint`.
    pub(crate) fn trim(&self, checkpoint: Option<u64>) -> Trim {
        let shared = self.shared.lock();
        let held = self.holds().lowest(shared.first);
        let trim = shared.growth.trim(shared.first, checkpoint, held, self.checkpoints);
        if let (Some(held), Some(upto)) = (held, trim.purge)
            && upto > held
        {
            tracing::warn!(
                held,
                upto,
                "entries go that a master needs after the snapshot it is being sent, as the log is full: it will be sent \
                 another; fewer writes meanwhile, or a faster network, let it catch up"
            );
        }
        if let Some(purge) = trim.purge.filter(|_| trim.is_overdue) {
            self.overdue.fetch_max(purge + 1, Ordering::Relaxed);
        }
        trim
    }

    /// What is kept, until it is overdue, for who is being sent a checkpoint.
    pub(crate) fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock()
    }

    /// The last entry; 0 without one.
    pub(crate) fn last_index(&self) -> u64 {
        self.shared.lock().last.map_or(0, |last| last.index)
    }

    /// Whether an entry is overdue to go, so that nobody is to be sent it any more: openraft keeps what is being sent, and
    /// a follower that is slower than the others is always being sent something.
    pub(crate) fn is_overdue(&self, index: u64) -> bool {
        index < self.overdue.load(Ordering::Relaxed)
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

    /// The entries of `from..to`, without a hole: all there are, or the first of them up to `n_bytes_max` bytes, at least
    /// one. The tail goes on, and the log is purged, while the disk is read, so each page begins with another look.
    async fn read(&self, from: u64, to: u64, n_bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut run = Run { next: from, n_bytes: 0, n_bytes_max, entries: Vec::new() };
        let mut missed = None;
        loop {
            let end_on_disk = {
                let shared = self.shared.lock();
                if run.next < shared.first && !run.entries.is_empty() {
                    return Ok(run.entries);
                }
                run.next = run.next.max(shared.first);
                let to = to.min(shared.last.map_or(0, |last| last.index + 1));
                if run.next >= to || run.is_full() {
                    return Ok(run.entries);
                }
                match shared.tail.first() {
                    Some(first) if first <= run.next => {
                        run.take_all(shared.tail.range(run.next, to))?;
                        return Ok(run.entries);
                    }
                    first => to.min(first.unwrap_or(u64::MAX)),
                }
            };
            // Older than the tail. Heartbeats do not wait for the disk.
            let (began, disk, n_max) = (run.next, self.disk.clone(), run.page());
            let page = aside(move || disk.scan(&log_key(began), &log_key(end_on_disk), n_max)).await;
            let page = page.map_err(io::Error::other)??;
            run.take_all(page.iter().map(|(_, bytes)| bytes))?;
            // Purged or truncated just now, which the next look tells; or lost, which stays.
            if run.next == began && !run.is_full() && missed.replace(began) == Some(began) {
                return Err(lost_entry(began));
            }
        }
    }
}

/// Entries that follow each other, as they are gathered.
struct Run {
    next: u64,
    n_bytes: usize,
    n_bytes_max: usize,
    entries: Vec<Entry>,
}

impl Run {
    fn is_full(&self) -> bool {
        self.n_bytes >= self.n_bytes_max
    }

    /// How many entries to read next: as many as there is room for, going by those that were read.
    fn page(&self) -> usize {
        match self.n_bytes.checked_div(self.entries.len()) {
            None => FIRST_PAGE,
            Some(mean) => (self.n_bytes_max.saturating_sub(self.n_bytes) / mean.max(1) + 1).min(PAGE_MAX),
        }
    }

    /// Takes entries until one does not fit any more, or is not the next.
    fn take_all<'a>(&mut self, encoded: impl Iterator<Item = &'a Bytes>) -> io::Result<()> {
        for bytes in encoded {
            let n_bytes = self.n_bytes + bytes.len();
            if !self.entries.is_empty() && n_bytes > self.n_bytes_max {
                // Also when there was room for a smaller one.
                self.n_bytes = self.n_bytes_max;
                return Ok(());
            }
            let entry = codec::entry_from_bytes(bytes)?;
            if entry.log_id.index != self.next {
                return Ok(());
            }
            self.n_bytes = n_bytes;
            self.next += 1;
            self.entries.push(entry);
        }
        Ok(())
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
        self.read(from, to, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, REQUEST_BYTES_MAX).await
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
        let last = {
            let mut shared = self.shared.lock();
            for entry in entries {
                let bytes = codec::entry_to_bytes(&entry);
                if shared.last.is_none() {
                    shared.first = entry.log_id.index;
                }
                shared.last = Some(entry.log_id);
                if shared.growth.appended(entry.log_id.index, bytes.len()) {
                    self.grown.notify_one();
                }
                shared.tail.push(entry.log_id.index, bytes.clone());
                batch.put(log_key(entry.log_id.index), bytes);
            }
            if std::mem::take(&mut shared.committed_moved)
                && let Some(committed) = &shared.committed
            {
                batch.put(disk::COMMITTED, codec::log_id_to_bytes(committed));
            }
            shared.last
        };
        let shared = self.shared.clone();
        let done = Box::new(move |result: io::Result<()>| {
            if let (Ok(()), Some(last)) = (&result, last) {
                shared.lock().tail.written(last.index);
            }
            callback.io_completed(result);
        });
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
            shared.growth.truncated(first_gone);
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
            shared.first = upto.index + 1;
            if shared.last.is_none_or(|last| last.index <= upto.index) {
                shared.last = Some(upto);
            }
            shared.tail.purge(upto.index);
            shared.growth.purged(upto.index);
        }
        let mut batch = Batch { forgotten: Some(log_key(upto.index)), ..Batch::default() };
        batch.put(disk::PURGED, codec::log_id_to_bytes(&upto));
        // Nobody waits for it: the core would neither send heartbeats nor commit until all that is queued before it is
        // synced. A disk that takes it not takes nothing after it, which the next entries tell.
        let done = Box::new(|result: io::Result<()>| {
            if let Err(error) = result {
                tracing::error!(%error, "the log could not be purged");
            }
        });
        self.writer.submit(Job { batch, sync: false, done });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemoryDisk, Origin, Row};
    use crate::types::Command;
    use crate::writer::{Writer, spawn_inline, spawn_task};
    use futures::FutureExt;
    use openraft::EntryPayload;
    use openraft::impls::leader_id_adv::LeaderId;
    use std::time::Duration;

    /// So that the tail holds fifteen of them.
    const PAYLOAD: usize = 1 << 20;

    /// Something that happens once, while the log reads the disk.
    type Meanwhile = Mutex<Option<Box<dyn FnOnce() + Send>>>;

    #[derive(Default)]
    struct Busy {
        disk: MemoryDisk,
        meanwhile: Meanwhile,
    }

    impl Disk for Busy {
        fn write(&self, batch: Batch, sync: bool) -> io::Result<()> {
            self.disk.write(batch, sync)
        }

        fn write_rows(&self, origin: Origin, rows: &mut dyn Iterator<Item = Row>) -> io::Result<()> {
            self.disk.write_rows(origin, rows)
        }

        fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
            self.disk.get(key)
        }

        fn scan(&self, from: &[u8], to: &[u8], max: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
            let found = self.disk.scan(from, to, max);
            if let Some(meanwhile) = self.meanwhile.lock().take() {
                meanwhile();
            }
            found
        }

        fn last(&self, from: &[u8], to: &[u8]) -> io::Result<Option<(Bytes, Bytes)>> {
            self.disk.last(from, to)
        }
    }

    fn log_id(index: u64) -> LogId {
        LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index }
    }

    /// A log whose writes are done when they are asked for.
    fn opened<D: Disk>(disk: &Arc<D>) -> Log {
        let disk: Arc<dyn Disk> = disk.clone();
        Log::open(disk.clone(), spawn_inline()(Writer::new(disk)), Checkpoints::default()).unwrap()
    }

    /// Returns at once: what is written is the writer's.
    fn append(log: &mut Log, indexes: std::ops::RangeInclusive<u64>) {
        let command = || EntryPayload::Normal(Command { txn: vec![0; PAYLOAD].into(), entry: None });
        let entries = indexes.map(|index| Entry { log_id: log_id(index), payload: command() });
        log.append(entries, IOFlushed::noop()).now_or_never().unwrap().unwrap();
    }

    async fn held(log: &Log, from: u64, to: u64) -> Vec<u64> {
        log.read(from, to, usize::MAX).await.unwrap().iter().map(|entry| entry.log_id.index).collect()
    }

    fn first_in_memory(log: &Log) -> u64 {
        log.shared.lock().tail.first().unwrap()
    }

    #[tokio::test]
    async fn a_tail_that_goes_on_while_the_disk_is_read_leaves_no_hole() {
        let disk = Arc::new(Busy::default());
        let mut log = opened(&disk);
        append(&mut log, 0..=20);
        assert!(first_in_memory(&log) > 0);
        let mut other = log.clone();
        *disk.meanwhile.lock() = Some(Box::new(move || append(&mut other, 21..=40)));
        assert_eq!(held(&log, 0, 41).await, (0..=40).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_log_that_is_purged_while_the_disk_is_read_leaves_no_hole() {
        let disk = Arc::new(Busy::default());
        let mut log = opened(&disk);
        append(&mut log, 0..=40);
        let mut other = log.clone();
        *disk.meanwhile.lock() = Some(Box::new(move || {
            other.purge(log_id(35)).now_or_never().unwrap().unwrap();
        }));
        let read = held(&log, 0, 41).await;
        assert!(read.iter().copied().eq(0..read.len() as u64), "{read:?}");
        assert_eq!(held(&log, 0, 41).await, (36..=40).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_log_that_is_cut_off_while_the_disk_is_read_is_no_damage() {
        let disk = Arc::new(Busy::default());
        let mut log = opened(&disk);
        append(&mut log, 0..=40);
        let mut other = log.clone();
        *disk.meanwhile.lock() = Some(Box::new(move || {
            other.truncate_after(Some(log_id(9))).now_or_never().unwrap().unwrap();
        }));
        let read = held(&log, 5, 41).await;
        assert!(read.iter().copied().eq(5..5 + read.len() as u64), "{read:?}");
        assert_eq!(held(&log, 5, 41).await, [5, 6, 7, 8, 9]);
    }

    #[tokio::test]
    async fn what_is_not_written_yet_stays_in_memory() {
        let disk = Arc::new(MemoryDisk::default());
        let writer = spawn_task(|| [Duration::ZERO; 2].map(tokio::time::sleep))(Writer::new(disk.clone()));
        let mut log = Log::open(disk.clone(), writer, Checkpoints::default()).unwrap();
        append(&mut log, 0..=40);
        assert_eq!((held(&log, 0, 41).await.len(), first_in_memory(&log), log.written()), (41, 0, 0));
        while first_in_memory(&log) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(log.written(), 40);
        assert_eq!(held(&log, 0, 41).await, (0..=40).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_entry_that_is_lost_is_told() {
        let disk = Arc::new(MemoryDisk::default());
        let mut log = opened(&disk);
        append(&mut log, 0..=40);
        let mut batch = Batch::default();
        batch.delete(log_key(7));
        disk.write(batch, true).unwrap();
        assert_eq!(held(&log, 0, 7).await, (0..7).collect::<Vec<_>>());
        let told = log.read(0, 41, usize::MAX).await.unwrap_err();
        assert!(told.to_string().contains("has lost entry 7"), "{told}");
    }

    #[tokio::test]
    async fn a_request_is_cut_where_it_is_full() {
        let disk = Arc::new(MemoryDisk::default());
        let mut log = opened(&disk);
        append(&mut log, 0..=40);
        let read = async |from, n_bytes| log.read(from, 41, n_bytes).await.unwrap().len();
        // On disk, and in memory.
        for from in [0, first_in_memory(&log)] {
            for (n_bytes, n) in [(1, 1), (2 * PAYLOAD, 1), (3 * PAYLOAD, 2)] {
                assert_eq!(read(from, n_bytes).await, n);
            }
        }
    }
}
