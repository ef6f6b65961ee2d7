//! Entries that are kept for who is being sent a checkpoint: it needs what comes after it next, and by the time that the
//! checkpoint of a large state has arrived, the log would have been trimmed beyond.

use crate::log::Log;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long entries are kept for a peer that has its checkpoint, and takes none of them.
const PATIENCE: Duration = Duration::from_secs(5);

/// By peer.
#[derive(Default)]
pub(crate) struct Holds {
    by_peer: BTreeMap<u64, Hold>,
    n_begun: u64,
}

struct Hold {
    /// Tells the checkpoint from an earlier one to the same peer, whose end may be noticed later.
    number: u64,
    /// What the peer has, or will with the checkpoint.
    index: u64,
    /// Known once the checkpoint is not being sent any more.
    sent: Option<Sent>,
}

struct Sent {
    /// Once the peer has this entry too, it is no further behind than others.
    upto: u64,
    until: Instant,
}

impl Holds {
    /// Keeps what comes after `index` while the checkpoint that ends there is being sent. Answers its number.
    fn begin(&mut self, peer: u64, index: u64) -> u64 {
        self.n_begun += 1;
        self.by_peer.insert(peer, Hold { number: self.n_begun, index, sent: None });
        self.n_begun
    }

    /// The checkpoint is not being sent any more: keeps on until the peer has the entries up to `upto`.
    fn end(&mut self, peer: u64, number: u64, upto: u64) {
        if let Some(hold) = self.by_peer.get_mut(&peer).filter(|hold| hold.number == number) {
            hold.sent = Some(Sent { upto, until: Instant::now() + PATIENCE });
        }
    }

    /// The peer has the entries up to `index`.
    pub(crate) fn matched(&mut self, peer: u64, index: u64) {
        let Some(hold) = self.by_peer.get_mut(&peer) else { return };
        hold.index = hold.index.max(index);
        let Some(sent) = &mut hold.sent else { return };
        sent.until = Instant::now() + PATIENCE;
        if hold.index >= sent.upto {
            self.by_peer.remove(&peer);
        }
    }

    /// The entry behind which all are kept, of a log that begins with `first`: who needs what is gone already is not
    /// helped by the rest.
    pub(crate) fn lowest(&mut self, first: u64) -> Option<u64> {
        let now = Instant::now();
        self.by_peer.retain(|_, hold| hold.sent.as_ref().is_none_or(|sent| now < sent.until));
        self.by_peer.values().map(|hold| hold.index).filter(|index| index + 1 >= first).min()
    }
}

/// A checkpoint on its way; entries are kept for its peer until it is dropped and, then, until the peer has what is there
/// at that moment.
pub(crate) struct Sending {
    log: Log,
    peer: u64,
    number: u64,
}

impl Sending {
    /// To `peer`, of a checkpoint that ends at `index`.
    pub(crate) fn begin(log: Log, peer: u64, index: u64) -> Sending {
        let number = log.holds().begin(peer, index);
        Sending { log, peer, number }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let upto = self.log.last_index();
        self.log.holds().end(self.peer, self.number, upto);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_LITTLE: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn entries_are_kept_until_the_peer_has_those_that_came_meanwhile() {
        let mut holds = Holds::default();
        assert_eq!(holds.lowest(0), None);
        let number = holds.begin(2, 30);
        tokio::time::advance(PATIENCE * 20).await;
        assert_eq!(holds.lowest(0), Some(30));
        holds.end(2, number, 90);
        for matched in [50, 70, 89] {
            tokio::time::advance(A_LITTLE).await;
            holds.matched(2, matched);
            holds.matched(3, 1);
            assert_eq!(holds.lowest(0), Some(matched));
        }
        holds.matched(2, 90);
        assert_eq!(holds.lowest(0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_go_on_is_not_waited_for() {
        let mut holds = Holds::default();
        let number = holds.begin(2, 30);
        holds.end(2, number, 90);
        holds.matched(2, 40);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(holds.lowest(0), None);
        holds.matched(2, 50);
        assert_eq!(holds.lowest(0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_checkpoint_s_end_is_not_that_of_the_one_on_its_way() {
        let mut holds = Holds::default();
        let (earlier, later) = (holds.begin(2, 30), holds.begin(2, 60));
        holds.end(2, earlier, 70);
        tokio::time::advance(PATIENCE * 2).await;
        assert_eq!(holds.lowest(0), Some(60));
        holds.end(2, later, 90);
        tokio::time::advance(PATIENCE * 2).await;
        assert_eq!(holds.lowest(0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_needs_what_is_gone_keeps_nothing() {
        let mut holds = Holds::default();
        holds.begin(2, 30);
        holds.begin(3, 60);
        assert_eq!(holds.lowest(31), Some(30));
        assert_eq!(holds.lowest(32), Some(60));
        assert_eq!(holds.lowest(62), None);
    }
}
