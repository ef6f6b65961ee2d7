//! Previous value: what leaves is shown as it was last, and what comes or changes as it then is.
//!
//! Source: etcd.io/docs/v3.6/learning/api (`prev_kv`); kubernetes.io/docs/reference/using-api/api-concepts:
//! a DELETED event holds the state before the deletion.

use crate::chronicle::Chronicle;
use objects::{Value, ValueExt};

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    for sitting in &chronicle.sittings {
        for (ty, revision, name, json) in sitting.shown() {
            let Some((_, event)) = chronicle.events.get(&revision) else { continue };
            let side = if ty == "DELETED" { &event.old } else { &event.new };
            let mut due = side.as_ref().map(|record| record.value()).unwrap_or_default();
            due.set("metadata.resourceVersion", revision.to_string());
            if serde_json::from_slice::<Value>(json).ok() != Some(due) {
                wrong.push(format!("{}: {ty} {name} of revision {revision} shows another object", sitting.who));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::chronicle::Item;
    use crate::invariants::fixture::pods;

    #[test]
    fn a_false_parting_is_found() {
        let fixture = || pods().sitting(None, 2, "MODIFIED 3 a, DELETED 4 b, upto 4");
        assert_eq!(check(&fixture().chronicle), [""; 0]);
        let mut false_one = fixture();
        let Item::Event { json, .. } = &mut false_one.chronicle.sittings[0].items[1] else { panic!() };
        *json = "{}".into();
        assert_eq!(check(&false_one.chronicle).len(), 1);
    }
}
