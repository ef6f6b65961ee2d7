//! The histograms that openraft keeps of its batches, in place of the published crate of this name.
//!
//! The published one computes, at the first histogram, the bucket bounds of every width it could be
//! asked for: 27 MB of tables, of which openraft uses 2 kB. That was four fifths of an idle master's
//! heap. Here the bounds are computed when they are needed. What openraft uses of the interface is here,
//! and nothing else; `[patch.crates-io]` in the workspace's manifest puts it in place.

use std::fmt;
use std::marker::PhantomData;

/// Buckets for each power of two: a value is told within a quarter of itself.
const PER_OCTAVE: usize = 4;
/// Values below `PER_OCTAVE` have a bucket each; the 62 octaves above have `PER_OCTAVE` each.
const BUCKETS: usize = PER_OCTAVE + (64 - PER_OCTAVE.ilog2() as usize) * PER_OCTAVE;

/// How often values of each size were recorded. `T` names what the published crate attaches to periods
/// of time, of which openraft has one.
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    of: PhantomData<T>,
}

impl<T> Histogram<T> {
    pub fn new() -> Histogram<T> {
        Histogram { counts: Box::new([0; BUCKETS]), of: PhantomData }
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// As often as `n` says.
    pub fn record_n(&mut self, value: u64, n: u64) {
        let count = &mut self.counts[bucket(value)];
        *count = count.saturating_add(n);
    }

    /// Each figure is the least value of the bucket that holds it.
    pub fn percentile_stats(&self) -> PercentileStats {
        let samples = self.counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let at = |permille: u64| {
            // The rank of the sample asked for, from 1.
            let rank = (u128::from(samples) * u128::from(permille)).div_ceil(1000).max(1);
            let mut seen = 0_u128;
            let holds = |count: &u64| {
                seen += u128::from(*count);
                seen >= rank
            };
            self.counts.iter().position(holds).map_or(0, least)
        };
        PercentileStats {
            samples,
            p0_1: at(1),
            p1: at(10),
            p5: at(50),
            p10: at(100),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p99_9: at(999),
        }
    }
}

fn bucket(value: u64) -> usize {
    match usize::try_from(value) {
        Ok(small) if small < PER_OCTAVE => small,
        _ => {
            // How far to the right until the two bits after the highest one are the last.
            let shift = value.ilog2() - PER_OCTAVE.ilog2();
            (shift as usize) * PER_OCTAVE + (value >> shift) as usize
        }
    }
}

/// The least value of a bucket.
fn least(bucket: usize) -> u64 {
    if bucket < PER_OCTAVE {
        return bucket as u64;
    }
    let shift = bucket / PER_OCTAVE - 1;
    ((bucket - shift * PER_OCTAVE) as u64) << shift
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

impl<T> Clone for Histogram<T> {
    fn clone(&self) -> Histogram<T> {
        Histogram { counts: self.counts.clone(), of: PhantomData }
    }
}

impl<T> PartialEq for Histogram<T> {
    fn eq(&self, other: &Histogram<T>) -> bool {
        self.counts == other.counts
    }
}

impl<T> Eq for Histogram<T> {}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recorded = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        f.debug_map().entries(recorded.map(|(bucket, count)| (least(bucket), count))).finish()
    }
}

/// How the recorded values are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p1, p10, p50, p90, p99, .. } = self;
        write!(f, "n={samples} p1={p1} p10={p10} p50={p50} p90={p90} p99={p99}")
    }
}

/// Several histograms under their names, a line each.
pub struct AsciiChart<T = ()> {
    named: Vec<(String, Histogram<T>)>,
}

impl<T> AsciiChart<T> {
    pub fn new() -> AsciiChart<T> {
        AsciiChart { named: Vec::new() }
    }

    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "the name is the published crate's")]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> AsciiChart<T> {
        self.named.push((name.into(), histogram));
        self
    }
}

impl<T> Default for AsciiChart<T> {
    fn default() -> AsciiChart<T> {
        AsciiChart::new()
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named.iter().try_for_each(|(name, histogram)| writeln!(f, "{name}: {}", histogram.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_hold_what_they_say() {
        assert_eq!((bucket(u64::MAX), bucket(0)), (BUCKETS - 1, 0));
        for i in 0..BUCKETS {
            let from = least(i);
            assert_eq!(bucket(from), i, "{from}");
            let to = if i + 1 < BUCKETS { least(i + 1) - 1 } else { u64::MAX };
            assert_eq!(bucket(to), i, "{to}");
            assert!(to - from <= from / 4, "{from}..={to} is told within a quarter");
        }
    }

    #[test]
    fn percentiles_are_of_what_was_recorded() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!((histogram.percentile_stats().samples, histogram.percentile_stats().p50), (0, 0));
        histogram.record_n(2, 900);
        (0..100).for_each(|_| histogram.record(1000));
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p50, stats.p90), (1000, 2, 2, 2));
        assert_eq!((stats.p99, stats.p99_9), (896, 896), "the least of 1000's bucket");
        assert_eq!(format!("{histogram:?}"), "{2: 900, 896: 100}");
        let chart = AsciiChart::new().add("a", histogram.clone()).add("b", Histogram::<()>::default());
        assert_eq!(
            chart.to_string(),
            "a: n=1000 p1=2 p10=2 p50=2 p90=2 p99=896\nb: n=0 p1=0 p10=0 p50=0 p90=0 p99=0\n"
        );
    }
}
