//! What a pod's status tells of is its own: a container belongs to one pod, whoever else has the name of that later.
//!
//! Source: kubernetes.io/docs/concepts/overview/working-with-objects/names (a uid tells apart what had one name one
//! after the other).

use crate::chronicle::Chronicle;
use objects::{Value, ValueExt, registry};
use std::collections::BTreeMap;

/// The containers that a pod's status names: those it has, and those that were before them.
fn containers(pod: &Value) -> impl Iterator<Item = &str> {
    let statuses = ["initContainerStatuses", "containerStatuses"].map(|field| pod.items(&format!("status.{field}")));
    let ids = |status| ["containerID", "lastState.terminated.containerID"].map(|field| Value::text(status, field));
    statuses.into_iter().flatten().flat_map(ids).filter(|id| !id.is_empty())
}

pub(super) fn check(chronicle: &Chronicle) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for (revision, (_, event)) in &chronicle.events {
        let Some(record) = event.new.as_ref().filter(|_| event.key.kind == registry::POD) else { continue };
        let (pod, uid) = (record.value(), &record.header.uid);
        for id in containers(&pod) {
            let owner = owners.entry(id.into()).or_insert_with(|| uid.to_string());
            if owner.as_str() != uid.as_str() {
                wrong.push(format!("revision {revision}: {} has the status of {id}, which is of {owner}", event.key));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::invariants::fixture::{Fixture, pod};
    use objects::{Value, ValueExt, json, registry};

    fn with(uid: &str, status: Value) -> Value {
        let mut pod = pod("a", "x", "n", false);
        pod.set("metadata.uid", uid);
        pod.set("status.containerStatuses", json!([status]));
        pod
    }

    #[test]
    fn the_status_of_another_pod_that_had_the_name_is_found() {
        let n_wrong = |first: Value, second: Value| {
            let story = Fixture::default().put(registry::POD, with("1", first)).delete(registry::POD, "a");
            check(&story.put(registry::POD, with("2", second)).chronicle).len()
        };
        let (c1, c2) = (json!({"containerID": "hollow://1"}), json!({"containerID": "hollow://2"}));
        assert_eq!(n_wrong(c1.clone(), c2.clone()), 0);
        assert_eq!(n_wrong(c1.clone(), json!({})), 0);
        assert_eq!(n_wrong(c1.clone(), c1.clone()), 1);
        let after = json!({"containerID": "hollow://2", "lastState": {"terminated": {"containerID": "hollow://1"}}});
        assert_eq!(n_wrong(c1.clone(), after), 1);
        let mut second = with("2", c2);
        second.set("status.initContainerStatuses", json!([c1]));
        let story = Fixture::default().put(registry::POD, with("1", c1)).delete(registry::POD, "a");
        assert_eq!(check(&story.put(registry::POD, second).chronicle).len(), 1);
    }
}
