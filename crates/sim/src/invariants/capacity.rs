//! No node is bound more than it has: at each binding the requests of its pods are within what it offers.
//!
//! Source: kubernetes.io/docs/concepts/configuration/manage-resources-containers, "How Pods with resource
//! requests are scheduled". Counted here in the most naive way, from the objects.

use crate::chronicle::{Chronicle, Replay, binding};
use objects::{Key, Quantity, Record, Value, ValueExt, registry};

fn amount(of: &Value, resource: &str) -> Quantity {
    Quantity::parse(of.text(resource)).unwrap_or_default()
}

/// CPU, in thousandths, and bytes of memory, of all containers together. The pods here have no init containers.
fn asked(pod: &Record) -> (i64, i64) {
    let pod = pod.value();
    let requests = pod.items("spec.containers").iter().map(|container| container.at("resources.requests"));
    requests.fold((0, 0), |(cpu, memory), requests| {
        (cpu + amount(requests, "cpu").milli(), memory + amount(requests, "memory").value())
    })
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
        let has = |resource| amount(node.at("status.allocatable"), resource);
        let (has_cpu, has_memory, has_pods) = (has("cpu").milli(), has("memory").value(), has("pods").value());
        let asked: Vec<(i64, i64)> = replay.pods_on(name).map(|pod| asked(pod)).collect();
        let (cpu, memory) = asked.iter().fold((0, 0), |sum, asked| (sum.0 + asked.0, sum.1 + asked.1));
        let n_pods = asked.len() as i64;
        if cpu > has_cpu || memory > has_memory || n_pods > has_pods {
            wrong.push(format!(
                "revision {}: with {} the {n_pods} pods of {name} ask for {cpu}m and {memory} bytes, of {has_cpu}m, \
                 {has_memory} bytes and {has_pods} pods",
                event.revision, event.key
            ));
        }
    });
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::{Fixture, pod};
    use objects::{json, registry};

    #[test]
    fn a_crowded_node_is_found() {
        let two = || Fixture::default().node("n", 1000).pod("a", "x", "n", false).pod("b", "x", "n", false);
        assert_eq!(check(&two().chronicle), [""; 0]);
        assert_eq!(check(&two().pod("c", "x", "n", false).chronicle).len(), 1);
        assert_eq!(check(&two().pod("c", "x", "m", false).chronicle).len(), 1, "no such node");
        let mut large = pod("c", "x", "n", false);
        large["spec"]["containers"][0]["resources"]["requests"] = json!({"memory": "2Gi"});
        assert_eq!(check(&two().put(registry::POD, large).chronicle).len(), 1, "no memory for it");
    }
}
