//! One module per controller: from a view and a key, compute a plan.
//!
//! Pure and level-triggered: an event only says which key to look at again (`wakes`), never what to
//! do. A plan's actions carry the records they were decided on, so a stale one is refused by its
//! preconditions rather than half-applied.

mod claim;
mod defaults;
mod deployment;
mod events;
mod garbage;
mod namespace;
mod node;
mod pods;
mod replicaset;
mod rollout;
mod wakes;

#[cfg(test)]
mod tests;

pub use events::event;
pub use wakes::{all_keys, wakes};

use objects::{Key, KindId, Record, Timestamp, Value, registry};
use state::View;
use std::collections::BTreeMap;
use std::sync::Arc;
use stdx::Rng;

/// What the leader knows that is not in the replicated state.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Milliseconds since each node was last heard. Nodes the leader has not heard of at all count
    /// from when it took office; a node that is missing here has only just come.
    pub silent_ms: BTreeMap<String, i64>,
    /// The cluster's CA certificate, PEM.
    pub ca: String,
}

#[derive(Clone, Debug)]
pub enum Action {
    Create {
        kind: KindId,
        object: Value,
    },
    Update {
        record: Arc<Record>,
        object: Value,
    },
    /// `grace`: seconds; `None` uses the object's own.
    Delete {
        record: Arc<Record>,
        grace: Option<i64>,
        propagation: &'static str,
    },
}

impl Action {
    pub fn kind(&self) -> KindId {
        match self {
            Action::Create { kind, .. } => *kind,
            Action::Update { record, .. } | Action::Delete { record, .. } => record.key.kind,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Look again then, even if nothing has changed.
    pub wake_after_ms: Option<i64>,
}

impl Plan {
    fn create(&mut self, kind: KindId, object: Value) {
        self.actions.push(Action::Create { kind, object });
    }

    fn update(&mut self, record: &Arc<Record>, object: Value) {
        self.actions.push(Action::Update { record: record.clone(), object });
    }

    fn delete(&mut self, record: &Arc<Record>, grace: Option<i64>) {
        self.actions.push(Action::Delete { record: record.clone(), grace, propagation: "Background" });
    }

    /// Writes an Event about `record` for people.
    fn tell(&mut self, record: &Record, component: &str, (ty, reason, message): (&str, &str, &str), context: &Context) {
        self.actions.push(event(context.view, record, component, (ty, reason, message), context.now));
    }

    fn wake_after(&mut self, ms: i64) {
        let ms = ms.max(1);
        self.wake_after_ms = Some(self.wake_after_ms.map_or(ms, |sooner| sooner.min(ms)));
    }
}

/// Everything a reconciliation may look at.
pub struct Context<'a> {
    pub view: &'a View,
    pub facts: &'a Facts,
    pub now: Timestamp,
    pub rng: &'a mut Rng,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Notices dead nodes, taints them, evicts their pods.
    NodeLifecycle,
    ReplicaSet,
    Deployment,
    /// Collects dependents of owners that are gone, and pods of nodes that are gone.
    Garbage,
    Namespace,
    /// Default ServiceAccount and root-CA ConfigMap of each namespace.
    Defaults,
    /// Removes the old events of each namespace.
    Events,
    /// Removes finished pods when there are too many; one key for all of them.
    FinishedPods,
}

pub fn reconcile(controller: Controller, key: &Key, context: &mut Context) -> Plan {
    match controller {
        Controller::NodeLifecycle => node::reconcile(key, context),
        Controller::ReplicaSet => replicaset::reconcile(key, context),
        Controller::Deployment => deployment::reconcile(key, context),
        Controller::Garbage => garbage::reconcile(key, context),
        Controller::Namespace => namespace::reconcile(key, context),
        Controller::Defaults => defaults::reconcile(key, context),
        Controller::Events => events::reconcile(key, context),
        Controller::FinishedPods => pods::reconcile(context),
    }
}

/// The one key of `Controller::FinishedPods`.
fn all_pods() -> Key {
    Key::new(registry::POD, "", "")
}
