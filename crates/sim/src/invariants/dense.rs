//! Every revision up to the last has one event, of some kind, and a txn's events stand together.
//!
//! Source: `state::apply`; etcd's watch guarantee "atomic" rests on it.

use crate::chronicle::Chronicle;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut next, mut open_until) = (1, 0);
    for (revision, (_, event)) in &chronicle.events {
        if *revision != next {
            wrong.push(format!("no master told of the revisions {next} to {}", revision - 1));
        }
        if *revision <= open_until && event.txn_end.0 != open_until {
            wrong.push(format!("revision {revision} lies inside another txn, which ends at {open_until}"));
        }
        open_until = open_until.max(event.txn_end.0);
        next = revision + 1;
    }
    if open_until >= next {
        wrong.push(format!("a txn ends at revision {open_until}, but the last event is {}", next - 1));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::pods;

    #[test]
    fn gaps_are_found() {
        let mut fixture = pods();
        assert_eq!(check(&fixture.chronicle), [""; 0]);
        fixture.chronicle.events.remove(&2);
        assert_eq!(check(&fixture.chronicle), ["no master told of the revisions 2 to 2"]);
    }
}
