//! Node lifecycle: a silent node is marked and tainted, and its pods move as their tolerations allow.
//!
//! Rules: kubernetes.io/docs/concepts/architecture/nodes and …/taint-and-toleration; the times are ours.

use crate::events::event;
use crate::replicaset::is_active;
use crate::{Context, Facts, Plan};
use objects::kinds::node::condition;
use objects::{Key, Timestamp, Value, ValueExt, json, registry};
use state::View;

/// A node that has not been heard for this long is not ready. Workers beat every second.
pub const NOT_READY_AFTER_MS: i64 = 4_000;
/// When more than this part of the nodes (and more than two) fall silent together, the fault is
/// likelier ours: nothing is evicted.
const SILENT_MAX_PERCENT: usize = 55;

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

fn is_silent(facts: &Facts, node: &str) -> bool {
    facts.silent_ms.get(node).is_none_or(|ms| *ms >= NOT_READY_AFTER_MS)
}

/// Whether so many nodes are silent that evicting would do harm.
fn too_many_silent(view: &View, facts: &Facts) -> bool {
    let nodes: Vec<_> = view.list(registry::NODE, "", None).collect();
    let n_silent = nodes.iter().filter(|node| is_silent(facts, &node.key.name)).count();
    n_silent > 2 && n_silent * 100 > nodes.len() * SILENT_MAX_PERCENT
}

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(record) = context.view.get(key).cloned() else { return plan };
    let old = record.value();
    let mut node = old.clone();
    let silent = is_silent(context.facts, &key.name);
    // Silence makes no event: look again when it would begin to count, and while it lasts.
    let heard_ms = context.facts.silent_ms.get(key.name.as_str()).copied().unwrap_or(0);
    plan.wake_after(if silent { 1_000 } else { (NOT_READY_AFTER_MS - heard_ms).clamp(100, NOT_READY_AFTER_MS) });
    if silent && condition(&old, "Ready") != "Unknown" {
        for ty in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
            api::set_condition(
                &mut node,
                json!({
                    "type": ty, "status": "Unknown", "reason": "NodeStatusUnknown",
                    "message": "Kubelet stopped posting node status.",
                    "lastHeartbeatTime": context.now.rfc3339(), "lastTransitionTime": context.now.rfc3339(),
                }),
            );
        }
        let message = format!("Node {} status is now: NodeNotReady", key.name);
        let note = event(&record, "node-controller", "Normal", "NodeNotReady", &message, context.now, context.rng);
        plan.create(registry::EVENT, note);
    }
    let ready = condition(&node, "Ready").to_string();
    // A worker that is heard again reports its status by itself; until then the taint stays.
    let taint = match ready.as_str() {
        "True" => None,
        "Unknown" => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    set_taints(&mut node, taint, context.now);
    if node != old {
        plan.update(&record, node.clone());
    }
    mark_pods(&key.name, ready != "True", context, &mut plan);
    if !too_many_silent(context.view, context.facts) {
        evict(&key.name, &node, context, &mut plan);
    }
    plan
}

fn set_taints(node: &mut Value, wanted: Option<&str>, now: Timestamp) {
    let ours = |taint: &Value| {
        [UNREACHABLE, NOT_READY].contains(&taint.text("key")) && taint.text("effect") != "PreferNoSchedule"
    };
    let before = node.items("spec.taints").to_vec();
    let mut taints: Vec<Value> =
        before.iter().filter(|taint| !ours(taint) || Some(taint.text("key")) == wanted).cloned().collect();
    for effect in ["NoSchedule", "NoExecute"] {
        let Some(key) = wanted else { break };
        if !taints.iter().any(|t| t.text("key") == key && t.text("effect") == effect) {
            taints.push(json!({"key": key, "effect": effect, "timeAdded": now.rfc3339()}));
        }
    }
    // The cordon shows as a taint too, as in Kubernetes.
    let cordon = "node.kubernetes.io/unschedulable";
    let cordoned = node.at("spec.unschedulable") == true;
    taints.retain(|taint| taint.text("key") != cordon || cordoned);
    if cordoned && !taints.iter().any(|taint| taint.text("key") == cordon) {
        taints.push(json!({"key": cordon, "effect": "NoSchedule", "timeAdded": now.rfc3339()}));
    }
    match taints.is_empty() {
        true => drop(node.remove_at("spec.taints")),
        false => node.set("spec.taints", taints),
    }
}

/// Pods of a node that is not ready are not ready: their services must not count on them.
fn mark_pods(node: &str, not_ready: bool, context: &Context, plan: &mut Plan) {
    if !not_ready {
        return;
    }
    for record in context.view.pods_of_node(node).filter(|pod| is_active(pod)) {
        let mut pod = record.value();
        if condition(&pod, "Ready") != "True" {
            continue;
        }
        api::set_condition(
            &mut pod,
            json!({"type": "Ready", "status": "False", "reason": "NodeNotReady",
                "lastTransitionTime": context.now.rfc3339()}),
        );
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

fn evict(name: &str, node: &Value, context: &mut Context, plan: &mut Plan) {
    let taints: Vec<Value> =
        node.items("spec.taints").iter().filter(|taint| taint.text("effect") == "NoExecute").cloned().collect();
    if taints.is_empty() {
        return;
    }
    let pods: Vec<_> = context.view.pods_of_node(name).filter(|pod| is_active(pod)).cloned().collect();
    for record in pods {
        let pod = record.value();
        let leave_in = taints.iter().filter_map(|taint| {
            let added = Timestamp::parse(taint.text("timeAdded")).unwrap_or(context.now);
            may_stay_ms(&pod, taint).map(|ms| added.plus_ms(ms).since_ms(context.now))
        });
        match leave_in.min() {
            None => {}
            Some(ms) if ms > 0 => plan.wake_after(ms),
            Some(_) => {
                plan.delete(&record, None);
                let message = format!("Marking for deletion Pod {}/{}", record.key.namespace, record.key.name);
                let component = "taint-eviction-controller";
                let note =
                    event(&record, component, "Normal", "TaintManagerEviction", &message, context.now, context.rng);
                plan.create(registry::EVENT, note);
            }
        }
    }
}
