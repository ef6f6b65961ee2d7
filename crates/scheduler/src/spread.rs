//! PodTopologySpread: keeps the pods of a group evenly over the domains of a topology.
//!
//! Rules: kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints.

use crate::filter::{is_eligible, repelled_by};
use crate::pod::Spread;
use crate::verdict::Reason;
use crate::{Case, Model, NodeInfo, PodInfo};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A constraint and the matching pods in each domain that counts.
pub(crate) struct Counted<'a> {
    constraint: Cow<'a, Spread>,
    pods: BTreeMap<&'a str, i64>,
}

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The constraints of a pod that states none: it is spread over hosts and zones by preference,
/// among the pods of its ReplicaSet.
fn defaults(model: &Model, pod: &PodInfo) -> Vec<Spread> {
    let Some(selector) = pod.set.as_ref().and_then(|set| model.selector_of_set(set)) else { return Vec::new() };
    let constraint = |(topology_key, max_skew): (&str, i64)| Spread {
        max_skew,
        topology_key: topology_key.into(),
        hard: false,
        selector: Some(selector.clone()),
        min_domains: 1,
        honors_affinity: true,
        honors_taints: false,
    };
    [(HOSTNAME, 3), (ZONE, 5)].map(constraint).into()
}

/// Whether a node's pods are counted for a constraint.
fn includes(constraint: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    (!constraint.honors_affinity || is_eligible(pod, node))
        && (!constraint.honors_taints || repelled_by(pod, node).is_none())
}

fn has_all_labels<'a>(node: &NodeInfo, constraints: impl IntoIterator<Item = &'a Spread>) -> bool {
    constraints.into_iter().all(|constraint| node.domain(&constraint.topology_key).is_some())
}

/// The pods of a node that a constraint is about: of the same namespace, matching, not leaving.
fn matching(model: &Model, constraint: &Spread, pod: &PodInfo, node: &NodeInfo) -> i64 {
    let Some(selector) = &constraint.selector else { return 0 };
    let counts = |other: &&std::sync::Arc<PodInfo>| {
        !other.leaving && other.key.namespace == pod.key.namespace && selector.matches(&other.labels)
    };
    model.pods_on(&node.name).filter(counts).count() as i64
}

/// The constraints that must hold. Their domains are those of the nodes that have all their
/// topology keys and that the pod could use at all.
pub(crate) fn count_hard<'a>(model: &'a Model, pod: &'a PodInfo) -> Vec<Counted<'a>> {
    let hard: Vec<&Spread> = pod.spread.iter().filter(|constraint| constraint.hard).collect();
    let count = |constraint: &&'a Spread| {
        let mut pods = BTreeMap::new();
        for node in model.nodes() {
            if let Some(domain) = node.domain(&constraint.topology_key)
                && has_all_labels(node, hard.iter().copied())
                && includes(constraint, pod, node)
            {
                *pods.entry(domain).or_default() += matching(model, constraint, pod, node);
            }
        }
        Counted { constraint: Cow::Borrowed(*constraint), pods }
    };
    hard.iter().map(count).collect()
}

/// After the pod has come, its domain may hold at most maxSkew more than the emptiest; domains that
/// are missing from minDomains count as empty.
pub(crate) fn filter(case: &Case, node: &NodeInfo) -> Vec<Reason> {
    for Counted { constraint, pods } in &case.spread {
        let Some(domain) = node.domain(&constraint.topology_key) else { return vec![Reason::SpreadLabel] };
        let too_few = (pods.len() as i64) < constraint.min_domains;
        let least = if too_few { 0 } else { pods.values().copied().min().unwrap_or(0) };
        let own = i64::from(constraint.selector.as_ref().is_some_and(|s| s.matches(&case.pod.labels)));
        let here = pods.get(domain).copied().unwrap_or(0);
        if here + own - least > constraint.max_skew {
            return vec![Reason::Spread];
        }
    }
    Vec::new()
}

/// The constraints that are preferences, counted over the domains of the fitting nodes.
fn count_soft<'a>(case: &Case<'a>, nodes: &[&'a NodeInfo], need_labels: bool) -> Vec<Counted<'a>> {
    let (model, pod) = (case.model, case.pod);
    let constraints: Vec<Cow<'a, Spread>> = match pod.spread.is_empty() {
        true => defaults(model, pod).into_iter().map(Cow::Owned).collect(),
        false => pod.spread.iter().filter(|constraint| !constraint.hard).map(Cow::Borrowed).collect(),
    };
    let all = constraints.clone();
    let counts = |node: &NodeInfo| !need_labels || has_all_labels(node, all.iter().map(AsRef::as_ref));
    let count = |constraint: Cow<'a, Spread>| {
        let domain = |node: &'a NodeInfo| node.domain(&constraint.topology_key).filter(|_| counts(node));
        let mut pods: BTreeMap<&str, i64> = nodes.iter().filter_map(|node| Some((domain(node)?, 0))).collect();
        for node in model.nodes().filter(|node| includes(&constraint, pod, node)) {
            if let Some(n_pods) = domain(node).and_then(|domain| pods.get_mut(domain)) {
                *n_pods += matching(model, &constraint, pod, node);
            }
        }
        Counted { constraint, pods }
    };
    constraints.into_iter().map(count).collect()
}

/// Fewer matching pods in a node's domains are better. A topology of many domains weighs more, so
/// that it is not drowned by one of few; maxSkew says how much a difference matters.
pub(crate) fn score(case: &Case, nodes: &[&NodeInfo]) -> Vec<i64> {
    // A node without a zone may still be spread over hosts when nobody asked for zones.
    let need_labels = !case.pod.spread.is_empty();
    let counted = count_soft(case, nodes, need_labels);
    if counted.is_empty() {
        return vec![0; nodes.len()];
    }
    let raw = |node: &&NodeInfo| -> Option<i64> {
        if need_labels && !has_all_labels(node, counted.iter().map(|counted| &*counted.constraint)) {
            return None;
        }
        let costs = counted.iter().filter_map(|Counted { constraint, pods }| {
            let here = *pods.get(node.domain(&constraint.topology_key)?)? as f64;
            Some(here * ((pods.len() + 2) as f64).ln() + (constraint.max_skew - 1) as f64)
        });
        Some(costs.sum::<f64>().round() as i64)
    };
    let raw: Vec<Option<i64>> = nodes.iter().map(raw).collect();
    let (min, max) = (raw.iter().flatten().min().copied(), raw.iter().flatten().max().copied());
    let (min, max) = (min.unwrap_or(0), max.unwrap_or(0));
    // A node that lacks a topology key gets nothing.
    let scaled = |cost: i64| if max == 0 { 100 } else { 100 * (max + min - cost) / max };
    raw.into_iter().map(|cost| cost.map_or(0, scaled)).collect()
}
