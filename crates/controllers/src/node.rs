//! Node lifecycle: a silent node is marked and tainted, and its pods move as their tolerations allow.
//!
//! Rules: kubernetes.io/docs/concepts/architecture/nodes and …/taint-and-toleration,
//! …/cluster-administration/node-shutdown (out-of-service); the times are ours.

use crate::replicaset::is_active;
use crate::{Context, Plan};
use objects::kinds::node::condition;
use objects::{Key, Record, Timestamp, Value, ValueExt, json, record, registry};
use std::sync::Arc;

/// A node that has not been heard for this long is not ready. Workers beat every second.
pub const NOT_READY_AFTER_MS: i64 = 4_000;
/// When more than this part of the nodes (and more than two) fall silent together, the fault is
/// likelier ours: nothing is evicted.
const SILENT_MAX_PERCENT: usize = 55;
/// How often a silent node is looked at again.
const SILENT_POLL_MS: i64 = 1_000;

const COMPONENT: &str = "node-controller";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Conditions that keep new pods away while they hold, and their taints.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// How long a node has been silent; a young one not longer than it exists.
fn silent_ms(node: &Record, context: &Context) -> i64 {
    let heard = context.facts.silent_ms.get(node.key.name.as_str()).copied().unwrap_or(0);
    heard.min(context.now.since_ms(node.header.created.unwrap_or_default()))
}

fn is_silent(node: &Record, context: &Context) -> bool {
    silent_ms(node, context) >= NOT_READY_AFTER_MS
}

/// Whether so many nodes are silent that evicting would do harm.
fn too_many_silent(context: &Context) -> bool {
    let nodes: Vec<_> = context.view.list(registry::NODE, "", None).collect();
    let n_silent = nodes.iter().filter(|node| is_silent(node, context)).count();
    n_silent > 2 && n_silent * 100 > nodes.len() * SILENT_MAX_PERCENT
}

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(record) = context.view.get(key).cloned() else { return plan };
    let old = record.value();
    let mut node = old.clone();
    let silent = is_silent(&record, context);
    // Silence makes no event: look again when it would begin to count, and while it lasts.
    let left_ms = NOT_READY_AFTER_MS - silent_ms(&record, context);
    plan.wake_after(if silent { SILENT_POLL_MS } else { left_ms.clamp(100, NOT_READY_AFTER_MS) });
    if silent && condition(&old, "Ready") != "Unknown" {
        mark_silent(&mut node, context.now);
        let message = format!("Node {} status is now: NodeNotReady", key.name);
        plan.tell(&record, COMPONENT, ("Normal", "NodeNotReady", &message), context);
    }
    let ready = condition(&node, "Ready").to_string();
    set_taints(&mut node, &ready, context.now);
    if node != old {
        plan.update(&record, node.clone());
    }
    mark_pods(&key.name, ready == "True", context, &mut plan);
    evict(&record, &node, context, &mut plan);
    if ready != "True" && node.items("spec.taints").iter().any(|taint| taint.text("key") == OUT_OF_SERVICE) {
        give_up(&key.name, context, &mut plan);
    }
    plan
}

/// Nobody can tell any more how the node is.
fn mark_silent(node: &mut Value, now: Timestamp) {
    for ty in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let (reason, message) = match condition(node, ty) {
            "" => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            _ => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        };
        api::set_condition(
            node,
            json!({"type": ty, "status": "Unknown", "reason": reason, "message": message,
                "lastHeartbeatTime": now.rfc3339(), "lastTransitionTime": now.rfc3339()}),
        );
    }
}

/// The taints that the node's conditions and its cordon ask for; other people's are kept.
fn set_taints(node: &mut Value, ready: &str, now: Timestamp) {
    let mut wanted: Vec<(&str, &str)> = match ready {
        "True" => Vec::new(),
        // A worker that is heard again reports its status by itself; until then the taint stays.
        "Unknown" => vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        _ => vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
    };
    let pressures = PRESSURES.iter().filter(|(ty, _)| condition(node, ty) == "True");
    wanted.extend(pressures.map(|(_, key)| (*key, "NoSchedule")));
    if node.at("spec.unschedulable") == true {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is_ours = |key: &str| {
        [UNREACHABLE, NOT_READY, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, ours)| *ours == key)
    };
    let name = |taint: &Value| (taint.text("key").to_string(), taint.text("effect").to_string());
    let has = |taints: &[Value], wanted: &(&str, &str)| {
        taints.iter().any(|taint| (taint.text("key"), taint.text("effect")) == *wanted)
    };
    let mut taints = node.items("spec.taints").to_vec();
    taints.retain(|taint| {
        let (key, effect) = name(taint);
        !is_ours(&key) || effect == "PreferNoSchedule" || wanted.contains(&(key.as_str(), effect.as_str()))
    });
    for taint in wanted {
        if !has(&taints, &taint) {
            taints.push(json!({"key": taint.0, "effect": taint.1, "timeAdded": now.rfc3339()}));
        }
    }
    // Tolerations are counted from when a taint was added, whoever added it.
    for taint in taints.iter_mut().filter(|taint| taint.text("effect") == "NoExecute") {
        taint.default_to("timeAdded", now.rfc3339());
    }
    match taints.is_empty() {
        true => drop(node.remove_at("spec.taints")),
        false => node.set("spec.taints", taints),
    }
}

/// Pods of a node that is not ready are not ready: their services must not count on them. What was
/// marked is unmarked once the node is back; its worker need not have noticed.
fn mark_pods(node: &str, node_is_ready: bool, context: &Context, plan: &mut Plan) {
    const MARK: &str = "NodeNotReady";
    // Every change of a pod leads here: the pods of a healthy node are not all parsed each time.
    let may_matter = |pod: &Record| !node_is_ready || str::from_utf8(&pod.json).is_ok_and(|json| json.contains(MARK));
    for record in context.view.pods_of_node(node).filter(|pod| is_active(pod) && may_matter(pod)) {
        let mut pod = record.value();
        let ready = pod.items("status.conditions").iter().find(|c| c.text("type") == "Ready");
        let marked = ready.is_some_and(|ready| ready.text("reason") == MARK);
        let status = match node_is_ready {
            false if condition(&pod, "Ready") == "True" => "False",
            true if marked && condition(&pod, "ContainersReady") == "True" => "True",
            _ => continue,
        };
        let mut now = json!({"type": "Ready", "status": status, "lastTransitionTime": context.now.rfc3339()});
        if !node_is_ready {
            now.set("reason", MARK);
        }
        api::set_condition(&mut pod, now);
        plan.update(record, pod);
    }
}

/// How long a pod may stay under a NoExecute taint, in ms; `None` for ever.
fn may_stay_ms(pod: &Value, taint: &Value) -> Option<i64> {
    let tolerates = |toleration: &&Value| {
        let (key, effect) = (toleration.text("key"), toleration.text("effect"));
        let exists = toleration.text("operator") == "Exists";
        (effect.is_empty() || effect == "NoExecute")
            && ((key.is_empty() && exists) || key == taint.text("key"))
            && (exists || toleration.text("value") == taint.text("value"))
    };
    let matching: Vec<&Value> = pod.items("spec.tolerations").iter().filter(tolerates).collect();
    if matching.is_empty() {
        return Some(0);
    }
    // The shortest of the bounded ones counts; without any, the pod stays.
    matching.iter().filter_map(|t| t.at("tolerationSeconds").as_i64()).map(|s| s.max(0) * 1000).min()
}

/// When a pod must leave because of a taint.
fn leaves_at(pod: &Value, taint: &Value, now: Timestamp) -> Option<Timestamp> {
    let added = Timestamp::parse(taint.text("timeAdded")).unwrap_or(now);
    match may_stay_ms(pod, taint)? {
        0 => Some(added),
        // `timeAdded` has whole seconds: up to one of them may not have passed yet.
        ms => Some(added.plus_ms(ms + 999)),
    }
}

fn evict(record: &Record, node: &Value, context: &mut Context, plan: &mut Plan) {
    let mut taints: Vec<Value> =
        node.items("spec.taints").iter().filter(|taint| taint.text("effect") == "NoExecute").cloned().collect();
    let is_health = |taint: &Value| [UNREACHABLE, NOT_READY].contains(&taint.text("key"));
    if taints.iter().any(is_health) && too_many_silent(context) {
        // What a person asked for is still done.
        taints.retain(|taint| !is_health(taint));
    }
    if taints.is_empty() {
        return;
    }
    for pod_record in context.view.pods_of_node(&record.key.name).filter(|pod| is_active(pod)) {
        let pod = pod_record.value();
        match taints.iter().filter_map(|taint| leaves_at(&pod, taint, context.now)).min() {
            None => {}
            Some(at) if at > context.now => plan.wake_after(at.since_ms(context.now)),
            Some(_) => {
                plan.delete(&disrupted(pod_record, pod, context.now), None);
                let message = format!("Marking for deletion Pod {}/{}", pod_record.key.namespace, pod_record.key.name);
                let word = ("Normal", "TaintManagerEviction", message.as_str());
                plan.tell(pod_record, "taint-eviction-controller", word, context);
            }
        }
    }
}

/// The pod with the condition that tells why it is disrupted, at the same revision.
fn disrupted(record: &Arc<Record>, mut pod: Value, now: Timestamp) -> Arc<Record> {
    api::set_condition(
        &mut pod,
        json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": now.rfc3339()}),
    );
    let sealed = Record::seal(record.key.clone(), record.header.revision, &record::encode(&pod));
    sealed.map_or_else(|_| record.clone(), Arc::new)
}

/// A person has said that the node is down for good: its leaving pods need not be waited for.
fn give_up(node: &str, context: &Context, plan: &mut Plan) {
    for pod in context.view.pods_of_node(node).filter(|pod| pod.header.deletion.is_some()) {
        plan.delete(pod, Some(0));
    }
}
