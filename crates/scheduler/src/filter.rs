//! Filters: may this pod run on this node? In Kubernetes' order and with its names; the first filter
//! that says no gives the reasons.
//!
//! Rules: kubernetes.io/docs/concepts/scheduling-eviction.

use crate::model::{Model, NodeInfo, PodInfo, PodTerm, Spread, Taint};
use std::collections::BTreeMap;

type Filter = fn(&Model, &PodInfo, &NodeInfo) -> Vec<String>;

const FILTERS: &[(&str, Filter)] = &[
    ("NodeUnschedulable", unschedulable),
    ("TaintToleration", taints),
    ("NodeAffinity", node_affinity),
    ("NodePorts", ports),
    ("NodeResourcesFit", resources),
    ("PodTopologySpread", spread),
    ("InterPodAffinity", pod_affinity),
];

pub(crate) fn fits(model: &Model, pod: &PodInfo, node: &NodeInfo) -> Result<(), Vec<String>> {
    for (_, filter) in FILTERS {
        let reasons = filter(model, pod, node);
        if !reasons.is_empty() {
            return Err(reasons);
        }
    }
    Ok(())
}

fn no(reason: &str) -> Vec<String> {
    vec![reason.to_string()]
}

fn unschedulable(_: &Model, pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), value: String::new(), effect: "NoSchedule".into() };
    if node.unschedulable && !pod.tolerates(&taint) { no("node(s) were unschedulable") } else { Vec::new() }
}

fn taints(_: &Model, pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    let repels = |taint: &&Taint| taint.effect != "PreferNoSchedule" && !pod.tolerates(taint);
    if node.taints.iter().any(|taint| repels(&taint)) { no("node(s) had untolerated taint(s)") } else { Vec::new() }
}

/// nodeSelector and required node affinity.
pub(crate) fn is_eligible(pod: &PodInfo, node: &NodeInfo) -> bool {
    pod.node_selector.iter().all(|requirement| requirement.matches(&node.labels))
        && pod.node_affinity.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
}

fn node_affinity(_: &Model, pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    if is_eligible(pod, node) { Vec::new() } else { no("node(s) didn't match Pod's node affinity/selector") }
}

fn ports(model: &Model, pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    let any = |address: &str| address.is_empty() || address == "0.0.0.0";
    let clash = model.placed_on(&node.name).flat_map(|placed| &placed.host_ports).any(|(ip, protocol, port)| {
        pod.host_ports.iter().any(|(own_ip, own_protocol, own_port)| {
            (protocol, port) == (own_protocol, own_port) && (any(ip) || any(own_ip) || ip == own_ip)
        })
    });
    if clash { no("node(s) didn't have free ports for the requested pod ports") } else { Vec::new() }
}

/// What the pods of a node have asked for.
pub(crate) fn used(model: &Model, node: &NodeInfo) -> BTreeMap<String, i64> {
    let mut used = BTreeMap::new();
    for pod in model.placed_on(&node.name) {
        for (name, amount) in &pod.requests {
            *used.entry(name.clone()).or_default() += amount;
        }
    }
    used
}

fn resources(model: &Model, pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    let used = used(model, node);
    let lacks = |name: &String, amount: i64| {
        let free = node.allocatable.get(name).copied().unwrap_or(0) - used.get(name).copied().unwrap_or(0);
        amount > 0 && amount > free
    };
    let short = pod.requests.iter().filter(|(name, amount)| lacks(name, **amount));
    short
        .map(|(name, _)| match name.as_str() {
            "pods" => "Too many pods".to_string(),
            name => format!("Insufficient {name}"),
        })
        .collect()
}

/// Pods matching a constraint in each domain, over the nodes the pod could use at all.
pub(crate) fn domain_counts(model: &Model, pod: &PodInfo, constraint: &Spread) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    let keys: Vec<&str> =
        pod.spread.iter().filter(|c| c.hard == constraint.hard).map(|c| c.topology_key.as_str()).collect();
    let counted = |node: &NodeInfo| is_eligible(pod, node) && keys.iter().all(|key| node.labels.contains_key(*key));
    for node in model.nodes().filter(|node| counted(node)) {
        counts.entry(node.labels[constraint.topology_key.as_str()].to_string()).or_default();
    }
    let matches = |other: &PodInfo| {
        !other.leaving
            && other.key.namespace == pod.key.namespace
            && constraint.selector.as_ref().is_some_and(|selector| selector.matches(&other.labels))
    };
    for (_, node) in model.placed().filter(|(other, node)| matches(other) && counted(node)) {
        *counts.entry(node.labels[constraint.topology_key.as_str()].to_string()).or_default() += 1;
    }
    counts
}

fn spread(model: &Model, pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    for constraint in pod.spread.iter().filter(|constraint| constraint.hard) {
        let Some(domain) = node.labels.get(constraint.topology_key.as_str()) else {
            return no("node(s) didn't match pod topology spread constraints (missing required label)");
        };
        let counts = domain_counts(model, pod, constraint);
        let too_few = (counts.len() as i64) < constraint.min_domains;
        let least = if too_few { 0 } else { counts.values().copied().min().unwrap_or(0) };
        let own = i64::from(constraint.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels)));
        let here = counts.get(domain.as_str()).copied().unwrap_or(0);
        if here + own - least > constraint.max_skew {
            return no("node(s) didn't match pod topology spread constraints");
        }
    }
    Vec::new()
}

/// True when some placed pod that `matches` is in the same domain of `key` as `node`.
fn any_in_domain(model: &Model, key: &str, node: &NodeInfo, matches: impl Fn(&PodInfo) -> bool) -> bool {
    let Some(domain) = node.labels.get(key) else { return false };
    model.placed().any(|(other, place)| place.labels.get(key) == Some(domain) && matches(other))
}

fn pod_affinity(model: &Model, pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    let own = pod.key.namespace.as_str();
    let all_match = |other: &PodInfo| pod.affinity.iter().all(|term| model.term_matches(term, own, other));
    // The first pod of a group that wants to be with itself may start the group.
    let none_yet = !model.placed().any(|(other, _)| all_match(other));
    let first_of_its_kind = none_yet && all_match(pod);
    let satisfied = |term: &PodTerm| {
        let has_domain = node.labels.contains_key(term.topology_key.as_str());
        has_domain && (first_of_its_kind || any_in_domain(model, &term.topology_key, node, all_match))
    };
    if !pod.affinity.iter().all(satisfied) {
        return no("node(s) didn't match pod affinity rules");
    }
    let repelled =
        |term: &PodTerm| any_in_domain(model, &term.topology_key, node, |other| model.term_matches(term, own, other));
    if pod.anti_affinity.iter().any(repelled) {
        return no("node(s) didn't match pod anti-affinity rules");
    }
    // Anti-affinity is symmetric: a placed pod may refuse the newcomer.
    let refused = model.placed().any(|(other, place)| {
        other.anti_affinity.iter().any(|term| {
            let domain = place.labels.get(term.topology_key.as_str());
            domain.is_some()
                && domain == node.labels.get(term.topology_key.as_str())
                && model.term_matches(term, other.key.namespace.as_str(), pod)
        })
    });
    if refused { no("node(s) didn't satisfy existing pods anti-affinity rules") } else { Vec::new() }
}
