//! Scores: which of the fitting nodes is best? Kubernetes' plugins and default weights; each plugin
//! gives every node 0..=100.
//!
//! Rules: kubernetes.io/docs/reference/scheduling/config and …/concepts/scheduling-eviction.

use crate::{Case, NodeInfo, affinity, resources, spread};
use std::cmp::Reverse;

/// Gives each of the nodes its points.
type Score = fn(&Case, &[&NodeInfo]) -> Vec<i64>;

/// Name, weight and points of each plugin.
pub(crate) const SCORES: &[(&str, i64, Score)] = &[
    ("TaintToleration", 3, taints),
    ("NodeAffinity", 2, node_affinity),
    ("NodeResourcesFit", 1, resources::least_allocated),
    ("PodTopologySpread", 2, spread::score),
    ("InterPodAffinity", 2, affinity::score),
    ("NodeResourcesBalancedAllocation", 1, resources::balanced),
    ("ImageLocality", 1, images),
];

/// What each plugin gives each node, unweighted.
pub(crate) fn table(case: &Case, nodes: &[&NodeInfo]) -> Vec<Vec<i64>> {
    SCORES.iter().map(|(_, _, score)| score(case, nodes)).collect()
}

/// The best node; ties go to the node with fewer pods, then to the name.
pub(crate) fn best<'a>(case: &Case, nodes: &[&'a NodeInfo]) -> Option<&'a NodeInfo> {
    if nodes.len() <= 1 {
        return nodes.first().copied();
    }
    let table = table(case, nodes);
    let total = |i: usize| SCORES.iter().zip(&table).map(|((_, weight, _), scores)| weight * scores[i]).sum::<i64>();
    let rank = |i: &usize| (Reverse(total(*i)), case.model.n_pods_on(&nodes[*i].name), &nodes[*i].name);
    (0..nodes.len()).min_by_key(rank).map(|i| nodes[i])
}

/// Stretches raw values to 0..=100; `reverse` makes the smallest the best.
fn normalize(raw: &[i64], reverse: bool) -> Vec<i64> {
    let max = raw.iter().copied().max().unwrap_or(0);
    let scaled = |value: &i64| if max > 0 { 100 * value / max } else { 0 };
    raw.iter().map(scaled).map(|value| if reverse { 100 - value } else { value }).collect()
}

/// TaintToleration: fewer PreferNoSchedule taints that the pod does not tolerate.
fn taints(case: &Case, nodes: &[&NodeInfo]) -> Vec<i64> {
    let disliked = |node: &&NodeInfo| {
        let taints = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        taints.filter(|taint| !case.pod.tolerates(taint)).count() as i64
    };
    normalize(&nodes.iter().map(disliked).collect::<Vec<i64>>(), true)
}

/// NodeAffinity: the summed weights of the preferences that the node matches.
fn node_affinity(case: &Case, nodes: &[&NodeInfo]) -> Vec<i64> {
    let weight = |node: &&NodeInfo| -> i64 {
        let matching = case.pod.node_preferences.iter().filter(|(_, term)| term.matches(&node.name, &node.labels));
        matching.map(|(weight, _)| weight).sum()
    };
    normalize(&nodes.iter().map(weight).collect::<Vec<i64>>(), false)
}

/// Images below this size are not worth a preference, and above that (per container) no more of one.
const IMAGE_MIN: i64 = 23 << 20;
const IMAGE_MAX: i64 = 1000 << 20;

/// ImageLocality: bytes of the pod's images that the node holds, each image scaled by the part of
/// all nodes that hold it, so that the one node with an image does not draw every pod.
fn images(case: &Case, nodes: &[&NodeInfo]) -> Vec<i64> {
    let n_nodes = case.model.nodes().count() as f64;
    let max = IMAGE_MAX * case.pod.images.len() as i64;
    let held = |node: &&NodeInfo| {
        let bytes = |image: &String| {
            let size = *node.images.get(image)? as f64;
            let n_holders = case.model.nodes().filter(|node| node.images.contains_key(image)).count() as f64;
            Some((size * n_holders / n_nodes) as i64)
        };
        let sum: i64 = case.pod.images.iter().filter_map(bytes).sum();
        100 * (sum.clamp(IMAGE_MIN, max.max(IMAGE_MIN)) - IMAGE_MIN) / (max - IMAGE_MIN).max(1)
    };
    nodes.iter().map(held).collect()
}
