//! Only one leader's plans take effect at a time: once a plan of a later leader is applied, none of an
//! earlier one is, and no term has two leaders.
//!
//! Source: ARCHITECTURE.md, "the manager's proposals are void under any other leader id". A plan whose proposer
//! heard nothing is looked for in what was applied: it is the one that wrote these bytes over that revision.

use crate::chronicle::{Chronicle, Plan, Told};
use objects::{Key, Record};
use state::{Event, LeaderId, Op};
use std::collections::{BTreeMap, BTreeSet};

/// Revisions by what they replaced: the object, and its revision, 0 where there was none.
type Replaced<'a> = BTreeMap<(&'a Key, u64), Vec<u64>>;

/// What an operation replaces, and what it writes.
fn parts(op: &Op) -> (u64, Option<&[u8]>) {
    match op {
        Op::Create { object, .. } => (0, Some(&object[..])),
        Op::Update { assumed, object, .. } => (assumed.0, Some(&object[..])),
        Op::Delete { assumed, .. } => (assumed.0, None),
    }
}

fn old_revision(event: &Event) -> u64 {
    event.old.as_ref().map_or(0, |old| old.header.revision.0)
}

/// Whether an event is what an operation makes.
fn is_of(event: &Event, op: &Op) -> bool {
    let (assumed, object) = parts(op);
    let is_written = match (object, &event.new) {
        (Some(object), Some(new)) => {
            Record::seal(op.key().clone(), event.revision, object).is_ok_and(|due| due.json == new.json)
        }
        (object, new) => object.is_none() && new.is_none(),
    };
    event.key == *op.key() && old_revision(event) == assumed && is_written
}

/// The revision of a plan's first operation, if all of it was applied, and nothing else with it. One that only
/// deletes is not looked for: any other deletion looks the same.
fn found(plan: &Plan, chronicle: &Chronicle, replaced: &Replaced) -> Option<u64> {
    let (i, op) = plan.ops.iter().enumerate().find(|(_, op)| parts(op).1.is_some())?;
    let is_whole = |first: &u64| {
        let end = first + plan.ops.len() as u64 - 1;
        let begins = chronicle.events.get(&(first - 1)).is_none_or(|(_, before)| before.txn_end.0 < *first);
        begins
            && plan.ops.iter().zip(*first..).all(|(op, revision)| {
                let event = chronicle.events.get(&revision);
                event.is_some_and(|(_, event)| event.txn_end.0 == end && is_of(event, op))
            })
    };
    let revisions = replaced.get(&(op.key(), parts(op).0))?;
    revisions.iter().filter_map(|revision| revision.checked_sub(i as u64)).filter(|first| *first > 0).find(is_whole)
}

/// The plans that were applied, by their first revision.
fn applied(chronicle: &Chronicle) -> BTreeMap<u64, LeaderId> {
    let mut replaced = Replaced::new();
    for (revision, (_, event)) in &chronicle.events {
        replaced.entry((&event.key, old_revision(event))).or_default().push(*revision);
    }
    let (mut told, mut looked_up) = (BTreeMap::new(), BTreeMap::<u64, BTreeSet<LeaderId>>::new());
    for plan in &chronicle.plans {
        match &plan.told {
            Told::Applied(revisions) => told.extend(revisions.first().map(|first| (*first, plan.leader))),
            Told::Void => {}
            Told::Nothing => {
                if let Some(first) = found(plan, chronicle, &replaced) {
                    looked_up.entry(first).or_default().insert(plan.leader);
                }
            }
        }
    }
    for (first, leaders) in looked_up {
        // Two leaders may have planned the same, to the byte: then nobody can tell whose it was.
        if let (1, Some(leader)) = (leaders.len(), leaders.first()) {
            told.entry(first).or_insert(*leader);
        }
    }
    told
}

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let (mut wrong, mut last, mut leaders) = (Vec::new(), 0, BTreeMap::new());
    for (revision, leader) in applied(chronicle) {
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
    use crate::chronicle::{Chronicle, Plan, Told};
    use crate::invariants::fixture::{Fixture, pod};
    use objects::{Key, Revision, record, registry};
    use state::{LeaderId, Op};
    use std::sync::Arc;

    #[test]
    fn plans_of_the_past_and_double_leaders_are_found() {
        let n_wrong = |plans: &[(u64, u64, u64)]| {
            let plan = |(term, node, at): &(u64, u64, u64)| {
                let leader = LeaderId { term: *term, node: *node };
                Plan { leader, ops: Vec::new(), told: Told::Applied(vec![*at]) }
            };
            check(&Chronicle { plans: plans.iter().map(plan).collect(), ..Chronicle::default() }).len()
        };
        assert_eq!(n_wrong(&[(1, 1, 5), (1, 1, 6), (2, 2, 7)]), 0);
        assert_eq!(n_wrong(&[(1, 1, 8), (2, 2, 7)]), 1);
        assert_eq!(n_wrong(&[(2, 1, 6), (2, 2, 7)]), 1);
    }

    /// A plan of a term that writes pod `a` at node `n` over a revision, none for 0.
    fn plan(term: u64, assumed: u64, told: Told) -> Plan {
        let (key, object) = (Key::new(registry::POD, "default", "a"), record::encode(&pod("a", "x", "n", false)));
        let op = match assumed {
            0 => Op::Create { key, object },
            at => Op::Update { key, assumed: Revision(at), object },
        };
        Plan { leader: LeaderId { term, node: 1 }, ops: vec![op], told }
    }

    #[test]
    fn plans_that_nobody_heard_of_are_looked_up() {
        let n_wrong = |plans: Vec<Plan>| {
            // The pod comes, at revision 1, and is bound, at 2.
            let mut fixture = Fixture::default().pod("a", "x", "", false).pod("a", "x", "n", false);
            fixture.chronicle.plans = plans;
            check(&fixture.chronicle).len()
        };
        let later = || plan(2, 0, Told::Applied(vec![1]));
        assert_eq!(n_wrong(vec![later(), plan(1, 1, Told::Nothing)]), 1, "it was applied all the same");
        assert_eq!(n_wrong(vec![later(), plan(3, 1, Told::Nothing)]), 0);
        assert_eq!(n_wrong(vec![later(), plan(1, 0, Told::Nothing)]), 0, "it was not applied");
        assert_eq!(n_wrong(vec![later(), plan(1, 1, Told::Void)]), 0);
        let end_of_another = |told| {
            // The same write, as the second of a larger plan.
            let mut fixture =
                Fixture::default().pod("a", "x", "", false).pod("b", "x", "", false).pod("a", "x", "n", false);
            let (_, second) = fixture.chronicle.events.get_mut(&2).unwrap();
            Arc::make_mut(second).txn_end = Revision(3);
            fixture.chronicle.plans = vec![plan(2, 0, Told::Applied(vec![1])), plan(1, 1, told)];
            check(&fixture.chronicle).len()
        };
        assert_eq!(end_of_another(Told::Nothing), 0);
        let heard = || plan(2, 1, Told::Applied(vec![2]));
        assert_eq!(n_wrong(vec![later(), heard(), plan(1, 1, Told::Nothing)]), 0, "another's, of the same bytes");
        assert_eq!(n_wrong(vec![later(), plan(1, 1, Told::Nothing), plan(2, 1, Told::Nothing)]), 0, "anybody's");
    }
}
