//! Deployment: rollouts, scaling, history, status.

use super::*;
use expect_test::{Expect, expect};

fn web() -> Key {
    Key::new(registry::DEPLOYMENT, "default", "web")
}

/// A deployment whose pods are all ready.
fn deployed(replicas: i64, spec: Value) -> Cluster {
    let mut cluster = Cluster::new();
    let mut deployment = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "w"}}, "template": {"metadata": {"labels": {"app": "w"}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
    objects::patch::merge_patch(&mut deployment["spec"], &spec).unwrap();
    cluster.create(registry::DEPLOYMENT, deployment);
    cluster.settle().run_pods().settle();
    cluster
}

fn set_image(cluster: &mut Cluster, image: &str) {
    cluster.change(&web(), |d| d["spec"]["template"]["spec"]["containers"][0].set("image", image));
}

impl Cluster {
    /// `image revision wanted/present/ready/available` for each set, then the deployment's own.
    fn told(&self) -> String {
        let view = self.view();
        let count = |object: &Value, path: &str| object.at(path).as_i64().unwrap_or(0);
        let mut lines: Vec<String> = view
            .list(registry::REPLICA_SET, "", None)
            .map(|record| {
                let set = record.value();
                format!(
                    "{} rev={} {}/{}/{}/{}\n",
                    set.at("spec.template.spec.containers")[0].text("image"),
                    set.annotation("deployment.kubernetes.io/revision").unwrap_or("-"),
                    count(&set, "spec.replicas"),
                    count(&set, "status.replicas"),
                    count(&set, "status.readyReplicas"),
                    count(&set, "status.availableReplicas")
                )
            })
            .collect();
        lines.sort();
        let deployment = self.get(&web()).unwrap();
        let condition = |ty: &str| {
            let found = deployment.items("status.conditions").iter().find(|c| c.text("type") == ty);
            found.map_or("-".to_string(), |c| format!("{}:{}", c.text("status"), c.text("reason")))
        };
        lines.push(format!(
            "rev={} {} replicas, {} updated, {} ready, {} available, {} unavailable; available {} progressing {}\n",
            deployment.annotation("deployment.kubernetes.io/revision").unwrap_or("-"),
            count(&deployment, "status.replicas"),
            count(&deployment, "status.updatedReplicas"),
            count(&deployment, "status.readyReplicas"),
            count(&deployment, "status.availableReplicas"),
            count(&deployment, "status.unavailableReplicas"),
            condition("Available"),
            condition("Progressing")
        ));
        lines.concat()
    }

    fn expect(&self, expected: Expect) {
        expected.assert_eq(&self.told());
    }

    /// Rolls on, one pod becoming ready at a time; every step as `old+new ready`.
    fn steps(&mut self) -> String {
        let mut steps = Vec::new();
        for _ in 0..200 {
            self.settle();
            let pods: Vec<Value> = self.view().list(registry::POD, "", None).map(|r| r.value()).collect();
            let is_ready = |pod: &&Value| objects::kinds::node::condition(pod, "Ready") == "True";
            let image = self.get(&web()).unwrap().at("spec.template.spec.containers")[0].text("image").to_string();
            let n_new = pods.iter().filter(|pod| pod.items("spec.containers")[0].text("image") == image).count();
            steps.push(format!("{}+{} {}", pods.len() - n_new, n_new, pods.iter().filter(is_ready).count()));
            let next = self
                .keys(registry::POD)
                .into_iter()
                .find(|key| objects::kinds::node::condition(&self.get(key).unwrap(), "Ready") != "True");
            match next {
                Some(key) => self.run_pod(&key),
                None => return steps.join("\n"),
            }
        }
        panic!("it does not end: {steps:?}");
    }
}

#[test]
fn a_deployment_makes_a_set_and_the_set_makes_pods() {
    let mut cluster = Cluster::new();
    let deployment = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"app": "w"}}, "template": {"metadata": {"labels": {"app": "w"}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
    cluster.create(registry::DEPLOYMENT, deployment);
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 3/3/0/0
        rev=1 3 replicas, 3 updated, 0 ready, 0 available, 3 unavailable; available False:MinimumReplicasUnavailable progressing True:ReplicaSetUpdated
    "#]]);
    cluster.run_pods().settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 3/3/3/3
        rev=1 3 replicas, 3 updated, 3 ready, 3 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
    // The hash of the template tells the sets and their pods apart.
    let set = cluster.get(&cluster.keys(registry::REPLICA_SET)[0]).unwrap();
    let hash = set.label("pod-template-hash").unwrap();
    assert_eq!(set.text("metadata.name"), format!("web-{hash}"));
    for object in ["spec.selector.matchLabels", "spec.template.metadata.labels"] {
        assert_eq!(set.at(object).get("pod-template-hash").unwrap(), hash);
    }
    expect!["ScalingReplicaSet x1, SuccessfulCreate x3"].assert_eq(&cluster.reasons());
}

#[test]
fn a_rolling_update_stays_within_surge_and_unavailable() {
    // 25 % of 4 is one more and one fewer.
    let mut cluster = deployed(4, json!({}));
    set_image(&mut cluster, "i:2");
    expect![[r#"
        3+2 3
        2+3 3
        1+4 3
        0+4 3
        0+4 4"#]]
    .assert_eq(&cluster.steps());
    cluster.expect(expect![[r#"
        i:1 rev=1 0/0/0/0
        i:2 rev=2 4/4/4/4
        rev=2 4 replicas, 4 updated, 4 ready, 4 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

fn strategy(surge: Value, unavailable: Value) -> Value {
    json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}})
}

#[test]
fn surge_rounds_up_and_unavailable_rounds_down() {
    // 30 % of 5 is 1.5: two more, one fewer.
    let mut cluster = deployed(5, strategy(json!("30%"), json!("30%")));
    set_image(&mut cluster, "i:2");
    expect![[r#"
        4+3 4
        3+4 4
        2+5 4
        1+5 4
        0+5 4
        0+5 5"#]]
    .assert_eq(&cluster.steps());
}

#[test]
fn surge_alone_and_unavailable_alone() {
    let mut cluster = deployed(3, strategy(json!(1), json!(0)));
    set_image(&mut cluster, "i:2");
    expect![[r#"
        3+1 3
        2+2 3
        1+3 3
        0+3 3"#]]
    .assert_eq(&cluster.steps());
    let mut cluster = deployed(3, strategy(json!(0), json!(1)));
    set_image(&mut cluster, "i:2");
    expect![[r#"
        2+1 2
        1+2 2
        0+3 2
        0+3 3"#]]
    .assert_eq(&cluster.steps());
    // Both round to nothing: one may be missing, or nothing would ever move.
    let mut cluster = deployed(2, strategy(json!("0%"), json!("10%")));
    set_image(&mut cluster, "i:2");
    expect![[r#"
        1+1 1
        0+2 1
        0+2 2"#]]
    .assert_eq(&cluster.steps());
}

#[test]
fn pods_that_never_became_ready_go_first_in_the_next_rollout() {
    let mut cluster = deployed(4, json!({}));
    set_image(&mut cluster, "i:2");
    cluster.settle();
    set_image(&mut cluster, "i:3");
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 3/3/3/3
        i:2 rev=2 0/0/0/0
        i:3 rev=3 2/2/0/0
        rev=3 5 replicas, 2 updated, 3 ready, 3 available, 2 unavailable; available True:MinimumReplicasAvailable progressing True:ReplicaSetUpdated
    "#]]);
    expect![[r#"
        3+2 3
        2+3 3
        1+4 3
        0+4 3
        0+4 4"#]]
    .assert_eq(&cluster.steps());
}

#[test]
fn a_template_that_does_not_change_rolls_nothing() {
    let mut cluster = deployed(2, json!({}));
    let before = cluster.keys(registry::POD);
    cluster.change(&web(), |d| d.set("metadata.labels", json!({"team": "a"})));
    cluster.settle();
    assert_eq!(cluster.keys(registry::POD), before);
}

#[test]
fn undo_gives_the_old_set_a_new_revision_and_a_history() {
    let mut cluster = deployed(1, json!({}));
    for image in ["i:2", "i:1"] {
        set_image(&mut cluster, image);
        cluster.steps();
    }
    cluster.expect(expect![[r#"
        i:1 rev=3 1/1/1/1
        i:2 rev=2 0/0/0/0
        rev=3 1 replicas, 1 updated, 1 ready, 1 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
    let sets = cluster.keys(registry::REPLICA_SET);
    let histories = sets.iter().filter_map(|key| {
        let set = cluster.get(key).unwrap();
        set.annotation("deployment.kubernetes.io/revision-history").map(ToString::to_string)
    });
    assert_eq!(histories.collect::<Vec<_>>(), ["1"]);
}

#[test]
fn old_sets_beyond_the_history_limit_go_oldest_first() {
    let mut cluster = deployed(1, json!({"revisionHistoryLimit": 2}));
    for image in ["i:2", "i:3", "i:4", "i:5"] {
        set_image(&mut cluster, image);
        cluster.steps();
    }
    cluster.expect(expect![[r#"
        i:3 rev=3 0/0/0/0
        i:4 rev=4 0/0/0/0
        i:5 rev=5 1/1/1/1
        rev=5 1 replicas, 1 updated, 1 ready, 1 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut cluster = deployed(2, json!({}));
    cluster.change(&web(), |d| d.set("spec.paused", true));
    set_image(&mut cluster, "i:2");
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 2/2/2/2
        rev=1 2 replicas, 0 updated, 2 ready, 2 available, 0 unavailable; available True:MinimumReplicasAvailable progressing Unknown:DeploymentPaused
    "#]]);
    cluster.change(&web(), |d| d.set("spec.replicas", 3));
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 3/3/2/2
        rev=1 3 replicas, 0 updated, 2 ready, 2 available, 1 unavailable; available False:MinimumReplicasUnavailable progressing Unknown:DeploymentPaused
    "#]]);
    cluster.change(&web(), |d| drop(d.remove_at("spec.paused")));
    cluster.steps();
    cluster.expect(expect![[r#"
        i:1 rev=1 0/0/0/0
        i:2 rev=2 3/3/3/3
        rev=2 3 replicas, 3 updated, 3 ready, 3 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut cluster = deployed(2, json!({"strategy": {"type": "Recreate", "rollingUpdate": null}}));
    cluster.node("n1");
    // Bound pods leave gracefully: they stay until their worker says so.
    for key in cluster.keys(registry::POD) {
        cluster.change(&key, |pod| pod.set("spec.nodeName", "n1"));
    }
    set_image(&mut cluster, "i:2");
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 0/0/0/0
        rev=1 0 replicas, 0 updated, 0 ready, 0 available, 0 unavailable; available False:MinimumReplicasUnavailable progressing True:NewReplicaSetAvailable
    "#]]);
    let pods = cluster.keys(registry::POD);
    cluster.remove(&pods[0]);
    cluster.settle();
    assert_eq!(cluster.n(registry::REPLICA_SET), 1, "one old pod is still leaving");
    cluster.remove(&pods[1]);
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 0/0/0/0
        i:2 rev=2 2/2/0/0
        rev=2 2 replicas, 2 updated, 0 ready, 0 available, 2 unavailable; available False:MinimumReplicasUnavailable progressing True:ReplicaSetUpdated
    "#]]);
}

#[test]
fn scaling_goes_to_the_one_active_set() {
    let mut cluster = deployed(2, json!({}));
    cluster.change(&web(), |d| d.set("spec.replicas", 4));
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 4/4/2/2
        rev=1 4 replicas, 4 updated, 2 ready, 2 available, 2 unavailable; available False:MinimumReplicasUnavailable progressing True:NewReplicaSetAvailable
    "#]]);
    cluster.change(&web(), |d| d.set("spec.replicas", 0));
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 0/0/0/0
        rev=1 0 replicas, 0 updated, 0 ready, 0 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared_in_proportion() {
    // The documentation's example: 10 replicas, maxSurge 3, maxUnavailable 2, then 15.
    let mut cluster = deployed(10, strategy(json!(3), json!(2)));
    set_image(&mut cluster, "i:2");
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 8/8/8/8
        i:2 rev=2 5/5/0/0
        rev=2 13 replicas, 5 updated, 8 ready, 8 available, 5 unavailable; available True:MinimumReplicasAvailable progressing True:ReplicaSetUpdated
    "#]]);
    cluster.change(&web(), |d| d.set("spec.replicas", 15));
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 11/11/8/8
        i:2 rev=2 7/7/0/0
        rev=2 18 replicas, 7 updated, 8 ready, 8 available, 10 unavailable; available False:MinimumReplicasUnavailable progressing True:ReplicaSetUpdated
    "#]]);
    cluster.change(&web(), |d| d.set("spec.replicas", 5));
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 3/3/3/3
        i:2 rev=2 5/5/0/0
        rev=2 8 replicas, 5 updated, 3 ready, 3 available, 5 unavailable; available True:MinimumReplicasAvailable progressing True:ReplicaSetUpdated
    "#]]);
    cluster.steps();
    cluster.expect(expect![[r#"
        i:1 rev=1 0/0/0/0
        i:2 rev=2 5/5/5/5
        rev=2 5 replicas, 5 updated, 5 ready, 5 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

#[test]
fn pods_that_a_smaller_set_is_about_to_lose_serve_nobody() {
    let mut cluster = deployed(4, strategy(json!(1), json!(0)));
    set_image(&mut cluster, "i:2");
    cluster.settle().run_pods().settle();
    // From 4 to 2: both sets have been made smaller, and still tell of the pods they had.
    for key in cluster.keys(registry::REPLICA_SET) {
        cluster.change(&key, |set| {
            let is_new = set.at("spec.template.spec.containers")[0].text("image") == "i:2";
            let (wanted, was) = if is_new { (1, 2) } else { (2, 3) };
            set.set("spec.replicas", wanted);
            ["replicas", "readyReplicas", "availableReplicas"]
                .iter()
                .for_each(|field| set.set(&format!("status.{field}"), was));
            set.object("metadata.annotations").insert("deployment.kubernetes.io/desired-replicas".into(), "2".into());
        });
    }
    cluster.change(&web(), |d| d.set("spec.replicas", 2));
    let plan = cluster.look(&(Controller::Deployment, web()));
    for action in plan.actions {
        cluster.perform(action);
    }
    // Two are needed: the new set's and one of the old one's.
    cluster.expect(expect![[r#"
        i:1 rev=1 1/3/3/3
        i:2 rev=2 1/2/2/2
        rev=2 5 replicas, 2 updated, 5 ready, 5 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:ReplicaSetUpdated
    "#]]);
}

#[test]
fn the_progress_deadline_is_told_and_progress_takes_it_back() {
    let mut cluster = deployed(1, json!({"progressDeadlineSeconds": 10, "minReadySeconds": 0}));
    set_image(&mut cluster, "i:2");
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 1/1/1/1
        i:2 rev=2 1/1/0/0
        rev=2 2 replicas, 1 updated, 1 ready, 1 available, 1 unavailable; available True:MinimumReplicasAvailable progressing True:ReplicaSetUpdated
    "#]]);
    cluster.later(10_000);
    cluster.expect(expect![[r#"
        i:1 rev=1 1/1/1/1
        i:2 rev=2 1/1/0/0
        rev=2 2 replicas, 1 updated, 1 ready, 1 available, 1 unavailable; available True:MinimumReplicasAvailable progressing True:ReplicaSetUpdated
    "#]]);
    cluster.later(1_000);
    cluster.expect(expect![[r#"
        i:1 rev=1 1/1/1/1
        i:2 rev=2 1/1/0/0
        rev=2 2 replicas, 1 updated, 1 ready, 1 available, 1 unavailable; available True:MinimumReplicasAvailable progressing False:ProgressDeadlineExceeded
    "#]]);
    // Nothing is rolled back by itself; a pod that does become ready counts as progress.
    cluster.run_pods().settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 0/0/0/0
        i:2 rev=2 1/1/1/1
        rev=2 1 replicas, 1 updated, 1 ready, 1 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

#[test]
fn without_a_deadline_progress_is_not_told() {
    let mut cluster = deployed(1, json!({"progressDeadlineSeconds": i32::MAX}));
    cluster.jump(3_600_000);
    cluster.expect(expect![[r#"
        i:1 rev=1 1/1/1/1
        rev=1 1 replicas, 1 updated, 1 ready, 1 available, 0 unavailable; available True:MinimumReplicasAvailable progressing -
    "#]]);
}

#[test]
fn time_while_paused_does_not_count_against_the_deadline() {
    let mut cluster = deployed(1, json!({"progressDeadlineSeconds": 10}));
    set_image(&mut cluster, "i:2");
    cluster.later(5_000);
    cluster.change(&web(), |d| d.set("spec.paused", true));
    cluster.later(60_000);
    cluster.expect(expect![[r#"
        i:1 rev=1 1/1/1/1
        i:2 rev=2 1/1/0/0
        rev=2 2 replicas, 1 updated, 1 ready, 1 available, 1 unavailable; available True:MinimumReplicasAvailable progressing Unknown:DeploymentPaused
    "#]]);
    cluster.change(&web(), |d| drop(d.remove_at("spec.paused")));
    cluster.later(5_000);
    cluster.expect(expect![[r#"
        i:1 rev=1 1/1/1/1
        i:2 rev=2 1/1/0/0
        rev=2 2 replicas, 1 updated, 1 ready, 1 available, 1 unavailable; available True:MinimumReplicasAvailable progressing Unknown:DeploymentResumed
    "#]]);
    cluster.later(6_000);
    cluster.expect(expect![[r#"
        i:1 rev=1 1/1/1/1
        i:2 rev=2 1/1/0/0
        rev=2 2 replicas, 1 updated, 1 ready, 1 available, 1 unavailable; available True:MinimumReplicasAvailable progressing False:ProgressDeadlineExceeded
    "#]]);
}

#[test]
fn min_ready_seconds_slow_a_rollout() {
    let mut cluster =
        deployed(1, json!({"minReadySeconds": 5, "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}));
    cluster.later(5_000);
    set_image(&mut cluster, "i:2");
    cluster.settle().run_pods().settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 1/1/1/1
        i:2 rev=2 1/1/1/0
        rev=2 2 replicas, 1 updated, 2 ready, 1 available, 1 unavailable; available True:MinimumReplicasAvailable progressing True:ReplicaSetUpdated
    "#]]);
    cluster.later(5_000);
    cluster.expect(expect![[r#"
        i:1 rev=1 0/0/0/0
        i:2 rev=2 1/1/1/1
        rev=2 1 replicas, 1 updated, 1 ready, 1 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

#[test]
fn a_name_that_is_taken_makes_another_hash() {
    let mut cluster = deployed(1, json!({}));
    let taken = cluster.keys(registry::REPLICA_SET).remove(0);
    // The same name again, by somebody else: the old one is deleted and its name taken at once.
    cluster.delete(&web(), "Background");
    cluster.settle();
    cluster.create(
        registry::REPLICA_SET,
        json!({"metadata": {"name": taken.name.as_str(), "namespace": "default"}, "spec": {"replicas": 0,
            "selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c", "image": "i:9"}]}}}}),
    );
    let deployment = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 1,
        "selector": {"matchLabels": {"app": "w"}}, "template": {"metadata": {"labels": {"app": "w"}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
    cluster.create(registry::DEPLOYMENT, deployment);
    cluster.settle();
    assert_eq!(cluster.get(&web()).unwrap().at("status.collisionCount"), 1);
    assert_eq!(cluster.n(registry::REPLICA_SET), 2);
    assert_eq!(cluster.n(registry::POD), 1);
}

#[test]
fn orphaned_sets_are_adopted_and_used() {
    let mut cluster = deployed(2, json!({}));
    let deployment = cluster.get(&web()).unwrap();
    let pods = cluster.keys(registry::POD);
    cluster.delete(&web(), "Orphan");
    cluster.settle();
    assert_eq!((cluster.n(registry::DEPLOYMENT), cluster.n(registry::REPLICA_SET)), (0, 1));
    let spec = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": deployment.at("spec")});
    cluster.create(registry::DEPLOYMENT, spec);
    cluster.settle();
    assert_eq!(cluster.keys(registry::POD), pods, "the same pods go on");
    cluster.expect(expect![[r#"
        i:1 rev=1 2/2/2/2
        rev=1 2 replicas, 2 updated, 2 ready, 2 available, 0 unavailable; available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

#[test]
fn annotations_are_copied_to_the_newest_set_except_the_machinery() {
    let mut cluster = deployed(1, json!({}));
    cluster.change(&web(), |d| {
        let annotations = d.object("metadata.annotations");
        annotations.insert("kubernetes.io/change-cause".into(), "why".into());
        annotations.insert("kubectl.kubernetes.io/last-applied-configuration".into(), "{}".into());
    });
    cluster.settle();
    let set = cluster.get(&cluster.keys(registry::REPLICA_SET)[0]).unwrap();
    expect![[r#"{"deployment.kubernetes.io/desired-replicas":"1","deployment.kubernetes.io/max-replicas":"2","deployment.kubernetes.io/revision":"1","kubernetes.io/change-cause":"why"}"#]].assert_eq(&set.at("metadata.annotations").to_string());
}

#[test]
fn a_set_that_cannot_make_pods_shows_in_the_deployment() {
    let mut cluster = Cluster::new();
    let deployment = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 1,
        "selector": {"matchLabels": {"app": "w"}}, "template": {"metadata": {"labels": {"app": "w"}},
        "spec": {"priorityClassName": "urgent", "containers": [{"name": "c", "image": "i:1"}]}}}});
    cluster.create(registry::DEPLOYMENT, deployment);
    cluster.settle();
    expect![[r#"
        Available=False MinimumReplicasUnavailable: Deployment does not have minimum availability.
        Progressing=True NewReplicaSetCreated: Created new replica set "web-29874dzttw"
        ReplicaFailure=True FailedCreate: pods "web-29874dzttw-" is forbidden: no PriorityClass with name urgent was found
    "#]].assert_eq(&conditions(&cluster.get(&web()).unwrap()));
}

#[test]
fn status_follows_the_generation() {
    let mut cluster = deployed(1, json!({}));
    cluster.change(&web(), |d| d.set("spec.replicas", 2));
    cluster.settle();
    let deployment = cluster.get(&web()).unwrap();
    assert_eq!(deployment.at("status.observedGeneration"), deployment.at("metadata.generation"));
    assert_eq!(deployment.at("metadata.generation"), 2);
}
