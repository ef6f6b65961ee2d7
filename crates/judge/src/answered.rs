//! What a client was told of its write is what happened, and it happened at most once.

use crate::history::{Applied, Assumed, Change, End, History, Known, Moment, Operation, Past, Refusal, What, Write};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn check(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut happened: BTreeMap<&str, Vec<Happened>> = BTreeMap::new();
    for (revision, (span, fact)) in &history.truth {
        if let Some(value) = &fact.value {
            let one = Happened { revision: *revision, name: &fact.name, seen: span.latest };
            happened.entry(value).or_default().push(one);
        }
    }
    let evidence =
        Evidence { history, past: Past::of(history), known: Known::of(history), applied: Applied::of(history) };
    for operation in &history.operations {
        let What::Write(write) = &operation.what else { continue };
        let happened = happened.remove(write.value.as_str()).unwrap_or_default();
        if let Some(why) = evidence.against(operation, write, &happened) {
            let changes: Vec<String> = write.changes.iter().map(ToString::to_string).collect();
            let (who, value, invoked) = (&operation.who, &write.value, operation.invoked.0);
            wrong.push(format!("{who}: {value}, begun at {invoked}, of {} {why}", changes.join(" and ")));
        }
    }
    for (value, all) in happened {
        let first = &all[0];
        wrong.push(format!(
            "nobody wrote {value:?}, which {} holds from revision {} on, as was shown at {}",
            first.name, first.revision, first.seen.0
        ));
    }
    wrong.extend(unasked(history));
    wrong
}

/// A revision at which an object came to hold a value.
struct Happened<'a> {
    revision: u64,
    name: &'a str,
    /// When it was shown first.
    seen: Moment,
}

/// Deletions that nobody made. They hold no value: each is that of somebody who was told its revision, or of
/// somebody who does not know, and who accounts for one.
fn unasked(history: &History) -> Vec<String> {
    let mut told: BTreeSet<(u64, &str)> = BTreeSet::new();
    // By name, when each was begun.
    let mut unknown: BTreeMap<&str, Vec<Moment>> = BTreeMap::new();
    for operation in &history.operations {
        let What::Write(write) = &operation.what else { continue };
        for (i, change) in write.changes.iter().enumerate().filter(|(_, change)| change.deletes) {
            match &write.end {
                End::Applied(revisions) => told.extend(revisions.get(i).map(|at| (*at, change.name.as_str()))),
                End::Never => {}
                End::Refused(_) if !write.doubtful => {}
                End::Unknown | End::Refused(_) => unknown.entry(&change.name).or_default().push(operation.invoked),
            }
        }
    }
    let gone = history.truth.iter().filter(|(_, (_, fact))| fact.value.is_none());
    let mut gone: Vec<(Moment, u64, &str)> =
        gone.map(|(revision, (span, fact))| (span.latest, *revision, fact.name.as_str())).collect();
    gone.retain(|(_, revision, name)| !told.contains(&(*revision, name)));
    // By when they were seen: what was begun before one was begun before those after it, so any will do.
    gone.sort_unstable();
    let mut wrong = Vec::new();
    for (latest, revision, name) in gone {
        let begun = unknown.entry(name).or_default();
        match begun.iter().position(|begun| *begun <= latest) {
            Some(i) => {
                begun.swap_remove(i);
            }
            None => wrong.push(format!("nobody deleted {name}, which went at revision {revision}")),
        }
    }
    wrong
}

struct Evidence<'a> {
    history: &'a History,
    past: Past<'a>,
    known: Known,
    applied: Applied,
}

impl Evidence<'_> {
    /// What is wrong with the answer to a write that happened at these revisions.
    fn against(&self, operation: &Operation, write: &Write, happened: &[Happened]) -> Option<String> {
        let revisions: Vec<u64> = happened.iter().map(|one| one.revision).collect();
        let n_written = write.changes.iter().filter(|change| !change.deletes).count();
        if happened.len() > n_written {
            return Some(format!("was applied more than once, at {revisions:?}"));
        }
        if !happened.is_empty() && happened.len() < n_written {
            return Some(format!("was applied in part, at {revisions:?}"));
        }
        let is_asked = |one: &&Happened| write.changes.iter().any(|change| !change.deletes && change.name == one.name);
        if let Some(one) = happened.iter().find(|one| !is_asked(one)) {
            return Some(format!("was applied to {}, at revision {}", one.name, one.revision));
        }
        if let Some(one) = happened.iter().find(|one| one.seen < operation.invoked) {
            return Some(format!("was shown before, at {}, as revision {}", one.seen.0, one.revision));
        }
        match &write.end {
            End::Unknown => None,
            End::Refused(refusal @ Refusal::Unearned(_)) => Some(format!("was told {refusal}, which no write earns")),
            End::Applied(told) => {
                (!is_kept(self.history, write, told)).then(|| format!("was acknowledged at {told:?} and is not there"))
            }
            End::Never => (!happened.is_empty()).then(|| format!("was told never to apply, and did at {revisions:?}")),
            End::Refused(refusal) => {
                // After a try of unknown outcome that one may still be under way; but what it had
                // done before the last try must have been told.
                let is_late = |one: &Happened| write.doubtful && one.seen > operation.tried;
                if !happened.iter().all(is_late) {
                    return Some(format!("was told {refusal}, and was applied at {revisions:?}"));
                }
                // What had been told of before had been applied, even if it is of objects that nobody judges.
                let first = self.known.before(operation.invoked);
                let last = self.applied.at(operation.answered).max(first);
                let due =
                    self.past.moments(refusal.name(), first, last).any(|at| is_due(&self.past, write, refusal, at));
                (!due).then(|| format!("was told {refusal}, which was so at no revision from {first} to {last}"))
            }
        }
    }
}

/// How many writes were acknowledged, and are not there.
pub fn n_lost(history: &History) -> usize {
    let is_lost = |operation: &&Operation| match &operation.what {
        What::Write(write @ Write { end: End::Applied(told), .. }) => !is_kept(history, write, told),
        What::Write(_) | What::Read { .. } => false,
    };
    history.operations.iter().filter(is_lost).count()
}

/// Whether each change is there at the revision that was told of it. Deletions hold no value.
fn is_kept(history: &History, write: &Write, told: &[u64]) -> bool {
    let stands = |(change, revision): (&Change, &u64)| {
        let value = (!change.deletes).then_some(&write.value);
        let fact = history.truth.get(revision).map(|(_, fact)| fact);
        fact.is_some_and(|fact| fact.name == change.name && fact.value.as_ref() == value)
    };
    told.len() == write.changes.len() && write.changes.iter().zip(told).all(stands)
}

/// Whether the write had to be refused so at this revision.
fn is_due(past: &Past, write: &Write, refusal: &Refusal, at: u64) -> bool {
    let (name, due): (_, fn(Assumed, Option<u64>) -> bool) = match refusal {
        Refusal::AlreadyExists(name) => (name, |assumed, stands| assumed == Assumed::Absent && stands.is_some()),
        Refusal::NotFound(name) => (name, |assumed, stands| assumed != Assumed::Absent && stands.is_none()),
        Refusal::Conflict(name) => (
            name,
            |assumed, stands| matches!((assumed, stands), (Assumed::At(assumed), Some(stands)) if assumed != stands),
        ),
        Refusal::Fenced => return write.value.starts_with(super::fenced::PREFIX),
        Refusal::Unearned(_) => return false,
    };
    let stands = past.object(name, at).map(|(revision, _)| revision);
    write.changes.iter().any(|change| change.name == *name && due(change.assumed, stands))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::fixture::{Fixture, history};
    use crate::history::{Assumed, Change, End, Refusal};

    fn wrong(truth: &str, doubtful: bool, end: End) -> Vec<String> {
        // Nobody asks about `x` and `z`: they are there to be in the way.
        let base = Fixture(history(truth)).tells("x", 0).tells("z", 0);
        let change = Change { name: "1/a".into(), assumed: Assumed::At(1), deletes: false };
        // The last try begins at 5; fixture events are applied at their revision's moment.
        check(&base.write("y", 2, 5, 9, doubtful, vec![change], end).0)
    }

    #[test]
    fn lost_doubled_and_denied_writes_are_found() {
        let conflict = || End::Refused(Refusal::Conflict("1/a".into()));
        assert_eq!(wrong("1 a=x  2 a=y", false, End::Applied(vec![2])), [""; 0]);
        assert_eq!(wrong("1 a=x  2 a=y", false, End::Unknown), [""; 0]);
        assert_eq!(wrong("1 a=x  2 a=z", false, conflict()), [""; 0]);
        assert_eq!(wrong("1 a=x  2 a=z 3 a=x 4 a=x 5 a=x 6 a=y", true, conflict()), [""; 0], "came late");
        let bad = |truth, doubtful, end| assert_eq!(wrong(truth, doubtful, end).len(), 1);
        bad("1 a=x", false, End::Applied(vec![2])); // lost
        bad("1 a=x  2 a=z", false, End::Applied(vec![2])); // overwritten in place
        bad("1 a=x  2 a=y  3 a=y", false, End::Unknown); // twice
        bad("1 a=x  2 a=y", false, End::Never); // denied
        bad("1 a=x  2 a=y", true, conflict()); // the retry forgot that it was done
        bad("1 a=x", false, conflict()); // refused for nothing
        bad("1 a=x  2 b=q", false, End::Unknown); // from nowhere
        bad("1 b=y", false, End::Unknown); // to another object
        bad("0 a=x  1 a=y", false, End::Unknown); // before it was begun
        bad("1 a=x  9000000000000000 a=z", false, End::Refused(Refusal::NotFound("1/a".into()))); // and at once
    }

    #[test]
    fn deletions_that_nobody_made_are_found() {
        let wrong = |truth: &str, begun: u64, doubtful: bool, end: End| {
            let base = Fixture(history(truth)).tells("x", 0);
            let change = Change { name: "1/a".into(), assumed: Assumed::At(1), deletes: true };
            check(&base.write("y", begun, begun, 9, doubtful, vec![change], end).0)
        };
        let absent = || End::Refused(Refusal::NotFound("1/a".into()));
        let once = "1 a=x  2 a=-";
        assert_eq!(wrong(once, 2, false, End::Applied(vec![2])), [""; 0]);
        assert_eq!(wrong(once, 2, true, End::Unknown), [""; 0]);
        assert_eq!(wrong(once, 2, true, absent()), [""; 0], "an earlier try may have done it");
        let unasked = ["nobody deleted 1/a, which went at revision 2"];
        assert_eq!(wrong(once, 2, false, absent()), unasked, "it was gone already");
        assert_eq!(wrong(once, 2, false, End::Never), unasked);
        assert_eq!(wrong(once, 3, true, End::Unknown), unasked, "begun when it had been seen gone");
        let twice = "1 a=x  2 a=-  3 a=x  4 a=-";
        let again = ["nobody deleted 1/a, which went at revision 4"];
        assert_eq!(wrong(twice, 2, false, End::Applied(vec![2])), again);
        assert_eq!(wrong(twice, 2, true, End::Unknown), again, "one try deletes once");
    }
}
