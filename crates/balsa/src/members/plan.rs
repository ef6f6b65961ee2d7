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
    seats.map(|seat| seat.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn named<'a>(seats: &'a [Seat], name: &str) -> Result<&'a Seat, No> {
    let known = seats.iter().find(|seat| seat.name == name);
    known.ok_or_else(|| No::NotFound(format!("no member is named {name:?}; there are {}", names(seats.iter()))))
}

/// Decides a change of the present members.
pub(crate) fn plan(seats: &[Seat], change: Change) -> Result<Plan, No> {
    let mut plan = Plan::default();
    match change {
        Change::Join { id, replaces } => {
            let joiner = seats.iter().find(|seat| seat.id == id);
            let joiner = joiner.ok_or_else(|| No::NotFound(format!("member {id:x} has been removed meanwhile")))?;
            // Its master waits for this very answer before it serves anything else.
            let old = |seat: &&Seat| seat.id != id && (seat.name == joiner.name || seat.name == replaces);
            if let Some(seat) = seats.iter().filter(old).find(|seat| seat.answers) {
                return Err(still_answers(seat));
            }
            plan.remove = seats.iter().filter(old).map(|seat| seat.id).collect();
            plan.promote.insert(id);
        }
        Change::Promote { name } => {
            let seat = named(seats, name)?;
            if !seat.voter && !seat.answers {
                return Err(No::Refused(format!(
                    "{name} does not answer: a voter that is down only makes the quorum larger; start it first"
                )));
            }
            plan.promote.insert(seat.id);
        }
        Change::Remove { name } => {
            plan.remove.insert(named(seats, name)?.id);
        }
        Change::Replace { old, new, force } => {
            let (out, into) = (named(seats, old)?, named(seats, new)?);
            if out.id == into.id {
                return Err(No::Refused(format!("{old} cannot replace itself")));
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
