//! A pod's life against a world that does what it is told, with every line of the trace checked.

use super::*;
use expect_test::{Expect, expect};
use objects::json;

struct Life {
    pod: Value,
    world: World,
    memory: Memory,
    now: Timestamp,
    trace: String,
}

impl Life {
    fn new(spec: Value) -> Life {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec});
        objects::kinds::pod::default_pod(&mut pod);
        Life {
            pod,
            world: World::default(),
            memory: Memory::default(),
            now: Timestamp(1_000_000),
            trace: String::new(),
        }
    }

    /// Steps, performs and reports until there is nothing to do at this instant.
    fn settle(&mut self) -> &mut Life {
        for _ in 0..20 {
            let step = step(&self.pod, false, &self.world, &mut self.memory, self.now, "h");
            self.pod.set("status", step.status.clone());
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
                self.world.containers.push(Observed { name, attempt, id: id.clone(), image: "i:1".into(), state });
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

    fn answer(&mut self, kind: ProbeKind, ok: bool) -> &mut Life {
        let container = self.pod.items("spec.containers")[0].clone();
        let id = self.world.latest(container.text("name")).unwrap().id.clone();
        let answer = if ok { Ok(()) } else { Err("refused".into()) };
        answered(&container, &id, kind, answer, &mut self.memory);
        self
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
        Pending a:running#0 b:ContainerCreating#0 c:PodInitializing#0 wake=-
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
