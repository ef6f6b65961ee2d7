//! ReplicaSet: keeps the number of its pods.
//!
//! Rules: kubernetes.io/docs/concepts/workloads/controllers/replicaset.

use crate::claim::{claim, is_controlled_by, owner_reference};
use crate::{Context, Plan};
use objects::selector::Selector;
use objects::{Key, Record, Timestamp, Value, ValueExt, json, registry};
use state::View;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pods created or deleted in one plan; the next plan follows at once.
const BURST_MAX: usize = 500;
/// A template that is refused is tried again this often: what it needs may have come.
const REFUSED_RETRY_MS: i64 = 5_000;
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

/// The pods that a ReplicaSet controls, in key order.
pub(crate) fn pods_of<'a>(view: &'a View, set: &'a Record) -> impl Iterator<Item = &'a Arc<Record>> {
    let owned = view.owned_by(&set.header.uid).filter(|r| r.key.kind == registry::POD);
    owned.filter(|pod| is_controlled_by(pod, set))
}

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(record) = context.view.get(key).cloned() else { return plan };
    let set = record.value();
    let Some(selector) = Selector::from_object(set.at("spec.selector")) else { return plan };
    let mut active = claim(&record, &selector, registry::POD, is_active, context.view, &mut plan);
    active.retain(|pod| is_active(pod));
    let failure = match record.header.deletion {
        None => scale(&record, &set, &active, context, &mut plan),
        Some(_) => None,
    };
    write_status(&record, set, &active, failure, context, &mut plan);
    plan
}

/// Creates what is missing or deletes what is too much; answers why it could not.
fn scale(
    record: &Arc<Record>,
    set: &Value,
    active: &[Arc<Record>],
    context: &mut Context,
    plan: &mut Plan,
) -> Option<String> {
    let missing = set.at("spec.replicas").as_i64().unwrap_or(1).max(0) - active.len() as i64;
    if missing > 0 {
        // One pod is admitted on trial, so that a template that is refused costs one try, not hundreds.
        let trial = new_pod(record, set, context);
        let (drawn, asked) = (trial.text("metadata.name").to_string(), trial.text("metadata.generateName").to_string());
        let mut admission = api::Context { now: context.now, rng: context.rng };
        if let Err(status) = api::creation(trial, registry::must(registry::POD), context.view, &mut admission) {
            // The name was drawn for this try: with it, every try would be news.
            let why = status.to_string().replace(&drawn, &asked);
            let message = format!("Error creating: {why}");
            plan.tell(record, COMPONENT, ("Warning", "FailedCreate", &message), context);
            plan.wake_after(REFUSED_RETRY_MS);
            return Some(why);
        }
    }
    for _ in 0..missing.clamp(0, BURST_MAX as i64) {
        let pod = new_pod(record, set, context);
        let message = format!("Created pod: {}", pod.text("metadata.name"));
        plan.create(registry::POD, pod);
        plan.tell(record, COMPONENT, ("Normal", "SuccessfulCreate", &message), context);
    }
    if missing < 0 {
        let n_spare = (-missing) as usize;
        for pod in to_delete(record, active, context).into_iter().take(n_spare.min(BURST_MAX)) {
            plan.delete(&pod, None);
            let message = format!("Deleted pod: {}", pod.key.name);
            plan.tell(record, COMPONENT, ("Normal", "SuccessfulDelete", &message), context);
        }
    }
    None
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

/// Active pods of all sets of the same Deployment on each node: pods on crowded nodes go sooner.
fn n_related_by_node(record: &Record, active: &[Arc<Record>], view: &View) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    let mut count = |pod: &Arc<Record>| {
        if let Some(node) = pod.header.node_name.as_ref().filter(|_| is_active(pod)) {
            *counts.entry(node.to_string()).or_insert(0) += 1;
        }
    };
    match record.header.controller() {
        None => active.iter().for_each(count),
        Some(owner) => {
            let sets = view.owned_by(&owner.uid).filter(|set| set.key.kind == registry::REPLICA_SET);
            sets.for_each(|set| pods_of(view, set).for_each(&mut count));
        }
    }
    counts
}

/// Times are compared by their order of magnitude, so that pods of about the same age are equals.
fn magnitude(ms: i64) -> i64 {
    if ms > 0 { i64::from(ms.ilog2()) } else { -1 }
}

/// Active pods in the order in which they may go: unassigned, pending, not ready, cheap, on crowded
/// nodes, ready for a short time, often restarted, young.
fn to_delete(record: &Record, active: &[Arc<Record>], context: &Context) -> Vec<Arc<Record>> {
    let n_related = n_related_by_node(record, active, context.view);
    let mut ranked: Vec<_> = active
        .iter()
        .map(|record| {
            let pod = record.value();
            let node = record.header.node_name.as_deref();
            let phase = match record.header.phase.as_deref() {
                Some("Pending") => 0,
                Some("Running") => 2,
                _ => 1,
            };
            let cost = pod.annotation("controller.kubernetes.io/pod-deletion-cost").and_then(|c| c.parse().ok());
            let ready = ready_since(&pod);
            let restarts = pod.items("status.containerStatuses").iter().filter_map(|c| c.at("restartCount").as_i64());
            let age_ms = context.now.since_ms(record.header.created.unwrap_or_default());
            let rank = (
                node.is_some(),
                phase,
                ready.is_some(),
                cost.unwrap_or(0_i64),
                Reverse(node.and_then(|node| n_related.get(node)).copied().unwrap_or(0)),
                ready.map(|since| magnitude(context.now.since_ms(since))),
                Reverse(restarts.max().unwrap_or(0)),
                magnitude(age_ms),
                record.header.uid.clone(),
            );
            (rank, record.clone())
        })
        .collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.into_iter().map(|(_, record)| record).collect()
}

fn write_status(
    record: &Arc<Record>,
    set: Value,
    active: &[Arc<Record>],
    failure: Option<String>,
    context: &Context,
    plan: &mut Plan,
) {
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
    let mut next = set.clone();
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
    write_failure(&mut next, failure, context.now);
    if next.at("status") != set.at("status") {
        plan.update(record, next);
    }
}

/// ReplicaFailure stands while pods cannot be created.
fn write_failure(set: &mut Value, failure: Option<String>, now: Timestamp) {
    let is_failure = |c: &Value| c.text("type") == "ReplicaFailure";
    let mut conditions = set.items("status.conditions").to_vec();
    match failure {
        Some(message) if conditions.iter().any(|c| is_failure(c) && c.text("message") == message) => return,
        Some(message) => {
            conditions.retain(|c| !is_failure(c));
            conditions.push(json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                "message": message, "lastTransitionTime": now.rfc3339()}));
        }
        None => conditions.retain(|c| !is_failure(c)),
    }
    match conditions.is_empty() {
        true => drop(set.remove_at("status.conditions")),
        false => set.set("status.conditions", conditions),
    }
}
