//! Atomic: where a watch can be resumed, all events of a txn have been shown or none.
//!
//! Source: etcd.io/docs/v3.6/learning/api_guarantees, "Watch APIs".

use crate::chronicle::{Chronicle, Item};

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    for sitting in &chronicle.sittings {
        for item in &sitting.items {
            let (Item::Bookmark(at) | Item::Caught(at)) = item else { continue };
            let split = chronicle.events.get(at).filter(|(_, event)| event.txn_end.0 > *at);
            if let Some((_, event)) = split {
                wrong.push(format!(
                    "{}: may resume at revision {at}, inside a txn that ends at {}",
                    sitting.who, event.txn_end
                ));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::{Fixture, pod};

    #[test]
    fn a_torn_txn_is_found() {
        let pair = || Fixture::default().pair(pod("a", "x", "", false), pod("b", "x", "", false));
        assert_eq!(check(&pair().sitting(None, 0, "ADDED 1 a, ADDED 2 b, upto 2").chronicle), [""; 0]);
        assert_eq!(check(&pair().sitting(None, 0, "ADDED 1 a, upto 1").chronicle).len(), 1);
        assert_eq!(check(&pair().sitting(None, 0, "ADDED 1 a, mark 1").chronicle).len(), 1);
    }
}
