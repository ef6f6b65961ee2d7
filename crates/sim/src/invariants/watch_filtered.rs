//! Filtered: a watch with a selector shows what matches it and nothing else, and says when something
//! enters or leaves.
//!
//! Source: kubernetes.io/docs/reference/using-api/api-concepts and …/labels; etcd's filters and ranges.

use crate::chronicle::Chronicle;
use objects::Record;
use std::sync::Arc;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    for sitting in &chronicle.sittings {
        for (ty, revision, name, _) in sitting.shown() {
            let Some((_, event)) = chronicle.events.get(&revision) else {
                wrong.push(format!("{}: {ty} {name} has the revision {revision} of nothing", sitting.who));
                continue;
            };
            let matches = |side: &Option<Arc<Record>>| side.as_ref().is_some_and(|record| sitting.matches(record));
            let (before, after) = (matches(&event.old), matches(&event.new));
            let holds = match ty {
                "ADDED" | "MODIFIED" => after,
                _ => before && !after,
            };
            if !holds || event.key.name != name {
                wrong.push(format!("{}: {ty} {name} of revision {revision} is none of its business", sitting.who));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::Fixture;

    #[test]
    fn others_events_are_found() {
        let moved = || Fixture::default().pod("a", "x", "", false).pod("b", "y", "", false).pod("a", "y", "", false);
        let n_wrong = |text| check(&moved().sitting(Some("x"), 0, text).chronicle).len();
        assert_eq!(n_wrong("ADDED 1 a, DELETED 3 a, upto 3"), 0, "it left");
        assert_eq!(n_wrong("ADDED 1 a, MODIFIED 3 a, upto 3"), 1);
        assert_eq!(n_wrong("ADDED 1 a, ADDED 2 b, upto 3"), 1);
    }
}
