//! Garbage collection: dependents whose owners are gone, owners deleted in the foreground or with
//! their dependents orphaned, and pods of nodes that are gone.
//!
//! Rules: kubernetes.io/docs/concepts/architecture/garbage-collection.

use crate::{Action, Context, Plan};
use objects::{Key, OwnerRef, Record, ValueExt, registry};
use state::View;
use std::sync::Arc;

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let view = context.view;
    match view.get(key) {
        Some(record) => {
            owner(record, view, &mut plan);
            dependent(record, view, &mut plan);
            if key.kind == registry::POD {
                stray_pod(record, view, &mut plan);
            }
        }
        // The object is gone: whoever named it as owner looks again. Its uid is in the dependents.
        None => {
            let named = |record: &&Arc<Record>| {
                let is_key = |owner: &OwnerRef| {
                    owner.name == key.name && registry::by_kind_name(&owner.kind).is_some_and(|k| k.id == key.kind)
                };
                record.header.owners.iter().any(is_key)
            };
            for kind in objects::kinds() {
                let namespace = if kind.namespaced { key.namespace.as_str() } else { "" };
                for record in view.list(kind.id, namespace, None).filter(named) {
                    dependent(record, view, &mut plan);
                }
            }
        }
    }
    plan
}

/// True while the owner a reference names exists with the same uid.
fn owner_lives(view: &View, dependent: &Record, owner: &OwnerRef) -> bool {
    // Owners of kinds we do not know cannot be judged: they are left alone.
    let Some(kind) = registry::by_kind_name(&owner.kind) else { return true };
    let namespace = if kind.namespaced { dependent.key.namespace.as_str() } else { "" };
    view.get(&Key::new(kind.id, namespace, &owner.name)).is_some_and(|record| record.header.uid == owner.uid)
}

fn dependent(record: &Arc<Record>, view: &View, plan: &mut Plan) {
    let owners = &record.header.owners;
    if owners.is_empty() || record.header.deletion.is_some() {
        return;
    }
    if owners.iter().any(|owner| owner_lives(view, record, owner)) {
        return;
    }
    plan.delete(record, None);
}

fn owner(record: &Arc<Record>, view: &View, plan: &mut Plan) {
    if record.header.deletion.is_none() {
        return;
    }
    let has = |finalizer: &str| record.header.finalizers.iter().any(|f| f == finalizer);
    let dependents: Vec<_> = view.owned_by(&record.header.uid).cloned().collect();
    let mut release = None;
    if has("orphan") {
        for dependent in &dependents {
            let mut object = dependent.value();
            let mut kept = object.items("metadata.ownerReferences").to_vec();
            kept.retain(|owner| owner.text("uid") != record.header.uid);
            object.set("metadata.ownerReferences", kept);
            plan.update(dependent, object);
        }
        if dependents.is_empty() {
            release = Some("orphan");
        }
    } else if has("foregroundDeletion") {
        for dependent in dependents.iter().filter(|dependent| dependent.header.deletion.is_none()) {
            // Each level waits for the one below; pods have none.
            let propagation = if dependent.key.kind == registry::POD { "Background" } else { "Foreground" };
            plan.actions.push(Action::Delete { record: dependent.clone(), grace: None, propagation });
        }
        if dependents.is_empty() {
            release = Some("foregroundDeletion");
        }
    }
    if let Some(finalizer) = release {
        let mut object = record.value();
        let mut kept = object.items("metadata.finalizers").to_vec();
        kept.retain(|f| f != finalizer);
        match kept.is_empty() {
            true => drop(object.remove_at("metadata.finalizers")),
            false => object.set("metadata.finalizers", kept),
        }
        plan.update(record, object);
    }
}

/// A pod bound to a node that no longer exists has nobody to stop it: it goes at once.
fn stray_pod(record: &Arc<Record>, view: &View, plan: &mut Plan) {
    let Some(node) = &record.header.node_name else { return };
    if view.get(&Key::new(registry::NODE, "", node)).is_none() {
        plan.delete(record, Some(0));
    }
}
