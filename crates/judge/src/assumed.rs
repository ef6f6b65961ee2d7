//! A write is applied to the very state it assumed, and to no other: no update is lost.

use crate::history::{Assumed, Change, End, History, Past, What};
use std::collections::BTreeMap;

pub(crate) fn check(history: &History) -> Vec<String> {
    let past = Past::of(history);
    let mut by_value: BTreeMap<&str, &[Change]> = BTreeMap::new();
    let mut applied: Vec<(u64, &Change)> = Vec::new();
    for operation in &history.operations {
        let What::Write(write) = &operation.what else { continue };
        by_value.insert(&write.value, &write.changes);
        if let End::Applied(told) = &write.end {
            // What holds a value is found by it below, acknowledged or not.
            let deletions = write.changes.iter().zip(told).filter(|(change, _)| change.deletes);
            applied.extend(deletions.map(|(change, revision)| (*revision, change)));
        }
    }
    for (revision, (_, fact)) in &history.truth {
        let changes = fact.value.as_deref().and_then(|value| by_value.get(value));
        let change = changes.and_then(|changes| changes.iter().find(|change| change.name == fact.name));
        applied.extend(change.map(|change| (*revision, change)));
    }
    let wrong = applied.into_iter().filter_map(|(revision, change)| {
        let stood = past.object(&change.name, revision - 1).map(|(stood, _)| stood);
        let holds = match change.assumed {
            Assumed::Absent => stood.is_none(),
            Assumed::At(revision) => stood == Some(revision),
            Assumed::Present => stood.is_some(),
        };
        (!holds).then(|| {
            let stood = stood.map_or_else(|| "nothing".into(), |stood| format!("revision {stood}"));
            format!("revision {revision}: {change} was applied, where {stood} stood")
        })
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::fixture::{Fixture, history};
    use crate::history::{Assumed, Change, End};

    #[test]
    fn lost_updates_are_found() {
        let n_wrong = |truth, assumed, deletes, end| {
            let change = Change { name: "1/a".into(), assumed, deletes };
            check(&Fixture(history(truth)).write("y", 1, 1, 9, false, vec![change], end).0).len()
        };
        let told = || End::Applied(vec![3]);
        assert_eq!(n_wrong("1 a=x  2 b=x  3 a=y", Assumed::At(1), false, told()), 0);
        assert_eq!(n_wrong("1 a=x  2 a=x  3 a=y", Assumed::At(1), false, told()), 1, "over another's update");
        assert_eq!(n_wrong("1 a=x  2 a=x  3 a=y", Assumed::At(1), false, End::Unknown), 1, "whatever was told");
        assert_eq!(n_wrong("1 a=x  2 b=x  3 a=y", Assumed::Absent, false, told()), 1, "created over what stood there");
        assert_eq!(n_wrong("1 a=x  2 a=-  3 a=y", Assumed::Absent, false, told()), 0);
        assert_eq!(n_wrong("1 a=x  2 a=-  3 a=y", Assumed::Present, false, told()), 1, "changed what was gone");
        assert_eq!(n_wrong("1 a=x  2 a=x  3 a=y", Assumed::Present, false, told()), 0);
        assert_eq!(n_wrong("1 a=x  2 a=x  3 a=-", Assumed::At(1), true, told()), 1, "deleted unseen");
    }
}
