//! ReplicaSet: the number of pods, whose they are, which go first, what is told.

use super::*;
use expect_test::expect;

fn web() -> Key {
    Key::new(registry::REPLICA_SET, "default", "web")
}

/// A ReplicaSet of app=w with this number of pods.
fn with_set(replicas: i64) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.create(
        registry::REPLICA_SET,
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": replicas,
            "selector": {"matchLabels": {"app": "w"}}, "template": {"metadata": {"labels": {"app": "w"}},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}),
    );
    cluster.settle();
    cluster
}

fn counts(cluster: &Cluster) -> String {
    cluster.get(&web()).unwrap().at("status").to_string()
}

fn scale(cluster: &mut Cluster, replicas: i64) {
    cluster.change(&web(), |set| set.set("spec.replicas", replicas));
    cluster.settle();
}

#[test]
fn a_set_makes_its_pods_and_counts_them() {
    let mut cluster = with_set(3);
    expect![[r#"{"fullyLabeledReplicas":3,"observedGeneration":1,"replicas":3}"#]].assert_eq(&counts(&cluster));
    let pod = cluster.keys(registry::POD).remove(0);
    let owner = cluster.get(&pod).unwrap().items("metadata.ownerReferences")[0].clone();
    expect!["apps/v1 ReplicaSet web controller=true blocks=true"].assert_eq(&format!(
        "{} {} {} controller={} blocks={}",
        owner.text("apiVersion"),
        owner.text("kind"),
        owner.text("name"),
        owner.at("controller"),
        owner.at("blockOwnerDeletion")
    ));
    assert!(pod.name.starts_with("web-") && pod.name.len() == 9, "{pod}");
    cluster.run_pod(&pod);
    cluster.settle();
    expect![[
        r#"{"availableReplicas":1,"fullyLabeledReplicas":3,"observedGeneration":1,"readyReplicas":1,"replicas":3}"#
    ]]
    .assert_eq(&counts(&cluster));
    expect!["SuccessfulCreate x3"].assert_eq(&cluster.reasons());
}

#[test]
fn pods_that_finish_or_leave_are_replaced() {
    let mut cluster = with_set(2);
    cluster.node("n");
    let pods = cluster.keys(registry::POD);
    cluster.change(&pods[0], |pod| pod.set("status.phase", "Failed"));
    cluster.settle();
    assert_eq!(cluster.n(registry::POD), 3, "the failed one stays for its logs");
    cluster.change(&pods[1], |pod| pod.set("spec.nodeName", "n"));
    cluster.delete(&pods[1], "");
    cluster.settle();
    assert_eq!(cluster.n(registry::POD), 4, "the leaving one does not count");
}

#[test]
fn orphans_that_match_are_adopted_first() {
    let mut cluster = with_set(0);
    cluster.pod("mine", json!({"metadata": {"labels": {"app": "w"}}}));
    cluster.pod("other", json!({"metadata": {"labels": {"app": "v"}}}));
    cluster.change(&web(), |set| set.set("spec.replicas", 2));
    cluster.settle();
    let owned = |name: &str| {
        !cluster.get(&Key::new(registry::POD, "default", name)).unwrap().items("metadata.ownerReferences").is_empty()
    };
    assert!(owned("mine") && !owned("other"));
    assert_eq!(cluster.n(registry::POD), 3, "one was missing, not two");
}

#[test]
fn too_many_orphans_are_adopted_and_then_removed() {
    let mut cluster = with_set(1);
    cluster.pod("extra", json!({"metadata": {"labels": {"app": "w"}}}));
    cluster.settle();
    assert_eq!(cluster.n(registry::POD), 1);
}

#[test]
fn a_pod_that_no_longer_matches_is_released_and_replaced() {
    let mut cluster = with_set(1);
    let pod = cluster.keys(registry::POD).remove(0);
    cluster.change(&pod, |pod| pod.set("metadata.labels.app", "debug"));
    cluster.settle();
    assert_eq!(cluster.n(registry::POD), 2);
    assert!(cluster.get(&pod).unwrap().items("metadata.ownerReferences").is_empty());
}

#[test]
fn pods_of_another_owner_are_left_alone() {
    let mut cluster = with_set(1);
    let owner = json!([{"apiVersion": "example.com/v1", "kind": "Thing", "name": "t", "uid": "t", "controller": true}]);
    cluster.pod("foreign", json!({"metadata": {"labels": {"app": "w"}, "ownerReferences": owner}}));
    cluster.settle();
    assert_eq!(cluster.n(registry::POD), 2);
}

/// Four ready pods of the same age, two each on nodes a and b; `change` singles one out. Which goes?
fn victim(change: impl Fn(usize, &mut Value)) -> usize {
    let mut cluster = with_set(4);
    cluster.node("a");
    cluster.node("b");
    for (i, key) in cluster.keys(registry::POD).into_iter().enumerate() {
        cluster.change(&key, |pod| {
            pod.set("metadata.labels.index", i.to_string());
            pod.set("spec.nodeName", if i < 2 { "a" } else { "b" });
        });
    }
    cluster.run_pods();
    for key in cluster.keys(registry::POD) {
        cluster.change(&key, |pod| {
            let i: usize = pod.label("index").unwrap().parse().unwrap();
            change(i, pod);
        });
    }
    cluster.jump(100_000_000);
    cluster.change(&web(), |set| set.set("spec.replicas", 3));
    cluster.settle();
    let leaving = |key: &Key| {
        let pod = cluster.get(key)?;
        (!pod.at("metadata.deletionTimestamp").is_null()).then(|| pod.label("index").unwrap().parse().unwrap())
    };
    let gone = (0..4).find(|i| {
        !cluster.keys(registry::POD).iter().any(|key| cluster.get(key).unwrap().label("index") == Some(&i.to_string()))
    });
    cluster.keys(registry::POD).iter().find_map(leaving).or(gone).expect("one goes")
}

fn set_ready(pod: &mut Value, status: &str, at: i64) {
    let at = Timestamp(1_700_000_000_000).plus_secs(at).rfc3339();
    api::set_condition(pod, json!({"type": "Ready", "status": status, "lastTransitionTime": at}));
}

#[test]
fn which_pod_goes_first() {
    let singled = |n: usize, change: fn(&mut Value)| {
        victim(move |i, pod| {
            if i == n {
                change(pod);
            }
        })
    };
    for n in [1, 2] {
        // Each of these would go before the pods that are like the others.
        assert_eq!(singled(n, |pod| drop(pod.remove_at("spec.nodeName"))), n, "not assigned");
        assert_eq!(singled(n, |pod| pod.set("status.phase", "Pending")), n, "pending");
        assert_eq!(singled(n, |pod| set_ready(pod, "False", 0)), n, "not ready");
        let cheap = |pod: &mut Value| {
            pod.object("metadata.annotations").insert("controller.kubernetes.io/pod-deletion-cost".into(), "-1".into());
        };
        assert_eq!(singled(n, cheap), n, "the cheapest by controller.kubernetes.io/pod-deletion-cost");
        assert_eq!(singled(n, |pod| set_ready(pod, "True", 99_990)), n, "ready for a shorter time");
        let restarted = |pod: &mut Value| pod.set("status.containerStatuses", json!([{"restartCount": 3}]));
        assert_eq!(singled(n, restarted), n, "restarted more often");
        let young = |pod: &mut Value| {
            let at = Timestamp(1_700_000_000_000).plus_secs(99_990).rfc3339();
            pod.set("metadata.creationTimestamp", at);
        };
        assert_eq!(singled(n, young), n, "younger");
    }
}

#[test]
fn the_first_difference_decides_which_pod_goes() {
    // 0 is not ready, 1 is pending: the phase comes before readiness.
    let by_phase = victim(|i, pod| match i {
        0 => set_ready(pod, "False", 0),
        1 => pod.set("status.phase", "Pending"),
        _ => {}
    });
    assert_eq!(by_phase, 1);
    // An expensive pod that is not ready goes before a cheap one that is.
    let by_readiness = victim(|i, pod| match i {
        2 => set_ready(pod, "False", 0),
        3 => drop(
            pod.object("metadata.annotations")
                .insert("controller.kubernetes.io/pod-deletion-cost".into(), "-100".into()),
        ),
        _ => {}
    });
    assert_eq!(by_readiness, 2);
}

#[test]
fn pods_on_crowded_nodes_go_sooner() {
    let crowded = victim(|i, pod| pod.set("spec.nodeName", if i == 3 { "a" } else { "b" }));
    assert_ne!(crowded, 3);
    let times_of_one_magnitude = victim(|i, pod| {
        pod.set("spec.nodeName", if i == 3 { "a" } else { "b" });
        set_ready(pod, "True", 100 * i as i64);
    });
    assert_ne!(times_of_one_magnitude, 3);
}

#[test]
fn min_ready_seconds_delay_availability() {
    let mut cluster = with_set(1);
    cluster.change(&web(), |set| set.set("spec.minReadySeconds", 10));
    cluster.run_pods().settle();
    expect![[r#"{"fullyLabeledReplicas":1,"observedGeneration":2,"readyReplicas":1,"replicas":1}"#]]
        .assert_eq(&counts(&cluster));
    cluster.later(9_000);
    assert!(cluster.get(&web()).unwrap().at("status.availableReplicas").is_null());
    cluster.later(1_000);
    expect![[
        r#"{"availableReplicas":1,"fullyLabeledReplicas":1,"observedGeneration":2,"readyReplicas":1,"replicas":1}"#
    ]]
    .assert_eq(&counts(&cluster));
}

#[test]
fn fully_labeled_counts_pods_with_all_labels_of_the_template() {
    let mut cluster = with_set(1);
    cluster.change(&web(), |set| set.set("spec.template.metadata.labels.tier", "front"));
    scale(&mut cluster, 2);
    expect![[r#"{"fullyLabeledReplicas":1,"observedGeneration":3,"replicas":2}"#]].assert_eq(&counts(&cluster));
}

#[test]
fn a_refused_template_is_told_and_tried_again() {
    let mut cluster = with_set(0);
    cluster.change(&web(), |set| set.set("spec.template.spec.priorityClassName", "urgent"));
    scale(&mut cluster, 300);
    assert_eq!(cluster.n(registry::POD), 0);
    expect![[r#"
        ReplicaFailure=True FailedCreate: pods "web-" is forbidden: no PriorityClass with name urgent was found
    "#]]
    .assert_eq(&conditions(&cluster.get(&web()).unwrap()));
    expect!["FailedCreate x2"].assert_eq(&cluster.reasons());
    cluster.create(registry::PRIORITY_CLASS, json!({"metadata": {"name": "urgent"}, "value": 7}));
    cluster.jump(5_000);
    assert_eq!(cluster.n(registry::POD), 300);
    assert_eq!(conditions(&cluster.get(&web()).unwrap()), "");
}

#[test]
fn many_pods_come_in_bursts() {
    let mut cluster = with_set(1_200);
    assert_eq!(cluster.n(registry::POD), 1_200);
    scale(&mut cluster, 0);
    assert_eq!(cluster.n(registry::POD), 0);
}

#[test]
fn a_set_that_is_being_deleted_neither_makes_nor_adopts() {
    let mut cluster = with_set(1);
    let pod = cluster.keys(registry::POD).remove(0);
    cluster.change(&web(), |set| set.set("metadata.finalizers", json!(["example.com/hold"])));
    cluster.delete(&web(), "Background");
    cluster.pod("orphan", json!({"metadata": {"labels": {"app": "w"}}}));
    cluster.remove(&pod);
    cluster.settle();
    assert_eq!(cluster.n(registry::POD), 1);
}
