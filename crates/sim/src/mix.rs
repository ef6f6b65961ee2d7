//! The mix of faults of one run. Each seed draws its own, and many kinds are absent from it, so that
//! some runs are about one fault alone and others about all of them together.

use crate::points::{self, Point};
use raft_node::{Checkpoints, Profile};
use std::time::Duration;
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
    /// Nothing gets into or out of one master for a while; then all of it does.
    Stall,
    /// One disk takes up to seconds for a sync, for a while.
    SlowDisk,
    /// One disk has no room, for a while.
    FullDisk,
    /// One master's clock is set.
    ClockJump,
    /// All masters are stopped and come back with the newest build, one after the other.
    Upgrade,
    /// One worker's process ends; its containers go on.
    WorkerCrash,
    /// One worker's machine starts again, and its containers are gone.
    WorkerReboot,
    /// One worker no longer reaches some masters, or any.
    WorkerCut,
    /// A container ends by itself.
    Exit,
}

const FAULTS: [Fault; 14] = [
    Fault::Crash,
    Fault::Blackout,
    Fault::Stop,
    Fault::HandOver,
    Fault::Cut,
    Fault::Weather,
    Fault::BadDisk,
    Fault::Wipe,
    Fault::Remove,
    Fault::Stall,
    Fault::SlowDisk,
    Fault::FullDisk,
    Fault::ClockJump,
    Fault::Upgrade,
];

/// Those of clusters with workers.
const WORKER_FAULTS: [Fault; 4] = [Fault::WorkerCrash, Fault::WorkerReboot, Fault::WorkerCut, Fault::Exit];

/// Masters' clocks stand apart by less than this: beyond every age at which something is forgotten. The newest events
/// stay all the same, or the judgement would miss some.
const CLOCK_MS_MAX: u64 = 2 * 3_600_000;

/// Elections that a deadline of the group leaves room for: votes are split, and leaders fall one after the other.
const N_ELECTIONS: u32 = 15;

/// How messages fare. Rates are of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) delay_ms_max: u64,
    /// Messages that may take as long as `LATE_MS_MAX`.
    pub(crate) late: u64,
}

/// What the newest build knows.
pub(crate) const FEATURE_LEVEL: u32 = state::FEATURE_LEVEL + 1;

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
    /// How far the masters' clocks stand ahead of the true time at the start, and when they are set, at most.
    pub(crate) skew_ms_max: u64,
    pub(crate) jump_ms_max: u64,
    pub(crate) weather: Weather,
    /// Between two faults, at most.
    pub(crate) calm_ms_max: u64,
    /// What the build knows that the masters begin with.
    pub(crate) feature_level: u32,
    /// With their weights.
    pub(crate) faults: Vec<(Fault, u64)>,
    /// Failpoints, each with the pass at which it fires.
    pub(crate) armed: Vec<(Point, u32)>,
    /// None where only the store is played.
    pub(crate) n_workers: usize,
    /// Who ask for Deployments and pods.
    pub(crate) n_tenants: usize,
    /// Between two requests of a tenant, at most.
    pub(crate) tenant_ms_max: u64,
    /// Calls of a runtime that fail, of a thousand, and how long one takes, at most.
    pub(crate) runtime_fails: u64,
    pub(crate) runtime_ms_max: u64,
    /// What the masters' timing is made for.
    pub(crate) profile: Profile,
    /// Tenants have rules about places, and one node is not for everybody.
    pub(crate) has_places: bool,
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
        }
    }
}

impl Mix {
    pub(crate) fn draw(rng: &mut Rng) -> Mix {
        let every = pick(rng, &[10, 30, 100, 10_000]);
        let n_workers = pick(rng, &[0, 0, 3, 3, 4, 5]);
        let mut faults = FAULTS.map(|fault| (fault, pick(rng, &[0, 0, 1, 3]))).to_vec();
        if n_workers > 0 {
            faults.extend(WORKER_FAULTS.map(|fault| (fault, pick(rng, &[0, 1, 3]))));
        }
        Mix {
            n_masters: pick(rng, &[3, 3, 3, 5]),
            n_clients: if n_workers > 0 { pick(rng, &[0, 2, 4]) } else { pick(rng, &[2, 4, 8, 8, 16, 60]) },
            n_keys: pick(rng, &[2, 5, 8]),
            think_ms_max: pick(rng, &[2, 10, 50]),
            checkpoints: Checkpoints {
                every,
                kept: pick(rng, &[0, 5, 20]),
                every_bytes: pick(rng, &[4_000, 40_000, 1 << 20]),
                kept_bytes: pick(rng, &[1, 2_000, 40_000]),
            },
            disk_ms_max: pick(rng, &[0, 1, 5, 20, 100]),
            skew_ms_max: pick(rng, &[0, 2_000, 60_000, CLOCK_MS_MAX]),
            jump_ms_max: pick(rng, &[60_000, CLOCK_MS_MAX]),
            weather: Weather::draw(rng),
            calm_ms_max: pick(rng, &[200, 1_000, 3_000]),
            feature_level: pick(rng, &[state::FEATURE_LEVEL, FEATURE_LEVEL]),
            faults,
            armed: points::draw(rng),
            n_workers,
            n_tenants: if n_workers > 0 { pick(rng, &[1, 2, 3]) } else { 0 },
            tenant_ms_max: pick(rng, &[300, 1_000, 4_000]),
            runtime_fails: pick(rng, &[0, 0, 20]),
            runtime_ms_max: pick(rng, &[1, 20, 200]),
            profile: pick(
                rng,
                &[Profile::Lan, Profile::Lan, Profile::Lan, Profile::Lan, Profile::Wan, Profile::SlowDisk],
            ),
            has_places: n_workers > 0 && rng.chance(1, 2),
        }
    }

    /// A deadline of the group: so long, and some elections as they are in its profile.
    pub(crate) fn patience(&self, without: Duration) -> Duration {
        without + N_ELECTIONS * self.profile.election_timeout_max()
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
