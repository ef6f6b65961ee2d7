//! `View`: an immutable snapshot of the state at a revision.

use crate::{Event, Outcome, State};
use compact_str::CompactString;
use objects::{Key, KindId, Record, Revision, Timestamp, registry};
use std::sync::Arc;

/// Cheap to clone, safe to hold. Reads never wait and never see half a `Txn`.
#[derive(Clone, Debug)]
pub struct View(Arc<State>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    #[error("revision {asked} has left the history, which starts at {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is not reached yet; this master is at {current}")]
    Future { asked: Revision, current: Revision },
}

impl View {
    pub fn new(state: State) -> View {
        View(Arc::new(state))
    }

    pub fn revision(&self) -> Revision {
        self.0.revision
    }

    /// The replicated time: the maximum stamp of all entries applied.
    pub fn stamp(&self) -> Timestamp {
        self.0.stamp
    }

    pub fn state(&self) -> &State {
        &self.0
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Record>> {
        self.0.objects.get(key)
    }

    pub fn n_objects(&self) -> usize {
        self.0.objects.len()
    }

    /// The objects of a kind in key order, after `start` (exclusive) when given; all namespaces
    /// when `namespace` is empty.
    pub fn list<'a>(
        &'a self,
        kind: KindId,
        namespace: &'a str,
        start: Option<&Key>,
    ) -> impl Iterator<Item = &'a Arc<Record>> + use<'a> {
        let first = Key::new(kind, namespace, "");
        let skip = start.filter(|start| **start >= first).cloned();
        let from = skip.clone().unwrap_or(first);
        self.0
            .objects
            .range(from..)
            .take_while(move |(key, _)| key.kind == kind && (namespace.is_empty() || key.namespace == namespace))
            .filter(move |(key, _)| Some(*key) != skip.as_ref())
            .map(|(_, record)| record)
    }

    /// The pods bound to a node, in key order.
    pub fn pods_of_node<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Record>> {
        let first = (CompactString::from(node), Key::new(registry::POD, "", ""));
        let bound = self.0.pods_by_node.range(first..).take_while(move |(name, _)| *name == node);
        bound.filter_map(|(_, key)| self.get(key))
    }

    /// The objects that name `uid` as an owner.
    pub fn owned_by<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = &'a Arc<Record>> {
        let first = (CompactString::from(uid), Key::new(KindId(0), "", ""));
        let owned = self.0.by_owner.range(first..).take_while(move |(owner, _)| *owner == uid);
        owned.filter_map(|(_, key)| self.get(key))
    }

    /// The events of a kind after `revision`, oldest first.
    pub fn events_after(&self, kind: KindId, revision: Revision) -> Result<Vec<Arc<Event>>, ListError> {
        Ok(self.after(kind, revision)?.cloned().collect())
    }

    /// Whether any event of a kind after `revision` is `wanted`.
    pub fn any_after(
        &self,
        kind: KindId,
        revision: Revision,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<bool, ListError> {
        Ok(self.after(kind, revision)?.any(|event| wanted(event)))
    }

    fn after(&self, kind: KindId, revision: Revision) -> Result<impl Iterator<Item = &Arc<Event>>, ListError> {
        if revision > self.0.revision {
            return Err(ListError::Future { asked: revision, current: self.0.revision });
        }
        let oldest = self.0.history.floor(kind);
        self.0.history.after(kind, revision).ok_or(ListError::Compacted { asked: revision, oldest })
    }

    /// The event of a kind at exactly `revision`, while the history holds it.
    pub fn event(&self, kind: KindId, revision: Revision) -> Option<&Arc<Event>> {
        self.0.history.at(kind, revision)
    }

    /// What became of a client's named request, while it is remembered. Only applied ones are.
    pub fn outcome_of(&self, client_request: u128) -> Option<&Outcome> {
        self.0.dedup.clients.get(&client_request).map(|(_, outcome)| outcome)
    }

    /// The state of one kind as it was at an older revision: the events since are undone.
    /// Works on any master whose history reaches back that far.
    pub fn at(&self, kind: KindId, revision: Revision) -> Result<View, ListError> {
        let events = self.events_after(kind, revision)?;
        let mut state = State::clone(&self.0);
        for event in events.iter().rev() {
            state.put(&event.key, event.old.clone());
        }
        state.revision = revision;
        Ok(View::new(state))
    }
}
