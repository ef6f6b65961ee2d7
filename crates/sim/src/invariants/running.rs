//! After healing what is said of a pod is so: one that is told to run and to be ready has all its containers running
//! on its node.
//!
//! Source: kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle. `converged` believes the statuses; here the
//! runtimes are asked.

use objects::kinds::node::condition;
use objects::{Record, ValueExt, registry};
use runtime::{ContainerState, SandboxInfo};
use state::View;
use std::sync::Arc;

/// Whether a container of a pod runs in one of these sandboxes.
fn runs(sandboxes: &[SandboxInfo], pod: &Arc<Record>, container: &str) -> bool {
    let own = sandboxes.iter().filter(|sandbox| pod.header.uid == sandbox.uid);
    let mut named = own.flat_map(|sandbox| &sandbox.containers).filter(|c| c.name == container);
    named.any(|c| matches!(c.state, ContainerState::Running { .. }))
}

/// `nodes` are what the runtimes have, by node.
pub(crate) fn check(nodes: &[(String, Vec<SandboxInfo>)], view: &View) -> Vec<String> {
    let mut wrong = Vec::new();
    for record in view.list(registry::POD, "", None) {
        let pod = record.value();
        let is_said_to_run = pod.text("status.phase") == "Running" && condition(&pod, "Ready") == "True";
        let Some(bound) = record.header.node_name.as_deref().filter(|_| is_said_to_run) else { continue };
        let here = nodes.iter().find(|(node, _)| node == bound);
        let here = here.map(|(_, sandboxes)| sandboxes.as_slice()).unwrap_or_default();
        for container in pod.items("spec.containers").iter().map(|container| container.text("name")) {
            if !runs(here, record, container) {
                wrong.push(format!("{} is told to be ready, and {container} does not run on {bound}", record.key));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{Fixture, pod, sandbox};
    use objects::{Timestamp, json};

    #[test]
    fn pods_that_only_seem_to_run_are_found() {
        let exited = ContainerState::Exited {
            started: Timestamp(0),
            finished: Timestamp(1),
            code: 1,
            reason: String::new(),
            message: String::new(),
        };
        let n_wrong = |phase: &str, nodes: &[(&str, &str, Option<&ContainerState>)]| {
            let mut object = pod("a", "x", "n", false);
            object["status"] = json!({"phase": phase, "conditions": [{"type": "Ready", "status": "True"}]});
            let view = Fixture::default().put(registry::POD, object).view();
            let node = |(node, pod, state): &(&str, &str, Option<&ContainerState>)| {
                let mut sandbox = sandbox(pod);
                if let Some(state) = state {
                    sandbox.containers[0].state = (*state).clone();
                }
                (node.to_string(), vec![sandbox])
            };
            check(&nodes.iter().map(node).collect::<Vec<_>>(), &view).len()
        };
        assert_eq!(n_wrong("Running", &[("n", "a", None), ("m", "b", None)]), 0);
        assert_eq!(n_wrong("Running", &[("n", "a", Some(&exited))]), 1, "it has ended");
        assert_eq!(n_wrong("Running", &[("m", "a", None), ("n", "b", None)]), 1, "it runs elsewhere");
        assert_eq!(n_wrong("Running", &[]), 1, "there is nothing");
        assert_eq!(n_wrong("Pending", &[]), 0, "nobody says that it runs");
    }
}
