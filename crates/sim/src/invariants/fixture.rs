//! Small chronicles: objects put and deleted one after the other, a revision each.

use crate::chronicle::{Chronicle, Item, Sitting};
use crate::workers::{DEDICATED, ZONE};
use objects::{Key, KindId, Timestamp, Value, ValueExt, json, record, registry};
use runtime::{ContainerInfo, ContainerState, SandboxInfo};
use state::{LeaderId, Op, State, Txn, View};

pub(super) struct Fixture {
    pub(super) chronicle: Chronicle,
    state: State,
    /// When the last event was applied, and how much later the next one is.
    now_ms: u64,
    step_ms: u64,
}

/// Longer than any moment that counts as the same.
const STEP_MS: u64 = 10_000;

impl Default for Fixture {
    fn default() -> Fixture {
        Fixture { chronicle: Chronicle::default(), state: State::new(), now_ms: 0, step_ms: STEP_MS }
    }
}

impl Fixture {
    /// Applies one txn, ten seconds after the one before unless it was to be sooner.
    fn apply(&mut self, ops: Vec<Op>) {
        self.now_ms += std::mem::replace(&mut self.step_ms, STEP_MS);
        let applied = self.state.apply(LeaderId::default(), &Txn { ops, ..Txn::default() });
        for event in applied.events {
            let revision = event.revision.0;
            self.chronicle.events.insert(revision, (self.now_ms, event));
        }
    }

    fn op(&self, kind: KindId, object: &Value) -> Op {
        let namespace = if kind == registry::NODE { "" } else { "default" };
        let key = Key::new(kind, namespace, object.text("metadata.name"));
        let object = record::encode(object);
        match self.view().get(&key) {
            Some(record) => Op::Update { key, assumed: record.header.revision, object },
            None => Op::Create { key, object },
        }
    }

    /// The next event follows so soon.
    pub(super) fn soon(mut self, ms: u64) -> Fixture {
        self.step_ms = ms;
        self
    }

    /// All objects as they are now.
    pub(super) fn view(&self) -> View {
        View::new(self.state.clone())
    }

    /// Two pods in one txn.
    pub(super) fn pair(mut self, first: Value, second: Value) -> Fixture {
        let ops = vec![self.op(registry::POD, &first), self.op(registry::POD, &second)];
        self.apply(ops);
        self
    }

    pub(super) fn put(mut self, kind: KindId, object: Value) -> Fixture {
        let op = self.op(kind, &object);
        self.apply(vec![op]);
        self
    }

    pub(super) fn delete(mut self, kind: KindId, name: &str) -> Fixture {
        let key = Key::new(kind, "default", name);
        let assumed = self.view().get(&key).expect("it is there").header.revision;
        self.apply(vec![Op::Delete { key, assumed }]);
        self
    }

    /// A node with room for so much CPU, in thousandths.
    pub(super) fn node(self, name: &str, cpu: i64) -> Fixture {
        let allocatable = json!({"cpu": format!("{cpu}m"), "pods": "10"});
        self.put(registry::NODE, json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}}))
    }

    /// A node in a zone, for everybody or not.
    pub(super) fn zoned(self, name: &str, zone: &str, is_dedicated: bool) -> Fixture {
        let taints = match is_dedicated {
            true => json!([{"key": DEDICATED, "value": "yes", "effect": "NoSchedule"}]),
            false => json!([]),
        };
        self.put(
            registry::NODE,
            json!({"metadata": {"name": name, "labels": {ZONE: zone}}, "spec": {"taints": taints}}),
        )
    }

    /// A pod of an app; an empty node for none.
    pub(super) fn pod(self, name: &str, app: &str, node: &str, apart: bool) -> Fixture {
        self.put(registry::POD, pod(name, app, node, apart))
    }

    /// A watcher's connection: `ADDED 1 a` is an event, `mark 2` a bookmark, `upto 3` the end of a batch; `there 1 a` is
    /// what it begins with.
    pub(super) fn sitting(mut self, app: Option<&str>, from: u64, text: &str) -> Fixture {
        let lines = text.split(',').map(str::trim).filter(|line| !line.is_empty());
        let (there, lines): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with("there "));
        let present = there.iter().map(|line| {
            let (revision, name) = line["there ".len()..].split_once(' ').unwrap();
            (revision.parse().unwrap(), name.to_string())
        });
        let present: Vec<(u64, String)> = present.collect();
        let item = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["mark", at] => Item::Bookmark(at.parse().unwrap()),
                ["upto", at] => Item::Caught(at.parse().unwrap()),
                [ty, revision, name] => {
                    let revision: u64 = revision.parse().unwrap();
                    let ty = ["ADDED", "MODIFIED", "DELETED"].into_iter().find(|known| *known == ty).unwrap();
                    let (_, event) = &self.chronicle.events[&revision];
                    let json = match (ty, &event.new) {
                        ("DELETED", _) | (_, None) => event.parting_json(),
                        (_, Some(record)) => record.json.clone(),
                    };
                    Item::Event { ty, revision, name: name.into(), json }
                }
                _ => panic!("{line:?} is no item"),
            }
        };
        let items = lines.into_iter().map(item).collect();
        self.chronicle.sittings.push(Sitting {
            who: "watcher".into(),
            kind: registry::POD,
            namespace: "default".into(),
            app: app.map(Into::into),
            from,
            present: (!present.is_empty()).then_some(present),
            items,
        });
        self
    }
}

pub(super) fn pod(name: &str, app: &str, node: &str, apart: bool) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "400m"}}}]},
        "status": {"phase": "Pending"},
    });
    if !node.is_empty() {
        pod.set("spec.nodeName", node);
    }
    if apart {
        let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}});
        pod.set("spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution", json!([term]));
    }
    pod
}

/// What a runtime has of a pod: one container, which runs.
pub(super) fn sandbox(name: &str) -> SandboxInfo {
    let container = ContainerInfo {
        id: "c".into(),
        name: "c".into(),
        attempt: 0,
        image: String::new(),
        image_id: String::new(),
        state: ContainerState::Running { started: Timestamp(0) },
    };
    SandboxInfo {
        id: name.into(),
        uid: format!("uid-{name}"),
        name: name.into(),
        namespace: "default".into(),
        attempt: 0,
        ready: true,
        ips: Vec::new(),
        containers: vec![container],
    }
}

/// `1 a` pods a and b of app x: a comes (1), b comes (2), a changes (3), b goes (4).
pub(super) fn pods() -> Fixture {
    Fixture::default()
        .pod("a", "x", "", false)
        .pod("b", "x", "", false)
        .pod("a", "x", "n", false)
        .delete(registry::POD, "b")
}
