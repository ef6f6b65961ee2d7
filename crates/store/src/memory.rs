//! A proposer without consensus: applies at once, in memory. For tests of everything above.

use crate::{Error, Leadership, Proposer, Published, Route, Store};
use async_trait::async_trait;
use state::{LeaderId, Outcome, State, Txn};
use std::sync::Arc;
use tokio::sync::watch;

pub struct MemoryProposer {
    published: Arc<Published>,
    leadership: watch::Sender<Leadership>,
}

const LEADER: LeaderId = LeaderId { term: 1, node: 1 };

impl MemoryProposer {
    /// A store over a fresh, empty state.
    pub fn store() -> Store {
        let published = Published::new(State::new());
        let leadership = Leadership { leader: Some("master-1".into()), term: 1, active: Some(LEADER) };
        let proposer = MemoryProposer { published: published.clone(), leadership: watch::Sender::new(leadership) };
        Store::new(published, Arc::new(proposer))
    }
}

#[async_trait]
impl Proposer for MemoryProposer {
    async fn propose(&self, txn: Txn, _: Route) -> Result<Outcome, Error> {
        Ok(self.published.apply(LEADER, &txn))
    }

    async fn read_barrier(&self) -> Result<(), Error> {
        Ok(())
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}
