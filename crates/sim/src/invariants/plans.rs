//! Only one leader's plans take effect at a time: once a plan of a later leader is applied, none of an
//! earlier one is, and no term has two leaders.
//!
//! Source: ARCHITECTURE.md, "the manager's proposals are void under any other leader id".

use crate::chronicle::Chronicle;
use std::collections::BTreeMap;

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let of = |(leader, revisions): &(_, Vec<u64>)| revisions.first().map(|first| (*first, *leader));
    let mut by_revision: Vec<_> = chronicle.plans.iter().filter_map(of).collect();
    by_revision.sort();
    let (mut wrong, mut last, mut leaders) = (Vec::new(), 0, BTreeMap::new());
    for (revision, leader) in by_revision {
        if leader.term < last {
            let term = leader.term;
            wrong.push(format!("revision {revision}: a plan of term {term} was applied after one of term {last}"));
        }
        last = last.max(leader.term);
        if *leaders.entry(leader.term).or_insert(leader.node) != leader.node {
            wrong.push(format!("revision {revision}: two leaders had plans applied in term {}", leader.term));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::chronicle::Chronicle;
    use state::LeaderId;

    #[test]
    fn plans_of_the_past_and_double_leaders_are_found() {
        let n_wrong = |plans: &[(u64, u64, u64)]| {
            let plan = |(term, node, at): &(u64, u64, u64)| (LeaderId { term: *term, node: *node }, vec![*at]);
            check(&Chronicle { plans: plans.iter().map(plan).collect(), ..Chronicle::default() }).len()
        };
        assert_eq!(n_wrong(&[(1, 1, 5), (1, 1, 6), (2, 2, 7)]), 0);
        assert_eq!(n_wrong(&[(1, 1, 8), (2, 2, 7)]), 1);
        assert_eq!(n_wrong(&[(2, 1, 6), (2, 2, 7)]), 1);
    }
}
