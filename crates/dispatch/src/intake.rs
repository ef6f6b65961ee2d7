//! Taking in what workers report: nodes, pod statuses, events.
//!
//! A worker reports for its own node only; the session says which that is.

use front::Front;
use objects::schema::schemas;
use objects::{Key, Record, Status, Value, ValueExt, json, registry};
use protos::dispatch as pb;
use state::{Op, Outcome, Txn, View};

/// A report that loses a race against another write is decided again this often.
const RACES_MAX: usize = 10;
/// On a Node: the start of its worker that it tells of (`Hello.boot_id`).
pub const BOOT_ID: &str = "balsa.dev/boot-id";
/// Which report a pod's status came from: the worker's boot id and the report's number.
pub(crate) const OBSERVATION: &str = "balsa.dev/observation";

/// What a worker sends becomes part of an object that everybody reads: its fields must have their types.
fn parse(what: &str, schema: &str, bytes: &[u8]) -> Result<Value, Status> {
    let value = serde_json::from_slice(bytes).map_err(|error| Status::bad_request(format!("{what}: {error}")))?;
    match schemas().check(schema, &value).mistyped.first() {
        None => Ok(value),
        Some((path, expected)) => {
            Err(Status::bad_request(format!("{what}: {path}: Invalid value: expected {expected}")).at(path))
        }
    }
}

/// Proposes what `decide` makes of the record until it holds; `None` means nothing to do.
async fn update(front: &Front, key: &Key, decide: impl Fn(&Record) -> Option<Op>) -> Result<(), store::Error> {
    let look = |view: View| view.get(key).and_then(|record| decide(record));
    let mut op = look(front.store.view());
    let mut fresh = false;
    for _ in 0..RACES_MAX {
        match op {
            Some(op) => {
                if let Outcome::Applied(_) = front.store.propose(Txn { ops: vec![op], ..Txn::default() }).await? {
                    return Ok(());
                }
            }
            // A master that lags does not know yet what it must not acknowledge as nothing.
            None if fresh => return Ok(()),
            None => {}
        }
        op = look(front.store.read().await?);
        fresh = true;
    }
    Err(store::Error::Unavailable(format!("{key} changes too fast")))
}

/// Creates or refreshes the Node of a worker that opens a session.
pub(crate) async fn hello(front: &Front, name: &str, hello: &pb::Hello) -> Result<(), Status> {
    let mut reported = parse("node", "io.k8s.api.core.v1.Node", &hello.node)?;
    if reported.text("metadata.name") != name {
        let asked = reported.text("metadata.name");
        return Err(Status::forbidden(
            registry::must(registry::NODE),
            asked,
            &format!("this certificate is for node {name}"),
        ));
    }
    let unavailable = |error: store::Error| Status::unavailable(error.to_string());
    let view = front.store.read().await.map_err(unavailable)?;
    let key = Key::new(registry::NODE, "", name);
    if view.get(&key).is_none() {
        let mut rng = front.rng();
        let mut context = api::Context { now: front.now(), rng: &mut rng };
        reported.set("metadata.annotations", json!({BOOT_ID: hello.boot_id}));
        let (op, checks) = api::creation(reported.clone(), registry::must(registry::NODE), &view, &mut context)?;
        drop(view);
        let txn = Txn { ops: vec![op], checks, ..Txn::default() };
        match front.store.propose(txn).await.map_err(unavailable)? {
            Outcome::Applied(_) => return Ok(()),
            Outcome::Refused(refusal) => tracing::debug!(?refusal, "another session created the node"),
        }
    }
    update(front, &key, |record| {
        let mut node = record.value();
        for (label, value) in reported.at("metadata.labels").as_object().into_iter().flatten() {
            node.object("metadata.labels").insert(label.clone(), value.clone());
        }
        node.object("metadata.annotations").insert(BOOT_ID.into(), hello.boot_id.as_str().into());
        merge_node_status(&mut node, reported.at("status"));
        api::change(record, node)
    })
    .await
    .map_err(unavailable)
}

/// Takes a node's status over; a condition that says the same keeps its times, so that a report
/// without news writes nothing.
fn merge_node_status(node: &mut Value, status: &Value) {
    let mut status = status.clone();
    let old = node.items("status.conditions").to_vec();
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |o: &&Value| {
            ["type", "status", "reason", "message"].iter().all(|field| o.text(field) == condition.text(field))
        };
        if let Some(old) = old.iter().find(same) {
            *condition = old.clone();
        }
    }
    node.set("status", status);
}

pub(crate) async fn node_status(front: &Front, name: &str, report: &pb::NodeStatus) -> Result<(), Status> {
    let status = parse("node status", "io.k8s.api.core.v1.NodeStatus", &report.status)?;
    let key = Key::new(registry::NODE, "", name);
    let updated = update(front, &key, |record| {
        let mut node = record.value();
        merge_node_status(&mut node, &status);
        api::change(record, node)
    });
    updated.await.map_err(|error| Status::unavailable(error.to_string()))
}

/// Stores a pod's status, or removes the pod once it has stopped. An error means: not stored, the
/// worker will say it again.
pub(crate) async fn pod_status(front: &Front, node: &str, boot_id: &str, report: &pb::PodStatus) -> Result<(), Status> {
    let status = parse("pod status", "io.k8s.api.core.v1.PodStatus", &report.status)?;
    let key = Key::new(registry::POD, &report.namespace, &report.name);
    let decide = |record: &Record| {
        // A pod of another uid or node is none of this worker's business.
        if record.header.uid != report.uid || record.header.node_name.as_deref() != Some(node) {
            return None;
        }
        let mut pod = record.value();
        // An older report of the same worker process, come late through another session.
        let stored = pod.annotation(OBSERVATION).and_then(|text| text.split_once('/'));
        if stored.is_some_and(|(boot, n)| boot == boot_id && n.parse::<u64>().is_ok_and(|n| n >= report.sequence)) {
            return None;
        }
        let observation = format!("{boot_id}/{}", report.sequence);
        pod.object("metadata.annotations").insert(OBSERVATION.into(), observation.into());
        if report.stopped && record.header.deletion.is_some() {
            pod.set("metadata.deletionGracePeriodSeconds", 0);
            if record.header.finalizers.is_empty() {
                return Some(Op::Delete { key: record.key.clone(), assumed: record.header.revision });
            }
        }
        // What others say of the pod stays: the scheduler, and whoever disrupts it.
        let is_reported = |ty: &str| status.items("conditions").iter().any(|c| c.text("type") == ty);
        let mut kept = pod.items("status.conditions").to_vec();
        kept.retain(|c| c.text("type") == "PodScheduled" || !is_reported(c.text("type")));
        pod.set("status", status.clone());
        kept.into_iter().for_each(|condition| api::set_condition(&mut pod, condition));
        api::change(record, pod)
    };
    update(front, &key, decide).await.map_err(|error| Status::unavailable(error.to_string()))
}

/// Whether an event is about the node itself or a pod that is bound to it.
fn is_about(view: &View, node: &str, event: &Value) -> bool {
    let about = event.at("involvedObject");
    let key = Key::new(registry::POD, about.text("namespace"), about.text("name"));
    match about.text("kind") {
        "Node" => about.text("name") == node,
        "Pod" => view.get(&key).is_some_and(|pod| pod.header.node_name.as_deref() == Some(node)),
        _ => false,
    }
}

pub(crate) async fn event(front: &Front, node: &str, report: &pb::Event) -> Result<(), Status> {
    let mut object = parse("event", "io.k8s.api.core.v1.Event", &report.event)?;
    let mut view = front.store.view();
    if !is_about(&view, node, &object) {
        // This master may not know of the pod's binding yet.
        view = front.store.read().await.map_err(|error| Status::unavailable(error.to_string()))?;
        if !is_about(&view, node, &object) {
            let why = format!("node {node} may report events of itself and of its own pods");
            return Err(Status::forbidden(registry::must(registry::EVENT), "", &why));
        }
    }
    let mut rng = front.rng();
    let mut context = api::Context { now: front.now(), rng: &mut rng };
    // What is said again and again (a probe that fails) is counted, not stored anew.
    let (op, checks) = match api::events::fold(&view, &mut object, front.now()) {
        Some(record) => (api::change(&record, object), Vec::new()),
        None => {
            let (op, checks) = api::creation(object, registry::must(registry::EVENT), &view, &mut context)?;
            (Some(op), checks)
        }
    };
    drop(view);
    let txn = Txn { ops: op.into_iter().collect(), checks, ..Txn::default() };
    front.store.propose(txn).await.map(drop).map_err(|error| Status::unavailable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_types_of_what_it_becomes_part_of() {
        let pod = |text: &str| parse("pod status", "io.k8s.api.core.v1.PodStatus", text.as_bytes());
        assert!(pod(r#"{"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 1}]}"#).is_ok());
        let refused = pod(r#"{"phase": "Running", "containerStatuses": [{"restartCount": "1"}]}"#).unwrap_err();
        assert_eq!(refused.message, "pod status: containerStatuses[0].restartCount: Invalid value: expected int32");
        assert!(parse("node status", "io.k8s.api.core.v1.NodeStatus", br#"{"capacity": {"cpu": "lots"}}"#).is_err());
        assert!(pod("[]").is_err());
    }
}
