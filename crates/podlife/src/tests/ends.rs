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
fn a_container_that_was_created_and_never_started_holds_no_deletion_up() {
    let mut life = Life::new(one());
    life.settle();
    life.world.containers[0].state = State::Created;
    life.trace.clear();
    life.delete(30).settle().expect(expect![[r#"
          remove s0
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

fn limited() -> Life {
    let mut spec = one();
    spec["volumes"] = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Ki"}}, {"name": "w", "emptyDir": {}}]);
    Life::new(spec)
}

/// Takes in what the volumes take.
fn takes(life: &mut Life, v: i64, w: i64) {
    let usage = [("v".to_string(), v), ("w".to_string(), w)].into();
    let note = measured(&life.pod, &usage, &mut life.memory);
    life.notes.extend(note.map(|note| format!("{} {}: {}", note.ty, note.reason, note.message)));
}

#[test]
fn a_pod_whose_volume_outgrew_its_limit_is_evicted() {
    let mut life = limited();
    life.settle();
    takes(&mut life, 1024, 1 << 40);
    life.settle();
    assert_eq!(life.pod.text("status.phase"), "Running");
    takes(&mut life, 1025, 0);
    takes(&mut life, 1026, 0);
    life.settle().worker_restarts().settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
        Running c:ready#0 wake=-
          stop c0 within 1s
          stop s0
        Failed c:Error#0 wake=-
        Failed c:Error#0 wake=-
    "#]]);
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ";
    assert_eq!((life.pod.text("status.reason"), life.pod.text("status.message")), ("Evicted", message));
    assert_eq!(life.notes[0], format!("Warning Evicted: {message}"));
    assert_eq!(life.notes.iter().filter(|note| note.contains("Evicted")).count(), 1);
}

/// Ends a container with words.
fn says(life: &mut Life, name: &str, text: &str) {
    life.exit(name, 1);
    for container in life.world.containers.iter_mut().filter(|container| container.name == name) {
        if let State::Exited { message, .. } = &mut container.state {
            *message = text.into();
        }
    }
}

#[test]
fn last_words_are_told_and_kept_for_the_next_attempt() {
    let mut life = Life::new(one());
    life.settle();
    says(&mut life, "c", "it was the disk");
    life.settle();
    let status = &life.pod.items("status.containerStatuses")[0];
    assert_eq!(status.text("lastState.terminated.message"), "it was the disk");
    let mut spec = one();
    spec["restartPolicy"] = json!("Never");
    let mut life = Life::new(spec);
    life.settle();
    says(&mut life, "c", "good bye");
    life.settle();
    assert_eq!(life.pod.items("status.containerStatuses")[0].text("state.terminated.message"), "good bye");
}

#[test]
fn last_words_are_cut_to_a_share_of_twelve_kibibytes() {
    for (n_containers, bytes) in [(1, 4096), (3, 4096), (4, 3072), (12, 1024)] {
        let container = |i: usize| json!({"name": format!("c{i}"), "image": "i:1"});
        let mut life = Life::new(json!({
            "restartPolicy": "Never", "containers": (0..n_containers).map(container).collect::<Vec<_>>()}));
        life.settle();
        says(&mut life, "c0", &"x".repeat(5_000));
        life.settle();
        let status = &life.pod.items("status.containerStatuses")[0];
        assert_eq!(status.text("state.terminated.message").len(), bytes, "{n_containers} containers");
    }
    // Between characters.
    let mut spec = one();
    spec["restartPolicy"] = json!("Never");
    let mut life = Life::new(spec);
    life.settle();
    says(&mut life, "c", &"€".repeat(2_000));
    life.settle();
    assert_eq!(life.pod.items("status.containerStatuses")[0].text("state.terminated.message").len(), 4095);
}
