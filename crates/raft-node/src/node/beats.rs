//! What other masters tell of the workers of their sessions, until it is read: reports of several may come before that.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Beats {
    /// When each worker was last heard.
    unread: Mutex<BTreeMap<String, Instant>>,
    came: Notify,
}

impl Beats {
    /// A master's word: for how many milliseconds each of its workers has been silent.
    pub(super) fn tell(&self, silent_ms: impl IntoIterator<Item = (String, u64)>) {
        let now = Instant::now();
        let mut unread = self.unread.lock();
        for (worker, ms) in silent_ms {
            // Longer ago than clocks can tell: of no use to anybody.
            let Some(at) = now.checked_sub(Duration::from_millis(ms)) else { continue };
            unread.entry(worker).and_modify(|known| *known = at.max(*known)).or_insert(at);
        }
        self.came.notify_one();
    }

    /// Waits for reports; all that have come since the last call.
    pub(super) async fn read(&self) -> BTreeMap<String, Instant> {
        self.came.notified().await;
        std::mem::take(&mut self.unread.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_report_takes_the_place_of_another_s() {
        let (beats, start) = (Beats::default(), Instant::now());
        let later = |ms| start + Duration::from_millis(ms);
        tokio::time::advance(Duration::from_secs(5)).await;
        let told = |told: &[(&str, u64)]| beats.tell(told.iter().map(|(worker, ms)| (worker.to_string(), *ms)));
        told(&[("a", 100), ("b", 900)]);
        told(&[("c", 300)]);
        tokio::time::advance(Duration::from_secs(1)).await;
        told(&[("a", 2_000), ("b", 10)]);
        let heard = beats.read().await;
        let expected = [("a", 4_900), ("b", 5_990), ("c", 4_700)];
        assert_eq!(heard, expected.map(|(worker, ms)| (worker.to_string(), later(ms))).into());
        let none = tokio::time::timeout(Duration::from_secs(60), beats.read()).await;
        assert!(none.is_err(), "{none:?}");
    }
}
