//! Amounts: what a pod asks for, whether a node has it (NodeResourcesFit), and which node is left
//! emptiest (LeastAllocated) and most evenly used (NodeResourcesBalancedAllocation).
//!
//! Rules: kubernetes.io/docs/concepts/configuration/manage-resources-containers,
//! …/workloads/pods/init-containers, …/workloads/pods/sidecar-containers, …/scheduling-eviction/pod-overhead.

use crate::verdict::Reason;
use crate::{Case, NodeInfo};
use compact_str::CompactString;
use objects::{Quantity, Value, ValueExt};
use std::collections::BTreeMap;

/// Amounts by resource name: CPU in thousandths, everything else in whole units.
pub type Resources = BTreeMap<CompactString, i64>;

/// Scores look at these two; a container that asks for none of one is taken to use this much, so
/// that pods without requests do not all land on one node.
pub(crate) const SCORED: [(&str, i64); 2] = [("cpu", 100), ("memory", 200 << 20)];

fn amount(resource: &str, value: &Value) -> i64 {
    let text = value.as_str().map_or_else(|| value.to_string(), ToString::to_string);
    let quantity = Quantity::parse(&text).unwrap_or_default();
    if resource == "cpu" { quantity.milli() } else { quantity.value() }
}

pub(crate) fn parse(map: &Value) -> Resources {
    map.as_object().into_iter().flatten().map(|(name, value)| (name.as_str().into(), amount(name, value))).collect()
}

pub(crate) fn add(total: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_default() += amount;
    }
}

pub(crate) fn subtract(total: &mut Resources, less: &Resources) {
    for (name, amount) in less {
        *total.entry(name.clone()).or_default() -= amount;
    }
}

fn raise(total: &mut Resources, to: &Resources) {
    for (name, amount) in to {
        let entry = total.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

/// What a pod occupies at its hungriest moment: all containers and sidecars together, or an init
/// container with the sidecars started before it; what the pod asks for as a whole goes before
/// that; the overhead comes on top.
fn total(pod: &Value, of: impl Fn(&Value) -> Resources) -> Resources {
    let (mut together, mut sidecars, mut starting) = (Resources::new(), Resources::new(), Resources::new());
    for container in pod.items("spec.containers") {
        add(&mut together, &of(container));
    }
    for container in pod.items("spec.initContainers") {
        let mut now = of(container);
        if container.text("restartPolicy") == "Always" {
            add(&mut together, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut starting, &now);
    }
    raise(&mut together, &starting);
    together.extend(parse(pod.at("spec.resources.requests")));
    add(&mut together, &parse(pod.at("spec.overhead")));
    together
}

/// What a pod takes from its node; itself counts as one of the node's pods.
pub(crate) fn requests(pod: &Value) -> Resources {
    let mut requests = total(pod, |container| parse(container.at("resources.requests")));
    requests.insert("pods".into(), 1);
    requests
}

/// What a pod counts for in scores, in the order of `SCORED`.
pub(crate) fn scored(pod: &Value) -> [i64; 2] {
    let with_defaults = |container: &Value| {
        let mut requests = parse(container.at("resources.requests"));
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
