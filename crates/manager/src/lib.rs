//! Runs only on the leader: feeds the scheduler and the controllers, and carries their plans to the
//! store.
//!
//! Active while this master leads, has applied everything of earlier terms and hears from a quorum.
//! Every proposal is fenced with the leader id it was made under, so a stale leader's plans die with
//! it, however late they arrive. A proposal is answered once it is applied here: the next look at its
//! key sees it.

mod bootstrap;
mod placing;
mod proposals;
mod queue;

#[cfg(test)]
mod tests;

use controllers::{Context, Facts, Plan};
use front::Front;
use futures::stream::{FuturesUnordered, StreamExt};
use objects::Revision;
use proposals::{End, Failure, carry_out, propose};
use queue::{Item, Queue};
use state::{LeaderId, Txn, View};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Where the leader's facts come from: the sessions' heartbeats.
pub trait FactSource: Send + Sync + 'static {
    fn facts(&self) -> Facts;
    /// A new leader gives every node a full window.
    fn took_office(&self);
}

/// Plans being carried out at once, each of another key.
const PLANS_MAX: usize = 32;
/// Keys looked at before the rest of this task gets another turn.
const KEYS_PER_TURN: usize = 50;
/// Between two tries to make the cluster's own namespaces.
const BOOTSTRAP_PAUSE: Duration = Duration::from_millis(200);

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
        let deposed = async { drop(watched.wait_for(|now| now.active != Some(leader)).await) };
        let work = async {
            lead(&front, &*facts, leader).await;
            // Another leader was met before it was heard of: nothing is left to do in this office.
            std::future::pending().await
        };
        tokio::select! {
            () = work => {}
            () = deposed => {}
        }
        tracing::info!(term = leader.term, "no longer leading: scheduler and controllers stop");
    }
}

/// Works until another leader is known to be in office.
async fn lead(front: &Front, facts: &dyn FactSource, leader: LeaderId) {
    while sit(front, facts, leader).await == End::Unsure {
        tracing::info!("the outcome of a plan is unknown: everything is looked at again once it is decided");
    }
}

/// Waits until all that this leader has proposed before is applied or void. It may have: this master
/// can lose sight of its quorum and find it again in the same term, and a proposal can outlive
/// its deadline. Entries are applied in their order, so that one of no effect answers for those before it.
async fn settle(front: &Front, leader: LeaderId) -> Result<(), End> {
    loop {
        match propose(front, leader, Txn::default()).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_fence() => return Err(End::Deposed),
            Err(error) => tracing::debug!(%error, "earlier plans are not decided yet"),
        }
        tokio::time::sleep(BOOTSTRAP_PAUSE).await;
    }
}

/// Works from the state as it is, and until it no longer knows what that is.
async fn sit(front: &Front, facts: &dyn FactSource, leader: LeaderId) -> End {
    if let Err(end) = settle(front, leader).await {
        return end;
    }
    while let Err(error) = bootstrap::ensure(front, leader).await {
        if error.is_fence() {
            return End::Deposed;
        }
        tracing::warn!(%error, "the cluster's own namespaces could not be made yet");
        tokio::time::sleep(BOOTSTRAP_PAUSE).await;
    }
    tokio::select! {
        end = control(front, facts, leader) => end,
        end = placing::run(front, leader) => end,
    }
}

/// All that wakes the controllers.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
enum Wake {
    /// There is a newer revision.
    Changed,
    /// A plan has been carried out.
    Done(Item, Result<(), Failure>),
    /// A key asked to be looked at by now, or is waiting to be.
    Due,
    /// The store is gone: this master is stopping.
    Closed,
}

async fn control(front: &Front, facts: &dyn FactSource, leader: LeaderId) -> End {
    let mut revisions = front.store.revisions();
    revisions.borrow_and_update();
    let view = front.store.view();
    let (mut position, mut queue) = (view.revision(), Queue::default());
    controllers::all_keys(&view).into_iter().for_each(|item| queue.push(item));
    drop(view);
    let mut plans = FuturesUnordered::new();
    loop {
        let known = facts.facts();
        for _ in 0..KEYS_PER_TURN {
            if plans.len() >= PLANS_MAX {
                break;
            }
            let Some(item) = queue.pop(Instant::now()) else { break };
            let plan = look(front, &known, &item);
            if let Some(ms) = plan.wake_after_ms {
                queue.push_at(item.clone(), Instant::now() + Duration::from_millis(ms as u64));
            }
            if plan.actions.is_empty() {
                queue.done(&item);
            } else {
                plans.push(async move { (item, carry_out(front, leader, plan.actions).await) });
            }
        }
        let more = plans.len() < PLANS_MAX && queue.has_ready(Instant::now());
        let wake = tokio::select! {
            biased;
            Some((item, result)) = plans.next() => Wake::Done(item, result),
            changed = revisions.changed() => if changed.is_ok() { Wake::Changed } else { Wake::Closed },
            () = tokio::task::yield_now(), if more => Wake::Due,
            () = queue.wait(), if plans.len() < PLANS_MAX => Wake::Due,
        };
        match wake {
            Wake::Changed => {
                let view = front.store.view();
                wake_keys(&view, position, &mut queue);
                position = view.revision();
            }
            Wake::Done(item, result) => match result.as_ref().err().and_then(Failure::end) {
                Some(end) => return end,
                None => conclude(&mut queue, item, result),
            },
            Wake::Due => {}
            Wake::Closed => return End::Deposed,
        }
    }
}

fn look(front: &Front, facts: &Facts, (controller, key): &Item) -> Plan {
    let (view, mut rng) = (front.store.view(), front.rng());
    let mut context = Context { view: &view, facts, now: front.now(), rng: &mut rng };
    controllers::reconcile(*controller, key, &mut context)
}

fn conclude(queue: &mut Queue, item: Item, result: Result<(), Failure>) {
    let (controller, key) = &item;
    match result {
        Ok(()) => return queue.done(&item),
        Err(Failure::Refused(refusal)) => {
            tracing::debug!(%key, ?controller, ?refusal, "a plan was refused; looking again");
        }
        Err(error) => tracing::warn!(%key, ?controller, %error, "a plan could not be carried out"),
    }
    queue.failed(&item, Instant::now());
}

/// Queues what the events since `position` touch.
fn wake_keys(view: &View, position: Revision, queue: &mut Queue) {
    for kind in objects::kinds() {
        match view.events_after(kind.id, position) {
            Ok(events) => {
                events.iter().flat_map(|event| controllers::wakes(event, view)).for_each(|item| queue.push(item));
            }
            // Too far behind (a snapshot was installed): look at everything.
            Err(_) => return controllers::all_keys(view).into_iter().for_each(|item| queue.push(item)),
        }
    }
}
