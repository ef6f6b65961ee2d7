//! `apply`: the only thing that changes the state.

use crate::dedup::{Dedup, Seen};
use crate::history::{Event, History};
use crate::{Check, LeaderId, Op, Outcome, Refusal, Txn};
use compact_str::CompactString;
use imbl::{OrdMap, OrdSet};
use objects::{Key, Record, Revision, Timestamp, registry};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The whole replicated state. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) revision: Revision,
    /// The time: the maximum stamp of all entries so far.
    pub(crate) stamp: Timestamp,
    /// The version of the rules in force.
    pub(crate) feature_level: u32,
    pub(crate) objects: OrdMap<Key, Arc<Record>>,
    /// (node name, pod key) of every pod that is bound.
    pub(crate) pods_by_node: OrdSet<(CompactString, Key)>,
    /// (owner uid, key) of every object with owners.
    pub(crate) by_owner: OrdSet<(CompactString, Key)>,
    pub(crate) dedup: Dedup,
    pub(crate) history: History,
}

/// The result of one `apply`.
#[derive(Debug)]
pub struct Applied {
    pub outcome: Outcome,
    pub events: Vec<Arc<Event>>,
}

impl State {
    /// An empty cluster, of the first feature level: its first membership raises it.
    pub fn new() -> State {
        State { feature_level: 1, ..State::default() }
    }

    /// Brings a higher feature level into force; never a lower one, as the rules of the higher may have been used.
    pub fn raise(&mut self, feature_level: u32) {
        self.feature_level = self.feature_level.max(feature_level);
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// The same without the events that watchers resume from, which a snapshot does not hold: what keeps it keeps none of
    /// what only they know.
    pub fn without_history(&self) -> State {
        State { history: History::starting_after(self.revision), ..self.clone() }
    }

    /// Every object after `key`, in key order; all of them without one.
    pub fn records_after(&self, key: Option<&Key>) -> impl Iterator<Item = &Arc<Record>> {
        use std::ops::Bound;
        let from = key.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        self.objects.range((from, Bound::Unbounded)).map(|(_, record)| record)
    }

    /// Runs a committed `Txn`. `leader` is the one that appended its entry.
    pub fn apply(&mut self, leader: LeaderId, txn: &Txn) -> Applied {
        self.stamp = self.stamp.max(txn.stamp);
        let refused = |refusal| Applied { outcome: Outcome::Refused(refusal), events: Vec::new() };
        match self.dedup.look_up(txn.request, txn.client_request) {
            Seen::Before(outcome) => return Applied { outcome, events: Vec::new() },
            Seen::Forgotten => return refused(Refusal::Forgotten),
            Seen::New => {}
        }
        let applied = match self.verify(leader, txn) {
            Err(refusal) => refused(refusal),
            Ok(records) => self.perform(txn, records),
        };
        self.dedup.record(txn.request, txn.client_request, &applied.outcome, self.revision);
        applied
    }

    /// Checks everything and seals the new records; changes nothing.
    fn verify(&self, leader: LeaderId, txn: &Txn) -> Result<Vec<Option<Arc<Record>>>, Refusal> {
        if txn.fence.is_some_and(|fence| fence != leader) {
            return Err(Refusal::Fenced);
        }
        let at = |key: &Key, revision: Revision| match self.objects.get(key) {
            None => Err(Refusal::NotFound(key.clone())),
            Some(record) if record.header.revision != revision => Err(Refusal::Conflict(key.clone())),
            Some(_) => Ok(()),
        };
        for check in &txn.checks {
            match check {
                Check::At(key, revision) => at(key, *revision)?,
                Check::Absent(key) if self.objects.contains_key(key) => {
                    return Err(Refusal::AlreadyExists(key.clone()));
                }
                Check::Exists(key) if !self.objects.contains_key(key) => return Err(Refusal::NotFound(key.clone())),
                Check::Absent(_) | Check::Exists(_) => {}
                Check::NamespaceActive(name) => match self.objects.get(&Key::new(registry::NAMESPACE, "", name)) {
                    None => return Err(Refusal::NamespaceMissing(name.clone())),
                    Some(namespace) if namespace.header.deletion.is_some() => {
                        return Err(Refusal::NamespaceTerminating(name.clone()));
                    }
                    Some(_) => {}
                },
            }
        }
        let mut keys = BTreeSet::new();
        let mut records = Vec::with_capacity(txn.ops.len());
        let seal = |key: &Key, i: usize, object: &[u8]| {
            let revision = Revision(self.revision.0 + 1 + i as u64);
            let record = Record::seal(key.clone(), revision, object);
            record.map(|record| Some(Arc::new(record))).map_err(|error| Refusal::Malformed(error.to_string()))
        };
        for (i, op) in txn.ops.iter().enumerate() {
            if !keys.insert(op.key()) {
                return Err(Refusal::Malformed(format!("{} is written twice", op.key())));
            }
            records.push(match op {
                Op::Create { key, object } => {
                    if self.objects.contains_key(key) {
                        return Err(Refusal::AlreadyExists(key.clone()));
                    }
                    seal(key, i, object)?
                }
                Op::Update { key, assumed, object } => {
                    at(key, *assumed)?;
                    seal(key, i, object)?
                }
                Op::Delete { key, assumed } => {
                    at(key, *assumed)?;
                    None
                }
            });
        }
        Ok(records)
    }

    fn perform(&mut self, txn: &Txn, records: Vec<Option<Arc<Record>>>) -> Applied {
        let txn_end = Revision(self.revision.0 + records.len() as u64);
        let mut revisions = Vec::with_capacity(records.len());
        let mut events = Vec::with_capacity(records.len());
        for (op, new) in txn.ops.iter().zip(records) {
            self.revision.0 += 1;
            revisions.push(self.revision);
            let old = self.put(op.key(), new.clone());
            let key = op.key().clone();
            let event = Event { revision: self.revision, txn_end, key, old, new, parting: Default::default() };
            let event = Arc::new(event);
            self.history.push(event.clone(), self.stamp);
            events.push(event);
        }
        Applied { outcome: Outcome::Applied(revisions), events }
    }

    /// Replaces the record of `key` and keeps the indexes true; returns what stood there.
    pub(crate) fn put(&mut self, key: &Key, new: Option<Arc<Record>>) -> Option<Arc<Record>> {
        let old = match &new {
            Some(record) => self.objects.insert(key.clone(), record.clone()),
            None => self.objects.remove(key),
        };
        for (record, present) in [(&old, false), (&new, true)] {
            let Some(record) = record else { continue };
            let owners = record.header.owners.iter().map(|owner| (owner.uid.clone(), key.clone()));
            match present {
                true => self.by_owner.extend(owners),
                false => owners.for_each(|entry| drop(self.by_owner.remove(&entry))),
            }
            if let Some(node) = record.header.node_name.clone().filter(|_| key.kind == registry::POD) {
                match present {
                    true => drop(self.pods_by_node.insert((node, key.clone()))),
                    false => drop(self.pods_by_node.remove(&(node, key.clone()))),
                }
            }
        }
        old
    }
}
