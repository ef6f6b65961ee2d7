//! What keeps a container from starting, and when it is tried again.

use super::*;

#[test]
fn an_image_that_cannot_be_pulled_is_told_and_retried() {
    let mut life = Life::new(one());
    life.world.sandbox = Some(Sandbox { id: "s0".into(), attempt: 0, ready: true, ips: vec![] });
    let failure = Failure { reason: "ErrImagePull".into(), message: "no".into(), n_failures: 1, at: life.now };
    life.memory.failures.insert("c".into(), failure);
    life.settle().expect(expect![[r#"
        Pending c:ErrImagePull#0 wake=+10000
    "#]]);
}

#[test]
fn images_are_backed_off_from_ten_seconds_to_five_minutes() {
    let mut life = Life::new(one());
    life.world.sandbox = Some(Sandbox { id: "s0".into(), attempt: 0, ready: true, ips: vec![] });
    let mut told = Vec::new();
    for n_failures in 1..=7 {
        let failure = Failure { reason: "ErrImagePull".into(), message: "no".into(), n_failures, at: life.now };
        life.memory.failures.insert("c".into(), failure);
        let step = step(&life.pod, false, &life.world, &mut life.memory, life.now, "h");
        assert!(step.actions.is_empty());
        let waiting = step.status.items("containerStatuses")[0].text("state.waiting.reason").to_string();
        told.push(format!("{waiting} +{}s", step.wake.unwrap().since_ms(life.now) / 1000));
    }
    expect![[r#"
        ErrImagePull +10s
        ImagePullBackOff +20s
        ImagePullBackOff +40s
        ImagePullBackOff +80s
        ImagePullBackOff +160s
        ImagePullBackOff +300s
        ImagePullBackOff +300s"#]]
    .assert_eq(&told.join("\n"));
    life.later(300_000);
    let step = step(&life.pod, false, &life.world, &mut life.memory, life.now, "h");
    assert_eq!(step.actions, [Action::StartContainer { name: "c".into(), attempt: 0 }]);
}

#[test]
fn missing_configuration_is_looked_for_every_two_seconds() {
    let mut life = Life::new(one());
    life.world.sandbox = Some(Sandbox { id: "s0".into(), attempt: 0, ready: true, ips: vec![] });
    let reason = "CreateContainerConfigError".to_string();
    let failure = Failure { reason, message: "configmap \"m\" not found".into(), n_failures: 9, at: life.now };
    life.memory.failures.insert("c".into(), failure);
    life.settle().expect(expect![[r#"
        Pending c:CreateContainerConfigError#0 wake=+2000
    "#]]);
}

#[test]
fn an_image_that_is_backed_off_is_told_once_a_time() {
    let mut life = Life::new(one());
    life.world.sandbox = Some(Sandbox { id: "s0".into(), attempt: 0, ready: true, ips: vec![] });
    for n_failures in 1..=3 {
        let failure = Failure { reason: "ErrImagePull".into(), message: "no".into(), n_failures, at: life.now };
        life.memory.failures.insert("c".into(), failure);
        life.settle().later(1_000).settle();
    }
    assert_eq!(life.notes, ["Normal BackOff: Back-off pulling image \"i:1\""; 2]);
}

#[test]
fn a_name_that_no_image_can_have_is_told() {
    let mut life = Life::new(one());
    life.world.sandbox = Some(Sandbox { id: "s0".into(), attempt: 0, ready: true, ips: vec![] });
    let reason = "InvalidImageName".to_string();
    let failure = Failure { reason, message: "it has two tags".into(), n_failures: 1, at: life.now };
    life.memory.failures.insert("c".into(), failure);
    life.settle().expect(expect![[r#"
        Pending c:InvalidImageName#0 wake=+10000
    "#]]);
}
