//! One case or more for every rule, in a small language:
//! `node NAME [cpu=N] [label=value …] [taint=k:Effect] [cordoned]`, `pod NAME [on NODE] [label=value …]`
//! and JSON for what has structure. The answer lists the decisions.

use super::*;
use expect_test::{Expect, expect};
use objects::{Value, ValueExt, json, record, registry};
use state::{LeaderId, Op, State, Txn, View};

fn check(fixture: &str, spec: Value, expected: Expect) {
    let mut state = State::new();
    let mut add = |kind, namespace: &str, object: Value| {
        let key = Key::new(kind, namespace, object.text("metadata.name"));
        let op = Op::Create { key, object: record::encode(&object) };
        state.apply(LeaderId::default(), &Txn { ops: vec![op], ..Txn::default() });
    };
    add(registry::NAMESPACE, "", json!({"metadata": {"name": "default", "labels": {"team": "a"}}}));
    for line in fixture.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words[1];
        let mut labels = serde_json::Map::new();
        let mut object = match words[0] {
            "node" => json!({"metadata": {"name": name}, "spec": {},
                "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}}),
            _ => json!({"metadata": {"name": name, "namespace": "default"},
                "spec": {"schedulerName": NAME, "containers": [{"name": "c"}]}, "status": {"phase": "Pending"}}),
        };
        // A pod on a node gets no extra spec; a waiting one gets the case's.
        let placed = words.get(2) == Some(&"on");
        if words[0] == "pod" {
            let extra = if placed { json!({}) } else { spec.clone() };
            for (field, value) in extra.as_object().unwrap() {
                object.set(&format!("spec.{field}"), value.clone());
            }
        } else {
            labels.insert("kubernetes.io/hostname".into(), name.into());
        }
        let mut rest = words[2..].iter();
        while let Some(word) = rest.next() {
            match word.split_once('=') {
                None if *word == "on" => object.set("spec.nodeName", *rest.next().unwrap()),
                None if *word == "cordoned" => object.set("spec.unschedulable", true),
                Some(("cpu", amount)) if words[0] == "node" => object.set("status.allocatable.cpu", amount),
                Some(("pods", amount)) => object.set("status.allocatable.pods", amount),
                Some((resource @ ("cpu" | "memory"), amount)) => {
                    object["spec"]["containers"][0].set(&format!("resources.requests.{resource}"), amount);
                }
                Some(("port", port)) => {
                    let port: i64 = port.parse().unwrap();
                    object["spec"]["containers"][0].set("ports", json!([{"hostPort": port, "protocol": "TCP"}]));
                }
                Some(("priority", priority)) => object.set("spec.priority", priority.parse::<i64>().unwrap()),
                Some(("taint", taint)) => {
                    let (key, effect) = taint.split_once(':').unwrap();
                    object.set("spec.taints", json!([{"key": key, "effect": effect}]));
                }
                Some(("refuses", app)) => object.set(
                    "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
                    json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]),
                ),
                Some((key, value)) => drop(labels.insert(key.into(), value.into())),
                None => panic!("what is {word}?"),
            }
        }
        object.set("metadata.labels", labels);
        let (kind, namespace) = if words[0] == "node" { (registry::NODE, "") } else { (registry::POD, "default") };
        add(kind, namespace, object);
    }
    let mut model = Model::default();
    model.sync(&View::new(state));
    let text = |decision: Decision| match decision {
        Decision::Bind { pod, node } => format!("{} -> {node}\n", pod.name),
        Decision::Unschedulable { pod, message } => format!("{}: {message}\n", pod.name),
    };
    expected.assert_eq(&place(&mut model).into_iter().map(text).collect::<String>());
}

fn affinity(family: &str, key: &str, app: &str) -> Value {
    json!({"affinity": {family: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}]}}})
}

const HOST: &str = "kubernetes.io/hostname";

#[test]
fn no_nodes() {
    check(
        "pod x",
        json!({}),
        expect![[r#"
        x: no nodes available to schedule pods
    "#]],
    );
}

#[test]
fn node_unschedulable() {
    check(
        "node a cordoned\n node b\n pod x",
        json!({}),
        expect![[r#"
        x -> b
    "#]],
    );
    check(
        "node a cordoned\n pod x",
        json!({}),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) were unschedulable.
    "#]],
    );
}

#[test]
fn node_resources_fit() {
    check(
        "node a cpu=2\n node b cpu=1\n pod y on a cpu=1\n pod x cpu=1500m",
        json!({}),
        expect![[r#"
        x: 0/2 nodes are available: 2 Insufficient cpu.
    "#]],
    );
    check(
        "node a pods=1\n pod y on a\n pod x memory=9Gi",
        json!({}),
        expect![[r#"
        x: 0/1 nodes are available: 1 Insufficient memory, 1 Too many pods.
    "#]],
    );
}

#[test]
fn taint_toleration() {
    check(
        "node a taint=gpu:NoSchedule\n pod x",
        json!({}),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) had untolerated taint(s).
    "#]],
    );
    let tolerates = json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]});
    check(
        "node a taint=gpu:NoSchedule\n pod x",
        tolerates,
        expect![[r#"
        x -> a
    "#]],
    );
    check(
        "node a taint=old:PreferNoSchedule\n node b\n pod x",
        json!({}),
        expect![[r#"
        x -> b
    "#]],
    );
}

#[test]
fn node_affinity() {
    let ssd = json!({"nodeSelector": {"disk": "ssd"}});
    check(
        "node a disk=hdd\n node b disk=ssd\n pod x",
        ssd.clone(),
        expect![[r#"
        x -> b
    "#]],
    );
    check(
        "node a disk=hdd\n pod x",
        ssd,
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.
    "#]],
    );
    let required = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}]}}}});
    check(
        "node a cores=4\n node b cores=8\n pod x",
        required,
        expect![[r#"
        x -> b
    "#]],
    );
    let by_name = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
    check(
        "node a\n node b\n pod x",
        by_name,
        expect![[r#"
        x -> b
    "#]],
    );
    let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
    check(
        "node a\n node b disk=ssd\n pod x",
        preferred,
        expect![[r#"
        x -> b
    "#]],
    );
}

#[test]
fn node_ports() {
    check(
        "node a\n pod y on a port=80\n pod x port=80",
        json!({}),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.
    "#]],
    );
}

#[test]
fn required_anti_affinity_one_per_host() {
    let nodes = "node a\n node b\n node c\n";
    let pods = "pod p1 app=w\n pod p2 app=w\n pod p3 app=w\n pod p4 app=w";
    check(
        &format!("{nodes}{pods}"),
        affinity("podAntiAffinity", HOST, "w"),
        expect![[r#"
        p1 -> a
        p2 -> b
        p3 -> c
        p4: 0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.
    "#]],
    );
}

#[test]
fn anti_affinity_is_symmetric() {
    check(
        "node a\n pod y on a app=db refuses=web\n pod x app=web",
        json!({}),
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.
    "#]],
    );
}

#[test]
fn required_affinity() {
    let near_db = affinity("podAffinity", "zone", "db");
    check(
        "node a zone=1\n node b zone=2\n node c zone=2\n pod y on b app=db\n pod z on b\n pod x app=web",
        near_db.clone(),
        expect![[r#"
        x -> c
    "#]],
    );
    check(
        "node a zone=1\n pod x app=web",
        near_db,
        expect![[r#"
        x: 0/1 nodes are available: 1 node(s) didn't match pod affinity rules.
    "#]],
    );
    // The first of a group that wants to be with itself starts the group.
    check(
        "node a zone=1\n pod x app=db\n pod y app=db",
        affinity("podAffinity", "zone", "db"),
        expect![[r#"
        x -> a
        y -> a
    "#]],
    );
}

#[test]
fn preferred_anti_affinity_spreads_evenly() {
    let spec = json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": {"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": "w"}}}}]}}});
    let pods: String = (1..=6).map(|i| format!("pod p{i} app=w\n")).collect();
    check(
        &format!("node a\n node b\n node c\n {pods}"),
        spec,
        expect![[r#"
        p1 -> a
        p2 -> b
        p3 -> c
        p4 -> a
        p5 -> b
        p6 -> c
    "#]],
    );
}

#[test]
fn topology_spread() {
    let spread = |when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "w"}}}]})
    };
    let fixture = "node a zone=1\n node b zone=2 cordoned\n pod y on a app=w\n pod x app=w";
    check(
        fixture,
        spread("DoNotSchedule"),
        expect![[r#"
        x: 0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable.
    "#]],
    );
    check(
        fixture,
        spread("ScheduleAnyway"),
        expect![[r#"
        x -> a
    "#]],
    );
    check(
        "node a zone=1\n node b\n pod x app=w",
        spread("DoNotSchedule"),
        expect![[r#"
        x -> a
    "#]],
    );
}

#[test]
fn priority_goes_first() {
    check(
        "node a pods=1\n pod low\n pod high priority=9",
        json!({}),
        expect![[r#"
        high -> a
        low: 0/1 nodes are available: 1 Too many pods.
    "#]],
    );
}

#[test]
fn the_emptier_node_wins() {
    check(
        "node a\n node b\n pod y on a cpu=2\n pod x cpu=1",
        json!({}),
        expect![[r#"
        x -> b
    "#]],
    );
}

#[test]
fn gated_and_foreign_pods_are_left_alone() {
    check("node a\n pod x", json!({"schedulingGates": [{"name": "g"}]}), expect![[""]]);
    check("node a\n pod x", json!({"schedulerName": "mine"}), expect![[""]]);
}
