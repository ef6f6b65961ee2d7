//! Create flag: an event says ADDED if and only if the watcher had not been shown the object, or had been
//! told of its end.
//!
//! Source: etcd's `IsCreate` (clientv3.Event) and tests/robustness/validate; the API's event types.

use crate::chronicle::Chronicle;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    for sitting in &chronicle.sittings {
        for (ty, revision, name, _) in sitting.shown() {
            let Some((_, event)) = chronicle.events.get(&revision) else { continue };
            let stood = event.old.as_ref().is_some_and(|record| sitting.matches(record));
            if (ty == "ADDED") == stood {
                let was = if stood { "there" } else { "not there" };
                wrong.push(format!("{}: {ty} {name} of revision {revision}, which was {was} before", sitting.who));
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
    fn a_false_flag_is_found() {
        let n_wrong = |text| check(&pods().sitting(None, 0, text).chronicle).len();
        assert_eq!(n_wrong("ADDED 1 a, ADDED 2 b, MODIFIED 3 a, DELETED 4 b, upto 4"), 0);
        assert_eq!(n_wrong("MODIFIED 1 a, upto 1"), 1);
        assert_eq!(n_wrong("ADDED 1 a, ADDED 2 b, ADDED 3 a, upto 3"), 1);
    }
}
