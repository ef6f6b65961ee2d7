//! From actions to proposals: many operations in each, fenced with the leader id they were made under.

use api::Context as ApiContext;
use controllers::Action;
use front::Front;
use futures::StreamExt;
use futures::future::join_all;
use objects::{Key, registry};
use state::{LeaderId, Op, Outcome, Refusal, Txn};
use std::collections::BTreeSet;

/// Operations in one proposal, and their bytes: 1 MiB is appended and replicated in a few ms.
const OPS_MAX: usize = 128;
const BYTES_MAX: usize = 1 << 20;
/// Proposals in flight at once; group commit makes them share syncs.
const IN_FLIGHT_MAX: usize = 16;

#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The world had changed, or the leader has: look again.
    #[error("the plan was refused: {0:?}")]
    Refused(Refusal),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the API refused it: {0}")]
    Admission(#[from] objects::Status),
}

/// Why the manager puts all its work down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Another leader is in office: nothing of this one's holds any more.
    Deposed,
    /// Something was proposed that may be applied yet: whoever looks before it is would do it twice.
    Unsure,
}

impl Failure {
    /// Whether all work ends with it.
    pub(crate) fn end(&self) -> Option<End> {
        match self {
            Failure::Refused(Refusal::Fenced) => Some(End::Deposed),
            Failure::Store(store::Error::Unknown(_)) => Some(End::Unsure),
            Failure::Refused(_) | Failure::Store(store::Error::Unavailable(_)) | Failure::Admission(_) => None,
        }
    }

    /// Another leader is in office: nothing of this one's holds any more.
    pub(crate) fn is_fence(&self) -> bool {
        matches!(self, Failure::Refused(Refusal::Fenced))
    }
}

pub(crate) async fn propose(front: &Front, leader: LeaderId, txn: Txn) -> Result<(), Failure> {
    match front.store.propose_as(leader, txn).await? {
        Outcome::Applied(_) => Ok(()),
        Outcome::Refused(refusal) => Err(Failure::Refused(refusal)),
    }
}

fn n_bytes(txn: &Txn) -> usize {
    let bytes = |op: &Op| match op {
        Op::Create { object, .. } | Op::Update { object, .. } => object.len(),
        Op::Delete { .. } => 0,
    };
    txn.ops.iter().map(bytes).sum()
}

/// Packs transactions that may share a proposal: no key twice, and not too much.
fn pack(txns: Vec<Txn>) -> Vec<Vec<Txn>> {
    let mut batches: Vec<Vec<Txn>> = Vec::new();
    let (mut keys, mut ops, mut bytes): (BTreeSet<Key>, usize, usize) = Default::default();
    for txn in txns {
        let (n_ops, size) = (txn.ops.len(), n_bytes(&txn));
        let clashes = txn.ops.iter().any(|op| keys.contains(op.key()));
        if batches.is_empty() || clashes || ops + n_ops > OPS_MAX || bytes + size > BYTES_MAX {
            batches.push(Vec::new());
            (keys, ops, bytes) = Default::default();
        }
        keys.extend(txn.ops.iter().map(|op| op.key().clone()));
        (ops, bytes) = (ops + n_ops, bytes + size);
        batches.last_mut().expect("one was just made").push(txn);
    }
    batches
}

/// Proposes several as one; when that is refused, each for itself, so that one stale one does not
/// hold the others up.
async fn propose_batch(front: &Front, leader: LeaderId, txns: Vec<Txn>) -> Vec<Result<(), Failure>> {
    let together = Txn {
        ops: txns.iter().flat_map(|txn| txn.ops.clone()).collect(),
        checks: txns.iter().flat_map(|txn| txn.checks.clone()).collect(),
        ..Txn::default()
    };
    let result = propose(front, leader, together).await;
    match result {
        Err(Failure::Refused(refusal)) if txns.len() > 1 && refusal != Refusal::Fenced => {
            join_all(txns.into_iter().map(|txn| propose(front, leader, txn))).await
        }
        result => vec![result; txns.len()],
    }
}

/// Proposes all of them; the answers are in their order.
pub(crate) async fn propose_all(front: &Front, leader: LeaderId, txns: Vec<Txn>) -> Vec<Result<(), Failure>> {
    let batches = pack(txns).into_iter().map(|batch| propose_batch(front, leader, batch));
    let answers: Vec<Vec<_>> = futures::stream::iter(batches).buffered(IN_FLIGHT_MAX).collect().await;
    answers.into_iter().flatten().collect()
}

/// The transaction of an action, decided on the newest view; `None` when nothing is left to do.
pub(crate) fn transaction(front: &Front, action: Action) -> Result<Option<Txn>, Failure> {
    let mut rng = front.rng();
    let mut context = ApiContext { now: front.now(), rng: &mut rng };
    let (op, checks) = match action {
        Action::Create { kind, object } => {
            let view = front.store.view();
            let (op, checks) = api::creation(object, registry::must(kind), &view, &mut context)?;
            (Some(op), checks)
        }
        Action::Update { record, object } => (api::change(&record, object), Vec::new()),
        Action::Delete { record, grace, propagation } => {
            (api::deletion(&record, grace, propagation, &context), Vec::new())
        }
    };
    Ok(op.map(|op| Txn { ops: vec![op], checks, ..Txn::default() }))
}

/// Carries a plan out; the first failure, if any. Events for people are not worth failing for.
pub(crate) async fn carry_out(front: &Front, leader: LeaderId, actions: Vec<Action>) -> Result<(), Failure> {
    let (mut txns, mut matters, mut result) = (Vec::new(), Vec::new(), Ok(()));
    for action in actions {
        let is_event = action.kind() == registry::EVENT;
        match transaction(front, action) {
            Ok(Some(txn)) => {
                txns.push(txn);
                matters.push(!is_event);
            }
            Ok(None) => {}
            Err(error) if is_event => tracing::debug!(%error, "an event could not be written"),
            Err(error) => result = result.and(Err(error)),
        }
    }
    for (answer, matters) in propose_all(front, leader, txns).await.into_iter().zip(matters) {
        match answer {
            Err(error) if matters || error.is_fence() => {
                if result.is_ok() || error.end().is_some() {
                    result = Err(error);
                }
            }
            Err(error) => tracing::debug!(%error, "an event was not written"),
            Ok(()) => {}
        }
    }
    result
}
