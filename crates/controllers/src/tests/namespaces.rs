//! Namespaces: what they start with, and how they end.

use super::*;
use expect_test::expect;

#[test]
fn every_namespace_has_its_account_and_the_root_certificate() {
    let mut cluster = Cluster::new();
    cluster.create(registry::NAMESPACE, json!({"metadata": {"name": "other"}}));
    cluster.settle();
    for namespace in ["default", "other"] {
        assert!(cluster.get(&Key::new(registry::SERVICE_ACCOUNT, namespace, "default")).is_some());
        let map = cluster.get(&Key::new(registry::CONFIG_MAP, namespace, "kube-root-ca.crt")).unwrap();
        assert_eq!(map.at("data"), &json!({"ca.crt": "CA"}));
    }
}

#[test]
fn they_are_made_again_and_put_right() {
    let mut cluster = Cluster::new();
    cluster.settle();
    let account = Key::new(registry::SERVICE_ACCOUNT, "default", "default");
    let map = Key::new(registry::CONFIG_MAP, "default", "kube-root-ca.crt");
    cluster.delete(&account, "");
    cluster.delete(&map, "");
    cluster.settle();
    assert!(cluster.get(&account).is_some() && cluster.get(&map).is_some());
    cluster.change(&map, |map| map.set("data", json!({"ca.crt": "forged", "more": "x"})));
    cluster.settle();
    assert_eq!(cluster.get(&map).unwrap().at("data"), &json!({"ca.crt": "CA"}));
}

#[test]
fn a_deleted_namespace_is_emptied_first() {
    let mut cluster = Cluster::new();
    cluster.create(registry::NAMESPACE, json!({"metadata": {"name": "other"}}));
    for i in 0..3 {
        cluster.pod(&format!("p{i}"), json!({"metadata": {"namespace": "other"}}));
    }
    cluster.settle();
    cluster.delete(&Key::new(registry::NAMESPACE, "", "other"), "");
    cluster.settle();
    assert!(cluster.get(&Key::new(registry::NAMESPACE, "", "other")).is_none());
    assert_eq!(cluster.view().list(registry::POD, "other", None).count(), 0);
    assert!(cluster.get(&default_namespace()).is_some(), "the others are untouched");
}

#[test]
fn what_holds_a_namespace_is_told_in_its_conditions() {
    let mut cluster = Cluster::new();
    cluster.node("n");
    let pod = cluster.pod("slow", json!({"spec": {"nodeName": "n"}}));
    cluster.create(
        registry::CONFIG_MAP,
        json!({"metadata": {"name": "held", "namespace": "default", "finalizers": ["example.com/hold"]}}),
    );
    cluster.run_pods().settle();
    cluster.delete(&default_namespace(), "");
    cluster.settle();
    let namespace = cluster.get(&default_namespace()).unwrap();
    assert_eq!(namespace.text("status.phase"), "Terminating");
    expect![[r#"
        NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered: All resources successfully discovered
        NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed
        NamespaceDeletionContentFailure=False ContentDeleted: All content successfully deleted, may be waiting on finalization
        NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: configmaps has 1 resource instances, pods has 1 resource instances
        NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances
    "#]].assert_eq(&conditions(&namespace));
    let held = Key::new(registry::CONFIG_MAP, "default", "held");
    cluster.change(&held, |map| drop(map.remove_at("metadata.finalizers")));
    cluster.settle();
    expect![[r#"
        NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered: All resources successfully discovered
        NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed
        NamespaceDeletionContentFailure=False ContentDeleted: All content successfully deleted, may be waiting on finalization
        NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: pods has 1 resource instances
        NamespaceFinalizersRemaining=False ContentHasNoFinalizers: All content-preserving finalizers finished
    "#]].assert_eq(&conditions(&cluster.get(&default_namespace()).unwrap()));
    cluster.remove(&pod);
    cluster.settle();
    assert!(cluster.get(&default_namespace()).is_none());
}

#[test]
fn finalizers_of_others_hold_the_namespace_itself() {
    let mut cluster = Cluster::new();
    cluster.change(&default_namespace(), |namespace| {
        namespace.set("spec.finalizers", json!(["kubernetes", "example.com/backup"]));
    });
    cluster.settle();
    cluster.delete(&default_namespace(), "");
    cluster.settle();
    let namespace = cluster.get(&default_namespace()).unwrap();
    assert_eq!(namespace.at("spec.finalizers"), &json!(["example.com/backup"]));
}
