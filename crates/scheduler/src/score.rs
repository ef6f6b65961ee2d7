//! Scores: which of the fitting nodes is best? Kubernetes' plugins and default weights; each plugin
//! gives every node 0..=100.

use crate::filter::domain_counts;
use crate::model::{Model, NodeInfo, PodInfo};

type Score = fn(&Model, &PodInfo, &[&NodeInfo]) -> Vec<f64>;

/// Weights: kubernetes.io/docs/reference/scheduling/config.
const SCORES: &[(&str, f64, Score)] = &[
    ("TaintToleration", 3.0, taints),
    ("NodeAffinity", 2.0, node_affinity),
    ("NodeResourcesFit", 1.0, least_allocated),
    ("NodeResourcesBalancedAllocation", 1.0, balanced),
    ("PodTopologySpread", 2.0, spread),
    ("InterPodAffinity", 2.0, pod_affinity),
];

/// What a pod without requests is taken to use, for scoring only.
const CPU_DEFAULT_MILLI: i64 = 100;
const MEMORY_DEFAULT_BYTES: i64 = 200 << 20;

/// The best node; ties go to the node with fewer pods, then to the name.
pub(crate) fn best<'a>(model: &Model, pod: &PodInfo, nodes: &[&'a NodeInfo]) -> Option<&'a NodeInfo> {
    let mut totals = vec![0.0; nodes.len()];
    for (_, weight, score) in SCORES {
        for (total, score) in totals.iter_mut().zip(score(model, pod, nodes)) {
            *total += weight * score;
        }
    }
    let rank = |i: usize| (totals[i] * 1000.0).round() as i64;
    let n_pods = |i: usize| model.placed_on(&nodes[i].name).count();
    (0..nodes.len())
        .min_by(|a, b| {
            let by_score = rank(*b).cmp(&rank(*a));
            by_score.then_with(|| n_pods(*a).cmp(&n_pods(*b))).then_with(|| nodes[*a].name.cmp(&nodes[*b].name))
        })
        .map(|i| nodes[i])
}

/// Stretches raw values to 0..=100; `reverse` makes the smallest the best.
fn normalize(raw: Vec<f64>, reverse: bool) -> Vec<f64> {
    let max = raw.iter().copied().fold(0.0, f64::max);
    let scaled = raw.into_iter().map(|value| if max > 0.0 { value * 100.0 / max } else { 0.0 });
    scaled.map(|value| if reverse { 100.0 - value } else { value }).collect()
}

fn taints(_: &Model, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<f64> {
    let disliked = |node: &&NodeInfo| {
        node.taints.iter().filter(|t| t.effect == "PreferNoSchedule" && !pod.tolerates(t)).count() as f64
    };
    normalize(nodes.iter().map(disliked).collect(), true)
}

fn node_affinity(_: &Model, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<f64> {
    let weight = |node: &&NodeInfo| {
        let matching = pod.node_preferences.iter().filter(|(_, term)| term.matches(node));
        matching.map(|(weight, _)| *weight as f64).sum()
    };
    normalize(nodes.iter().map(weight).collect(), false)
}

/// The fraction of CPU and of memory in use once the pod is there.
fn fractions(model: &Model, pod: &PodInfo, node: &NodeInfo) -> [f64; 2] {
    let default = |name: &str| if name == "cpu" { CPU_DEFAULT_MILLI } else { MEMORY_DEFAULT_BYTES };
    let asked = |pod: &PodInfo, name: &str| pod.requests.get(name).copied().unwrap_or_else(|| default(name));
    ["cpu", "memory"].map(|name| {
        let placed: i64 = model.placed_on(&node.name).map(|other| asked(other, name)).sum();
        let capacity = node.allocatable.get(name).copied().unwrap_or(0);
        if capacity <= 0 { 1.0 } else { ((placed + asked(pod, name)) as f64 / capacity as f64).min(1.0) }
    })
}

fn least_allocated(model: &Model, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<f64> {
    let free = |node: &&NodeInfo| fractions(model, pod, node).iter().map(|used| (1.0 - used) * 50.0).sum();
    nodes.iter().map(free).collect()
}

fn balanced(model: &Model, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<f64> {
    // A pod that asks for nothing balances nothing.
    if !["cpu", "memory"].iter().any(|name| pod.requests.contains_key(*name)) {
        return vec![0.0; nodes.len()];
    }
    let even = |node: &&NodeInfo| {
        let [cpu, memory] = fractions(model, pod, node);
        // The standard deviation of two values is half their distance.
        (1.0 - (cpu - memory).abs() / 2.0) * 100.0
    };
    nodes.iter().map(even).collect()
}

fn spread(model: &Model, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<f64> {
    let soft: Vec<_> = pod.spread.iter().filter(|constraint| !constraint.hard).collect();
    if soft.is_empty() {
        return vec![0.0; nodes.len()];
    }
    let mut raw = vec![0.0; nodes.len()];
    for constraint in soft {
        let counts = domain_counts(model, pod, constraint);
        // More domains make each matter more, as in Kubernetes.
        let weight = ((counts.len() + 2) as f64).ln();
        for (raw, node) in raw.iter_mut().zip(nodes) {
            let domain = node.labels.get(constraint.topology_key.as_str());
            let worst = counts.values().copied().max().unwrap_or(0) + 1;
            let here = domain.map_or(worst, |domain| counts.get(domain.as_str()).copied().unwrap_or(0));
            *raw += here as f64 * weight;
        }
    }
    normalize(raw, true)
}

fn pod_affinity(model: &Model, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<f64> {
    let own = pod.key.namespace.as_str();
    let mut raw = vec![0.0; nodes.len()];
    for (other, place) in model.placed() {
        let theirs = other.key.namespace.as_str();
        // Own preferences, the placed pods' preferences about this one, and their hard affinity.
        let mine = pod.preferences.iter().filter(|(_, term)| model.term_matches(term, own, other));
        let about_me = other.preferences.iter().filter(|(_, term)| model.term_matches(term, theirs, pod));
        let hard = other.affinity.iter().filter(|term| model.term_matches(term, theirs, pod));
        let weighted = mine.chain(about_me).map(|(weight, term)| (*weight, term)).chain(hard.map(|term| (1, term)));
        for (weight, term) in weighted {
            let Some(domain) = place.labels.get(term.topology_key.as_str()) else { continue };
            for (raw, node) in raw.iter_mut().zip(nodes) {
                if node.labels.get(term.topology_key.as_str()) == Some(domain) {
                    *raw += weight as f64;
                }
            }
        }
    }
    let (min, max) = raw.iter().fold((0.0_f64, 0.0_f64), |(min, max), v| (min.min(*v), max.max(*v)));
    raw.into_iter().map(|value| if max > min { (value - min) * 100.0 / (max - min) } else { 0.0 }).collect()
}
