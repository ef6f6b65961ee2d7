//! The end of the log in memory, as bytes.

use bytes::Bytes;
use std::collections::VecDeque;

/// Entries kept in memory once they are on disk, by bytes: replication and apply read them from here, so that RocksDB is
/// read only at start and by followers far behind. 16 MiB is about 30,000 entries of a small ConfigMap's size, a
/// second or more of the fastest load. Those that the writer has not written yet are all kept: nothing else has them.
const BYTES_MAX: usize = 16 << 20;
/// What an entry costs beside its bytes: its place in the queue and its allocation's head.
const ENTRY_OVERHEAD: usize = 64;

/// Contiguous encoded entries, ending with the log's last one.
#[derive(Default)]
pub(crate) struct Tail {
    /// The index of the first entry held.
    start: u64,
    entries: VecDeque<Bytes>,
    n_bytes: usize,
    /// How many, from the first on, are on disk too.
    n_written: usize,
}

fn cost(bytes: &Bytes) -> usize {
    ENTRY_OVERHEAD + bytes.len()
}

impl Tail {
    /// The index of the first entry held.
    pub(crate) fn first(&self) -> Option<u64> {
        (!self.entries.is_empty()).then_some(self.start)
    }

    // Invariant: entries reach the disk in their order, and a truncation before those that replace what it cut; so the
    // newest that is told as written tells of all before it.
    /// The last entry that is on disk, when any is held that may not be.
    pub(crate) fn last_written(&self) -> Option<u64> {
        self.first().map(|first| (first + self.n_written as u64).saturating_sub(1))
    }

    fn end(&self) -> u64 {
        self.start + self.entries.len() as u64
    }

    /// Adds the entry at `index`, in place of those from there on.
    pub(crate) fn push(&mut self, index: u64, bytes: Bytes) {
        self.truncate(index);
        if index != self.end() || self.entries.is_empty() {
            *self = Tail { start: index, ..Tail::default() };
        }
        self.n_bytes += cost(&bytes);
        self.entries.push_back(bytes);
    }

    /// The entries up to and with `last` are on disk now: the oldest of them go when there are too many bytes.
    pub(crate) fn written(&mut self, last: u64) {
        let n_written = usize::try_from((last + 1).saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.n_written = self.n_written.max(n_written.min(self.entries.len()));
        while self.n_bytes > BYTES_MAX && self.n_written > 0 && self.entries.len() > 1 {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(dropped) = self.entries.pop_front() {
            self.n_bytes -= cost(&dropped);
            self.start += 1;
            self.n_written = self.n_written.saturating_sub(1);
        }
    }

    /// Drops the entries from `first_gone` on.
    pub(crate) fn truncate(&mut self, first_gone: u64) {
        while self.end() > first_gone
            && let Some(dropped) = self.entries.pop_back()
        {
            self.n_bytes -= cost(&dropped);
        }
        self.n_written = self.n_written.min(self.entries.len());
    }

    /// Drops the entries up to and with `last_gone`.
    pub(crate) fn purge(&mut self, last_gone: u64) {
        while self.first().is_some_and(|first| first <= last_gone) {
            self.drop_first();
        }
    }

    /// The entries of `from..to` that are held.
    pub(crate) fn range(&self, from: u64, to: u64) -> impl Iterator<Item = &Bytes> {
        let place = |index: u64| usize::try_from(index.clamp(self.start, self.end()) - self.start).unwrap_or(0);
        let (from, to) = (place(from), place(to));
        self.entries.range(from..to.max(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(range: std::ops::Range<u64>) -> Tail {
        let mut tail = Tail::default();
        range.for_each(|index| tail.push(index, Bytes::from(vec![index as u8])));
        tail
    }

    fn held(tail: &Tail, from: u64, to: u64) -> Vec<u8> {
        tail.range(from, to).map(|bytes| bytes[0]).collect()
    }

    #[test]
    fn a_range_is_cut_to_what_is_held() {
        let tail = tail(5..9);
        assert_eq!(held(&tail, 0, 100), [5, 6, 7, 8]);
        assert_eq!(held(&tail, 6, 8), [6, 7]);
        assert_eq!(held(&tail, 8, 6), [] as [u8; 0]);
        assert_eq!(held(&tail, 9, u64::MAX), [] as [u8; 0]);
        assert_eq!(held(&Tail::default(), 0, 100), [] as [u8; 0]);
    }

    #[test]
    fn both_ends_are_dropped_and_counted() {
        let mut tail = tail(5..9);
        tail.truncate(8);
        tail.purge(5);
        assert_eq!((held(&tail, 0, 100), tail.first(), tail.n_bytes), (vec![6, 7], Some(6), 2 * (ENTRY_OVERHEAD + 1)));
        tail.purge(100);
        assert_eq!((tail.first(), tail.n_bytes), (None, 0));
        tail.push(101, Bytes::from_static(&[1]));
        assert_eq!(tail.first(), Some(101));
    }

    #[test]
    fn an_entry_replaces_those_from_its_index_on_and_a_gap_starts_anew() {
        let mut tail = tail(5..9);
        tail.push(7, Bytes::from_static(&[77]));
        assert_eq!(held(&tail, 0, 100), [5, 6, 77]);
        tail.push(20, Bytes::from_static(&[20]));
        assert_eq!((held(&tail, 0, 100), tail.first()), (vec![20], Some(20)));
        tail.push(3, Bytes::from_static(&[3]));
        assert_eq!((held(&tail, 0, 100), tail.first()), (vec![3], Some(3)));
    }

    #[test]
    fn the_oldest_go_when_it_is_full() {
        let mut tail = Tail::default();
        (1..=40).for_each(|index| tail.push(index, Bytes::from(vec![0; 1 << 20])));
        assert_eq!(tail.first(), Some(1), "none is on disk yet");
        tail.written(10);
        assert_eq!((tail.first(), tail.n_written), (Some(11), 0), "the others are not on disk yet");
        tail.written(40);
        assert!(tail.n_bytes <= BYTES_MAX);
        assert_eq!(tail.first(), Some(26), "15 entries of 1 MiB and their overhead fit");
    }
}
