//! What a leader writes under its fence is applied before anything a later leader writes, and no term
//! has two leaders.

use crate::history::History;
use std::collections::BTreeMap;

/// Fenced values are `leader:TERM:NODE:COUNT`.
pub const PREFIX: &str = "leader:";

/// What the `count`th write of a leader holds.
pub fn value(term: u64, node: u64, count: u64) -> String {
    format!("{PREFIX}{term}:{node}:{count}")
}

pub(crate) fn check(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last_term = 0;
    let mut leaders: BTreeMap<u64, &str> = BTreeMap::new();
    for (revision, (_, fact)) in &history.truth {
        let fenced = fact.value.as_deref().and_then(|value| value.strip_prefix(PREFIX));
        let Some((term, rest)) = fenced.and_then(|value| value.split_once(':')) else { continue };
        let (Ok(term), Some((node, _))) = (term.parse::<u64>(), rest.split_once(':')) else { continue };
        if term < last_term {
            wrong.push(format!("revision {revision}: a plan of term {term} was applied after one of term {last_term}"));
        }
        last_term = last_term.max(term);
        if *leaders.entry(term).or_insert(node) != node {
            wrong.push(format!("revision {revision}: both {} and {node} led term {term}", leaders[&term]));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::fixture::history;

    #[test]
    fn plans_of_the_past_and_double_leaders_are_found() {
        assert_eq!(check(&history("1 a=leader:1:1:0  2 a=x  3 a=leader:3:2:0  4 b=leader:3:2:1")), [""; 0]);
        assert_eq!(check(&history("1 a=leader:3:1:0  2 a=leader:1:2:0")).len(), 1);
        assert_eq!(check(&history("1 a=leader:3:1:0  2 a=leader:3:2:0")).len(), 1);
    }
}
