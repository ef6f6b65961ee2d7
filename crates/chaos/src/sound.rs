//! Whether a line of a report can have been written by a run at all: what the judgement takes for granted.

use crate::lines::{FaultLine, Line, Seen, WriteEnd};
use crate::span::MILLIS_MAX;
use serde_json::Value;

fn from_one(revision: u64, field: &str) -> Result<(), String> {
    match revision {
        0 => Err(format!("{field}: revisions begin at 1")),
        REVISION_MAX.. => Err(format!("{field}: no group issues as many revisions")),
        _ => Ok(()),
    }
}

fn all_from_one(revision: u64, seen: &Seen) -> Result<(), String> {
    from_one(revision, "revision")?;
    seen.iter().try_for_each(|(name, (revision, _))| from_one(*revision, &format!("seen.{name}")))
}

/// What numbers of JavaScript end with, and revisions below.
const REVISION_MAX: u64 = 1 << 53;

/// No run lasts longer.
pub(crate) const MOMENT_US_MAX: u64 = MILLIS_MAX * 1_000;

/// Moments that cannot come one before the other, each with its field.
fn in_order(moments: &[(&str, u64)]) -> Result<(), String> {
    if let Some((field, _)) = moments.iter().find(|(_, moment)| *moment > MOMENT_US_MAX) {
        return Err(format!("{field}: no run lasts so long"));
    }
    let wrong = moments.windows(2).find(|pair| pair[0].1 > pair[1].1);
    wrong.map_or(Ok(()), |pair| Err(format!("{}: is before {}", pair[1].0, pair[0].0)))
}

/// An error of a file's one line, of which it would say that it is the first.
fn told(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

impl Line {
    /// A line of history.jsonl. Errors name the field.
    pub fn parse(text: &str) -> Result<Line, String> {
        let line: Line = serde_json::from_str(text).map_err(|error| told(&error))?;
        line.check()?;
        Ok(line)
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Line::Write { creates, assumed, invoked_us, tried_us, answered_us, end, revision, .. } => {
                if *creates && assumed.is_some() {
                    return Err("assumed: a write that creates its object assumes no revision of it".into());
                }
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
            Line::Listed { at_us, revision, seen, .. } => {
                in_order(&[("atUs", *at_us)])?;
                all_from_one(*revision, seen)
            }
            Line::Shown { at_us, revision, .. } | Line::Bound { at_us, revision, .. } => {
                in_order(&[("atUs", *at_us)])?;
                from_one(*revision, "revision")
            }
            Line::Pod { invoked_us, answered_us, .. } => {
                in_order(&[("invokedUs", *invoked_us), ("answeredUs", *answered_us)])
            }
        }
    }
}

/// Fields of a fault that not every line has.
const SOMETIMES: [&str; 5] = ["stallMs", "seconds", "bits", "ended", "error"];

impl FaultLine {
    /// A line of faults.jsonl. Errors name the field, also one that is not known: a misspelt `error` is one that
    /// nobody sees.
    pub fn parse(text: &str) -> Result<FaultLine, String> {
        let line: FaultLine = serde_json::from_str(text).map_err(|error| told(&error))?;
        let given: Value = serde_json::from_str(text).map_err(|error| told(&error))?;
        let known = serde_json::to_value(&line).map_err(|error| told(&error))?;
        let is_known = |field: &str| known.get(field).is_some() || SOMETIMES.contains(&field);
        let fields = given.as_object().into_iter().flat_map(|fields| fields.keys());
        if let Some(field) = fields.into_iter().find(|field| !is_known(field)) {
            return Err(format!("{field}: is not known"));
        }
        line.check()?;
        Ok(line)
    }

    fn check(&self) -> Result<(), String> {
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
