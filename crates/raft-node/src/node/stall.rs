//! A leader whose disk takes nothing any more, and reports no error either, hands over: others write what it proposes, so
//! that all goes on, on fewer disks than anybody knows of.

use super::{Inner, Node};
use std::sync::Weak;
use std::time::Duration;
use tokio::time::Instant;

/// The disk of a leader may take nothing for so long: ten times what the slowest sync takes on a disk that is in order.
const STALL_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How far the disk has come, and since when.
struct Stall {
    written: u64,
    since: Instant,
}

impl Stall {
    /// Whether the disk, which has the log up to `written`, has taken nothing for too long, although others have: entries
    /// up to `applied` are committed. When they have not either, nobody is the better leader.
    fn is_over(&mut self, written: u64, applied: u64, now: Instant) -> bool {
        if written >= applied || written != self.written {
            *self = Stall { written, since: now };
        }
        now.saturating_duration_since(self.since) >= STALL_MAX
    }
}

/// Looks at the disk again and again while the master runs. Leadership is offered, to one after the other: that it was
/// taken this master cannot know, whose core waits for the disk with its vote for the new leader.
pub(super) async fn keep_off(inner: Weak<Inner>) {
    let mut stall = Stall { written: 0, since: Instant::now() };
    let mut n_offers = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let node = Node(inner);
        let applied = node.status().applied_index;
        let is_over = stall.is_over(node.0.log.written(), applied, Instant::now());
        if !is_over || node.0.leadership.borrow().active.is_none() {
            n_offers = if is_over { n_offers } else { 0 };
            continue;
        }
        if n_offers == 0 {
            let (seconds, written) = (STALL_MAX.as_secs(), stall.written);
            tracing::error!(seconds, written, applied, "the disk takes nothing any more: another master is to lead");
        }
        let successors = node.successors();
        if let Some(successor) = successors.get(n_offers % successors.len().max(1))
            && let Err(error) = node.offer_leadership(successor.id).await
        {
            tracing::warn!(to = %successor.member.name, %error, "leadership could not be offered");
        }
        n_offers += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_takes_nothing_of_what_others_took_is_stalled() {
        let start = Instant::now();
        let mut stall = Stall { written: 0, since: start };
        let mut is_over = |ms, written, applied| stall.is_over(written, applied, start + Duration::from_millis(ms));
        assert!(!is_over(5_000, 7, 7), "there was nothing to take");
        assert!(!is_over(6_000, 7, 20));
        assert!(!is_over(7_900, 7, 30));
        assert!(is_over(8_000, 7, 30));
        assert!(!is_over(8_100, 8, 30), "slow, but it goes on");
        assert!(!is_over(11_000, 8, 30));
        assert!(is_over(11_100, 8, 30));
        assert!(!is_over(11_200, 30, 30));
        assert!(!is_over(20_000, 30, 30), "entries that nobody has taken are not told here");
    }
}
