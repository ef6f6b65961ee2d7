//! Restarts: policies, back-off, and counts that are never lost.

use super::*;

#[test]
fn starts_and_restarts_with_back_off() {
    let mut life = Life::new(one());
    life.settle().exit("c", 1).settle().exit("c", 1).settle().later(10_000).settle().exit("c", 1).settle();
    life.expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          start c1
        Running c:ready#1 wake=-
        Running c:CrashLoopBackOff#1 wake=+10000
          start c2
          forget c0
        Running c:ready#2 wake=-
        Running c:CrashLoopBackOff#2 wake=+20000
    "#]]);
}

#[test]
fn ten_minutes_of_running_are_forgiven() {
    let mut life = Life::new(one());
    life.settle().exit("c", 1).settle().later(700_000).exit("c", 1).settle();
    assert!(life.trace.ends_with("  start c2\n  forget c0\nRunning c:ready#2 wake=-\n"), "{}", life.trace);
}

#[test]
fn what_a_machine_took_along_is_no_failure_of_the_container() {
    let mut life = Life::new(one());
    life.settle();
    for _ in 0..5 {
        // Power is lost: neither the runtime nor the worker remembers anything.
        (life.world, life.memory) = (World::default(), Memory::default());
        life.later(1_000).settle();
    }
    life.trace.clear();
    life.exit("c", 1).settle().exit("c", 1).settle();
    life.expect(expect![[r#"
          start c6
        Running c:ready#6 wake=-
        Running c:CrashLoopBackOff#6 wake=+10000
    "#]]);
    // A sandbox that ends under this worker forgives no more.
    life.later(10_000).settle().exit("c", 1).settle();
    life.world = World::default();
    life.settle();
    life.trace.clear();
    life.exit("c", 1).settle();
    assert!(life.trace.contains("CrashLoopBackOff#8 wake=+40000"), "{}", life.trace);
}

#[test]
fn never_and_on_failure() {
    let mut spec = one();
    spec["restartPolicy"] = json!("Never");
    Life::new(spec.clone()).settle().exit("c", 1).settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          stop s0
        Failed c:Error#0 wake=-
    "#]]);
    spec["restartPolicy"] = json!("OnFailure");
    Life::new(spec).settle().exit("c", 1).settle().exit("c", 0).settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          start c1
        Running c:ready#1 wake=-
          stop s0
        Succeeded c:Completed#1 wake=-
    "#]]);
}

#[test]
fn the_first_restart_is_at_once_and_the_delay_doubles_to_five_minutes() {
    let mut life = Life::new(one());
    let mut delays = Vec::new();
    for _ in 0..9 {
        life.settle().exit("c", 1);
        let started = life.now;
        for _ in 0..1_000 {
            let was = life.world.containers.len();
            life.settle();
            if life.world.containers.iter().any(is_running) || life.world.containers.len() != was {
                break;
            }
            life.later(1_000);
        }
        delays.push(life.now.since_ms(started) / 1000);
    }
    assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
}

#[test]
fn a_container_in_back_off_says_for_how_long_and_keeps_its_last_end() {
    let mut life = Life::new(one());
    life.settle().exit("c", 3).settle().exit("c", 4).settle();
    let status = &life.pod.items("status.containerStatuses")[0];
    expect!["CrashLoopBackOff back-off 10s restarting failed container=c pod=p_d(u) last=4 Error"].assert_eq(&format!(
        "{} {} last={} {}",
        status.text("state.waiting.reason"),
        status.text("state.waiting.message"),
        status.at("lastState.terminated.exitCode"),
        status.text("lastState.terminated.reason")
    ));
    life.later(10_000).settle();
    let status = &life.pod.items("status.containerStatuses")[0];
    assert_eq!(status.at("lastState.terminated.exitCode"), 4);
    assert_eq!(life.notes, ["Warning BackOff: Back-off restarting failed container c in pod p_d(u)"]);
}

#[test]
fn always_restarts_what_succeeded_too() {
    Life::new(one()).settle().exit("c", 0).settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          start c1
        Running c:ready#1 wake=-
    "#]]);
}

#[test]
fn on_failure_leaves_what_succeeded_and_restarts_what_failed() {
    let spec = json!({"restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}]});
    let mut life = Life::new(spec);
    life.settle().exit("a", 0).exit("b", 1).settle().exit("b", 0).settle().expect(expect![[r#"
          sandbox s0
          start a0
          start b0
        Running a:ready#0 b:ready#0 wake=-
          start b1
        Running a:Completed#0 b:ready#1 wake=-
          stop s0
        Succeeded a:Completed#0 b:Completed#1 wake=-
    "#]]);
}

#[test]
fn a_pod_runs_while_one_of_its_containers_does() {
    let spec =
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}]});
    let mut life = Life::new(spec);
    life.settle().exit("a", 1).settle().exit("b", 0).settle().expect(expect![[r#"
          sandbox s0
          start a0
          start b0
        Running a:ready#0 b:ready#0 wake=-
        Running a:Error#0 b:ready#0 wake=-
          stop s0
        Failed a:Error#0 b:Completed#0 wake=-
    "#]]);
}

#[test]
fn a_finished_pod_never_runs_again() {
    let mut spec = one();
    spec["restartPolicy"] = json!("Never");
    let mut life = Life::new(spec);
    life.settle().exit("c", 0).settle().later(1_000_000).settle();
    // Even when the runtime has forgotten it, and when the worker has.
    life.world = World::default();
    life.worker_restarts().settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          stop s0
        Succeeded c:Completed#0 wake=-
        Succeeded c:Completed#0 wake=-
        Succeeded c:Completed#0 wake=-
    "#]]);
}

#[test]
fn restart_counts_survive_the_workers_restart() {
    let mut life = Life::new(one());
    life.settle().exit("c", 1).settle().worker_restarts().settle().exit("c", 1).settle();
    life.later(10_000).settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          start c1
        Running c:ready#1 wake=-
        Running c:ready#1 wake=-
        Running c:CrashLoopBackOff#1 wake=+10000
          start c2
          forget c0
        Running c:ready#2 wake=-
    "#]]);
}

#[test]
fn restart_counts_go_on_when_the_runtime_has_lost_the_containers() {
    let mut life = Life::new(one());
    life.settle().exit("c", 1).settle();
    life.world = World::default();
    life.worker_restarts().settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          start c1
        Running c:ready#1 wake=-
          sandbox s2
          start c2
        Running c:ready#2 wake=-
    "#]]);
}

#[test]
fn what_ran_under_never_and_was_lost_has_failed() {
    let mut spec = one();
    spec["restartPolicy"] = json!("Never");
    let mut life = Life::new(spec);
    life.settle();
    life.world = World::default();
    life.worker_restarts().settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
        Failed c:ContainerStatusUnknown#0 wake=-
    "#]]);
}

#[test]
fn another_image_restarts_the_container() {
    let mut life = Life::new(one());
    life.settle();
    life.pod["spec"]["containers"][0]["image"] = json!("i:2");
    life.settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          stop c0 within 30s
          start c1
        Running c:ready#1 wake=-
    "#]]);
    expect!["Normal Killing: Container c definition changed, will be restarted"].assert_eq(&life.notes.join("\n"));
}

#[test]
fn back_off_is_told_once_when_it_begins() {
    let mut life = Life::new(one());
    life.settle().exit("c", 1).settle();
    assert_eq!(life.notes, [""; 0]);
    life.exit("c", 1).settle().later(5_000).settle();
    assert_eq!(life.notes, ["Warning BackOff: Back-off restarting failed container c in pod p_d(u)"]);
    life.later(5_000).settle().exit("c", 1).settle();
    assert_eq!(life.notes.len(), 2);
}
