//! Deletion and eviction: at once, or marked until whoever holds the object lets go of it.

use super::{propose, same_name, success};
use crate::accept::{self, accept};
use crate::read::find;
use crate::step::{Pending, Reply, Step};
use crate::{Context, Request, admission};
use objects::{Kind, Record, Status, Value, ValueExt, json, record, registry};
use state::{Op, Txn, View};

pub(crate) fn evict(request: &Request, view: &View, context: &mut Context) -> Result<Step, Status> {
    let (eviction, warnings) = match &request.body.value {
        // An eviction says all by its path.
        Value::Null => (json!({}), Vec::new()),
        body => accept(request, &accept::EVICTION, body.clone())?,
    };
    same_name(request, &eviction)?;
    let mut inner = request.clone();
    inner.options.take_delete_options(eviction.at("deleteOptions"))?;
    match delete(&inner, view, context)? {
        Step::Propose(txn, pending) => {
            Ok(Step::Propose(txn, Pending { instead: Some(success()), created: true, warnings, ..pending }))
        }
        Step::Answer(_) => Ok(Step::Answer(Reply::Value { value: success(), created: true, warnings })),
        other => Ok(other),
    }
}

pub(crate) fn delete(request: &Request, view: &View, context: &mut Context) -> Result<Step, Status> {
    let (kind, options) = (request.served.kind, &request.options);
    let old = find(request, view)?;
    if !options.precondition_uid.is_empty() && options.precondition_uid != old.header.uid {
        let why = format!(
            "the UID in the precondition ({}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            options.precondition_uid, old.header.uid
        );
        return Err(Status::conflict(kind, &request.name, &why).at("preconditions.uid"));
    }
    if let Some(revision) = options.precondition_revision.filter(|revision| *revision != old.header.revision.0) {
        let why = format!(
            "the ResourceVersion in the precondition ({revision}) does not match the ResourceVersion in record ({}). \
             The object might have been modified",
            old.header.revision
        );
        return Err(Status::conflict(kind, &request.name, &why).at("preconditions.resourceVersion"));
    }
    if kind.id == registry::NAMESPACE && admission::SYSTEM_NAMESPACES.contains(&request.name.as_str()) {
        return Err(Status::forbidden(kind, &request.name, "this namespace may not be deleted"));
    }
    let mut object = old.value();
    let done = mark_deleted(kind, &mut object, options.grace_period_seconds, &options.propagation, context);
    let assumed = old.header.revision;
    let key = old.key.clone();
    let revision_given = options.precondition_revision.is_some();
    let encoded = record::encode(&object);
    let (op, instead) = match done {
        true if kind.id == registry::POD => (Op::Delete { key: key.clone(), assumed }, None),
        true => (Op::Delete { key: key.clone(), assumed }, Some(deleted_status(request, old))),
        false if Some(&object) == Some(&old.value()) => {
            let json = crate::read::in_served_form(&request.served, old);
            return Ok(Step::Answer(Reply::Object { json, created: false, warnings: Vec::new() }));
        }
        false => (Op::Update { key: key.clone(), assumed, object: encoded.clone() }, None),
    };
    let pending =
        Pending { key, written: Some(encoded), instead, created: false, warnings: Vec::new(), revision_given };
    propose(request, Txn { ops: vec![op], ..Txn::default() }, pending)
}

pub(crate) fn deleted_status(request: &Request, old: &Record) -> Value {
    let kind = request.served.kind;
    let mut status = success();
    status["details"] = json!({"name": request.name, "kind": kind.plural, "uid": old.header.uid.as_str()});
    if !kind.group.is_empty() {
        status["details"]["group"] = kind.group.into();
    }
    status
}

/// Marks an object as being deleted; true when it can go at once.
fn mark_deleted(kind: &Kind, object: &mut Value, grace: Option<i64>, propagation: &str, context: &Context) -> bool {
    let mut finalizers = object.items("metadata.finalizers").to_vec();
    finalizers.retain(|f| f != "orphan" && f != "foregroundDeletion" || propagation.is_empty());
    match propagation {
        "Orphan" => finalizers.push("orphan".into()),
        "Foreground" => finalizers.push("foregroundDeletion".into()),
        _ => {}
    }
    match finalizers.is_empty() {
        true => drop(object.remove_at("metadata.finalizers")),
        false => object.set("metadata.finalizers", finalizers),
    }
    let terminal = ["Succeeded", "Failed"].contains(&object.text("status.phase"));
    let grace = match kind.id {
        registry::POD if object.text("spec.nodeName").is_empty() || terminal => 0,
        registry::POD => {
            let own = object.at("spec.terminationGracePeriodSeconds").as_i64().unwrap_or(30);
            grace.unwrap_or(own).max(0)
        }
        _ => 0,
    };
    let deadline = context.now.plus_secs(grace);
    let earlier = objects::Timestamp::parse(object.text("metadata.deletionTimestamp"));
    if earlier.is_none_or(|earlier| deadline < earlier) {
        object.set("metadata.deletionTimestamp", deadline.rfc3339());
        object.set("metadata.deletionGracePeriodSeconds", grace);
    }
    if kind.id == registry::NAMESPACE {
        object.set("status.phase", "Terminating");
    }
    // Grace 0 is the worker's word that the pod has stopped, or a person's that it must go.
    let at_once = kind.id != registry::POD || grace == 0;
    if at_once && kind.id == registry::POD {
        object.set("metadata.deletionGracePeriodSeconds", 0);
    }
    at_once && is_released(kind, object)
}

/// An object being deleted goes when nothing holds it any more.
pub(super) fn is_released(kind: &Kind, object: &Value) -> bool {
    let deleting = !object.at("metadata.deletionTimestamp").is_null();
    let waits_for_worker = object.at("metadata.deletionGracePeriodSeconds").as_i64().unwrap_or(0) > 0;
    let held_by_namespace = kind.id == registry::NAMESPACE && !object.items("spec.finalizers").is_empty();
    deleting && !waits_for_worker && !held_by_namespace && object.items("metadata.finalizers").is_empty()
}

/// The operations of a controller's deletion of one object, as the pipeline would make them.
pub fn deletion(old: &Record, grace: Option<i64>, propagation: &str, context: &Context) -> Option<Op> {
    let kind = registry::must(old.key.kind);
    let mut object = old.value();
    let key = old.key.clone();
    let assumed = old.header.revision;
    match mark_deleted(kind, &mut object, grace, propagation, context) {
        true => Some(Op::Delete { key, assumed }),
        false if object == old.value() => None,
        false => Some(Op::Update { key, assumed, object: record::encode(&object) }),
    }
}
