//! Placement: decides which node each waiting pod should run on.
//!
//! Pure. Everything it knows arrives as arguments and everything it wants is in the returned
//! `Decision`s. It reads no clock, and does not know that Raft exists or that a binding may be refused.
//!
//! This is the plain definition: every filter and score asks every node about every pod, in the
//! words of the Kubernetes documentation. A fast one will be tested against it.

mod filter;
mod model;
mod score;

#[cfg(test)]
mod tests;

pub use model::{Model, NodeInfo, PodInfo, Resources};

use objects::Key;
use std::collections::BTreeMap;

/// The name of the scheduler that pods ask for by default; others are left to their own.
pub const NAME: &str = "default-scheduler";

/// What became of one waiting pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Bind {
        pod: Key,
        node: String,
    },
    /// No node fits; the text is what `kubectl describe` shows.
    Unschedulable {
        pod: Key,
        message: String,
    },
}

/// Places the waiting pods, most important first; each placement counts for those after it.
pub fn place(model: &mut Model) -> Vec<Decision> {
    let mut waiting: Vec<PodInfo> = model.waiting().cloned().collect();
    // Priority, then the order of arrival, then the name: never the order of a map.
    waiting.sort_by(|a, b| (b.priority, a.created, &a.key).cmp(&(a.priority, b.created, &b.key)));
    waiting.into_iter().map(|pod| place_one(model, &pod)).collect()
}

fn place_one(model: &mut Model, pod: &PodInfo) -> Decision {
    let mut fitting = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for node in model.nodes() {
        match filter::fits(model, pod, node) {
            Ok(()) => fitting.push(node),
            Err(all) => all.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
    }
    match score::best(model, pod, &fitting) {
        Some(node) => {
            let node = node.name.clone();
            model.assume(&pod.key, &node);
            Decision::Bind { pod: pod.key.clone(), node }
        }
        None => Decision::Unschedulable { pod: pod.key.clone(), message: explain(model, &reasons) },
    }
}

/// `0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint(s).`
fn explain(model: &Model, reasons: &BTreeMap<String, usize>) -> String {
    let n_nodes = model.nodes().count();
    if n_nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{n_nodes} nodes are available: {}.", parts.join(", "))
}
