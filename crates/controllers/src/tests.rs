//! A small cluster that runs the controllers until nothing changes, and tells what came of it.

use super::*;
use api::Context as ApiContext;
use expect_test::{Expect, expect};
use objects::{ValueExt, json};
use state::{LeaderId, Op, State, Txn};
use std::collections::BTreeSet;

struct Cluster {
    state: State,
    facts: Facts,
    now: Timestamp,
    rng: Rng,
}

impl Cluster {
    fn new() -> Cluster {
        let mut cluster = Cluster {
            state: State::new(),
            facts: Facts { ca: "CA".into(), ..Facts::default() },
            now: Timestamp(1_700_000_000_000),
            rng: Rng::new(1),
        };
        cluster.create(registry::NAMESPACE, json!({"metadata": {"name": "default"}}));
        cluster
    }

    fn view(&self) -> View {
        View::new(self.state.clone())
    }

    fn apply(&mut self, op: Op) {
        self.state.apply(LeaderId::default(), &Txn { ops: vec![op], stamp: self.now, ..Txn::default() });
    }

    fn create(&mut self, kind: KindId, object: Value) {
        let view = self.view();
        let mut context = ApiContext { now: self.now, rng: &mut self.rng };
        let (op, _) = api::creation(object, registry::must(kind), &view, &mut context).unwrap();
        self.apply(op);
    }

    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        let record = self.view().get(key).cloned().unwrap();
        let mut object = record.value();
        change(&mut object);
        if let Some(op) = api::change(&record, object) {
            self.apply(op);
        }
    }

    fn delete(&mut self, key: &Key, propagation: &str) {
        let record = self.view().get(key).cloned().unwrap();
        let context = ApiContext { now: self.now, rng: &mut Rng::new(3) };
        if let Some(op) = api::deletion(&record, None, propagation, &context) {
            self.apply(op);
        }
    }

    /// Reconciles every key until no plan has an action; returns the sooner of the wakes.
    fn settle(&mut self) {
        for _ in 0..100 {
            let view = self.view();
            let mut acted = false;
            let gone: BTreeSet<(Controller, Key)> = all_keys(&view).into_iter().collect();
            for (controller, key) in gone {
                let view = self.view();
                let mut context = Context { view: &view, facts: &self.facts, now: self.now, rng: &mut self.rng };
                for action in reconcile(controller, &key, &mut context).actions {
                    acted |= self.perform(action);
                }
            }
            if !acted {
                return;
            }
        }
        panic!("the controllers do not settle");
    }

    fn perform(&mut self, action: Action) -> bool {
        let before = self.state.revision();
        match action {
            Action::Create { kind, object } => self.create(kind, object),
            Action::Update { record, object } => {
                if let Some(op) = api::change(&record, object) {
                    self.apply(op);
                }
            }
            Action::Delete { record, grace, propagation } => {
                let context = ApiContext { now: self.now, rng: &mut Rng::new(3) };
                if let Some(op) = api::deletion(&record, grace, propagation, &context) {
                    self.apply(op);
                }
            }
        }
        self.state.revision() != before
    }

    fn keys(&self, kind: KindId) -> Vec<Key> {
        self.view().list(kind, "", None).map(|record| record.key.clone()).collect()
    }

    /// Makes every bound or unbound pod that exists ready.
    fn run_pods(&mut self) {
        let now = self.now.rfc3339();
        for key in self.keys(registry::POD) {
            self.change(&key, |pod| {
                pod.set("status.phase", "Running");
                api::set_condition(pod, json!({"type": "Ready", "status": "True", "lastTransitionTime": now}));
            });
        }
    }

    fn deployment(&mut self, replicas: i64, image: &str) {
        self.create(
            registry::DEPLOYMENT,
            json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": replicas,
                "selector": {"matchLabels": {"app": "w"}}, "template": {"metadata": {"labels": {"app": "w"}},
                "spec": {"containers": [{"name": "c", "image": image}]}}}}),
        );
    }

    /// `image wanted/present/ready` for each set, oldest first, and the deployment's line.
    fn told(&self) -> String {
        let view = self.view();
        let mut lines: Vec<String> = view
            .list(registry::REPLICA_SET, "", None)
            .map(|record| {
                let set = record.value();
                let count = |path: &str| set.at(path).as_i64().unwrap_or(0);
                format!(
                    "{} rev={} {}/{}/{}\n",
                    set.at("spec.template.spec.containers")[0].text("image"),
                    set.annotation("deployment.kubernetes.io/revision").unwrap_or("-"),
                    count("spec.replicas"),
                    count("status.replicas"),
                    count("status.readyReplicas")
                )
            })
            .collect();
        lines.sort();
        for record in view.list(registry::DEPLOYMENT, "", None) {
            let deployment = record.value();
            let condition = |ty: &str| {
                let found = deployment.items("status.conditions").iter().find(|c| c.text("type") == ty);
                found.map_or("-".to_string(), |c| format!("{}:{}", c.text("status"), c.text("reason")))
            };
            lines.push(format!("available {} progressing {}\n", condition("Available"), condition("Progressing")));
        }
        lines.concat()
    }

    fn expect(&self, expected: Expect) {
        expected.assert_eq(&self.told());
    }
}

fn web() -> Key {
    Key::new(registry::DEPLOYMENT, "default", "web")
}

#[test]
fn a_deployment_makes_a_set_and_the_set_makes_pods() {
    let mut cluster = Cluster::new();
    cluster.deployment(3, "i:1");
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 3/3/0
        available False:MinimumReplicasUnavailable progressing True:ReplicaSetUpdated
    "#]]);
    cluster.run_pods();
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 3/3/3
        available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

#[test]
fn a_rolling_update_stays_within_surge_and_unavailable() {
    let mut cluster = Cluster::new();
    cluster.deployment(4, "i:1");
    cluster.settle();
    cluster.run_pods();
    cluster.settle();
    cluster.change(&web(), |d| d["spec"]["template"]["spec"]["containers"][0].set("image", "i:2"));
    let mut steps = String::new();
    for _ in 0..6 {
        cluster.settle();
        let view = cluster.view();
        let n_pods = view.list(registry::POD, "", None).count();
        let n_ready = view
            .list(registry::POD, "", None)
            .filter(|p| objects::kinds::node::condition(&p.value(), "Ready") == "True")
            .count();
        assert!(n_pods <= 5, "surge of 1 exceeded: {n_pods}");
        assert!(n_ready >= 3, "fewer than 3 available: {n_ready}");
        steps.push_str(&format!("{n_pods} pods, {n_ready} ready\n"));
        cluster.run_pods();
    }
    cluster.settle();
    expect![[r#"
        5 pods, 3 ready
        5 pods, 3 ready
        4 pods, 4 ready
        4 pods, 4 ready
        4 pods, 4 ready
        4 pods, 4 ready
    "#]]
    .assert_eq(&steps);
    cluster.expect(expect![[r#"
        i:1 rev=1 0/0/0
        i:2 rev=2 4/4/4
        available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

#[test]
fn undo_gives_the_old_set_a_new_revision() {
    let mut cluster = Cluster::new();
    cluster.deployment(1, "i:1");
    for image in ["i:1", "i:2", "i:1"] {
        cluster.change(&web(), |d| d["spec"]["template"]["spec"]["containers"][0].set("image", image));
        for _ in 0..4 {
            cluster.settle();
            cluster.run_pods();
        }
    }
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=3 1/1/1
        i:2 rev=2 0/0/0
        available True:MinimumReplicasAvailable progressing True:NewReplicaSetAvailable
    "#]]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut cluster = Cluster::new();
    cluster.deployment(2, "i:1");
    cluster.settle();
    cluster.run_pods();
    cluster.settle();
    cluster.change(&web(), |d| {
        d.set("spec.paused", true);
        d.set("spec.replicas", 3);
        d["spec"]["template"]["spec"]["containers"][0].set("image", "i:2");
    });
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 3/3/2
        available False:MinimumReplicasUnavailable progressing Unknown:DeploymentPaused
    "#]]);
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut cluster = Cluster::new();
    cluster.deployment(2, "i:1");
    cluster.change(&web(), |d| d.set("spec.strategy", json!({"type": "Recreate"})));
    cluster.settle();
    cluster.run_pods();
    // Bound pods leave gracefully: they stay until their worker says so.
    for key in cluster.keys(registry::POD) {
        cluster.change(&key, |pod| pod.set("spec.nodeName", "n1"));
    }
    cluster.create(registry::NODE, json!({"metadata": {"name": "n1"}}));
    cluster.facts.silent_ms.insert("n1".into(), 0);
    cluster.change(&Key::new(registry::NODE, "", "n1"), |n| {
        api::set_condition(n, json!({"type": "Ready", "status": "True"}))
    });
    cluster.change(&web(), |d| d["spec"]["template"]["spec"]["containers"][0].set("image", "i:2"));
    cluster.settle();
    assert_eq!(cluster.keys(registry::REPLICA_SET).len(), 1, "old pods are still leaving");
    for key in cluster.keys(registry::POD) {
        let record = cluster.view().get(&key).cloned().unwrap();
        cluster.apply(Op::Delete { key, assumed: record.header.revision });
    }
    cluster.settle();
    assert_eq!(cluster.keys(registry::REPLICA_SET).len(), 2);
}

#[test]
fn the_progress_deadline_is_told() {
    let mut cluster = Cluster::new();
    cluster.deployment(1, "i:1");
    cluster.change(&web(), |d| d.set("spec.progressDeadlineSeconds", 10));
    cluster.settle();
    cluster.now = cluster.now.plus_secs(11);
    cluster.settle();
    cluster.expect(expect![[r#"
        i:1 rev=1 1/1/0
        available False:MinimumReplicasUnavailable progressing False:ProgressDeadlineExceeded
    "#]]);
}

#[test]
fn deleting_the_owner_collects_the_family() {
    let mut cluster = Cluster::new();
    cluster.deployment(2, "i:1");
    cluster.settle();
    cluster.delete(&web(), "Background");
    cluster.settle();
    assert!(cluster.keys(registry::REPLICA_SET).is_empty() && cluster.keys(registry::POD).is_empty());
}

#[test]
fn orphaning_keeps_the_dependents() {
    let mut cluster = Cluster::new();
    cluster.deployment(2, "i:1");
    cluster.settle();
    cluster.delete(&web(), "Orphan");
    cluster.settle();
    assert!(cluster.keys(registry::DEPLOYMENT).is_empty());
    assert_eq!(cluster.keys(registry::POD).len(), 2);
}

#[test]
fn foreground_deletion_waits_for_the_dependents() {
    let mut cluster = Cluster::new();
    cluster.deployment(1, "i:1");
    cluster.settle();
    let pod = cluster.keys(registry::POD).remove(0);
    cluster.change(&pod, |pod| pod.set("metadata.finalizers", json!(["example.com/hold"])));
    cluster.delete(&web(), "Foreground");
    cluster.settle();
    assert_eq!(cluster.keys(registry::DEPLOYMENT).len(), 1, "a pod still holds it");
    cluster.change(&pod, |pod| drop(pod.remove_at("metadata.finalizers")));
    cluster.settle();
    assert!(cluster.keys(registry::DEPLOYMENT).is_empty());
}

#[test]
fn a_deleted_namespace_is_emptied_first() {
    let mut cluster = Cluster::new();
    cluster.deployment(2, "i:1");
    cluster.settle();
    cluster.delete(&Key::new(registry::NAMESPACE, "", "default"), "");
    cluster.settle();
    assert_eq!(cluster.view().n_objects(), 0);
}

#[test]
fn every_namespace_has_its_defaults() {
    let mut cluster = Cluster::new();
    cluster.settle();
    let view = cluster.view();
    assert!(view.get(&Key::new(registry::SERVICE_ACCOUNT, "default", "default")).is_some());
    let ca = view.get(&Key::new(registry::CONFIG_MAP, "default", "kube-root-ca.crt")).unwrap().value();
    assert_eq!(ca.text("data.ca.crt").len() + ca.at("data")["ca.crt"].as_str().unwrap().len(), 2);
}

/// A node with one bound, ready pod of a deployment.
fn with_node() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.create(registry::NODE, json!({"metadata": {"name": "n1"}}));
    cluster.change(&Key::new(registry::NODE, "", "n1"), |n| {
        api::set_condition(n, json!({"type": "Ready", "status": "True"}))
    });
    cluster.facts.silent_ms.insert("n1".into(), 0);
    cluster.deployment(1, "i:1");
    cluster.settle();
    let pod = cluster.keys(registry::POD).remove(0);
    cluster.change(&pod, |pod| pod.set("spec.nodeName", "n1"));
    cluster.run_pods();
    cluster.settle();
    cluster
}

#[test]
fn a_silent_node_is_tainted_and_its_pods_are_replaced() {
    let mut cluster = with_node();
    cluster.facts.silent_ms.insert("n1".into(), 4_000);
    cluster.settle();
    let node = cluster.view().get(&Key::new(registry::NODE, "", "n1")).unwrap().value();
    assert_eq!(node.items("spec.taints").len(), 2);
    assert_eq!(cluster.keys(registry::POD).len(), 1, "it is tolerated for 3 s");
    cluster.now = cluster.now.plus_secs(3);
    cluster.settle();
    assert_eq!(cluster.keys(registry::POD).len(), 2, "one leaving, one new");
    cluster.facts.silent_ms.insert("n1".into(), 0);
    cluster.change(&Key::new(registry::NODE, "", "n1"), |n| {
        api::set_condition(n, json!({"type": "Ready", "status": "True"}))
    });
    cluster.settle();
    let node = cluster.view().get(&Key::new(registry::NODE, "", "n1")).unwrap().value();
    assert!(node.items("spec.taints").is_empty());
}

#[test]
fn when_most_nodes_fall_silent_nothing_is_evicted() {
    let mut cluster = with_node();
    for name in ["n2", "n3"] {
        cluster.create(registry::NODE, json!({"metadata": {"name": name}}));
    }
    for name in ["n1", "n2", "n3"] {
        cluster.facts.silent_ms.insert(name.into(), 60_000);
    }
    cluster.settle();
    cluster.now = cluster.now.plus_secs(60);
    cluster.settle();
    assert_eq!(cluster.keys(registry::POD).len(), 1);
}

#[test]
fn pods_of_a_deleted_node_go_at_once() {
    let mut cluster = with_node();
    let bound = cluster.keys(registry::POD).remove(0);
    cluster.delete(&Key::new(registry::NODE, "", "n1"), "");
    cluster.settle();
    assert!(cluster.view().get(&bound).is_none());
    assert_eq!(cluster.keys(registry::POD).len(), 1, "the set made another");
}
