//! Admission: what a worker refuses to run, and why. `POD: JSON of the spec` a line, in the order in which
//! they come; the answer is a line for each.

use super::*;

/// A node of 2 CPUs, 1,000 bytes and three pods, labelled `zone=a`.
fn node() -> Node {
    let allocatable = [("cpu", 2000), ("memory", 1000), ("pods", 3)];
    Node {
        name: "n".into(),
        allocatable: allocatable.map(|(name, amount)| (name.into(), amount)).into(),
        labels: Some([("zone".into(), "a".into())].into()),
    }
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

/// Lets pods come one after the other and tells what became of each.
fn come(specs: &[Value]) -> (Vec<Value>, String) {
    let (mut here, mut told) = (Vec::new(), String::new());
    for spec in specs {
        let mut pod = pod(spec.clone());
        let verdict = admit(&pod, here.iter().filter(|pod| holds_its_place(pod)), &node());
        seal(&mut pod, &verdict, Timestamp(1_000_000));
        told += &verdict.map_or_else(|r| format!("{}: {}\n", r.reason, r.message), |()| "admitted\n".into());
        here.push(pod);
    }
    (here, told)
}

fn check(specs: &[Value], expected: Expect) {
    expected.assert_eq(&come(specs).1);
}

#[test]
fn a_pod_that_exceeds_what_is_left_of_a_resource_fails_with_its_name() {
    check(
        &[asks("1500m", "10"), asks("600m", "10"), asks("100m", "991"), asks("500m", "990")],
        expect![[r#"
            admitted
            OutOfcpu: Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000
            OutOfmemory: Node didn't have enough resource: memory, requested: 991, used: 10, capacity: 1000
            admitted
        "#]],
    );
}

#[test]
fn the_number_of_pods_is_looked_at_first() {
    let small = json!({"containers": [{"name": "c"}]});
    check(
        &[small.clone(), small.clone(), small, asks("9", "1")],
        expect![[r#"
            admitted
            admitted
            admitted
            OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3
        "#]],
    );
}

#[test]
fn a_resource_that_the_node_does_not_have_is_none() {
    let gpu = json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]});
    check(
        &[gpu],
        expect![[r#"
            OutOfexample.com/gpu: Node didn't have enough resource: example.com/gpu, requested: 1, used: 0, capacity: 0
        "#]],
    );
}

#[test]
fn a_port_of_the_node_that_is_taken_is_refused() {
    let port = |port: i64, protocol: &str| json!({"containers": [{"name": "c", "ports": [{"hostPort": port, "protocol": protocol}]}]});
    check(
        &[port(80, "TCP"), port(80, "UDP"), port(80, "TCP")],
        expect![[r#"
            admitted
            admitted
            NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports
        "#]],
    );
}

#[test]
fn a_node_that_the_pod_does_not_choose_is_refused() {
    let required = |zone: &str| {
        json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}}}})
    };
    let selects = |zone: &str| json!({"containers": [], "nodeSelector": {"zone": zone}});
    check(
        &[selects("a"), selects("b"), required("a"), required("b")],
        expect![[r#"
            admitted
            NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector
            admitted
            NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector
        "#]],
    );
    // As long as nobody has told the labels, nothing is refused for them.
    let unknown = Node { labels: None, ..node() };
    assert_eq!(admit(&pod(selects("b")), std::iter::empty(), &unknown), Ok(()));
}

#[test]
fn what_was_refused_or_has_finished_holds_no_place() {
    let (mut here, told) = come(&[asks("1", "1"), asks("2", "1"), asks("1", "1")]);
    assert!(told.starts_with("admitted\nOutOfcpu") && told.ends_with("\nadmitted\n"), "{told}");
    assert_eq!(here.iter().map(holds_its_place).collect::<Vec<_>>(), [true, false, true]);
    here[0].set("status.phase", "Succeeded");
    assert_eq!(admit(&pod(asks("1", "1")), here.iter().filter(|pod| holds_its_place(pod)), &node()), Ok(()));
}

#[test]
fn a_pod_is_asked_once() {
    let (here, _) = come(&[asks("1", "1")]);
    assert!(is_admitted(&here[0]) && !is_admitted(&pod(asks("1", "1"))));
    // It goes on at the worker's restart, even on a node that has shrunk: nobody asks.
    let mut life = Life::new(one());
    seal(&mut life.pod, &Ok(()), life.now);
    life.worker_restarts().settle();
    assert!(is_admitted(&life.pod) && life.trace.contains("start c0"), "{}", life.trace);
}

#[test]
fn a_pod_that_is_not_admitted_has_failed_and_never_runs() {
    let mut life = Life::new(one());
    let rejection = Rejection { reason: "OutOfcpu".into(), message: "too much".into() };
    seal(&mut life.pod, &Err(rejection), life.now);
    life.settle().later(60_000).settle().expect(expect![[r#"
        Failed  wake=-
        Failed  wake=-
    "#]]);
    let status = life.pod.at("status");
    assert_eq!((status.text("reason"), status.text("message")), ("OutOfcpu", "Pod was rejected: too much"));
    // Nothing waits in it, so that its reason is what people see.
    assert!(status.at("containerStatuses").is_null(), "{status}");
    life.delete(30).settle();
    assert!(life.trace.ends_with("stopped\n"), "{}", life.trace);
}
