//! What people are told: Events about a pod, and about the node itself.

use crate::Shared;
use objects::{Value, ValueExt};
use podlife::Note;
use protos::dispatch as pb;
use protos::dispatch::from_worker;
use serde_json::json;
use std::sync::atomic::Ordering;

/// The part of a pod that an event is about: one of its containers, or all of it.
fn field_path(pod: &Value, container: &str) -> Option<String> {
    let list = |list: &str| pod.at("spec").items(list).iter().any(|c| c.text("name") == container);
    match container {
        "" => None,
        name if list("initContainers") => Some(format!("spec.initContainers{{{name}}}")),
        name => Some(format!("spec.containers{{{name}}}")),
    }
}

/// Tells something about a pod.
pub(crate) fn tell(shared: &Shared, pod: &Value, note: &Note) {
    about_pod(shared, pod, (note.ty, note.reason, &note.message), &note.container);
}

/// Tells (type, reason, message) about a pod, or one of its containers.
pub(crate) fn about_pod(shared: &Shared, pod: &Value, told: (&str, &str, &str), container: &str) {
    let mut about = json!({
        "apiVersion": "v1", "kind": "Pod", "name": pod.at("metadata.name"),
        "namespace": pod.at("metadata.namespace"), "uid": pod.at("metadata.uid"),
    });
    if let Some(path) = field_path(pod, container) {
        about.set("fieldPath", path);
    }
    send(shared, about, told);
}

/// Tells (type, reason, message) about this node.
pub(crate) fn about_node(shared: &Shared, told: (&str, &str, &str)) {
    let name = shared.options.node.name.as_str();
    // Kubernetes knows its nodes' events by their names.
    send(shared, json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": name}), told);
}

fn send(shared: &Shared, about: Value, (ty, reason, message): (&str, &str, &str)) {
    let now = shared.now();
    let node = &shared.options.node.name;
    // Names that sort in the order of what happened.
    let n = shared.n_events.fetch_add(1, Ordering::Relaxed);
    let base: String = about.text("name").chars().take(200).collect();
    let namespace = if about.text("namespace").is_empty() { "default" } else { about.text("namespace") };
    let event = json!({
        "metadata": {"name": format!("{base}.{:012x}{:04x}", now.0, n & 0xffff), "namespace": namespace},
        "involvedObject": about, "type": ty, "reason": reason, "message": message, "count": 1,
        "source": {"component": "kubelet", "host": node}, "reportingComponent": "kubelet", "reportingInstance": node,
        "firstTimestamp": now.rfc3339(), "lastTimestamp": now.rfc3339(),
    });
    // Events are for people: with no session for long they are dropped, never waited for.
    if shared.up.try_send(from_worker::Message::Event(pb::Event { event: event.to_string().into() })).is_err() {
        tracing::debug!(reason, "an event was dropped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_the_container_where_it_stands() {
        let pod = json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}});
        assert_eq!(field_path(&pod, "i").unwrap(), "spec.initContainers{i}");
        assert_eq!(field_path(&pod, "c").unwrap(), "spec.containers{c}");
        assert_eq!(field_path(&pod, ""), None);
    }
}
