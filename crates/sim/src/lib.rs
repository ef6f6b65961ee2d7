//! The deterministic simulator: masters and workers, their clients and watchers, in one task queue under
//! virtual time, tormented, healed and judged.
//!
//! Under test are `state`, `store`, `raft-node` (openraft included), `api`, `front`, `manager` with
//! `scheduler` and `controllers`, `dispatch`, and `agent` with `podlife`, as they ship; faked are what
//! stands behind their ports: disk, network, clock, randomness, the container runtime.
//! `cargo run --release -p sim -- 17` plays seed 17, `--seeds 1000 --from 1` so many, `--trace` prints
//! what happens; `--catch` plants each fault of `twin.rs`. `mix.rs` says what can go wrong, `points.rs` where power can be lost, the files of
//! `judge` and `invariants/` what must hold all the same, `twin.rs` how we know that they would notice.
//!
//! What is replayed: everything. A run is one thread in a process of its own; time is tokio's
//! paused clock; every draw comes from the seed, the ones inside openraft through its runtime port, the
//! ones inside tokio and of the standard library's hash maps through `entropy.rs`. A test holds the traces of
//! two runs of one seed against each other. What is not simulated: gRPC and TLS, log and exec streams,
//! RocksDB (raft-disk's tests), threads that race, bytes that rot. A stalled master is cut off from
//! network and disk, but its timers go on.

mod batch;
mod catch;
mod chronicle;
mod client;
mod cluster;
mod connection;
mod desk;
mod disk;
mod history;
mod hollow;
mod invariants;
mod mix;
mod network;
mod office;
mod onlookers;
pub mod points;
mod tenants;
mod trace;
mod twin;
mod workers;
mod world;

pub use batch::{Batch, FIRED, PASSED, WRONG, batch, invariant, noticed};
pub use catch::{Caught, catch};
pub use points::Point;
pub use twin::Twin;

use objects::{KindId, registry};
use parking_lot::Mutex;
use std::collections::BTreeSet;

/// What clients write: two kinds, so that events of one are not mistaken for the other's.
const KINDS: [KindId; 2] = [registry::CONFIG_MAP, registry::SECRET];
/// A place of their own, which the orchestrator does not know of.
const NAMESPACE: &str = "raw";

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
    /// The failpoints passed, and those at which power was lost.
    pub passed: BTreeSet<Point>,
    pub fired: BTreeSet<Point>,
    /// Each begins with the name of the invariant that does not hold.
    pub wrong: Vec<String>,
}

/// Bytes; as much as a first thread has.
const STACK: usize = 8 << 20;

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Plays one seed. Once in a process: what is left of one run would show in the next.
pub fn play(options: Options) -> Report {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        PANICS.lock().push(panic.to_string());
    }));
    // Hash maps draw their keys thread by thread: those the caller has made, as for a log, would shift the seed's.
    let played = std::thread::Builder::new().name("seed".into()).stack_size(STACK).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime of one thread needs nothing that could be missing").block_on(world::play(options))
    });
    let played = played.expect("the operating system can start a thread");
    let mut report = played.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    drop(std::panic::take_hook());
    report.wrong.extend(PANICS.lock().drain(..).map(|panic| format!("panic: {panic}")));
    report
}
