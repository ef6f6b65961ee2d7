//! A proposer without consensus: applies at once, in memory. For tests of everything above.

use crate::{Error, Leadership, Proposer, Published, Route, Store};
use async_trait::async_trait;
use parking_lot::Mutex;
use state::{LeaderId, Outcome, State, Txn, View};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

pub struct MemoryProposer {
    state: Mutex<State>,
    published: Arc<Published>,
    leadership: watch::Sender<Leadership>,
}

const LEADER: LeaderId = LeaderId { term: 1, node: 1 };

impl MemoryProposer {
    /// A store over a fresh, empty state.
    pub fn store() -> Store {
        let state = State::new();
        let published = Published::new(View::new(state.clone()));
        let leadership = Leadership { leader: Some("master-1".into()), term: 1, active: Some(LEADER) };
        let proposer = MemoryProposer {
            state: Mutex::new(state),
            published: published.clone(),
            leadership: watch::Sender::new(leadership),
        };
        Store::new(published, Arc::new(proposer))
    }
}

#[async_trait]
impl Proposer for MemoryProposer {
    async fn propose(&self, txn: Txn, _: Route) -> Result<Outcome, Error> {
        let mut state = self.state.lock();
        let applied = state.apply(LEADER, &txn);
        let touched: BTreeSet<_> = applied.events.iter().map(|event| event.key.kind).collect();
        self.published.publish(View::new(state.clone()), touched);
        Ok(applied.outcome)
    }

    async fn read_barrier(&self) -> Result<(), Error> {
        Ok(())
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}
