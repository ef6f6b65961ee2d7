//! Node lifecycle: silence, taints, evictions.

use super::*;
use expect_test::expect;
use objects::kinds::node::condition;

impl Cluster {
    /// Nodes with this many ready pods each, all bound.
    fn with_pods(nodes: &[&str], tolerations: Value) -> Cluster {
        let mut cluster = Cluster::new();
        for node in nodes {
            cluster.node(node);
            cluster.pod(
                &format!("on-{node}"),
                json!({"spec": {"nodeName": node, "tolerations": tolerations}, "metadata": {"labels": {"app": "w"}}}),
            );
        }
        cluster.run_pods().jump(100_000);
        cluster
    }

    fn silence(&mut self, node: &str) {
        self.facts.silent_ms.insert(node.into(), 1);
    }

    fn heard_again(&mut self, node: &str) {
        self.facts.silent_ms.insert(node.into(), 0);
        self.change(&Key::new(registry::NODE, "", node), |node| {
            api::set_condition(node, json!({"type": "Ready", "status": "True"}));
        });
        self.poll();
    }

    fn taints(&self, node: &str) -> String {
        let node = self.get(&Key::new(registry::NODE, "", node)).unwrap();
        let text = |taint: &Value| format!("{}={}:{}", taint.text("key"), taint.text("value"), taint.text("effect"));
        node.items("spec.taints").iter().map(text).collect::<Vec<_>>().join(", ").replace("=:", ":")
    }

    fn is_leaving(&self, pod: &str) -> bool {
        let pod = self.get(&Key::new(registry::POD, "default", pod));
        pod.is_none_or(|pod| !pod.at("metadata.deletionTimestamp").is_null())
    }

    fn ready(&self, pod: &str) -> String {
        let pod = self.get(&Key::new(registry::POD, "default", pod)).unwrap();
        condition(&pod, "Ready").to_string()
    }

    fn taint(&mut self, node: &str, taint: Value) {
        self.change(&Key::new(registry::NODE, "", node), |node| {
            let mut taints = node.items("spec.taints").to_vec();
            taints.push(taint);
            node.set("spec.taints", taints);
        });
        self.settle();
    }
}

#[test]
fn a_silent_node_is_marked_tainted_and_its_pods_are_not_ready() {
    let mut cluster = Cluster::with_pods(&["a", "b"], json!(null));
    cluster.silence("a");
    cluster.later(3_900);
    assert_eq!(cluster.taints("a"), "");
    cluster.later(200);
    expect![[r#"
        Ready=Unknown NodeStatusUnknown: Kubelet stopped posting node status.
        MemoryPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
        DiskPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
        PIDPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
    "#]]
    .assert_eq(&conditions(&cluster.get(&Key::new(registry::NODE, "", "a")).unwrap()));
    expect!["node.kubernetes.io/unreachable:NoSchedule, node.kubernetes.io/unreachable:NoExecute"]
        .assert_eq(&cluster.taints("a"));
    assert_eq!((cluster.ready("on-a"), cluster.ready("on-b")), ("False".into(), "True".into()));
    assert_eq!(cluster.taints("b"), "");
    expect!["NodeNotReady x1"].assert_eq(&cluster.reasons());
}

#[test]
fn its_pods_leave_when_their_tolerations_end() {
    // Admission gave the pod 3 s for both taints.
    let mut cluster = Cluster::with_pods(&["a"], json!(null));
    cluster.silence("a");
    cluster.later(4_100);
    assert!(!cluster.is_leaving("on-a"));
    cluster.later(2_800);
    assert!(!cluster.is_leaving("on-a"), "not before its time");
    cluster.later(1_300);
    assert!(cluster.is_leaving("on-a"));
    let pod = cluster.get(&Key::new(registry::POD, "default", "on-a")).unwrap();
    expect![[r#"
        ContainersReady=True
        Ready=False NodeNotReady
        DisruptionTarget=True DeletionByTaintManager: Taint manager: deleting due to NoExecute taint
    "#]]
    .assert_eq(&conditions(&pod));
    expect!["NodeNotReady x1, TaintManagerEviction x1"].assert_eq(&cluster.reasons());
}

#[test]
fn explicit_tolerations_are_obeyed() {
    let toleration = |seconds: Value| json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
    let mut cluster = Cluster::with_pods(&["a"], toleration(json!(60)));
    cluster.silence("a");
    cluster.later(5_000).jump(55_000);
    assert!(!cluster.is_leaving("on-a"));
    cluster.later(6_000);
    assert!(cluster.is_leaving("on-a"));
    // Without a bound, for ever; with none of it, at once.
    let mut cluster = Cluster::with_pods(&["a"], json!([{"operator": "Exists"}]));
    cluster.silence("a");
    cluster.later(5_000).jump(3_600_000);
    assert!(!cluster.is_leaving("on-a"));
    let mut cluster = Cluster::with_pods(&["a"], toleration(json!(0)));
    cluster.silence("a");
    cluster.later(5_100);
    assert!(cluster.is_leaving("on-a"));
}

#[test]
fn the_shortest_of_several_matching_tolerations_counts() {
    let of = |key: &str, seconds: i64| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    let unreachable = "node.kubernetes.io/unreachable";
    let mut cluster = Cluster::with_pods(&["a"], json!([of(unreachable, 20), of(unreachable, 10)]));
    cluster.silence("a");
    cluster.later(16_000);
    assert!(cluster.is_leaving("on-a"));
}

#[test]
fn a_node_that_is_heard_again_in_time_keeps_its_pods() {
    let mut cluster = Cluster::with_pods(&["a"], json!(null));
    cluster.silence("a");
    cluster.later(5_000);
    cluster.heard_again("a");
    assert_eq!((cluster.taints("a"), cluster.ready("on-a")), (String::new(), "True".into()));
    cluster.jump(60_000);
    assert!(!cluster.is_leaving("on-a"));
}

#[test]
fn a_pod_that_was_not_ready_stays_so_when_its_node_is_back() {
    let mut cluster = Cluster::with_pods(&["a"], json!(null));
    let key = Key::new(registry::POD, "default", "on-a");
    cluster.change(&key, |pod| {
        for ty in ["ContainersReady", "Ready"] {
            api::set_condition(pod, json!({"type": ty, "status": "False", "reason": "ContainersNotReady"}));
        }
    });
    cluster.silence("a");
    cluster.later(5_000);
    cluster.heard_again("a");
    assert_eq!(cluster.ready("on-a"), "False");
}

#[test]
fn a_worker_that_says_it_is_not_ready_is_tainted_so() {
    let mut cluster = Cluster::with_pods(&["a"], json!(null));
    cluster.change(&Key::new(registry::NODE, "", "a"), |node| {
        api::set_condition(node, json!({"type": "Ready", "status": "False", "reason": "KubeletNotReady"}));
    });
    cluster.settle();
    expect!["node.kubernetes.io/not-ready:NoSchedule, node.kubernetes.io/not-ready:NoExecute"]
        .assert_eq(&cluster.taints("a"));
    cluster.later(4_000);
    assert!(cluster.is_leaving("on-a"));
}

#[test]
fn pressure_and_cordon_show_as_taints() {
    let mut cluster = Cluster::with_pods(&["a"], json!(null));
    let node = Key::new(registry::NODE, "", "a");
    for ty in ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"] {
        cluster.change(&node, |node| api::set_condition(node, json!({"type": ty, "status": "True"})));
    }
    cluster.change(&node, |node| node.set("spec.unschedulable", true));
    cluster.taint("a", json!({"key": "mine", "value": "x", "effect": "NoSchedule"}));
    expect![[r#"
        mine=x:NoSchedule
        node.kubernetes.io/memory-pressure:NoSchedule
        node.kubernetes.io/disk-pressure:NoSchedule
        node.kubernetes.io/pid-pressure:NoSchedule
        node.kubernetes.io/network-unavailable:NoSchedule
        node.kubernetes.io/unschedulable:NoSchedule"#]]
    .assert_eq(&cluster.taints("a").replace(", ", "\n"));
    assert!(!cluster.is_leaving("on-a"), "NoSchedule moves nobody");
    for ty in ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"] {
        cluster.change(&node, |node| api::set_condition(node, json!({"type": ty, "status": "False"})));
    }
    cluster.change(&node, |node| drop(node.remove_at("spec.unschedulable")));
    cluster.settle();
    assert_eq!(cluster.taints("a"), "mine=x:NoSchedule");
}

#[test]
fn a_no_execute_taint_of_a_person_evicts_by_key_and_value() {
    let tolerates = json!([{"key": "maintenance", "operator": "Equal", "value": "soon", "effect": "NoExecute", "tolerationSeconds": 30}]);
    let mut cluster = Cluster::with_pods(&["a", "b"], tolerates);
    cluster.taint("a", json!({"key": "maintenance", "value": "now", "effect": "NoExecute"}));
    cluster.taint("b", json!({"key": "maintenance", "value": "soon", "effect": "NoExecute"}));
    assert!(cluster.is_leaving("on-a") && !cluster.is_leaving("on-b"));
    cluster.later(31_000);
    assert!(cluster.is_leaving("on-b"));
}

#[test]
fn when_most_nodes_fall_silent_nothing_is_evicted() {
    let mut cluster = Cluster::with_pods(&["a", "b", "c", "d", "e"], json!(null));
    for node in ["a", "b", "c"] {
        cluster.silence(node);
    }
    cluster.later(5_000).jump(60_000);
    assert!(!cluster.is_leaving("on-a"), "3 of 5 are more than 55 %");
    expect!["node.kubernetes.io/unreachable:NoSchedule, node.kubernetes.io/unreachable:NoExecute"]
        .assert_eq(&cluster.taints("a"));
    // One comes back: two of five are an ordinary fault.
    cluster.heard_again("c");
    assert!(cluster.is_leaving("on-a") && cluster.is_leaving("on-b") && !cluster.is_leaving("on-c"));
}

#[test]
fn two_silent_nodes_of_three_are_evicted_all_the_same() {
    let mut cluster = Cluster::with_pods(&["a", "b", "c"], json!(null));
    cluster.silence("a");
    cluster.silence("b");
    cluster.later(10_000);
    assert!(cluster.is_leaving("on-a") && cluster.is_leaving("on-b"));
}

#[test]
fn what_a_person_asked_for_is_done_while_evictions_are_halted() {
    let mut cluster = Cluster::with_pods(&["a", "b", "c"], json!(null));
    for node in ["a", "b", "c"] {
        cluster.silence(node);
    }
    cluster.later(5_000).jump(60_000);
    cluster.taint("a", json!({"key": "mine", "effect": "NoExecute"}));
    assert!(cluster.is_leaving("on-a") && !cluster.is_leaving("on-b"));
}

#[test]
fn a_new_node_has_a_full_window() {
    let mut cluster = Cluster::new();
    cluster.create(registry::NODE, json!({"metadata": {"name": "n"}}));
    // The leader has been in office for long and has never heard of it.
    cluster.facts.silent_ms.insert("n".into(), 1_000_000);
    cluster.later(3_900);
    assert_eq!(cluster.taints("n"), "node.kubernetes.io/not-ready:NoSchedule, node.kubernetes.io/not-ready:NoExecute");
    cluster.later(200);
    expect![[r#"
        Ready=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
        MemoryPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
        DiskPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
        PIDPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
    "#]]
    .assert_eq(&conditions(&cluster.get(&Key::new(registry::NODE, "", "n")).unwrap()));
}

#[test]
fn replacements_of_evicted_pods_are_made_elsewhere() {
    let mut cluster = Cluster::with_pods(&["a"], json!(null));
    cluster.create(
        registry::REPLICA_SET,
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 1,
            "selector": {"matchLabels": {"app": "w"}}, "template": {"metadata": {"labels": {"app": "w"}},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}),
    );
    cluster.silence("a");
    cluster.later(10_000);
    assert_eq!(cluster.n(registry::POD), 2, "one leaving, one new");
}

#[test]
fn leaving_pods_of_a_node_out_of_service_need_not_be_waited_for() {
    let mut cluster = Cluster::with_pods(&["a"], json!(null));
    cluster.silence("a");
    cluster.later(10_000);
    assert!(cluster.is_leaving("on-a"));
    assert_eq!(cluster.n(registry::POD), 1, "nobody knows whether it has stopped");
    cluster.taint(
        "a",
        json!({"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}),
    );
    assert_eq!(cluster.n(registry::POD), 0);
}

#[test]
fn a_finished_pod_is_not_evicted() {
    let mut cluster = Cluster::with_pods(&["a"], json!(null));
    cluster.change(&Key::new(registry::POD, "default", "on-a"), |pod| pod.set("status.phase", "Succeeded"));
    cluster.silence("a");
    cluster.later(5_000).jump(60_000);
    assert!(!cluster.is_leaving("on-a"));
}
