//! What a client was told of its write is what happened, and it happened at most once.

use crate::history::{Applied, Assumed, Change, End, History, Known, Moment, Operation, Past, Refusal, What, Write};
use std::collections::BTreeMap;

pub(crate) fn check(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut happened: BTreeMap<&str, Vec<(u64, Moment)>> = BTreeMap::new();
    for (revision, (span, fact)) in &history.truth {
        if let Some(value) = &fact.value {
            happened.entry(value).or_default().push((*revision, span.latest));
        }
    }
    let evidence =
        Evidence { history, past: Past::of(history), known: Known::of(history), applied: Applied::of(history) };
    for operation in &history.operations {
        let What::Write(write) = &operation.what else { continue };
        let happened = happened.remove(write.value.as_str()).unwrap_or_default();
        if let Some(why) = evidence.against(operation, write, &happened) {
            wrong.push(format!("{}: {} {:?} {why}", operation.who, write.value, write.changes));
        }
    }
    wrong.extend(happened.into_keys().map(|value| format!("nobody wrote {value:?}, which was applied")));
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
    fn against(&self, operation: &Operation, write: &Write, happened: &[(u64, Moment)]) -> Option<String> {
        let revisions: Vec<u64> = happened.iter().map(|(revision, _)| *revision).collect();
        let n_written = write.changes.iter().filter(|change| !change.deletes).count();
        if happened.len() > n_written {
            return Some(format!("was applied more than once, at {revisions:?}"));
        }
        if !happened.is_empty() && happened.len() < n_written {
            return Some(format!("was applied in part, at {revisions:?}"));
        }
        match &write.end {
            End::Unknown => None,
            End::Applied(told) => {
                let stands = |(change, revision): (&Change, &u64)| self.stands(write, change, *revision);
                let kept = told.len() == write.changes.len() && write.changes.iter().zip(told).all(stands);
                (!kept).then(|| format!("was acknowledged at {told:?} and is not there"))
            }
            End::Never => (!happened.is_empty()).then(|| format!("was told never to apply, and did at {revisions:?}")),
            End::Refused(refusal) => {
                // After a try of unknown outcome that one may still be under way; but what it had
                // done before the last try must have been told.
                let late = |first: &Moment| write.doubtful && *first > operation.tried;
                if happened.iter().any(|(_, first)| !late(first)) {
                    return Some(format!("was told {refusal:?}, and was applied at {revisions:?}"));
                }
                // What had been told of before had been applied, even if it is of objects that nobody judges.
                let first = self.known.before(operation.invoked);
                let last = self.applied.at(operation.answered).max(first);
                let due = (first..=last).any(|at| is_due(&self.past, write, refusal, at));
                (!due).then(|| format!("was told {refusal:?}, which was so at no revision from {first} to {last}"))
            }
        }
    }

    /// Whether the truth at a revision is this change. Deletions hold no value.
    fn stands(&self, write: &Write, change: &Change, revision: u64) -> bool {
        let value = (!change.deletes).then_some(&write.value);
        let fact = self.history.truth.get(&revision).map(|(_, fact)| fact);
        fact.is_some_and(|fact| fact.name == change.name && fact.value.as_ref() == value)
    }
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
    }
}
