//! What a worker makes of pods, on one cluster: admission, volumes, last words, images.

use crate::cluster::{Cluster, IMAGE, wanted};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a pod may take to run on a loaded machine; nothing here waits this long when it works.
const PATIENCE: Duration = Duration::from_secs(40);

/// Makes a pod that is bound to worker-1 already; `spec` adds to, or replaces, what it would be.
fn make(cluster: &Cluster, name: &str, spec: Value) {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "nodeName": "worker-1", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "100000"]}]}});
    for (field, value) in spec.as_object().expect("a spec is an object") {
        pod["spec"][field] = value.clone();
    }
    assert!(cluster.apply(&pod.to_string()), "pod {name} is not taken");
}

fn status(cluster: &Cluster, name: &str) -> Value {
    cluster.json(&["get", "pod", name])["status"].clone()
}

fn wait_ready(cluster: &Cluster, name: &str) {
    cluster.wait(name, PATIENCE, || status(cluster, name)["containerStatuses"][0]["ready"] == true);
}

fn what_does_not_fit_is_refused(cluster: &Cluster) {
    let with = |extra: Value| {
        let mut container = json!({"name": "c", "image": IMAGE, "command": ["sleep", "100000"]});
        for (field, value) in extra.as_object().expect("a container is an object") {
            container[field] = value.clone();
        }
        json!({"containers": [container]})
    };
    let port = || with(json!({"ports": [{"containerPort": 80, "hostPort": 8081}]}));
    make(cluster, "first", port());
    wait_ready(cluster, "first");
    make(cluster, "greedy", with(json!({"resources": {"requests": {"cpu": "1000"}}})));
    make(cluster, "huge", with(json!({"resources": {"requests": {"memory": "100Ti"}}})));
    make(cluster, "second", port());
    make(cluster, "elsewhere", json!({"nodeSelector": {"no": "such"}}));
    for (name, reason) in
        [("greedy", "OutOfcpu"), ("huge", "OutOfmemory"), ("second", "NodePorts"), ("elsewhere", "NodeAffinity")]
    {
        cluster.wait(name, PATIENCE, || status(cluster, name)["phase"] == "Failed");
        let status = status(cluster, name);
        assert_eq!(status["reason"], reason, "{status}");
        assert!(cluster.ok(&["get", "pods"]).contains(reason));
        cluster.ok(&["delete", "pod", name]);
    }
    // A label that was put on the node from outside counts.
    let label = |labels: Value| {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1", "labels": labels}});
        assert!(cluster.apply(&node.to_string()));
    };
    label(json!({"such": "label"}));
    make(cluster, "labelled", json!({"nodeSelector": {"such": "label"}}));
    wait_ready(cluster, "labelled");
    // Who is in stays in, whatever the node is by then.
    label(json!({}));
    let ids = || ["first", "labelled"].map(|name| status(cluster, name)["containerStatuses"][0]["containerID"].clone());
    let before = ids();
    cluster.dev(&["kill", "worker-1"]);
    cluster.dev(&["start", "worker-1"]);
    make(cluster, "later", json!({}));
    wait_ready(cluster, "later");
    assert_eq!(ids(), before);
    for name in ["first", "labelled"] {
        assert_eq!(status(cluster, name)["phase"], "Running");
    }
}

#[test]
fn workers_do_with_pods_what_kubelets_do() {
    if !wanted("workers_do_with_pods_what_kubelets_do") {
        return;
    }
    let cluster = Cluster::up_with(&["--masters", "1", "--workers", "1"]);
    what_does_not_fit_is_refused(&cluster);
}
