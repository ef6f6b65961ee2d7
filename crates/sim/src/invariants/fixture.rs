//! Small chronicles: objects put and deleted one after the other, a revision each.

use crate::chronicle::{Chronicle, Item, Sitting};
use objects::{Key, KindId, Value, ValueExt, json, record, registry};
use state::{LeaderId, Op, State, Txn, View};

pub(super) struct Fixture {
    pub(super) chronicle: Chronicle,
    state: State,
}

impl Default for Fixture {
    fn default() -> Fixture {
        Fixture { chronicle: Chronicle::default(), state: State::new() }
    }
}

impl Fixture {
    /// Applies one txn, ten seconds after the one before.
    fn apply(&mut self, ops: Vec<Op>) {
        let applied = self.state.apply(LeaderId::default(), &Txn { ops, ..Txn::default() });
        for event in applied.events {
            let revision = event.revision.0;
            self.chronicle.events.insert(revision, (revision * 10_000, event));
        }
    }

    fn op(&self, kind: KindId, object: &Value) -> Op {
        let namespace = if kind == registry::NODE { "" } else { "default" };
        let key = Key::new(kind, namespace, object.text("metadata.name"));
        let object = record::encode(object);
        match View::new(self.state.clone()).get(&key) {
            Some(record) => Op::Update { key, assumed: record.header.revision, object },
            None => Op::Create { key, object },
        }
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
        let assumed = View::new(self.state.clone()).get(&key).expect("it is there").header.revision;
        self.apply(vec![Op::Delete { key, assumed }]);
        self
    }

    /// A node with room for so much CPU, in thousandths.
    pub(super) fn node(self, name: &str, cpu: i64) -> Fixture {
        let allocatable = json!({"cpu": format!("{cpu}m"), "pods": "10"});
        self.put(registry::NODE, json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}}))
    }

    /// A pod of an app; an empty node for none.
    pub(super) fn pod(self, name: &str, app: &str, node: &str, apart: bool) -> Fixture {
        self.put(registry::POD, pod(name, app, node, apart))
    }

    /// A watcher's connection: `ADDED 1 a` is an event, `mark 2` a bookmark, `upto 3` the end of a batch.
    pub(super) fn sitting(mut self, app: Option<&str>, from: u64, text: &str) -> Fixture {
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
        let items = text.split(',').map(str::trim).filter(|line| !line.is_empty()).map(item).collect();
        self.chronicle.sittings.push(Sitting {
            who: "watcher".into(),
            kind: registry::POD,
            namespace: "default".into(),
            app: app.map(Into::into),
            from,
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

/// `1 a` pods a and b of app x: a comes (1), b comes (2), a changes (3), b goes (4).
pub(super) fn pods() -> Fixture {
    Fixture::default()
        .pod("a", "x", "", false)
        .pod("b", "x", "", false)
        .pod("a", "x", "n", false)
        .delete(registry::POD, "b")
}
