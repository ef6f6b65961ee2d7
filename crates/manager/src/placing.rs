//! Carries the scheduler's decisions out: bindings, and the word to those that fit nowhere.

use crate::{Failure, propose};
use front::Front;
use futures::stream::{FuturesUnordered, StreamExt};
use objects::{Key, Record, Value, ValueExt, json, record, registry};
use scheduler::{Decision, Model};
use state::{LeaderId, Op, Txn, View};
use std::sync::Arc;

/// Bindings in flight at once; group commit makes them share syncs.
const IN_FLIGHT_MAX: usize = 256;

#[derive(Default)]
pub(crate) struct Placing {
    model: Model,
}

impl Placing {
    /// Places everything that waits.
    pub(crate) async fn run(&mut self, front: &Front, leader: LeaderId, view: &View) {
        self.model.sync(view);
        if self.model.waiting().next().is_none() {
            return;
        }
        let decisions = scheduler::place(&mut self.model);
        let mut pending = FuturesUnordered::new();
        for decision in decisions {
            if pending.len() >= IN_FLIGHT_MAX {
                self.note(pending.next().await);
            }
            pending.push(carry_out(front, leader, view, decision));
        }
        while let Some(done) = pending.next().await {
            self.note(Some(done));
        }
    }

    /// A refused binding frees the place it was given; the pod's event brings it back.
    fn note(&mut self, done: Option<Result<(), (Key, Failure)>>) {
        if let Some(Err((pod, error))) = done {
            tracing::debug!(%pod, %error, "a binding was refused");
            self.model.forget(&pod);
        }
    }
}

async fn carry_out(front: &Front, leader: LeaderId, view: &View, decision: Decision) -> Result<(), (Key, Failure)> {
    let (key, txn) = match &decision {
        Decision::Bind { pod, node } => {
            let Some(record) = view.get(pod) else { return Ok(()) };
            let mut object = record.value();
            api::bind_object(&mut object, node, front.now());
            let bind = Op::Update { key: pod.clone(), assumed: record.header.revision, object: encode(object) };
            let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
            (
                pod.clone(),
                Txn { ops: vec![bind, event(front, record, "Normal", "Scheduled", &message)], ..Txn::default() },
            )
        }
        Decision::Unschedulable { pod, message } => {
            let Some(record) = view.get(pod) else { return Ok(()) };
            let mut object = record.value();
            let conditions = object.items("status.conditions");
            let said = conditions.iter().any(|c| c.text("type") == "PodScheduled" && c.text("message") == message);
            if said {
                return Ok(());
            }
            api::set_condition(
                &mut object,
                json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
                    "lastTransitionTime": front.now().rfc3339()}),
            );
            let tell = Op::Update { key: pod.clone(), assumed: record.header.revision, object: encode(object) };
            let ops = vec![tell, event(front, record, "Warning", "FailedScheduling", message)];
            (pod.clone(), Txn { ops, ..Txn::default() })
        }
    };
    propose(front, leader, txn).await.map_err(|error| (key, error))
}

fn encode(mut object: Value) -> bytes::Bytes {
    object.remove_at("metadata.resourceVersion");
    record::encode(&object)
}

/// The event of a decision, in the same transaction as the decision.
fn event(front: &Front, about: &Arc<Record>, ty: &str, reason: &str, message: &str) -> Op {
    let mut rng = front.rng();
    let now = front.now().rfc3339();
    let name = format!("{}.{:016x}", about.key.name, rng.next_u64());
    let object = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": about.key.namespace.as_str(), "uid": rng.uuid(), "creationTimestamp": now},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": about.key.name.as_str(),
            "namespace": about.key.namespace.as_str(), "uid": about.header.uid.as_str(),
            "resourceVersion": about.header.revision.to_string()},
        "reason": reason, "message": message, "type": ty, "count": 1,
        "source": {"component": scheduler::NAME}, "reportingComponent": scheduler::NAME, "reportingInstance": "",
        "firstTimestamp": now, "lastTimestamp": now,
    });
    let key = Key::new(registry::EVENT, &about.key.namespace, &name);
    Op::Create { key, object: record::encode(&object) }
}
