//! The mix of faults of one run. Each seed draws its own, and many kinds are absent from it, so that
//! some runs are about one fault alone and others about all of them together.

use raft_node::Checkpoints;
use stdx::Rng;

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One master loses power and comes back.
    Crash,
    /// All masters lose power at once.
    Blackout,
    /// One master is stopped as an operator would, leadership handed over.
    Stop,
    /// The leader hands over, and stays.
    HandOver,
    /// Some masters no longer hear some others, one way or both, for a while.
    Cut,
    /// Loss and delay change.
    Weather,
    /// A write fails, which ends the master.
    BadDisk,
    /// One master loses its disk and joins again under a new id.
    Wipe,
    /// One master is removed from the group, and joins again, empty, under a new id.
    Remove,
}

const FAULTS: [Fault; 9] = [
    Fault::Crash,
    Fault::Blackout,
    Fault::Stop,
    Fault::HandOver,
    Fault::Cut,
    Fault::Weather,
    Fault::BadDisk,
    Fault::Wipe,
    Fault::Remove,
];

/// How messages fare. Rates are of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) delay_ms_max: u64,
    /// Messages that may take as long as `LATE_MS_MAX`.
    pub(crate) late: u64,
    /// Answers, and granted votes, whose sender loses power in the moment after: the worst one for a
    /// promise that was not written down.
    pub(crate) trips: u64,
    pub(crate) vote_trips: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Mix {
    pub(crate) n_masters: usize,
    pub(crate) n_clients: usize,
    pub(crate) n_keys: u64,
    /// Between two requests of a client, at most.
    pub(crate) think_ms_max: u64,
    pub(crate) checkpoints: Checkpoints,
    /// Half of a sync's time, at most.
    pub(crate) disk_ms_max: u64,
    /// How far the masters' clocks stand apart, at most.
    pub(crate) skew_ms_max: u64,
    pub(crate) weather: Weather,
    /// Between two faults, at most.
    pub(crate) calm_ms_max: u64,
    /// With their weights.
    pub(crate) faults: Vec<(Fault, u64)>,
}

pub(crate) fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}

impl Weather {
    pub(crate) fn draw(rng: &mut Rng) -> Weather {
        Weather {
            lost: pick(rng, &[0, 0, 5, 20, 100]),
            doubled: pick(rng, &[0, 0, 20]),
            delay_ms_max: pick(rng, &[1, 2, 5, 20, 60]),
            late: pick(rng, &[0, 0, 5, 20]),
            trips: pick(rng, &[0, 0, 2]),
            vote_trips: pick(rng, &[0, 0, 300]),
        }
    }
}

impl Mix {
    pub(crate) fn draw(rng: &mut Rng) -> Mix {
        let every = pick(rng, &[10, 30, 100, 10_000]);
        Mix {
            n_masters: pick(rng, &[3, 3, 3, 5]),
            n_clients: pick(rng, &[2, 4, 8, 8, 16, 60]),
            n_keys: pick(rng, &[2, 5, 8]),
            think_ms_max: pick(rng, &[2, 10, 50]),
            checkpoints: Checkpoints { every, kept: pick(rng, &[0, 5, 20]) },
            disk_ms_max: pick(rng, &[0, 1, 5, 20, 100]),
            // Well below the five minutes of history, or the judgement would miss events, too.
            skew_ms_max: pick(rng, &[0, 2_000, 60_000]),
            weather: Weather::draw(rng),
            calm_ms_max: pick(rng, &[200, 1_000, 3_000]),
            faults: FAULTS.map(|fault| (fault, pick(rng, &[0, 0, 1, 3]))).to_vec(),
        }
    }

    /// The next fault, by weight; `None` when the mix holds none.
    pub(crate) fn next_fault(&self, rng: &mut Rng) -> Option<Fault> {
        let total: u64 = self.faults.iter().map(|(_, weight)| weight).sum();
        let mut at = if total == 0 { return None } else { rng.below(total) };
        self.faults.iter().find_map(|(fault, weight)| match at.checked_sub(*weight) {
            None => Some(*fault),
            Some(rest) => {
                at = rest;
                None
            }
        })
    }
}
