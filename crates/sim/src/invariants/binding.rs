//! A pod is bound once: its node never changes.
//!
//! Source: kubernetes.io/docs/concepts/scheduling-eviction/kube-scheduler; the "never two bindings".

use crate::chronicle::Chronicle;
use objects::registry;
use std::collections::BTreeMap;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut bound: BTreeMap<String, String> = BTreeMap::new();
    for (revision, (_, event)) in &chronicle.events {
        let Some(pod) = event.new.as_ref().filter(|_| event.key.kind == registry::POD) else { continue };
        let (uid, now) = (pod.header.uid.to_string(), pod.header.node_name.as_deref());
        match (bound.get(&uid), now) {
            (Some(before), now) if now != Some(before) => {
                wrong.push(format!("revision {revision}: {} was bound to {before}, and then to {now:?}", event.key));
            }
            (None, Some(node)) => drop(bound.insert(uid, node.into())),
            (Some(_), _) | (None, None) => {}
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::Fixture;

    #[test]
    fn a_second_binding_is_found() {
        let once = || Fixture::default().pod("a", "x", "", false).pod("a", "x", "n", false).pod("a", "x", "n", false);
        assert_eq!(check(&once().chronicle), [""; 0]);
        assert_eq!(check(&once().pod("a", "x", "m", false).chronicle).len(), 1);
        assert_eq!(check(&once().pod("a", "x", "", false).chronicle).len(), 1);
    }
}
