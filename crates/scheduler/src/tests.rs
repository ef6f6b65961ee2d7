//! One case or more for every rule, in a small language, one object a line:
//!
//! `node NAME [cpu=N] [memory=N] [pods=N] [has=RESOURCE:N] [taint=KEY[=VALUE]:EFFECT] [image=NAME:MB]
//! [cordoned] [LABEL=VALUE …]`; every node has its hostname label.
//! `pod [NAMESPACE/]NAME [on NODE] [cpu=N] [memory=N] [wants=RESOURCE:N] [port=N] [priority=N]
//! [at=SECOND] [of=SET] [LABEL=VALUE …] [:: JSON of the spec]`
//! `waiting :: JSON` goes into the spec of every pod without a node below it.
//! `namespace NAME [LABEL=VALUE …]` and `set NAME [LABEL=VALUE …]`, a ReplicaSet and its selector.
//!
//! The answer lists the decisions.

mod filters;
mod order;
mod properties;
mod scores;
mod verdicts;

use super::*;
use expect_test::Expect;
use objects::{KindId, Value, ValueExt, json, patch, record, registry};
use state::{LeaderId, Op, State, Txn, View};

/// What a fixture describes.
#[derive(Default)]
struct World {
    state: State,
    waiting: Value,
}

/// The words of a line that are not labels, taken by `take`; the others are the object's labels.
fn read_words<'a>(words: impl Iterator<Item = &'a str>, mut take: impl FnMut(&str, &str) -> bool) -> Value {
    let mut labels = serde_json::Map::new();
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if !take(key, value) {
            labels.insert(key.into(), value.into());
        }
    }
    labels.into()
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn push(object: &mut Value, path: &str, item: Value) {
    let mut items = object.items(path).to_vec();
    items.push(item);
    object.set(path, items);
}

fn node(words: &[&str]) -> Value {
    let name = words[0];
    let mut node = json!({"metadata": {"name": name}, "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}});
    let labels = read_words(words[1..].iter().copied(), |key, value| {
        match key {
            "cordoned" => node.set("spec.unschedulable", true),
            "cpu" | "memory" | "pods" => node.set(&format!("status.allocatable.{key}"), value),
            "has" => {
                let (resource, amount) = value.split_once(':').unwrap();
                node.object("status.allocatable").insert(resource.into(), amount.into());
            }
            "taint" => {
                let (taint, effect) = value.split_once(':').unwrap();
                let (key, value) = taint.split_once('=').unwrap_or((taint, ""));
                push(&mut node, "spec.taints", json!({"key": key, "value": value, "effect": effect}));
            }
            "image" => {
                let (name, mb) = value.rsplit_once(':').unwrap();
                push(&mut node, "status.images", json!({"names": [name], "sizeBytes": number(mb) << 20}));
            }
            _ => return false,
        }
        true
    });
    node.set("metadata.labels", labels);
    node.object("metadata.labels").insert("kubernetes.io/hostname".into(), name.into());
    node
}

fn pod(words: &[&str], spec: &str, waiting: &Value) -> Value {
    let (namespace, name) = words[0].split_once('/').unwrap_or(("default", words[0]));
    let mut pod = json!({"metadata": {"name": name, "namespace": namespace}, "status": {"phase": "Pending"},
        "spec": {"schedulerName": NAME, "containers": [{"name": "c", "image": "i"}]}});
    let mut rest = &words[1..];
    if let ["on", node, others @ ..] = rest {
        pod.set("spec.nodeName", *node);
        rest = others;
    } else {
        let mut extra = waiting.clone();
        std::mem::swap(&mut extra, &mut pod["spec"]);
        patch::merge_patch(&mut extra, &pod["spec"]).unwrap();
        pod["spec"] = extra;
    }
    let labels = read_words(rest.iter().copied(), |key, value| {
        let container = &mut pod["spec"]["containers"][0];
        match key {
            "cpu" | "memory" => container.set(&format!("resources.requests.{key}"), value),
            "wants" => {
                let (resource, amount) = value.split_once(':').unwrap();
                container.object("resources.requests").insert(resource.into(), amount.into());
            }
            "port" => push(container, "ports", json!({"hostPort": number(value), "protocol": "TCP"})),
            "priority" => pod.set("spec.priority", number(value)),
            "at" => pod.set("metadata.creationTimestamp", objects::Timestamp(number(value) * 1000).rfc3339()),
            "of" => pod.set(
                "metadata.ownerReferences",
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": value, "uid": value, "controller": true}]),
            ),
            _ => return false,
        }
        true
    });
    pod.set("metadata.labels", labels);
    if !spec.is_empty() {
        let extra: Value = serde_json::from_str(spec).unwrap_or_else(|error| panic!("{spec}: {error}"));
        patch::merge_patch(&mut pod["spec"], &extra).unwrap();
    }
    pod
}

impl World {
    fn of(fixture: &str) -> World {
        let mut world = World { state: State::new(), waiting: json!({}) };
        world.read("namespace default");
        world.read(fixture);
        world
    }

    fn read(&mut self, fixture: &str) {
        for line in fixture.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (line, spec) = line.split_once("::").unwrap_or((line, ""));
            let words: Vec<&str> = line.split_whitespace().collect();
            let labels = |words: &[&str]| read_words(words.iter().copied(), |_, _| false);
            let (kind, object) = match words[0] {
                "node" => (registry::NODE, node(&words[1..])),
                "pod" => (registry::POD, pod(&words[1..], spec.trim(), &self.waiting)),
                "namespace" => {
                    let metadata = json!({"name": words[1], "labels": labels(&words[2..])});
                    (registry::NAMESPACE, json!({"metadata": metadata}))
                }
                "set" => {
                    let selector = json!({"matchLabels": labels(&words[2..])});
                    let object = json!({"metadata": {"name": words[1], "namespace": "default"},
                        "spec": {"selector": selector}});
                    (registry::REPLICA_SET, object)
                }
                "waiting" => {
                    self.waiting = serde_json::from_str(spec).unwrap_or_else(|error| panic!("{spec}: {error}"));
                    continue;
                }
                word => panic!("what is {word}?"),
            };
            self.put(kind, object);
        }
    }

    fn apply(&mut self, op: Op) {
        let applied = self.state.apply(LeaderId::default(), &Txn { ops: vec![op], ..Txn::default() });
        assert!(matches!(applied.outcome, state::Outcome::Applied(_)), "{:?}", applied.outcome);
    }

    /// Creates an object, or replaces the one of its name.
    fn put(&mut self, kind: KindId, object: Value) {
        let key = Key::new(kind, object.text("metadata.namespace"), object.text("metadata.name"));
        let before = View::new(self.state.clone()).get(&key).map(|record| record.header.revision);
        let object = record::encode(&object);
        self.apply(match before {
            None => Op::Create { key, object },
            Some(assumed) => Op::Update { key, assumed, object },
        });
    }

    fn remove_pod(&mut self, name: &str) {
        let key = Key::new(registry::POD, "default", name);
        let assumed = self.view().get(&key).unwrap().header.revision;
        self.apply(Op::Delete { key, assumed });
    }

    fn change_pod(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = self.view().get(&Key::new(registry::POD, "default", name)).unwrap().value();
        change(&mut pod);
        self.put(registry::POD, pod);
    }

    fn view(&self) -> View {
        View::new(self.state.clone())
    }

    fn model(&self) -> Model {
        let mut model = Model::default();
        model.sync(&self.view());
        model
    }
}

fn told(decisions: Vec<Decision>) -> String {
    let text = |decision: Decision| match decision {
        Decision::Bind { pod, node } => format!("{} -> {node}\n", pod.name),
        Decision::Unschedulable { pod, message } => format!("{}: {message}\n", pod.name),
        Decision::Gated { pod } => format!("{} is gated\n", pod.name),
    };
    decisions.into_iter().map(text).collect()
}

/// Places what waits and compares the decisions.
fn check(fixture: &str, expected: Expect) {
    let mut model = World::of(fixture).model();
    expected.assert_eq(&told(place(&mut model, usize::MAX)));
    assert!(model.sums_are_true());
}

/// What one plugin gives the fitting nodes for the first pod that waits.
fn points(fixture: &str, plugin: &str, expected: Expect) {
    let model = World::of(fixture).model();
    let pod = model.waiting().next().expect("a pod waits");
    let case = Case::new(&model, pod);
    let nodes: Vec<&NodeInfo> = model.nodes().filter(|node| filter::fits(&case, node).is_ok()).collect();
    let at = score::SCORES.iter().position(|(name, _, _)| *name == plugin).expect("the plugin has that name");
    let points = score::table(&case, &nodes).swap_remove(at);
    let text: Vec<String> = nodes.iter().zip(points).map(|(node, n)| format!("{} {n}", node.name)).collect();
    expected.assert_eq(&text.join(", "));
}
