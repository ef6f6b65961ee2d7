//! A watcher is shown every event of its kind once, in order, also when it moves between masters; a
//! list in between shows the state at its revision.

use crate::history::{History, Past, Shown};
use crate::words::differences;

pub(crate) fn check(history: &History) -> Vec<String> {
    history
        .watched
        .iter()
        .filter_map(|(who, shown)| {
            let what = first_wrong(history, who, shown)?;
            Some(format!("{}: {what}", who.strip_suffix(" of ").unwrap_or(who)))
        })
        .collect()
}

/// `who` is named after the kind it watches: its objects' names start with it.
fn first_wrong(history: &History, who: &str, shown: &[Shown]) -> Option<String> {
    let past = Past::of(history);
    let prefix = who.rsplit_once(' ').map_or(who, |(_, kind)| kind);
    let due_after = |position: u64| {
        let later = history.truth.range(position + 1..);
        later
            .filter(|(_, (_, fact))| fact.name.starts_with(prefix))
            .map(|(revision, (_, fact))| (*revision, fact))
            .next()
    };
    // Before its first list it may claim nothing.
    let mut position = None;
    for item in shown {
        match (item, position) {
            (Shown::Listed { at, seen }, _) => {
                if let Some(before) = position.filter(|position| at < position) {
                    return Some(format!("was at revision {before} and then listed at {at}"));
                }
                let truth = past.objects(prefix, *at);
                if *seen != truth {
                    return Some(format!("was listed at revision {at} {}", differences(seen, &truth)));
                }
                position = Some(*at);
            }
            (Shown::Event { .. }, None) => return Some(format!("was shown {item} before any list")),
            (Shown::Event { revision, name, value }, Some(before)) => {
                let due = due_after(before);
                if due.is_none_or(|(due, fact)| due != *revision || fact.name != *name || fact.value != *value) {
                    let due = due.map_or_else(|| "nothing".into(), |(due, fact)| format!("{fact} at revision {due}"));
                    return Some(format!("was shown {item} after revision {before}, where {due} was due"));
                }
                position = Some(*revision);
            }
        }
    }
    let (revision, missed) = due_after(position.unwrap_or(0))
        .filter(|(revision, _)| history.until.is_none_or(|until| *revision <= until))?;
    Some(format!("was never shown {missed} at revision {revision}"))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::fixture::{history, sights};
    use crate::history::Shown;

    #[test]
    fn gaps_doubles_and_disorder_are_found() {
        let n_wrong = |shown: Vec<Shown>| {
            let mut history = history("1 a=x  2 b=y  3 a=-");
            history.watched.insert("watcher of 1/".into(), shown);
            check(&history).len()
        };
        let listed = |at, seen| Shown::Listed { at, seen: sights(seen) };
        let event = |revision, name: &str, value: Option<&str>| Shown::Event {
            revision,
            name: format!("1/{name}"),
            value: value.map(Into::into),
        };
        let all = || vec![listed(0, ""), event(1, "a", Some("x")), event(2, "b", Some("y")), event(3, "a", None)];
        assert_eq!(n_wrong(all()), 0);
        assert_eq!(n_wrong(vec![listed(2, "a@1=x b@2=y"), event(3, "a", None)]), 0);
        assert_eq!(n_wrong(vec![all()[0].clone(), all()[1].clone(), listed(3, "b@2=y")]), 0, "compacted meanwhile");
        for left_out in 0..4 {
            let mut shown = all();
            shown.remove(left_out);
            assert_eq!(n_wrong(shown), 1, "without {left_out}");
        }
        for doubled in 1..4 {
            let mut shown = all();
            shown.insert(doubled, shown[doubled].clone());
            assert_eq!(n_wrong(shown), 1, "{doubled} twice");
        }
        let mut swapped = all();
        swapped.swap(1, 2);
        assert_eq!(n_wrong(swapped), 1);
        assert_eq!(n_wrong(vec![listed(3, "a@1=x b@2=y")]), 1, "a list of what is gone");
        assert_eq!(n_wrong(vec![listed(3, "b@2=y"), listed(2, "a@1=x b@2=y"), event(3, "a", None)]), 1, "back in time");
    }
}
