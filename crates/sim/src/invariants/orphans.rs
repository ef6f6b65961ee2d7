//! After healing nothing runs that nobody asked for, and nothing twice: each sandbox on a node belongs to
//! a pod that is bound there.
//!
//! Source: the "no orphan after heal"; docs/design/pod-life.md.

use objects::registry;
use runtime::{ContainerState, SandboxInfo};
use state::View;
use std::collections::BTreeSet;

fn runs(sandbox: &SandboxInfo) -> bool {
    sandbox.containers.iter().any(|c| matches!(c.state, ContainerState::Running { .. }))
}

/// `nodes` are what the runtimes have, by node.
pub(crate) fn check(nodes: &[(String, Vec<SandboxInfo>)], view: &View) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut running: BTreeSet<&str> = BTreeSet::new();
    for (node, sandboxes) in nodes {
        for sandbox in sandboxes {
            let is_it = |pod: &&std::sync::Arc<objects::Record>| pod.header.uid == sandbox.uid;
            let pod = view.list(registry::POD, "", None).find(is_it);
            match pod.map(|pod| pod.header.node_name.as_deref()) {
                None => wrong.push(format!("{node} has {}, a pod that is gone", sandbox.name)),
                Some(bound) if bound != Some(node) => {
                    wrong.push(format!("{node} has {}, which is bound to {bound:?}", sandbox.name));
                }
                Some(_) => {}
            }
            if runs(sandbox) && !running.insert(&sandbox.uid) {
                wrong.push(format!("{} runs in two sandboxes", sandbox.name));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::{Fixture, sandbox};

    #[test]
    fn what_nobody_asked_for_is_found() {
        let view = Fixture::default().pod("a", "x", "n", false).view();
        let n_wrong = |nodes: &[(&str, &[&str])]| {
            let node = |(node, pods): &(&str, &[&str])| (node.to_string(), pods.iter().map(|p| sandbox(p)).collect());
            check(&nodes.iter().map(node).collect::<Vec<_>>(), &view).len()
        };
        assert_eq!(n_wrong(&[("n", &["a"]), ("m", &[])]), 0);
        assert_eq!(n_wrong(&[("n", &["a", "b"])]), 1, "b is gone");
        assert_eq!(n_wrong(&[("m", &["a"])]), 1, "on the wrong node");
        assert_eq!(n_wrong(&[("n", &["a", "a"])]), 1, "twice");
    }
}
