//! ReplicaSet: keeps the number of its pods.
//!
//! Rules: kubernetes.io/docs/concepts/workloads/controllers/replicaset.

use crate::events::event;
use crate::{Context, Plan};
use objects::kinds::node::condition;
use objects::selector::Selector;
use objects::{Key, Record, Timestamp, Value, ValueExt, json, registry};
use state::View;
use std::sync::Arc;

/// Pods created or deleted in one plan; the next plan follows at once.
const BURST_MAX: usize = 500;
const COMPONENT: &str = "replicaset-controller";

/// A pod that counts: neither finished nor leaving.
pub(crate) fn is_active(pod: &Record) -> bool {
    pod.header.deletion.is_none() && !matches!(pod.header.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn ready_since(pod: &Value) -> Option<Timestamp> {
    let conditions = pod.items("status.conditions");
    let ready = conditions.iter().find(|c| c.text("type") == "Ready" && c.text("status") == "True")?;
    Some(Timestamp::parse(ready.text("lastTransitionTime")).unwrap_or_default())
}

/// The pods that this ReplicaSet controls, in key order.
pub(crate) fn pods_of(view: &View, set: &Record) -> Vec<Arc<Record>> {
    let controls = |pod: &&Arc<Record>| pod.header.controller().is_some_and(|owner| owner.uid == set.header.uid);
    view.owned_by(&set.header.uid).filter(|r| r.key.kind == registry::POD).filter(controls).cloned().collect()
}

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(record) = context.view.get(key) else { return plan };
    let set = record.value();
    let Some(selector) = Selector::from_object(set.at("spec.selector")) else { return plan };
    let wanted = set.at("spec.replicas").as_i64().unwrap_or(1).max(0);
    let pods = pods_of(context.view, record);
    let active: Vec<Arc<Record>> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
    if record.header.deletion.is_none() {
        adopt(record, &selector, context, &mut plan);
        let missing = wanted - active.len() as i64;
        if missing > 0 {
            for _ in 0..(missing as usize).min(BURST_MAX) {
                let pod = new_pod(record, &set, context);
                let message = format!("Created pod: {}", pod.text("metadata.name"));
                plan.create(registry::POD, pod);
                let note = event(record, COMPONENT, "Normal", "SuccessfulCreate", &message, context.now, context.rng);
                plan.create(registry::EVENT, note);
            }
        } else if missing < 0 {
            for pod in to_delete(&active, context.view).into_iter().take((-missing as usize).min(BURST_MAX)) {
                plan.delete(&pod, None);
                let message = format!("Deleted pod: {}", pod.key.name);
                let note = event(record, COMPONENT, "Normal", "SuccessfulDelete", &message, context.now, context.rng);
                plan.create(registry::EVENT, note);
            }
        }
    }
    write_status(record, set, &active, context, &mut plan);
    plan
}

/// Pods that match and have no controller become this set's.
fn adopt(record: &Arc<Record>, selector: &Selector, context: &Context, plan: &mut Plan) {
    let orphans = context
        .view
        .list(registry::POD, &record.key.namespace, None)
        .filter(|pod| pod.header.controller().is_none() && is_active(pod) && selector.matches(&pod.header.labels));
    for orphan in orphans {
        let mut pod = orphan.value();
        let mut owners = pod.items("metadata.ownerReferences").to_vec();
        owners.push(owner_reference(record));
        pod.set("metadata.ownerReferences", owners);
        plan.update(orphan, pod);
    }
}

pub(crate) fn owner_reference(owner: &Record) -> Value {
    let kind = registry::must(owner.key.kind);
    json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "name": owner.key.name.as_str(),
        "uid": owner.header.uid.as_str(), "controller": true, "blockOwnerDeletion": true,
    })
}

fn new_pod(record: &Record, set: &Value, context: &mut Context) -> Value {
    let template = set.at("spec.template");
    let mut pod = json!({"metadata": {}, "spec": template.at("spec")});
    for field in ["labels", "annotations", "finalizers"] {
        if !template.at("metadata").at(field).is_null() {
            pod.set(&format!("metadata.{field}"), template.at("metadata").at(field).clone());
        }
    }
    // 57 characters, a dash and 5 drawn ones make a DNS label of 63.
    let base: String = record.key.name.chars().take(57).collect();
    pod.set("metadata.name", format!("{base}-{}", context.rng.suffix(5)));
    pod.set("metadata.generateName", format!("{base}-"));
    pod.set("metadata.namespace", record.key.namespace.as_str());
    pod.set("metadata.ownerReferences", json!([owner_reference(record)]));
    pod
}

/// Active pods in the order in which they may go: unassigned, pending, not ready, crowded nodes,
/// ready for the shortest time, newest.
fn to_delete(active: &[Arc<Record>], view: &View) -> Vec<Arc<Record>> {
    let on_node = |pod: &Record| {
        let node = pod.header.node_name.as_deref().unwrap_or("");
        let same = active.iter().filter(|other| other.header.node_name.as_deref() == Some(node));
        same.count() as i64
    };
    let node_is_ready = |pod: &Record| {
        let node = pod.header.node_name.as_deref().unwrap_or("");
        view.get(&Key::new(registry::NODE, "", node)).is_some_and(|node| condition(&node.value(), "Ready") == "True")
    };
    let mut ranked: Vec<_> = active
        .iter()
        .map(|record| {
            let pod = record.value();
            let phase = match record.header.phase.as_deref() {
                Some("Pending") => 0,
                Some("Running") => 2,
                _ => 1,
            };
            let cost: i64 =
                pod.annotation("controller.kubernetes.io/pod-deletion-cost").and_then(|c| c.parse().ok()).unwrap_or(0);
            let ready = ready_since(&pod);
            let rank = (
                record.header.node_name.is_some(),
                node_is_ready(record),
                phase,
                ready.is_some(),
                cost,
                -on_node(record),
                std::cmp::Reverse(ready.unwrap_or_default()),
                std::cmp::Reverse(record.header.created.unwrap_or_default()),
                std::cmp::Reverse(record.key.clone()),
            );
            (rank, record.clone())
        })
        .collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.into_iter().map(|(_, record)| record).collect()
}

fn write_status(record: &Arc<Record>, set: Value, active: &[Arc<Record>], context: &Context, plan: &mut Plan) {
    let min_ready_ms = set.at("spec.minReadySeconds").as_i64().unwrap_or(0) * 1000;
    let template = Selector::from_object(&json!({"matchLabels": set.at("spec.template.metadata.labels")}));
    let labeled = |pod: &&Arc<Record>| template.as_ref().is_none_or(|t| t.matches(&pod.header.labels));
    let (mut ready, mut available) = (0, 0);
    for pod in active {
        let Some(since) = ready_since(&pod.value()) else { continue };
        ready += 1;
        let age = context.now.since_ms(since);
        if min_ready_ms == 0 || age >= min_ready_ms {
            available += 1;
        } else {
            plan.wake_after(min_ready_ms - age);
        }
    }
    let mut next = set;
    let counts = [
        ("replicas", active.len()),
        ("fullyLabeledReplicas", active.iter().filter(labeled).count()),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ];
    for (field, count) in counts {
        match count {
            0 if field != "replicas" => drop(next.remove_at(&format!("status.{field}"))),
            count => next.set(&format!("status.{field}"), count),
        }
    }
    next.set("status.observedGeneration", record.header.generation);
    if next.at("status") != record.value().at("status") {
        plan.update(record, next);
    }
}
