//! Deployment: rolls its ReplicaSets from one template to the next.
//!
//! This file keeps the sets: which are the deployment's, which is the newest, their revisions, their
//! history, and the new one that a new template asks for. `rollout` decides their sizes and status.
//!
//! Rules: kubernetes.io/docs/concepts/workloads/controllers/deployment.

use crate::claim::{claim, owner_reference};
use crate::replicaset::pods_of;
use crate::rollout;
use crate::{Context, Plan};
use objects::selector::Selector;
use objects::{Key, Record, Value, ValueExt, json, registry};
use sha2::{Digest, Sha256};
use std::sync::Arc;

const COMPONENT: &str = "deployment-controller";
const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a deployment that are not its sets'.
const OWN_ANNOTATIONS: [&str; 5] =
    ["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAX];

/// A ReplicaSet of the deployment, as it is and as it should become.
pub(crate) struct Set {
    pub(crate) record: Arc<Record>,
    pub(crate) value: Value,
    /// `spec.replicas` as planned so far.
    pub(crate) replicas: i64,
}

impl Set {
    fn new(record: Arc<Record>) -> Set {
        let value = record.value();
        let replicas = value.at("spec.replicas").as_i64().unwrap_or(0);
        Set { record, value, replicas }
    }

    pub(crate) fn status(&self, field: &str) -> i64 {
        self.value.at("status").at(field).as_i64().unwrap_or(0)
    }

    pub(crate) fn spec_replicas(&self) -> i64 {
        self.value.at("spec.replicas").as_i64().unwrap_or(0)
    }

    pub(crate) fn number(&self, annotation: &str) -> Option<i64> {
        self.value.annotation(annotation)?.parse().ok()
    }

    fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or(0)
    }
}

/// A deployment and its sets, oldest first.
pub(crate) struct Rollout {
    pub(crate) record: Arc<Record>,
    pub(crate) value: Value,
    pub(crate) sets: Vec<Set>,
    /// The set of the present template.
    pub(crate) newest: Option<usize>,
    pub(crate) replicas: i64,
    /// How many pods may come on top, and how many may be missing, while rolling.
    pub(crate) surge: i64,
    pub(crate) unavailable: i64,
    pub(crate) paused: bool,
    pub(crate) recreates: bool,
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
pub(crate) fn fenceposts(deployment: &Value, replicas: i64) -> (i64, i64) {
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
    let value = record.value();
    let Some(selector) = Selector::from_object(value.at("spec.selector")) else { return plan };
    let records = claim(&record, &selector, registry::REPLICA_SET, |_| true, context.view, &mut plan);
    let mut sets: Vec<Set> = records.into_iter().map(Set::new).collect();
    sets.sort_by_key(|set| (set.record.header.created, set.record.key.clone()));
    let template = bare_template(value.at("spec.template"));
    let replicas = value.at("spec.replicas").as_i64().unwrap_or(1);
    let (surge, unavailable) = fenceposts(&value, replicas);
    let mut rollout = Rollout {
        newest: sets.iter().position(|set| bare_template(set.value.at("spec.template")) == template),
        paused: value.at("spec.paused") == true,
        recreates: value.text("spec.strategy.type") == "Recreate",
        record,
        sets,
        replicas,
        surge,
        unavailable,
        value,
    };
    let mut next = rollout.value.clone();
    if rollout.record.header.deletion.is_some() {
        rollout::write_status(&rollout, next, None, context, &mut plan);
        return plan;
    }
    let scales_only = rollout.paused || rollout.is_scaled_elsewhere();
    let mut created = None;
    if scales_only {
        rollout.scale_in_proportion();
    } else if rollout.recreates {
        let waits = rollout.retire() || old_pods_left(&rollout, context);
        match rollout.newest {
            Some(newest) if !waits => rollout.sets[newest].replicas = replicas,
            None if !waits => created = create_set(&rollout, replicas, &mut next, context, &mut plan),
            _ => {}
        }
    } else if rollout.newest.is_some() {
        rollout.roll();
    } else {
        let first = rollout.room_for_new();
        created = create_set(&rollout, first, &mut next, context, &mut plan);
    }
    write_sets(&rollout, &mut next, context, &mut plan);
    if rollout.paused || rollout.is_complete() {
        clean_up(&rollout, &mut plan);
    }
    rollout::write_status(&rollout, next, created, context, &mut plan);
    plan
}

/// Whether a pod of any set but the newest still runs, be it on its way out.
fn old_pods_left(rollout: &Rollout, context: &Context) -> bool {
    let runs = |pod: &Arc<Record>| !matches!(pod.header.phase.as_deref(), Some("Succeeded" | "Failed"));
    rollout.olds().any(|i| pods_of(context.view, &rollout.sets[i].record).any(runs))
}

/// Makes the set of a new template; its name, or nothing when another object has that name: then the
/// next try hashes to another one.
fn create_set(
    rollout: &Rollout,
    replicas: i64,
    next: &mut Value,
    context: &mut Context,
    plan: &mut Plan,
) -> Option<String> {
    let (record, deployment) = (&rollout.record, &rollout.value);
    let collisions = deployment.at("status.collisionCount").as_i64().unwrap_or(0);
    let mut template = deployment.at("spec.template").clone();
    let hash = template_hash(&template, collisions);
    let base: String = record.key.name.chars().take(63 - 1 - hash.len()).collect();
    let name = format!("{base}-{hash}");
    if context.view.get(&Key::new(registry::REPLICA_SET, &record.key.namespace, &name)).is_some() {
        next.set("status.collisionCount", collisions + 1);
        return None;
    }
    template.object("metadata.labels").insert(HASH_LABEL.into(), hash.as_str().into());
    let mut selector = deployment.at("spec.selector").clone();
    selector.object("matchLabels").insert(HASH_LABEL.into(), hash.as_str().into());
    let mut set = json!({
        "metadata": {
            "name": name, "namespace": record.key.namespace.as_str(), "labels": template.at("metadata.labels"),
            "ownerReferences": [owner_reference(record)],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    });
    if !deployment.at("spec.minReadySeconds").is_null() {
        set.set("spec.minReadySeconds", deployment.at("spec.minReadySeconds").clone());
    }
    let revision = rollout.sets.iter().map(Set::revision).max().unwrap_or(0) + 1;
    copy_annotations(rollout, &mut set);
    set.object("metadata.annotations").insert(REVISION.into(), revision.to_string().into());
    next.object("metadata.annotations").insert(REVISION.into(), revision.to_string().into());
    plan.create(registry::REPLICA_SET, set);
    tell_scaled(rollout, &name, 0, replicas, context, plan);
    Some(name)
}

/// What the newest set takes over from its deployment.
fn copy_annotations(rollout: &Rollout, set: &mut Value) {
    let own = rollout.value.at("metadata.annotations").as_object().into_iter().flatten();
    let copied: Vec<_> = own.filter(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str())).collect();
    let annotations = set.object("metadata.annotations");
    annotations.extend(copied.into_iter().map(|(key, value)| (key.clone(), value.clone())));
    note_sizes(rollout, set);
}

/// The sizes that a later change of `replicas` is measured against.
fn note_sizes(rollout: &Rollout, set: &mut Value) {
    let annotations = set.object("metadata.annotations");
    annotations.insert(DESIRED.into(), rollout.replicas.to_string().into());
    annotations.insert(MAX.into(), (rollout.replicas + rollout.surge).to_string().into());
}

fn tell_scaled(rollout: &Rollout, set: &str, from: i64, to: i64, context: &Context, plan: &mut Plan) {
    if from != to {
        let way = if to > from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {set} from {from} to {to}");
        plan.tell(&rollout.record, COMPONENT, ("Normal", "ScalingReplicaSet", &message), context);
    }
}

/// Writes what has changed of each set: its size and, for the newest, its revision and what it takes
/// over from the deployment.
fn write_sets(rollout: &Rollout, deployment: &mut Value, context: &Context, plan: &mut Plan) {
    let old_max = rollout.olds().map(|i| rollout.sets[i].revision()).max().unwrap_or(0);
    for (i, set) in rollout.sets.iter().enumerate() {
        let mut next = set.value.clone();
        if set.replicas != set.spec_replicas() {
            next.set("spec.replicas", set.replicas);
        }
        if Some(i) == rollout.newest {
            copy_annotations(rollout, &mut next);
            let annotations = next.object("metadata.annotations");
            if set.revision() <= old_max {
                // A rollback: the set gets the next number and keeps those it had in its history.
                let history: Vec<String> = [set.value.annotation(HISTORY), set.value.annotation(REVISION)]
                    .into_iter()
                    .flatten()
                    .map(ToString::to_string)
                    .collect();
                if !history.is_empty() {
                    annotations.insert(HISTORY.into(), history.join(",").into());
                }
                annotations.insert(REVISION.into(), (old_max + 1).to_string().into());
            }
            let revision = annotations[REVISION].clone();
            deployment.object("metadata.annotations").insert(REVISION.into(), revision);
            match rollout.value.at("spec.minReadySeconds") {
                Value::Null => drop(next.remove_at("spec.minReadySeconds")),
                seconds => next.set("spec.minReadySeconds", seconds.clone()),
            }
        } else if set.replicas > 0 {
            note_sizes(rollout, &mut next);
        }
        if next != set.value {
            plan.update(&set.record, next);
            tell_scaled(rollout, &set.record.key.name, set.spec_replicas(), set.replicas, context, plan);
        }
    }
}

/// Old sets beyond the history limit go, oldest revision first, when nothing of them runs.
fn clean_up(rollout: &Rollout, plan: &mut Plan) {
    let limit = rollout.value.at("spec.revisionHistoryLimit").as_i64().unwrap_or(10).max(0) as usize;
    let mut old: Vec<&Set> = rollout.olds().map(|i| &rollout.sets[i]).collect();
    old.retain(|set| set.record.header.deletion.is_none());
    old.sort_by_key(|set| set.revision());
    let n_excess = old.len().saturating_sub(limit);
    let is_idle = |set: &&Set| set.replicas == 0 && set.spec_replicas() == 0 && set.status("replicas") == 0;
    let is_observed = |set: &&Set| set.status("observedGeneration") >= set.record.header.generation;
    for set in old.into_iter().take(n_excess).filter(is_idle).filter(is_observed) {
        plan.delete(&set.record, None);
    }
}
