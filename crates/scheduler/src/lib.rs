//! Placement: decides which node each waiting pod should run on.
//!
//! Pure. Everything it knows arrives as arguments and everything it wants is in the returned
//! `Decision`s. It reads no clock, and does not know that Raft exists or that a binding may be refused.
//!
//! This is the plain definition: every filter and score asks every node about every pod, in the
//! words of the Kubernetes documentation. A fast one will be tested against it.

mod affinity;
mod filter;
mod model;
mod node;
mod pod;
mod resources;
mod score;
mod spread;
mod verdict;

#[cfg(test)]
mod tests;

pub use model::Model;
pub use node::NodeInfo;
pub use objects::needs::Resources;
pub use pod::PodInfo;
pub use verdict::{News, Verdicts};

use objects::Key;
use verdict::Explanation;

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
    /// The pod does not want to be placed before its scheduling gates are gone.
    Gated {
        pod: Key,
    },
}

/// One pod that looks for a node, with what is counted once for it rather than once per node.
pub(crate) struct Case<'a> {
    pub(crate) model: &'a Model,
    pub(crate) pod: &'a PodInfo,
    pub(crate) spread: Vec<spread::Counted<'a>>,
    pub(crate) affinity: affinity::Counted<'a>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(model: &'a Model, pod: &'a PodInfo) -> Case<'a> {
        Case { model, pod, spread: spread::count_hard(model, pod), affinity: affinity::count(model, pod) }
    }
}

/// Places the waiting pods, most important first and at most `n_max` of them; each placement counts
/// for those after it. A pod that fitted nowhere is asked about again only once something it could
/// depend on has changed.
pub fn place(model: &mut Model, n_max: usize) -> Vec<Decision> {
    let mut waiting: Vec<_> = model.waiting().cloned().collect();
    // Priority, then the order of arrival, then the name: never the order of a map.
    waiting.sort_by(|a, b| (b.priority, a.created, &a.key).cmp(&(a.priority, b.created, &b.key)));
    let mut decisions: Vec<Decision> = waiting.iter().take(n_max).map(|pod| place_one(model, pod)).collect();
    decisions.extend(model.take_gated().into_iter().map(|pod| Decision::Gated { pod }));
    decisions
}

fn place_one(model: &mut Model, pod: &PodInfo) -> Decision {
    let case = Case::new(model, pod);
    let mut fitting = Vec::new();
    let mut explanation = Explanation::default();
    for node in model.nodes() {
        match filter::fits(&case, node) {
            Ok(()) => fitting.push(node),
            Err(reasons) => explanation.add(reasons),
        }
    }
    match score::best(&case, &fitting) {
        Some(node) => {
            let node = node.name.to_string();
            model.assume(&pod.key, &node);
            Decision::Bind { pod: pod.key.clone(), node }
        }
        None => {
            model.fits_nowhere(&pod.key);
            Decision::Unschedulable { pod: pod.key.clone(), message: explanation.to_string() }
        }
    }
}
