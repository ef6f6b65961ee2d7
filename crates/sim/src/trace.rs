//! The trace of a run: messages, writes, answers and faults as numbered lines, hashed and, when asked
//! for, printed.

use judge::Moment;
use parking_lot::Mutex;
use std::fmt::Display;
use tokio::time::Instant;

pub(crate) struct Trace {
    started: Instant,
    printed: bool,
    now: Mutex<(Moment, Fnv)>,
}

/// FNV-1a, 64 bits: small, and the same everywhere.
pub(crate) struct Fnv(u64);

const FNV_START: u64 = 0xCBF2_9CE4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01B3;

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(FNV_START)
    }
}

impl Fnv {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }

    pub(crate) fn value(&self) -> u64 {
        self.0
    }
}

impl Trace {
    pub(crate) fn new(printed: bool) -> Trace {
        Trace { started: Instant::now(), printed, now: Mutex::default() }
    }

    pub(crate) fn note(&self, line: impl Display) -> Moment {
        let (moment, hash) = &mut *self.now.lock();
        moment.0 += 1;
        let line = format!("{:>6} {:>9.3} {line}", moment.0, self.started.elapsed().as_secs_f64());
        hash.add(line.as_bytes());
        if self.printed {
            println!("{line}");
        }
        *moment
    }

    /// Virtual time since the run began, in ms.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The hash of all lines so far: two runs with the same one went the same way.
    pub(crate) fn hash(&self) -> u64 {
        self.now.lock().1.value()
    }
}
