//! What must hold of every run, one file each. A check takes the history and returns what is wrong
//! with it, as sentences.

mod answered;
mod assumed;
mod dense;
pub(crate) mod fenced;
mod linearizable;
mod watched;

use crate::history::History;

pub(crate) fn check(history: &History) -> Vec<String> {
    let checks = [dense::check, linearizable::check, answered::check, assumed::check, watched::check, fenced::check];
    checks.iter().flat_map(|check| check(history)).collect()
}

#[cfg(test)]
mod fixture;
