//! Garbage collection: dependents whose owners are gone, owners deleted in the foreground or with
//! their dependents orphaned, and pods of nodes that are gone.
//!
//! Rules: kubernetes.io/docs/concepts/architecture/garbage-collection,
//! …/overview/working-with-objects/owners-dependents.

use crate::{Action, Context, Plan};
use objects::{Key, OwnerRef, Record, ValueExt, registry};
use state::View;
use std::sync::Arc;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// A pod bound by hand to a node that has not come yet waits for it this long.
const NODE_PATIENCE_MS: i64 = 40_000;

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(record) = context.view.get(key) else { return plan };
    if record.header.deletion.is_some() {
        as_owner(record, context.view, &mut plan);
    } else {
        as_dependent(record, context, &mut plan);
    }
    if key.kind == registry::POD && plan.actions.is_empty() {
        stray_pod(record, context, &mut plan);
    }
    plan
}

fn has(record: &Record, finalizer: &str) -> bool {
    record.header.finalizers.iter().any(|f| f == finalizer)
}

/// What became of the owner that a reference names.
#[derive(PartialEq)]
enum Fate {
    Lives,
    /// It is being deleted in the foreground: its dependents go first.
    Waits,
    Gone,
    /// A cluster-scoped object cannot have an owner inside a namespace: nobody can say.
    Unresolvable,
}

fn fate(view: &View, dependent: &Record, owner: &OwnerRef) -> Fate {
    // Owners of kinds we do not know cannot be judged: they are left alone.
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let Some(kind) = registry::by_kind_name(&owner.kind).filter(|kind| kind.group == group) else {
        return Fate::Lives;
    };
    if kind.namespaced && dependent.key.namespace.is_empty() {
        return Fate::Unresolvable;
    }
    let namespace = if kind.namespaced { dependent.key.namespace.as_str() } else { "" };
    match view.get(&Key::new(kind.id, namespace, &owner.name)) {
        Some(record) if record.header.uid != owner.uid => Fate::Gone,
        Some(record) if record.header.deletion.is_some() && has(record, FOREGROUND) => Fate::Waits,
        Some(_) => Fate::Lives,
        None => Fate::Gone,
    }
}

/// An object goes when none of its owners is left. While one is, only the references to the others go.
fn as_dependent(record: &Arc<Record>, context: &mut Context, plan: &mut Plan) {
    let owners = &record.header.owners;
    let fates: Vec<Fate> = owners.iter().map(|owner| fate(context.view, record, owner)).collect();
    if fates.contains(&Fate::Unresolvable) {
        let message = "ownerRef of a namespaced kind is not resolvable from a cluster-scoped object: \
                       set an owner that is cluster-scoped, too";
        let said = plan_says(context, record, message);
        if !said {
            plan.tell(
                record,
                "garbage-collector-controller",
                ("Warning", "OwnerRefInvalidNamespace", message),
                context,
            );
        }
        return;
    }
    if fates.iter().all(|fate| *fate == Fate::Lives) {
        return;
    }
    if fates.contains(&Fate::Lives) {
        let gone = |uid: &str| owners.iter().zip(&fates).any(|(owner, fate)| owner.uid == uid && *fate != Fate::Lives);
        let mut object = record.value();
        let mut kept = object.items("metadata.ownerReferences").to_vec();
        kept.retain(|owner| !gone(owner.text("uid")));
        object.set("metadata.ownerReferences", kept);
        return plan.update(record, object);
    }
    // Below an owner that waits, each level waits for the one beneath it.
    let has_dependents = context.view.owned_by(&record.header.uid).next().is_some();
    let propagation = match () {
        () if has(record, ORPHAN) => "Orphan",
        () if has(record, FOREGROUND) || (fates.contains(&Fate::Waits) && has_dependents) => "Foreground",
        () => "Background",
    };
    plan.actions.push(Action::Delete { record: record.clone(), grace: None, propagation });
}

/// Whether an event with this message stands already: it need not be counted at every look.
fn plan_says(context: &Context, record: &Record, message: &str) -> bool {
    let word = ("Warning", "OwnerRefInvalidNamespace", message);
    let action = crate::event(context.view, record, "garbage-collector-controller", word, context.now);
    matches!(action, Action::Update { .. })
}

/// An object that is being deleted with its dependents in mind.
fn as_owner(record: &Arc<Record>, view: &View, plan: &mut Plan) {
    let uid = &record.header.uid;
    let dependents: Vec<&Arc<Record>> = view.owned_by(uid).collect();
    let mut release = None;
    if has(record, ORPHAN) {
        for dependent in &dependents {
            let mut object = dependent.value();
            let mut kept = object.items("metadata.ownerReferences").to_vec();
            kept.retain(|owner| owner.text("uid") != uid.as_str());
            object.set("metadata.ownerReferences", kept);
            plan.update(dependent, object);
        }
        release = dependents.is_empty().then_some(ORPHAN);
    } else if has(record, FOREGROUND) {
        let blocks = |dependent: &&&Arc<Record>| {
            dependent.header.owners.iter().any(|owner| owner.uid == *uid && owner.block_owner_deletion)
        };
        // They go by their own look at this owner; only those that block it are waited for.
        release = dependents.iter().find(blocks).is_none().then_some(FOREGROUND);
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

/// A pod bound to a node that does not exist has nobody to stop it: it goes at once.
fn stray_pod(record: &Arc<Record>, context: &Context, plan: &mut Plan) {
    let Some(node) = &record.header.node_name else { return };
    if context.view.get(&Key::new(registry::NODE, "", node)).is_some() {
        return;
    }
    // Never seen by a worker: its node may be on its way.
    if record.value().text("status.startTime").is_empty() && record.header.deletion.is_none() {
        let age_ms = context.now.since_ms(record.header.created.unwrap_or_default());
        if age_ms < NODE_PATIENCE_MS {
            return plan.wake_after(NODE_PATIENCE_MS - age_ms);
        }
    }
    plan.delete(record, Some(0));
}
