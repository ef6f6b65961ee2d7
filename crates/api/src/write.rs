//! Writes: create, update, patch, delete, bind, evict. Each becomes a `Txn` with the preconditions
//! under which it holds.
//!
//! Rules: kubernetes.io/docs/reference/using-api/api-concepts and the API conventions.

use crate::accept::{self, Expected, accept, encoded};
use crate::read::{find, scale_of};
use crate::step::{Pending, Reply, Step};
use crate::{Context, Patch, Request, Verb, admission};
use bytes::Bytes;
use objects::{
    FieldErrors, Key, Kind, Record, Served, Status, Value, ValueExt, json, patch, record, registry, validate,
};
use state::{Check, Op, Txn, View};

/// The name of the reason behind a namespace that refuses new content.
pub(crate) fn terminating(kind: &Kind, name: &str, namespace: &str) -> Status {
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    Status::forbidden(kind, name, &why)
}

pub(crate) fn generates_name(request: &Request) -> bool {
    request.body.value.text("metadata.name").is_empty()
}

/// Takes the body as an object of the request's kind; returns the stored form and the warnings.
fn accept_object(request: &Request, object: Value) -> Result<(Value, Vec<String>), Status> {
    let (mut object, warnings) = accept(request, &Expected::of(&request.served), object)?;
    if let Some((_, from)) = request.served.convert {
        from(&mut object);
    }
    Ok((object, warnings))
}

fn check_names(request: &Request, object: &mut Value) -> Result<(), Status> {
    let (in_body, in_path) = (object.text("metadata.name"), request.name.as_str());
    if !in_path.is_empty() && !in_body.is_empty() && in_body != in_path {
        let why = format!("the name of the object ({in_body}) does not match the name on the URL ({in_path})");
        return Err(Status::bad_request(why).at("metadata.name"));
    }
    if !in_path.is_empty() {
        object.set("metadata.name", in_path);
    }
    let (in_body, in_path) = (object.text("metadata.namespace").to_string(), request.namespace.as_str());
    if request.served.kind.namespaced {
        if !in_body.is_empty() && in_body != in_path {
            let why = format!(
                "the namespace of the provided object ({in_body}) does not match the namespace sent on the request \
                 ({in_path})"
            );
            return Err(Status::bad_request(why).at("metadata.namespace"));
        }
        object.set("metadata.namespace", in_path);
    } else if !in_body.is_empty() {
        let mut errors = FieldErrors::default();
        errors.forbidden("metadata.namespace", "not allowed on this type");
        return Err(Status::invalid(request.served.kind, object.text("metadata.name"), errors));
    }
    Ok(())
}

pub(crate) fn create(request: &Request, view: &View, context: &mut Context) -> Result<Step, Status> {
    let kind = request.served.kind;
    let (mut object, warnings) = accept_object(request, request.body.value.clone())?;
    check_names(request, &mut object)?;
    if !object.text("metadata.resourceVersion").is_empty() {
        let why = "resourceVersion should not be set on objects to be created";
        return Err(Status::bad_request(why).at("metadata.resourceVersion"));
    }
    let prefix = object.text("metadata.generateName").to_string();
    if object.text("metadata.name").is_empty() && !prefix.is_empty() {
        // 58 characters and 5 drawn ones make a DNS label of 63.
        let base: String = prefix.chars().take(58).collect();
        object.set("metadata.name", format!("{base}{}", context.rng.suffix(5)));
    }
    let encoded = admit_new(&request.served, &mut object, view, context)?;
    admission::no_escalation(&request.identity, &object, None, kind, view)?;
    let key = Key::new(kind.id, &request.namespace, object.text("metadata.name"));
    if view.get(&key).is_some() && !generates_name(request) {
        return Err(Status::already_exists(kind, &key.name));
    }
    let mut checks = Vec::new();
    if kind.namespaced {
        let namespace = view.get(&Key::new(registry::NAMESPACE, "", &request.namespace));
        match namespace {
            None => return Err(Status::not_found(registry::must(registry::NAMESPACE), &request.namespace)),
            Some(record) if record.header.deletion.is_some() => {
                return Err(terminating(kind, &key.name, &request.namespace));
            }
            Some(_) => checks.push(Check::NamespaceActive(request.namespace.as_str().into())),
        }
    }
    let pending = Pending {
        key: key.clone(),
        written: Some(encoded.clone()),
        instead: None,
        created: true,
        warnings,
        revision_given: false,
    };
    let op = Op::Create { key, object: encoded };
    propose(request, Txn { ops: vec![op], checks, ..Txn::default() }, pending)
}

/// Fills, defaults, admits and validates a new object; the path that controllers' objects take too.
fn admit_new(served: &Served, object: &mut Value, view: &View, context: &mut Context) -> Result<Bytes, Status> {
    let kind = served.kind;
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink"] {
        object.remove_at(&format!("metadata.{field}"));
    }
    object.set("metadata.uid", context.rng.uuid());
    object.set("metadata.creationTimestamp", context.now.rfc3339());
    if !kind.generation_of.is_empty() {
        object.set("metadata.generation", 1);
    }
    if kind.has_status && kind.id != registry::NODE {
        object.remove_at("status");
    }
    (kind.default)(object);
    admission::admit(kind, object, view)?;
    let mut errors = FieldErrors::default();
    validate::metadata(object, kind.name_rule, &mut errors);
    (kind.validate)(object, &mut errors);
    if let Some(validate) = served.validate {
        validate(object, None, &mut errors);
    }
    if !errors.is_empty() {
        return Err(Status::invalid(kind, object.text("metadata.name"), served.in_its_words(errors)));
    }
    admission::check(kind, object, view)?;
    encoded(object)
}

/// Wraps a transaction, or answers at once for a dry run.
fn propose(request: &Request, txn: Txn, pending: Pending) -> Result<Step, Status> {
    if request.options.dry_run {
        let value = match (&pending.instead, &pending.written) {
            (Some(value), _) => value.clone(),
            (None, Some(written)) => {
                let mut object: Value = serde_json::from_slice(written).expect("it was just encoded");
                if let Some(Op::Update { assumed, .. }) = txn.ops.first() {
                    object.set("metadata.resourceVersion", assumed.to_string());
                }
                object
            }
            (None, None) => Value::Null,
        };
        return Ok(Step::Answer(Reply::Value { value, created: pending.created, warnings: pending.warnings }));
    }
    Ok(Step::Propose(Txn { client_request: request.client_request, ..txn }, pending))
}

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

/// What the new object must keep to, given the old one.
fn validate_change(request: &Request, object: &Value, old: &Value) -> Result<(), Status> {
    let (served, kind) = (&request.served, request.served.kind);
    let mut errors = FieldErrors::default();
    validate::metadata(object, kind.name_rule, &mut errors);
    validate::metadata_update(object, old, &mut errors);
    if request.subresource == "status" {
        (kind.validate_status)(object, old, &mut errors);
    } else {
        (kind.validate)(object, &mut errors);
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

/// A merge patch that carries a resourceVersion asks for optimistic concurrency.
fn request_names_revision(request: &Request) -> bool {
    match request.patch {
        Some(Patch::Json) => request.body.value.to_string().contains("/metadata/resourceVersion"),
        _ => !request.body.value.text("metadata.resourceVersion").is_empty(),
    }
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

/// An object being deleted goes when nothing holds it any more.
fn is_released(kind: &Kind, object: &Value) -> bool {
    let deleting = !object.at("metadata.deletionTimestamp").is_null();
    let waits_for_worker = object.at("metadata.deletionGracePeriodSeconds").as_i64().unwrap_or(0) > 0;
    let held_by_namespace = kind.id == registry::NAMESPACE && !object.items("spec.finalizers").is_empty();
    deleting && !waits_for_worker && !held_by_namespace && object.items("metadata.finalizers").is_empty()
}

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

pub fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

/// A body about one object may not name another.
fn same_name(request: &Request, body: &Value) -> Result<(), Status> {
    for (field, in_path) in [("name", &request.name), ("namespace", &request.namespace)] {
        let in_body = body.at("metadata").text(field);
        if !in_body.is_empty() && in_body != in_path {
            let why = format!("{field} in URL ({in_path}) does not match {field} in {} ({in_body})", body.text("kind"));
            return Err(Status::bad_request(why).at(format!("metadata.{field}")));
        }
    }
    Ok(())
}

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

/// The operation of a controller's creation of an object, defaulted, admitted and validated like
/// anybody's.
pub fn creation(
    mut object: Value,
    kind: &'static Kind,
    view: &View,
    context: &mut Context,
) -> Result<(Op, Vec<Check>), Status> {
    object.set("apiVersion", kind.api_version());
    object.set("kind", kind.kind);
    let prefix = object.text("metadata.generateName").to_string();
    if object.text("metadata.name").is_empty() && !prefix.is_empty() {
        let base: String = prefix.chars().take(58).collect();
        object.set("metadata.name", format!("{base}{}", context.rng.suffix(5)));
    }
    let encoded = admit_new(&Served::stored(kind), &mut object, view, context)?;
    let namespace = object.text("metadata.namespace");
    let key = Key::new(kind.id, namespace, object.text("metadata.name"));
    let checks = kind.namespaced.then(|| Check::NamespaceActive(namespace.into())).into_iter().collect();
    Ok((Op::Create { key, object: encoded }, checks))
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
