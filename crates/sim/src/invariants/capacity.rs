//! No node is bound more than it has: at each binding the requests of its pods are within what it offers.
//!
//! Source: kubernetes.io/docs/concepts/configuration/manage-resources-containers, "How Pods with resource
//! requests are scheduled". Counted here in the most naive way, from the objects.

use crate::chronicle::{Chronicle, Replay, binding};
use objects::{Key, Quantity, Record, ValueExt, registry};

/// Of all containers together, in thousandths. The pods here have no init containers.
fn cpu(pod: &Record) -> i64 {
    let pod = pod.value();
    let asked = |c: &objects::Value| Quantity::parse(c.text("resources.requests.cpu")).map_or(0, Quantity::milli);
    pod.items("spec.containers").iter().map(asked).sum()
}

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    Replay::of(chronicle).each(|replay, _, event| {
        let Some((_, name)) = binding(event) else { return };
        let Some(node) = replay.objects.get(&Key::new(registry::NODE, "", name)) else {
            return wrong
                .push(format!("revision {}: {} was bound to {name}, which is no node", event.revision, event.key));
        };
        let node = node.value();
        let amount = |field: &str| Quantity::parse(node.at("status.allocatable").text(field)).unwrap_or_default();
        let (has_cpu, has_pods) = (amount("cpu").milli(), amount("pods").value());
        let (used, n_pods) = replay.pods_on(name).fold((0, 0), |(used, n), pod| (used + cpu(pod), n + 1));
        if used > has_cpu || n_pods > has_pods {
            wrong.push(format!(
                "revision {}: with {} the {n_pods} pods of {name} ask for {used}m, of {has_cpu}m and {has_pods}",
                event.revision, event.key
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
    fn a_crowded_node_is_found() {
        let two = || Fixture::default().node("n", 1000).pod("a", "x", "n", false).pod("b", "x", "n", false);
        assert_eq!(check(&two().chronicle), [""; 0]);
        assert_eq!(check(&two().pod("c", "x", "n", false).chronicle).len(), 1);
        assert_eq!(check(&two().pod("c", "x", "m", false).chronicle).len(), 1, "no such node");
    }
}
