//! Events for people: written, counted when they repeat, and removed when they are old.
//!
//! Rules: kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1.

use crate::{Action, Context, Plan};
use objects::{Key, Record, Timestamp, Value, ValueExt, json, registry};
use state::View;

/// As in Kubernetes: an hour after it was last seen, an event goes.
const AGE_MAX_MS: i64 = 3_600_000;
/// Removed in one plan; the rest follows at once.
const BURST_MAX: usize = 500;
/// Old events may stay this much longer, so that they go in bunches.
const SWEEP_EVERY_MS: i64 = 60_000;

/// An Event about `about`. The same word about the same thing is one object that counts.
pub fn event(
    view: &View,
    about: &Record,
    component: &str,
    (ty, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> Action {
    let kind = registry::must(about.key.kind);
    let namespace = if about.key.namespace.is_empty() { "default" } else { about.key.namespace.as_str() };
    let mut object = json!({
        "metadata": {"namespace": namespace},
        "involvedObject": {
            "apiVersion": kind.api_version(), "kind": kind.kind, "name": about.key.name.as_str(),
            "namespace": about.key.namespace.as_str(), "uid": about.header.uid.as_str(),
            "resourceVersion": about.header.revision.to_string(),
        },
        "reason": reason, "message": message, "type": ty, "count": 1,
        "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
        "firstTimestamp": now.rfc3339(), "lastTimestamp": now.rfc3339(),
    });
    match api::events::fold(view, &mut object, now) {
        Some(record) => Action::Update { record, object },
        None => Action::Create { kind: registry::EVENT, object },
    }
}

fn last_seen(event: &Value, created: Timestamp) -> Timestamp {
    let times = ["series.lastObservedTime", "lastTimestamp", "eventTime"];
    times.iter().filter_map(|path| Timestamp::parse(event.text(path))).max().unwrap_or(created).max(created)
}

/// Removes the old events of a namespace.
pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(namespace) = context.view.get(key).filter(|namespace| namespace.header.deletion.is_none()) else {
        return plan;
    };
    let mut next_ms = AGE_MAX_MS;
    for record in context.view.list(registry::EVENT, &namespace.key.name, None) {
        let created = record.header.created.unwrap_or_default();
        let young = AGE_MAX_MS - context.now.since_ms(created);
        let left_ms =
            if young > 0 { young } else { AGE_MAX_MS - context.now.since_ms(last_seen(&record.value(), created)) };
        if left_ms > 0 {
            next_ms = next_ms.min(left_ms);
        } else if plan.actions.len() < BURST_MAX {
            plan.delete(record, None);
        } else {
            next_ms = 0;
        }
    }
    plan.wake_after(if next_ms == 0 { 0 } else { next_ms.max(SWEEP_EVERY_MS) });
    plan
}
