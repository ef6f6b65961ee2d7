//! The handle everyone holds: `view`, `read`, `propose`, `watch`, `leadership`.
//!
//! Concrete, over the small `Proposer` port. The applier (Raft's state machine, or the in-memory
//! proposer of tests) changes what is published; a reader waits while an entry is applied, and what
//! it has been given never changes.

mod memory;
mod published;

pub use memory::MemoryProposer;
pub use published::Published;

use async_trait::async_trait;
use objects::{KindId, Revision};
use state::{LeaderId, Outcome, Txn, View};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Who leads, as this master knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader's name, while one is known.
    pub leader: Option<String>,
    pub term: u64,
    /// Set while this master leads, has applied everything of earlier terms and hears from a quorum.
    pub active: Option<LeaderId>,
}

/// Where a proposal may be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// By the leader, wherever it is.
    Anywhere,
    /// By this master, now; otherwise it fails. The manager's route.
    Here,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Certainly not applied: safe to retry.
    #[error("the cluster cannot take writes now: {0}")]
    Unavailable(String),
    /// It may or may not have been applied, or may yet be.
    #[error("the outcome of the write is unknown: {0}")]
    Unknown(String),
}

/// The port to consensus.
#[async_trait]
pub trait Proposer: Send + Sync + 'static {
    /// Commits and applies `txn`; answers within the proposer's deadline.
    async fn propose(&self, txn: Txn, route: Route) -> Result<Outcome, Error>;
    /// Returns once this master has applied everything committed before the call.
    async fn read_barrier(&self) -> Result<(), Error>;
    fn leadership(&self) -> watch::Receiver<Leadership>;
}

/// How long a master without a leader keeps its watches and worker sessions: several failovers.
const LEADERLESS_MAX: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Store {
    published: Arc<Published>,
    proposer: Arc<dyn Proposer>,
}

impl Store {
    pub fn new(published: Arc<Published>, proposer: Arc<dyn Proposer>) -> Store {
        Store { published, proposer }
    }

    /// The same state, with another way for proposals and read barriers.
    pub fn through(&self, proposer: Arc<dyn Proposer>) -> Store {
        Store { published: self.published.clone(), proposer }
    }

    /// The newest local state, at once.
    pub fn view(&self) -> View {
        self.published.view()
    }

    /// A state at least as new as everything acknowledged before the call, anywhere.
    pub async fn read(&self) -> Result<View, Error> {
        self.proposer.read_barrier().await?;
        Ok(self.view())
    }

    /// A state at `revision` or newer; `Unavailable` when it does not come in time.
    pub async fn view_since(&self, revision: Revision, patience: Duration) -> Result<View, Error> {
        let view = self.view();
        if view.revision() >= revision {
            return Ok(view);
        }
        drop(view);
        let mut revisions = self.published.revisions();
        let reached = revisions.wait_for(|current| *current >= revision);
        match tokio::time::timeout(patience, reached).await {
            Ok(Ok(_)) => Ok(self.view()),
            Ok(Err(_)) => Err(Error::Unavailable("this master is stopping".into())),
            Err(_) => Err(Error::Unavailable(format!(
                "this master is at revision {}, behind the asked {revision}",
                self.view().revision()
            ))),
        }
    }

    pub async fn propose(&self, txn: Txn) -> Result<Outcome, Error> {
        self.proposer.propose(txn, Route::Anywhere).await
    }

    /// Proposes under a leadership: appended here or not at all, void under any other leader.
    pub async fn propose_as(&self, leader: LeaderId, txn: Txn) -> Result<Outcome, Error> {
        self.proposer.propose(Txn { fence: Some(leader), ..txn }, Route::Here).await
    }

    /// Wakes when objects of `kind` have changed; the receiver's value is the revision.
    pub fn watch(&self, kind: KindId) -> watch::Receiver<Revision> {
        self.published.watch(kind)
    }

    /// Wakes when the state has changed, once for all that was applied together.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.published.revisions()
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.proposer.leadership()
    }

    /// Returns once no leader has been known for `LEADERLESS_MAX`: streams end then, so that their
    /// readers move to a master that hears one.
    pub async fn leaderless(&self) {
        let mut leadership = self.leadership();
        loop {
            if leadership.wait_for(|now| now.leader.is_none()).await.is_err() {
                return;
            }
            let back = leadership.wait_for(|now| now.leader.is_some());
            if tokio::time::timeout(LEADERLESS_MAX, back).await.is_err() {
                return;
            }
        }
    }
}
