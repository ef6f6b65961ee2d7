//! Init containers: one after the other, before the main ones.

use super::*;

#[test]
fn init_containers_run_in_turn() {
    let mut spec = one();
    spec["initContainers"] = json!([{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}]);
    Life::new(spec).settle().exit("a", 0).settle().exit("b", 0).settle().expect(expect![[r#"
          sandbox s0
          start a0
        Pending a:running#0 b:PodInitializing#0 c:PodInitializing#0 wake=-
          start b0
        Pending a:Completed#0 b:running#0 c:PodInitializing#0 wake=-
          start c0
        Running a:Completed#0 b:Completed#0 c:ready#0 wake=-
    "#]]);
}

#[test]
fn an_init_container_that_fails_is_tried_again_with_back_off() {
    let mut life = Life::new(with_inits("Always"));
    life.settle().exit("a", 1).settle().exit("a", 1).settle().later(10_000).settle().exit("a", 0).settle();
    life.expect(expect![[r#"
          sandbox s0
          start a0
        Pending a:running#0 b:PodInitializing#0 c:PodInitializing#0 wake=-
          start a1
        Pending a:running#1 b:PodInitializing#0 c:PodInitializing#0 wake=-
        Pending a:CrashLoopBackOff#1 b:PodInitializing#0 c:PodInitializing#0 wake=+10000
          start a2
          forget a0
        Pending a:running#2 b:PodInitializing#0 c:PodInitializing#0 wake=-
          start b0
        Pending a:Completed#2 b:running#0 c:PodInitializing#0 wake=-
    "#]]);
}

#[test]
fn an_init_container_that_fails_under_never_fails_the_pod() {
    Life::new(with_inits("Never")).settle().exit("a", 0).settle().exit("b", 1).settle().expect(expect![[r#"
          sandbox s0
          start a0
        Pending a:running#0 b:PodInitializing#0 c:PodInitializing#0 wake=-
          start b0
        Pending a:Completed#0 b:running#0 c:PodInitializing#0 wake=-
          stop s0
        Failed a:Completed#0 b:Error#0 c:PodInitializing#0 wake=-
    "#]]);
}

#[test]
fn init_containers_are_told_of_in_the_conditions() {
    let mut life = Life::new(with_inits("Always"));
    life.settle().exit("a", 0).settle();
    expect![[r#"
        PodReadyToStartContainers=True
        Initialized=False ContainersNotInitialized: containers with incomplete status: [b]
        Ready=False ContainersNotReady: containers with unready status: [c]
        ContainersReady=False ContainersNotReady: containers with unready status: [c]
        PodScheduled=True
    "#]]
    .assert_eq(&life.conditions());
    life.exit("b", 0).settle();
    expect![[r#"
        PodReadyToStartContainers=True
        Initialized=True
        Ready=True
        ContainersReady=True
        PodScheduled=True
    "#]]
    .assert_eq(&life.conditions());
    let init = &life.pod.items("status.initContainerStatuses")[0];
    assert_eq!((init.at("ready"), init.at("state.terminated.exitCode")), (&json!(true), &json!(0)));
}

#[test]
fn init_containers_do_not_run_again_when_a_main_one_restarts() {
    let mut life = Life::new(with_inits("Always"));
    life.settle().exit("a", 0).settle().exit("b", 0).settle().exit("c", 1).settle();
    assert!(
        life.trace.ends_with("  start c1\nRunning a:Completed#0 b:Completed#0 c:ready#1 wake=-\n"),
        "{}",
        life.trace
    );
}

#[test]
fn init_containers_run_again_in_a_new_sandbox() {
    let mut life = Life::new(with_inits("Always"));
    life.settle().exit("a", 0).settle().exit("b", 0).settle();
    life.world.sandbox.as_mut().unwrap().ready = false;
    life.settle().exit("a", 0).settle().expect(expect![[r#"
          sandbox s0
          start a0
        Pending a:running#0 b:PodInitializing#0 c:PodInitializing#0 wake=-
          start b0
        Pending a:Completed#0 b:running#0 c:PodInitializing#0 wake=-
          start c0
        Running a:Completed#0 b:Completed#0 c:ready#0 wake=-
          remove s0
          sandbox s1
          start a1
        Pending a:running#1 b:Completed#0 c:PodInitializing#0 wake=-
          start b1
        Pending a:Completed#1 b:running#1 c:PodInitializing#0 wake=-
    "#]]);
}
