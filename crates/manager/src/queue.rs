//! The work queue: each key at most once and in the order of asking, delayed ones at their time,
//! failed ones backed off, and none while it is being worked on.

use controllers::Controller;
use objects::Key;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use stdx::Backoff;
use tokio::time::Instant;

pub(crate) type Item = (Controller, Key);

/// A plan that was refused is made again almost at once; one that keeps failing within 10 s.
const BACKOFF: Backoff = Backoff::new(5, 10_000);

#[derive(Default)]
pub(crate) struct Queue {
    ready: VecDeque<Item>,
    /// What is in `ready`.
    queued: BTreeSet<Item>,
    /// Being worked on, and whether it was asked for again meanwhile.
    busy: BTreeMap<Item, bool>,
    /// When each delayed item is due, and the same in the order of time.
    due: BTreeMap<Item, Instant>,
    times: BTreeSet<(Instant, Item)>,
    failures: BTreeMap<Item, u32>,
}

impl Queue {
    pub(crate) fn push(&mut self, item: Item) {
        if let Some(again) = self.busy.get_mut(&item) {
            *again = true;
        } else if self.queued.insert(item.clone()) {
            self.ready.push_back(item);
        }
    }

    /// Asks for a look then; the soonest of several counts.
    pub(crate) fn push_at(&mut self, item: Item, at: Instant) {
        match self.due.get(&item) {
            Some(sooner) if *sooner <= at => return,
            Some(_) => self.forget_time(&item),
            None => {}
        }
        self.times.insert((at, item.clone()));
        self.due.insert(item, at);
    }

    fn forget_time(&mut self, item: &Item) {
        if let Some(at) = self.due.remove(item) {
            self.times.remove(&(at, item.clone()));
        }
    }

    /// The next key to look at. It is busy until `done` or `failed`; a look answers whatever it was
    /// to be looked at for later.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Item> {
        while let Some((at, item)) = self.times.first().cloned().filter(|(at, _)| *at <= now) {
            self.times.remove(&(at, item.clone()));
            self.due.remove(&item);
            self.push(item);
        }
        let item = self.ready.pop_front()?;
        self.queued.remove(&item);
        self.forget_time(&item);
        self.busy.insert(item.clone(), false);
        Some(item)
    }

    pub(crate) fn done(&mut self, item: &Item) {
        self.failures.remove(item);
        if self.busy.remove(item) == Some(true) {
            self.push(item.clone());
        }
    }

    pub(crate) fn failed(&mut self, item: &Item, now: Instant) {
        let n_failures = self.failures.entry(item.clone()).or_default();
        *n_failures += 1;
        let delay = Duration::from_millis(BACKOFF.delay_ms(*n_failures));
        // What happened meanwhile is seen by the next look, too.
        self.busy.remove(item);
        self.push_at(item.clone(), now + delay);
    }

    pub(crate) fn has_ready(&self, now: Instant) -> bool {
        !self.ready.is_empty() || self.times.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Waits until the next delayed item is due; for ever when there is none.
    pub(crate) async fn wait(&self) {
        match self.times.first() {
            Some((at, _)) => tokio::time::sleep_until(*at).await,
            None => std::future::pending().await,
        }
    }
}
