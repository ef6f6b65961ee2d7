//! When each worker was last heard, by this master or, as they report it, by the others.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::time::Instant;

pub struct Liveness {
    heard: Mutex<BTreeMap<String, Instant>>,
    /// Nodes heard on a session of this master.
    own: Mutex<BTreeMap<String, Instant>>,
    /// Since when this master judges: silence before it does not count.
    since: Mutex<Instant>,
}

impl Default for Liveness {
    fn default() -> Liveness {
        Liveness { heard: Mutex::default(), own: Mutex::default(), since: Mutex::new(Instant::now()) }
    }
}

impl Liveness {
    pub(crate) fn beat(&self, node: &str) {
        let now = Instant::now();
        self.own.lock().insert(node.into(), now);
        self.heard.lock().insert(node.into(), now);
    }

    pub(crate) fn session_ended(&self, node: &str) {
        self.own.lock().remove(node);
    }

    /// What this master's sessions say, for the leader.
    pub fn own_silent_ms(&self) -> BTreeMap<String, u64> {
        let own = self.own.lock();
        own.iter().map(|(node, at)| (node.clone(), at.elapsed().as_millis() as u64)).collect()
    }

    /// A peer's word, `silent_ms` ago.
    pub fn reported(&self, silent_ms: &BTreeMap<String, u64>) {
        let now = Instant::now();
        let mut heard = self.heard.lock();
        for (node, ms) in silent_ms {
            let at = now.checked_sub(std::time::Duration::from_millis(*ms)).unwrap_or(now);
            heard.entry(node.clone()).and_modify(|known| *known = at.max(*known)).or_insert(at);
        }
    }

    /// A new leader gives every node a full window.
    pub fn start_window(&self) {
        *self.since.lock() = Instant::now();
    }

    /// How long each of `nodes` has been silent.
    pub fn silent_ms(&self, nodes: impl Iterator<Item = String>) -> BTreeMap<String, i64> {
        let (heard, since) = (self.heard.lock(), *self.since.lock());
        let silence = |node: &String| heard.get(node).map_or(since, |at| since.max(*at)).elapsed().as_millis() as i64;
        nodes.map(|node| (node.clone(), silence(&node))).collect()
    }
}
