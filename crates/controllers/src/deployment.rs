//! Deployment: rolls its ReplicaSets from one template to the next.
//!
//! Rules: kubernetes.io/docs/concepts/workloads/controllers/deployment.

use crate::events::event;
use crate::replicaset::owner_reference;
use crate::{Context, Plan};
use objects::{Key, Record, Timestamp, Value, ValueExt, json, registry};
use sha2::{Digest, Sha256};
use std::sync::Arc;

const COMPONENT: &str = "deployment-controller";
const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// How often a Recreate rollout looks whether its old pods are gone.
const OLD_PODS_POLL_MS: i64 = 200;

/// A ReplicaSet of the deployment, as it is and as it should become.
struct Set {
    record: Arc<Record>,
    value: Value,
    /// `spec.replicas` as planned so far.
    replicas: i64,
}

impl Set {
    fn status(&self, field: &str) -> i64 {
        self.value.at("status").at(field).as_i64().unwrap_or(0)
    }

    fn spec_replicas(&self) -> i64 {
        self.value.at("spec.replicas").as_i64().unwrap_or(0)
    }

    fn revision(&self) -> i64 {
        self.value.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

fn int_or_percent(value: &Value, of: i64, round_up: bool) -> i64 {
    match value {
        Value::Number(number) => number.as_i64().unwrap_or(0),
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * of;
            if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) }
        }
        _ => 0,
    }
}

/// (surge, unavailable) in pods. Surge rounds up, unavailable rounds down, and both are never 0.
fn fenceposts(deployment: &Value, replicas: i64) -> (i64, i64) {
    let rolling = deployment.at("spec.strategy.rollingUpdate");
    if deployment.text("spec.strategy.type") != "RollingUpdate" {
        return (0, 0);
    }
    let surge = int_or_percent(rolling.at("maxSurge"), replicas, true);
    let unavailable = int_or_percent(rolling.at("maxUnavailable"), replicas, false);
    match (surge, unavailable) {
        (0, 0) => (0, 1.min(replicas)),
        (surge, unavailable) => (surge, unavailable.min(replicas)),
    }
}

/// The hash of a pod template, in characters that cannot spell a word.
fn template_hash(template: &Value, collisions: i64) -> String {
    let digest = Sha256::digest(format!("{template}{collisions}").as_bytes());
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    digest.iter().take(10).map(|byte| char::from(ALPHABET[*byte as usize % ALPHABET.len()])).collect()
}

/// A template without the label that tells ReplicaSets apart.
fn bare_template(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.get_mut("metadata").and_then(|m| m.get_mut("labels")).and_then(Value::as_object_mut)
    {
        labels.remove(HASH_LABEL);
    }
    template
}

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(record) = context.view.get(key).cloned() else { return plan };
    let deployment = record.value();
    let controls = |set: &&Arc<Record>| set.header.controller().is_some_and(|owner| owner.uid == record.header.uid);
    let owned = context.view.owned_by(&record.header.uid).filter(|r| r.key.kind == registry::REPLICA_SET);
    let mut sets: Vec<Set> = owned
        .filter(controls)
        .map(|record| {
            let value = record.value();
            let replicas = value.at("spec.replicas").as_i64().unwrap_or(0);
            Set { record: record.clone(), value, replicas }
        })
        .collect();
    sets.sort_by_key(|set| (set.record.header.created, set.record.key.clone()));
    if record.header.deletion.is_some() {
        write_status(&record, deployment, &sets, None, context, &mut plan);
        return plan;
    }
    let template = bare_template(deployment.at("spec.template"));
    let newest = sets.iter().position(|set| bare_template(set.value.at("spec.template")) == template);
    let paused = deployment.at("spec.paused") == true;
    let replicas = deployment.at("spec.replicas").as_i64().unwrap_or(1);
    let mut next = deployment.clone();
    let max_revision = sets.iter().enumerate().filter(|(i, _)| Some(*i) != newest).map(|(_, s)| s.revision()).max();
    let revision = max_revision.unwrap_or(0) + 1;
    match newest {
        None if !paused && ready_for_new(&deployment, &sets, context) => {
            if !create_set(&record, &deployment, &sets, revision, context, &mut plan) {
                let collisions = deployment.at("status.collisionCount").as_i64().unwrap_or(0) + 1;
                next.set("status.collisionCount", collisions);
            }
        }
        _ => {}
    }
    if let Some(newest) = newest {
        let scaled_elsewhere = sets.iter().any(|set| {
            let desired = set.value.annotation(DESIRED).and_then(|text| text.parse::<i64>().ok());
            set.spec_replicas() > 0 && desired.is_some_and(|desired| desired != replicas)
        });
        if paused || scaled_elsewhere {
            scale_in_proportion(&deployment, &mut sets, newest, replicas);
        } else if deployment.text("spec.strategy.type") == "Recreate" {
            recreate(&mut sets, newest, replicas, context);
        } else {
            roll(&deployment, &mut sets, newest, replicas);
        }
        let bump = sets[newest].revision() < revision;
        if !paused || bump {
            next.object("metadata.annotations")
                .insert(REVISION.into(), if bump { revision } else { sets[newest].revision() }.to_string().into());
        }
        write_sets(&record, &deployment, &sets, newest, if bump { revision } else { 0 }, context, &mut plan);
        clean_up(&deployment, &sets, newest, &mut plan);
    } else if paused && !sets.is_empty() {
        // Paused before the new template had a set: the old ones still follow `replicas`.
        let latest = sets.len() - 1;
        scale_in_proportion(&deployment, &mut sets, latest, replicas);
        write_sets(&record, &deployment, &sets, usize::MAX, 0, context, &mut plan);
    } else if deployment.text("spec.strategy.type") == "Recreate" && !paused {
        sets.iter_mut().for_each(|set| set.replicas = 0);
        write_sets(&record, &deployment, &sets, usize::MAX, 0, context, &mut plan);
    }
    if deployment.text("spec.strategy.type") == "Recreate" && !paused && old_pods_left(&sets, newest, context) {
        // The last old pod's end changes no set's status: nothing else would wake this key.
        plan.wake_after(OLD_PODS_POLL_MS);
    }
    write_status(&record, next, &sets, newest, context, &mut plan);
    plan
}

/// Whether a pod of any set but the newest still runs.
fn old_pods_left(sets: &[Set], newest: Option<usize>, context: &Context) -> bool {
    sets.iter().enumerate().filter(|(i, _)| Some(*i) != newest).any(|(_, set)| {
        let pods = crate::replicaset::pods_of(context.view, &set.record);
        pods.iter().any(|pod| !matches!(pod.header.phase.as_deref(), Some("Succeeded" | "Failed")))
    })
}

/// Recreate makes the new set only once no old pod runs any more.
fn ready_for_new(deployment: &Value, sets: &[Set], context: &Context) -> bool {
    deployment.text("spec.strategy.type") != "Recreate"
        || (sets.iter().all(|set| set.spec_replicas() == 0) && !old_pods_left(sets, None, context))
}

fn create_set(
    record: &Record,
    deployment: &Value,
    sets: &[Set],
    revision: i64,
    context: &mut Context,
    plan: &mut Plan,
) -> bool {
    let collisions = deployment.at("status.collisionCount").as_i64().unwrap_or(0);
    let mut template = deployment.at("spec.template").clone();
    let hash = template_hash(&template, collisions);
    let base: String = record.key.name.chars().take(63 - 1 - hash.len()).collect();
    let name = format!("{base}-{hash}");
    let key = Key::new(registry::REPLICA_SET, &record.key.namespace, &name);
    if context.view.get(&key).is_some() {
        return false;
    }
    let replicas = deployment.at("spec.replicas").as_i64().unwrap_or(1);
    let (surge, _) = fenceposts(deployment, replicas);
    let others: i64 = sets.iter().map(|set| set.replicas).sum();
    let first = match deployment.text("spec.strategy.type") {
        "RollingUpdate" => replicas.min((replicas + surge - others).max(0)),
        _ => replicas,
    };
    template.object("metadata.labels").insert(HASH_LABEL.into(), hash.as_str().into());
    let mut selector = deployment.at("spec.selector").clone();
    selector.object("matchLabels").insert(HASH_LABEL.into(), hash.as_str().into());
    let mut set = json!({
        "metadata": {
            "name": name, "namespace": record.key.namespace.as_str(), "labels": template.at("metadata.labels"),
            "ownerReferences": [owner_reference(record)],
        },
        "spec": {"replicas": first, "selector": selector, "template": template},
    });
    if !deployment.at("spec.minReadySeconds").is_null() {
        set.set("spec.minReadySeconds", deployment.at("spec.minReadySeconds").clone());
    }
    set.set("metadata.annotations", annotations(deployment, replicas, surge, revision));
    plan.create(registry::REPLICA_SET, set);
    scaled_event(record, &name, 0, first, context, plan);
    true
}

fn annotations(deployment: &Value, replicas: i64, surge: i64, revision: i64) -> Value {
    let mut kept = deployment.at("metadata.annotations").as_object().cloned().unwrap_or_default();
    kept.remove("kubectl.kubernetes.io/last-applied-configuration");
    kept.remove(HISTORY);
    kept.insert(REVISION.into(), revision.to_string().into());
    kept.insert(DESIRED.into(), replicas.to_string().into());
    kept.insert(MAX.into(), (replicas + surge).to_string().into());
    Value::Object(kept)
}

fn scaled_event(record: &Record, set: &str, from: i64, to: i64, context: &mut Context, plan: &mut Plan) {
    if from == to {
        return;
    }
    let way = if to > from { "up" } else { "down" };
    let message = format!("Scaled {way} replica set {set} from {from} to {to}");
    let note = event(record, COMPONENT, "Normal", "ScalingReplicaSet", &message, context.now, context.rng);
    plan.create(registry::EVENT, note);
}

/// One step of a rolling update: up within the surge, down within what may be unavailable.
fn roll(deployment: &Value, sets: &mut [Set], newest: usize, replicas: i64) {
    let (surge, unavailable) = fenceposts(deployment, replicas);
    let total: i64 = sets.iter().map(|set| set.replicas).sum();
    let current = sets[newest].replicas;
    if current > replicas {
        sets[newest].replicas = replicas;
    } else if current < replicas {
        let room = replicas + surge - total;
        sets[newest].replicas = current + room.max(0).min(replicas - current);
    }
    let min_available = replicas - unavailable;
    let available: i64 = sets.iter().map(|set| set.status("availableReplicas")).sum();
    let new_unavailable = sets[newest].spec_replicas() - sets[newest].status("availableReplicas");
    let mut may_go = total - min_available - new_unavailable;
    let mut olds: Vec<usize> = (0..sets.len()).filter(|i| *i != newest && sets[*i].replicas > 0).collect();
    olds.sort_by_key(|i| (sets[*i].record.header.created, *i));
    // Pods that serve nobody go first.
    for i in &olds {
        let unhealthy = sets[*i].replicas - sets[*i].status("availableReplicas");
        let gone = unhealthy.min(may_go).max(0);
        sets[*i].replicas -= gone;
        may_go -= gone;
    }
    let mut spare = (available - min_available).min(may_go).max(0);
    for i in olds {
        let gone = sets[i].replicas.min(spare);
        sets[i].replicas -= gone;
        spare -= gone;
    }
}

fn recreate(sets: &mut [Set], newest: usize, replicas: i64, context: &Context) {
    for (_, set) in sets.iter_mut().enumerate().filter(|(i, _)| *i != newest) {
        set.replicas = 0;
    }
    if !old_pods_left(sets, Some(newest), context) {
        sets[newest].replicas = replicas;
    }
}

/// A change of `replicas` in the middle of a rollout is shared out in proportion to the sets' sizes.
fn scale_in_proportion(deployment: &Value, sets: &mut [Set], newest: usize, replicas: i64) {
    let (surge, _) = fenceposts(deployment, replicas);
    let mut active: Vec<usize> = (0..sets.len()).filter(|i| sets[*i].replicas > 0).collect();
    if active.len() <= 1 {
        let only = active.first().copied().unwrap_or(newest);
        sets[only].replicas = replicas;
        return;
    }
    let total: i64 = sets.iter().map(|set| set.replicas).sum();
    let allowed = if replicas > 0 { replicas + surge } else { 0 };
    let mut left = allowed - total;
    active.sort_by_key(|i| (-sets[*i].replicas, *i));
    for i in &active {
        let before: i64 = sets[*i].value.annotation(MAX).and_then(|t| t.parse().ok()).unwrap_or(total).max(1);
        let share = (sets[*i].replicas * allowed * 2 + before).div_euclid(before * 2) - sets[*i].replicas;
        let change = if left >= 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        sets[*i].replicas += change;
        left -= change;
    }
    let first = active[0];
    sets[first].replicas = (sets[first].replicas + left).max(0);
}

fn write_sets(
    record: &Record,
    deployment: &Value,
    sets: &[Set],
    newest: usize,
    bumped: i64,
    context: &mut Context,
    plan: &mut Plan,
) {
    let replicas = deployment.at("spec.replicas").as_i64().unwrap_or(1);
    let (surge, _) = fenceposts(deployment, replicas);
    for (i, set) in sets.iter().enumerate() {
        let mut next = set.value.clone();
        next.set("spec.replicas", set.replicas);
        if i == newest {
            let mut kept = annotations(deployment, replicas, surge, set.revision());
            let mut history = set.value.annotation(HISTORY).unwrap_or("").to_string();
            if bumped > 0 {
                // A rollback: the set keeps the numbers it had.
                if set.revision() > 0 {
                    history = match history.as_str() {
                        "" => set.revision().to_string(),
                        earlier => format!("{earlier},{}", set.revision()),
                    };
                }
                kept[REVISION] = bumped.to_string().into();
            }
            if !history.is_empty() {
                kept[HISTORY] = history.into();
            }
            next.set("metadata.annotations", kept);
            if !deployment.at("spec.minReadySeconds").is_null() {
                next.set("spec.minReadySeconds", deployment.at("spec.minReadySeconds").clone());
            }
        } else if set.replicas > 0 {
            let annotations = next.object("metadata.annotations");
            annotations.insert(DESIRED.into(), replicas.to_string().into());
            annotations.insert(MAX.into(), (replicas + surge).to_string().into());
        }
        if next != set.value {
            plan.update(&set.record, next);
            scaled_event(record, &set.record.key.name, set.spec_replicas(), set.replicas, context, plan);
        }
    }
}

/// Old, empty sets beyond the history limit go, oldest revision first.
fn clean_up(deployment: &Value, sets: &[Set], newest: usize, plan: &mut Plan) {
    let limit = deployment.at("spec.revisionHistoryLimit").as_i64().unwrap_or(10);
    let complete = is_complete(deployment, &sets[newest], sets);
    if !complete && deployment.at("spec.paused") != true {
        return;
    }
    let empty = |set: &Set| set.replicas == 0 && set.spec_replicas() == 0 && set.status("replicas") == 0;
    let mut old: Vec<&Set> =
        sets.iter().enumerate().filter(|(i, set)| *i != newest && empty(set)).map(|(_, set)| set).collect();
    old.sort_by_key(|set| set.revision());
    let n_excess = (old.len() as i64 - limit).max(0) as usize;
    for set in old.into_iter().take(n_excess).filter(|set| set.record.header.deletion.is_none()) {
        plan.delete(&set.record, None);
    }
}

fn is_complete(deployment: &Value, newest: &Set, sets: &[Set]) -> bool {
    let replicas = deployment.at("spec.replicas").as_i64().unwrap_or(1);
    let total: i64 = sets.iter().map(|set| set.status("replicas")).sum();
    newest.status("replicas") == replicas && newest.status("availableReplicas") == replicas && total == replicas
}

fn condition(ty: &str, status: &str, reason: &str, message: &str, old: Option<&Value>, now: Timestamp) -> Value {
    let same = old.is_some_and(|old| old.text("status") == status);
    let transition = match old {
        Some(old) if same => old.text("lastTransitionTime").to_string(),
        _ => now.rfc3339(),
    };
    json!({
        "type": ty, "status": status, "reason": reason, "message": message,
        "lastUpdateTime": now.rfc3339(), "lastTransitionTime": transition,
    })
}

fn write_status(
    record: &Arc<Record>,
    mut next: Value,
    sets: &[Set],
    newest: Option<usize>,
    context: &Context,
    plan: &mut Plan,
) {
    let old = record.value();
    let replicas = next.at("spec.replicas").as_i64().unwrap_or(1);
    let sum = |field: &str| sets.iter().map(|set| set.status(field)).sum::<i64>();
    let available = sum("availableReplicas");
    let updated = newest.map_or(0, |newest| sets[newest].status("replicas"));
    let wanted: i64 = sets.iter().map(|set| set.replicas).sum();
    let counts = [
        ("replicas", sum("replicas")),
        ("updatedReplicas", updated),
        ("readyReplicas", sum("readyReplicas")),
        ("availableReplicas", available),
        ("unavailableReplicas", (wanted.max(replicas) - available).max(0)),
    ];
    for (field, count) in counts {
        match count {
            0 => drop(next.remove_at(&format!("status.{field}"))),
            count => next.set(&format!("status.{field}"), count),
        }
    }
    next.set("status.observedGeneration", record.header.generation);
    let find = |ty: &str| old.items("status.conditions").iter().find(|c| c.text("type") == ty).cloned();
    let (_, unavailable) = fenceposts(&next, replicas);
    let (was_available, was_progressing) = (find("Available"), find("Progressing"));
    let now = context.now;
    let available_now = match available >= replicas - unavailable {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    let mut conditions = vec![keep_or(was_available.as_ref(), |old| {
        condition("Available", available_now.0, available_now.1, available_now.2, old, now)
    })];
    conditions.extend(progressing(&old, &next, sets, newest, was_progressing.as_ref(), now, plan));
    next.set("status.conditions", conditions);
    if next.at("status") != old.at("status") || next.at("metadata") != old.at("metadata") {
        plan.update(record, next);
    }
}

/// A condition that says the same keeps its times.
fn keep_or(old: Option<&Value>, make: impl FnOnce(Option<&Value>) -> Value) -> Value {
    let new = make(old);
    match old {
        Some(old) if ["status", "reason", "message"].iter().all(|f| old.text(f) == new.text(f)) => old.clone(),
        _ => new,
    }
}

fn progressing(
    old: &Value,
    next: &Value,
    sets: &[Set],
    newest: Option<usize>,
    was: Option<&Value>,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Value> {
    let make = |status: &str, reason: &str, message: &str| {
        Some(keep_or(was, |old| condition("Progressing", status, reason, message, old, now)))
    };
    if next.at("spec.paused") == true {
        return make("Unknown", "DeploymentPaused", "Deployment is paused");
    }
    if was.is_some_and(|was| was.text("reason") == "DeploymentPaused") {
        return make("Unknown", "DeploymentResumed", "Deployment is resumed");
    }
    let deadline_s = next.at("spec.progressDeadlineSeconds").as_i64().unwrap_or(600);
    let Some(newest) = newest else {
        return make("True", "NewReplicaSetCreated", "Created new replica set");
    };
    let name = &sets[newest].record.key.name;
    if is_complete(next, &sets[newest], sets) {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        return make("True", "NewReplicaSetAvailable", &message);
    }
    let number = |object: &Value, field: &str| object.at("status").at(field).as_i64().unwrap_or(0);
    let grew =
        ["updatedReplicas", "readyReplicas", "availableReplicas"].iter().any(|f| number(next, f) > number(old, f));
    let shrank = number(next, "replicas") - number(next, "updatedReplicas")
        < number(old, "replicas") - number(old, "updatedReplicas");
    let message = format!("ReplicaSet \"{name}\" is progressing.");
    let started_over = was.is_none_or(|was| was.text("reason") == "NewReplicaSetAvailable")
        && number(next, "updatedReplicas") < next.at("spec.replicas").as_i64().unwrap_or(1);
    if grew || shrank || was.is_none() || started_over {
        return Some(condition("Progressing", "True", "ReplicaSetUpdated", &message, was, now));
    }
    let was = was?;
    let last = Timestamp::parse(was.text("lastUpdateTime")).unwrap_or(now);
    let left_ms = deadline_s * 1000 - now.since_ms(last);
    if was.text("reason") == "NewReplicaSetAvailable" {
        return Some(was.clone());
    }
    if left_ms <= 0 {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        return make("False", "ProgressDeadlineExceeded", &message);
    }
    plan.wake_after(left_ms + 1000);
    Some(was.clone())
}
