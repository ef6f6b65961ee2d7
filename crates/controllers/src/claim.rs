//! Which objects a controller's object keeps: by owner reference and selector.
//!
//! Rules: kubernetes.io/docs/concepts/workloads/controllers/replicaset (acquiring and releasing pods).

use crate::Plan;
use objects::selector::Selector;
use objects::{KindId, Record, Value, ValueExt, json, registry};
use state::View;
use std::sync::Arc;

pub(crate) fn owner_reference(owner: &Record) -> Value {
    let kind = registry::must(owner.key.kind);
    json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "name": owner.key.name.as_str(),
        "uid": owner.header.uid.as_str(), "controller": true, "blockOwnerDeletion": true,
    })
}

pub(crate) fn is_controlled_by(record: &Record, owner: &Record) -> bool {
    record.header.controller().is_some_and(|controller| controller.uid == owner.header.uid)
}

/// The objects of `kind` that belong to `owner`, in key order: those it controls, and the orphans it
/// selects, which it adopts. What it controls but no longer selects is released.
pub(crate) fn claim(
    owner: &Record,
    selector: &Selector,
    kind: KindId,
    may_adopt: impl Fn(&Record) -> bool,
    view: &View,
    plan: &mut Plan,
) -> Vec<Arc<Record>> {
    let selects = |record: &Record| selector.matches(&record.header.labels);
    let owned = view.owned_by(&owner.header.uid).filter(|r| r.key.kind == kind && is_controlled_by(r, owner));
    if owner.header.deletion.is_some() {
        return owned.filter(|record| selects(record)).cloned().collect();
    }
    let (mut kept, released): (Vec<_>, Vec<_>) = owned.cloned().partition(|record| selects(record));
    for record in released.iter().filter(|record| record.header.deletion.is_none()) {
        let mut object = record.value();
        let mut owners = object.items("metadata.ownerReferences").to_vec();
        owners.retain(|reference| reference.text("uid") != owner.header.uid);
        object.set("metadata.ownerReferences", owners);
        plan.update(record, object);
    }
    let is_orphan = |record: &&Arc<Record>| {
        record.header.controller().is_none() && record.header.deletion.is_none() && selects(record) && may_adopt(record)
    };
    for orphan in view.list(kind, &owner.key.namespace, None).filter(is_orphan) {
        let mut object = orphan.value();
        let mut owners = object.items("metadata.ownerReferences").to_vec();
        owners.push(owner_reference(owner));
        object.set("metadata.ownerReferences", owners);
        plan.update(orphan, object);
        kept.push(orphan.clone());
    }
    kept.sort_by(|a, b| a.key.cmp(&b.key));
    kept
}
