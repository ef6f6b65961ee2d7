//! Workers and containers die; pods heal.

use crate::cluster::{Cluster, ONE_PER_HOST, deployment, wanted};
use std::process::Command;
use std::time::Duration;

#[test]
fn required_anti_affinity_holds_and_says_why_the_rest_waits() {
    if !wanted("required_anti_affinity_holds_and_says_why_the_rest_waits") {
        return;
    }
    let cluster = Cluster::up();
    assert!(cluster.apply(&deployment("web", 6, ONE_PER_HOST)));
    cluster.wait("three pods", Duration::from_secs(20), || cluster.running().len() == 3);
    let mut nodes: Vec<String> = cluster.running().into_iter().map(|(_, node, _)| node).collect();
    nodes.sort();
    assert_eq!(nodes, ["worker-1", "worker-2", "worker-3"]);
    let events = cluster.ok(&["get", "events"]);
    assert!(events.contains("0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."), "{events}");
}

#[test]
fn a_dead_worker_is_replaced_and_stops_what_moved_when_it_is_back() {
    if !wanted("a_dead_worker_is_replaced_and_stops_what_moved_when_it_is_back") {
        return;
    }
    let cluster = Cluster::up();
    assert!(cluster.apply(&deployment("web", 3, "")));
    cluster.wait("three pods", Duration::from_secs(20), || cluster.running().len() == 3);
    let on_first = || cluster.running().into_iter().filter(|(_, node, _)| node == "worker-1").count();
    let moved = on_first();
    assert!(moved > 0, "the scheduler spreads over idle nodes");
    cluster.dev(&["kill", "worker-1"]);
    cluster.wait("replacements elsewhere", Duration::from_secs(20), || cluster.running().len() == 3 && on_first() == 0);
    cluster.dev(&["start", "worker-1"]);
    cluster.wait("the old pods to be gone", Duration::from_secs(20), || {
        let pods = cluster.json(&["get", "pods"]);
        pods["items"].as_array().unwrap().len() == 3
    });
}

#[test]
fn a_restarted_worker_keeps_its_pods_and_a_killed_container_restarts() {
    if !wanted("a_restarted_worker_keeps_its_pods_and_a_killed_container_restarts") {
        return;
    }
    let cluster = Cluster::up();
    assert!(cluster.apply(&deployment("web", 1, "")));
    cluster.wait("the pod", Duration::from_secs(20), || cluster.running().len() == 1);
    let before = cluster.running();
    let worker = before[0].1.clone();
    cluster.dev(&["kill", &worker]);
    cluster.dev(&["start", &worker]);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(cluster.running(), before, "the pod did not notice");
    let output = cluster.run(&["exec", &before[0].0, "--", "sh", "-c", "echo out; exit 7"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), b"out\n".as_slice()));
    let pods = cluster.dir.join("nodes").join(&worker).join("data/process/pods");
    let state = Command::new("sh").arg("-c").arg(format!("cat {}/*/*/state.json", pods.display())).output().unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state.stdout).unwrap();
    let pid = state["Running"]["pid"].to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    cluster.wait("the restart", Duration::from_secs(20), || {
        cluster.running().first().is_some_and(|(name, _, restarts)| *name == before[0].0 && *restarts == 1)
    });
}
