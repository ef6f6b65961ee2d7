//! Events: counted when they repeat, gone after an hour.

use super::*;
use expect_test::expect;

fn say(cluster: &mut Cluster, about: &Key, message: &str) {
    let view = cluster.view();
    let record = view.get(about).unwrap();
    let action = event(&view, record, "test", ("Warning", "Odd", message), cluster.now);
    assert!(cluster.perform(action));
}

#[test]
fn the_same_word_about_the_same_thing_is_counted() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.pod("a", json!({})), cluster.pod("b", json!({})));
    for _ in 0..3 {
        say(&mut cluster, &a, "once");
        cluster.now = cluster.now.plus_secs(60);
    }
    say(&mut cluster, &a, "twice");
    say(&mut cluster, &b, "once");
    let mut lines: Vec<String> = Vec::new();
    for record in cluster.view().list(registry::EVENT, "", None) {
        let event = record.value();
        let fields = ["involvedObject.name", "message", "firstTimestamp", "lastTimestamp"];
        let text: Vec<&str> = fields.iter().map(|field| event.text(field)).collect();
        lines.push(format!("{} x{}", text.join(" "), event.at("count")));
    }
    lines.sort();
    expect![[r#"
        a once 2023-11-14T22:13:20Z 2023-11-14T22:15:20Z x3
        a twice 2023-11-14T22:16:20Z 2023-11-14T22:16:20Z x1
        b once 2023-11-14T22:16:20Z 2023-11-14T22:16:20Z x1"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn an_hour_after_it_was_last_seen_an_event_goes() {
    let mut cluster = Cluster::new();
    let a = cluster.pod("a", json!({}));
    cluster.settle();
    say(&mut cluster, &a, "once");
    say(&mut cluster, &a, "again and again");
    cluster.later(30 * 60_000);
    say(&mut cluster, &a, "again and again");
    cluster.later(29 * 60_000);
    assert_eq!(cluster.n(registry::EVENT), 2);
    cluster.later(2 * 60_000);
    assert_eq!(cluster.n(registry::EVENT), 1);
    cluster.later(30 * 60_000);
    assert_eq!(cluster.n(registry::EVENT), 0);
}

#[test]
fn events_about_cluster_scoped_objects_are_in_the_default_namespace() {
    let mut cluster = Cluster::new();
    let node = cluster.node("n");
    say(&mut cluster, &node, "odd");
    assert_eq!(cluster.keys(registry::EVENT)[0].namespace, "default");
}
