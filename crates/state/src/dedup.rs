//! Exactly-once: the outcomes of recent requests, replicated and in snapshots.

use crate::Outcome;
use imbl::OrdMap;
use objects::Revision;
use serde::{Deserialize, Serialize};

/// A proposer's name for one of its requests: its incarnation (drawn at start) and a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    pub incarnation: u64,
    pub seq: u64,
}

/// Outcomes kept per proposer. A proposer has at most 1,024 requests in flight (`raft-node`), each for two seconds at
/// most: where more than this many pass one that waits to be tried again, its outcome is told as unknown.
pub(crate) const WINDOW_MAX: usize = 4096;
/// Proposers whose outcomes are kept, some 0.7 MB each: the last to have proposed, more than a group has members.
/// Others are those that masters were before they started again: of them it is known alone what not to apply again.
pub(crate) const REMEMBERED_MAX: usize = 16;
/// Proposers known; a master has a new incarnation at every start.
pub(crate) const INCARNATIONS_MAX: usize = 64;
/// Client request ids kept; some 10 MB when all are. By their number alone: a clock that jumps would forget some
/// that are still tried, and an age that does not move while clocks catch up gives them no order.
pub(crate) const CLIENTS_MAX: usize = 65_536;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Below this nothing is known any more.
    pub(crate) floor: u64,
    pub(crate) last_used: Revision,
    pub(crate) outcomes: OrdMap<u64, Outcome>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub(crate) struct Dedup {
    pub(crate) proposers: OrdMap<u64, Window>,
    /// Each with its turn: the later applied, the higher.
    pub(crate) clients: OrdMap<u128, (u64, Outcome)>,
    /// Client ids by turn.
    #[serde(skip)]
    clients_by_turn: OrdMap<u64, u128>,
}

/// What of it is written. The index follows.
#[derive(Deserialize)]
struct Written {
    proposers: OrdMap<u64, Window>,
    clients: OrdMap<u128, (u64, Outcome)>,
}

impl From<Written> for Dedup {
    fn from(written: Written) -> Dedup {
        let Written { proposers, clients } = written;
        let clients_by_turn = clients.iter().map(|(id, (turn, _))| (*turn, *id)).collect();
        Dedup { proposers, clients, clients_by_turn }
    }
}

/// What the table knows about a request.
pub(crate) enum Seen {
    New,
    Before(Outcome),
    Forgotten,
}

impl Window {
    fn forget(&mut self) {
        if let Some((newest, _)) = self.outcomes.get_max() {
            self.floor = newest + 1;
            self.outcomes = OrdMap::new();
        }
    }
}

impl Dedup {
    pub(crate) fn look_up(&self, request: Option<RequestId>, client: Option<u128>) -> Seen {
        if let Some((_, outcome)) = client.and_then(|id| self.clients.get(&id)) {
            return Seen::Before(outcome.clone());
        }
        let Some(request) = request else { return Seen::New };
        let Some(window) = self.proposers.get(&request.incarnation) else { return Seen::New };
        match window.outcomes.get(&request.seq) {
            Some(outcome) => Seen::Before(outcome.clone()),
            None if request.seq < window.floor => Seen::Forgotten,
            None => Seen::New,
        }
    }

    /// Remembers an outcome. Client ids are remembered only when the write was applied: a refused
    /// one changed nothing and may be tried again.
    pub(crate) fn record(&mut self, request: Option<RequestId>, client: Option<u128>, outcome: &Outcome, at: Revision) {
        if let Some(id) = client.filter(|_| matches!(outcome, Outcome::Applied(_))) {
            let turn = self.clients_by_turn.get_max().map_or(0, |(newest, _)| newest + 1);
            self.clients.insert(id, (turn, outcome.clone()));
            self.clients_by_turn.insert(turn, id);
            if self.clients.len() > CLIENTS_MAX
                && let Some((oldest, id)) = self.clients_by_turn.get_min().copied()
            {
                self.clients_by_turn.remove(&oldest);
                self.clients.remove(&id);
            }
        }
        let Some(request) = request else { return };
        if !self.proposers.contains_key(&request.incarnation) {
            self.make_room();
        }
        // In place: a clone would make every insertion copy a path of the tree.
        let window = self.proposers.entry(request.incarnation).or_default();
        window.last_used = at;
        window.outcomes.insert(request.seq, outcome.clone());
        while window.outcomes.len() > WINDOW_MAX {
            let oldest = window.outcomes.get_min().map_or(0, |(seq, _)| *seq);
            window.outcomes.remove(&oldest);
            window.floor = oldest + 1;
        }
    }

    /// For one more proposer.
    fn make_room(&mut self) {
        let mut by_use: Vec<(Revision, u64)> =
            self.proposers.iter().map(|(id, window)| (window.last_used, *id)).collect();
        by_use.sort_unstable();
        let n_behind = |max: usize| (by_use.len() + 1).saturating_sub(max);
        for (_, id) in &by_use[..n_behind(INCARNATIONS_MAX)] {
            self.proposers.remove(id);
        }
        for (_, id) in &by_use[..n_behind(REMEMBERED_MAX)] {
            if let Some(window) = self.proposers.get_mut(id) {
                window.forget();
            }
        }
    }
}
