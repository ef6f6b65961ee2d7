//! Updates and patches: what the new object is, what it must keep to, and what nobody may write by them.

use super::delete::is_released;
use super::{accept_object, check_names, propose};
use crate::accept::{self, accept, encoded};
use crate::read::{find, scale_of};
use crate::step::{Pending, Reply, Step};
use crate::{Context, Patch, Request, Verb, admission};
use objects::{FieldError, FieldErrors, Record, Status, Value, ValueExt, json, patch, record, registry, validate};
use state::{Op, Txn, View};

/// The object an update or patch asks for, made from the present one.
fn desired(request: &Request, old: &Record) -> Result<(Value, Vec<String>), Status> {
    let mut base = old.value();
    if let Some((to, _)) = request.served.convert {
        to(&mut base);
    }
    let is_scale = request.subresource == "scale";
    let start = if is_scale { scale_of(&base) } else { base.clone() };
    let asked = match (request.verb, request.patch) {
        (Verb::Patch, Some(kind)) => {
            let mut object = start;
            let body = &request.body.value;
            let applied = match kind {
                Patch::Json => patch::json_patch(&mut object, body),
                Patch::Merge => patch::merge_patch(&mut object, body),
                Patch::Strategic => patch::strategic_merge(&mut object, body),
            };
            applied.map_err(|error| match error {
                patch::Error::Refused(why) => Status::new(422, "Invalid", why),
                other => Status::bad_request(other.to_string()),
            })?;
            object
        }
        _ => request.body.value.clone(),
    };
    if is_scale {
        let (asked, warnings) = accept(request, &accept::SCALE, asked)?;
        let mut object = old.value();
        object.set("spec.replicas", asked.at("spec.replicas").as_i64().unwrap_or(0));
        object.remove_at("metadata.resourceVersion");
        for field in ["name", "namespace", "uid", "resourceVersion"] {
            if let Some(value) = asked.at("metadata").get(field) {
                object.set(&format!("metadata.{field}"), value.clone());
            }
        }
        return Ok((object, warnings));
    }
    accept_object(request, asked)
}

/// The revision an update assumes, when it names one.
fn assumed_revision(request: &Request, object: &Value, old: &Record) -> Result<bool, Status> {
    let kind = request.served.kind;
    let given = object.text("metadata.resourceVersion");
    let named = request.verb == Verb::Update || request_names_revision(request);
    let wrong = |why: &str| {
        let mut errors = FieldErrors::default();
        errors.invalid("metadata.resourceVersion", &json!(given), why);
        Err(Status::invalid(kind, &request.name, errors))
    };
    if given.is_empty() && kind.needs_revision && request.verb == Verb::Update {
        return wrong("must be specified for an update");
    }
    if given.is_empty() || !named {
        return Ok(false);
    }
    match given.parse::<u64>() {
        Err(_) => wrong("must be an unsigned integer, as the server gave it"),
        Ok(given) if given != old.header.revision.0 => Err(Status::modified(kind, &request.name)),
        Ok(_) => Ok(true),
    }
}

/// A patch that carries a resourceVersion asks for optimistic concurrency.
fn request_names_revision(request: &Request) -> bool {
    let body = &request.body.value;
    match request.patch {
        // In a JSON patch an operation writes or tests it, or an object that it lies in.
        Some(Patch::Json) => body.as_array().into_iter().flatten().any(|operation| {
            let value = operation.at("value");
            match operation.text("path") {
                "/metadata/resourceVersion" => operation.text("op") != "remove",
                "/metadata" => !value.text("resourceVersion").is_empty(),
                "" => !value.text("metadata.resourceVersion").is_empty(),
                _ => false,
            }
        }),
        _ => !body.text("metadata.resourceVersion").is_empty(),
    }
}

/// The faults of an object that its stored form does not have, in the same words about the same value. An object
/// outlives the rules of the version that took it: who changes something else, its finalizers say, is not asked
/// to mend it. (Kubernetes calls it validation ratcheting.)
fn new_faults(validate: fn(&Value, &mut FieldErrors), object: &Value, old: &Value) -> FieldErrors {
    let mut faults = FieldErrors::default();
    validate(object, &mut faults);
    if !faults.is_empty() {
        let mut stored = FieldErrors::default();
        validate(old, &mut stored);
        let is_kept =
            |fault: &FieldError| stored.0.contains(fault) && found(object, &fault.path) == found(old, &fault.path);
        faults.0.retain(|fault| !is_kept(fault));
    }
    faults
}

/// What stands at a path as faults name it: `spec.containers[0].image`.
fn found<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, step| {
        let mut parts = step.split(['[', ']']).filter(|part| !part.is_empty());
        let value = value.get(parts.next()?)?;
        parts.try_fold(value, |list, index| list.get(index.parse::<usize>().ok()?))
    })
}

/// What the new object must keep to, given the old one.
fn validate_change(request: &Request, object: &Value, old: &Value) -> Result<(), Status> {
    let (served, kind) = (&request.served, request.served.kind);
    let mut errors = FieldErrors::default();
    validate::metadata(object, kind.name_rule, &mut errors);
    validate::metadata_update(object, old, &mut errors);
    if request.subresource == "status" {
        (kind.validate_status)(object, old, &mut errors);
    } else {
        errors.extend(new_faults(kind.validate, object, old));
        (kind.validate_update)(object, old, &mut errors);
        if let Some(validate) = served.validate {
            validate(object, Some(old), &mut errors);
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(kind, &request.name, served.in_its_words(errors))),
    }
}

pub(crate) fn update(request: &Request, view: &View, _: &mut Context) -> Result<Step, Status> {
    let kind = request.served.kind;
    let old = find(request, view)?;
    let (mut object, warnings) = desired(request, old)?;
    check_names(request, &mut object)?;
    let old_object = old.value();
    if request.subresource == "finalize" {
        let finalizers = object.at("spec.finalizers").clone();
        object = old_object.clone();
        object.set("spec.finalizers", finalizers);
    }
    let revision_given = assumed_revision(request, &object, old)?;
    let uid = object.text("metadata.uid");
    if !uid.is_empty() && uid != old.header.uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.header.uid);
        return Err(Status::conflict(kind, &request.name, &why).at("metadata.uid"));
    }
    keep_what_clients_may_not_write(request, &mut object, &old_object);
    if request.subresource != "status" {
        (kind.default)(&mut object);
    }
    validate_change(request, &object, &old_object)?;
    admission::check(kind, &object, view)?;
    admission::no_escalation(&request.identity, &object, Some(&old_object), kind, view)?;
    if kind.generation_of.iter().any(|field| object.at(field) != old_object.at(field)) {
        object.set("metadata.generation", old.header.generation + 1);
    }
    object.remove_at("metadata.resourceVersion");
    let mut unchanged = old_object;
    unchanged.remove_at("metadata.resourceVersion");
    let is_scale = request.subresource == "scale";
    if object == unchanged {
        object.set("metadata.resourceVersion", old.header.revision.to_string());
        let reply = match is_scale {
            true => Reply::Value { value: scale_of(&object), created: false, warnings },
            false => {
                Reply::Object { json: crate::read::in_served_form(&request.served, old), created: false, warnings }
            }
        };
        return Ok(Step::Answer(reply));
    }
    let encoded = encoded(&object)?;
    let assumed = old.header.revision;
    let op = match is_released(kind, &object) {
        true => Op::Delete { key: old.key.clone(), assumed },
        false => Op::Update { key: old.key.clone(), assumed, object: encoded.clone() },
    };
    let pending = Pending {
        key: old.key.clone(),
        written: Some(encoded),
        instead: is_scale.then(|| scale_of(&object)),
        created: false,
        warnings,
        revision_given,
    };
    propose(request, Txn { ops: vec![op], ..Txn::default() }, pending)
}

/// Restores system fields, and the half of the object (status or the rest) that this subresource
/// does not write.
fn keep_what_clients_may_not_write(request: &Request, object: &mut Value, old: &Value) {
    let kind = request.served.kind;
    let restore = |object: &mut Value, path: &str| match old.at(path) {
        Value::Null => drop(object.remove_at(path)),
        kept => object.set(path, kept.clone()),
    };
    if request.subresource == "status" {
        let status = object.remove_at("status").unwrap_or(json!({}));
        let resource_version = object.at("metadata.resourceVersion").clone();
        *object = old.clone();
        object.set("status", status);
        object.set("metadata.resourceVersion", resource_version);
        return;
    }
    restore(object, "metadata.generation");
    restore(object, "metadata.generateName");
    // Left out, these stay as they are; changed, they are refused below.
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if object.at("metadata").get(field).is_none() {
            restore(object, &format!("metadata.{field}"));
        }
    }
    object.remove_at("metadata.managedFields");
    object.remove_at("metadata.selfLink");
    if kind.has_status {
        restore(object, "status");
    }
    if kind.id == registry::NAMESPACE && request.subresource != "finalize" {
        restore(object, "spec");
    }
    if kind.id == registry::POD {
        // Set by the binding and by admission; a client that sends less does not unset them.
        for field in ["nodeName", "priority", "preemptionPolicy", "serviceAccountName", "serviceAccount", "tolerations"]
        {
            if object.at("spec").get(field).is_none() {
                restore(object, &format!("spec.{field}"));
            }
        }
    }
}

/// The operation of a controller's update; generation follows the spec as it does for everyone.
/// `None` when nothing changes; a deletion when the last finalizer goes.
pub fn change(old: &Record, mut object: Value) -> Option<Op> {
    let kind = registry::must(old.key.kind);
    let mut before = old.value();
    if kind.generation_of.iter().any(|field| object.at(field) != before.at(field)) {
        object.set("metadata.generation", old.header.generation + 1);
    }
    object.remove_at("metadata.resourceVersion");
    before.remove_at("metadata.resourceVersion");
    let (key, assumed) = (old.key.clone(), old.header.revision);
    match () {
        () if object == before => None,
        () if is_released(kind, &object) => Some(Op::Delete { key, assumed }),
        () => Some(Op::Update { key, assumed, object: record::encode(&object) }),
    }
}
