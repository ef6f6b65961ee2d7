//! Which changes of the group of masters are safe: a plan, or a no that names the remedy. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seat {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) voter: bool,
    pub(crate) answers: bool,
    /// host:port of its two ports.
    pub(crate) peer_addr: String,
    pub(crate) api_addr: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// A member (by id, as its name may be that of a lost one) becomes a voter, in the place of those of
    /// its own name and of `replaces`.
    Join {
        id: u64,
        replaces: &'a str,
    },
    Promote {
        name: &'a str,
    },
    Remove {
        name: &'a str,
    },
    Replace {
        old: &'a str,
        new: &'a str,
        force: bool,
    },
}

/// What is to be done, in one change.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) promote: BTreeSet<u64>,
    pub(crate) remove: BTreeSet<u64>,
    /// What the operator should know; empty when nothing.
    pub(crate) warning: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum No {
    NotFound(String),
    Refused(String),
}

fn names<'a>(seats: impl Iterator<Item = &'a Seat>) -> String {
    seats.map(|seat| seat.name.as_str()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

/// The member of that name or id. A lost disk leaves two of one name behind: then the one that `fits` is meant, and
/// when that does not tell either, its id has to be said.
fn named<'a>(seats: &'a [Seat], name: &str, fits: impl Fn(&Seat) -> bool) -> Result<&'a Seat, No> {
    let known: Vec<&Seat> = seats.iter().filter(|seat| is_called(seat, name)).collect();
    let fitting: Vec<&Seat> = known.iter().copied().filter(|seat| fits(seat)).collect();
    match (&known[..], &fitting[..]) {
        ([], _) => Err(No::NotFound(format!("no member is named {name:?}; there are {}", names(seats.iter())))),
        ([one], _) | (_, [one]) => Ok(one),
        (several, _) => {
            let told = several.iter().map(|seat| {
                let role = if seat.voter { "a voter" } else { "a learner" };
                let state = if seat.answers { "answers" } else { "does not answer" };
                format!("{:x} ({role} that {state})", seat.id)
            });
            let told = told.collect::<Vec<_>>().join(" and ");
            Err(No::Refused(format!("{} members are named {name}: say the id, {told}", several.len())))
        }
    }
}

fn is_called(seat: &Seat, name: &str) -> bool {
    seat.name == name || format!("{:x}", seat.id) == name
}

/// Those in whose place a member comes: of its own name, as after the loss of its disk, and of `replaces`.
fn replaced_by<'a>(seats: &'a [Seat], id: u64, name: &str, replaces: &str) -> Result<Vec<&'a Seat>, No> {
    let old: Vec<&Seat> =
        seats.iter().filter(|seat| seat.id != id && (seat.name == name || is_called(seat, replaces))).collect();
    match old.iter().find(|seat| seat.answers) {
        Some(alive) => Err(still_answers(alive)),
        None => Ok(old),
    }
}

/// Whether a new master may come in as a learner, before it is sent anything.
pub(crate) fn admit(seats: &[Seat], new: &Seat, replaces: &str) -> Result<(), No> {
    // More often a name given twice than the machine that is to be replaced.
    if let Some(alive) = seats.iter().find(|seat| seat.id != new.id && seat.name == new.name && seat.answers) {
        return Err(No::Refused(format!(
            "name: {} is that of a member that answers (id {:x}): give this master another name; that one is stopped \
             first only if this one is to take its place",
            alive.name, alive.id
        )));
    }
    let old = replaced_by(seats, new.id, &new.name, replaces)?;
    let is_member = seats.iter().any(|seat| seat.id == new.id);
    if !replaces.is_empty() && !is_member && !seats.iter().any(|seat| is_called(seat, replaces)) {
        let there = names(seats.iter());
        return Err(No::Refused(format!("join.replaces: no member is named {replaces:?}; there are {there}")));
    }
    let others = seats.iter().filter(|seat| seat.id != new.id && !old.iter().any(|old| old.id == seat.id));
    let same = |seat: &&Seat| seat.peer_addr == new.peer_addr || seat.api_addr == new.api_addr;
    match others.clone().find(same) {
        Some(seat) => Err(No::Refused(format!(
            "address: {} is that of {} already: each master needs an address, or ports, of its own",
            if seat.peer_addr == new.peer_addr { &new.peer_addr } else { &new.api_addr },
            seat.name
        ))),
        None => Ok(()),
    }
}

/// Decides a change of the present members.
pub(crate) fn plan(seats: &[Seat], change: Change) -> Result<Plan, No> {
    let mut plan = Plan::default();
    match change {
        Change::Join { id, replaces } => {
            let joiner = seats.iter().find(|seat| seat.id == id);
            let joiner = joiner.ok_or_else(|| No::NotFound(format!("member {id:x} has been removed meanwhile")))?;
            plan.remove = replaced_by(seats, id, &joiner.name, replaces)?.iter().map(|seat| seat.id).collect();
            plan.promote.insert(id);
        }
        Change::Promote { name } => {
            let seat = named(seats, name, |seat| !seat.voter)?;
            if !seat.voter {
                if !seat.answers {
                    return Err(No::Refused(format!(
                        "{name} does not answer: a voter that is down only makes the quorum larger; start it first"
                    )));
                }
                plan.remove = replaced_by(seats, seat.id, &seat.name, "")?.iter().map(|seat| seat.id).collect();
            }
            plan.promote.insert(seat.id);
        }
        Change::Remove { name } => {
            plan.remove.insert(named(seats, name, |_| false)?.id);
        }
        Change::Replace { old, new, force } => {
            let (out, into) = (named(seats, old, |seat| seat.voter)?, named(seats, new, |seat| !seat.voter)?);
            if out.id == into.id {
                return Err(No::Refused(format!("{old} cannot replace itself")));
            }
            if !out.voter {
                return Err(No::Refused(format!(
                    "{old} is a learner, which has no vote to take over: `balsa members promote {new}`, and `balsa members \
                     remove {old}`"
                )));
            }
            if into.voter {
                return Err(No::Refused(format!(
                    "{new} votes already: `balsa members remove {old}` is what is left to do"
                )));
            }
            if out.answers && !force {
                return Err(still_answers(out));
            }
            if !into.answers {
                return Err(No::Refused(format!("{new} does not answer; start it first")));
            }
            plan.promote.insert(into.id);
            plan.remove.insert(out.id);
        }
    }
    keeps_quorum(seats, &plan)?;
    plan.warning = warning(seats, &plan);
    Ok(plan)
}

/// The refusal to replace a member that is alive.
pub(crate) fn still_answers(seat: &Seat) -> No {
    No::Refused(format!(
        "{} (id {:x}) is a member and answers; stop it first, or use `balsa members replace OLD NEW --force`",
        seat.name, seat.id
    ))
}

/// The voters once the plan is carried out.
fn voters_after<'a>(seats: &'a [Seat], plan: &Plan) -> Vec<&'a Seat> {
    let votes = |seat: &&Seat| (seat.voter || plan.promote.contains(&seat.id)) && !plan.remove.contains(&seat.id);
    seats.iter().filter(votes).collect()
}

/// The change itself needs a majority of the present voters, and what comes after it one of the new.
fn keeps_quorum(seats: &[Seat], plan: &Plan) -> Result<(), No> {
    let present: Vec<&Seat> = seats.iter().filter(|seat| seat.voter).collect();
    let after = voters_after(seats, plan);
    if after.is_empty() {
        return Err(No::Refused("the last voter cannot be removed".into()));
    }
    for (voters, when) in [(present, "now"), (after, "after this change")] {
        let up = voters.iter().filter(|seat| seat.answers).count();
        let majority = voters.len() / 2 + 1;
        if up < majority {
            let down = names(voters.iter().filter(|seat| !seat.answers).copied());
            return Err(No::Refused(format!(
                "{up} of {} voters would answer {when}, a quorum is {majority}: start one of {down}, or replace it \
                 by a new master (join.replaces in its configuration)",
                voters.len()
            )));
        }
    }
    Ok(())
}

fn warning(seats: &[Seat], plan: &Plan) -> String {
    let after = voters_after(seats, plan);
    let up = after.iter().filter(|seat| seat.answers).count();
    let may_die = up - (after.len() / 2 + 1);
    let mut text = String::new();
    if may_die == 0 && after.len() > 1 {
        text = format!("{up} of {} voters answer: none of them may die now", after.len());
    }
    if after.len().is_multiple_of(2) {
        let separator = if text.is_empty() { "" } else { "; " };
        let odd = after.len() - 1;
        let _ = write!(text, "{separator}{} voters survive no more deaths than {odd}: add one", after.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// `a* b- c?`: a votes, b votes and is down, c is a learner, `d?-` a learner that is down. Ids count up.
    fn check(members: &str, change: Change, want: Expect) {
        let seat = |(i, word): (usize, &str)| Seat {
            id: i as u64 + 1,
            name: word.trim_end_matches(['*', '-', '?']).into(),
            voter: !word.contains('?'),
            answers: !word.contains('-'),
            peer_addr: format!("10.0.0.{i}:6444"),
            api_addr: format!("10.0.0.{i}:6443"),
        };
        let seats: Vec<Seat> = members.split_whitespace().enumerate().map(seat).collect();
        let told = match plan(&seats, change) {
            Ok(plan) => format!("promote {:?} remove {:?} {}", plan.promote, plan.remove, plan.warning),
            Err(No::NotFound(why)) => format!("not found: {why}"),
            Err(No::Refused(why)) => format!("no: {why}"),
        };
        want.assert_eq(told.trim_end());
    }

    #[test]
    fn removal_keeps_a_quorum() {
        let remove = |name| Change::Remove { name };
        check(
            "a* b* c*",
            remove("c"),
            expect![
                "promote {} remove {3} 2 of 2 voters answer: none of them may die now; 2 voters survive no more deaths than 1: add one"
            ],
        );
        check(
            "a* b* c-",
            remove("c"),
            expect![
                "promote {} remove {3} 2 of 2 voters answer: none of them may die now; 2 voters survive no more deaths than 1: add one"
            ],
        );
        check(
            "a* b* c-",
            remove("b"),
            expect![
                "no: 1 of 2 voters would answer after this change, a quorum is 2: start one of c, or replace it by a new master (join.replaces in its configuration)"
            ],
        );
        check("a*", remove("a"), expect!["no: the last voter cannot be removed"]);
        check("a* b?-", remove("b"), expect!["promote {} remove {2}"]);
        check("a* b*", remove("x"), expect![[r#"not found: no member is named "x"; there are a, b"#]]);
        check(
            "a* b- c-",
            remove("c"),
            expect![
                "no: 1 of 3 voters would answer now, a quorum is 2: start one of b, c, or replace it by a new master (join.replaces in its configuration)"
            ],
        );
    }

    #[test]
    fn of_two_of_one_name_the_fitting_one_is_meant_or_its_id_said() {
        let promote = |name| Change::Promote { name };
        let remove = |name| Change::Remove { name };
        check("a* b* c- c?", promote("c"), expect!["promote {4} remove {3}"]);
        check(
            "a* b* c* c?",
            promote("c"),
            expect![
                "no: c (id 3) is a member and answers; stop it first, or use `balsa members replace OLD NEW --force`"
            ],
        );
        check("a* b* c- c?", Change::Replace { old: "c", new: "c", force: false }, expect!["promote {4} remove {3}"]);
        check(
            "a* b* c- c?",
            remove("c"),
            expect![
                "no: 2 members are named c: say the id, 3 (a voter that does not answer) and 4 (a learner that answers)"
            ],
        );
        check(
            "a* b* c- c?",
            remove("4"),
            expect!["promote {} remove {4} 2 of 3 voters answer: none of them may die now"],
        );
    }

    #[test]
    fn a_newcomer_has_an_address_of_its_own_and_replaces_who_is_there() {
        let seat = |id: u64, name: &str, answers, port: u64| Seat {
            id,
            name: name.into(),
            voter: true,
            answers,
            peer_addr: format!("10.0.0.1:{port}"),
            api_addr: format!("10.0.0.2:{port}"),
        };
        let seats = [seat(1, "a", true, 1), seat(2, "b", false, 2)];
        let told = |new, replaces| match admit(&seats, &new, replaces) {
            Ok(()) => "in".into(),
            Err(No::NotFound(why) | No::Refused(why)) => why,
        };
        assert_eq!(told(seat(3, "c", true, 3), ""), "in");
        assert!(told(seat(3, "c", true, 1), "").contains("address: 10.0.0.1:1 is that of a already"));
        assert!(told(seat(3, "a", true, 3), "").contains("name: a is that of a member that answers (id 1): give"));
        assert!(told(seat(3, "c", true, 3), "a").contains("a (id 1) is a member and answers; stop it first"));
        assert!(told(seat(3, "c", true, 3), "bb").contains("join.replaces: no member is named \"bb\"; there are a, b"));
        // It takes over what the lost one had, and asks again once it is a member.
        assert_eq!(told(seat(3, "c", true, 2), "b"), "in");
        assert_eq!(told(seat(3, "b", true, 2), ""), "in");
        assert_eq!(told(seat(2, "b", true, 2), "gone"), "in");
    }

    #[test]
    fn promotion_needs_an_answer() {
        let promote = |name| Change::Promote { name };
        check("a* b* c?", promote("c"), expect!["promote {3} remove {}"]);
        check(
            "a* b* c?-",
            promote("c"),
            expect!["no: c does not answer: a voter that is down only makes the quorum larger; start it first"],
        );
        check(
            "a* b?",
            promote("b"),
            expect![
                "promote {2} remove {} 2 of 2 voters answer: none of them may die now; 2 voters survive no more deaths than 1: add one"
            ],
        );
        check(
            "a* b* c- d?",
            promote("d"),
            expect![
                "promote {4} remove {} 3 of 4 voters answer: none of them may die now; 4 voters survive no more deaths than 3: add one"
            ],
        );
    }

    #[test]
    fn replacement_is_one_change_and_spares_the_living() {
        let replace = |old, new, force| Change::Replace { old, new, force };
        check("a* b* c- d?", replace("c", "d", false), expect!["promote {4} remove {3}"]);
        check(
            "a* b* c* d?",
            replace("c", "d", false),
            expect![
                "no: c (id 3) is a member and answers; stop it first, or use `balsa members replace OLD NEW --force`"
            ],
        );
        check("a* b* c* d?", replace("c", "d", true), expect!["promote {4} remove {3}"]);
        check("a* b* c- d?-", replace("c", "d", false), expect!["no: d does not answer; start it first"]);
        check(
            "a* b* c- d*",
            replace("c", "d", false),
            expect!["no: d votes already: `balsa members remove c` is what is left to do"],
        );
        check("a* b*", replace("b", "b", true), expect!["no: b cannot replace itself"]);
        check(
            "a* b* c?- d?",
            replace("c", "d", false),
            expect![
                "no: c is a learner, which has no vote to take over: `balsa members promote d`, and `balsa members remove c`"
            ],
        );
    }

    #[test]
    fn a_joiner_takes_the_place_of_its_lost_self() {
        let join = |id, replaces| Change::Join { id, replaces };
        check("a* b* c- c?", join(4, ""), expect!["promote {4} remove {3}"]);
        check(
            "a* b* c* c?",
            join(4, ""),
            expect![
                "no: c (id 3) is a member and answers; stop it first, or use `balsa members replace OLD NEW --force`"
            ],
        );
        check("a* b* c- d?", join(4, "c"), expect!["promote {4} remove {3}"]);
        check(
            "a* b* c* d?",
            join(4, "c"),
            expect![
                "no: c (id 3) is a member and answers; stop it first, or use `balsa members replace OLD NEW --force`"
            ],
        );
        check(
            "a* b* c* d?",
            join(4, ""),
            expect!["promote {4} remove {} 4 voters survive no more deaths than 3: add one"],
        );
    }
}
