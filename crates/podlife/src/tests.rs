//! A pod's life against a world that does what it is told, with every line of the trace checked.

use super::*;
use expect_test::{Expect, expect};
use objects::json;

struct Life {
    pod: Value,
    /// The cluster no longer knows it.
    removed: bool,
    world: World,
    memory: Memory,
    now: Timestamp,
    trace: String,
    /// What people were told: `REASON` or `REASON: message`.
    notes: Vec<String>,
}

impl Life {
    fn new(spec: Value) -> Life {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec});
        objects::kinds::pod::default_pod(&mut pod);
        Life {
            pod,
            removed: false,
            world: World::default(),
            memory: Memory::default(),
            now: Timestamp(1_000_000),
            trace: String::new(),
            notes: Vec::new(),
        }
    }

    /// Steps, performs and reports until there is nothing to do at this instant.
    fn settle(&mut self) -> &mut Life {
        for _ in 0..20 {
            let step = step(&self.pod, self.removed, &self.world, &mut self.memory, self.now, "h");
            self.pod.set("status", step.status.clone());
            self.notes.extend(step.notes.iter().map(|note| format!("{} {}: {}", note.ty, note.reason, note.message)));
            if step.actions.is_empty() {
                let state = |c: &Value| {
                    let state = c.at("state");
                    ["waiting", "terminated"]
                        .iter()
                        .find_map(|k| state.get(*k).map(|s| s.text("reason").to_string()))
                        .unwrap_or_else(|| if c.at("ready") == true { "ready".into() } else { "running".into() })
                };
                let all = ["initContainerStatuses", "containerStatuses"].iter().flat_map(|l| step.status.items(l));
                let states: Vec<String> =
                    all.map(|c| format!("{}:{}#{}", c.text("name"), state(c), c.at("restartCount"))).collect();
                let wake = step.wake.map_or("-".into(), |at| format!("+{}", at.since_ms(self.now)));
                let stopped = if step.stopped { " stopped" } else { "" };
                self.trace += &format!("{} {} wake={wake}{stopped}\n", step.status.text("phase"), states.join(" "));
                return self;
            }
            for action in step.actions {
                let line = self.perform(action);
                self.trace += &format!("  {line}\n");
            }
        }
        panic!("it does not settle:\n{}", self.trace);
    }

    fn perform(&mut self, action: Action) -> String {
        match action {
            Action::StartSandbox { attempt } => {
                let id = format!("s{attempt}");
                self.world.sandbox =
                    Some(Sandbox { id: id.clone(), attempt, ready: true, ips: vec!["10.0.0.1".into()] });
                format!("sandbox {id}")
            }
            Action::RemoveSandbox { id } => {
                self.world = World::default();
                format!("remove {id}")
            }
            Action::StopSandbox { id } => {
                self.world.sandbox.as_mut().unwrap().ready = false;
                format!("stop {id}")
            }
            Action::StartContainer { name, attempt } => {
                let id = format!("{name}{attempt}");
                let state = State::Running { started: self.now };
                let image = self.container(&name).text("image").to_string();
                self.world.containers.push(Observed { name, attempt, id: id.clone(), image, state });
                format!("start {id}")
            }
            Action::StopContainer { id, grace_s, .. } => {
                self.exit_id(&id, 137);
                format!("stop {id} within {grace_s}s")
            }
            Action::RemoveContainer { id } => {
                self.world.containers.retain(|c| c.id != id);
                format!("forget {id}")
            }
            Action::Probe { id, kind, .. } => format!("probe {id} {}", kind.field()),
        }
    }

    fn exit_id(&mut self, id: &str, code: i32) {
        let now = self.now;
        for container in self.world.containers.iter_mut().filter(|c| c.id == id) {
            let State::Running { started } = container.state else { continue };
            let reason = if code == 0 { "Completed" } else { "Error" }.into();
            container.state = State::Exited { started, finished: now, code, reason };
        }
    }

    fn exit(&mut self, name: &str, code: i32) -> &mut Life {
        let id = self.world.latest(name).unwrap().id.clone();
        self.exit_id(&id, code);
        self
    }

    fn later(&mut self, ms: i64) -> &mut Life {
        self.now = self.now.plus_ms(ms);
        self
    }

    fn container(&self, name: &str) -> Value {
        containers(&self.pod).find(|(container, _)| container.text("name") == name).unwrap().0.clone()
    }

    /// The answer of the first container's probe.
    fn answer(&mut self, kind: ProbeKind, ok: bool) -> &mut Life {
        let container = self.pod.items("spec.containers")[0].clone();
        let id = self.world.latest(container.text("name")).unwrap().id.clone();
        let answer = if ok { Ok(()) } else { Err("refused".into()) };
        let note = answered(&container, &id, kind, answer, &mut self.memory);
        self.notes.extend(note.map(|note| format!("{} {}: {}", note.ty, note.reason, note.message)));
        self
    }

    /// Answers, and goes on to when the probe is due again.
    fn answers(&mut self, kind: ProbeKind, answers: &[bool]) -> &mut Life {
        for ok in answers {
            self.answer(kind, *ok).settle().later(10_000).settle();
        }
        self
    }

    /// The worker's process starts anew: what it had in mind is gone, what runs is not.
    fn worker_restarts(&mut self) -> &mut Life {
        self.memory = Memory::default();
        self
    }

    fn delete(&mut self, grace_s: i64) -> &mut Life {
        self.pod.set("metadata.deletionTimestamp", self.now.plus_secs(grace_s).rfc3339());
        self.pod.set("metadata.deletionGracePeriodSeconds", grace_s);
        self
    }

    /// `TYPE=STATUS REASON: message` a line.
    fn conditions(&self) -> String {
        let told = |c: &Value| {
            let text = format!("{}={} {}: {}\n", c.text("type"), c.text("status"), c.text("reason"), c.text("message"));
            text.replace(" : \n", "\n").replace(": \n", "\n")
        };
        self.pod.items("status.conditions").iter().map(told).collect()
    }

    fn expect(&self, expected: Expect) {
        expected.assert_eq(&self.trace);
    }
}

fn one() -> Value {
    json!({"containers": [{"name": "c", "image": "i:1"}]})
}

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
fn the_deadline_ends_a_pod() {
    let mut spec = one();
    spec["activeDeadlineSeconds"] = json!(60);
    let mut life = Life::new(spec);
    life.settle().later(60_000).settle();
    assert_eq!(life.pod.text("status.reason"), "DeadlineExceeded");
    assert_eq!(life.pod.text("status.phase"), "Failed");
}

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

/// Two init containers and a main one.
fn with_inits(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i:1"}],
        "initContainers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}]})
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

fn probed(kind: &str, probe: Value) -> Value {
    let mut spec = one();
    spec["containers"][0][kind] = probe;
    spec["containers"][0][kind]["tcpSocket"] = json!({"port": 1});
    spec
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
