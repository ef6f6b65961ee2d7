//! Keeps the log within bounds: in entries, and in bytes, as one entry may hold a thousand times what another does.
//! openraft would go by their number alone, and knows nothing of who will need them next.

use crate::node::Checkpoints;
use std::collections::VecDeque;

/// So many marks lie within the bytes between two checkpoints: one each 256 KiB.
const MARKS: u64 = 512;

/// How many times the bytes between two checkpoints the log may hold before those who are still sent its oldest entries
/// are sent a checkpoint instead.
const OVERDUE: u64 = 4;

/// So many times is the log trimmed while as many bytes, or entries, as are kept go.
const STEPS: u64 = 8;

/// How many bytes the entries of the log take: exactly in all, and by index to a grain.
pub(crate) struct Growth {
    grain: u64,
    total: u64,
    /// The total up to what has been purged.
    base: u64,
    /// (an entry, the total with it), a grain or more apart.
    marks: VecDeque<(u64, u64)>,
}

impl Growth {
    pub(crate) fn new(checkpoints: Checkpoints) -> Growth {
        let grain = (checkpoints.every_bytes / MARKS).max(1);
        Growth { grain, total: 0, base: 0, marks: VecDeque::new() }
    }

    /// Whether a grain has come together.
    pub(crate) fn appended(&mut self, index: u64, n_bytes: usize) -> bool {
        self.total += n_bytes as u64;
        let last = self.marks.back().map_or(self.base, |(_, total)| *total);
        let is_marked = self.total - last >= self.grain;
        if is_marked {
            self.marks.push_back((index, self.total));
        }
        is_marked
    }

    /// The entries from `first_gone` on are gone; those behind the last mark that stays count as none.
    pub(crate) fn truncated(&mut self, first_gone: u64) {
        while self.marks.pop_back_if(|(index, _)| *index >= first_gone).is_some() {
            self.total = self.marks.back().map_or(self.base, |(_, total)| *total);
        }
    }

    /// The entries up to and with `last_gone` are gone.
    pub(crate) fn purged(&mut self, last_gone: u64) {
        while let Some((_, total)) = self.marks.pop_front_if(|(index, _)| *index <= last_gone) {
            self.base = total;
        }
    }

    fn up_to(&self, index: u64) -> u64 {
        let n = self.marks.partition_point(|(marked, _)| *marked <= index);
        n.checked_sub(1).map_or(self.base, |last| self.marks[last].1)
    }

    /// The bytes of the entries behind `index`.
    pub(crate) fn behind(&self, index: u64) -> u64 {
        self.total - self.up_to(index)
    }

    /// What is to be done about a log that begins with `first` when the newest checkpoint has the entries up to
    /// `checkpoint`, and somebody is being sent one that has those up to `held`.
    pub(crate) fn trim(&self, first: u64, checkpoint: Option<u64>, held: Option<u64>, bounds: Checkpoints) -> Trim {
        let covered = checkpoint.map_or(self.base, |checkpoint| self.up_to(checkpoint));
        let is_overdue = self.total - self.base >= OVERDUE * bounds.every_bytes;
        let stays = held.filter(|_| !is_overdue).unwrap_or(u64::MAX);
        let n_may_go = self.marks.partition_point(|(index, _)| Some(*index) <= checkpoint && *index <= stays);
        let n_beyond = self.marks.partition_point(|(index, total)| {
            total + bounds.kept_bytes <= self.total || Some(index + bounds.kept) <= checkpoint
        });
        let last = n_may_go.min(n_beyond).checked_sub(1).map(|last| self.marks[last]);
        let is_worth_it = |index: u64, total: u64| {
            total - self.base >= bounds.kept_bytes / STEPS || index + 1 >= first + bounds.kept / STEPS
        };
        Trim {
            checkpoint: self.total - covered >= bounds.every_bytes,
            purge: last.filter(|(index, total)| is_worth_it(*index, *total)).map(|(index, _)| index),
            is_overdue,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trim {
    pub(crate) checkpoint: bool,
    /// The last entry that is to go.
    pub(crate) purge: Option<u64>,
    /// Whether it is to go even though somebody is being sent it, or will be.
    pub(crate) is_overdue: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Checkpoints = Checkpoints { every: 1_000, kept: 1_000, every_bytes: 160, kept_bytes: 50 };

    /// Entries of ten bytes, which is a grain.
    fn of(indexes: std::ops::RangeInclusive<u64>) -> Growth {
        let mut growth = Growth::new(BOUNDS);
        indexes.for_each(|index| assert!(growth.appended(index, 10)));
        growth
    }

    fn trim(growth: &Growth, checkpoint: Option<u64>) -> (bool, Option<u64>) {
        let Trim { checkpoint, purge, .. } = growth.trim(1, checkpoint, None, BOUNDS);
        (checkpoint, purge)
    }

    #[test]
    fn a_checkpoint_comes_after_so_many_bytes_and_then_the_oldest_go() {
        let growth = of(1..=15);
        assert_eq!(trim(&growth, None), (false, None));
        let mut growth = of(1..=20);
        assert_eq!(trim(&growth, None), (true, None), "nothing is held by a checkpoint");
        assert_eq!(trim(&growth, Some(3)), (true, Some(3)), "nor what comes after it");
        assert_eq!(trim(&growth, Some(20)), (false, Some(15)), "50 bytes stay");
        growth.purged(15);
        assert_eq!(trim(&growth, Some(20)), (false, None));
        (21..=35).for_each(|index| assert!(growth.appended(index, 10)));
        assert_eq!(trim(&growth, Some(20)), (false, Some(20)), "no more than the checkpoint holds");
        assert!(growth.appended(36, 10));
        assert_eq!(trim(&growth, Some(20)), (true, Some(20)));
    }

    #[test]
    fn what_does_not_go_in_time_is_overdue() {
        let mut growth = of(1..=63);
        assert!(!growth.trim(1, Some(60), None, BOUNDS).is_overdue);
        assert!(growth.appended(64, 10));
        assert!(growth.trim(1, Some(60), None, BOUNDS).is_overdue, "four times 160 bytes");
        growth.purged(1);
        assert!(!growth.trim(1, Some(60), None, BOUNDS).is_overdue);
    }

    #[test]
    fn of_small_entries_a_count_stays() {
        let mut growth = of(1..=20);
        let purge = |growth: &Growth, first, kept, kept_bytes| {
            growth.trim(first, Some(18), None, Checkpoints { kept, kept_bytes, ..BOUNDS }).purge
        };
        assert_eq!(purge(&growth, 1, 16, 80), Some(12), "by their bytes");
        assert_eq!(purge(&growth, 1, 16, 8_000), Some(2));
        assert_eq!(purge(&growth, 1, 17, 8_000), None, "one entry is not worth it");
        assert_eq!(purge(&growth, 1, 17, 80), Some(12));
        assert_eq!(purge(&growth, 1, 18, 8_000), None);
        growth.purged(1);
        assert_eq!(purge(&growth, 2, 16, 8_000), None);
        assert_eq!(purge(&growth, 2, 15, 8_000), Some(3), "an eighth of 15 is one");
    }

    #[test]
    fn what_somebody_will_need_stays_until_it_is_overdue() {
        let mut growth = of(1..=40);
        let trim = |growth: &Growth, held| growth.trim(1, Some(38), held, BOUNDS);
        assert_eq!(trim(&growth, None).purge, Some(35));
        assert_eq!(trim(&growth, Some(20)).purge, Some(20));
        assert_eq!(trim(&growth, Some(36)).purge, Some(35), "it would stay anyway");
        growth.purged(20);
        assert_eq!(trim(&growth, Some(20)).purge, None);
        (41..=84).for_each(|index| assert!(growth.appended(index, 10)));
        let Trim { purge, is_overdue, .. } = trim(&growth, Some(20));
        assert!(is_overdue);
        assert_eq!(purge, Some(38));
    }

    #[test]
    fn what_is_cut_off_counts_no_more() {
        let mut growth = of(1..=20);
        growth.truncated(4);
        assert_eq!(trim(&growth, None), (false, None));
        (4..=16).for_each(|index| assert!(growth.appended(index, 10)));
        assert_eq!(trim(&growth, Some(0)), (true, None));
        growth.truncated(0);
        growth.purged(50);
        assert_eq!(trim(&growth, Some(50)), (false, None));
    }

    #[test]
    fn small_entries_share_a_mark() {
        let mut growth = Growth { grain: 10, ..Growth::new(BOUNDS) };
        let marked: Vec<u64> = (1..=100).filter(|index| growth.appended(*index, 1)).collect();
        assert_eq!(marked.len(), 10, "{marked:?}");
        assert_eq!(trim(&growth, Some(100)), (false, Some(50)));
        assert_eq!([0, 9, 10, 55, 100].map(|index| growth.behind(index)), [100, 100, 90, 50, 0]);
    }
}
