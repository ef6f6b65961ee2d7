//! A request, independent of the face it came through.

use authz::Identity;
use objects::schema::schemas;
use objects::{Served, Status, Timestamp, Value, ValueExt};
use stdx::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// RBAC's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    Json,
    Merge,
    Strategic,
}

/// The parsed body: the value, and the keys that stood twice in it.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub value: Value,
    pub duplicates: Vec<String>,
}

impl Body {
    pub fn parse(bytes: &[u8]) -> Result<Body, Status> {
        if bytes.is_empty() {
            return Ok(Body::default());
        }
        let (value, duplicates) = objects::json::parse_noting_duplicates(bytes)
            .map_err(|error| Status::bad_request(format!("the object provided is not valid JSON: {error}")))?;
        Ok(Body { value, duplicates })
    }
}

/// Query parameters and `DeleteOptions`, typed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub label_selector: String,
    pub field_selector: String,
    pub resource_version: Option<u64>,
    /// `Exact` or `NotOlderThan`.
    pub resource_version_match: String,
    pub limit: usize,
    pub continue_token: String,
    pub timeout_seconds: Option<u64>,
    pub dry_run: bool,
    /// `Strict`, `Warn` or `Ignore`.
    pub field_validation: String,
    pub grace_period_seconds: Option<i64>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation: String,
    pub precondition_uid: String,
    pub precondition_revision: Option<u64>,
    pub allow_bookmarks: bool,
    pub send_initial_events: bool,
}

impl Options {
    /// Takes over what a `DeleteOptions` says; where it is silent, what the query said stays.
    pub fn take_delete_options(&mut self, body: &Value) -> Result<(), Status> {
        let wrong = |path: &str, why: String| Status::bad_request(format!("DeleteOptions: {path}: {why}")).at(path);
        if !body.is_null() {
            let findings = schemas().check("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", body);
            if let Some((path, expected)) = findings.mistyped.first() {
                return Err(wrong(path, format!("Invalid value: expected {expected}")));
            }
        }
        if let Some(seconds) = body.at("gracePeriodSeconds").as_i64() {
            self.grace_period_seconds = Some(seconds);
        }
        let propagation = body.text("propagationPolicy");
        if !propagation.is_empty() {
            self.propagation = propagation.into();
        }
        if !body.at("orphanDependents").is_null() && !propagation.is_empty() {
            let why = "orphanDependents and deletionPropagation cannot be both set".to_string();
            return Err(wrong("propagationPolicy", why));
        }
        if body.at("orphanDependents") == true {
            self.propagation = "Orphan".into();
        }
        for (i, word) in body.items("dryRun").iter().enumerate() {
            if word != "All" {
                return Err(wrong(
                    &format!("dryRun[{i}]"),
                    format!("Unsupported value: {word}: supported values: \"All\""),
                ));
            }
            self.dry_run = true;
        }
        let uid = body.text("preconditions.uid");
        if !uid.is_empty() {
            self.precondition_uid = uid.into();
        }
        let revision = body.text("preconditions.resourceVersion");
        if !revision.is_empty() {
            // A precondition that cannot be read must not pass for none.
            let why = || format!("Invalid value: {revision:?}: must be an unsigned integer");
            let parsed = revision.parse().map_err(|_| wrong("preconditions.resourceVersion", why()))?;
            self.precondition_revision = Some(parsed);
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    pub identity: Identity,
    pub verb: Verb,
    pub served: Served,
    /// Empty, or `status`, `scale`, `binding`, `eviction`, `log`, `exec`, `finalize`.
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub patch: Option<Patch>,
    pub body: Body,
    pub options: Options,
    /// A client's request id, hashed with its identity.
    pub client_request: Option<u128>,
    /// For `log` and `exec`: the container and further parameters, handed to the worker.
    pub params: Vec<(String, String)>,
}

impl Request {
    pub fn new(identity: Identity, verb: Verb, served: Served) -> Request {
        Request {
            identity,
            verb,
            served,
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            patch: None,
            body: Body::default(),
            options: Options::default(),
            client_request: None,
            params: Vec::new(),
        }
    }

    /// The name in the key, or, of an object to be created, in its body.
    pub fn object_name(&self) -> &str {
        match self.name.as_str() {
            "" => objects::ValueExt::text(&self.body.value, "metadata.name"),
            name => name,
        }
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What a decision needs besides the request and the view.
pub struct Context<'a> {
    pub now: Timestamp,
    pub rng: &'a mut Rng,
}
