//! Garbage collection by owner, and pods that nobody looks after.

use super::*;
use expect_test::expect;

/// An object that can own and be owned: `name <- owner …`, with `!` before an owner that it blocks.
fn map(cluster: &mut Cluster, name: &str, owners: &[&str]) -> Key {
    let reference = |owner: &&str| {
        let name = owner.trim_start_matches('!');
        let key = Key::new(registry::CONFIG_MAP, "default", name);
        let uid = cluster.view().get(&key).map_or("gone".into(), |record| record.header.uid.to_string());
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": owner.starts_with('!')})
    };
    let owners: Vec<Value> = owners.iter().map(reference).collect();
    cluster.create(
        registry::CONFIG_MAP,
        json!({"metadata": {"name": name, "namespace": "default", "ownerReferences": owners}}),
    );
    Key::new(registry::CONFIG_MAP, "default", name)
}

/// The names that are left, those on their way out in parentheses.
fn left(cluster: &Cluster) -> String {
    let view = cluster.view();
    let maps = view.list(registry::CONFIG_MAP, "", None).filter(|r| r.key.name != "kube-root-ca.crt");
    let text = |record: &Arc<Record>| match record.header.deletion {
        Some(_) => format!("({})", record.key.name),
        None => record.key.name.to_string(),
    };
    maps.map(text).collect::<Vec<_>>().join(" ")
}

fn hold(cluster: &mut Cluster, key: &Key) {
    cluster.change(key, |object| {
        let mut finalizers = object.items("metadata.finalizers").to_vec();
        finalizers.push("example.com/hold".into());
        object.set("metadata.finalizers", finalizers);
    });
}

fn let_go(cluster: &mut Cluster, key: &Key) {
    cluster.change(key, |object| {
        let mut finalizers = object.items("metadata.finalizers").to_vec();
        finalizers.retain(|finalizer| finalizer != "example.com/hold");
        object.set("metadata.finalizers", finalizers);
    });
    cluster.settle();
}

#[test]
fn background_deletion_collects_the_family_afterwards() {
    let mut cluster = Cluster::new();
    let a = map(&mut cluster, "a", &[]);
    map(&mut cluster, "b", &["a"]);
    map(&mut cluster, "c", &["b"]);
    map(&mut cluster, "d", &[]);
    cluster.settle();
    cluster.delete(&a, "Background");
    assert_eq!(left(&cluster), "b c d");
    cluster.settle();
    assert_eq!(left(&cluster), "d");
}

#[test]
fn orphaning_keeps_the_dependents_without_their_owner() {
    let mut cluster = Cluster::new();
    let a = map(&mut cluster, "a", &[]);
    let b = map(&mut cluster, "b", &["a"]);
    cluster.delete(&a, "Orphan");
    cluster.settle();
    assert_eq!(left(&cluster), "b");
    assert!(cluster.get(&b).unwrap().items("metadata.ownerReferences").is_empty());
}

#[test]
fn foreground_deletion_waits_for_the_dependents_that_block() {
    let mut cluster = Cluster::new();
    let a = map(&mut cluster, "a", &[]);
    let b = map(&mut cluster, "b", &["!a"]);
    let c = map(&mut cluster, "c", &["a"]);
    hold(&mut cluster, &b);
    hold(&mut cluster, &c);
    cluster.settle();
    cluster.delete(&a, "Foreground");
    cluster.settle();
    assert_eq!(left(&cluster), "(a) (b) (c)");
    let_go(&mut cluster, &b);
    assert_eq!(left(&cluster), "(c)", "c does not block");
    let_go(&mut cluster, &c);
    assert_eq!(left(&cluster), "");
}

#[test]
fn foreground_deletion_goes_from_the_leaves_up() {
    let mut cluster = Cluster::new();
    let a = map(&mut cluster, "a", &[]);
    map(&mut cluster, "b", &["!a"]);
    let c = map(&mut cluster, "c", &["!b"]);
    hold(&mut cluster, &c);
    cluster.settle();
    cluster.delete(&a, "Foreground");
    cluster.settle();
    assert_eq!(left(&cluster), "(a) (b) (c)");
    let_go(&mut cluster, &c);
    assert_eq!(left(&cluster), "");
}

#[test]
fn an_object_goes_when_all_its_owners_are_gone() {
    let mut cluster = Cluster::new();
    let a = map(&mut cluster, "a", &[]);
    let b = map(&mut cluster, "b", &[]);
    let c = map(&mut cluster, "c", &["a", "b"]);
    cluster.delete(&a, "Background");
    cluster.settle();
    assert_eq!(left(&cluster), "b c");
    assert_eq!(cluster.get(&c).unwrap().items("metadata.ownerReferences").len(), 1, "the dangling reference goes");
    cluster.delete(&b, "Background");
    cluster.settle();
    assert_eq!(left(&cluster), "");
}

#[test]
fn an_owner_of_another_uid_is_no_owner() {
    let mut cluster = Cluster::new();
    let a = map(&mut cluster, "a", &[]);
    map(&mut cluster, "b", &["a"]);
    cluster.remove(&a);
    map(&mut cluster, "a", &[]);
    cluster.settle();
    assert_eq!(left(&cluster), "a");
}

#[test]
fn an_object_born_without_its_owner_is_collected() {
    let mut cluster = Cluster::new();
    map(&mut cluster, "b", &["never-was"]);
    cluster.settle();
    assert_eq!(left(&cluster), "");
}

#[test]
fn owners_that_cannot_be_judged_keep_their_dependents() {
    let mut cluster = Cluster::new();
    let owner = |version: &str, kind: &str| json!([{"apiVersion": version, "kind": kind, "name": "x", "uid": "x"}]);
    // An unknown kind; a known one of another group.
    for (name, version, kind) in [("a", "example.com/v1", "Thing"), ("b", "example.com/v1", "Deployment")] {
        cluster.create(
            registry::CONFIG_MAP,
            json!({"metadata": {"name": name, "namespace": "default", "ownerReferences": owner(version, kind)}}),
        );
    }
    // A cluster-scoped object cannot be owned from inside a namespace.
    let metadata = json!({"name": "p", "ownerReferences": owner("v1", "ConfigMap")});
    cluster.create(registry::PRIORITY_CLASS, json!({"metadata": metadata, "value": 1}));
    cluster.settle();
    assert_eq!(left(&cluster), "a b");
    assert_eq!(cluster.n(registry::PRIORITY_CLASS), 1);
    expect!["OwnerRefInvalidNamespace x1"].assert_eq(&cluster.reasons());
}

#[test]
fn a_cluster_scoped_owner_may_own_namespaced_objects() {
    let mut cluster = Cluster::new();
    let class = Key::new(registry::PRIORITY_CLASS, "", "p");
    cluster.create(registry::PRIORITY_CLASS, json!({"metadata": {"name": "p"}, "value": 1}));
    let uid = cluster.view().get(&class).unwrap().header.uid.to_string();
    let owner = json!([{"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "name": "p", "uid": uid}]);
    cluster.create(
        registry::CONFIG_MAP,
        json!({"metadata": {"name": "a", "namespace": "default", "ownerReferences": owner}}),
    );
    cluster.settle();
    assert_eq!(left(&cluster), "a");
    cluster.delete(&class, "Background");
    cluster.settle();
    assert_eq!(left(&cluster), "");
}

#[test]
fn pods_of_a_deleted_node_go_at_once() {
    let mut cluster = Cluster::new();
    let node = cluster.node("n1");
    for name in ["stays", "leaves"] {
        cluster.pod(name, json!({"spec": {"nodeName": "n1"}}));
    }
    cluster.run_pods().settle();
    cluster.delete(&Key::new(registry::POD, "default", "leaves"), "");
    cluster.settle();
    assert_eq!(cluster.n(registry::POD), 2);
    cluster.delete(&node, "");
    cluster.settle();
    assert_eq!(cluster.n(registry::POD), 0);
}

#[test]
fn a_pod_bound_by_hand_waits_for_its_node_to_come() {
    let mut cluster = Cluster::new();
    cluster.pod("early", json!({"spec": {"nodeName": "later"}}));
    cluster.later(39_000);
    assert_eq!(cluster.n(registry::POD), 1);
    cluster.later(1_000);
    assert_eq!(cluster.n(registry::POD), 0);
}

#[test]
fn a_pod_that_was_never_assigned_goes_as_soon_as_it_is_deleted() {
    let mut cluster = Cluster::new();
    let pod = cluster.pod("waiting", json!({}));
    cluster.settle();
    cluster.delete(&pod, "");
    cluster.settle();
    assert_eq!(cluster.n(registry::POD), 0);
}

#[test]
fn finished_pods_beyond_the_threshold_go_oldest_first() {
    let mut cluster = Cluster::new();
    for name in ["c", "b", "a"] {
        let pod = cluster.pod(name, json!({}));
        cluster.change(&pod, |pod| pod.set("status.phase", "Succeeded"));
        cluster.now = cluster.now.plus_secs(1);
    }
    cluster.pod("running", json!({}));
    let (view, facts, mut rng) = (cluster.view(), Facts::default(), Rng::new(1));
    let context = Context { view: &view, facts: &facts, now: cluster.now, rng: &mut rng };
    let gone = |max| {
        let plan = pods::excess(&context, max);
        let name = |action: &Action| match action {
            Action::Delete { record, .. } => record.key.name.to_string(),
            other => format!("{other:?}"),
        };
        plan.actions.iter().map(name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((gone(3), gone(2), gone(0)), (String::new(), "c".into(), "c b a".into()));
    assert_eq!(pods::FINISHED_MAX, 12_500);
}
