//! Writes: create, update, patch, delete, bind, evict. Each becomes a `Txn` with the preconditions
//! under which it holds.
//!
//! Rules: kubernetes.io/docs/reference/using-api/api-concepts and the API conventions.

mod bind;
mod delete;
mod update;

pub(crate) use bind::bind;
pub use bind::{bind_object, set_condition};
pub use delete::deletion;
pub(crate) use delete::{delete, deleted_status, evict};
pub use update::change;
pub(crate) use update::update;

use crate::accept::{Expected, accept, encoded};
use crate::step::{Pending, Reply, Step};
use crate::{Context, Request, admission};
use bytes::Bytes;
use objects::{FieldErrors, Key, Kind, Revision, Served, Status, Value, ValueExt, json, registry, validate};
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
    let (mut object, mut warnings) = accept(request, &Expected::of(&request.served), object)?;
    if let Some((_, from)) = request.served.convert {
        from(&mut object);
    }
    if request.subresource.is_empty() {
        warnings.extend((request.served.kind.warn)(&object));
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
    draw_name(&mut object, context);
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

/// Draws a name that begins as the object asks, where it has none.
fn draw_name(object: &mut Value, context: &mut Context) {
    let prefix = object.text("metadata.generateName");
    if object.text("metadata.name").is_empty() && !prefix.is_empty() {
        // 58 characters and 5 drawn ones make a DNS label of 63.
        let base: String = prefix.chars().take(58).collect();
        object.set("metadata.name", format!("{base}{}", context.rng.suffix(5)));
    }
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

pub fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

/// The same of a write whose object is no longer known, with the revision that it was given.
pub(crate) fn success_at(revision: Revision) -> Value {
    let mut status = success();
    status.set("metadata.resourceVersion", revision.to_string());
    status
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
    draw_name(&mut object, context);
    let encoded = admit_new(&Served::stored(kind), &mut object, view, context)?;
    let namespace = object.text("metadata.namespace");
    let key = Key::new(kind.id, namespace, object.text("metadata.name"));
    let checks = kind.namespaced.then(|| Check::NamespaceActive(namespace.into())).into_iter().collect();
    Ok((Op::Create { key, object: encoded }, checks))
}
