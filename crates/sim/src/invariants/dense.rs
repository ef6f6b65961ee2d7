//! Every revision up to the last has one event, of some kind, and a txn's events stand together.
//!
//! Source: `state::apply`; etcd's watch guarantee "atomic" rests on it. Judged as of any history.

use crate::chronicle::Chronicle;
use crate::history::name_of;
use judge::{Fact, History, Moment, Span};
use state::Event;
use std::sync::Arc;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let fact = |(revision, (now_ms, event)): (&u64, &(u64, Arc<Event>))| {
        let fact = Fact { name: name_of(&event.key), value: None, txn_end: event.txn_end.0 };
        (*revision, (Span::at(Moment(*now_ms)), fact))
    };
    let truth = chronicle.events.iter().map(fact).collect();
    let (_, dense) = judge::DENSE;
    dense(&History { truth, ..History::default() })
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
