//! How many seeds it takes until a planted fault is noticed.

use crate::batch::noticed;
use crate::{Twin, batch};
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// The first seed that notices a planted fault, and passes without it.
#[derive(Debug)]
pub struct Caught {
    pub twin: Twin,
    pub seed: u64,
    /// What it said was wrong.
    pub said: String,
}

/// A row of the table in TRACK_RECORD.md.
impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} | {} | {} | {} |", self.twin.name(), self.twin.room(), self.seed, self.said)
    }
}

/// Seeds played at once, of which all but one may be played in vain.
const FEW: u64 = 4;

/// Plays the seeds in their order until an invariant that has to notices the fault. A seed that fails without it
/// proves nothing, nor does a run that fails for another reason.
pub fn catch(program: &Path, twin: Twin, seeds: Range<u64>) -> Option<Caught> {
    let mut first = seeds.start;
    while first < seeds.end {
        let few = first..seeds.end.min(first + FEW);
        first = few.end;
        for (seed, output) in batch(program, few, Some(twin), false).failed {
            let Some(said) = noticed(&output, twin) else { continue };
            if batch(program, [seed], None, false).failed.is_empty() {
                return Some(Caught { twin, seed, said: said.into() });
            }
        }
    }
    None
}
