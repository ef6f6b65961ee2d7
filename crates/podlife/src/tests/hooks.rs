//! Lifecycle hooks: what waits for postStart, what preStop takes from the grace period.

use super::*;

fn hooks(hooks: Value) -> Value {
    let mut spec = one();
    spec["containers"][0]["lifecycle"] = hooks;
    spec
}

fn pre_stop() -> Value {
    hooks(json!({"preStop": {"exec": {"command": ["x"]}}}))
}

fn post_start() -> Value {
    hooks(json!({"postStart": {"exec": {"command": ["x"]}}}))
}

#[test]
fn a_container_runs_once_its_post_start_hook_is_done() {
    let mut spec = post_start();
    spec["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 1}});
    let mut life = Life::new(spec);
    life.settle().hooked("c", HookKind::PostStart, Ok(())).settle().expect(expect![[r#"
          sandbox s0
          start c0
          hook c0 postStart within 3600s
        Pending c:ContainerCreating#0 wake=-
          probe c0 livenessProbe
        Running c:ready#0 wake=-
    "#]]);
}

#[test]
fn later_containers_wait_for_the_post_start_hook_of_earlier_ones() {
    let mut spec = post_start();
    spec["containers"].as_array_mut().unwrap().push(json!({"name": "d", "image": "i:1"}));
    let mut life = Life::new(spec);
    life.settle().later(1_000).settle().hooked("c", HookKind::PostStart, Ok(())).settle().expect(expect![[r#"
          sandbox s0
          start c0
          hook c0 postStart within 3600s
        Pending c:ContainerCreating#0 d:ContainerCreating#0 wake=-
        Pending c:ContainerCreating#0 d:ContainerCreating#0 wake=-
          start d0
        Running c:ready#0 d:ready#0 wake=-
    "#]]);
}

#[test]
fn a_failing_post_start_hook_ends_the_container() {
    let mut life = Life::new(post_start());
    life.settle().hooked("c", HookKind::PostStart, Err("no".into())).settle();
    life.hooked("c", HookKind::PostStart, Ok(())).settle().expect(expect![[r#"
          sandbox s0
          start c0
          hook c0 postStart within 3600s
        Pending c:ContainerCreating#0 wake=-
          stop c0 within 30s
          start c1
          hook c1 postStart within 3600s
        Running c:ContainerCreating#1 wake=-
        Running c:ready#1 wake=-
    "#]]);
    expect![[r#"
        Warning FailedPostStartHook: PostStartHook failed: no
        Normal Killing: FailedPostStartHook"#]]
    .assert_eq(&life.notes.join("\n"));
}

#[test]
fn a_worker_that_restarts_runs_a_post_start_hook_again_only_if_it_was_not_done() {
    let mut life = Life::new(post_start());
    life.settle()
        .worker_restarts()
        .settle()
        .hooked("c", HookKind::PostStart, Ok(()))
        .settle()
        .worker_restarts()
        .settle();
    life.expect(expect![[r#"
          sandbox s0
          start c0
          hook c0 postStart within 3600s
        Pending c:ContainerCreating#0 wake=-
          hook c0 postStart within 3600s
        Pending c:ContainerCreating#0 wake=-
        Running c:ready#0 wake=-
        Running c:ready#0 wake=-
    "#]]);
}

#[test]
fn a_pre_stop_hook_takes_from_the_grace_period() {
    let mut life = Life::new(pre_stop());
    life.settle().delete(30).settle().later(12_000).settle().hooked("c", HookKind::PreStop, Ok(())).settle();
    life.expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          hook c0 preStop within 30s
        Running c:ready#0 wake=+30000
        Running c:ready#0 wake=+18000
          stop c0 within 18s
          remove s0
        Failed c:Error#0 wake=- stopped
    "#]]);
    expect!["Normal Killing: Stopping container c"].assert_eq(&life.notes.join("\n"));
}

#[test]
fn a_pre_stop_hook_that_fails_is_told_and_the_container_ends() {
    let mut life = Life::new(pre_stop());
    life.settle().delete(30).settle().hooked("c", HookKind::PreStop, Err("no".into())).settle();
    life.expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          hook c0 preStop within 30s
        Running c:ready#0 wake=+30000
          stop c0 within 30s
          remove s0
        Failed c:Error#0 wake=- stopped
    "#]]);
    expect![[r#"
        Normal Killing: Stopping container c
        Warning FailedPreStopHook: PreStopHook failed: no"#]]
    .assert_eq(&life.notes.join("\n"));
}

#[test]
fn a_pre_stop_hook_that_takes_all_of_the_grace_leaves_two_seconds() {
    let mut life = Life::new(pre_stop());
    life.settle().delete(30).settle().later(40_000).settle();
    assert!(life.trace.contains("stop c0 within 2s"), "{}", life.trace);
}

#[test]
fn a_shorter_grace_cuts_a_pre_stop_hook_short() {
    let mut life = Life::new(pre_stop());
    life.settle().delete(30).settle().later(1_000).delete(1).settle();
    assert!(life.trace.ends_with(" wake=+1000\n"), "{}", life.trace);
    life.later(2_000).settle();
    assert!(life.trace.contains("stop c0 within 2s"), "{}", life.trace);
}

#[test]
fn a_pre_stop_hook_runs_before_every_end_that_is_not_the_containers_own() {
    let mut spec = pre_stop();
    spec["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 1}, "failureThreshold": 1});
    let mut life = Life::new(spec);
    life.settle().answer(ProbeKind::Liveness, false).settle().later(5_000).settle();
    life.hooked("c", HookKind::PreStop, Ok(())).settle().exit("c", 0).settle().expect(expect![[r#"
          sandbox s0
          start c0
          probe c0 livenessProbe
        Running c:ready#0 wake=-
          hook c0 preStop within 30s
        Running c:ready#0 wake=+30000
        Running c:ready#0 wake=+25000
          stop c0 within 25s
          start c1
          probe c1 livenessProbe
        Running c:ready#1 wake=-
        Running c:CrashLoopBackOff#1 wake=+10000
    "#]]);
    let mut life = Life::new(pre_stop());
    life.settle();
    life.pod["spec"]["containers"][0]["image"] = json!("i:2");
    life.settle();
    assert!(life.trace.contains("hook c0 preStop within 30s"), "{}", life.trace);
}
