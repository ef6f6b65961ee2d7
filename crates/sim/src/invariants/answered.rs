//! What a client was told of its write is what happened, and it happened at most once.

use crate::history::{End, Fact, History, Known, Operation, Past, What, Write};
use crate::trace::Moment;
use state::Refusal;
use std::collections::BTreeMap;

pub(super) fn check(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let (past, known) = (Past::of(history), Known::of(history));
    let mut by_value: BTreeMap<&str, Vec<(u64, Moment, &Fact)>> = BTreeMap::new();
    for (revision, (applied, fact)) in &history.truth {
        if let Some(value) = &fact.value {
            by_value.entry(value).or_default().push((*revision, *applied, fact));
        }
    }
    for operation in &history.operations {
        let What::Write(write) = &operation.what else { continue };
        let happened = by_value.remove(write.value.as_str()).unwrap_or_default();
        if let Some(why) = judge(history, &past, &known, operation, write, &happened) {
            wrong.push(format!("{}: {} {:?} {why}", operation.who, write.value, write.changes));
        }
    }
    wrong.extend(by_value.into_keys().map(|value| format!("nobody wrote {value:?}, which was applied")));
    wrong
}

fn judge(
    history: &History,
    past: &Past,
    known: &Known,
    operation: &Operation,
    write: &Write,
    happened: &[(u64, Moment, &Fact)],
) -> Option<String> {
    let revisions: Vec<u64> = happened.iter().map(|(revision, _, _)| *revision).collect();
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
            // Deletions hold no value; they are known by their object and revision.
            let stands = |(change, revision): (&crate::history::Change, &objects::Revision)| {
                let value = (!change.deletes).then_some(&write.value);
                let fact = history.truth.get(&revision.0).map(|(_, fact)| fact);
                fact.is_some_and(|fact| fact.name == change.name && fact.value.as_ref() == value)
            };
            let kept = told.len() == write.changes.len() && write.changes.iter().zip(told).all(stands);
            (!kept).then(|| format!("was acknowledged at {told:?} and is not there"))
        }
        End::Never => (!happened.is_empty()).then(|| format!("was told never to apply, and did at {revisions:?}")),
        End::Refused(refusal) => {
            // After a try of unknown outcome that one may still be under way; but what it had done
            // before the last try must have been told.
            let late = |applied: &Moment| write.doubtful && *applied > operation.tried;
            if happened.iter().any(|(_, applied, _)| !late(applied)) {
                return Some(format!("was told {refusal:?}, and was applied at {revisions:?}"));
            }
            let window = known.before(operation.invoked)..=history.revision_at(operation.answered);
            let (first, last) = (*window.start(), *window.end());
            (!window.into_iter().any(|at| is_due(past, write, refusal, at)))
                .then(|| format!("was told {refusal:?}, which was so at no revision from {first} to {last}"))
        }
    }
}

/// Whether the write had to be refused so at this revision.
fn is_due(past: &Past, write: &Write, refusal: &Refusal, at: u64) -> bool {
    let (key, due): (_, fn(Option<u64>, Option<u64>) -> bool) = match refusal {
        Refusal::AlreadyExists(key) => (key, |assumed, stands| assumed.is_none() && stands.is_some()),
        Refusal::NotFound(key) => (key, |assumed, stands| assumed.is_some() && stands.is_none()),
        Refusal::Conflict(key) => (key, |assumed, stands| assumed.is_some() && stands.is_some() && stands != assumed),
        Refusal::Fenced => return write.value.starts_with(super::fenced::PREFIX),
        // Nothing the simulator sends earns one of these.
        Refusal::NamespaceTerminating(_)
        | Refusal::NamespaceMissing(_)
        | Refusal::Forgotten
        | Refusal::Malformed(_) => return false,
    };
    let name = crate::history::name_of(key);
    let stands = past.object(&name, at).map(|(revision, _)| revision);
    write.changes.iter().any(|change| change.name == name && due(change.assumed, stands))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::history::{Change, End};
    use crate::invariants::fixture::{Fixture, history, key};
    use objects::Revision;
    use state::Refusal;

    fn wrong(truth: &str, doubtful: bool, end: End) -> Vec<String> {
        // Nobody asks about `x` and `z`: they are there to be in the way.
        let base = Fixture(history(truth)).tells("x", 0).tells("z", 0);
        let change = Change { name: "1/a".into(), assumed: Some(1), deletes: false };
        // The last try begins at 5; fixture events are applied at their revision's moment.
        check(&base.write("y", 2, 5, 9, doubtful, vec![change], end).0)
    }

    #[test]
    fn lost_doubled_and_denied_writes_are_found() {
        let conflict = || End::Refused(Refusal::Conflict(key("a")));
        assert_eq!(wrong("1 a=x  2 a=y", false, End::Applied(vec![Revision(2)])), [""; 0]);
        assert_eq!(wrong("1 a=x  2 a=y", false, End::Unknown), [""; 0]);
        assert_eq!(wrong("1 a=x  2 a=z", false, conflict()), [""; 0]);
        assert_eq!(wrong("1 a=x  2 a=z 3 a=x 4 a=x 5 a=x 6 a=y", true, conflict()), [""; 0], "came late");
        let bad = |truth, doubtful, end| assert_eq!(wrong(truth, doubtful, end).len(), 1);
        bad("1 a=x", false, End::Applied(vec![Revision(2)])); // lost
        bad("1 a=x  2 a=z", false, End::Applied(vec![Revision(2)])); // overwritten in place
        bad("1 a=x  2 a=y  3 a=y", false, End::Unknown); // twice
        bad("1 a=x  2 a=y", false, End::Never); // denied
        bad("1 a=x  2 a=y", true, conflict()); // the retry forgot that it was done
        bad("1 a=x", false, conflict()); // refused for nothing
        bad("1 a=x  2 b=q", false, End::Unknown); // from nowhere
    }
}
