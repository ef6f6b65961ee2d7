//! A pod is bound to a node that it may go to: its `nodeSelector` and required node affinity match, and it tolerates
//! the taint that the node came with.
//!
//! Source: kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node, "nodeSelector" and "Node affinity", and
//! …/taint-and-toleration. Taints that come and go are left out: they may come between a decision and its binding.

use super::says;
use crate::chronicle::{Chronicle, Replay, binding};
use crate::workers::DEDICATED;
use objects::{Key, Value, ValueExt, registry};

const REQUIRED: &str = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution";

/// Whether a pod tolerates a taint.
fn tolerates(pod: &Value, taint: &Value) -> bool {
    pod.items("spec.tolerations").iter().any(|toleration| {
        let is_key = [taint.text("key"), ""].contains(&toleration.text("key"));
        let is_value = toleration.text("operator") == "Exists" || toleration.text("value") == taint.text("value");
        let is_effect = [taint.text("effect"), ""].contains(&toleration.text("effect"));
        is_key && is_value && is_effect
    })
}

/// Why a pod must not go to a node.
fn objection(pod: &Value, node: &Value) -> Option<&'static str> {
    let mut selector = pod.at("spec.nodeSelector").as_object().into_iter().flatten();
    if !selector.all(|(label, value)| node.label(label) == value.as_str()) {
        return Some("its nodeSelector");
    }
    let terms = pod.at(REQUIRED).items("nodeSelectorTerms");
    let matches = |term: &Value| term.items("matchExpressions").iter().all(|expression| says(expression, node));
    if !pod.at(REQUIRED).is_null() && !terms.iter().any(matches) {
        return Some("its node affinity");
    }
    let mut taints = node.items("spec.taints").iter().filter(|taint| taint.text("key") == DEDICATED);
    taints.any(|taint| !tolerates(pod, taint)).then_some("a taint")
}

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    Replay::of(chronicle).each(|replay, _, event| {
        let Some((pod, name)) = binding(event) else { return };
        // `capacity` tells of nodes that are none.
        let Some(node) = replay.objects.get(&Key::new(registry::NODE, "", name)) else { return };
        if let Some(why) = objection(&pod.value(), &node.value()) {
            wrong.push(format!("revision {}: {} came to {name}, against {why}", event.revision, pod.key));
        }
    });
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::{Fixture, pod};
    use crate::workers::{DEDICATED, ZONE};
    use objects::{Value, json, registry};

    /// How much is wrong with a pod of this spec on a node of zone `a`, and on a tainted one of zone `b`.
    fn n_wrong(spec: &Value) -> [usize; 2] {
        ["plain", "tainted"].map(|node| {
            let mut pod = pod("p", "x", node, false);
            spec.as_object().unwrap().iter().for_each(|(field, value)| pod["spec"][field] = value.clone());
            let nodes = Fixture::default().zoned("plain", "a", false).zoned("tainted", "b", true);
            check(&nodes.put(registry::POD, pod).chronicle).len()
        })
    }

    #[test]
    fn nodes_that_a_pod_must_not_go_to_are_found() {
        assert_eq!(n_wrong(&json!({})), [0, 1], "nothing is tolerated");
        let tolerations = json!([{"key": DEDICATED, "operator": "Exists"}]);
        assert_eq!(n_wrong(&json!({"tolerations": tolerations})), [0, 0]);
        assert_eq!(n_wrong(&json!({"nodeSelector": {ZONE: "b"}, "tolerations": tolerations})), [1, 0]);
        let terms = json!([{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["b"]}]}]);
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        let affinity = json!({"nodeAffinity": required});
        assert_eq!(n_wrong(&json!({"affinity": affinity, "tolerations": tolerations})), [1, 0]);
    }
}
