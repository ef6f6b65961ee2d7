//! What clients did and saw, and the truth it is held against: the events as the masters applied them.

use std::collections::BTreeMap;

/// A point in the one order over everything that happened in a run: the number of a line of its trace,
/// or microseconds since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// An object as seen: its name, revision and value. Values are never written twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    pub name: String,
    pub revision: u64,
    pub value: String,
}

/// One request of a client, retries included.
#[derive(Clone, Debug)]
pub struct Operation {
    pub who: String,
    pub invoked: Moment,
    /// The last try began.
    pub tried: Moment,
    pub answered: Moment,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    /// A linearizable read of everything.
    Read {
        at: u64,
        seen: Vec<Sight>,
    },
    Write(Write),
}

#[derive(Clone, Debug)]
pub struct Write {
    /// What every object this writes then holds.
    pub value: String,
    pub changes: Vec<Change>,
    /// An earlier try had an unknown outcome.
    pub doubtful: bool,
    pub end: End,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub name: String,
    pub assumed: Assumed,
    pub deletes: bool,
}

/// What a write was told to change only if it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Assumed {
    /// The object must not exist.
    Absent,
    /// It must be at this revision.
    At(u64),
    /// It must exist.
    Present,
}

/// A refusal that changed nothing, with the name of the object it is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    AlreadyExists(String),
    NotFound(String),
    /// The object is at another revision than assumed.
    Conflict(String),
    /// Another leader appended it.
    Fenced,
    /// One that no write of the run earns.
    Unearned(String),
}

impl Refusal {
    /// The object it is about; of none, an empty name.
    pub fn name(&self) -> &str {
        match self {
            Refusal::AlreadyExists(name) | Refusal::NotFound(name) | Refusal::Conflict(name) => name,
            Refusal::Fenced | Refusal::Unearned(_) => "",
        }
    }
}

/// What the client was told in the end.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Applied(Vec<u64>),
    Refused(Refusal),
    /// Certainly not applied, by the product's own word.
    Never,
    Unknown,
}

/// What one watcher was shown, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// It began, or began again, with a list.
    Listed { at: u64, seen: Vec<Sight> },
    /// `None` when the object was deleted.
    Event { revision: u64, name: String, value: Option<String> },
}

/// When a revision was applied, as far as it is known. A simulator knows it to the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub earliest: Moment,
    pub latest: Moment,
}

impl Span {
    pub fn at(moment: Moment) -> Span {
        Span { earliest: moment, latest: moment }
    }
}

/// One event as some master applied it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    pub name: String,
    pub value: Option<String>,
    /// The last revision of the same txn.
    pub txn_end: u64,
}

#[derive(Default)]
pub struct History {
    pub operations: Vec<Operation>,
    /// By watcher.
    pub watched: BTreeMap<String, Vec<Shown>>,
    /// By revision, with when the first master applied it.
    pub truth: BTreeMap<u64, (Span, Fact)>,
    /// Further revisions that somebody was told of, and when: of lists, in which nothing may have changed.
    pub told: Vec<(Moment, u64)>,
    /// The revision up to which watchers were waited for; by default the last.
    pub until: Option<u64>,
    /// What was found wrong while the run went on.
    pub problems: Vec<String>,
}

impl History {
    /// Takes in what `who` tells of a revision, and when it may have been applied; everybody must tell
    /// the same.
    pub fn learn(&mut self, who: &str, revision: u64, fact: Fact, span: Span) {
        let (known_span, known) = self.truth.entry(revision).or_insert_with(|| (span, fact.clone()));
        known_span.latest = known_span.latest.min(span.latest);
        if *known != fact {
            self.problems.push(format!("{who} tells of {fact} at revision {revision}, another of {known}"));
        }
    }

    pub fn last_revision(&self) -> u64 {
        self.truth.keys().next_back().copied().unwrap_or(0)
    }
}

/// Every object's states over the revisions, for looking up what was true when.
pub struct Past<'a>(BTreeMap<&'a str, Vec<(u64, Option<&'a str>)>>);

impl<'a> Past<'a> {
    pub fn of(history: &'a History) -> Past<'a> {
        let mut past: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (revision, (_, fact)) in &history.truth {
            past.entry(&fact.name).or_default().push((*revision, fact.value.as_deref()));
        }
        Past(past)
    }

    /// The revision and value of an object as of a revision; `None` when it did not exist.
    pub fn object(&self, name: &str, at: u64) -> Option<(u64, &'a str)> {
        let states = self.0.get(name)?;
        let n_before = states.partition_point(|(revision, _)| *revision <= at);
        let (revision, value) = states[..n_before].last()?;
        value.map(|value| (*revision, value))
    }

    /// Revisions in `first..=last` at which something other may stand there than just before: the first, and each change.
    pub(crate) fn moments(&self, name: &str, first: u64, last: u64) -> impl Iterator<Item = u64> {
        let states = self.0.get(name).map_or(&[][..], Vec::as_slice);
        let later = &states[states.partition_point(|(revision, _)| *revision <= first)..];
        let changes = later.iter().map(|(revision, _)| *revision).take_while(move |revision| *revision <= last);
        std::iter::once(first).chain(changes)
    }

    /// All objects as of a revision whose names start with `prefix`.
    pub fn objects(&self, prefix: &str, at: u64) -> Vec<Sight> {
        let names = self.0.keys().filter(|name| name.starts_with(prefix));
        let sight = |name: &&str| {
            let (revision, value) = self.object(name, at)?;
            Some(Sight { name: name.to_string(), revision, value: value.to_string() })
        };
        names.filter_map(sight).collect()
    }
}

/// Which revisions had been applied when, by any master.
pub struct Applied(Vec<(Moment, u64)>);

impl Applied {
    pub fn of(history: &History) -> Applied {
        let mut applied: Vec<(Moment, u64)> =
            history.truth.iter().map(|(revision, (span, _))| (span.earliest, *revision)).collect();
        // A master may tell of later revisions before another tells of earlier ones; those had been
        // applied by then.
        let mut earliest = Moment(u64::MAX);
        for (first, _) in applied.iter_mut().rev() {
            earliest = earliest.min(*first);
            *first = earliest;
        }
        Applied(applied)
    }

    /// The newest revision any master can have applied at `moment`.
    pub fn at(&self, moment: Moment) -> u64 {
        let n_applied = self.0.partition_point(|(first, _)| *first <= moment);
        self.0[..n_applied].last().map_or(0, |(_, revision)| *revision)
    }
}

/// What could be known when: the newest revision that an answer or a watcher had shown before a moment.
pub struct Known(Vec<(Moment, u64)>);

impl Operation {
    /// The one revision at which this took effect, when the answer tells.
    pub fn position(&self) -> Option<u64> {
        match &self.what {
            What::Read { at, .. } => Some(*at),
            What::Write(Write { end: End::Applied(revisions), .. }) => revisions.last().copied(),
            What::Write(_) => None,
        }
    }
}

impl Known {
    pub fn of(history: &History) -> Known {
        let told = history.operations.iter().filter_map(|op| Some((op.answered, op.position()?)));
        // What a master shows is committed, and whatever is begun later waits for all that is.
        let shown = history.truth.iter().map(|(revision, (span, _))| (span.latest, *revision));
        let mut known: Vec<(Moment, u64)> = told.chain(shown).chain(history.told.iter().copied()).collect();
        known.sort();
        let mut newest = 0;
        for (_, revision) in &mut known {
            newest = newest.max(*revision);
            *revision = newest;
        }
        Known(known)
    }

    pub fn before(&self, moment: Moment) -> u64 {
        let n_before = self.0.partition_point(|(answered, _)| *answered < moment);
        self.0[..n_before].last().map_or(0, |(_, revision)| *revision)
    }
}
