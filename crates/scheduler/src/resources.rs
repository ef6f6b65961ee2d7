//! Amounts: whether a node has what a pod asks for (NodeResourcesFit), and which node is left emptiest
//! (LeastAllocated) and most evenly used (NodeResourcesBalancedAllocation).
//!
//! Rules: kubernetes.io/docs/concepts/configuration/manage-resources-containers.

use crate::verdict::Reason;
use crate::{Case, NodeInfo};
use objects::needs::{amounts, total};
use objects::{Value, ValueExt};

/// Scores look at these two; a container that asks for none of one is taken to use this much, so
/// that pods without requests do not all land on one node.
pub(crate) const SCORED: [(&str, i64); 2] = [("cpu", 100), ("memory", 200 << 20)];

/// What a pod counts for in scores, in the order of `SCORED`.
pub(crate) fn scored(pod: &Value) -> [i64; 2] {
    let with_defaults = |container: &Value| {
        let mut requests = amounts(container.at("resources.requests"));
        for (name, default) in SCORED {
            requests.entry(name.into()).or_insert(default);
        }
        requests
    };
    let total = total(pod, with_defaults);
    SCORED.map(|(name, _)| total.get(name).copied().unwrap_or(0))
}

/// NodeResourcesFit: every resource asked for is still there.
pub(crate) fn fit(case: &Case, node: &NodeInfo) -> Vec<Reason> {
    let lacks =
        |name: &str, asked: i64| asked > 0 && asked > node.allocatable(name) - case.model.used(&node.name, name);
    let short = case.pod.requests.iter().filter(|(name, asked)| lacks(name, **asked));
    short
        .map(|(name, _)| match name.as_str() {
            "pods" => Reason::TooManyPods,
            name => Reason::Insufficient(name.into()),
        })
        .collect()
}

/// NodeResourcesFit, LeastAllocated: the free part of CPU and of memory once the pod is there, each
/// of the same weight.
pub(crate) fn least_allocated(case: &Case, nodes: &[&NodeInfo]) -> Vec<i64> {
    let free = |node: &&NodeInfo| {
        let placed = case.model.scored(&node.name);
        let parts = (0..SCORED.len()).filter_map(|i| {
            let capacity = node.allocatable(SCORED[i].0);
            let used = placed[i] + case.pod.scored[i];
            (capacity > 0).then(|| (capacity - used).max(0) * 100 / capacity)
        });
        mean(&parts.collect::<Vec<i64>>())
    };
    nodes.iter().map(free).collect()
}

fn mean(parts: &[i64]) -> i64 {
    if parts.is_empty() { 0 } else { parts.iter().sum::<i64>() / parts.len() as i64 }
}

/// NodeResourcesBalancedAllocation: CPU and memory used to the same part, once the pod is there.
pub(crate) fn balanced(case: &Case, nodes: &[&NodeInfo]) -> Vec<i64> {
    let asked = |name: &str| case.pod.requests.get(name).copied().unwrap_or(0);
    // A pod that asks for nothing balances nothing.
    if SCORED.iter().all(|(name, _)| asked(name) == 0) {
        return vec![0; nodes.len()];
    }
    let even = |node: &&NodeInfo| {
        let parts: Vec<f64> = SCORED
            .iter()
            .filter(|(name, _)| node.allocatable(name) > 0)
            .map(|(name, _)| {
                let used = case.model.used(&node.name, name) + asked(name);
                (used as f64 / node.allocatable(name) as f64).min(1.0)
            })
            .collect();
        // The standard deviation of two values is half their distance.
        let deviation = if let [cpu, memory] = parts[..] { (cpu - memory).abs() / 2.0 } else { 0.0 };
        ((1.0 - deviation) * 100.0) as i64
    };
    nodes.iter().map(even).collect()
}
