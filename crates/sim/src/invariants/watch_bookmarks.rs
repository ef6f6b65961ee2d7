//! Bookmarkable: a bookmark stands for everything up to its revision: nothing shown before it is newer,
//! nothing shown after it is older.
//!
//! Source: kubernetes.io/docs/reference/using-api/api-concepts, "Watch bookmarks"; etcd's progress notifications.

use crate::chronicle::{Chronicle, Item};

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    for sitting in &chronicle.sittings {
        let (mut newest, mut marked) = (sitting.from, sitting.from);
        for item in &sitting.items {
            match item {
                Item::Event { revision, name, .. } => {
                    if *revision <= marked && *revision > sitting.from {
                        wrong.push(format!(
                            "{}: {name} of revision {revision} came after a mark at {marked}",
                            sitting.who
                        ));
                    }
                    newest = newest.max(*revision);
                }
                Item::Bookmark(at) => {
                    if *at < newest {
                        wrong.push(format!("{}: a bookmark at {at} came after revision {newest}", sitting.who));
                    }
                    let due = sitting.due(chronicle, newest, *at);
                    if let Some((ty, revision, name)) = due.first() {
                        wrong.push(format!("{}: marked {at} before {ty} {name} of revision {revision}", sitting.who));
                    }
                    marked = *at;
                }
                Item::Caught(_) => {}
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::pods;

    #[test]
    fn marks_that_promise_too_much_are_found() {
        let n_wrong = |text| check(&pods().sitting(None, 0, text).chronicle).len();
        assert_eq!(n_wrong("ADDED 1 a, mark 1, ADDED 2 b, mark 2"), 0);
        assert_eq!(n_wrong("ADDED 1 a, mark 2"), 1, "b is not shown");
        assert_eq!(n_wrong("ADDED 1 a, ADDED 2 b, mark 1"), 1, "back in time");
        assert_eq!(n_wrong("mark 1, ADDED 1 a"), 2, "too soon, and then too late");
    }
}
