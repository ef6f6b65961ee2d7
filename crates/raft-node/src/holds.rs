//! Entries that are kept for who is being sent a checkpoint: it needs what comes after it next, and by the time that the
//! checkpoint of a large state has arrived, the log would have been trimmed beyond.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long entries are kept for a peer that has its checkpoint, and takes none of them.
const PATIENCE: Duration = Duration::from_secs(5);

/// By peer.
#[derive(Clone, Default)]
pub(crate) struct Holds(Arc<Mutex<BTreeMap<u64, Hold>>>);

struct Hold {
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

/// A checkpoint on its way.
pub(crate) struct Sending {
    holds: Holds,
    peer: u64,
    last_index: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Holds {
    /// Keeps what comes after `index` while the checkpoint that ends there is being sent, until the answer is dropped, and
    /// then until the peer has what `last_index` tells at that moment.
    pub(crate) fn hold(&self, peer: u64, index: u64, last_index: impl Fn() -> u64 + Send + Sync + 'static) -> Sending {
        self.0.lock().insert(peer, Hold { index, sent: None });
        Sending { holds: self.clone(), peer, last_index: Box::new(last_index) }
    }

    /// The peer has the entries up to `index`.
    pub(crate) fn matched(&self, peer: u64, index: u64) {
        let mut holds = self.0.lock();
        let Some(hold) = holds.get_mut(&peer) else { return };
        hold.index = hold.index.max(index);
        let Some(sent) = &mut hold.sent else { return };
        sent.until = Instant::now() + PATIENCE;
        if hold.index >= sent.upto {
            holds.remove(&peer);
        }
    }

    /// The entry behind which all are kept, of a log that begins with `first`: who needs what is gone already is not
    /// helped by the rest.
    pub(crate) fn lowest(&self, first: u64) -> Option<u64> {
        let now = Instant::now();
        let mut holds = self.0.lock();
        holds.retain(|_, hold| hold.sent.as_ref().is_none_or(|sent| now < sent.until));
        holds.values().map(|hold| hold.index).filter(|index| index + 1 >= first).min()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let upto = (self.last_index)();
        if let Some(hold) = self.holds.0.lock().get_mut(&self.peer) {
            hold.sent = Some(Sent { upto, until: Instant::now() + PATIENCE });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_LITTLE: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn entries_are_kept_until_the_peer_has_those_that_came_meanwhile() {
        let holds = Holds::default();
        assert_eq!(holds.lowest(0), None);
        let sending = holds.hold(2, 30, || 90);
        tokio::time::advance(PATIENCE * 20).await;
        assert_eq!(holds.lowest(0), Some(30));
        drop(sending);
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
        let holds = Holds::default();
        drop(holds.hold(2, 30, || 90));
        holds.matched(2, 40);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(holds.lowest(0), None);
        holds.matched(2, 50);
        assert_eq!(holds.lowest(0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_needs_what_is_gone_keeps_nothing() {
        let holds = Holds::default();
        let _sending = (holds.hold(2, 30, || 90), holds.hold(3, 60, || 90));
        assert_eq!(holds.lowest(31), Some(30));
        assert_eq!(holds.lowest(32), Some(60));
        assert_eq!(holds.lowest(62), None);
    }
}
