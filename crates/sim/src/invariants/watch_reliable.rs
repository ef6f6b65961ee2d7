//! Reliable: between the start of a connection and what it says it has caught up with, no event is left
//! out and none is made up; what it says was there at its start was there; and who watches comes to the end.
//!
//! Source: etcd.io/docs/v3.6/learning/api_guarantees, "Watch APIs".

use crate::chronicle::{Chronicle, Sitting};
use objects::registry;
use std::collections::BTreeSet;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong: Vec<String> = chronicle.sittings.iter().filter_map(|sitting| left_out(chronicle, sitting)).collect();
    wrong.extend(chronicle.sittings.iter().filter_map(|sitting| made_up(chronicle, sitting)));
    wrong.extend(chronicle.watchers.iter().filter_map(|who| left_behind(chronicle, who)));
    wrong
}

fn left_out(chronicle: &Chronicle, sitting: &Sitting) -> Option<String> {
    let shown: Vec<(u64, &str)> = sitting.shown().map(|(_, revision, name, _)| (revision, name)).collect();
    let last = shown.last().map_or(0, |(revision, _)| *revision);
    let due = sitting.due(chronicle, sitting.from, sitting.position().max(last));
    let due: Vec<(u64, &str)> = due.iter().map(|(_, revision, name)| (*revision, name.as_str())).collect();
    let first = due.iter().zip(&shown).position(|(due, shown)| due != shown).unwrap_or(due.len().min(shown.len()));
    let (due, shown) = (due.get(first), shown.get(first));
    (due.is_some() || shown.is_some()).then(|| format!("{}: was shown {shown:?} where {due:?} was due", sitting.who))
}

/// What it began with is what was there.
fn made_up(chronicle: &Chronicle, sitting: &Sitting) -> Option<String> {
    let present: BTreeSet<(u64, String)> = sitting.present.as_ref()?.iter().cloned().collect();
    let there = sitting.there(chronicle);
    let differs = present.symmetric_difference(&there).next();
    differs.map(|(revision, name)| {
        let told = if there.contains(&(*revision, name.clone())) { "not told of" } else { "told of" };
        format!("{}: began at {} and was {told} {name} of revision {revision}", sitting.who, sitting.from)
    })
}

/// What had happened seconds before the end is known to whoever watches.
fn left_behind(chronicle: &Chronicle, who: &str) -> Option<String> {
    let pods = chronicle.events.range(..=chronicle.closing).filter(|(_, (_, event))| event.key.kind == registry::POD);
    let (last, _) = pods.last()?;
    let reached = chronicle.sittings.iter().rev().find(|sitting| sitting.who == who).map(Sitting::position);
    (reached < Some(*last)).then(|| format!("{who}: has come to {reached:?}, and revision {last} was over long ago"))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::pods;

    #[test]
    fn gaps_and_inventions_are_found() {
        let n_wrong = |app, from, text| check(&pods().sitting(app, from, text).chronicle).len();
        assert_eq!(n_wrong(None, 0, "ADDED 1 a, ADDED 2 b, upto 2"), 0);
        assert_eq!(n_wrong(None, 2, "MODIFIED 3 a, DELETED 4 b, upto 4"), 0);
        assert_eq!(n_wrong(None, 0, "ADDED 1 a, MODIFIED 3 a, upto 3"), 1, "one is left out");
        assert_eq!(n_wrong(None, 0, "ADDED 1 a, upto 2"), 1, "the last is left out");
        assert_eq!(n_wrong(Some("y"), 0, "upto 4"), 0);
        assert_eq!(n_wrong(Some("y"), 0, "ADDED 1 a, upto 4"), 1, "that is another's");
        assert_eq!(n_wrong(None, 3, "there 3 a, there 2 b, DELETED 4 b, upto 4"), 0);
        assert_eq!(n_wrong(None, 3, "there 3 a, upto 3"), 1, "b is there too");
        assert_eq!(n_wrong(None, 3, "there 1 a, there 2 b, upto 3"), 1, "a as it was before");
        assert_eq!(n_wrong(None, 4, "there 3 a, there 2 b, upto 4"), 1, "b is gone");
        assert_eq!(n_wrong(Some("y"), 3, "there 3 a, upto 3"), 1, "that is another's");
    }

    #[test]
    fn who_is_left_behind_or_never_begins_is_found() {
        let n_wrong = |closing, text| {
            let mut chronicle = pods().sitting(None, 2, text).chronicle;
            chronicle.closing = closing;
            chronicle.watchers.insert("watcher".into());
            let n_begun = check(&chronicle).len();
            chronicle.sittings.clear();
            (n_begun, check(&chronicle).len())
        };
        assert_eq!(n_wrong(4, "MODIFIED 3 a, DELETED 4 b, upto 4"), (0, 1));
        assert_eq!(n_wrong(4, "MODIFIED 3 a, upto 3"), (1, 1));
        assert_eq!(n_wrong(4, "upto 2"), (1, 1));
        assert_eq!(n_wrong(0, "upto 2"), (0, 0), "it did not come to an end");
    }
}
