//! Entries that are kept for who is being sent a checkpoint: it needs what comes after it next, and by the time that the
//! checkpoint of a large state has arrived, the log would have been trimmed beyond.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long entries are kept once the checkpoint has arrived: until the first of them is being sent, which keeps the rest.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Clone, Default)]
pub(crate) struct Holds(Arc<Mutex<Vec<Hold>>>);

struct Hold {
    /// The last entry of the checkpoint.
    index: u64,
    /// Known once it is no longer being sent.
    until: Option<Instant>,
}

/// A checkpoint on its way.
pub(crate) struct Held {
    holds: Holds,
    index: u64,
}

impl Holds {
    /// Keeps what comes after `index` until the answer is dropped, and a little longer.
    pub(crate) fn hold(&self, index: u64) -> Held {
        self.0.lock().push(Hold { index, until: None });
        Held { holds: self.clone(), index }
    }

    /// The entry behind which all are kept.
    pub(crate) fn first(&self) -> Option<u64> {
        let now = Instant::now();
        let mut holds = self.0.lock();
        holds.retain(|hold| hold.until.is_none_or(|until| now < until));
        holds.iter().map(|hold| hold.index).min()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holds = self.holds.0.lock();
        // Of two with the same index it does not matter which.
        if let Some(hold) = holds.iter_mut().find(|hold| hold.index == self.index && hold.until.is_none()) {
            hold.until = Some(Instant::now() + LINGER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_a_checkpoint_is_kept_while_it_is_sent_and_until_its_entries_are() {
        let holds = Holds::default();
        assert_eq!(holds.first(), None);
        let (late, early, again) = (holds.hold(70), holds.hold(30), holds.hold(30));
        assert_eq!(holds.first(), Some(30));
        drop(early);
        tokio::time::advance(LINGER).await;
        assert_eq!(holds.first(), Some(30), "it is on its way to somebody else");
        drop(again);
        assert_eq!(holds.first(), Some(30));
        tokio::time::advance(LINGER).await;
        assert_eq!(holds.first(), Some(70));
        drop(late);
        tokio::time::advance(LINGER).await;
        assert_eq!(holds.first(), None);
    }
}
