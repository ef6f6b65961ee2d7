//! Which pods wait, and in which order they are placed.

use super::{World, check, told};
use crate::place;
use expect_test::expect;
use objects::{Key, ValueExt, json, registry};

#[test]
fn the_more_important_goes_first() {
    check(
        "node a pods=1\n pod low at=1\n pod high at=2 priority=9",
        expect![[r#"
        high -> a
        low: 0/1 nodes are available: 1 Too many pods.
    "#]],
    );
}

#[test]
fn among_equals_the_earlier_goes_first() {
    check(
        "node a pods=1\n pod a at=2\n pod b at=1",
        expect![[r#"
        b -> a
        a: 0/1 nodes are available: 1 Too many pods.
    "#]],
    );
    check(
        "node a pods=1\n pod b at=1\n pod a at=1",
        expect![[r#"
        a -> a
        b: 0/1 nodes are available: 1 Too many pods.
    "#]],
    );
}

#[test]
fn each_placement_counts_for_the_next() {
    check(
        "node a cpu=2\n pod x cpu=1\n pod y cpu=1\n pod z cpu=1",
        expect![[r#"
        x -> a
        y -> a
        z: 0/1 nodes are available: 1 Insufficient cpu.
    "#]],
    );
}

#[test]
fn a_gated_pod_waits_for_its_gates_to_go() {
    let mut world = World::of("node a\n pod x :: {\"schedulingGates\": [{\"name\": \"g\"}]}");
    let mut model = world.model();
    assert_eq!(told(place(&mut model, usize::MAX)), "x is gated\n");
    assert_eq!(told(place(&mut model, usize::MAX)), "", "it is said once");
    world.change_pod("x", |pod| drop(pod.remove_at("spec.schedulingGates")));
    model.sync(&world.view());
    assert_eq!(told(place(&mut model, usize::MAX)), "x -> a\n");
}

#[test]
fn leaving_pods_and_those_of_other_schedulers_are_left_alone() {
    check("node a\n pod y :: {\"schedulerName\": \"mine\"}", expect![]);
    let mut world = World::of("node a\n pod x");
    world.change_pod("x", |pod| pod.set("metadata.deletionTimestamp", "2026-01-01T00:00:00Z"));
    assert_eq!(told(place(&mut world.model(), usize::MAX)), "");
}

#[test]
fn a_round_takes_the_most_important_ones_and_leaves_the_rest_for_the_next() {
    let mut model = World::of("node a\n pod x1 at=1\n pod x2 at=2\n pod x3 at=3 priority=1").model();
    assert_eq!(told(place(&mut model, 2)), "x3 -> a\nx1 -> a\n");
    assert_eq!(told(place(&mut model, 2)), "x2 -> a\n");
}

#[test]
fn a_pod_that_fits_nowhere_is_tried_again_when_the_cluster_changes() {
    let mut world = World::of("node a pods=1\n pod y on a\n pod x");
    let mut model = world.model();
    let again = |world: &World, model: &mut crate::Model| {
        model.sync(&world.view());
        told(place(model, usize::MAX))
    };
    assert_eq!(told(place(&mut model, usize::MAX)), "x: 0/1 nodes are available: 1 Too many pods.\n");
    // Nothing has changed; being told does not count, and neither does a heartbeat.
    assert_eq!(again(&world, &mut model), "");
    world.change_pod("x", |pod| pod.set("status.conditions", json!([{"type": "PodScheduled", "status": "False"}])));
    let mut node = world.view().get(&Key::new(registry::NODE, "", "a")).unwrap().value();
    node.set("status.conditions", json!([{"type": "Ready", "status": "True"}]));
    world.put(registry::NODE, node);
    assert_eq!(again(&world, &mut model), "");
    // A pod that goes, a label, a node, a namespace's label: each may make room.
    world.remove_pod("y");
    assert_eq!(again(&world, &mut model), "x -> a\n");
    world.read("pod z :: {\"nodeSelector\": {\"disk\": \"ssd\"}}");
    assert_eq!(
        again(&world, &mut model),
        "z: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.\n"
    );
    world.read("node b disk=ssd");
    assert_eq!(again(&world, &mut model), "z -> b\n");
    assert!(model.sums_are_true());
}

#[test]
fn a_refused_binding_is_tried_again() {
    let world = World::of("node a\n pod x");
    let mut model = world.model();
    assert_eq!(told(place(&mut model, usize::MAX)), "x -> a\n");
    assert_eq!(told(place(&mut model, usize::MAX)), "");
    model.forget(&Key::new(registry::POD, "default", "x"));
    assert_eq!(told(place(&mut model, usize::MAX)), "x -> a\n");
    assert!(model.sums_are_true());
}

/// Random comings and goings; a failing seed is printed and becomes a named test.
#[test]
fn the_sums_of_each_node_stay_true() {
    for seed in 0..20 {
        let mut rng = stdx::Rng::new(seed);
        let mut world = World::of("node a\n node b\n node c");
        let mut model = world.model();
        for i in 0..60 {
            let name = format!("p{}", rng.below(8));
            let exists = world.view().get(&Key::new(registry::POD, "default", &name)).is_some();
            match rng.below(4) {
                0 | 1 if !exists => world.read(&format!("pod {name} cpu={}m app=w", 100 * (i % 7))),
                2 if exists => world.remove_pod(&name),
                3 if exists => world.change_pod(&name, |pod| pod.set("spec.nodeName", "b")),
                _ => drop(place(&mut model, usize::MAX)),
            }
            model.sync(&world.view());
            assert!(model.sums_are_true(), "seed {seed}, step {i}");
        }
    }
}
