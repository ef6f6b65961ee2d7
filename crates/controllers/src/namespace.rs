//! Namespace deletion: empties a namespace, tells what is left, then lets it go.
//!
//! Rules: kubernetes.io/docs/concepts/overview/working-with-objects/namespaces and
//! …/architecture/garbage-collection; conditions as in the namespace's API reference.

use crate::{Context, Plan};
use objects::{Key, Timestamp, Value, ValueExt, json};
use std::collections::BTreeMap;

/// Objects deleted in one plan; the next plan follows at once.
const BURST_MAX: usize = 500;

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(record) = context.view.get(key) else { return plan };
    if record.header.deletion.is_none() {
        return plan;
    }
    let (mut left, mut finalizers) = (BTreeMap::new(), BTreeMap::new());
    let mut more = false;
    for kind in objects::kinds().iter().filter(|kind| kind.namespaced) {
        for object in context.view.list(kind.id, &key.name, None) {
            if object.header.deletion.is_none() {
                match plan.actions.len() < BURST_MAX {
                    true => plan.delete(object, None),
                    false => more = true,
                }
                continue;
            }
            // What has been deleted and is still there waits for somebody.
            *left.entry(kind.resource()).or_insert(0) += 1;
            for finalizer in &object.header.finalizers {
                *finalizers.entry(finalizer.to_string()).or_insert(0) += 1;
            }
        }
    }
    let deletes = !plan.actions.is_empty();
    let mut namespace = record.value();
    if left.is_empty() && !deletes && !more {
        let mut kept = namespace.items("spec.finalizers").to_vec();
        kept.retain(|finalizer| finalizer != "kubernetes");
        namespace.set("spec.finalizers", kept);
    }
    if !deletes {
        tell(&mut namespace, &left, &finalizers, context.now);
    }
    if namespace != record.value() {
        plan.update(record, namespace);
    }
    plan
}

fn listed(counts: &BTreeMap<String, i32>, verb: &str) -> String {
    let parts: Vec<String> = counts.iter().map(|(what, n)| format!("{what} {verb} {n} resource instances")).collect();
    parts.join(", ")
}

fn tell(namespace: &mut Value, left: &BTreeMap<String, i32>, finalizers: &BTreeMap<String, i32>, now: Timestamp) {
    let content = match left.is_empty() {
        true => ("False", "ContentRemoved", "All content successfully removed".to_string()),
        false => ("True", "SomeResourcesRemain", format!("Some resources are remaining: {}", listed(left, "has"))),
    };
    let held = match finalizers.is_empty() {
        true => ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_string()),
        false => (
            "True",
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {}", listed(finalizers, "in")),
        ),
    };
    let fine = |reason, message: &str| ("False", reason, message.to_string());
    let all = [
        ("NamespaceDeletionDiscoveryFailure", fine("ResourcesDiscovered", "All resources successfully discovered")),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            fine("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            fine("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        ("NamespaceContentRemaining", content),
        ("NamespaceFinalizersRemaining", held),
    ];
    for (ty, (status, reason, message)) in all {
        let same = |c: &&Value| c.text("type") == ty && c.text("status") == status;
        let old = namespace.items("status.conditions").iter().find(same);
        let since = old.map_or_else(|| now.rfc3339(), |old| old.text("lastTransitionTime").to_string());
        let condition =
            json!({"type": ty, "status": status, "reason": reason, "message": message, "lastTransitionTime": since});
        api::set_condition(namespace, condition);
    }
}
