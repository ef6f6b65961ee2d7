//! The deterministic simulator: a few masters, their clients, watchers and managers, in one task
//! queue under virtual time, tormented and then judged.
//!
//! Under test are `state`, `store` and `raft-node` as they ship, openraft included; faked are the
//! disk, the network, the clock and the source of randomness. `cargo run --release -p sim -- 17` plays
//! seed 17, `1..=1000` a range, `--trace` prints what happens. `mix.rs` says what can go wrong, the
//! files of `judge` what must hold all the same, `Twin` how we know that they would notice.
//!
//! What is replayed: everything. A run is a process of its own with one thread; time is tokio's
//! paused clock; every draw comes from the seed, the ones inside openraft through its runtime port, the
//! ones inside tokio and of the standard library's hash maps through `entropy.rs`. A test holds the traces of
//! two runs of one seed against each other. What is not simulated: gRPC and TLS (`TonicTransport` and
//! `RaftService`), RocksDB, threads that race, a machine that pauses, bytes that rot.

mod batch;
mod client;
mod cluster;
mod disk;
mod history;
mod mix;
mod network;
mod trace;
mod world;

pub use batch::{Batch, batch};

use objects::{KindId, registry};
use parking_lot::Mutex;

/// What clients write: two kinds, so that events of one are not mistaken for the other's.
const KINDS: [KindId; 2] = [registry::CONFIG_MAP, registry::SECRET];
const NAMESPACE: &str = "default";

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
    /// The manager's plans carry no fence and are forwarded.
    Unfenced,
    /// A watch resumes on another master at that one's revision.
    SkippingWatch,
}

impl Twin {
    pub const ALL: [Twin; 6] =
        [Twin::LyingDisk, Twin::Amnesia, Twin::StaleRead, Twin::Forgetful, Twin::Unfenced, Twin::SkippingWatch];

    pub fn name(self) -> &'static str {
        match self {
            Twin::LyingDisk => "lying-disk",
            Twin::Amnesia => "amnesia",
            Twin::StaleRead => "stale-read",
            Twin::Forgetful => "forgetful",
            Twin::Unfenced => "unfenced",
            Twin::SkippingWatch => "skipping-watch",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub seed: u64,
    pub twin: Option<Twin>,
    /// Print the trace.
    pub printed: bool,
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    /// The hash of the trace: the same seed gives the same.
    pub trace: u64,
    /// In figures.
    pub story: String,
    pub wrong: Vec<String>,
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Plays one seed. Once in a process: what is left of one run would show in the next.
pub fn play(options: Options) -> Report {
    std::panic::set_hook(Box::new(|panic| PANICS.lock().push(panic.to_string())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime of one thread needs nothing that could be missing");
    let mut report = runtime.block_on(world::play(options));
    drop(runtime);
    drop(std::panic::take_hook());
    report.wrong.append(&mut PANICS.lock());
    report
}
