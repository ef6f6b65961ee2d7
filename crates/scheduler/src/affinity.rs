//! InterPodAffinity: which pods want to be near, or apart from, which.
//!
//! Rules: kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node.

use crate::pod::PodTerm;
use crate::verdict::Reason;
use crate::{Case, Model, NodeInfo, PodInfo};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A number for each (topology key, domain).
type Domains<'a> = BTreeMap<(&'a str, &'a str), i64>;

/// Placed pods, counted in the domains of their nodes.
#[derive(Default)]
pub(crate) struct Counted<'a> {
    /// Pods that all of the pod's affinity terms match.
    wanted: Domains<'a>,
    /// Pods that one of the pod's anti-affinity terms matches.
    unwanted: Domains<'a>,
    /// Pods whose own anti-affinity matches the pod: it is symmetric.
    unwilling: Domains<'a>,
}

fn add<'a>(domains: &mut Domains<'a>, term: &'a PodTerm, node: &'a NodeInfo, n: i64) {
    if let Some(domain) = node.domain(&term.topology_key) {
        *domains.entry((&term.topology_key, domain)).or_default() += n;
    }
}

fn all_match(model: &Model, terms: &[PodTerm], other: &PodInfo) -> bool {
    terms.iter().all(|term| model.term_matches(term, other))
}

/// The placed pods that matter to a pod: those it may have an opinion of, or those with one of it.
fn placed(model: &Model, everyone: bool) -> impl Iterator<Item = (&Arc<PodInfo>, &NodeInfo)> {
    model.nodes().flat_map(move |node| {
        let all = everyone.then(|| model.pods_on(&node.name)).into_iter().flatten();
        let opinionated = (!everyone).then(|| model.opinionated_on(&node.name)).into_iter().flatten();
        all.chain(opinionated).map(move |pod| (pod, node))
    })
}

pub(crate) fn count<'a>(model: &'a Model, pod: &'a PodInfo) -> Counted<'a> {
    let mut counted = Counted::default();
    let everyone = !pod.affinity.is_empty() || !pod.anti_affinity.is_empty();
    for (other, node) in placed(model, everyone) {
        if all_match(model, &pod.affinity, other) {
            pod.affinity.iter().for_each(|term| add(&mut counted.wanted, term, node, 1));
        }
        for term in pod.anti_affinity.iter().filter(|term| model.term_matches(term, other)) {
            add(&mut counted.unwanted, term, node, 1);
        }
        for term in other.anti_affinity.iter().filter(|term| model.term_matches(term, pod)) {
            add(&mut counted.unwilling, term, node, 1);
        }
    }
    counted
}

pub(crate) fn filter(case: &Case, node: &NodeInfo) -> Vec<Reason> {
    let Case { model, pod, affinity: Counted { wanted, unwanted, unwilling }, .. } = case;
    let any_here = |domains: &Domains, key: &str| node.domain(key).is_some_and(|d| domains.contains_key(&(key, d)));
    let has_domains = pod.affinity.iter().all(|term| node.domain(&term.topology_key).is_some());
    let is_near = pod.affinity.iter().all(|term| any_here(wanted, &term.topology_key));
    // The first pod of a group that wants to be with itself may start the group.
    let starts_group = || wanted.is_empty() && all_match(model, &pod.affinity, pod);
    if !has_domains || !(is_near || starts_group()) {
        return vec![Reason::Affinity];
    }
    if pod.anti_affinity.iter().any(|term| any_here(unwanted, &term.topology_key)) {
        return vec![Reason::AntiAffinity];
    }
    if unwilling.keys().any(|(key, domain)| node.domain(key) == Some(domain)) {
        return vec![Reason::ExistingAntiAffinity];
    }
    Vec::new()
}

/// A placed pod's required affinity counts as a preference of this weight for those it is about.
const HARD_AFFINITY_WEIGHT: i64 = 1;

/// Preferences of the pod about the placed ones and of the placed ones about it, summed up in the
/// placed pods' domains.
pub(crate) fn score(case: &Case, nodes: &[&NodeInfo]) -> Vec<i64> {
    let Case { model, pod, .. } = case;
    let mut liked: Domains = BTreeMap::new();
    for (other, node) in placed(model, !pod.preferences.is_empty()) {
        for (weight, term) in pod.preferences.iter().filter(|(_, term)| model.term_matches(term, other)) {
            add(&mut liked, term, node, *weight);
        }
        for (weight, term) in other.preferences.iter().filter(|(_, term)| model.term_matches(term, pod)) {
            add(&mut liked, term, node, *weight);
        }
        for term in other.affinity.iter().filter(|term| model.term_matches(term, pod)) {
            add(&mut liked, term, node, HARD_AFFINITY_WEIGHT);
        }
    }
    let sum = |node: &&NodeInfo| -> i64 {
        let here = liked.iter().filter(|((key, domain), _)| node.domain(key) == Some(domain));
        here.map(|(_, weight)| weight).sum()
    };
    let raw: Vec<i64> = nodes.iter().map(sum).collect();
    let min = raw.iter().copied().min().unwrap_or(0);
    let range = raw.iter().copied().max().unwrap_or(0) - min;
    raw.into_iter().map(|value| if range > 0 { 100 * (value - min) / range } else { 0 }).collect()
}
