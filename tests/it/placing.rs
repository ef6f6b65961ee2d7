//! Where pods go, on a real cluster: affinity, anti-affinity, taints and spread over three workers.

use crate::cluster::{Cluster, deployment, wanted};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const WORKERS: [&str; 3] = ["worker-1", "worker-2", "worker-3"];

/// The pods of an app that are not leaving.
fn pods(cluster: &Cluster, app: &str) -> Vec<Value> {
    let pods = cluster.json(&["get", "pods"]);
    let all = pods["items"].as_array().cloned().unwrap_or_default();
    let own =
        |pod: &Value| pod["metadata"]["labels"]["app"] == app && pod["metadata"].get("deletionTimestamp").is_none();
    all.into_iter().filter(own).collect()
}

/// How many ready pods of an app are on each node; those that wait with a reason stand under `""`.
fn settled(cluster: &Cluster, app: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for pod in pods(cluster, app) {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
        let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        if ready || (node.is_empty() && reason(&pod).is_some()) {
            *counts.entry(node.to_string()).or_insert(0) += 1;
        }
    }
    counts
}

/// Why a pod waits: the message of its PodScheduled condition.
fn reason(pod: &Value) -> Option<String> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let scheduled = conditions.iter().find(|c| c["type"] == "PodScheduled")?;
    (scheduled["status"] == "False" && scheduled["reason"] == "Unschedulable")
        .then(|| scheduled["message"].as_str().unwrap_or("").to_string())
}

/// Why the pods of an app wait, each reason once.
fn reasons(cluster: &Cluster, app: &str) -> Vec<String> {
    let mut all: Vec<String> = pods(cluster, app).iter().filter_map(reason).collect();
    all.sort();
    all.dedup();
    all
}

fn expect(cluster: &Cluster, app: &str, wanted: &[(&str, usize)]) {
    let wanted: BTreeMap<String, usize> = wanted.iter().map(|(node, n)| (node.to_string(), *n)).collect();
    let what = format!("{app} on {wanted:?}, not {:?}", settled(cluster, app));
    cluster.wait(&what, PATIENCE, || settled(cluster, app) == wanted);
}

fn deploy(cluster: &Cluster, app: &str, replicas: u32, spec: &str) {
    assert!(cluster.apply(&deployment(app, replicas, spec)), "{app} is accepted");
}

fn remove(cluster: &Cluster, app: &str) {
    cluster.ok(&["delete", "deployment", app]);
    cluster.wait("the pods to go", PATIENCE, || pods(cluster, app).is_empty());
}

/// Labels and taints a node; what an earlier call gave it and this one does not is taken away.
fn set_node(cluster: &Cluster, name: &str, labels: &Value, taints: &Value) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints}});
    assert!(cluster.apply(&node.to_string()), "{name} is accepted");
}

/// Pod (anti-)affinity, required or preferred, to pods of `app` on the same host.
fn affinity(family: &str, required: bool, app: &str) -> String {
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}});
    let rule = match required {
        true => json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]}),
        false => json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}),
    };
    format!("      affinity: {}\n", json!({family: rule}))
}

fn node_affinity(key: &str, operator: &str, values: &[&str]) -> String {
    let mut expression = json!({"key": key, "operator": operator});
    if !values.is_empty() {
        expression["values"] = json!(values);
    }
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
    let rule = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    format!("      affinity: {rule}\n")
}

fn required_anti_affinity_is_one_per_worker_and_the_rest_say_why(cluster: &Cluster) {
    deploy(cluster, "apart", 6, &affinity("podAntiAffinity", true, "apart"));
    expect(cluster, "apart", &[("worker-1", 1), ("worker-2", 1), ("worker-3", 1), ("", 3)]);
    let why = "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.";
    assert_eq!(reasons(cluster, "apart"), [why]);
    let told = || {
        let events = cluster.json(&["get", "events"]);
        let all = events["items"].as_array().cloned().unwrap_or_default();
        let own = all.iter().filter(|event| {
            event["reason"] == "FailedScheduling"
                && event["involvedObject"]["name"].as_str().is_some_and(|name| name.starts_with("apart-"))
        });
        own.map(|event| event["count"].as_u64().unwrap_or(0)).sum::<u64>()
    };
    let waiting = pods(cluster, "apart").iter().find(|pod| reason(pod).is_some()).cloned().expect("three wait");
    let described = cluster.ok(&["describe", "pod", waiting["metadata"]["name"].as_str().unwrap()]);
    assert!(described.contains(why), "{described}");
    // Told again only when there is news: what is tried again and again is not told again and again.
    let before = told();
    assert!((3..=12).contains(&before), "{before} events");
    deploy(cluster, "noise", 3, "");
    cluster.wait("the noise", PATIENCE, || settled(cluster, "noise").values().sum::<usize>() == 3);
    assert_eq!(told(), before);
    remove(cluster, "noise");
    remove(cluster, "apart");
}

fn preferred_anti_affinity_is_two_each(cluster: &Cluster) {
    deploy(cluster, "evenly", 6, &affinity("podAntiAffinity", false, "evenly"));
    expect(cluster, "evenly", &[("worker-1", 2), ("worker-2", 2), ("worker-3", 2)]);
    remove(cluster, "evenly");
}

fn node_affinity_follows_labels_the_fast_disk_too(cluster: &Cluster) {
    // Nobody has the label: all wait, and say so; once a worker has it, they go there.
    deploy(cluster, "fast", 3, &node_affinity("example.com/disk", "In", &["fast"]));
    expect(cluster, "fast", &[("", 3)]);
    let why = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.";
    assert_eq!(reasons(cluster, "fast"), [why]);
    set_node(cluster, "worker-2", &json!({"example.com/disk": "fast"}), &json!([]));
    expect(cluster, "fast", &[("worker-2", 3)]);
    remove(cluster, "fast");
    // Every worker publishes the class of its disks; pods may ask for the one that is there.
    let nodes = cluster.json(&["get", "nodes"]);
    let class = nodes["items"][0]["metadata"]["labels"]["balsa.dev/disk-class"].as_str().expect("it is published");
    deploy(cluster, "class", 3, &node_affinity("balsa.dev/disk-class", "In", &[class]));
    cluster.wait("three pods", PATIENCE, || settled(cluster, "class").values().sum::<usize>() == 3);
    assert!(!settled(cluster, "class").contains_key(""));
    remove(cluster, "class");
    deploy(cluster, "other", 1, &node_affinity("balsa.dev/disk-class", "NotIn", &[class]));
    expect(cluster, "other", &[("", 1)]);
    remove(cluster, "other");
    set_node(cluster, "worker-2", &json!({}), &json!([]));
}

fn pod_affinity_goes_where_its_pods_are(cluster: &Cluster) {
    deploy(cluster, "near", 3, &affinity("podAffinity", true, "store"));
    expect(cluster, "near", &[("", 3)]);
    assert_eq!(reasons(cluster, "near"), ["0/3 nodes are available: 3 node(s) didn't match pod affinity rules."]);
    deploy(cluster, "store", 1, "      nodeSelector: {kubernetes.io/hostname: worker-3}\n");
    expect(cluster, "near", &[("worker-3", 3)]);
    remove(cluster, "near");
    remove(cluster, "store");
}

fn taints_keep_away_and_evict_what_does_not_tolerate_them(cluster: &Cluster) {
    set_node(cluster, "worker-1", &json!({}), &json!([{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]));
    deploy(cluster, "plain", 4, "");
    cluster.wait("four pods", PATIENCE, || settled(cluster, "plain").values().sum::<usize>() == 4);
    let counts = settled(cluster, "plain");
    assert!(!counts.contains_key("worker-1") && !counts.contains_key(""), "{counts:?}");
    let here = "      nodeSelector: {kubernetes.io/hostname: worker-1}\n";
    deploy(cluster, "barred", 1, here);
    expect(cluster, "barred", &[("", 1)]);
    let why = "0/3 nodes are available: 1 node(s) had untolerated taint {dedicated: db}, \
               2 node(s) didn't match Pod's node affinity/selector.";
    assert_eq!(reasons(cluster, "barred"), [why]);
    let tolerates = format!("{here}      tolerations: [{{key: dedicated, operator: Equal, value: db}}]\n");
    deploy(cluster, "dedicated", 2, &tolerates);
    expect(cluster, "dedicated", &[("worker-1", 2)]);
    // A NoExecute taint moves what runs there.
    set_node(cluster, "worker-2", &json!({}), &json!([{"key": "broken", "effect": "NoExecute"}]));
    expect(cluster, "plain", &[("worker-3", 4)]);
    for name in ["worker-1", "worker-2"] {
        set_node(cluster, name, &json!({}), &json!([]));
    }
    expect(cluster, "barred", &[("worker-1", 1)]);
    for app in ["plain", "barred", "dedicated"] {
        remove(cluster, app);
    }
}

fn spread_keeps_zones_even(cluster: &Cluster) {
    for (name, zone) in [("worker-1", "a"), ("worker-2", "b"), ("worker-3", "b")] {
        set_node(cluster, name, &json!({"topology.kubernetes.io/zone": zone}), &json!([]));
    }
    let constraint = json!([{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "spread"}}}]);
    deploy(cluster, "spread", 6, &format!("      topologySpreadConstraints: {constraint}\n"));
    let by_zone = || {
        let counts = settled(cluster, "spread");
        let n = |node: &str| counts.get(node).copied().unwrap_or(0);
        (n("worker-1"), n("worker-2") + n("worker-3"))
    };
    cluster.wait("three in each zone", PATIENCE, || by_zone() == (3, 3));
    remove(cluster, "spread");
    for name in WORKERS {
        set_node(cluster, name, &json!({}), &json!([]));
    }
}

#[test]
fn pods_go_where_their_rules_say() {
    if !wanted("pods_go_where_their_rules_say") {
        return;
    }
    let cluster = Cluster::up();
    required_anti_affinity_is_one_per_worker_and_the_rest_say_why(&cluster);
    preferred_anti_affinity_is_two_each(&cluster);
    node_affinity_follows_labels_the_fast_disk_too(&cluster);
    pod_affinity_goes_where_its_pods_are(&cluster);
    taints_keep_away_and_evict_what_does_not_tolerate_them(&cluster);
    spread_keeps_zones_even(&cluster);
}

#[test]
fn two_hundred_pods_are_made_and_placed_within_seconds() {
    if !wanted("two_hundred_pods_are_made_and_placed_within_seconds") {
        return;
    }
    let cluster = Cluster::up();
    let started = std::time::Instant::now();
    // They are placed, not run: no image is needed for this, and no worker is loaded with it.
    let waiting = "      nodeSelector: {example.com/here: not-yet}\n";
    deploy(&cluster, "many", 200, waiting);
    cluster.wait("200 verdicts", PATIENCE, || settled(&cluster, "many").get("") == Some(&200));
    println!("200 pods made and judged in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
