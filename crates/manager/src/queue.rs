//! The work queue: each key at most once, delayed ones until their time, failed ones backed off.

use controllers::Controller;
use objects::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use stdx::Backoff;
use tokio::time::Instant;

pub(crate) type Item = (Controller, Key);

const BACKOFF: Backoff = Backoff::new(50, 10_000);

#[derive(Default)]
pub(crate) struct Queue {
    ready: BTreeSet<Item>,
    /// The soonest time of each delayed item.
    delayed: BTreeMap<Item, Instant>,
    failures: BTreeMap<Item, u32>,
}

impl Queue {
    pub(crate) fn push(&mut self, item: Item) {
        self.ready.insert(item);
    }

    pub(crate) fn push_after(&mut self, item: Item, delay: Duration) {
        let due = Instant::now() + delay;
        self.delayed.entry(item).and_modify(|at| *at = due.min(*at)).or_insert(due);
    }

    pub(crate) fn failed(&mut self, item: Item) {
        let n_failures = self.failures.entry(item.clone()).or_default();
        *n_failures += 1;
        let delay = BACKOFF.delay_ms(*n_failures);
        self.push_after(item, Duration::from_millis(delay));
    }

    pub(crate) fn succeeded(&mut self, item: &Item) {
        self.failures.remove(item);
    }

    fn promote(&mut self) {
        let now = Instant::now();
        let due: Vec<Item> = self.delayed.iter().filter(|(_, at)| **at <= now).map(|(item, _)| item.clone()).collect();
        for item in due {
            self.delayed.remove(&item);
            self.ready.insert(item);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Item> {
        self.promote();
        self.ready.pop_first()
    }

    pub(crate) fn has_ready(&mut self) -> bool {
        self.promote();
        !self.ready.is_empty()
    }

    /// Waits until the next delayed item is due; for ever when there is none.
    pub(crate) async fn wait(&self) {
        match self.delayed.values().min() {
            Some(at) => tokio::time::sleep_until(*at).await,
            None => std::future::pending().await,
        }
    }
}
