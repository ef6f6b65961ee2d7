//! Whether a line of a report can have been written by a run at all: what the judgement takes for granted.

use crate::lines::{FaultLine, Line, Seen, WriteEnd};

fn from_one(revision: u64, field: &str) -> Result<(), String> {
    if revision == 0 { Err(format!("{field}: revisions begin at 1")) } else { Ok(()) }
}

fn all_from_one(revision: u64, seen: &Seen) -> Result<(), String> {
    from_one(revision, "revision")?;
    seen.iter().try_for_each(|(name, (revision, _))| from_one(*revision, &format!("seen.{name}")))
}

/// Moments that cannot come one before the other, each with its field.
fn in_order(moments: &[(&str, u64)]) -> Result<(), String> {
    let wrong = moments.windows(2).find(|pair| pair[0].1 > pair[1].1);
    wrong.map_or(Ok(()), |pair| Err(format!("{}: is before {}", pair[1].0, pair[0].0)))
}

impl Line {
    /// Errors name the field.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Line::Write { assumed, invoked_us, tried_us, answered_us, end, revision, .. } => {
                match (end, revision) {
                    (WriteEnd::Applied, None) => return Err("revision: a write that was applied has one".into()),
                    (WriteEnd::Applied, Some(_)) | (_, None) => {}
                    (_, Some(_)) => return Err("revision: only a write that was applied has one".into()),
                }
                for (field, revision) in [("revision", revision), ("assumed", assumed)] {
                    revision.map_or(Ok(()), |revision| from_one(revision, field))?;
                }
                in_order(&[("invokedUs", *invoked_us), ("triedUs", *tried_us), ("answeredUs", *answered_us)])
            }
            Line::Read { invoked_us, answered_us, revision, seen, .. } => {
                in_order(&[("invokedUs", *invoked_us), ("answeredUs", *answered_us)])?;
                all_from_one(*revision, seen)
            }
            Line::Listed { revision, seen, .. } => all_from_one(*revision, seen),
            Line::Shown { revision, .. } | Line::Bound { revision, .. } => from_one(*revision, "revision"),
            Line::Pod { invoked_us, answered_us, .. } => {
                in_order(&[("invokedUs", *invoked_us), ("answeredUs", *answered_us)])
            }
        }
    }
}

impl FaultLine {
    /// Errors name the field.
    pub fn check(&self) -> Result<(), String> {
        match self.error {
            Some(_) => Ok(()),
            None => in_order(&[
                ("begunUs", self.begun_us),
                ("heldUs", self.held_us),
                ("endedUs", self.ended_us),
                ("healedUs", self.healed_us),
            ]),
        }
    }
}
