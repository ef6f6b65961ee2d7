//! The Kubernetes face: paths, content types, streaming watches, logs and exec.
//!
//! No handler per kind: a path names a registry entry, and everything else is the pipeline's.

mod exec;
mod impersonate;
mod path;
mod protobuf;
mod stream;

use api::table::{self, Include};
use api::{Body as ParsedBody, Options, Patch, Reply, Request, Verb};
use authz::{Attributes, Identity, Verdict};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use front::listen::Caller;
use front::{Answer, Front};
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use objects::{Status, Value, ValueExt, json};
use path::Target;
use std::sync::Arc;
use std::time::Duration;

pub struct Rest {
    front: Front,
    /// host:port told to clients that ask.
    address: String,
    /// Whether this master hears from a leader, for `/readyz`.
    ready: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// The whole face as a router, to be merged with the gRPC services.
pub fn router(front: Front, address: String, ready: Arc<dyn Fn() -> bool + Send + Sync>) -> Router {
    Router::new().fallback(handle).with_state(Arc::new(Rest { front, address, ready }))
}

type RawRequest = http::Request<Body>;

async fn handle(State(rest): State<Arc<Rest>>, request: RawRequest) -> Response {
    match rest.answer(request).await {
        Ok(response) => response,
        Err(status) => failure(&status),
    }
}

fn failure(status: &Status) -> Response {
    let mut response = json_response(status.code, status.to_json().to_string());
    if let Some(seconds) = status.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn json_response(code: u16, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn document(value: Option<Value>) -> Result<Response, Status> {
    match value {
        Some(value) => Ok(json_response(200, value.to_string())),
        None => Err(Status::new(404, "NotFound", "the server could not find the requested resource")),
    }
}

fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// The aggregated form of discovery that a client asks for: its version, and how the answer is marked.
/// Clients name all that they know; the newest is the best. kubectl before 1.30 knows only v2beta1.
fn aggregated_version(accept: &str) -> Option<(&'static str, &'static str)> {
    let asks_for = |version: &str| {
        accept.split(',').any(|media| {
            let parameters: Vec<&str> = media.split(';').map(str::trim).collect();
            parameters.contains(&"g=apidiscovery.k8s.io") && parameters.contains(&format!("v={version}").as_str())
        })
    };
    let known = [
        ("v2", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
        ("v2beta1", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"),
    ];
    known.into_iter().find(|(version, _)| asks_for(version))
}

impl Rest {
    async fn answer(&self, request: RawRequest) -> Result<Response, Status> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
        let path = request.uri().path().to_string();
        match path.as_str() {
            "/healthz" | "/livez" => return Ok(Response::new("ok".into())),
            "/readyz" => {
                return match (self.ready)() {
                    true => Ok(Response::new("ok".into())),
                    false => Err(Status::unavailable("this master knows no leader")),
                };
            }
            _ => {}
        }
        let identity = caller.ok_or_else(Status::unauthorized)?;
        let identity = impersonate::identity(&self.front.store.view(), identity, request.headers())?;
        match path::parse(&path) {
            Target::Resource(target) => self.resource(identity, target, request).await,
            Target::Document(parts) => {
                self.authorize_path(&identity, &path)?;
                if request.method() != Method::GET {
                    return Err(Status::method_not_allowed());
                }
                self.discovery(&parts, request.headers())
            }
            Target::Unknown => Err(Status::new(404, "NotFound", path::not_found(&path))),
        }
    }

    fn authorize_path(&self, identity: &Identity, path: &str) -> Result<(), Status> {
        let attributes = Attributes { verb: "get", path, ..Attributes::default() };
        match authz::authorize(&self.front.store.view(), identity, &attributes) {
            Verdict::Yes(_) => Ok(()),
            Verdict::No(why) => Err(Status::new(403, "Forbidden", format!("forbidden: {why}"))),
        }
    }

    fn discovery(&self, parts: &[&str], headers: &HeaderMap) -> Result<Response, Status> {
        use api::{discovery, openapi};
        let aggregated = aggregated_version(accept(headers));
        match parts {
            ["version"] => document(Some(discovery::version("unknown"))),
            [root @ ("api" | "apis")] if let Some((version, content_type)) = aggregated => {
                let body = discovery::aggregated(*root == "api", version).to_string();
                let mut response = json_response(200, body);
                response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
                Ok(response)
            }
            ["api"] => document(Some(discovery::legacy_root(true, &self.address))),
            ["apis"] => document(Some(discovery::legacy_root(false, &self.address))),
            ["api", version] => document(discovery::resources("", version)),
            ["apis", group] => document(discovery::group(group)),
            ["apis", group, version] => document(discovery::resources(group, version)),
            ["openapi", "v2"] => {
                let mut response = Response::new(Body::from(openapi::EMPTY_V2_PROTOBUF));
                let kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
                response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
                Ok(response)
            }
            ["openapi", "v3"] => document(Some(openapi::index())),
            ["openapi", "v3", rest @ ..] => document(openapi::document(&rest.join("/"))),
            _ => document(None),
        }
    }

    async fn resource(
        &self,
        identity: Identity,
        target: path::ResourceTarget,
        raw: RawRequest,
    ) -> Result<Response, Status> {
        let query = path::query(raw.uri().query().unwrap_or(""));
        let get = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let truthy = |name: &str| get(name).is_some_and(|value| value == "true" || value == "1" || value.is_empty());
        let watching = truthy("watch") || target.watch_prefix;
        let collection = target.name.is_empty();
        let verb = match (raw.method(), collection) {
            (&Method::GET | &Method::HEAD, _) if watching => Verb::Watch,
            (&Method::GET | &Method::HEAD, true) => Verb::List,
            (&Method::GET | &Method::HEAD, false) => Verb::Get,
            (&Method::POST, true) => Verb::Create,
            (&Method::POST, false) if !target.subresource.is_empty() => Verb::Create,
            (&Method::PUT, false) => Verb::Update,
            (&Method::PATCH, false) => Verb::Patch,
            (&Method::DELETE, true) => Verb::DeleteCollection,
            (&Method::DELETE, false) => Verb::Delete,
            _ => return Err(Status::method_not_allowed()),
        };
        let mut request = Request::new(identity, verb, target.served);
        (request.namespace, request.name) = (target.namespace, target.name);
        request.subresource = target.subresource;
        request.options = options(&query)?;
        if ["log", "exec"].contains(&request.subresource.as_str()) {
            request.params = query.clone();
        }
        let headers = raw.headers().clone();
        let include = match get("includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        let as_table = accept(&headers).split(',').next().unwrap_or("").contains("as=Table");
        if request.subresource == "exec" {
            return exec::exec(&self.front, request, raw).await;
        }
        let writes = matches!(verb, Verb::Create | Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection);
        // What is sent to a door that is not there, or is closed, is not read.
        let (kind, door) = (request.served.kind, request.subresource.as_str());
        if writes && kind.read_only.is_none() && (door.is_empty() || api::discovery::has_subresource(kind, door)) {
            read_body(&mut request, &headers, raw.into_body()).await?;
        }
        match self.front.call(&request).await? {
            Answer::Reply(reply) => self.reply(&request, reply, as_table, include),
            Answer::Watch(watch, view) => {
                let table = as_table.then_some(include);
                Ok(stream::watch(self.front.clone(), watch, view, table))
            }
            Answer::Worker(call) => stream::log(&self.front, &call).await,
        }
    }

    fn reply(&self, request: &Request, reply: Reply, as_table: bool, include: Include) -> Result<Response, Status> {
        let now = self.front.now();
        let kind = request.served.kind;
        let (mut response, warnings) = match reply {
            Reply::List(list) if as_table => {
                (json_response(200, table::of_list(&list, include, now).to_string()), Vec::new())
            }
            Reply::List(list) => {
                // Of a large list the next chunk is always ready, so that this thread would use up its slice of the
                // processor again and again, milliseconds in which threads that a write needs wait for it.
                let chunks = list.chunks().enumerate().map(|(i, chunk)| {
                    if i > 0 {
                        std::thread::yield_now();
                    }
                    Ok::<Bytes, std::convert::Infallible>(chunk)
                });
                let chunks = futures::stream::iter(chunks);
                (json_response(200, Body::from_stream(chunks)), Vec::new())
            }
            Reply::Object { json, created, warnings } => {
                let code = if created { 201 } else { 200 };
                let tabled = as_table && request.verb == Verb::Get;
                let body: Bytes = if tabled {
                    let object: Value = serde_json::from_slice(&json).expect("stored objects are JSON");
                    let metadata = json!({"resourceVersion": object.at("metadata.resourceVersion")});
                    table::table(kind, &[object], metadata, include, true, now).to_string().into()
                } else {
                    json
                };
                (json_response(code, body), warnings)
            }
            Reply::Value { value, warnings, .. }
                if as_table && request.verb == Verb::Get && value.text("kind") == "Scale" =>
            {
                (json_response(200, table::of_scale(&value, include, now).to_string()), warnings)
            }
            Reply::Value { value, created, warnings } => {
                (json_response(if created { 201 } else { 200 }, value.to_string()), warnings)
            }
        };
        for warning in warnings {
            // A quoted string of HTTP: only quotes and backslashes are escaped, and it stays on its line.
            let plain: String = warning.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let text = format!("299 - \"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""));
            if let Ok(value) = header::HeaderValue::from_str(&text) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        Ok(response)
    }
}

fn options(query: &[(String, String)]) -> Result<Options, Status> {
    let get = |name: &str| query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let number = |name: &str| match get(name) {
        "" => Ok(None),
        text => text.parse::<u64>().map(Some).map_err(|_| {
            let why = "must be an unsigned integer";
            Status::bad_request(format!("{name}: Invalid value: {text:?}: {why}")).at(name)
        }),
    };
    let dry_run = match get("dryRun") {
        "" => false,
        "All" => true,
        other => {
            let why = format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"");
            return Err(Status::bad_request(why).at("dryRun"));
        }
    };
    Ok(Options {
        label_selector: get("labelSelector").into(),
        field_selector: get("fieldSelector").into(),
        resource_version: number("resourceVersion")?,
        resource_version_match: get("resourceVersionMatch").into(),
        limit: usize::try_from(number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX),
        continue_token: get("continue").into(),
        timeout_seconds: number("timeoutSeconds")?,
        dry_run,
        field_validation: match get("fieldValidation") {
            "" => "Warn".into(),
            mode => mode.into(),
        },
        grace_period_seconds: number("gracePeriodSeconds")?.and_then(|seconds| i64::try_from(seconds).ok()),
        propagation: get("propagationPolicy").into(),
        precondition_uid: String::new(),
        precondition_revision: None,
        allow_bookmarks: get("allowWatchBookmarks") == "true",
        send_initial_events: get("sendInitialEvents") == "true",
    })
}

const WRITE_TYPES: [&str; 3] = ["application/json", "application/yaml", PROTOBUF];
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PATCH_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// Of a body that is too large so much more is read, and thrown away, before that is said: a client that is
/// still writing when its connection ends hears of that, and not of the reason.
const DISCARDED_MAX: usize = 32 << 20;
const DISCARDING_MAX: Duration = Duration::from_secs(2);

/// The whole body, up to `api::BODY_BYTES_MAX`.
async fn collected(mut body: Body) -> Result<Bytes, Status> {
    let unread = |error: axum::Error| Status::bad_request(format!("the body could not be read: {error}"));
    match Limited::new(&mut body, api::BODY_BYTES_MAX).collect().await {
        Ok(bytes) => return Ok(bytes.to_bytes()),
        Err(error) => match error.downcast::<axum::Error>() {
            Ok(error) => return Err(unread(*error)),
            // The limit is what else can go wrong.
            Err(_) => {}
        },
    }
    let discard = async {
        let mut n_discarded = 0;
        while let Some(Ok(frame)) = body.frame().await {
            n_discarded += frame.data_ref().map_or(0, Bytes::len);
            if n_discarded > DISCARDED_MAX {
                return;
            }
        }
    };
    // Whoever takes longer is told, and may not hear it.
    drop(tokio::time::timeout(DISCARDING_MAX, discard).await);
    Err(Status::too_large(api::BODY_BYTES_MAX))
}

async fn read_body(request: &mut Request, headers: &HeaderMap, body: Body) -> Result<(), Status> {
    let bytes = collected(body).await?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media = content_type.split(';').next().unwrap_or("").trim();
    if request.verb == Verb::Patch {
        request.patch = Some(match media {
            "application/json-patch+json" => Patch::Json,
            "application/merge-patch+json" => Patch::Merge,
            "application/strategic-merge-patch+json" => Patch::Strategic,
            other => return Err(Status::unsupported_media(other, &PATCH_TYPES)),
        });
    }
    let json = match media {
        "application/yaml" => {
            let value: Value = serde_saphyr::from_slice(&bytes)
                .map_err(|error| Status::bad_request(format!("the object provided is not valid YAML: {error}")))?;
            value.to_string().into()
        }
        PROTOBUF if !bytes.is_empty() => {
            let value = protobuf::decode(&bytes)
                .map_err(|error| Status::bad_request(format!("the object provided is not valid protobuf: {error}")))?;
            value.to_string().into()
        }
        "" | "application/json" => bytes,
        _ if request.verb == Verb::Patch => bytes,
        _ if bytes.is_empty() => bytes,
        other => return Err(Status::unsupported_media(other, &WRITE_TYPES)),
    };
    request.body = ParsedBody::parse(&json)?;
    if matches!(request.verb, Verb::Delete | Verb::DeleteCollection) {
        delete_options(request)?;
    }
    Ok(())
}

/// The body of a DELETE is `DeleteOptions`; it overrides the query.
fn delete_options(request: &mut Request) -> Result<(), Status> {
    let body = std::mem::take(&mut request.body).value;
    request.options.take_delete_options(&body)
}

#[cfg(test)]
mod tests {
    use super::aggregated_version;

    #[test]
    fn clients_of_every_age_get_the_discovery_they_know() {
        let of = |accept: &str| aggregated_version(accept).map(|(version, _)| version);
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert_eq!(of(&format!("{beta},application/json")), Some("v2beta1"));
        assert_eq!(of(&format!("{v2},{beta},application/json")), Some("v2"));
        assert_eq!(of("application/json;as=APIGroupDiscoveryList; g=apidiscovery.k8s.io; v=v2"), Some("v2"));
        assert_eq!(of("application/json;g=apidiscovery.k8s.io;v=v3"), None);
        assert_eq!(of("application/json"), None);
    }
}
