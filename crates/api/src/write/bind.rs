//! Bindings: a pod is given its node, once.

use super::{propose, same_name, success};
use crate::accept::{self, accept};
use crate::read::find;
use crate::step::{Pending, Step};
use crate::{Context, Request};
use objects::{FieldErrors, Status, Value, ValueExt, json, record};
use state::{Op, Txn, View};

pub(crate) fn bind(request: &Request, view: &View, _: &mut Context) -> Result<Step, Status> {
    let kind = request.served.kind;
    let old = find(request, view)?;
    let (binding, warnings) = accept(request, &accept::BINDING, request.body.value.clone())?;
    same_name(request, &binding)?;
    let (target, mut pod) = (binding.at("target"), old.value());
    let mut errors = FieldErrors::default();
    if !["Node", ""].contains(&target.text("kind")) {
        errors.unsupported("target.kind", target.at("kind"), &["Node", "<empty>"]);
    }
    if target.text("name").is_empty() {
        errors.required("target.name", "");
    }
    if !errors.is_empty() {
        return Err(Status::invalid(kind, &request.name, errors));
    }
    let node = pod.text("spec.nodeName");
    if !node.is_empty() {
        let why = format!("pod {} is already assigned to node {node:?}", request.name);
        return Err(Status::conflict(kind, &format!("{}/binding", request.name), &why));
    }
    if old.header.deletion.is_some() {
        let why = format!("pod {} is being deleted, cannot be assigned to a host", request.name);
        return Err(Status::conflict(kind, &format!("{}/binding", request.name), &why));
    }
    let uid = binding.text("metadata.uid");
    if !uid.is_empty() && uid != old.header.uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.header.uid);
        return Err(Status::conflict(kind, &format!("{}/binding", request.name), &why).at("metadata.uid"));
    }
    bind_object(&mut pod, target.text("name"), view.stamp());
    let op = Op::Update { key: old.key.clone(), assumed: old.header.revision, object: record::encode(&pod) };
    let pending = Pending {
        key: old.key.clone(),
        written: None,
        instead: Some(success()),
        created: true,
        warnings,
        revision_given: false,
    };
    propose(request, Txn { ops: vec![op], ..Txn::default() }, pending)
}

/// Binds a pod: the node's name and the PodScheduled condition.
pub fn bind_object(pod: &mut Value, node: &str, now: objects::Timestamp) {
    pod.set("spec.nodeName", node);
    pod.remove_at("status.nominatedNodeName");
    set_condition(pod, json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now.rfc3339()}));
}

/// Replaces the condition of the same type in `status.conditions`, or adds it.
pub fn set_condition(object: &mut Value, condition: Value) {
    let mut conditions = object.items("status.conditions").to_vec();
    match conditions.iter_mut().find(|c| c.text("type") == condition.text("type")) {
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
    object.set("status.conditions", conditions);
}
