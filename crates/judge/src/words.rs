//! What was seen and what was due, as reports say it.

use crate::history::{Assumed, Change, Fact, Refusal, Shown, Sight};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter, Result};

/// So many objects that differ are told; the rest is counted.
const TOLD_MAX: usize = 3;

fn of(f: &mut Formatter<'_>, name: &str, value: Option<&str>) -> Result {
    match value {
        Some(value) => write!(f, "{name}={value}"),
        None => write!(f, "{name} deleted"),
    }
}

impl Display for Fact {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        of(f, &self.name, self.value.as_deref())
    }
}

impl Display for Shown {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Shown::Listed { at, seen } => write!(f, "a list of {} objects at revision {at}", seen.len()),
            Shown::Event { revision, name, value } => {
                of(f, name, value.as_deref())?;
                write!(f, " at revision {revision}")
            }
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let done = if self.deletes { "the deletion of " } else { "" };
        write!(f, "{done}{}", self.name)?;
        match self.assumed {
            Assumed::Absent => f.write_str(" if absent"),
            Assumed::At(revision) => write!(f, " if at revision {revision}"),
            Assumed::Present => Ok(()),
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Refusal::AlreadyExists(name) => write!(f, "that {name} exists"),
            Refusal::NotFound(name) => write!(f, "that {name} does not exist"),
            Refusal::Conflict(name) => write!(f, "that {name} is at another revision"),
            Refusal::Fenced => f.write_str("that another master leads"),
            Refusal::Unearned(why) => write!(f, "{why:?}"),
        }
    }
}

/// An object as it was seen, or should have been.
fn one(sight: Option<&Sight>) -> String {
    sight.map_or_else(|| "nothing".into(), |sight| format!("{} of revision {}", sight.value, sight.revision))
}

/// In what a look differs from the truth: object by object, what was seen and what stood.
pub(crate) fn differences(seen: &[Sight], truth: &[Sight]) -> String {
    let by_name = |sights: &'_ [Sight]| -> BTreeMap<String, Sight> {
        sights.iter().map(|sight| (sight.name.clone(), sight.clone())).collect()
    };
    let is_twice = seen.len() != by_name(seen).len();
    let (seen, truth) = (by_name(seen), by_name(truth));
    let names: BTreeSet<&String> = seen.keys().chain(truth.keys()).collect();
    let told = |name: &String| {
        let (saw, stood) = (seen.get(name), truth.get(name));
        (saw != stood).then(|| format!("{name}: {}, where {} stood", one(saw), one(stood)))
    };
    let mut differing: Vec<String> = names.into_iter().filter_map(told).collect();
    if is_twice {
        differing.push("an object is there twice".into());
    }
    if differing.is_empty() {
        return "its objects are in another order".into();
    }
    let further = differing.len().saturating_sub(TOLD_MAX);
    differing.truncate(TOLD_MAX);
    let further = if further > 0 { format!("; and {further} more") } else { String::new() };
    differing.join("; ") + &further
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::sights;

    #[test]
    fn only_what_differs_is_told_and_not_all_of_it() {
        let told = |seen: &str, truth: &str| differences(&sights(seen), &sights(truth));
        assert_eq!(told("a@1=x b@2=y", "a@1=x b@5=z"), "1/b: y of revision 2, where z of revision 5 stood");
        assert_eq!(
            told("a@1=x", "b@2=y"),
            "1/a: x of revision 1, where nothing stood; 1/b: nothing, where y of revision 2 stood"
        );
        let many = told("", "a@1=x b@2=x c@3=x d@4=x e@5=x");
        assert!(many.ends_with("; and 2 more"), "{many}");
        assert_eq!(told("a@1=x a@1=x", "a@1=x"), "an object is there twice");
    }
}
