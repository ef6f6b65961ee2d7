//! Carries the scheduler's decisions out: bindings, and the word to those that fit nowhere.

use crate::proposals::{End, Failure, propose_all, transaction};
use front::Front;
use objects::{Key, Record, Timestamp, Value, ValueExt, json, record, registry};
use scheduler::{Decision, Model, News, Verdicts};
use state::{LeaderId, Op, Txn, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pods placed in one round, so that the first are bound before the last are decided.
const ROUND_MAX: usize = 500;
/// A round whose proposals failed for reasons of ours is followed by another one then.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Rounds shorter than this need no pause between them.
const ROUND_SHORT: Duration = Duration::from_millis(10);

const COMPONENT: &str = scheduler::NAME;

#[derive(Default)]
struct Placing {
    model: Model,
    verdicts: Verdicts,
    /// Verdicts that have not been told yet, by pod.
    held: BTreeMap<Key, String>,
}

/// When the next round must come, if nothing happens before.
#[derive(Debug, PartialEq)]
enum Next {
    Now,
    After(Duration),
    OnChange,
}

/// Places pods whenever something has changed that they could depend on, until the leader is
/// another.
pub(crate) async fn run(front: &Front, leader: LeaderId) -> End {
    let mut pods = front.store.watch(registry::POD);
    let mut nodes = front.store.watch(registry::NODE);
    let mut namespaces = front.store.watch(registry::NAMESPACE);
    let mut placing = Placing::default();
    loop {
        for changes in [&mut pods, &mut nodes, &mut namespaces] {
            changes.borrow_and_update();
        }
        let view = front.store.view();
        let started = Instant::now();
        let decisions = placing.decide(&view);
        let took = started.elapsed();
        let next = match placing.carry_out(front, leader, view, decisions).await {
            Ok(next) => next,
            Err(end) => return end,
        };
        if next == Next::Now {
            continue;
        }
        // Pods that fit nowhere are decided on again with every change; that may take a third of
        // the time, not all of it.
        if took > ROUND_SHORT {
            tokio::time::sleep_until(started + took * 3).await;
        }
        let due = async {
            match next {
                Next::After(delay) => tokio::time::sleep(delay).await,
                Next::Now | Next::OnChange => std::future::pending().await,
            }
        };
        let closed = tokio::select! {
            changed = pods.changed() => changed.is_err(),
            changed = nodes.changed() => changed.is_err(),
            changed = namespaces.changed() => changed.is_err(),
            () = due => false,
        };
        if closed {
            return End::Deposed;
        }
    }
}

impl Placing {
    fn decide(&mut self, view: &View) -> Vec<Decision> {
        self.model.sync(view);
        let model = &self.model;
        self.verdicts.retain(|pod| model.waits(pod));
        self.held.retain(|pod, _| model.waits(pod));
        scheduler::place(&mut self.model, ROUND_MAX)
    }

    /// Proposes what was decided; an error ends the work.
    async fn carry_out(
        &mut self,
        front: &Front,
        leader: LeaderId,
        view: View,
        decisions: Vec<Decision>,
    ) -> Result<Next, End> {
        let mut next = if decisions.len() >= ROUND_MAX { Next::Now } else { Next::OnChange };
        let (mut txns, mut bound, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for decision in decisions {
            match decision {
                Decision::Bind { pod, node } => {
                    self.held.remove(&pod);
                    txns.extend(binding(front, &view, &pod, &node));
                    bound.push(pod);
                }
                Decision::Unschedulable { pod, message } => drop(self.held.insert(pod, message)),
                // A gated pod that is changed meanwhile is looked at again for that.
                Decision::Gated { pod } => told.extend(gate(front, &view, &pod).map(|txn| (None, txn))),
            }
        }
        let now = front.now();
        let mut soonest_ms = None;
        self.held.retain(|pod, message| {
            let Some(record) = view.get(pod) else { return false };
            match self.verdicts.judge(pod, &said(record), message, now) {
                News::Old => false,
                News::Tell => {
                    told.push((Some(pod.clone()), verdict(front, &view, record, message, now)));
                    true
                }
                News::After { ms } => {
                    soonest_ms = Some(soonest_ms.map_or(ms, |sooner: i64| sooner.min(ms)));
                    true
                }
            }
        });
        let (about, words): (Vec<Option<Key>>, Vec<Txn>) = told.into_iter().unzip();
        txns.extend(words);
        // Whatever is replaced while somebody has a view is kept in memory, and copied.
        drop(view);
        let answers = propose_all(front, leader, txns).await;
        let mut failed = false;
        for (pod, answer) in bound.iter().map(Some).chain(about.iter().map(Option::as_ref)).zip(answers) {
            let is_binding = pod.is_some_and(|pod| !self.held.contains_key(pod));
            if let Some(end) = answer.as_ref().err().and_then(Failure::end) {
                return Err(end);
            }
            match (pod, answer) {
                (Some(pod), Ok(())) if !is_binding => {
                    self.held.remove(pod);
                    self.verdicts.told(pod, now);
                }
                (Some(pod), Err(error)) => {
                    tracing::debug!(%pod, %error, "a decision was refused");
                    failed = true;
                    if is_binding {
                        // The place it was given is free again.
                        self.model.forget(pod);
                    }
                }
                (None, Err(error)) => tracing::debug!(%error, "a gated pod was not marked"),
                (_, Ok(())) => {}
            }
        }
        if next == Next::OnChange || failed {
            let retry = failed.then_some(RETRY_AFTER);
            let word = soonest_ms.map(|ms| Duration::from_millis(ms as u64));
            next = retry.into_iter().chain(word).min().map_or(Next::OnChange, Next::After);
        }
        Ok(next)
    }
}

fn encode(mut object: Value) -> bytes::Bytes {
    object.remove_at("metadata.resourceVersion");
    record::encode(&object)
}

fn update(record: &Record, object: Value) -> Op {
    Op::Update { key: record.key.clone(), assumed: record.header.revision, object: encode(object) }
}

/// The operation of an event, to go with the decision it tells of.
fn event(front: &Front, view: &View, about: &Arc<Record>, word: (&str, &str, &str)) -> Option<Op> {
    let action = controllers::event(view, about, COMPONENT, word, front.now());
    match transaction(front, action) {
        Ok(txn) => txn.and_then(|txn| txn.ops.into_iter().next()),
        Err(error) => {
            tracing::debug!(%error, "an event could not be written");
            None
        }
    }
}

/// `None` only for a pod that is not in the view it was placed by.
fn binding(front: &Front, view: &View, pod: &Key, node: &str) -> Option<Txn> {
    let record = view.get(pod)?;
    let mut object = record.value();
    api::bind_object(&mut object, node, front.now());
    let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
    let mut ops = vec![update(record, object)];
    ops.extend(event(front, view, record, ("Normal", "Scheduled", &message)));
    Some(Txn { ops, ..Txn::default() })
}

/// What a pod's PodScheduled condition says.
fn said(record: &Record) -> String {
    let pod = record.value();
    let condition = pod.items("status.conditions").iter().find(|c| c.text("type") == "PodScheduled");
    condition.map(|c| c.text("message").to_string()).unwrap_or_default()
}

fn unscheduled(record: &Record, reason: &str, message: &str, now: Timestamp) -> Op {
    let mut object = record.value();
    let conditions = object.items("status.conditions");
    let same = conditions.iter().find(|c| c.text("type") == "PodScheduled" && c.text("status") == "False");
    let since = same.map_or_else(|| now.rfc3339(), |c| c.text("lastTransitionTime").to_string());
    api::set_condition(
        &mut object,
        json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": since}),
    );
    update(record, object)
}

fn verdict(front: &Front, view: &View, record: &Arc<Record>, message: &str, now: Timestamp) -> Txn {
    let mut ops = vec![unscheduled(record, "Unschedulable", message, now)];
    ops.extend(event(front, view, record, ("Warning", "FailedScheduling", message)));
    Txn { ops, ..Txn::default() }
}

fn gate(front: &Front, view: &View, pod: &Key) -> Option<Txn> {
    let message = "Scheduling is blocked due to non-empty scheduling gates";
    let record = view.get(pod).filter(|record| said(record) != message)?;
    let ops = vec![unscheduled(record, "SchedulingGated", message, front.now())];
    Some(Txn { ops, ..Txn::default() })
}
