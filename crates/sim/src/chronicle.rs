//! Everything the masters applied, as they applied it, and what the orchestrator was seen to do: what
//! the files of `invariants` are held against.

use bytes::Bytes;
use objects::{Key, KindId, Record};
use state::{Event, LeaderId, Op};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Default)]
pub(crate) struct Chronicle {
    /// By revision, with the virtual time in ms at which the first master applied it.
    pub(crate) events: BTreeMap<u64, (u64, Arc<Event>)>,
    /// The manager's plans, applied or not.
    pub(crate) plans: Vec<Plan>,
    /// Who watches through the API.
    pub(crate) watchers: BTreeSet<String>,
    /// What they were shown, one connection each.
    pub(crate) sittings: Vec<Sitting>,
    /// The last revision when all agreed in the end, seconds before it was over; 0 when it did not come to that.
    pub(crate) closing: u64,
    /// What was found wrong on the way.
    pub(crate) problems: Vec<String>,
}

/// What the manager proposed under one leader.
pub(crate) struct Plan {
    pub(crate) leader: LeaderId,
    pub(crate) ops: Vec<Op>,
    pub(crate) told: Told,
}

/// What the proposer of a plan heard of it.
pub(crate) enum Told {
    /// The revisions of its operations.
    Applied(Vec<u64>),
    /// It was refused.
    Void,
    /// Nothing that proves anything.
    Nothing,
}

/// One connection of one watcher.
#[derive(Clone, Debug)]
pub(crate) struct Sitting {
    pub(crate) who: String,
    pub(crate) kind: KindId,
    pub(crate) namespace: String,
    /// The value of the label `app` it asks for; `None` asks for all.
    pub(crate) app: Option<String>,
    /// Where it began.
    pub(crate) from: u64,
    /// What it was told is there, where it began with that: revisions and names.
    pub(crate) present: Option<Vec<(u64, String)>>,
    pub(crate) items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Event {
        ty: &'static str,
        revision: u64,
        name: String,
        json: Bytes,
    },
    Bookmark(u64),
    /// Everything up to here has been shown: the end of a batch.
    Caught(u64),
}

impl Sitting {
    pub(crate) fn matches(&self, record: &Record) -> bool {
        let label = record.header.labels.get("app").map(|app| app.as_str());
        self.app.as_ref().is_none_or(|app| label == Some(app))
    }

    /// Whether it is about such objects at all.
    fn covers(&self, key: &Key) -> bool {
        key.kind == self.kind && (self.namespace.is_empty() || key.namespace == self.namespace)
    }

    /// What there is of its business at the revision at which it began: revisions and names.
    pub(crate) fn there(&self, chronicle: &Chronicle) -> BTreeSet<(u64, String)> {
        let events = chronicle.events.range(..=self.from).map(|(_, (_, event))| event);
        let last: BTreeMap<&Key, &Arc<Event>> =
            events.filter(|event| self.covers(&event.key)).map(|event| (&event.key, event)).collect();
        let there = last.into_values().filter(|event| event.new.as_ref().is_some_and(|record| self.matches(record)));
        there.map(|event| (event.revision.0, event.key.name.to_string())).collect()
    }

    /// Where the next connection may begin.
    pub(crate) fn position(&self) -> u64 {
        let reached = self.items.iter().rev().find_map(|item| match item {
            Item::Bookmark(at) | Item::Caught(at) => Some(*at),
            Item::Event { .. } => None,
        });
        reached.unwrap_or(self.from)
    }

    /// What it was due to be shown after one revision and up to another: type, revision, name and object.
    pub(crate) fn due(&self, chronicle: &Chronicle, after: u64, to: u64) -> Vec<(&'static str, u64, String)> {
        let range = chronicle.events.range(after.saturating_add(1)..to.max(after).saturating_add(1));
        let events = range.map(|(_, (_, event))| event).filter(|event| self.covers(&event.key));
        let shown = events.filter_map(|event| {
            let before = event.old.as_ref().is_some_and(|record| self.matches(record));
            let after = event.new.as_ref().is_some_and(|record| self.matches(record));
            let ty = match (before, after) {
                (false, false) => return None,
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                (true, false) => "DELETED",
            };
            Some((ty, event.revision.0, event.key.name.to_string()))
        });
        shown.collect()
    }

    /// The events it was shown, without what stands between them.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&'static str, u64, &str, &Bytes)> {
        self.items.iter().filter_map(|item| match item {
            Item::Event { ty, revision, name, json } => Some((*ty, *revision, name.as_str(), json)),
            Item::Bookmark(_) | Item::Caught(_) => None,
        })
    }
}

/// The two sides of an event, and whether anything else than revision and both sides differ.
fn same(a: &Event, b: &Event) -> bool {
    let json = |side: &Option<Arc<Record>>| side.as_ref().map(|record| record.json.clone());
    (a.revision, a.txn_end, &a.key) == (b.revision, b.txn_end, &b.key)
        && json(&a.old) == json(&b.old)
        && json(&a.new) == json(&b.new)
}

/// What an event does, on one line: what it leaves says how two differ.
fn told(event: &Event) -> String {
    let object = event.new.as_ref().map_or("gone".into(), |record| String::from_utf8_lossy(&record.json).into_owned());
    // Of a long one the end, where the status stands.
    let end = object.char_indices().rev().nth(200).map_or(0, |(at, _)| at);
    format!("{} (up to {}): …{}", event.key, event.txn_end, &object[end..])
}

impl Chronicle {
    /// Takes in an event that `master` applied; every master must tell the same.
    pub(crate) fn learn(&mut self, master: &str, event: &Arc<Event>, now_ms: u64) {
        let revision = event.revision.0;
        let (_, known) = self.events.entry(revision).or_insert_with(|| (now_ms, event.clone()));
        if !same(known, event) {
            let [this, other] = [event, &*known].map(|event| told(event));
            self.problems.push(format!("{master} applied {this} at revision {revision}, another {other}"));
        }
    }
}

/// All objects as they stood after each event, one event after the other.
pub(crate) struct Replay<'a> {
    chronicle: &'a Chronicle,
    pub(crate) objects: BTreeMap<Key, Arc<Record>>,
}

/// An election, and the first commit after it.
const STRETCH_MS: u64 = 500;

impl<'a> Replay<'a> {
    pub(crate) fn of(chronicle: &'a Chronicle) -> Replay<'a> {
        Replay { chronicle, objects: BTreeMap::new() }
    }

    /// Calls `look` after each event, with its time. Of a stretch in which nothing was applied only its first moment counts:
    /// what waited in the log for a quorum was decided on what was so before.
    pub(crate) fn each(mut self, mut look: impl FnMut(&Replay<'a>, u64, &'a Arc<Event>)) {
        let (mut last_ms, mut idle_ms) = (0, 0);
        for (at_ms, event) in self.chronicle.events.values() {
            // Masters tell of events in another order than they have applied them, now and then.
            idle_ms += at_ms.saturating_sub(last_ms).saturating_sub(STRETCH_MS);
            last_ms = last_ms.max(*at_ms);
            let now_ms = at_ms.saturating_sub(idle_ms);
            match &event.new {
                Some(record) => drop(self.objects.insert(event.key.clone(), record.clone())),
                None => drop(self.objects.remove(&event.key)),
            }
            look(&self, now_ms, event);
        }
    }

    pub(crate) fn list(&self, kind: KindId) -> impl Iterator<Item = &Arc<Record>> {
        let from = Key::new(kind, "", "");
        self.objects.range(from..).take_while(move |(key, _)| key.kind == kind).map(|(_, record)| record)
    }

    /// The pods that take room on some node.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (&Arc<Record>, &str)> {
        self.list(objects::registry::POD).filter_map(|pod| Some((pod, place(pod)?)))
    }

    /// The pods that take room on a node.
    pub(crate) fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Record>> {
        self.placed().filter(move |(_, place)| *place == node).map(|(pod, _)| pod)
    }
}

/// The node on which a pod takes room.
pub(crate) fn place(pod: &Record) -> Option<&str> {
    let ended = matches!(pod.header.phase.as_deref(), Some("Succeeded" | "Failed"));
    pod.header.node_name.as_deref().filter(|_| !ended)
}

/// The node that an event binds its pod to.
pub(crate) fn binding(event: &Event) -> Option<(&Arc<Record>, &str)> {
    let pod = event.new.as_ref().filter(|_| event.key.kind == objects::registry::POD)?;
    let node = pod.header.node_name.as_deref()?;
    let was = event.old.as_ref().and_then(|old| old.header.node_name.as_deref());
    was.is_none().then_some((pod, node))
}
