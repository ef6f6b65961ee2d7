//! The sandbox: lost, not made, and its addresses.

use super::*;

#[test]
fn a_lost_sandbox_starts_everything_over() {
    let mut life = Life::new(one());
    life.settle();
    life.world.sandbox.as_mut().unwrap().ready = false;
    life.settle().expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=-
          remove s0
          sandbox s1
          start c1
        Running c:ready#1 wake=-
    "#]]);
}

#[test]
fn a_sandbox_that_cannot_be_made_is_tried_again() {
    let mut life = Life::new(one());
    let failure = Failure { reason: "SandboxError".into(), message: "no".into(), n_failures: 1, at: life.now };
    life.memory.failures.insert(String::new(), failure);
    life.settle().later(2_000);
    life.memory.failures.clear();
    life.settle().expect(expect![[r#"
        Pending c:ContainerCreating#0 wake=+2000
          sandbox s1
          start c0
        Running c:ready#0 wake=-
    "#]]);
}

#[test]
fn the_pod_has_the_addresses_of_its_sandbox() {
    let mut life = Life::new(one());
    life.settle();
    life.world.sandbox.as_mut().unwrap().ips = vec!["10.0.0.2".into(), "fd00::2".into()];
    life.settle();
    let status = life.pod.at("status");
    assert_eq!(
        (status.text("podIP"), status.at("podIPs")),
        ("10.0.0.2", &json!([{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]))
    );
    assert_eq!((status.text("hostIP"), status.at("hostIPs")), ("h", &json!([{"ip": "h"}])));
}
