//! What must hold of what the masters applied and the orchestrator did, one file each. What clients of
//! the store were told is judged by `judge`.
//!
//! A watch's nine guarantees are etcd's (etcd.io/docs/v3.6/learning/api_guarantees and
//! tests/robustness in etcd's repository), as far as the API shows them.

mod affinity;
mod binding;
mod budget;
mod capacity;
pub(crate) mod converged;
mod dense;
mod eligible;
pub(crate) mod hashes;
pub(crate) mod orphans;
mod plans;
pub(crate) mod running;
mod statuses;
mod watch_atomic;
mod watch_bookmarks;
mod watch_created;
mod watch_filtered;
mod watch_ordered;
mod watch_previous;
mod watch_reliable;
mod watch_resumable;
mod watch_unique;

#[cfg(test)]
mod fixture;

use crate::chronicle::Chronicle;
use objects::{Value, ValueExt};

/// Who decides has seen the world as it was so long before the decision is applied, at most: a proposal is applied
/// or given up within 1.8 s.
const MOMENT_MS: u64 = 2_000;
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Whether a selector's expression holds of an object's labels. The tenants use no other operator than `In`.
fn says(expression: &Value, object: &Value) -> bool {
    let label = object.label(expression.text("key"));
    let is_among = |label: &str| expression.items("values").iter().any(|value| value.as_str() == Some(label));
    expression.text("operator") == "In" && label.is_some_and(is_among)
}

/// Whether a label selector matches an object.
fn selects(selector: &Value, object: &Value) -> bool {
    let mut labels = selector.at("matchLabels").as_object().into_iter().flatten();
    labels.all(|(label, value)| object.label(label) == value.as_str())
        && selector.items("matchExpressions").iter().all(|expression| says(expression, object))
}

type Check = (&'static str, fn(&Chronicle) -> Vec<String>);

const CHECKS: [Check; 17] = [
    ("dense", dense::check),
    ("plans", plans::check),
    ("binding", binding::check),
    ("capacity", capacity::check),
    ("eligible", eligible::check),
    ("affinity", affinity::check),
    ("budget", budget::check),
    ("statuses", statuses::check),
    ("watch-ordered", watch_ordered::check),
    ("watch-unique", watch_unique::check),
    ("watch-atomic", watch_atomic::check),
    ("watch-reliable", watch_reliable::check),
    ("watch-resumable", watch_resumable::check),
    ("watch-bookmarks", watch_bookmarks::check),
    ("watch-filtered", watch_filtered::check),
    ("watch-previous", watch_previous::check),
    ("watch-created", watch_created::check),
];

pub(crate) fn check(chronicle: &Chronicle) -> Vec<String> {
    let named = |(name, check): Check| check(chronicle).into_iter().map(move |wrong| format!("{name}: {wrong}"));
    CHECKS.into_iter().flat_map(named).collect()
}
