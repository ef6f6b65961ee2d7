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
    /// A pod's status is taken for that of whichever pod has its name now.
    Namesake,
    /// Workers are not told of pods that are gone.
    Silent,
    /// A runtime says of containers that they have been stopped, and lets them run.
    Undead,
    /// A worker does not see its running containers now and then.
    Blind,
    /// A runtime says of containers that have ended by themselves that they run.
    Masking,
    /// A pod is bound again, to another node, as it begins to run.
    Rebinding,
    /// The scheduler minds no rule about nodes, now and then.
    Careless,
    /// The scheduler minds no rule about other pods, now and then.
    Unsociable,
    /// A watch shows two events the other way round.
    SwappingWatch,
    /// A watch shows an event twice.
    RepeatingWatch,
    /// A watch may be resumed within a transaction.
    TornWatch,
    /// A watch that resumes leaves out the first event.
    LeapingWatch,
    /// A watch's bookmarks are of revisions that are yet to come.
    HastyWatch,
    /// A watch with a selector shows what that does not select.
    LeakyWatch,
    /// A watch shows of what is gone nothing but its name.
    BareWatch,
    /// A watch says of what has changed that it was added.
    MistakenWatch,
}

impl Twin {
    pub const ALL: [Twin; 27] = [
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
        Twin::Namesake,
        Twin::Silent,
        Twin::Undead,
        Twin::Blind,
        Twin::Masking,
        Twin::Rebinding,
        Twin::Careless,
        Twin::Unsociable,
        Twin::SwappingWatch,
        Twin::RepeatingWatch,
        Twin::TornWatch,
        Twin::LeapingWatch,
        Twin::HastyWatch,
        Twin::LeakyWatch,
        Twin::BareWatch,
        Twin::MistakenWatch,
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
            Twin::Namesake => "namesake",
            Twin::Silent => "silent",
            Twin::Undead => "undead",
            Twin::Blind => "blind",
            Twin::Masking => "masking",
            Twin::Rebinding => "rebinding",
            Twin::Careless => "careless",
            Twin::Unsociable => "unsociable",
            Twin::SwappingWatch => "swapping-watch",
            Twin::RepeatingWatch => "repeating-watch",
            Twin::TornWatch => "torn-watch",
            Twin::LeapingWatch => "leaping-watch",
            Twin::HastyWatch => "hasty-watch",
            Twin::LeakyWatch => "leaky-watch",
            Twin::BareWatch => "bare-watch",
            Twin::MistakenWatch => "mistaken-watch",
        }
    }

    /// The first seed that notices it, as `--catch` found. A change of the product can give a seed another run: then
    /// ask again.
    pub fn seed(self) -> u64 {
        match self {
            Twin::Masking => 44,
            Twin::Namesake | Twin::Unsociable => 8,
            Twin::Unfenced => 6,
            Twin::Silent => 5,
            Twin::Crowding | Twin::Forgetful => 3,
            Twin::LyingDisk | Twin::StaleRead | Twin::LostUpdate => 2,
            Twin::Amnesia
            | Twin::SkippingWatch
            | Twin::DeafWatch
            | Twin::Doubling
            | Twin::Forgotten
            | Twin::Undead
            | Twin::Blind
            | Twin::Rebinding
            | Twin::Careless
            | Twin::SwappingWatch
            | Twin::RepeatingWatch
            | Twin::TornWatch
            | Twin::LeapingWatch
            | Twin::HastyWatch
            | Twin::LeakyWatch
            | Twin::BareWatch
            | Twin::MistakenWatch => 1,
        }
    }

    /// The invariants of which one has to notice it: they are named at the head of what is wrong with a run.
    pub fn noticed_by(self) -> &'static [&'static str] {
        match self {
            // What was acknowledged is gone, or masters tell of different histories.
            Twin::LyingDisk => &["history", "acknowledged", "linearizable"],
            // It may be wrong as those are, or never be a member again.
            Twin::Amnesia => &["history", "acknowledged", "linearizable", "healed"],
            Twin::StaleRead => &["linearizable"],
            Twin::Forgetful => &["acknowledged"],
            Twin::LostUpdate => &["acknowledged", "assumed"],
            Twin::Unfenced => &["plans", "fenced"],
            Twin::SkippingWatch => &["watched"],
            Twin::DeafWatch => &["watch-reliable"],
            Twin::Crowding => &["capacity"],
            Twin::Doubling => &["budget"],
            Twin::Forgotten => &["converged"],
            Twin::Namesake => &["statuses"],
            Twin::Silent => &["orphans"],
            // They stay where they were, and whoever waits for their end waits for ever.
            Twin::Undead => &["converged", "orphans"],
            Twin::Blind => &["once"],
            Twin::Masking => &["running"],
            Twin::Rebinding => &["binding"],
            Twin::Careless => &["eligible"],
            Twin::Unsociable => &["affinity"],
            Twin::SwappingWatch => &["watch-ordered"],
            Twin::RepeatingWatch => &["watch-unique"],
            Twin::TornWatch => &["watch-atomic"],
            Twin::LeapingWatch => &["watch-resumable"],
            Twin::HastyWatch => &["watch-bookmarks"],
            Twin::LeakyWatch => &["watch-filtered"],
            Twin::BareWatch => &["watch-previous"],
            Twin::MistakenWatch => &["watch-created"],
        }
    }

    /// The room whose fault it is.
    pub fn room(self) -> &'static str {
        match self {
            Twin::LyingDisk | Twin::Amnesia => "raft-node",
            Twin::StaleRead => "store",
            Twin::Forgetful | Twin::LostUpdate => "state",
            Twin::Unfenced => "manager",
            Twin::SkippingWatch | Twin::DeafWatch | Twin::SwappingWatch | Twin::RepeatingWatch => "front, api",
            Twin::TornWatch | Twin::LeapingWatch | Twin::HastyWatch => "front, api",
            Twin::LeakyWatch | Twin::BareWatch | Twin::MistakenWatch => "front, api",
            Twin::Crowding | Twin::Rebinding | Twin::Careless | Twin::Unsociable => "scheduler",
            Twin::Doubling => "controllers",
            Twin::Forgotten | Twin::Namesake | Twin::Silent => "dispatch",
            Twin::Undead | Twin::Blind | Twin::Masking => "podlife, agent",
        }
    }
}
