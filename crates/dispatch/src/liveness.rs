//! When each worker was last heard, by this master or, as they report it, by the others.
//!
//! Heartbeats never touch the Raft log. Every master keeps this; only the leader's is asked.

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

/// Whole milliseconds from `then` to `now`; 0 when `then` is the later one.
fn ms_since(then: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(then).as_millis() as u64
}

impl Liveness {
    pub(crate) fn beat(&self, node: &str) {
        self.beat_at(node, Instant::now());
    }

    fn beat_at(&self, node: &str, now: Instant) {
        self.own.lock().insert(node.into(), now);
        self.heard.lock().insert(node.into(), now);
    }

    pub(crate) fn session_ended(&self, node: &str) {
        self.own.lock().remove(node);
    }

    /// What this master's sessions say, for the leader.
    pub fn own_silent_ms(&self) -> BTreeMap<String, u64> {
        self.own_at(Instant::now())
    }

    fn own_at(&self, now: Instant) -> BTreeMap<String, u64> {
        self.own.lock().iter().map(|(node, at)| (node.clone(), ms_since(*at, now))).collect()
    }

    /// Peers' word: when each of their nodes was last heard.
    pub fn reported(&self, reported: BTreeMap<String, Instant>) {
        let mut heard = self.heard.lock();
        for (node, at) in reported {
            heard.entry(node).and_modify(|known| *known = at.max(*known)).or_insert(at);
        }
    }

    /// A new leader gives every node a full window.
    pub fn start_window(&self) {
        *self.since.lock() = Instant::now();
    }

    /// How long each of `nodes` has been silent. The others are forgotten.
    pub fn silent_ms(&self, nodes: impl Iterator<Item = String>) -> BTreeMap<String, i64> {
        self.silent_at(nodes, Instant::now())
    }

    fn silent_at(&self, nodes: impl Iterator<Item = String>, now: Instant) -> BTreeMap<String, i64> {
        let (mut heard, since) = (self.heard.lock(), *self.since.lock());
        let last = |node: &String| heard.get(node).map_or(since, |at| since.max(*at));
        let silent: BTreeMap<String, i64> =
            nodes.map(|node| (node.clone(), ms_since(last(&node), now) as i64)).collect();
        heard.retain(|node, _| silent.contains_key(node));
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: &str = "a";

    fn silent(liveness: &Liveness, now: Instant) -> i64 {
        liveness.silent_at([A.to_string()].into_iter(), now)[A]
    }

    fn after(ms: u64) -> (Liveness, Instant) {
        let liveness = Liveness::default();
        let start = *liveness.since.lock();
        (liveness, start + Duration::from_millis(ms))
    }

    #[test]
    fn silence_counts_from_the_last_beat() {
        let (liveness, start) = after(0);
        liveness.beat_at(A, start + Duration::from_millis(700));
        assert_eq!(silent(&liveness, start + Duration::from_millis(3_000)), 2_300);
    }

    #[test]
    fn silence_before_taking_office_does_not_count() {
        let (liveness, start) = after(0);
        liveness.beat_at(A, start);
        let office = start + Duration::from_secs(60);
        *liveness.since.lock() = office;
        assert_eq!(silent(&liveness, office + Duration::from_millis(1_500)), 1_500);
    }

    #[test]
    fn a_node_never_heard_is_silent_since_taking_office() {
        let (liveness, now) = after(2_500);
        assert_eq!(silent(&liveness, now), 2_500);
    }

    #[test]
    fn the_newest_word_of_any_master_counts() {
        let (liveness, now) = after(10_000);
        let report = |ms| liveness.reported([(A.to_string(), now - Duration::from_millis(ms))].into());
        report(900);
        report(5_000);
        assert_eq!(silent(&liveness, now), 900);
        report(100);
        assert_eq!(silent(&liveness, now), 100);
    }

    #[test]
    fn a_master_speaks_for_its_own_sessions_while_they_last() {
        let (liveness, now) = after(10_000);
        liveness.beat_at(A, now - Duration::from_millis(400));
        liveness.reported([("b".to_string(), now)].into());
        assert_eq!(liveness.own_at(now), [(A.to_string(), 400)].into());
        liveness.session_ended(A);
        assert!(liveness.own_at(now).is_empty());
        assert_eq!(silent(&liveness, now), 400, "what was heard stays heard");
    }

    #[test]
    fn nodes_that_are_gone_are_forgotten() {
        let (liveness, now) = after(1_000);
        liveness.beat_at(A, now);
        liveness.beat_at("gone", now);
        silent(&liveness, now);
        assert_eq!(liveness.heard.lock().len(), 1);
    }
}
