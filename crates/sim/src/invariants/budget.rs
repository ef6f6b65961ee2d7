//! A rolling update stays within its budget: it asks for no more pods than `replicas` and `maxSurge`, and
//! takes no pods away that `maxUnavailable` needs.
//!
//! Source: kubernetes.io/docs/concepts/workloads/controllers/deployment, "Rolling Update Deployment". The
//! controller decides on what it has seen, which may be a moment old when it is applied; what was so
//! within that moment counts. What it writes down of a budget, on its sets, is its own word and proves nothing.

use super::MOMENT_MS;
use crate::chronicle::{Chronicle, Replay};
use objects::{Key, Record, Value, ValueExt, registry};
use std::collections::BTreeMap;
use std::sync::Arc;

const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";

/// What a value was lately: when each one began to be.
#[derive(Default)]
struct Lately(Vec<(u64, i64)>);

impl Lately {
    fn now(&mut self, now_ms: u64, value: i64) {
        if self.0.last().is_none_or(|(_, last)| *last != value) {
            self.0.push((now_ms, value));
        }
    }

    /// All values it had within the last moment.
    fn values(&self, now_ms: u64) -> impl Iterator<Item = i64> {
        let since = now_ms.saturating_sub(MOMENT_MS);
        let first = self.0.iter().rposition(|(from, _)| *from < since).unwrap_or(0);
        self.0[first..].iter().map(|(_, value)| *value)
    }
}

fn owner(set: &Record) -> Option<Key> {
    let owner = set.header.controller().filter(|owner| owner.kind == "Deployment")?;
    Some(Key::new(registry::DEPLOYMENT, &set.key.namespace, &owner.name))
}

fn replicas(object: &Value) -> i64 {
    object.at("spec.replicas").as_i64().unwrap_or(0)
}

fn number(set: &Value, annotation: &str) -> i64 {
    set.annotation(annotation).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What a budget is where nothing is said.
const SHARE: &str = "25%";

/// A budget in hundredths of a pod: a number of pods, or a share of those that are asked for.
fn hundredths(deployment: &Value, field: &str) -> i64 {
    let said = deployment.at("spec.strategy.rollingUpdate").at(field);
    let percent = said.as_str().unwrap_or(SHARE).trim_end_matches('%');
    said.as_i64().map_or_else(|| replicas(deployment) * percent.parse::<i64>().unwrap_or(0), |pods| pods * 100)
}

/// How many pods there may be: a share rounds up.
fn most(deployment: &Value) -> i64 {
    replicas(deployment) + (hundredths(deployment, "maxSurge") + 99) / 100
}

/// How many pods must be available: a share rounds down.
fn needed(deployment: &Value) -> i64 {
    replicas(deployment) - hundredths(deployment, "maxUnavailable") / 100
}

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let (mut wrong, mut seen) = (Vec::new(), Seen::default());
    Replay::of(chronicle).each(|replay, now_ms, event| {
        let Some(record) = &event.new else { return };
        seen.note(replay, record, now_ms);
        match event.key.kind {
            registry::POD if event.old.is_none() => {
                wrong.extend(too_many_pods(replay, record, (&seen.wanted, &seen.owned), now_ms));
            }
            registry::REPLICA_SET => {
                let old = event.old.as_ref().map(|old| old.value()).unwrap_or_default();
                let Some(change) = Change::of(replay, record, old) else { return };
                let told = [seen.too_many(&change, now_ms), seen.too_few(&change, now_ms)];
                wrong.extend(told.into_iter().flatten().map(|what| format!("revision {}: {what}", event.revision)));
            }
            _ => {}
        }
    });
    wrong
}

/// What was so lately, as whoever decides may have seen it: of a Deployment the most pods there may be and how many it
/// needs; of a set how many are available and wanted; of a pod whether it is its set's.
#[derive(Default)]
struct Seen {
    most: BTreeMap<Key, Lately>,
    needed: BTreeMap<Key, Lately>,
    available: BTreeMap<Key, Lately>,
    wanted: BTreeMap<Key, Lately>,
    owned: BTreeMap<Key, Lately>,
}

impl Seen {
    fn note(&mut self, replay: &Replay, record: &Record, now_ms: u64) {
        let now = |of: &mut BTreeMap<Key, Lately>, value| of.entry(record.key.clone()).or_default().now(now_ms, value);
        match record.key.kind {
            registry::DEPLOYMENT => {
                let deployment = record.value();
                now(&mut self.most, most(&deployment));
                now(&mut self.needed, needed(&deployment));
            }
            registry::POD => now(&mut self.owned, i64::from(is_owned(replay, record))),
            registry::REPLICA_SET => {
                let set = record.value();
                now(&mut self.available, set.at("status.availableReplicas").as_i64().unwrap_or(0));
                now(&mut self.wanted, replicas(&set));
            }
            _ => {}
        }
    }

    /// A set grows beyond what `maxSurge` allows.
    fn too_many(&self, change: &Change, now_ms: u64) -> Option<String> {
        let Change { key, before, after, sets, deployment, .. } = change;
        let total: i64 = sets.iter().map(|(_, set)| replicas(set)).sum();
        let most = self.most.get(&deployment.key).and_then(|lately| lately.values(now_ms).max()).unwrap_or(0);
        (after > before && total > most).then(|| format!("{key} grows to {after}, all sets to {total}, of {most}"))
    }

    /// A set shrinks by pods that `maxUnavailable` needs.
    fn too_few(&self, change: &Change, now_ms: u64) -> Option<String> {
        let Change { key, before, after, sets, deployment, scales } = change;
        // A smaller `replicas` takes what it takes.
        if after >= before || *scales || deployment.header.deletion.is_some() {
            return None;
        }
        let left = |(key, set): &(Key, Value)| {
            let lately = self.available.get(key).and_then(|lately| lately.values(now_ms).max());
            replicas(set).min(lately.unwrap_or(0))
        };
        let left: i64 = sets.iter().map(left).sum();
        let need = self.needed.get(&deployment.key).and_then(|lately| lately.values(now_ms).min()).unwrap_or(0);
        // Those that serve nobody may always go: then as many are left as were.
        let lost = *before.min(&self.available[key].values(now_ms).min().unwrap_or(0)) > *after;
        (lost && left < need)
            .then(|| format!("{key} shrinks from {before} to {after}, which leaves {left} available of {need} needed"))
    }
}

/// A set of a Deployment that is rolled has another size.
struct Change {
    key: Key,
    before: i64,
    after: i64,
    /// All sets of the Deployment, this one as it is now.
    sets: Vec<(Key, Value)>,
    deployment: Arc<Record>,
    /// The Deployment itself has another size.
    scales: bool,
}

impl Change {
    fn of(replay: &Replay, record: &Record, old: Value) -> Option<Change> {
        let deployment = owner(record).and_then(|key| replay.objects.get(&key))?.clone();
        let (spec, new) = (deployment.value(), record.value());
        if spec.text("spec.strategy.type") != "RollingUpdate" {
            return None;
        }
        let is_its =
            |set: &&Arc<Record>| set.header.controller().is_some_and(|owner| owner.uid == deployment.header.uid);
        let sets = replay.list(registry::REPLICA_SET).filter(is_its).map(|set| (set.key.clone(), set.value()));
        Some(Change {
            key: record.key.clone(),
            before: replicas(&old),
            after: replicas(&new),
            sets: sets.collect(),
            scales: number(&old, DESIRED) != replicas(&spec) || number(&new, DESIRED) != number(&old, DESIRED),
            deployment,
        })
    }
}

/// The set that a pod names as its own, and that set's uid.
fn set_of(pod: &Record) -> Option<(Key, &str)> {
    let owner = pod.header.controller().filter(|owner| owner.kind == "ReplicaSet")?;
    Some((Key::new(registry::REPLICA_SET, &pod.key.namespace, &owner.name), &owner.uid))
}

/// Whether a pod is its set's: one whose label was changed is not any more, before it is let go.
fn is_owned(replay: &Replay, pod: &Record) -> bool {
    let Some((key, uid)) = set_of(pod) else { return false };
    let Some(set) = replay.objects.get(&key).filter(|set| set.header.uid == uid) else { return false };
    let selector = set.value().at("spec.selector.matchLabels").as_object().cloned().unwrap_or_default();
    selector
        .iter()
        .all(|(key, value)| pod.header.labels.get(key.as_str()).map(|label| label.as_str()) == value.as_str())
}

/// A set makes no more pods than it was asked for lately, beside those that were its all the while.
fn too_many_pods(
    replay: &Replay,
    pod: &Arc<Record>,
    (wanted, owned): (&BTreeMap<Key, Lately>, &BTreeMap<Key, Lately>),
    now_ms: u64,
) -> Option<String> {
    let (key, uid) = set_of(pod)?;
    let most = wanted.get(&key)?.values(now_ms).max().unwrap_or(0);
    let counts = |other: &&Arc<Record>| {
        other.header.controller().is_some_and(|own| own.uid == uid)
            && owned.get(&other.key).is_some_and(|lately| lately.values(now_ms).min() == Some(1))
            && other.header.deletion.is_none()
            && !matches!(other.header.phase.as_deref(), Some("Succeeded" | "Failed"))
    };
    let n = replay.list(registry::POD).filter(counts).count() as i64;
    (n > most).then(|| format!("{}: with it {key} has {n} pods of {most}", pod.key))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::Fixture;
    use objects::{Value, json, registry};

    fn deployment(replicas: i64, surge: i64, unavailable: i64) -> Value {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        json!({"metadata": {"name": "d", "uid": "d"},
            "spec": {"replicas": replicas, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}})
    }

    fn set(name: &str, replicas: i64, available: i64, desired: i64) -> Value {
        json!({"metadata": {"name": name, "uid": name,
            "annotations": {super::DESIRED: desired.to_string(), "deployment.kubernetes.io/max-replicas": "99"},
            "ownerReferences": [{"kind": "Deployment", "name": "d", "uid": "d", "controller": true}]},
            "spec": {"replicas": replicas}, "status": {"availableReplicas": available}})
    }

    fn n_wrong(sets: &[Value]) -> usize {
        let start = Fixture::default().put(registry::DEPLOYMENT, deployment(3, 1, 1));
        check(&sets.iter().fold(start, |f, set| f.put(registry::REPLICA_SET, set.clone())).chronicle).len()
    }

    #[test]
    fn more_than_the_surge_is_found() {
        assert_eq!(n_wrong(&[set("old", 3, 3, 3), set("new", 1, 0, 3)]), 0);
        assert_eq!(n_wrong(&[set("old", 3, 3, 3), set("new", 2, 0, 3)]), 1, "whatever the set says of it");
    }

    #[test]
    fn shares_are_rounded_for_the_users_good() {
        let shares = |surge: Value, unavailable: Value| {
            let mut deployment = deployment(5, 0, 0);
            deployment["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": surge, "maxUnavailable": unavailable});
            (super::most(&deployment), super::needed(&deployment))
        };
        assert_eq!(shares(json!("30%"), json!("30%")), (7, 4));
        assert_eq!(shares(json!(null), json!(null)), (7, 4), "a quarter");
        assert_eq!(shares(json!(2), json!(0)), (7, 5));
    }

    #[test]
    fn fewer_than_needed_are_found() {
        assert_eq!(n_wrong(&[set("old", 3, 3, 3), set("new", 1, 0, 3), set("old", 2, 3, 3)]), 0);
        assert_eq!(n_wrong(&[set("old", 3, 3, 3), set("new", 1, 0, 3), set("old", 1, 3, 3)]), 1);
        assert_eq!(n_wrong(&[set("old", 3, 0, 3), set("new", 1, 0, 3), set("old", 0, 0, 3)]), 0, "they served nobody");
        assert_eq!(n_wrong(&[set("old", 3, 3, 5), set("old", 1, 3, 3)]), 0, "it is scaled");
    }

    #[test]
    fn more_pods_than_asked_for_are_found() {
        let pod = |name: &str| {
            json!({"metadata": {"name": name, "uid": name,
            "ownerReferences": [{"kind": "ReplicaSet", "name": "old", "uid": "old", "controller": true}]}})
        };
        let mut selecting = set("old", 1, 0, 1);
        selecting["spec"]["selector"] = json!({"matchLabels": {"app": "x"}});
        let labelled = |name: &str, app: &str| {
            let mut pod = pod(name);
            pod["metadata"]["labels"] = json!({"app": app});
            pod
        };
        let start = || Fixture::default().put(registry::REPLICA_SET, selecting.clone());
        let start = || start().put(registry::POD, labelled("a", "x"));
        assert_eq!(check(&start().chronicle).len(), 0);
        assert_eq!(check(&start().put(registry::POD, labelled("b", "x")).chronicle).len(), 1);
        let loose = start().put(registry::POD, labelled("a", "loose"));
        assert_eq!(check(&loose.put(registry::POD, labelled("b", "x")).chronicle).len(), 0, "another's no more");
        // Put back behind the set's back, before so many others did something.
        let back = |n: i64| {
            let back = start().put(registry::POD, labelled("a", "loose")).put(registry::POD, labelled("a", "x"));
            let other = |n: i64| set("other", n, 0, 1);
            let later = (0..n).fold(back, |f, n| f.soon(400).put(registry::REPLICA_SET, other(n)));
            check(&later.soon(400).put(registry::POD, labelled("b", "x")).chronicle).len()
        };
        assert_eq!((back(1), back(10)), (0, 1));
    }

    #[test]
    fn what_waited_in_the_log_was_decided_before() {
        let pod = json!({"metadata": {"name": "a", "uid": "a",
            "ownerReferences": [{"kind": "ReplicaSet", "name": "old", "uid": "old", "controller": true}]}});
        let shrunk = || {
            let set = |replicas| set("old", replicas, 0, 1);
            Fixture::default().put(registry::REPLICA_SET, set(1)).put(registry::REPLICA_SET, set(0))
        };
        assert_eq!(
            check(&shrunk().soon(60_000).put(registry::POD, pod.clone()).chronicle).len(),
            0,
            "for want of a quorum"
        );
        let other = |n: i64| set("other", n, 0, 1);
        let meanwhile = (0..10).fold(shrunk(), |f, n| f.soon(400).put(registry::REPLICA_SET, other(n)));
        assert_eq!(check(&meanwhile.put(registry::POD, pod).chronicle).len(), 1);
    }
}
