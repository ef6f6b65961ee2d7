//! Which keys are worth another look: after an event, and at once for a new leader.

use crate::{Controller, all_pods};
use objects::{Key, KindId, Record, registry};
use state::{Event, View};

type Item = (Controller, Key);

fn is_finished(pod: &Record) -> bool {
    matches!(pod.header.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Controllers whose keys are the objects of a kind.
fn controllers_of(kind: KindId) -> &'static [Controller] {
    match kind {
        registry::NODE => &[Controller::NodeLifecycle],
        registry::REPLICA_SET => &[Controller::ReplicaSet],
        registry::DEPLOYMENT => &[Controller::Deployment],
        registry::NAMESPACE => &[Controller::Namespace, Controller::Defaults, Controller::Events],
        _ => &[],
    }
}

/// The controller that owns objects of a kind.
fn keeper_of(kind: KindId) -> Option<(Controller, KindId)> {
    match kind {
        registry::POD => Some((Controller::ReplicaSet, registry::REPLICA_SET)),
        registry::REPLICA_SET => Some((Controller::Deployment, registry::DEPLOYMENT)),
        _ => None,
    }
}

/// Which keys an event makes worth another look. `view` is at or after the event.
pub fn wakes(event: &Event, view: &View) -> Vec<Item> {
    let key = &event.key;
    let mut items: Vec<Item> = controllers_of(key.kind).iter().map(|c| (*c, key.clone())).collect();
    let namespace = || Key::new(registry::NAMESPACE, "", &key.namespace);
    for record in [&event.old, &event.new].into_iter().flatten() {
        owners(record, &mut items);
    }
    let leaving = event.new.as_ref().is_none_or(|new| new.header.deletion.is_some());
    if let Some(record) = event.old.as_ref().or(event.new.as_ref()).filter(|_| leaving) {
        // Its dependents may have to go, and its namespace may be empty soon.
        items.extend(view.owned_by(&record.header.uid).map(|r| (Controller::Garbage, r.key.clone())));
        if !key.namespace.is_empty() {
            items.push((Controller::Namespace, namespace()));
        }
    }
    if event.new.as_ref().is_some_and(|new| leaving || !new.header.owners.is_empty()) {
        items.push((Controller::Garbage, key.clone()));
    }
    match key.kind {
        registry::POD => pod(event, view, &mut items),
        registry::REPLICA_SET => orphan(event, view, &mut items),
        registry::NODE if event.new.is_none() => {
            items.extend(view.pods_of_node(&key.name).map(|pod| (Controller::Garbage, pod.key.clone())));
        }
        registry::SERVICE_ACCOUNT | registry::CONFIG_MAP if crate::defaults::NAMES.contains(&key.name.as_str()) => {
            items.push((Controller::Defaults, namespace()));
        }
        _ => {}
    }
    items
}

/// The owners of an object: their controllers, and the collector, for one deleted in the foreground
/// may be waiting for just this.
fn owners(record: &Record, items: &mut Vec<Item>) {
    for owner in &record.header.owners {
        let Some(kind) = registry::by_kind_name(&owner.kind) else { continue };
        let namespace = if kind.namespaced { record.key.namespace.as_str() } else { "" };
        let owner_key = Key::new(kind.id, namespace, &owner.name);
        items.extend(controllers_of(kind.id).iter().map(|c| (*c, owner_key.clone())));
        items.push((Controller::Garbage, owner_key));
    }
}

fn pod(event: &Event, view: &View, items: &mut Vec<Item>) {
    for record in [&event.old, &event.new].into_iter().flatten() {
        if let Some(node) = &record.header.node_name {
            items.push((Controller::NodeLifecycle, Key::new(registry::NODE, "", node)));
        }
    }
    let was_finished = event.old.as_ref().is_none_or(|old| is_finished(old));
    let gone = event.new.as_ref().is_none_or(|new| is_finished(new) && !was_finished);
    // A Deployment that recreates waits for the last pod of its old sets.
    if let (true, Some(old)) = (gone, &event.old)
        && let Some(set) = old.header.controller()
        && let Some(set) = view.get(&Key::new(registry::REPLICA_SET, &old.key.namespace, &set.name))
    {
        owners(set, items);
    }
    match &event.new {
        Some(new) if new.header.node_name.is_some() => items.push((Controller::Garbage, new.key.clone())),
        _ => {}
    }
    if gone && event.new.is_some() {
        items.push((Controller::FinishedPods, all_pods()));
    }
    orphan(event, view, items);
}

/// An object that nobody controls may be adopted by whoever selects it.
fn orphan(event: &Event, view: &View, items: &mut Vec<Item>) {
    let Some((controller, keeper)) = keeper_of(event.key.kind) else { return };
    let Some(new) = &event.new else { return };
    let is_news = event
        .old
        .as_ref()
        .is_none_or(|old| old.header.labels != new.header.labels || old.header.controller() != new.header.controller());
    if is_news && new.header.controller().is_none() && !new.header.labels.is_empty() {
        let keepers = view.list(keeper, &event.key.namespace, None);
        items.extend(keepers.map(|record| (controller, record.key.clone())));
    }
}

/// Every key that a new leader looks at once.
pub fn all_keys(view: &View) -> Vec<Item> {
    let mut items = vec![(Controller::FinishedPods, all_pods())];
    for kind in objects::kinds() {
        for record in view.list(kind.id, "", None) {
            items.extend(controllers_of(kind.id).iter().map(|c| (*c, record.key.clone())));
            if !record.header.owners.is_empty() || record.header.deletion.is_some() || kind.id == registry::POD {
                items.push((Controller::Garbage, record.key.clone()));
            }
        }
    }
    items
}
