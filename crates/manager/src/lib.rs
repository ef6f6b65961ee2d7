//! Runs only on the leader: feeds the scheduler and the controllers, and carries their plans to the
//! store.
//!
//! Active while this master leads, has applied everything of earlier terms and hears from a quorum.
//! Every proposal is fenced with the leader id it was made under, so a stale leader's plans die with
//! it, however late they arrive.

mod bootstrap;
mod placing;
mod queue;

use api::Context as ApiContext;
use controllers::{Action, Context, Facts};
use front::Front;
use futures::stream::{FuturesUnordered, StreamExt};
use objects::{KindId, Revision, registry};
use queue::Queue;
use state::{LeaderId, Op, Outcome, Txn, View};
use std::sync::Arc;
use std::time::Duration;

/// Where the leader's facts come from: the sessions' heartbeats.
pub trait FactSource: Send + Sync + 'static {
    fn facts(&self) -> Facts;
    /// A new leader gives every node a full window.
    fn took_office(&self);
}

/// Proposals of one plan in flight at once.
const IN_FLIGHT_MAX: usize = 64;
/// Keys reconciled before the scheduler gets another turn.
const KEYS_PER_TURN: usize = 50;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The world had changed, or the leader has: look again.
    #[error("the plan was refused: {0:?}")]
    Refused(state::Refusal),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the API refused it: {0}")]
    Admission(#[from] objects::Status),
}

/// Runs for ever: waits for leadership, works while it lasts.
pub async fn run(front: Front, facts: Arc<dyn FactSource>) {
    let mut leadership = front.store.leadership();
    loop {
        let active = match leadership.wait_for(|now| now.active.is_some()).await {
            Ok(now) => now.active,
            Err(_) => return,
        };
        let Some(leader) = active else { continue };
        tracing::info!(term = leader.term, "leading: scheduler and controllers start");
        facts.took_office();
        let mut watched = leadership.clone();
        tokio::select! {
            () = lead(&front, &*facts, leader) => {}
            _ = async { drop(watched.wait_for(|now| now.active != Some(leader)).await) } => {}
        }
        tracing::info!(term = leader.term, "no longer leading: scheduler and controllers stop");
    }
}

async fn lead(front: &Front, facts: &dyn FactSource, leader: LeaderId) {
    if let Err(error) = bootstrap::ensure(front, leader).await {
        tracing::warn!(%error, "the cluster's own namespaces could not be made yet");
    }
    let mut revisions = front.store.revisions();
    let mut position = revisions.borrow_and_update().to_owned();
    let mut queue = Queue::default();
    let mut view = front.store.view();
    position = position.min(view.revision());
    controllers::all_keys(&view).into_iter().for_each(|key| queue.push(key));
    let mut placing = placing::Placing::default();
    let mut place = true;
    loop {
        if place {
            placing.run(front, leader, &view).await;
            place = false;
        }
        for _ in 0..KEYS_PER_TURN {
            let Some((controller, key)) = queue.pop() else { break };
            let plan = {
                let known = facts.facts();
                let mut rng = front.rng();
                let view = front.store.view();
                let mut context = Context { view: &view, facts: &known, now: front.now(), rng: &mut rng };
                controllers::reconcile(controller, &key, &mut context)
            };
            if let Some(ms) = plan.wake_after_ms {
                queue.push_after((controller, key.clone()), Duration::from_millis(ms as u64));
            }
            match carry_out(front, leader, plan.actions).await {
                Ok(()) => queue.succeeded(&(controller, key)),
                Err(Failure::Refused(state::Refusal::Fenced)) => return,
                Err(Failure::Refused(refusal)) => {
                    tracing::debug!(%key, ?controller, ?refusal, "a plan was refused; looking again");
                    queue.push_after((controller, key), Duration::from_millis(5));
                }
                Err(error) => {
                    tracing::warn!(%key, ?controller, %error, "a plan could not be carried out");
                    queue.failed((controller, key));
                }
            }
        }
        let idle = !queue.has_ready();
        tokio::select! {
            biased;
            changed = revisions.changed() => if changed.is_err() { return },
            () = queue.wait(), if idle => {}
            () = std::future::ready(()), if !idle => {}
        }
        view = front.store.view();
        if view.revision() > position {
            place |= look(&view, position, &mut queue);
            position = view.revision();
        }
    }
}

/// Queues what the events since `position` touch; true when the scheduler should look too.
fn look(view: &View, position: Revision, queue: &mut Queue) -> bool {
    let mut place = false;
    for kind in objects::kinds() {
        match view.events_after(kind.id, position) {
            Ok(events) => {
                place |= !events.is_empty() && matters_to_placement(kind.id);
                events.iter().flat_map(|event| controllers::wakes(event)).for_each(|key| queue.push(key));
            }
            // Too far behind (a snapshot was installed): look at everything.
            Err(_) => {
                controllers::all_keys(view).into_iter().for_each(|key| queue.push(key));
                return true;
            }
        }
    }
    place
}

fn matters_to_placement(kind: KindId) -> bool {
    [registry::POD, registry::NODE, registry::NAMESPACE].contains(&kind)
}

/// The operation of an action, decided on the newest view; `None` when nothing is left to do.
fn transaction(front: &Front, action: Action) -> Result<Option<Txn>, Failure> {
    let mut rng = front.rng();
    let mut context = ApiContext { now: front.now(), rng: &mut rng };
    let (op, checks): (Option<Op>, _) = match action {
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

async fn carry_out(front: &Front, leader: LeaderId, actions: Vec<Action>) -> Result<(), Failure> {
    let mut pending = FuturesUnordered::new();
    let mut result = Ok(());
    for action in actions {
        let is_event = matches!(&action, Action::Create { kind, .. } if *kind == registry::EVENT);
        let txn = match transaction(front, action) {
            Ok(Some(txn)) => txn,
            Ok(None) => continue,
            Err(error) if is_event => {
                tracing::debug!(%error, "an event could not be written");
                continue;
            }
            Err(error) => {
                result = Err(error);
                continue;
            }
        };
        if pending.len() == IN_FLIGHT_MAX {
            note(&mut result, pending.next().await);
        }
        pending.push(propose(front, leader, txn));
    }
    while let Some(done) = pending.next().await {
        note(&mut result, Some(done));
    }
    result
}

fn note(result: &mut Result<(), Failure>, done: Option<Result<(), Failure>>) {
    match done {
        // What is there already, or gone already, is as planned or will be seen at the next look.
        Some(Err(error)) => *result = Err(error),
        Some(Ok(())) | None => {}
    }
}

pub(crate) async fn propose(front: &Front, leader: LeaderId, txn: Txn) -> Result<(), Failure> {
    match front.store.propose_as(leader, txn).await? {
        Outcome::Applied(_) => Ok(()),
        Outcome::Refused(refusal) => Err(Failure::Refused(refusal)),
    }
}
