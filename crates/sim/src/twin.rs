//! Planted faults: each a build of the world in which one room does one thing wrong, at its port.

/// A build of the world with one planted fault, which the judgement has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// The disk says that it has synced and has not.
    LyingDisk,
    /// A master that crashed comes back empty under its old id.
    Amnesia,
    /// A linearizable read takes the local view.
    StaleRead,
    /// A retry is not recognised as one.
    Forgetful,
    /// An update is applied to whatever stands there.
    LostUpdate,
    /// The manager's plans carry no fence and are forwarded.
    Unfenced,
    /// A watch resumes on another master at that one's revision.
    SkippingWatch,
    /// A watch with a selector does not tell of what leaves it.
    DeafWatch,
    /// The scheduler puts every pod on the first node.
    Crowding,
    /// A set of a Deployment starts with twice its pods.
    Doubling,
    /// A pod's status is acknowledged and not stored.
    Forgotten,
    /// Workers are not told of pods that are gone.
    Silent,
    /// A runtime says of containers that they have been stopped, and lets them run.
    Undead,
    /// A worker does not see its running containers now and then.
    Blind,
}

impl Twin {
    pub const ALL: [Twin; 14] = [
        Twin::LyingDisk,
        Twin::Amnesia,
        Twin::StaleRead,
        Twin::Forgetful,
        Twin::LostUpdate,
        Twin::Unfenced,
        Twin::SkippingWatch,
        Twin::DeafWatch,
        Twin::Crowding,
        Twin::Doubling,
        Twin::Forgotten,
        Twin::Silent,
        Twin::Undead,
        Twin::Blind,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Twin::LyingDisk => "lying-disk",
            Twin::Amnesia => "amnesia",
            Twin::StaleRead => "stale-read",
            Twin::Forgetful => "forgetful",
            Twin::LostUpdate => "lost-update",
            Twin::Unfenced => "unfenced",
            Twin::SkippingWatch => "skipping-watch",
            Twin::DeafWatch => "deaf-watch",
            Twin::Crowding => "crowding",
            Twin::Doubling => "doubling",
            Twin::Forgotten => "forgotten",
            Twin::Silent => "silent",
            Twin::Undead => "undead",
            Twin::Blind => "blind",
        }
    }

    /// The first seed that notices it, as `--catch` found. A change of the product can give a seed another run: then
    /// ask again.
    pub fn seed(self) -> u64 {
        match self {
            Twin::StaleRead => 2,
            Twin::Forgetful => 6,
            Twin::LostUpdate
            | Twin::LyingDisk
            | Twin::Amnesia
            | Twin::Unfenced
            | Twin::SkippingWatch
            | Twin::DeafWatch => 1,
            Twin::Crowding | Twin::Doubling | Twin::Forgotten | Twin::Silent | Twin::Undead | Twin::Blind => 1,
        }
    }

    /// The room whose fault it is.
    pub fn room(self) -> &'static str {
        match self {
            Twin::LyingDisk | Twin::Amnesia => "raft-node",
            Twin::StaleRead => "store",
            Twin::Forgetful | Twin::LostUpdate => "state",
            Twin::Unfenced => "manager",
            Twin::SkippingWatch | Twin::DeafWatch => "front, api",
            Twin::Crowding => "scheduler",
            Twin::Doubling => "controllers",
            Twin::Forgotten | Twin::Silent => "dispatch",
            Twin::Undead | Twin::Blind => "podlife, agent",
        }
    }
}
