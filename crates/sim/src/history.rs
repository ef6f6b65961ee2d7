//! What clients did and saw, and the truth it is held against: the events as the masters applied them.

use crate::trace::Moment;
use objects::{Key, Revision, ValueExt};
use state::{Event, Refusal, View};
use std::collections::BTreeMap;

/// An object as seen: its name, revision and value. Values are never written twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) name: String,
    pub(crate) revision: u64,
    pub(crate) value: String,
}

/// One request of a client, retries included.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) who: String,
    pub(crate) invoked: Moment,
    /// The last try began.
    pub(crate) tried: Moment,
    pub(crate) answered: Moment,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A linearizable read of everything.
    Read {
        at: Revision,
        seen: Vec<Sight>,
    },
    Write(Write),
}

#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// What every object this writes then holds.
    pub(crate) value: String,
    pub(crate) changes: Vec<Change>,
    /// An earlier try had an unknown outcome.
    pub(crate) doubtful: bool,
    pub(crate) end: End,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) name: String,
    /// The revision it must be at; `None` when it must not exist.
    pub(crate) assumed: Option<u64>,
    pub(crate) deletes: bool,
}

/// What the client was told in the end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Applied(Vec<Revision>),
    Refused(Refusal),
    /// Certainly not applied, by the product's own word.
    Never,
    Unknown,
}

/// What one watcher was shown, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shown {
    /// It began, or began again, with a list.
    Listed { at: u64, seen: Vec<Sight> },
    /// `None` when the object was deleted.
    Event { revision: u64, name: String, value: Option<String> },
}

/// One event as some master applied it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    /// The last revision of the same txn.
    pub(crate) txn_end: u64,
}

#[derive(Default)]
pub(crate) struct History {
    pub(crate) operations: Vec<Operation>,
    /// By watcher.
    pub(crate) watched: BTreeMap<String, Vec<Shown>>,
    /// By revision, with the moment the first master applied it.
    pub(crate) truth: BTreeMap<u64, (Moment, Fact)>,
    /// What was found wrong while the run went on.
    pub(crate) problems: Vec<String>,
}

/// `kind/name`, e.g. `configmaps/a`.
pub(crate) fn name_of(key: &Key) -> String {
    format!("{}/{}", key.kind.0, key.name)
}

pub(crate) fn sight(record: &objects::Record) -> Sight {
    Sight {
        name: name_of(&record.key),
        revision: record.header.revision.0,
        value: record.value().text("data.v").to_string(),
    }
}

/// Everything of the kinds clients write.
pub(crate) fn sights(view: &View) -> Vec<Sight> {
    crate::KINDS.iter().flat_map(|kind| view.list(*kind, "", None)).map(|record| sight(record)).collect()
}

impl History {
    /// Takes in an event that `master` applied; every master must tell the same.
    pub(crate) fn learn(&mut self, master: &str, event: &Event, now: Moment) {
        let fact = Fact {
            name: name_of(&event.key),
            value: event.new.as_ref().map(|record| sight(record).value),
            txn_end: event.txn_end.0,
        };
        let (_, known) = self.truth.entry(event.revision.0).or_insert_with(|| (now, fact.clone()));
        if *known != fact {
            let revision = event.revision;
            self.problems.push(format!("{master} applied {fact:?} at revision {revision}, another {known:?}"));
        }
    }

    pub(crate) fn last_revision(&self) -> u64 {
        self.truth.keys().next_back().copied().unwrap_or(0)
    }
}

/// Every object's states over the revisions, for looking up what was true when.
pub(crate) struct Past<'a>(BTreeMap<&'a str, Vec<(u64, Option<&'a str>)>>);

impl<'a> Past<'a> {
    pub(crate) fn of(history: &'a History) -> Past<'a> {
        let mut past: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (revision, (_, fact)) in &history.truth {
            past.entry(&fact.name).or_default().push((*revision, fact.value.as_deref()));
        }
        Past(past)
    }

    /// The revision and value of an object as of a revision; `None` when it did not exist.
    pub(crate) fn object(&self, name: &str, at: u64) -> Option<(u64, &'a str)> {
        let states = self.0.get(name)?;
        let n_before = states.partition_point(|(revision, _)| *revision <= at);
        let (revision, value) = states[..n_before].last()?;
        value.map(|value| (*revision, value))
    }

    /// All objects as of a revision whose names start with `prefix`.
    pub(crate) fn objects(&self, prefix: &str, at: u64) -> Vec<Sight> {
        let names = self.0.keys().filter(|name| name.starts_with(prefix));
        let sight = |name: &&str| {
            let (revision, value) = self.object(name, at)?;
            Some(Sight { name: name.to_string(), revision, value: value.to_string() })
        };
        names.filter_map(sight).collect()
    }
}

/// Which revisions had been applied when, by any master.
pub(crate) struct Applied(Vec<(Moment, u64)>);

impl Applied {
    pub(crate) fn of(history: &History) -> Applied {
        let mut applied: Vec<(Moment, u64)> =
            history.truth.iter().map(|(revision, (first, _))| (*first, *revision)).collect();
        // A master may tell of later revisions before another tells of earlier ones; those had been
        // applied by then.
        let mut earliest = Moment(u64::MAX);
        for (first, _) in applied.iter_mut().rev() {
            earliest = earliest.min(*first);
            *first = earliest;
        }
        Applied(applied)
    }

    /// The newest revision any master had applied at `moment`.
    pub(crate) fn at(&self, moment: Moment) -> u64 {
        let n_applied = self.0.partition_point(|(first, _)| *first <= moment);
        self.0[..n_applied].last().map_or(0, |(_, revision)| *revision)
    }
}

/// What could be known when: the newest revision that an answer had shown before a moment.
pub(crate) struct Known(Vec<(Moment, u64)>);

impl Operation {
    /// The one revision at which this took effect, when the answer tells.
    pub(crate) fn position(&self) -> Option<u64> {
        match &self.what {
            What::Read { at, .. } => Some(at.0),
            What::Write(Write { end: End::Applied(revisions), .. }) => revisions.last().map(|revision| revision.0),
            What::Write(_) => None,
        }
    }
}

impl Known {
    pub(crate) fn of(history: &History) -> Known {
        let told = history.operations.iter().filter_map(|op| Some((op.answered, op.position()?)));
        let mut known: Vec<(Moment, u64)> = told.collect();
        known.sort();
        let mut newest = 0;
        for (_, revision) in &mut known {
            newest = newest.max(*revision);
            *revision = newest;
        }
        Known(known)
    }

    pub(crate) fn before(&self, moment: Moment) -> u64 {
        let n_before = self.0.partition_point(|(answered, _)| *answered < moment);
        self.0[..n_before].last().map_or(0, |(_, revision)| *revision)
    }
}
