//! Recent events, kept so that watchers can resume and lists can continue at an older revision.

use bytes::Bytes;
use imbl::{OrdMap, Vector};
use objects::{Key, KindId, Record, Revision, Timestamp};
use std::sync::{Arc, OnceLock};

/// Bounds of the history, for a watcher that was away: longer than an election by far, and no more memory than
/// that is worth. At 1,000 writes/s of 5 KB objects the bytes hold 12 s, at 100 writes/s two minutes (Kubernetes'
/// watch cache keeps 75 s where it can); at some 40 writes/s the age bound of 5 minutes is what ends it.
const HISTORY_EVENTS_MAX: usize = 100_000;
const HISTORY_BYTES_MAX: usize = 64 << 20;
const HISTORY_AGE_MAX_MS: i64 = 5 * 60 * 1000;
/// The newest events of all kinds together stay, however old, while there is room: some MB of a quiet cluster, whose
/// watchers can be away for long; and a clock that jumps ahead ages all events at once, so that who is behind by one
/// would have to list again.
const HISTORY_EVENTS_MIN: usize = 1_000;
/// Events that are too old and go with a new one, at most: after a quiet while a whole history can be, and readers of the
/// state wait while an entry is applied.
const HISTORY_AGED_AT_ONCE: usize = 64;
/// What an event takes beside the JSON of the one record that only it holds: itself and that record, without
/// labels.
const EVENT_OVERHEAD: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// One change of one object. Holds both sides, because a watcher must see an object leave its
/// selector.
#[derive(Clone, Debug)]
pub struct Event {
    pub revision: Revision,
    /// The last revision of the same `Txn`: resuming is possible only there.
    pub txn_end: Revision,
    pub key: Key,
    pub old: Option<Arc<Record>>,
    pub new: Option<Arc<Record>>,
    /// What `parting_json` made, for the next watcher.
    pub(crate) parting: OnceLock<Bytes>,
}

impl Event {
    pub fn kind(&self) -> EventKind {
        match (&self.old, &self.new) {
            (None, _) => EventKind::Added,
            (Some(_), Some(_)) => EventKind::Modified,
            (Some(_), None) => EventKind::Deleted,
        }
    }

    /// The last state of an object that is gone (from the watcher's sight), at this revision. Made once,
    /// however many watch.
    pub fn parting_json(&self) -> Bytes {
        let make = || {
            let old = self.old.as_ref().expect("only objects that were there can leave");
            let mut object = old.value();
            objects::ValueExt::set(&mut object, "metadata.resourceVersion", self.revision.to_string());
            Bytes::from(object.to_string())
        };
        self.parting.get_or_init(make).clone()
    }

    /// Memory that goes with the event, about.
    fn n_bytes(&self) -> usize {
        let side = |record: &Option<Arc<Record>>| record.as_ref().map_or(0, |record| record.json.len());
        EVENT_OVERHEAD + side(&self.old).max(side(&self.new))
    }
}

/// Events by kind, oldest first, with the order across kinds kept for trimming.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    by_kind: OrdMap<KindId, Kept>,
    order: Vector<(KindId, Timestamp, usize)>,
    n_bytes: usize,
    /// Nothing is known of before this revision.
    start: Revision,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    events: Vector<Arc<Event>>,
    /// Events at or below this revision have been dropped. Of this kind alone: what others do pushes nobody
    /// out who watches a quiet one.
    floor: Revision,
}

impl History {
    /// A history that starts after `start`, e.g. below a snapshot.
    pub(crate) fn starting_after(start: Revision) -> History {
        History { start, ..History::default() }
    }

    /// Where the history of a kind starts.
    pub(crate) fn floor(&self, kind: KindId) -> Revision {
        self.by_kind.get(&kind).map_or(self.start, |kept| kept.floor.max(self.start))
    }

    pub(crate) fn push(&mut self, event: Arc<Event>, now: Timestamp) {
        let n_bytes = event.n_bytes();
        self.order.push_back((event.key.kind, now, n_bytes));
        self.n_bytes += n_bytes;
        self.by_kind.entry(event.key.kind).or_default().events.push_back(event);
        let mut n_aged = 0;
        while let Some((kind, stamp, n_bytes)) = self.order.front().copied() {
            let full = self.order.len() > HISTORY_EVENTS_MAX || self.n_bytes > HISTORY_BYTES_MAX;
            let needed = self.order.len() <= HISTORY_EVENTS_MIN || now.since_ms(stamp) <= HISTORY_AGE_MAX_MS;
            if !full && (needed || n_aged == HISTORY_AGED_AT_ONCE) {
                break;
            }
            n_aged += usize::from(!full);
            self.order.pop_front();
            self.n_bytes -= n_bytes;
            if let Some(kept) = self.by_kind.get_mut(&kind)
                && let Some(dropped) = kept.events.pop_front()
            {
                kept.floor = dropped.txn_end;
            }
        }
    }

    /// The event of a kind at exactly `revision`, while it is remembered.
    pub(crate) fn at(&self, kind: KindId, revision: Revision) -> Option<&Arc<Event>> {
        let events = &self.by_kind.get(&kind)?.events;
        let found = events.binary_search_by(|event| event.revision.cmp(&revision)).ok()?;
        events.get(found)
    }

    /// The events of a kind after `revision`, oldest first; `None` when some have been dropped.
    pub(crate) fn after(&self, kind: KindId, revision: Revision) -> Option<impl Iterator<Item = &Arc<Event>>> {
        if revision < self.floor(kind) {
            return None;
        }
        let kept = self.by_kind.get(&kind).map(|Kept { events, .. }| {
            let start = events.binary_search_by(|event| match event.revision <= revision {
                true => std::cmp::Ordering::Less,
                false => std::cmp::Ordering::Greater,
            });
            let start = start.unwrap_or_else(|start| start);
            // A focus goes to `start` at once; skipping an iterator there would visit all before it.
            events.focus().narrow(start..).into_iter()
        });
        Some(kept.into_iter().flatten())
    }
}
