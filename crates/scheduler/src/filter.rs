//! Filters: may this pod run on this node? In Kubernetes' order and with its names; the first filter
//! that says no gives the reasons.
//!
//! NodeName has no filter: a pod that names its node is bound from the start and never waits.
//! Rules: kubernetes.io/docs/concepts/scheduling-eviction.

use crate::verdict::Reason;
use crate::{Case, NodeInfo, PodInfo, affinity, node::Taint, resources, spread};

type Filter = fn(&Case, &NodeInfo) -> Vec<Reason>;

const FILTERS: &[(&str, Filter)] = &[
    ("NodeUnschedulable", unschedulable),
    ("TaintToleration", taints),
    ("NodeAffinity", node_affinity),
    ("NodePorts", ports),
    ("NodeResourcesFit", resources::fit),
    ("PodTopologySpread", spread::filter),
    ("InterPodAffinity", affinity::filter),
];

pub(crate) fn fits(case: &Case, node: &NodeInfo) -> Result<(), Vec<Reason>> {
    for (_, filter) in FILTERS {
        let reasons = filter(case, node);
        if !reasons.is_empty() {
            return Err(reasons);
        }
    }
    Ok(())
}

fn unless(fine: bool, reason: Reason) -> Vec<Reason> {
    if fine { Vec::new() } else { vec![reason] }
}

fn unschedulable(case: &Case, node: &NodeInfo) -> Vec<Reason> {
    unless(!node.unschedulable || case.pod.tolerates(&Taint::cordon()), Reason::Unschedulable)
}

/// The first taint of a node that keeps a pod away.
pub(crate) fn repelled_by<'a>(pod: &PodInfo, node: &'a NodeInfo) -> Option<&'a Taint> {
    node.taints.iter().find(|taint| taint.effect != "PreferNoSchedule" && !pod.tolerates(taint))
}

fn taints(case: &Case, node: &NodeInfo) -> Vec<Reason> {
    let reason = |taint: &Taint| Reason::Taint { key: taint.key.clone(), value: taint.value.clone() };
    repelled_by(case.pod, node).map(reason).into_iter().collect()
}

/// Whether the pod's nodeSelector and required node affinity allow a node.
pub(crate) fn is_eligible(pod: &PodInfo, node: &NodeInfo) -> bool {
    pod.node_choice.allows(&node.name, &node.labels)
}

fn node_affinity(case: &Case, node: &NodeInfo) -> Vec<Reason> {
    unless(is_eligible(case.pod, node), Reason::NodeAffinity)
}

fn ports(case: &Case, node: &NodeInfo) -> Vec<Reason> {
    let taken =
        |wanted| case.model.pods_on(&node.name).flat_map(|pod| &pod.host_ports).any(|port| port.clashes(wanted));
    unless(!case.pod.host_ports.iter().any(taken), Reason::Ports)
}
