//! Whether a survivor may become a group of its own, and what may be lost by it. Pure.

use raft_node::Reach;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A stopped master whose disk can be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Survivor {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// Its last log entry.
    pub(crate) term: u64,
    pub(crate) index: u64,
}

impl Survivor {
    fn reach(&self) -> Reach {
        Reach { term: self.term, index: self.index }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) own: Survivor,
    /// The sets of voters in its log; two while a change of the group was under way.
    pub(crate) voters: Vec<BTreeSet<u64>>,
    /// Other stopped survivors.
    pub(crate) others: Vec<Survivor>,
    /// The members that answer right now.
    pub(crate) answering: Vec<(u64, String)>,
    /// Those at whose address something takes connections that does not answer as a member.
    pub(crate) strange: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Nothing is to be repaired.
    Alone,
    Refused(String),
    /// Everything that was ever acknowledged is in this survivor's log.
    Complete(String),
    MayLose(String),
}

fn majority(voters: &BTreeSet<u64>) -> usize {
    voters.len() / 2 + 1
}

pub(crate) fn verdict(facts: &Facts) -> Verdict {
    let Facts { own, voters, others, answering, strange } = facts;
    if voters.iter().all(|set| set.len() == 1 && set.contains(&own.id)) {
        return Verdict::Alone;
    }
    let stopped: BTreeSet<u64> = others.iter().map(|other| other.id).chain([own.id]).collect();
    let alive: BTreeSet<u64> = answering.iter().map(|(id, _)| *id).collect();
    let reachable: BTreeSet<u64> = stopped.union(&alive).copied().collect();
    let n_in = |set: &BTreeSet<u64>, ids: &BTreeSet<u64>| set.intersection(ids).count();
    if voters.iter().all(|set| n_in(set, &alive) >= majority(set)) {
        return Verdict::Refused(
            "the other masters answer and have a quorum: nothing is to be repaired. Start this master; if its disk is \
             lost, empty its data folder and join with a token"
                .into(),
        );
    }
    if voters.iter().all(|set| n_in(set, &reachable) >= majority(set)) {
        let names: Vec<&str> = others.iter().map(|o| o.name.as_str()).chain([own.name.as_str()]).collect();
        return Verdict::Refused(format!(
            "with {} started there would be a quorum, and nothing would be lost: start {}",
            names.join(" and "),
            if names.len() > 1 { "them" } else { "it" }
        ));
    }
    if let Some(ahead) = others.iter().filter(|other| other.reach() > own.reach()).max_by_key(|other| other.reach()) {
        return Verdict::Refused(format!(
            "the log of {} reaches further (term {}, entry {}): recover there, with this one's report",
            ahead.name, ahead.term, ahead.index
        ));
    }
    // How far its log reaches is not known as long as it runs: its status tells an index without that entry's term.
    if let Some((_, name)) = answering.first() {
        return Verdict::Refused(format!(
            "{name} still answers, and may hold what this one does not: stop it, run `balsa recover --report` there, \
             and give what that prints with --other"
        ));
    }
    // It may be a master that serves, and that this machine cannot speak with: it would end when it meets the new group.
    if let Some(name) = strange.first() {
        return Verdict::Refused(format!(
            "something takes connections at the address of {name}, and does not answer as a member: stop it, or say \
             --gone {name} if {name} is gone for good"
        ));
    }
    // Whatever was acknowledged lies on a majority of the voters of its time: when no majority is without a survivor,
    // a survivor has it, and of the survivors the one whose log reaches furthest. In the midst of a change that must
    // hold of both sets: the entry that begins it may never have been committed, and the lost ones may have gone past
    // it, to the new set alone. When it holds of both, they can have gone nowhere without a survivor.
    let proven = |set: &BTreeSet<u64>| n_in(set, &stopped) > set.len() - majority(set);
    if voters.iter().all(proven) {
        return Verdict::Complete("every majority has one of the survivors in it: nothing acknowledged is lost".into());
    }
    let n_voters = voters.iter().map(BTreeSet::len).max().unwrap_or(0);
    let n_known = voters.iter().map(|set| n_in(set, &stopped)).max().unwrap_or(0);
    Verdict::MayLose(format!(
        "the logs of {n_known} of {n_voters} voters are known. Writes after term {}, entry {} that the others \
         acknowledged without this one are lost",
        own.term, own.index
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survivor(id: u64, term: u64, index: u64) -> Survivor {
        Survivor { id, name: format!("m{id}"), term, index }
    }

    /// Master 1, at term 5, entry 100.
    fn facts(voters: &[&[u64]], others: &[(u64, u64, u64)], answering: &[u64]) -> Facts {
        Facts {
            own: survivor(1, 5, 100),
            voters: voters.iter().map(|set| set.iter().copied().collect()).collect(),
            others: others.iter().map(|(id, term, index)| survivor(*id, *term, *index)).collect(),
            answering: answering.iter().map(|id| (*id, format!("m{id}"))).collect(),
            strange: Vec::new(),
        }
    }

    fn refused(facts: Facts) -> String {
        match verdict(&facts) {
            Verdict::Refused(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_of_three_may_lose() {
        let Verdict::MayLose(why) = verdict(&facts(&[&[1, 2, 3]], &[], &[])) else { panic!() };
        assert!(why.contains("1 of 3 voters") && why.contains("term 5, entry 100"), "{why}");
    }

    #[test]
    fn what_takes_connections_is_not_taken_for_gone() {
        let with = |others| Facts { strange: vec!["m2".into()], ..facts(&[&[1, 2, 3, 4]], others, &[]) };
        assert!(refused(with(&[])).contains("--gone m2"));
        assert!(refused(with(&[(3, 6, 1)])).contains("the log of m3 reaches further"), "first of all");
    }

    #[test]
    fn a_quorum_is_not_repaired() {
        assert!(refused(facts(&[&[1, 2, 3]], &[], &[2, 3])).contains("have a quorum"));
        assert!(refused(facts(&[&[1, 2, 3]], &[], &[2])).contains("start it"));
        assert!(refused(facts(&[&[1, 2, 3]], &[(2, 5, 90)], &[])).contains("start them"));
        assert!(refused(facts(&[&[1, 2, 3, 4, 5]], &[(2, 5, 90)], &[3])).contains("m2 and m1"));
    }

    #[test]
    fn the_survivor_that_reaches_furthest_is_the_one() {
        assert!(refused(facts(&[&[1, 2, 3, 4, 5]], &[(2, 5, 101)], &[])).contains("the log of m2 reaches further"));
        assert!(refused(facts(&[&[1, 2, 3, 4, 5]], &[(2, 6, 7)], &[])).contains("(term 6, entry 7)"));
        // It may be of a later term, with a shorter log.
        assert!(refused(facts(&[&[1, 2, 3, 4, 5]], &[], &[2])).contains("m2 still answers"));
        assert!(matches!(verdict(&facts(&[&[1, 2, 3, 4, 5]], &[(2, 5, 99)], &[])), Verdict::MayLose(_)));
    }

    #[test]
    fn half_of_an_even_group_proves_that_nothing_is_lost() {
        assert!(matches!(verdict(&facts(&[&[1, 2]], &[], &[])), Verdict::Complete(_)));
        assert!(matches!(verdict(&facts(&[&[1, 2, 3, 4]], &[(2, 5, 99)], &[])), Verdict::Complete(_)));
        assert!(matches!(verdict(&facts(&[&[1, 2, 3, 4]], &[], &[])), Verdict::MayLose(_)));
    }

    #[test]
    fn in_the_midst_of_a_change_both_sets_must_prove_it() {
        let may_lose = |voters| matches!(verdict(&facts(voters, &[], &[])), Verdict::MayLose(_));
        assert!(may_lose(&[&[1, 2], &[2, 3, 4]]));
        // 2 and 3 may have ended the change, and gone on without 1.
        assert!(may_lose(&[&[1, 2], &[1, 2, 3]]));
        // Nobody else may ever have heard of the removal of 3.
        assert!(may_lose(&[&[1, 2, 3], &[1, 2]]));
        assert!(matches!(verdict(&facts(&[&[1, 2], &[1, 3]], &[], &[])), Verdict::Complete(_)));
    }

    #[test]
    fn a_group_of_one_is_left_alone() {
        assert_eq!(verdict(&facts(&[&[1]], &[], &[])), Verdict::Alone);
        // A learner whose one voter is gone.
        assert!(matches!(verdict(&facts(&[&[2]], &[], &[])), Verdict::MayLose(_)));
    }
}
