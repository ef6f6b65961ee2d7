//! Exponential back-off as arithmetic: a count of failures in, a delay out.

/// Delays double from `min_ms` to `max_ms`. Kubernetes restarts containers with 10 s .. 300 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub min_ms: u64,
    pub max_ms: u64,
}

impl Backoff {
    pub const fn new(min_ms: u64, max_ms: u64) -> Backoff {
        Backoff { min_ms, max_ms }
    }

    /// The delay after the `n_failures`-th failure in a row; 0 failures means no delay.
    pub fn delay_ms(self, n_failures: u32) -> u64 {
        if n_failures == 0 {
            return 0;
        }
        let doublings = (n_failures - 1).min(32);
        self.min_ms.saturating_mul(1 << doublings).min(self.max_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum() {
        let backoff = Backoff::new(10, 300);
        let delays: Vec<u64> = (0..8).map(|n| backoff.delay_ms(n)).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.delay_ms(u32::MAX), 300);
    }
}
