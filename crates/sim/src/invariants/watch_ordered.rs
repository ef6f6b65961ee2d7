//! Ordered: a watch's events come in the order of their revisions.
//!
//! Source: etcd.io/docs/v3.6/learning/api_guarantees, "Watch APIs".

use crate::chronicle::Chronicle;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    for sitting in &chronicle.sittings {
        let mut last = sitting.from;
        for (ty, revision, name, _) in sitting.shown() {
            if revision < last {
                wrong.push(format!("{}: {ty} {name} of revision {revision} came after revision {last}", sitting.who));
            }
            last = revision;
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::pods;

    #[test]
    fn disorder_is_found() {
        let n_wrong = |text| check(&pods().sitting(None, 0, text).chronicle).len();
        assert_eq!(n_wrong("ADDED 1 a, ADDED 2 b, upto 2"), 0);
        assert_eq!(n_wrong("ADDED 2 b, ADDED 1 a, upto 2"), 1);
    }
}
