//! Required anti-affinity holds at the moment of a binding, for the pod that is bound and for those that
//! are there.
//!
//! Source: kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node, "Inter-pod affinity and
//! anti-affinity". The pods here keep apart by the label `app` and by host name, nothing else.

use crate::chronicle::{Chronicle, Replay, binding};
use objects::{Record, ValueExt};

const REQUIRED: &str = "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution";

fn app(pod: &Record) -> &str {
    pod.header.labels.get("app").map_or("", |app| app.as_str())
}

/// Whether a pod keeps apart from those of an app.
fn keeps_apart(pod: &Record, from: &str) -> bool {
    pod.value().items(REQUIRED).iter().any(|term| term.text("labelSelector.matchLabels.app") == from)
}

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    Replay::of(chronicle).each(|replay, _, event| {
        let Some((pod, node)) = binding(event) else { return };
        let apart = |other: &Record| keeps_apart(pod, app(other)) || keeps_apart(other, app(pod));
        for other in replay.pods_on(node).filter(|other| other.key != pod.key && apart(other)) {
            wrong.push(format!(
                "revision {}: {} came to {node}, beside {}, from which it is kept apart",
                event.revision, pod.key, other.key
            ));
        }
    });
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::Fixture;

    #[test]
    fn neighbours_that_keep_apart_are_found() {
        let one = |apart| Fixture::default().pod("a", "x", "n", apart);
        assert_eq!(check(&one(true).pod("b", "y", "n", true).pod("c", "x", "m", true).chronicle), [""; 0]);
        assert_eq!(check(&one(true).pod("b", "x", "n", false).chronicle).len(), 1, "who is there keeps apart");
        assert_eq!(check(&one(false).pod("b", "x", "n", true).chronicle).len(), 1, "who comes keeps apart");
        assert_eq!(check(&one(false).pod("b", "x", "n", false).chronicle), [""; 0]);
    }
}
