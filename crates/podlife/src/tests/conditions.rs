//! Conditions, from everything else.

use super::*;

#[test]
fn pod_readiness_follows_all_containers() {
    let mut spec = probed("readinessProbe", json!({}));
    spec["containers"].as_array_mut().unwrap().push(json!({"name": "d", "image": "i:1"}));
    let mut life = Life::new(spec);
    life.settle();
    expect![[r#"
        PodReadyToStartContainers=True
        Initialized=True
        Ready=False ContainersNotReady: containers with unready status: [c]
        ContainersReady=False ContainersNotReady: containers with unready status: [c]
        PodScheduled=True
    "#]]
    .assert_eq(&life.conditions());
    life.answer(ProbeKind::Readiness, true).settle();
    expect![[r#"
        PodReadyToStartContainers=True
        Initialized=True
        Ready=True
        ContainersReady=True
        PodScheduled=True
    "#]]
    .assert_eq(&life.conditions());
}

#[test]
fn conditions_of_a_finished_pod() {
    let mut spec = one();
    spec["restartPolicy"] = json!("Never");
    let mut life = Life::new(spec.clone());
    life.settle().exit("c", 0).settle();
    expect![[r#"
        PodReadyToStartContainers=False
        Initialized=True PodCompleted
        Ready=False PodCompleted
        ContainersReady=False PodCompleted
        PodScheduled=True
    "#]]
    .assert_eq(&life.conditions());
    let mut life = Life::new(spec);
    life.settle().exit("c", 1).settle();
    expect![[r#"
        PodReadyToStartContainers=False
        Initialized=True
        Ready=False PodFailed
        ContainersReady=False PodFailed
        PodScheduled=True
    "#]]
    .assert_eq(&life.conditions());
}

#[test]
fn a_condition_keeps_its_time_while_it_holds() {
    let mut life = Life::new(one());
    let since = |life: &Life| {
        let conditions = life.pod.items("status.conditions");
        conditions.iter().find(|c| c.text("type") == "Ready").unwrap().text("lastTransitionTime").to_string()
    };
    life.settle();
    let first = since(&life);
    life.later(60_000).settle();
    assert_eq!(since(&life), first);
    life.exit("c", 1).settle().exit("c", 1).settle();
    assert_ne!(since(&life), first);
}

#[test]
fn the_id_of_an_image_is_its_digest() {
    let mut life = Life::new(one());
    life.settle();
    let status = &life.pod.items("status.containerStatuses")[0];
    assert_eq!((status.text("image"), status.text("imageID")), ("i:1", "sha256:1"));
}
