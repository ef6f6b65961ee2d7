//! The lines of a report's files, and the history that the judgement is given. Times are microseconds since the
//! run began, of one monotonic clock; docs/chaos.md describes every field.

use crate::schedule::Planned;
use judge::{Assumed, Change, Fact, History, Moment, Operation, Refusal, Shown, Sight, Span, What, Write};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Objects by name: the revision and the value of each.
pub type Seen = BTreeMap<String, (u64, String)>;

/// A line of history.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Line {
    Write {
        who: String,
        name: String,
        value: String,
        #[serde(default, skip_serializing_if = "is_false")]
        creates: bool,
        /// The revision it must be at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        assumed: Option<u64>,
        invoked_us: u64,
        /// The last try began.
        tried_us: u64,
        answered_us: u64,
        /// An earlier try had an unknown outcome.
        #[serde(default, skip_serializing_if = "is_false")]
        doubtful: bool,
        end: WriteEnd,
        /// At which it was applied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<u64>,
        /// The words of a refusal that no write earns.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// A linearizable read of all objects.
    Read {
        who: String,
        invoked_us: u64,
        answered_us: u64,
        revision: u64,
        #[serde(deserialize_with = "each_once")]
        seen: Seen,
    },
    /// A watcher began, or began again, with a list.
    Listed {
        who: String,
        at_us: u64,
        revision: u64,
        #[serde(deserialize_with = "each_once")]
        seen: Seen,
    },
    /// A watcher was shown a change; with `null`, a deletion, which no client of a run asks for.
    Shown {
        who: String,
        at_us: u64,
        revision: u64,
        name: String,
        #[serde(deserialize_with = "Option::deserialize")]
        value: Option<String>,
    },
    /// A pod was asked for.
    Pod { name: String, invoked_us: u64, answered_us: u64, made: bool },
    /// A watcher saw a pod on a node.
    Bound { who: String, at_us: u64, revision: u64, pod: String, uid: String, node: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteEnd {
    Applied,
    Exists,
    NotFound,
    Conflict,
    /// Refused for what no write of ours earns.
    Refused,
    /// Certainly not applied, by the cluster's own word.
    Never,
    Unknown,
}

/// Objects by name, none of them twice.
fn each_once<'de, D: Deserializer<'de>>(from: D) -> Result<Seen, D::Error> {
    struct Once;

    impl<'de> Visitor<'de> for Once {
        type Value = Seen;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("objects by name")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Seen, M::Error> {
            let mut seen = Seen::new();
            while let Some((name, sight)) = map.next_entry::<String, (u64, String)>()? {
                if seen.contains_key(&name) {
                    return Err(M::Error::custom(format!("seen: {name} is there twice")));
                }
                seen.insert(name, sight);
            }
            Ok(seen)
        }
    }

    from.deserialize_map(Once)
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A line of faults.jsonl: one fault, written when it is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultLine {
    #[serde(flatten)]
    pub planned: Planned,
    /// Who was harmed.
    pub members: Vec<String>,
    /// Who led just before.
    #[serde(deserialize_with = "Option::deserialize")]
    pub leader: Option<String>,
    /// A majority of the masters stayed whole.
    pub majority: bool,
    /// The harm began, and stood.
    pub begun_us: u64,
    pub held_us: u64,
    /// Its end was asked for, and was done.
    pub ended_us: u64,
    pub healed_us: u64,
    /// Who had ended of it by himself when its end was asked for, of faults that masters end of, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Vec<String>>,
    /// What kept it from being done, or from being healed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl FaultLine {
    /// Whether it took the leader away.
    pub fn unseated(&self) -> bool {
        self.planned.fault.unseats() && self.leader.as_ref().is_some_and(|leader| self.members.contains(leader))
    }
}

/// run.json: what a report needs besides its lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Run {
    pub seed: u64,
    pub version: String,
    /// RFC 3339.
    pub started: String,
    pub masters: Vec<String>,
    pub workers: Vec<String>,
    /// What had to be there was made: the faults' times count from here.
    #[serde(default)]
    pub begun_us: u64,
    /// No fault begins after this.
    pub over_us: u64,
    /// Requests that were not sent, as too many were under way.
    pub unsent: u64,
    /// Lines that were written, so that a file that was cut short is found.
    pub history_lines: u64,
    pub fault_lines: u64,
    /// The revision of the write after all others, once the watchers were waited for: up to it the history is
    /// complete.
    pub last_write: Option<u64>,
    /// Why the run did not last as long as it was to.
    pub interrupted: Option<String>,
    /// How long the cluster took to be whole again in the end.
    pub converged_ms: Option<u64>,
    /// Or what was still missing when the patience was over.
    pub missing: Option<String>,
    /// The newest terms that any master told of when the scenario began, and when the cluster was whole in the end.
    #[serde(default)]
    pub terms: Option<[u64; 2]>,
    /// Who was not shown the pods up to the end.
    #[serde(default)]
    pub pods_unseen: Option<String>,
    /// Reads that were refused or not answered in time.
    #[serde(default)]
    pub reads_failed: u64,
    /// Why the last of them failed.
    #[serde(default)]
    pub read_error: Option<String>,
    /// The namespace of the run, when it could not be deleted.
    pub left: Option<String>,
    /// Whether nobody looked for members that end: they are an operator's machines.
    #[serde(default)]
    pub ends_unseen: bool,
    /// Members that ended by themselves, and of no fault: a sentence each.
    #[serde(default)]
    pub ended: Vec<String>,
}

fn sights(seen: &Seen) -> Vec<Sight> {
    let sight = |(name, (revision, value)): (&String, &(u64, String))| Sight {
        name: name.clone(),
        revision: *revision,
        value: value.clone(),
    };
    seen.iter().map(sight).collect()
}

fn write_of(line: &Line) -> Option<(Operation, &str)> {
    let Line::Write {
        who,
        name,
        value,
        creates,
        assumed,
        invoked_us,
        tried_us,
        answered_us,
        doubtful,
        end,
        revision,
        why,
    } = line
    else {
        return None;
    };
    let end = match (end, revision) {
        (WriteEnd::Applied, Some(revision)) => judge::End::Applied(vec![*revision]),
        (WriteEnd::Exists, _) => judge::End::Refused(Refusal::AlreadyExists(name.clone())),
        (WriteEnd::NotFound, _) => judge::End::Refused(Refusal::NotFound(name.clone())),
        (WriteEnd::Conflict, _) => judge::End::Refused(Refusal::Conflict(name.clone())),
        (WriteEnd::Refused, _) => judge::End::Refused(Refusal::Unearned(why.clone().unwrap_or_default())),
        (WriteEnd::Never, _) => judge::End::Never,
        (WriteEnd::Unknown | WriteEnd::Applied, _) => judge::End::Unknown,
    };
    let assumed = match (creates, assumed) {
        (true, _) => Assumed::Absent,
        (false, Some(revision)) => Assumed::At(*revision),
        (false, None) => Assumed::Present,
    };
    let changes = vec![Change { name: name.clone(), assumed, deletes: false }];
    let write = Write { value: value.clone(), changes, doubtful: *doubtful, end };
    let operation = Operation {
        who: who.clone(),
        invoked: Moment(*invoked_us),
        tried: Moment(*tried_us),
        answered: Moment(*answered_us),
        what: What::Write(write),
    };
    Some((operation, value))
}

/// How the names of all objects begin: with their kind, `configmaps/`, when it is the same of all.
fn kind(lines: &[Line]) -> &str {
    let names = lines.iter().flat_map(|line| match line {
        Line::Write { name, .. } | Line::Shown { name, .. } => vec![name.as_str()],
        Line::Read { seen, .. } | Line::Listed { seen, .. } => seen.keys().map(String::as_str).collect(),
        Line::Pod { .. } | Line::Bound { .. } => Vec::new(),
    });
    let mut kinds = names.map(|name| name.find('/').map_or("", |at| &name[..=at]));
    let first = kinds.next().unwrap_or_default();
    // A blank would end the watcher's own name.
    let is_common = !first.contains(' ') && kinds.all(|kind| kind == first);
    if is_common { first } else { "" }
}

/// The history that the lines tell, with the last write's revision. The truth is what watchers were shown: who wrote a
/// value cannot have done so before it was asked for, nor after it was first shown.
pub fn history(lines: &[Line], last_write: Option<u64>) -> History {
    let mut history = History { until: last_write, ..History::default() };
    let kind = kind(lines);
    // The judgement takes what a watcher watches from its name.
    let watcher = |who: &str| format!("{who} of {kind}");
    let mut invoked: BTreeMap<&str, u64> = BTreeMap::new();
    for line in lines {
        if let Some((operation, value)) = write_of(line) {
            invoked.insert(value, operation.invoked.0);
            history.operations.push(operation);
        }
    }
    let span = |value: Option<&str>, at_us: u64| Span {
        earliest: Moment(value.and_then(|value| invoked.get(value)).copied().unwrap_or(0)),
        latest: Moment(at_us),
    };
    for line in lines {
        match line {
            Line::Write { .. } | Line::Pod { .. } | Line::Bound { .. } => {}
            Line::Read { who, invoked_us, answered_us, revision, seen } => history.operations.push(Operation {
                who: who.clone(),
                invoked: Moment(*invoked_us),
                tried: Moment(*invoked_us),
                answered: Moment(*answered_us),
                what: What::Read { at: *revision, seen: sights(seen) },
            }),
            Line::Listed { who, at_us, revision, seen } => {
                for (name, (revision, value)) in seen {
                    let fact = Fact { name: name.clone(), value: Some(value.clone()), txn_end: *revision };
                    history.learn(who, *revision, fact, span(Some(value), *at_us));
                }
                // One look, and no watcher: what it shows must be so, and it is shown nothing after.
                if !is_damaged(who) {
                    history.told.push((Moment(*at_us), *revision));
                    let listed = Shown::Listed { at: *revision, seen: sights(seen) };
                    history.watched.entry(watcher(who)).or_default().push(listed);
                }
            }
            Line::Shown { who, at_us, revision, name, value } => {
                let fact = Fact { name: name.clone(), value: value.clone(), txn_end: *revision };
                history.learn(who, *revision, fact, span(value.as_deref(), *at_us));
                let event = Shown::Event { revision: *revision, name: name.clone(), value: value.clone() };
                history.watched.entry(watcher(who)).or_default().push(event);
            }
        }
    }
    history
}

/// How the name begins of who lists what a master itself holds, after the last write.
pub const OWN_STATE: &str = "state of ";

/// And how the name ends, when bits of its storage are flipped.
pub const DAMAGED: &str = ", damaged";

/// Whether this is what a master with damaged storage showed of itself.
fn is_damaged(who: &str) -> bool {
    who.starts_with(OWN_STATE) && who.ends_with(DAMAGED)
}

/// Revisions up to the last write's between two of which no watcher tells, so that the truth has a hole there. Masters' own
/// states are no watchers: with other objects still changing, they may be listed a little beyond the last write.
pub fn hole(lines: &[Line], last_write: Option<u64>) -> Option<(u64, u64)> {
    let mut open: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut stretches = Vec::new();
    for line in lines {
        match line {
            Line::Listed { who, revision, .. } if !who.starts_with(OWN_STATE) => {
                stretches.extend(open.insert(who, (*revision, *revision)));
            }
            Line::Shown { who, revision, .. } => {
                if let Some((_, to)) = open.get_mut(who.as_str()) {
                    // One that is shown what it had been shown is wrong, and leaves no hole.
                    *to = (*to).max(*revision);
                }
            }
            _ => {}
        }
    }
    stretches.extend(open.into_values());
    stretches.sort_unstable();
    let mut reached = stretches.first()?.1;
    for (from, to) in stretches {
        if from > reached && last_write.is_none_or(|last| reached < last) {
            return Some((reached, from));
        }
        reached = reached.max(to);
    }
    None
}
