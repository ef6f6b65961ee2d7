//! Reliable: between the start of a connection and what it says it has caught up with, no event is left
//! out and none is made up.
//!
//! Source: etcd.io/docs/v3.6/learning/api_guarantees, "Watch APIs".

use crate::chronicle::Chronicle;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    for sitting in &chronicle.sittings {
        let shown: Vec<(u64, &str)> = sitting.shown().map(|(_, revision, name, _)| (revision, name)).collect();
        let last = shown.last().map_or(0, |(revision, _)| *revision);
        let due = sitting.due(chronicle, sitting.from, sitting.position().max(last));
        let due: Vec<(u64, &str)> = due.iter().map(|(_, revision, name)| (*revision, name.as_str())).collect();
        let first = due.iter().zip(&shown).position(|(due, shown)| due != shown).unwrap_or(due.len().min(shown.len()));
        if due.len() != shown.len() || first < due.len() {
            let (due, shown) = (due.get(first), shown.get(first));
            wrong.push(format!("{}: was shown {shown:?} where {due:?} was due", sitting.who));
        }
    }
    wrong
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
    }
}
