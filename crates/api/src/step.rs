//! The pipeline: one request, one view, one step.

use crate::list::{self, ListReply};
use crate::watch::Watch;
use crate::{Context, Request, Verb, read, write};
use authz::{Attributes, Verdict};
use bytes::Bytes;
use objects::{Key, Record, Status, Value};
use state::{Outcome, Refusal, Txn, View};

/// What to do next.
#[derive(Debug)]
pub enum Step {
    Answer(Reply),
    /// Propose, then hand the outcome to `concluded`.
    Propose(Txn, Pending),
    Watch(Watch),
    Worker(WorkerCall),
    Fail(Status),
}

/// A finished answer.
#[derive(Debug, Clone)]
pub enum Reply {
    /// One object as stored; `created` makes it a 201.
    Object {
        json: Bytes,
        created: bool,
        warnings: Vec<String>,
    },
    List(ListReply),
    /// A value that is not a stored object: a Scale, a Status of success.
    Value {
        value: Value,
        created: bool,
        warnings: Vec<String>,
    },
}

/// What is to be answered once a proposal is applied.
#[derive(Debug, Clone)]
pub struct Pending {
    pub(crate) key: Key,
    /// The encoded object written, to be sealed with its revision; `None` for a plain delete.
    pub(crate) written: Option<Bytes>,
    /// Answer this instead of the object.
    pub(crate) instead: Option<Value>,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
    /// The caller named the revision it assumed: a conflict is the caller's to solve.
    pub(crate) revision_given: bool,
}

/// A call that only the worker of a pod can answer.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerCall {
    pub node: String,
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
    /// `log` or `exec`.
    pub what: String,
    pub params: Vec<(String, String)>,
}

/// Decides what a request leads to, as seen from `view`.
pub fn step(request: &Request, view: &View, context: &mut Context) -> Step {
    decide(request, view, context).unwrap_or_else(Step::Fail)
}

fn decide(request: &Request, view: &View, context: &mut Context) -> Result<Step, Status> {
    let kind = request.served.kind;
    authorize(request, view)?;
    crate::accept::options(request)?;
    if !request.subresource.is_empty() && !crate::discovery::has_subresource(kind, &request.subresource) {
        let message = crate::discovery::absent_subresource(kind, &request.subresource);
        return Err(Status::new(404, "NotFound", message));
    }
    // What is made or deleted by the dozen is so in one namespace.
    let in_bulk = matches!(request.verb, Verb::Create | Verb::DeleteCollection) && request.name.is_empty();
    if in_bulk && kind.namespaced && request.namespace.is_empty() {
        return Err(Status::method_not_allowed());
    }
    if kind.create_only {
        return crate::review::answer(request, view);
    }
    let reads = matches!(request.verb, Verb::Get | Verb::List | Verb::Watch);
    if let Some(why) = kind.read_only.filter(|_| !reads) {
        return Err(Status { message: why.into(), ..Status::method_not_allowed() });
    }
    if !reads && let Some(reply) = crate::replay(request, view) {
        return Ok(Step::Answer(reply));
    }
    match (request.verb, request.subresource.as_str()) {
        (Verb::Get, "log") | (Verb::Get | Verb::Create, "exec") => read::worker_call(request, view),
        (Verb::Get, "scale") => Ok(Step::Answer(read::scale(request, view)?)),
        (Verb::Get, "" | "status") => Ok(Step::Answer(read::get(request, view)?)),
        (Verb::List, "") => Ok(Step::Answer(Reply::List(list::list(request, view, context)?))),
        (Verb::Watch, "") => Ok(Step::Watch(Watch::new(request, view)?)),
        (Verb::Create, "") => write::create(request, view, context),
        (Verb::Create, "binding") => write::bind(request, view, context),
        (Verb::Create, "eviction") => write::evict(request, view, context),
        (Verb::Update | Verb::Patch, "" | "status" | "scale" | "finalize") => write::update(request, view, context),
        (Verb::Delete, "") => write::delete(request, view, context),
        // The shell deletes each of these.
        (Verb::DeleteCollection, "") if kind.id != objects::registry::NAMESPACE => {
            Ok(Step::Answer(Reply::List(list::list(request, view, context)?)))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

fn authorize(request: &Request, view: &View) -> Result<(), Status> {
    let kind = request.served.kind;
    let resource = match request.subresource.as_str() {
        "" => kind.plural.to_string(),
        subresource => format!("{}/{subresource}", kind.plural),
    };
    // A stream into a container is opened by a GET too, but running a command is no reading.
    let verbs: &[&str] = match (request.subresource.as_str(), request.verb) {
        ("exec", Verb::Get) => &["get", "create"],
        _ => &[request.verb.name()],
    };
    for verb in verbs {
        let attributes = Attributes {
            verb,
            group: request.served.group,
            resource: resource.clone(),
            namespace: &request.namespace,
            name: &request.name,
            path: "",
        };
        if let Verdict::No(why) = authz::authorize(view, &request.identity, &attributes) {
            return Err(Status::forbidden(kind, &request.name, &why));
        }
    }
    Ok(())
}

/// What the outcome of a proposal means for its request. `Err(None)` asks for another step on a
/// fresh view: somebody else was faster, and the caller assumed nothing.
pub fn concluded(request: &Request, pending: Pending, outcome: Outcome) -> Result<Reply, Option<Status>> {
    let kind = request.served.kind;
    let name = pending.key.name.as_str();
    match outcome {
        Outcome::Applied(revisions) => {
            if let Some(value) = pending.instead {
                return Ok(Reply::Value { value, created: pending.created, warnings: pending.warnings });
            }
            let written = pending.written.unwrap_or_default();
            let revision = revisions.first().copied().unwrap_or_default();
            let sealed = Record::seal(pending.key, revision, &written);
            let record = sealed.map_err(|error| Status::internal(error.to_string()))?;
            let json = read::in_served_form(&request.served, &record);
            Ok(Reply::Object { json, created: pending.created, warnings: pending.warnings })
        }
        Outcome::Refused(refusal) => Err(match refusal {
            // A generated name was taken: draw another.
            Refusal::AlreadyExists(_) if request.name.is_empty() && write::generates_name(request) => None,
            Refusal::AlreadyExists(_) => Some(Status::already_exists(kind, name)),
            Refusal::Conflict(_) if pending.revision_given => Some(Status::modified(kind, name)),
            Refusal::Conflict(_) | Refusal::NotFound(_) => None,
            Refusal::NamespaceMissing(namespace) => {
                Some(Status::not_found(objects::registry::must(objects::registry::NAMESPACE), &namespace))
            }
            Refusal::NamespaceTerminating(namespace) => Some(write::terminating(kind, name, &namespace)),
            Refusal::Fenced => Some(Status::unavailable("the leader changed; try again")),
            Refusal::Forgotten => Some(Status::timeout("too old to know whether the write was applied")),
            Refusal::Malformed(why) => Some(Status::internal(why)),
        }),
    }
}

impl From<Status> for Step {
    fn from(status: Status) -> Step {
        Step::Fail(status)
    }
}
