//! Probes: when they are asked and what their answers do.

use super::*;

#[test]
fn a_failing_liveness_probe_restarts() {
    let mut spec = one();
    spec["containers"][0]["livenessProbe"] =
        json!({"tcpSocket": {"port": 1}, "periodSeconds": 5, "failureThreshold": 2});
    let mut life = Life::new(spec);
    life.settle().answer(ProbeKind::Liveness, false).later(5_000).settle().answer(ProbeKind::Liveness, false).settle();
    life.expect(expect![[r#"
          sandbox s0
          start c0
          probe c0 livenessProbe
        Running c:ready#0 wake=-
          probe c0 livenessProbe
        Running c:ready#0 wake=-
          stop c0 within 30s
          start c1
          probe c1 livenessProbe
        Running c:ready#1 wake=-
    "#]]);
}

#[test]
fn a_failing_readiness_probe_shows() {
    let mut spec = one();
    spec["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 1}, "failureThreshold": 1});
    let mut life = Life::new(spec);
    life.settle().answer(ProbeKind::Readiness, true).settle().answer(ProbeKind::Readiness, false).settle();
    life.expect(expect![[r#"
          sandbox s0
          start c0
          probe c0 readinessProbe
        Running c:running#0 wake=-
        Running c:ready#0 wake=+10000
        Running c:running#0 wake=+10000
    "#]]);
}

#[test]
fn a_probe_waits_for_its_initial_delay_and_comes_every_period() {
    let mut life = Life::new(probed("livenessProbe", json!({"initialDelaySeconds": 7, "periodSeconds": 5})));
    life.settle().later(7_000).settle().answer(ProbeKind::Liveness, true).settle().later(5_000).settle();
    life.expect(expect![[r#"
          sandbox s0
          start c0
        Running c:ready#0 wake=+7000
          probe c0 livenessProbe
        Running c:ready#0 wake=-
        Running c:ready#0 wake=+5000
          probe c0 livenessProbe
        Running c:ready#0 wake=-
    "#]]);
}

#[test]
fn a_probe_that_has_not_answered_is_not_asked_again() {
    let mut life = Life::new(probed("livenessProbe", json!({"periodSeconds": 1})));
    life.settle().later(60_000).settle();
    assert_eq!(life.trace.matches("probe c0").count(), 1);
}

#[test]
fn liveness_needs_failure_threshold_failures_in_a_row() {
    let mut life = Life::new(probed("livenessProbe", json!({"failureThreshold": 3})));
    life.settle().answers(ProbeKind::Liveness, &[false, false, true, false, false]);
    assert!(!life.trace.contains("stop c0"), "{}", life.trace);
    life.answers(ProbeKind::Liveness, &[false]);
    assert!(life.trace.contains("stop c0 within 30s"), "{}", life.trace);
    expect![[r#"
        Warning Unhealthy: Liveness probe failed: refused
        Warning Unhealthy: Liveness probe failed: refused
        Warning Unhealthy: Liveness probe failed: refused
        Warning Unhealthy: Liveness probe failed: refused
        Warning Unhealthy: Liveness probe failed: refused
        Normal Killing: Container c failed liveness probe, will be restarted"#]]
    .assert_eq(&life.notes.join("\n"));
}

#[test]
fn a_container_without_a_restart_policy_stays_dead_after_liveness_failed() {
    let mut spec = probed("livenessProbe", json!({"failureThreshold": 1}));
    spec["restartPolicy"] = json!("Never");
    Life::new(spec).settle().answer(ProbeKind::Liveness, false).settle().expect(expect![[r#"
          sandbox s0
          start c0
          probe c0 livenessProbe
        Running c:ready#0 wake=-
          stop c0 within 30s
          stop s0
        Failed c:Error#0 wake=-
    "#]]);
}

#[test]
fn a_failed_probe_stops_within_its_own_grace_or_the_pods() {
    let spec = probed("livenessProbe", json!({"failureThreshold": 1, "terminationGracePeriodSeconds": 7}));
    let mut life = Life::new(spec);
    life.settle().answer(ProbeKind::Liveness, false).settle();
    assert!(life.trace.contains("stop c0 within 7s"), "{}", life.trace);
    let mut spec = probed("livenessProbe", json!({"failureThreshold": 1}));
    spec["terminationGracePeriodSeconds"] = json!(90);
    let mut life = Life::new(spec);
    life.settle().answer(ProbeKind::Liveness, false).settle();
    assert!(life.trace.contains("stop c0 within 90s"), "{}", life.trace);
}

#[test]
fn readiness_needs_success_threshold_successes_in_a_row() {
    let mut life = Life::new(probed("readinessProbe", json!({"successThreshold": 2, "failureThreshold": 2})));
    let ready = |life: &Life| life.pod.items("status.containerStatuses")[0].at("ready") == true;
    let mut seen = vec![ready(life.settle())];
    for ok in [true, false, true, true, false, true, false, false] {
        life.answers(ProbeKind::Readiness, &[ok]);
        seen.push(ready(&life));
    }
    assert_eq!(seen, [false, false, false, false, true, true, true, true, false]);
    assert!(!life.trace.contains("stop"), "readiness stops nothing");
}

#[test]
fn the_other_probes_wait_for_the_startup_probe() {
    let mut spec = probed("startupProbe", json!({"failureThreshold": 30}));
    for kind in ["livenessProbe", "readinessProbe"] {
        spec["containers"][0][kind] = json!({"tcpSocket": {"port": 1}, "failureThreshold": 1});
    }
    let mut life = Life::new(spec);
    life.settle().answers(ProbeKind::Startup, &[false, false]);
    let status = life.pod.items("status.containerStatuses")[0].clone();
    assert_eq!((status.at("started"), status.at("ready")), (&json!(false), &json!(false)));
    life.answer(ProbeKind::Startup, true).settle().answer(ProbeKind::Readiness, true).settle();
    let status = life.pod.items("status.containerStatuses")[0].clone();
    assert_eq!((status.at("started"), status.at("ready")), (&json!(true), &json!(true)));
    life.later(10_000).settle();
    life.expect(expect![[r#"
          sandbox s0
          start c0
          probe c0 startupProbe
        Running c:running#0 wake=-
        Running c:running#0 wake=+10000
          probe c0 startupProbe
        Running c:running#0 wake=-
        Running c:running#0 wake=+10000
          probe c0 startupProbe
        Running c:running#0 wake=-
          probe c0 livenessProbe
          probe c0 readinessProbe
        Running c:running#0 wake=-
        Running c:ready#0 wake=+10000
          probe c0 readinessProbe
        Running c:ready#0 wake=-
    "#]]);
}

#[test]
fn a_startup_probe_that_keeps_failing_restarts() {
    let mut life = Life::new(probed("startupProbe", json!({"failureThreshold": 2})));
    life.settle().answers(ProbeKind::Startup, &[false, false]).expect(expect![[r#"
          sandbox s0
          start c0
          probe c0 startupProbe
        Running c:running#0 wake=-
        Running c:running#0 wake=+10000
          probe c0 startupProbe
        Running c:running#0 wake=-
          stop c0 within 30s
          start c1
          probe c1 startupProbe
        Running c:running#1 wake=-
        Running c:running#1 wake=-
    "#]]);
}

#[test]
fn a_restarted_container_is_probed_afresh() {
    let mut life = Life::new(probed("readinessProbe", json!({"failureThreshold": 1})));
    life.settle().answer(ProbeKind::Readiness, true).settle().exit("c", 1).settle();
    assert!(
        life.trace.ends_with("  start c1\n  probe c1 readinessProbe\nRunning c:running#1 wake=-\n"),
        "{}",
        life.trace
    );
}

#[test]
fn a_probe_that_is_led_elsewhere_passes_with_a_warning() {
    let mut life = Life::new(probed("readinessProbe", json!({})));
    life.settle().answer_with(ProbeKind::Readiness, Answer::Warned("Probe terminated redirects".into())).settle();
    assert!(life.trace.contains("Running c:ready#0"), "{}", life.trace);
    assert_eq!(life.notes, ["Warning ProbeWarning: Readiness probe warning: Probe terminated redirects"]);
}
