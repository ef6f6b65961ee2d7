//! Judgement: from what clients did, were told and were shown, what is wrong with a store.
//!
//! Pure, and common to runs in virtual time (`sim`) and to runs against real clusters (`chaos`). Clients
//! are told revisions, so nothing has to be searched for: the order of everything is given, and each
//! check is linear. What must hold stands in one file each; a check takes the history and returns what
//! is wrong with it, as sentences.

mod answered;
mod assumed;
mod dense;
pub mod fenced;
mod history;
mod linearizable;
mod watched;
mod words;

pub use answered::n_lost;
pub use history::{
    Applied, Assumed, Change, End, Fact, History, Known, Moment, Operation, Past, Refusal, Shown, Sight, Span, What,
    Write,
};

/// A check by its name, as reports and scenarios call it.
pub type Check = (&'static str, fn(&History) -> Vec<String>);

/// What holds of any history.
pub const CHECKS: [Check; 5] = [
    ("linearizable", linearizable::check),
    ("acknowledged", answered::check),
    ("assumed", assumed::check),
    ("watched", watched::check),
    ("fenced", fenced::check),
];

/// What holds besides where the truth has every revision, and so tells where each txn ends.
pub const DENSE: Check = ("dense", dense::check);

/// Every check, over a history whose truth has every revision.
pub fn check(history: &History) -> Vec<String> {
    CHECKS.iter().chain([&DENSE]).flat_map(|(_, check)| check(history)).collect()
}

#[cfg(test)]
mod fixture;
