//! One module per controller: from a view and a key, compute a plan.
//!
//! Pure and level-triggered: an event only says which key to look at again (`wakes`), never what to
//! do. A plan's actions carry the records they were decided on, so a stale one is refused by its
//! preconditions rather than half-applied.

mod defaults;
mod deployment;
mod events;
mod garbage;
mod namespace;
mod node;
mod replicaset;

#[cfg(test)]
mod tests;

use objects::{Key, KindId, Record, Timestamp, Value, registry};
use state::{Event, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use stdx::Rng;

/// What the leader knows that is not in the replicated state.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Milliseconds since each node was last heard. Nodes the leader has not heard of at all count
    /// from when it took office.
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
    ReplicaSet,
    Deployment,
    /// Notices dead nodes, taints them, evicts their pods.
    NodeLifecycle,
    Namespace,
    /// Collects dependents of owners that are gone, and pods of nodes that are gone.
    Garbage,
    /// Default ServiceAccount and root-CA ConfigMap of each namespace.
    Defaults,
}

impl Controller {
    pub const ALL: [Controller; 6] = [
        Controller::ReplicaSet,
        Controller::Deployment,
        Controller::NodeLifecycle,
        Controller::Namespace,
        Controller::Garbage,
        Controller::Defaults,
    ];
}

pub fn reconcile(controller: Controller, key: &Key, context: &mut Context) -> Plan {
    match controller {
        Controller::ReplicaSet => replicaset::reconcile(key, context),
        Controller::Deployment => deployment::reconcile(key, context),
        Controller::NodeLifecycle => node::reconcile(key, context),
        Controller::Namespace => namespace::reconcile(key, context),
        Controller::Garbage => garbage::reconcile(key, context),
        Controller::Defaults => defaults::reconcile(key, context),
    }
}

/// Which keys an event makes worth another look.
pub fn wakes(event: &Event) -> Vec<(Controller, Key)> {
    let mut keys = Vec::new();
    let kind = event.key.kind;
    let own = || event.key.clone();
    match kind {
        registry::REPLICA_SET => keys.push((Controller::ReplicaSet, own())),
        registry::DEPLOYMENT => keys.push((Controller::Deployment, own())),
        registry::NODE => keys.push((Controller::NodeLifecycle, own())),
        registry::NAMESPACE => keys.extend([(Controller::Namespace, own()), (Controller::Defaults, own())]),
        registry::POD => {}
        registry::SERVICE_ACCOUNT | registry::CONFIG_MAP => {
            let namespace = Key::new(registry::NAMESPACE, "", &event.key.namespace);
            keys.push((Controller::Defaults, namespace));
        }
        _ => {}
    }
    for record in [&event.old, &event.new].into_iter().flatten() {
        for owner in &record.header.owners {
            let Some(owner_kind) = registry::by_kind_name(&owner.kind) else { continue };
            let owner_key = Key::new(owner_kind.id, &event.key.namespace, &owner.name);
            match owner_kind.id {
                registry::REPLICA_SET => keys.push((Controller::ReplicaSet, owner_key.clone())),
                registry::DEPLOYMENT => keys.push((Controller::Deployment, owner_key.clone())),
                _ => {}
            }
            // A dependent that goes may release an owner deleted in the foreground.
            keys.push((Controller::Garbage, owner_key));
        }
        if let Some(node) = record.header.node_name.as_ref().filter(|_| kind == registry::POD) {
            keys.push((Controller::NodeLifecycle, Key::new(registry::NODE, "", node)));
        }
    }
    // What leaves may have dependents; what comes may have lost its owner; what is being deleted may
    // wait for its dependents.
    keys.push((Controller::Garbage, own()));
    if event.new.is_none() && !event.key.namespace.is_empty() {
        keys.push((Controller::Namespace, Key::new(registry::NAMESPACE, "", &event.key.namespace)));
    }
    keys
}

/// Every key that a new leader looks at once.
pub fn all_keys(view: &View) -> Vec<(Controller, Key)> {
    let mut keys = Vec::new();
    for kind in objects::kinds() {
        for record in view.list(kind.id, "", None) {
            let key = record.key.clone();
            match kind.id {
                registry::REPLICA_SET => keys.push((Controller::ReplicaSet, key.clone())),
                registry::DEPLOYMENT => keys.push((Controller::Deployment, key.clone())),
                registry::NODE => keys.push((Controller::NodeLifecycle, key.clone())),
                registry::NAMESPACE => {
                    keys.extend([(Controller::Namespace, key.clone()), (Controller::Defaults, key.clone())]);
                }
                _ => {}
            }
            if !record.header.owners.is_empty() || record.header.deletion.is_some() || kind.id == registry::POD {
                keys.push((Controller::Garbage, key));
            }
        }
    }
    keys
}
