//! After healing the cluster comes to what was asked of it: nodes ready, Deployments complete, every pod
//! running and ready, nothing on its way out.
//!
//! A node may keep the one taint that it came with.
//!
//! Source: the "heal and converge before a deadline"; what kubectl's `rollout status` calls done.

use crate::workers::DEDICATED;
use objects::kinds::node::condition;
use objects::{ValueExt, registry};
use state::View;

/// What is still missing, in words.
pub(crate) fn missing(view: &View, n_workers: usize) -> Vec<String> {
    let mut missing = Vec::new();
    let nodes: Vec<_> = view.list(registry::NODE, "", None).map(|record| record.value()).collect();
    if nodes.len() != n_workers {
        missing.push(format!("{} nodes of {n_workers}", nodes.len()));
    }
    for node in nodes {
        let taints = node.items("spec.taints").iter().filter(|taint| taint.text("key") != DEDICATED).count();
        if condition(&node, "Ready") != "True" || taints > 0 {
            let name = node.text("metadata.name");
            missing.push(format!("node {name} is ready: {}, with {taints} taints", condition(&node, "Ready")));
        }
    }
    for record in view.list(registry::DEPLOYMENT, "", None) {
        let value = record.value();
        let wanted = value.at("spec.replicas").as_i64().unwrap_or(1);
        let counts = ["replicas", "updatedReplicas", "availableReplicas"];
        let counts = counts.map(|field| value.at("status").at(field).as_i64().unwrap_or(0));
        let observed = value.at("status.observedGeneration").as_i64().unwrap_or(0);
        if counts != [wanted; 3] || observed < record.header.generation || record.header.deletion.is_some() {
            let generation = record.header.generation;
            missing.push(format!("{} has {counts:?} of {wanted}, observed {observed} of {generation}", record.key));
        }
    }
    for record in view.list(registry::POD, "", None) {
        let pod = record.value();
        // One that has ended stays for people to look at.
        if matches!(pod.text("status.phase"), "Failed" | "Succeeded") && record.header.deletion.is_none() {
            continue;
        }
        let running = pod.text("status.phase") == "Running" && condition(&pod, "Ready") == "True";
        if !running || record.header.deletion.is_some() {
            let (phase, leaves) = (pod.text("status.phase"), record.header.deletion.is_some());
            let placed = pod.items("status.conditions").iter().find(|c| c.text("type") == "PodScheduled");
            let why = placed.map_or("", |condition| condition.text("message"));
            let ready = condition(&pod, "Ready");
            missing.push(format!("{} is {phase}, ready {ready}, leaves {leaves}: {why:?}", record.key));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::missing;
    use objects::{Key, KindId, Value, ValueExt, json, record, registry};
    use state::{LeaderId, Op, State, Txn, View};

    fn n_missing(objects: &[(KindId, Value)]) -> usize {
        let mut state = State::new();
        for (kind, object) in objects {
            let key = Key::new(*kind, "", object.text("metadata.name"));
            let ops = vec![Op::Create { key, object: record::encode(object) }];
            state.apply(LeaderId::default(), &Txn { ops, ..Txn::default() });
        }
        missing(&View::new(state), 1).len()
    }

    #[test]
    fn what_is_not_done_yet_is_told() {
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        let node =
            |status| (registry::NODE, json!({"metadata": {"name": "n"}, "status": {"conditions": ready(status)}}));
        let pod = |phase, status| {
            (registry::POD, json!({"metadata": {"name": "p"}, "status": {"phase": phase, "conditions": ready(status)}}))
        };
        let deployment = |n| {
            let status = json!({"replicas": n, "updatedReplicas": n, "availableReplicas": n});
            (registry::DEPLOYMENT, json!({"metadata": {"name": "d"}, "spec": {"replicas": 2}, "status": status}))
        };
        assert_eq!(n_missing(&[node("True"), deployment(2), pod("Running", "True")]), 0);
        assert_eq!(n_missing(&[deployment(2)]), 1, "a node is missing");
        assert_eq!(n_missing(&[node("Unknown")]), 1);
        assert_eq!(n_missing(&[node("True"), deployment(1)]), 1);
        assert_eq!(n_missing(&[node("True"), pod("Pending", "True")]), 1);
        assert_eq!(n_missing(&[node("True"), pod("Running", "False")]), 1);
    }
}
