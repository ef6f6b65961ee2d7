//! A small cluster that runs the controllers on the keys that events wake, as the manager does,
//! until nothing changes; every settled state is checked against a look at every key.

mod deployments;
mod events;
mod garbage;
mod namespaces;
mod nodes;
mod replicasets;

use super::*;
use api::Context as ApiContext;
use objects::{ValueExt, json};
use state::{LeaderId, Op, State, Txn};
use std::collections::BTreeSet;

type Item = (Controller, Key);

struct Cluster {
    state: State,
    facts: Facts,
    now: Timestamp,
    rng: Rng,
    queue: BTreeSet<Item>,
    timers: BTreeMap<Item, Timestamp>,
}

/// Looks until a cluster that does not settle is given up.
const LOOKS_MAX: usize = 5_000;

impl Cluster {
    fn new() -> Cluster {
        let mut cluster = Cluster {
            state: State::new(),
            facts: Facts { ca: "CA".into(), ..Facts::default() },
            now: Timestamp(1_700_000_000_000),
            rng: Rng::new(1),
            queue: BTreeSet::new(),
            timers: BTreeMap::new(),
        };
        cluster.create(registry::NAMESPACE, json!({"metadata": {"name": "default"}}));
        cluster
    }

    fn view(&self) -> View {
        View::new(self.state.clone())
    }

    fn apply(&mut self, op: Op) -> bool {
        let txn = Txn { ops: vec![op], stamp: self.now, ..Txn::default() };
        let applied = self.state.apply(LeaderId::default(), &txn);
        let view = self.view();
        self.queue.extend(applied.events.iter().flat_map(|event| wakes(event, &view)));
        !applied.events.is_empty()
    }

    fn create(&mut self, kind: KindId, object: Value) {
        let view = self.view();
        let mut context = ApiContext { now: self.now, rng: &mut self.rng };
        let (op, _) = api::creation(object, registry::must(kind), &view, &mut context).unwrap();
        assert!(self.apply(op));
    }

    fn get(&self, key: &Key) -> Option<Value> {
        self.view().get(key).map(|record| record.value())
    }

    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        let record = self.view().get(key).cloned().unwrap();
        let mut object = record.value();
        change(&mut object);
        if let Some(op) = api::change(&record, object) {
            self.apply(op);
        }
    }

    fn delete(&mut self, key: &Key, propagation: &str) {
        let record = self.view().get(key).cloned().unwrap();
        let context = ApiContext { now: self.now, rng: &mut Rng::new(3) };
        if let Some(op) = api::deletion(&record, None, propagation, &context) {
            self.apply(op);
        }
    }

    /// Takes an object away at once, as its worker or the last finalizer would.
    fn remove(&mut self, key: &Key) {
        let assumed = self.view().get(key).unwrap().header.revision;
        self.apply(Op::Delete { key: key.clone(), assumed });
    }

    fn look(&mut self, (controller, key): &Item) -> Plan {
        let view = self.view();
        let mut context = Context { view: &view, facts: &self.facts, now: self.now, rng: &mut self.rng };
        reconcile(*controller, key, &mut context)
    }

    /// Looks at what was woken until nothing is left to do.
    fn settle(&mut self) -> &mut Cluster {
        for _ in 0..LOOKS_MAX {
            let Some(item) = self.queue.pop_first() else {
                self.check_settled();
                return self;
            };
            let plan = self.look(&item);
            match plan.wake_after_ms {
                Some(ms) => drop(self.timers.insert(item, self.now.plus_ms(ms))),
                None => drop(self.timers.remove(&item)),
            }
            for action in plan.actions {
                self.perform(action);
            }
        }
        panic!("the controllers do not settle");
    }

    /// Events must have woken every key that had something to do.
    fn check_settled(&mut self) {
        let is_news = |action: &Action| match action {
            Action::Create { kind, .. } => *kind != registry::EVENT,
            Action::Update { record, object } => {
                record.key.kind != registry::EVENT && api::change(record, object.clone()).is_some()
            }
            Action::Delete { record, grace, propagation } => {
                let context = ApiContext { now: self.now, rng: &mut Rng::new(3) };
                api::deletion(record, *grace, propagation, &context).is_some()
            }
        };
        for item in all_keys(&self.view()) {
            let (view, mut rng) = (self.view(), Rng::new(5));
            let mut context = Context { view: &view, facts: &self.facts, now: self.now, rng: &mut rng };
            let plan = reconcile(item.0, &item.1, &mut context);
            let missed = plan.actions.iter().find(|action| is_news(action));
            assert!(missed.is_none(), "nothing woke {item:?}, which wants {missed:?}");
        }
    }

    fn perform(&mut self, action: Action) -> bool {
        let op = match action {
            Action::Create { kind, object } => {
                let view = self.view();
                let mut context = ApiContext { now: self.now, rng: &mut self.rng };
                api::creation(object, registry::must(kind), &view, &mut context).ok().map(|(op, _)| op)
            }
            Action::Update { record, object } => api::change(&record, object),
            Action::Delete { record, grace, propagation } => {
                let context = ApiContext { now: self.now, rng: &mut Rng::new(3) };
                api::deletion(&record, grace, propagation, &context)
            }
        };
        op.is_some_and(|op| self.apply(op))
    }

    /// Lets time pass, stopping wherever a key asked to be looked at again.
    fn later(&mut self, ms: i64) -> &mut Cluster {
        let end = self.now.plus_ms(ms);
        self.settle();
        while let Some(at) = self.timers.values().min().copied().filter(|at| *at <= end) {
            // Silence grows with the time; who is heard stays at 0.
            let passed = at.since_ms(self.now);
            self.facts.silent_ms.values_mut().filter(|ms| **ms > 0).for_each(|ms| *ms += passed);
            self.now = at;
            let due: Vec<Item> = self.timers.iter().filter(|(_, t)| **t <= at).map(|(item, _)| item.clone()).collect();
            for item in due {
                self.timers.remove(&item);
                self.queue.insert(item);
            }
            self.settle();
        }
        let passed = end.since_ms(self.now);
        self.facts.silent_ms.values_mut().filter(|ms| **ms > 0).for_each(|ms| *ms += passed);
        self.now = end;
        self.settle()
    }

    /// Lets a long time pass at once: every key is looked at at its end.
    fn jump(&mut self, ms: i64) -> &mut Cluster {
        self.facts.silent_ms.values_mut().filter(|ms| **ms > 0).for_each(|silent| *silent += ms);
        self.now = self.now.plus_ms(ms);
        self.timers.clear();
        self.poll()
    }

    /// Looks at every key, as happens within seconds anyway: not everything that counts is an event.
    fn poll(&mut self) -> &mut Cluster {
        self.queue.extend(all_keys(&self.view()));
        self.settle()
    }

    fn keys(&self, kind: KindId) -> Vec<Key> {
        self.view().list(kind, "", None).map(|record| record.key.clone()).collect()
    }

    fn n(&self, kind: KindId) -> usize {
        self.keys(kind).len()
    }

    /// Makes every bound or unbound pod that exists ready.
    fn run_pods(&mut self) -> &mut Cluster {
        for key in self.keys(registry::POD) {
            self.run_pod(&key);
        }
        self
    }

    fn run_pod(&mut self, key: &Key) {
        let now = self.now.rfc3339();
        self.change(key, |pod| {
            pod.set("status.phase", "Running");
            pod.default_to("status.startTime", now.as_str());
            for ty in ["ContainersReady", "Ready"] {
                if objects::kinds::node::condition(pod, ty) != "True" {
                    api::set_condition(pod, json!({"type": ty, "status": "True", "lastTransitionTime": now}));
                }
            }
        });
    }

    fn pod(&mut self, name: &str, more: Value) -> Key {
        let mut pod = json!({"metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        objects::patch::merge_patch(&mut pod, &more).unwrap();
        self.create(registry::POD, pod);
        Key::new(registry::POD, "default", name)
    }

    /// A node that is heard and ready.
    fn node(&mut self, name: &str) -> Key {
        let key = Key::new(registry::NODE, "", name);
        self.create(registry::NODE, json!({"metadata": {"name": name}}));
        self.change(&key, |node| api::set_condition(node, json!({"type": "Ready", "status": "True"})));
        self.facts.silent_ms.insert(name.into(), 0);
        key
    }

    /// `REASON xCOUNT` of every event, in order.
    fn reasons(&self) -> String {
        let mut reasons: BTreeMap<String, i64> = BTreeMap::new();
        for record in self.view().list(registry::EVENT, "", None) {
            let event = record.value();
            *reasons.entry(event.text("reason").into()).or_default() += event.at("count").as_i64().unwrap_or(0);
        }
        let text: Vec<String> = reasons.iter().map(|(reason, n)| format!("{reason} x{n}")).collect();
        text.join(", ")
    }
}

fn default_namespace() -> Key {
    Key::new(registry::NAMESPACE, "", "default")
}

/// `TYPE=STATUS REASON: MESSAGE` a line.
fn conditions(object: &Value) -> String {
    let told = |c: &Value| {
        let text = format!("{}={} {}: {}\n", c.text("type"), c.text("status"), c.text("reason"), c.text("message"));
        text.replace(" : \n", "\n").replace(": \n", "\n")
    };
    object.items("status.conditions").iter().map(told).collect()
}
