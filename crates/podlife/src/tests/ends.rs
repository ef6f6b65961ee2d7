//! How a pod ends: deletion, grace and deadline.

use super::*;

#[test]
fn a_deleted_pod_stops_within_its_grace() {
    let mut life = Life::new(one());
    life.settle();
    life.pod.set("metadata.deletionTimestamp", life.now.plus_secs(5).rfc3339());
    life.pod.set("metadata.deletionGracePeriodSeconds", 5);
    life.settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          stop c0 within 5s
          remove s0
        Failed c:Error#0 wake=- stopped
    "#]]);
}

#[test]
fn the_deadline_ends_a_pod() {
    let mut spec = one();
    spec["activeDeadlineSeconds"] = json!(60);
    let mut life = Life::new(spec);
    life.settle().later(60_000).settle();
    assert_eq!(life.pod.text("status.reason"), "DeadlineExceeded");
    assert_eq!(life.pod.text("status.phase"), "Failed");
}

#[test]
fn grace_is_what_is_left_of_an_absolute_deadline() {
    let mut life = Life::new(one());
    life.settle().delete(30).later(20_000).settle();
    assert!(life.trace.contains("stop c0 within 11s"), "{}", life.trace);
    // A worker that comes back after the deadline does not start counting again.
    let mut life = Life::new(one());
    life.settle().delete(30).later(3_600_000).settle();
    assert!(life.trace.contains("stop c0 within 1s"), "{}", life.trace);
}

#[test]
fn a_pod_the_cluster_no_longer_knows_is_stopped_with_its_own_grace() {
    let mut spec = one();
    spec["terminationGracePeriodSeconds"] = json!(12);
    let mut life = Life::new(spec);
    life.settle();
    life.removed = true;
    life.settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          stop c0 within 12s
          remove s0
        Running c:Error#0 wake=- stopped
    "#]]);
}

#[test]
fn a_deleted_pod_starts_nothing_any_more() {
    let mut life = Life::new(with_inits("Always"));
    life.settle().delete(5).exit("a", 0).settle();
    life.expect(expect![[r#"
          sandbox s0
          start a0
        Pending a:running#0 b:PodInitializing#0 c:PodInitializing#0 wake=-
          remove s0
        Pending a:Completed#0 b:PodInitializing#0 c:PodInitializing#0 wake=- stopped
    "#]]);
}

#[test]
fn a_pod_deleted_before_it_started_is_gone_at_once() {
    Life::new(one()).delete(30).settle().expect(expect![[r#"
        Pending c:ContainerCreating#0 wake=- stopped
    "#]]);
}

#[test]
fn a_deleted_pod_ends_as_its_containers_did() {
    let mut life = Life::new(one());
    life.settle().exit("c", 0).delete(30);
    life.settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          remove s0
        Succeeded c:Completed#0 wake=- stopped
    "#]]);
}

#[test]
fn the_deadline_counts_from_the_start_even_across_the_workers_restart() {
    let mut spec = one();
    spec["activeDeadlineSeconds"] = json!(60);
    let mut life = Life::new(spec);
    life.settle().later(30_000).worker_restarts().settle().later(30_000).settle();
    life.expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=+60000
        Running c:ready#0 wake=+30000
          stop c0 within 30s
          stop s0
        Failed c:Error#0 wake=-
    "#]]);
}
