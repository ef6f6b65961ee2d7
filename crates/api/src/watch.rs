//! Watches: which events a watcher is shown, in which form, from where.

use crate::list::{Filter, expired};
use crate::read::in_served_form;
use crate::{Request, Verb};
use bytes::Bytes;
use objects::{Record, Revision, Served, Status, Value, ValueExt};
use state::{Event, EventKind, View};
use std::sync::Arc;

/// A watch in progress: its filter and how far it has come. The shell calls `next` whenever the
/// kind has changed.
#[derive(Debug, Clone)]
pub struct Watch {
    pub served: Served,
    filter: Filter,
    /// Everything up to here has been shown.
    position: Revision,
    /// Show the present objects first.
    initial: bool,
    /// End the initial events with an annotated bookmark (`sendInitialEvents`).
    mark_initial_end: bool,
    pub bookmarks: bool,
    pub timeout_seconds: Option<u64>,
}

/// One change as a watcher sees it: a side that its filter does not match is absent.
#[derive(Debug, Clone)]
pub struct Change {
    pub revision: Revision,
    pub before: Option<Arc<Record>>,
    pub after: Option<Arc<Record>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    Added(Bytes),
    Modified(Bytes),
    Deleted(Bytes),
    Bookmark(Bytes),
}

impl Shown {
    pub fn type_name(&self) -> &'static str {
        match self {
            Shown::Added(_) => "ADDED",
            Shown::Modified(_) => "MODIFIED",
            Shown::Deleted(_) => "DELETED",
            Shown::Bookmark(_) => "BOOKMARK",
        }
    }

    pub fn json(&self) -> &Bytes {
        match self {
            Shown::Added(json) | Shown::Modified(json) | Shown::Deleted(json) | Shown::Bookmark(json) => json,
        }
    }
}

impl Watch {
    pub(crate) fn new(request: &Request, view: &View) -> Result<Watch, Status> {
        debug_assert_eq!(request.verb, Verb::Watch);
        let options = &request.options;
        let mut filter = Filter::of(request)?;
        if !request.name.is_empty() {
            filter.fields = filter.fields.and_name(&request.name);
        }
        let from = options.resource_version.filter(|revision| *revision > 0).map(Revision);
        let initial = options.send_initial_events || from.is_none();
        let watch = Watch {
            served: request.served,
            filter,
            position: from.filter(|_| !initial).unwrap_or(view.revision()),
            initial,
            mark_initial_end: options.send_initial_events,
            bookmarks: options.allow_bookmarks,
            timeout_seconds: options.timeout_seconds,
        };
        // Say now, not in the stream, that the start has left the history.
        if !initial {
            view.events_after(request.served.kind.id, watch.position).map_err(expired)?;
        }
        Ok(watch)
    }

    /// The revision up to which everything has been shown.
    pub fn position(&self) -> Revision {
        self.position
    }

    /// What has happened since the last call, oldest first. An error ends the watch.
    pub fn next(&mut self, view: &View) -> Result<Vec<Shown>, Status> {
        let kind = self.served.kind;
        let mut shown = Vec::new();
        if self.initial {
            self.initial = false;
            self.position = view.revision();
            let records = view.list(kind.id, &self.filter.namespace, None).filter(|record| self.filter.matches(record));
            shown.extend(records.map(|record| Shown::Added(in_served_form(&self.served, record))));
            if self.mark_initial_end {
                shown.push(Shown::Bookmark(self.bookmark_json(true)));
            }
            return Ok(shown);
        }
        if view.revision() <= self.position {
            return Ok(shown);
        }
        for event in view.events_after(kind.id, self.position).map_err(expired)? {
            shown.extend(self.show(&event));
        }
        self.position = view.revision();
        Ok(shown)
    }

    /// As `next`, in records: for faces that compare both sides of a change. What was present at the
    /// start has no side before.
    pub fn changes(&mut self, view: &View) -> Result<Vec<Change>, Status> {
        let kind = self.served.kind;
        if std::mem::take(&mut self.initial) {
            self.position = view.revision();
            let present = view.list(kind.id, &self.filter.namespace, None).filter(|record| self.filter.matches(record));
            let added = |record: &Arc<Record>| Change {
                revision: record.header.revision,
                before: None,
                after: Some(record.clone()),
            };
            return Ok(present.map(added).collect());
        }
        if view.revision() <= self.position {
            return Ok(Vec::new());
        }
        let seen = |side: &Option<Arc<Record>>| side.clone().filter(|record| self.filter.matches(record));
        let events = view.events_after(kind.id, self.position).map_err(expired)?;
        let sides = events.iter().map(|event| Change {
            revision: event.revision,
            before: seen(&event.old),
            after: seen(&event.new),
        });
        let changes = sides.filter(|change| change.before.is_some() || change.after.is_some()).collect();
        self.position = view.revision();
        Ok(changes)
    }

    /// How this watcher sees an event: an object that enters its selector is added, one that leaves
    /// is deleted.
    fn show(&self, event: &Event) -> Option<Shown> {
        let before = event.old.as_ref().is_some_and(|record| self.filter.matches(record));
        let after = event.new.as_ref().filter(|record| self.filter.matches(record));
        match (before, after, event.kind()) {
            (false, None, _) => None,
            (true, None, _) => Some(Shown::Deleted(self.parting(event))),
            (false, Some(record), _) => Some(Shown::Added(in_served_form(&self.served, record))),
            (true, Some(record), EventKind::Added | EventKind::Modified | EventKind::Deleted) => {
                Some(Shown::Modified(in_served_form(&self.served, record)))
            }
        }
    }

    fn parting(&self, event: &Event) -> Bytes {
        let json = event.parting_json();
        match self.served.convert {
            None => json,
            Some((to, _)) => {
                let mut object: Value = serde_json::from_slice(&json).expect("it was just serialised");
                to(&mut object);
                object.to_string().into()
            }
        }
    }

    /// A bookmark at the current position.
    pub fn bookmark(&self) -> Shown {
        Shown::Bookmark(self.bookmark_json(false))
    }

    fn bookmark_json(&self, initial_end: bool) -> Bytes {
        let mut object = objects::json!({
            "kind": self.served.kind.kind, "apiVersion": self.served.api_version(),
            "metadata": {"resourceVersion": self.position.to_string(), "creationTimestamp": null},
        });
        if initial_end {
            object.set("metadata.annotations", objects::json!({"k8s.io/initial-events-end": "true"}));
        }
        object.to_string().into()
    }
}
