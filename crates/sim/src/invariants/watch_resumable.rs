//! Resumable: a connection that begins where the one before ended goes on with the next event, on
//! whichever master it is.
//!
//! Source: etcd.io/docs/v3.6/learning/api_guarantees, "Watch APIs".

use crate::chronicle::Chronicle;
use std::collections::BTreeMap;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    // By watcher: how far it has come without a list in between.
    let mut positions: BTreeMap<&str, u64> = BTreeMap::new();
    for sitting in &chronicle.sittings {
        let before = positions.insert(&sitting.who, sitting.position());
        if before != Some(sitting.from) {
            continue;
        }
        let next = sitting.due(chronicle, sitting.from, u64::MAX - 1).into_iter().next();
        let first = sitting.shown().next().map(|(_, revision, ..)| revision);
        if let (Some((_, due, name)), Some(first)) = (next, first)
            && first != due
        {
            wrong.push(format!(
                "{}: resumed after {} with {first}, where {due} ({name}) was next",
                sitting.who, sitting.from
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::pods;

    #[test]
    fn a_resumption_that_skips_is_found() {
        let n_wrong = |from, second| {
            check(&pods().sitting(None, 0, "ADDED 1 a, upto 1").sitting(None, from, second).chronicle).len()
        };
        assert_eq!(n_wrong(1, "ADDED 2 b, upto 2"), 0);
        assert_eq!(n_wrong(1, "MODIFIED 3 a, upto 3"), 1);
        assert_eq!(n_wrong(2, "MODIFIED 3 a, upto 3"), 0, "it was listed in between");
    }
}
