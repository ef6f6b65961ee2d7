//! Namespace deletion: empties a namespace, then lets it go.

use crate::{Context, Plan};
use objects::{Key, ValueExt, json};

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(record) = context.view.get(key) else { return plan };
    if record.header.deletion.is_none() {
        return plan;
    }
    let mut n_left = 0;
    for kind in objects::kinds().iter().filter(|kind| kind.namespaced) {
        for object in context.view.list(kind.id, &key.name, None) {
            n_left += 1;
            if object.header.deletion.is_none() {
                plan.delete(object, None);
            }
        }
    }
    if n_left == 0 {
        let mut namespace = record.value();
        namespace.set("spec.finalizers", json!([]));
        plan.update(record, namespace);
    }
    plan
}
