//! Required affinity and anti-affinity to other pods hold at the moment of a binding, for the pod that is bound;
//! anti-affinity also for those that are there.
//!
//! Source: kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node, "Inter-pod affinity and
//! anti-affinity". The first pod of a group that wants to be near itself may start the group. The scheduler
//! decides on what it has seen, which may be a moment old: who was there, or was called so, within that moment counts
//! as near, and who was not as far.

use super::{HOSTNAME, MOMENT_MS, selects};
use crate::chronicle::{Chronicle, Replay, binding, place};
use objects::{Key, Record, Value, ValueExt, registry};
use std::sync::Arc;

fn required(pod: &Value, which: &str) -> Vec<Value> {
    let terms = pod.at("spec.affinity").at(which).items("requiredDuringSchedulingIgnoredDuringExecution");
    terms.to_vec()
}

/// Where a node lies, by a topology key.
fn domain(replay: &Replay, node: &str, key: &str) -> Option<String> {
    if key == HOSTNAME {
        return Some(node.into());
    }
    replay.objects.get(&Key::new(registry::NODE, "", node))?.value().label(key).map(Into::into)
}

fn labels(pod: &Record) -> Value {
    pod.value().at("metadata").at("labels").clone()
}

/// Whether a term is about a pod. All pods here are of one namespace.
fn is_about(term: &Value, pod: &Value) -> bool {
    selects(term.at("labelSelector"), pod)
}

/// A term by which a pod keeps apart from another.
fn parting<'a>(terms: &'a [Value], from: &Value, is_together: impl Fn(&str) -> bool) -> Option<&'a Value> {
    terms.iter().find(|term| is_about(term, from) && is_together(term.text("topologyKey")))
}

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    // Pods that have left their nodes, or have other labels, as they were, with the time.
    let mut left: Vec<(u64, &Arc<Record>)> = Vec::new();
    Replay::of(chronicle).each(|replay, now_ms, event| {
        left.retain(|(at_ms, _)| at_ms + MOMENT_MS >= now_ms);
        let goes = event.new.as_ref().is_none_or(|new| place(new).is_none());
        let changes = |old: &Record| event.new.as_ref().is_some_and(|new| labels(new) != labels(old));
        left.extend(
            event.old.iter().filter(|old| place(old).is_some() && (goes || changes(old))).map(|old| (now_ms, old)),
        );
        let Some((record, node)) = binding(event) else { return };
        let pod = record.value();
        let apart = required(&pod, "podAntiAffinity");
        for (other, place) in replay.placed().filter(|(other, _)| other.key != record.key) {
            let is_together = |key: &str| {
                let here = domain(replay, node, key);
                here.is_some() && here == domain(replay, place, key)
            };
            let parted = |other: &Record| {
                let other = other.value();
                let of_other = required(&other, "podAntiAffinity");
                let term = parting(&apart, &other, is_together).or(parting(&of_other, &pod, is_together));
                term.map(|term| term.text("topologyKey").to_string())
            };
            let lately = left.iter().filter(|(_, old)| old.key == other.key);
            if let Some(key) = parted(other)
                && lately.clone().all(|(_, old)| parted(old).is_some())
            {
                wrong.push(format!(
                    "revision {}: {} came to {node}, and {} is at {place}, from which it is kept apart by {}",
                    event.revision, record.key, other.key, key
                ));
            }
        }
        for term in required(&pod, "podAffinity") {
            let key = term.text("topologyKey");
            let lately = left.iter().filter_map(|(_, pod)| Some((*pod, place(pod)?)));
            let around: Vec<(bool, Option<String>)> = replay
                .placed()
                .filter(|(other, _)| other.key != record.key)
                .map(|placed| {
                    (!left.iter().any(|(_, old)| old.key == placed.0.key && !is_about(&term, &old.value())), placed)
                })
                .chain(lately.map(|placed| (false, placed)))
                .filter(|(_, (other, _))| is_about(&term, &other.value()))
                .map(|(stands, (_, place))| (stands, domain(replay, place, key)))
                .collect();
            let here = domain(replay, node, key);
            let is_near = here.is_some() && around.iter().any(|(_, there)| *there == here);
            let is_first = !around.iter().any(|(stands, there)| *stands && there.is_some()) && is_about(&term, &pod);
            if !is_near && !(here.is_some() && is_first) {
                wrong.push(format!(
                    "revision {}: {} came to {node}, in {key} {here:?}, where none is of those it must be near",
                    event.revision, record.key
                ));
            }
        }
    });
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::{Fixture, pod};
    use crate::workers::ZONE;
    use objects::{Value, json, registry};

    #[test]
    fn neighbours_that_keep_apart_are_found() {
        let one = |apart| Fixture::default().pod("a", "x", "n", apart);
        assert_eq!(check(&one(true).pod("b", "y", "n", true).pod("c", "x", "m", true).chronicle), [""; 0]);
        assert_eq!(check(&one(true).pod("b", "x", "n", false).chronicle).len(), 1, "who is there keeps apart");
        assert_eq!(check(&one(false).pod("b", "x", "n", true).chronicle).len(), 1, "who comes keeps apart");
        assert_eq!(check(&one(false).pod("b", "x", "n", false).chronicle), [""; 0]);
        let renamed = one(false).put(registry::POD, pod("a", "z", "n", false));
        let back = renamed.put(registry::POD, pod("a", "x", "n", false));
        assert_eq!(check(&back.pod("b", "x", "n", true).chronicle), [""; 0], "it was called otherwise just now");
    }

    /// A pod that must be in a zone with one of these apps.
    fn near(name: &str, app: &str, node: &str, apps: &[&str]) -> Value {
        let selector = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": apps}]});
        let term = json!({"topologyKey": ZONE, "labelSelector": selector});
        let mut pod = pod(name, app, node, false);
        pod["spec"]["affinity"] = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        pod
    }

    #[test]
    fn those_that_are_not_near_whom_they_must_be_are_found() {
        let zones = || Fixture::default().zoned("n", "a", false).zoned("m", "a", false).zoned("far", "b", false);
        let n_wrong = |fixture: Fixture| check(&fixture.chronicle).len();
        let beside = |node: &str| zones().pod("a", "x", "n", false).put(registry::POD, near("b", "y", node, &["x"]));
        assert_eq!(n_wrong(beside("m")), 0, "another node of the zone");
        assert_eq!(n_wrong(beside("far")), 1);
        assert_eq!(n_wrong(beside("nowhere")), 1, "a node of no zone");
        let first = |apps: &[&str]| zones().put(registry::POD, near("b", "y", "far", apps));
        assert_eq!(n_wrong(first(&["x"])), 1, "there is nobody");
        assert_eq!(n_wrong(first(&["x", "y"])), 0, "the first of its group");
        let gone = || zones().pod("a", "x", "n", false).delete(registry::POD, "a");
        let after = |n_events| (0..n_events).fold(gone(), |f, i| f.soon(400).node(&format!("other-{i}"), 1));
        assert_eq!(n_wrong(after(2).put(registry::POD, near("b", "y", "m", &["x"]))), 0, "it was there just now");
        assert_eq!(n_wrong(after(20).put(registry::POD, near("b", "y", "m", &["x"]))), 1, "it was there long ago");
        let renamed = || zones().pod("a", "x", "n", false).put(registry::POD, pod("a", "z", "n", false));
        assert_eq!(n_wrong(renamed().put(registry::POD, near("b", "y", "m", &["x"]))), 0, "it was called so just now");
        assert_eq!(n_wrong(renamed().put(registry::POD, near("b", "y", "far", &["x"]))), 1, "in another zone");
        let first = renamed().put(registry::POD, near("b", "z", "far", &["z"]));
        assert_eq!(n_wrong(first), 0, "the first of its group, until just now");
    }
}
