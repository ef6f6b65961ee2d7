//! Reads and writes take effect once, between their call and their answer, in the order of revisions.
//!
//! Answers tell their revision (`resourceVersion`), so nothing has to be searched for: the order is
//! given, and three things can be wrong with it. An operation stands before one that was over when it
//! began; a read stands after a write that began when it was over; or it shows something else than the
//! state at its revision. This is linearizability of the whole store, and so of each object.

use crate::history::{Applied, History, Known, Past, What};
use crate::words::differences;

pub(crate) fn check(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let (past, known, applied) = (Past::of(history), Known::of(history), Applied::of(history));
    for operation in &history.operations {
        let Some(position) = operation.position() else { continue };
        let before = known.before(operation.invoked);
        let (stale, what) = match operation.what {
            What::Read { .. } => (position < before, "read"),
            What::Write(_) => (position <= before, "write"),
        };
        if stale {
            let (who, invoked) = (&operation.who, operation.invoked.0);
            wrong.push(format!(
                "{who}: a {what} begun at {invoked} took effect at revision {position}; revision {before} had been told \
                 of before"
            ));
        }
        if let What::Read { at, seen } = &operation.what {
            let newest = history.truth.range(..=at).next_back().map_or(0, |(revision, _)| *revision);
            if newest > applied.at(operation.answered) {
                let (who, answered) = (&operation.who, operation.answered.0);
                wrong.push(format!(
                    "{who}: a read answered at {answered} saw revision {newest}, which was written after"
                ));
            }
            let mut seen = seen.clone();
            seen.sort_by(|a, b| a.name.cmp(&b.name));
            let truth = past.objects("", *at);
            if seen != truth {
                let (who, invoked, told) = (&operation.who, operation.invoked.0, differences(&seen, &truth));
                wrong.push(format!("{who}: a read at revision {at}, begun at {invoked}, saw {told}"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::fixture::{Fixture, history};

    fn n_wrong(fixture: Fixture) -> usize {
        check(&fixture.0).len()
    }

    #[test]
    fn stale_and_false_reads_are_found() {
        let truth = || Fixture(history("1 a=x  2 a=y"));
        assert_eq!(n_wrong(truth().wrote("y", 1, 2, &[2]).read(3, 4, 2, "a@2=y")), 0);
        assert_eq!(n_wrong(truth().wrote("y", 1, 3, &[2]).read(2, 4, 1, "a@1=x")), 0, "they overlap");
        assert_eq!(n_wrong(truth().wrote("y", 1, 2, &[2]).read(3, 4, 1, "a@1=x")), 1, "a stale read");
        assert_eq!(n_wrong(truth().read(1, 2, 2, "a@2=y").read(3, 4, 1, "a@1=x")), 1, "reads go back");
        assert_eq!(n_wrong(truth().read(3, 4, 1, "a@1=x")), 1, "staler than what a watcher had been shown");
        assert_eq!(n_wrong(truth().read(2, 4, 1, "a@1=x")), 0, "shown while it was under way");
        assert_eq!(n_wrong(truth().read(0, 1, 2, "a@2=y")), 1, "what was yet to come");
        assert_eq!(n_wrong(truth().read(1, 2, 2, "a@1=x")), 1, "not what stood there");
        assert_eq!(n_wrong(truth().read(1, 2, 2, "")), 1, "an object is missing");
        assert_eq!(n_wrong(truth().read(1, 2, 2, "a@2=y").wrote("x", 3, 4, &[1])), 1, "a write in the past");
    }
}
