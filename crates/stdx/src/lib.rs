//! What std lacks and the domain does not know: seeded randomness, back-off arithmetic and percentiles.
//!
//! Pure ground: nothing here reads a clock or an operating-system random source.

pub mod backoff;
pub mod rng;

pub use backoff::Backoff;
pub use rng::Rng;

/// The smallest of the values that `percent` of a hundred do not exceed; they are in order. `None` of none.
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_of_none() {
        let of = |n: u32| (1..=n).collect::<Vec<u32>>();
        let at = |n: u32| [0, 50, 99, 100].map(|percent| percentile(&of(n), percent));
        assert_eq!(at(0), [None; 4]);
        assert_eq!(at(1), [Some(1); 4]);
        assert_eq!(at(2), [1, 1, 2, 2].map(Some));
        assert_eq!(at(100), [1, 50, 99, 100].map(Some));
        assert_eq!(at(101), [1, 51, 100, 101].map(Some));
    }
}
