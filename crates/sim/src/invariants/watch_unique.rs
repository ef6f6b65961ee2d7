//! Unique: a watch, its later connections included, shows no event twice.
//!
//! Source: etcd.io/docs/v3.6/learning/api_guarantees, "Watch APIs".

use crate::chronicle::Chronicle;
use std::collections::BTreeSet;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    for sitting in &chronicle.sittings {
        for (ty, revision, name, _) in sitting.shown() {
            if !seen.insert((&sitting.who, revision)) {
                wrong.push(format!("{}: {ty} {name} of revision {revision} came twice", sitting.who));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::pods;

    #[test]
    fn doubles_are_found() {
        let n_wrong =
            |first, from, second| check(&pods().sitting(None, 0, first).sitting(None, from, second).chronicle).len();
        assert_eq!(n_wrong("ADDED 1 a, upto 1", 1, "ADDED 2 b, upto 2"), 0);
        assert_eq!(n_wrong("ADDED 1 a, ADDED 1 a, upto 1", 1, ""), 1);
        assert_eq!(n_wrong("ADDED 1 a, upto 1", 0, "ADDED 1 a, upto 1"), 1);
    }
}
