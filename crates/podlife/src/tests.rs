//! A pod's life against a world that does what it is told, with every line of the trace checked.

mod admission;
mod conditions;
mod ends;
mod failures;
mod hooks;
mod images;
mod inits;
mod probes;
mod restarts;
mod sandboxes;

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
                let image_id = "sha256:1".into();
                self.world.containers.push(Observed { name, attempt, id: id.clone(), image, image_id, state });
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
            Action::Hook { id, kind, within_s, .. } => format!("hook {id} {} within {within_s}s", kind.field()),
        }
    }

    fn exit_id(&mut self, id: &str, code: i32) {
        let now = self.now;
        for container in self.world.containers.iter_mut().filter(|c| c.id == id) {
            let State::Running { started } = container.state else { continue };
            let reason = if code == 0 { "Completed" } else { "Error" }.into();
            container.state = State::Exited { started, finished: now, code, reason, message: String::new() };
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
        self.answer_with(kind, if ok { Answer::Passed } else { Answer::Failed("refused".into()) })
    }

    fn answer_with(&mut self, kind: ProbeKind, answer: Answer) -> &mut Life {
        let container = self.pod.items("spec.containers")[0].clone();
        let id = self.world.latest(container.text("name")).unwrap().id.clone();
        let note = answered(&container, &id, kind, answer, &mut self.memory);
        self.notes.extend(note.map(|note| format!("{} {}: {}", note.ty, note.reason, note.message)));
        self
    }

    /// The end of a hook of a container's newest attempt.
    fn hooked(&mut self, name: &str, kind: HookKind, result: Result<(), String>) -> &mut Life {
        let id = self.world.latest(name).unwrap().id.clone();
        let note = hooked(name, &id, kind, result, &mut self.memory);
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

/// Two init containers and a main one.
fn with_inits(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i:1"}],
        "initContainers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}]})
}

fn probed(kind: &str, probe: Value) -> Value {
    let mut spec = one();
    spec["containers"][0][kind] = probe;
    spec["containers"][0][kind]["tcpSocket"] = json!({"port": 1});
    spec
}
