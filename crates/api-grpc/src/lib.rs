//! The gRPC face for clients: the same pipeline as REST, with typed keys and JSON bodies.

mod envelope;
pub mod health;
mod observe;
mod status;
mod streams;

#[cfg(test)]
mod tests;

use api::{Body, Patch, Reply, Request, Verb};
use authz::Identity;
use front::listen::Caller;
use front::{Answer, Front};
use objects::registry::{find_served, served};
use objects::{Served, Value};
use protos::objects as pb;
use protos::objects::objects_server::{Objects, ObjectsServer};
use sha2::{Digest, Sha256};
use status::to_tonic;
use tonic::{Response, Status};

pub use envelope::envelope;
pub use observe::ObserveService;
pub use status::{invalid, required};

pub struct ObjectsService {
    pub(crate) front: Front,
}

impl ObjectsService {
    pub fn server(front: Front) -> ObjectsServer<ObjectsService> {
        ObjectsServer::new(ObjectsService { front })
            .max_decoding_message_size(api::BODY_BYTES_MAX + 4096)
            .max_encoding_message_size(64 << 20)
    }
}

pub(crate) fn identity<T>(request: &tonic::Request<T>) -> Result<Identity, Status> {
    let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
    caller.ok_or_else(|| to_tonic(&objects::Status::unauthorized()))
}

fn find(key: &pb::Key) -> Result<Served, Status> {
    let found = match key.version.as_str() {
        "" => served().find(|s| s.group == key.group && s.kind.plural == key.resource),
        version => find_served(&key.group, version, &key.resource),
    };
    found.ok_or_else(|| {
        let mut status = objects::Status::new(404, "NotFound", "the server could not find the requested resource");
        status.causes.not_found("key.resource", &Value::from(key.resource.as_str()));
        to_tonic(&status)
    })
}

/// A pipeline request for `key`.
pub(crate) fn request(identity: Identity, verb: Verb, key: Option<pb::Key>) -> Result<Request, Status> {
    let key = key.ok_or_else(|| required("key"))?;
    let mut request = Request::new(identity, verb, find(&key)?);
    let kind = request.served.kind;
    (request.namespace, request.name) = (key.namespace, key.name);
    let single = !matches!(verb, Verb::List | Verb::Watch | Verb::Create);
    if single && request.name.is_empty() {
        return Err(required("key.name"));
    }
    if kind.namespaced && request.namespace.is_empty() && !matches!(verb, Verb::List | Verb::Watch) {
        return Err(required("key.namespace"));
    }
    if !kind.namespaced && !request.namespace.is_empty() {
        let mut status = objects::Status::bad_request("key.namespace: Forbidden: not allowed on this type");
        status.causes.forbidden("key.namespace", "not allowed on this type");
        return Err(to_tonic(&status));
    }
    Ok(request)
}

/// A client's request id, bound to the client and to what it is about: nobody can claim another's
/// outcome, and an id that is used again by mistake does not swallow another write.
fn request_id(request: &Request, id: &str) -> Option<u128> {
    if id.is_empty() {
        return None;
    }
    let kind = request.served.kind;
    let parts = [
        request.identity.user.as_str(),
        request.verb.name(),
        kind.group,
        kind.plural,
        &request.subresource,
        &request.namespace,
        request.object_name(),
        id,
    ];
    let digest = Sha256::digest(parts.join("\n").as_bytes());
    Some(u128::from_be_bytes(digest[..16].try_into().expect("16 bytes")))
}

pub(crate) fn object(json: bytes::Bytes) -> pb::Object {
    let revision = objects::record::revision_of(&json).0;
    pb::Object { json, revision, ..Default::default() }
}

impl ObjectsService {
    pub(crate) async fn call(&self, request: &Request) -> Result<Reply, Status> {
        match self.front.call(request).await.map_err(|status| to_tonic(&status))? {
            Answer::Reply(reply) => Ok(reply),
            Answer::Watch(..) | Answer::Worker(_) => Err(Status::internal("not a request with an answer")),
        }
    }

    async fn one(&self, request: &Request) -> Result<Response<pb::Object>, Status> {
        match self.call(request).await? {
            Reply::Object { json, warnings, .. } => Ok(Response::new(pb::Object { warnings, ..object(json) })),
            Reply::Value { value, warnings, .. } => {
                Ok(Response::new(pb::Object { warnings, ..object(value.to_string().into()) }))
            }
            Reply::List(_) => Err(Status::internal("a list came instead of an object")),
        }
    }

    async fn write(&self, verb: Verb, raw: tonic::Request<pb::WriteRequest>) -> Result<Response<pb::Object>, Status> {
        let identity = identity(&raw)?;
        let mut raw = raw.into_inner();
        // The name of a new object stands in the object; one in the key must be the same.
        let is_new = verb == Verb::Create && raw.subresource.is_empty();
        let key_name = raw.key.as_mut().filter(|_| is_new).map(|key| std::mem::take(&mut key.name));
        let mut request = request(identity, verb, raw.key)?;
        request.subresource = raw.subresource;
        request.body = Body::parse(&raw.json).map_err(|status| to_tonic(&status))?;
        if let Some(name) = key_name.filter(|name| !name.is_empty() && name != request.object_name()) {
            let in_body = request.object_name();
            let why = format!("the name of the object ({in_body}) does not match the name in the key ({name})");
            return Err(to_tonic(&objects::Status::bad_request(why).at("key.name")));
        }
        request.options.field_validation = strictness(&raw.field_validation);
        request.options.dry_run = raw.dry_run;
        request.client_request = request_id(&request, &raw.request_id);
        self.one(&request).await
    }
}

fn strictness(asked: &str) -> String {
    if asked.is_empty() { "Strict".into() } else { asked.into() }
}

#[tonic::async_trait]
impl Objects for ObjectsService {
    async fn get(&self, raw: tonic::Request<pb::GetRequest>) -> Result<Response<pb::Object>, Status> {
        let identity = identity(&raw)?;
        let raw = raw.into_inner();
        let mut request = request(identity, Verb::Get, raw.key)?;
        request.subresource = raw.subresource;
        request.options.resource_version = raw.stale.then_some(0);
        self.one(&request).await
    }

    async fn list(&self, raw: tonic::Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        let identity = identity(&raw)?;
        let raw = raw.into_inner();
        let mut request = request(identity, Verb::List, raw.key)?;
        request.options.label_selector = raw.label_selector;
        request.options.field_selector = raw.field_selector;
        request.options.limit = raw.limit as usize;
        request.options.continue_token = raw.r#continue;
        request.options.resource_version = raw.stale.then_some(0);
        match self.call(&request).await? {
            Reply::List(list) => Ok(Response::new(pb::ListResponse {
                items: list.items.into_iter().map(object).collect(),
                revision: list.revision.0,
                r#continue: list.continue_token,
            })),
            Reply::Object { .. } | Reply::Value { .. } => Err(Status::internal("an object came instead of a list")),
        }
    }

    type WatchStream = streams::Outgoing<pb::WatchEvent>;

    async fn watch(&self, raw: tonic::Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let identity = identity(&raw)?;
        let raw = raw.into_inner();
        let mut request = request(identity, Verb::Watch, raw.key)?;
        request.options.label_selector = raw.label_selector;
        request.options.field_selector = raw.field_selector;
        request.options.resource_version = (raw.after_revision > 0).then_some(raw.after_revision);
        request.options.allow_bookmarks = true;
        match self.front.call(&request).await.map_err(|status| to_tonic(&status))? {
            Answer::Watch(watch, _) => Ok(Response::new(streams::watch(self.front.clone(), watch))),
            Answer::Reply(_) | Answer::Worker(_) => Err(Status::internal("not a watch")),
        }
    }

    async fn create(&self, raw: tonic::Request<pb::WriteRequest>) -> Result<Response<pb::Object>, Status> {
        self.write(Verb::Create, raw).await
    }

    async fn update(&self, raw: tonic::Request<pb::WriteRequest>) -> Result<Response<pb::Object>, Status> {
        self.write(Verb::Update, raw).await
    }

    async fn patch(&self, raw: tonic::Request<pb::PatchRequest>) -> Result<Response<pb::Object>, Status> {
        let identity = identity(&raw)?;
        let raw = raw.into_inner();
        let patch = match raw.r#type() {
            pb::patch_request::Type::Merge => Patch::Merge,
            pb::patch_request::Type::StrategicMerge => Patch::Strategic,
            pb::patch_request::Type::JsonPatch => Patch::Json,
        };
        let mut request = request(identity, Verb::Patch, raw.key)?;
        request.subresource = raw.subresource;
        request.patch = Some(patch);
        request.body = Body::parse(&raw.patch).map_err(|status| to_tonic(&status))?;
        request.options.field_validation = strictness(&raw.field_validation);
        request.options.dry_run = raw.dry_run;
        request.client_request = request_id(&request, &raw.request_id);
        self.one(&request).await
    }

    async fn delete(&self, raw: tonic::Request<pb::DeleteRequest>) -> Result<Response<pb::Object>, Status> {
        let identity = identity(&raw)?;
        let raw = raw.into_inner();
        let mut request = request(identity, Verb::Delete, raw.key)?;
        request.options.grace_period_seconds = raw.grace_period_seconds;
        request.options.propagation = raw.propagation;
        request.options.precondition_uid = raw.precondition_uid;
        request.options.precondition_revision = (raw.precondition_revision > 0).then_some(raw.precondition_revision);
        request.options.dry_run = raw.dry_run;
        request.client_request = request_id(&request, &raw.request_id);
        self.one(&request).await
    }

    type LogsStream = streams::Outgoing<pb::LogChunk>;

    async fn logs(&self, raw: tonic::Request<pb::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let identity = identity(&raw)?;
        streams::logs(&self.front, identity, raw.into_inner()).await
    }

    type ExecStream = streams::Outgoing<protos::dispatch::Frame>;

    async fn exec(
        &self,
        raw: tonic::Request<tonic::Streaming<pb::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let identity = identity(&raw)?;
        streams::exec(&self.front, identity, raw.into_inner()).await
    }
}
