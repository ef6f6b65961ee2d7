//! What a granted vote tells of the voter's log, which saves a new leader its search for where their logs agree.
//!
//! openraft halves the log, with a round trip for each step: ten of them before the first write of a new leader
//! is committed, when logs are 10,000 entries long. But a voter says with its vote where its log ends, and that is
//! mostly where the candidate's does.

use crate::types::LogId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// By voter, up to where its log is that of this master, the candidate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Granted(Arc<Mutex<Votes>>);

#[derive(Debug, Default)]
struct Votes {
    term: u64,
    agreed: BTreeMap<u64, LogId>,
}

impl Granted {
    /// A vote for this master in `term`, whose log ends with `mine`, by a voter whose log ends with `theirs`. That
    /// end is synced: the voter answers once its vote is, which is written after all entries.
    pub(crate) fn note(&self, term: u64, voter: u64, mine: Option<LogId>, theirs: Option<LogId>) {
        let mut votes = self.0.lock();
        if votes.term < term {
            *votes = Votes { term, agreed: BTreeMap::new() };
        }
        if votes.term == term
            && let Some(last) = shared_end(mine, theirs)
        {
            votes.agreed.insert(voter, last);
        }
    }

    /// The last entry of the voter's log that is known to be one of this master's, should it lead in `term`. It
    /// stays so for as long as the voter follows this master: it truncates its log for nobody of an earlier term, and
    /// once it follows another, of this term or a later one, it refuses all that this master sends.
    pub(crate) fn agreed(&self, term: u64, voter: u64) -> Option<LogId> {
        let votes = self.0.lock();
        votes.agreed.get(&voter).copied().filter(|_| votes.term == term)
    }
}

/// The end of the voter's log, if the candidate's holds it. Entries of one term come from one leader, in one order
/// (Raft's Log Matching property): who has a later one of that term has this one, and all before it.
fn shared_end(mine: Option<LogId>, theirs: Option<LogId>) -> Option<LogId> {
    theirs.filter(|theirs| mine.is_some_and(|mine| mine.leader_id == theirs.leader_id && mine.index >= theirs.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::impls::leader_id_adv::LeaderId;

    fn log_id(term: u64, index: u64) -> Option<LogId> {
        Some(LogId { leader_id: LeaderId { term, node_id: term % 3 }, index })
    }

    #[test]
    fn logs_that_end_in_one_term_agree_up_to_the_shorter_ones_end() {
        assert_eq!(shared_end(log_id(4, 90), log_id(4, 90)), log_id(4, 90));
        assert_eq!(shared_end(log_id(4, 90), log_id(4, 70)), log_id(4, 70));
        // The voter may have entries of a leader that the candidate has none of.
        assert_eq!(shared_end(log_id(4, 90), log_id(3, 80)), None);
        assert_eq!(shared_end(log_id(4, 90), None), None);
        // Never granted; and never believed.
        assert_eq!(shared_end(log_id(4, 90), log_id(4, 91)), None);
        assert_eq!(shared_end(None, log_id(4, 1)), None);
    }

    #[test]
    fn votes_of_other_terms_say_nothing() {
        let granted = Granted::default();
        granted.note(5, 1, log_id(4, 9), log_id(4, 9));
        granted.note(5, 2, log_id(4, 9), log_id(3, 9));
        assert_eq!((granted.agreed(5, 1), granted.agreed(5, 2)), (log_id(4, 9), None));
        assert_eq!((granted.agreed(4, 1), granted.agreed(6, 1)), (None, None));
        granted.note(7, 2, log_id(4, 9), log_id(4, 8));
        // It comes late.
        granted.note(5, 1, log_id(4, 9), log_id(4, 9));
        assert_eq!((granted.agreed(7, 1), granted.agreed(7, 2)), (None, log_id(4, 8)));
    }
}
