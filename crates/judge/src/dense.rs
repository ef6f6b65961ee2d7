//! Every revision up to the last has one event, and a txn's events stand together.

use crate::history::History;

pub(crate) fn check(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut next = 1;
    let mut open_until = 0;
    for (revision, (_, fact)) in &history.truth {
        if *revision != next {
            wrong.push(format!("no master told of the revisions {next} to {}", revision - 1));
        }
        if *revision <= open_until && fact.txn_end != open_until {
            wrong.push(format!("revision {revision} lies inside another txn, which ends at {open_until}"));
        }
        open_until = open_until.max(fact.txn_end);
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
    use crate::fixture::history;

    #[test]
    fn gaps_and_torn_txns_are_found() {
        assert_eq!(check(&history("1 a=x  2-3 a=y b=y")), [""; 0]);
        assert_eq!(check(&history("1 a=x  3 a=y")), ["no master told of the revisions 2 to 2"]);
        let mut torn = history("1-2 a=x b=x");
        torn.truth.remove(&2);
        assert_eq!(check(&torn), ["a txn ends at revision 2, but the last event is 1"]);
    }
}
