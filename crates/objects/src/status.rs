//! Kubernetes `Status`: how every refusal is told, on both faces.

use crate::{FieldErrors, Kind};
use serde_json::{Value, json};

/// An error answer. `code` is the HTTP status; the gRPC face maps `reason` to its own code.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// What the answer is about: name, group and kind (or plural, for some reasons).
    pub name: String,
    pub group: String,
    pub kind: String,
    pub causes: FieldErrors,
    pub retry_after_s: Option<u32>,
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            causes: FieldErrors::default(),
            retry_after_s: None,
        }
    }

    /// Names the field that the message is about.
    pub fn at(mut self, path: impl Into<String>) -> Status {
        let message = self.message.clone();
        self.causes.told(path, message);
        self
    }

    fn about(mut self, kind: &Kind, name: &str) -> Status {
        (self.name, self.group, self.kind) = (name.into(), kind.group.into(), kind.plural.into());
        self
    }

    pub fn not_found(kind: &Kind, name: &str) -> Status {
        Status::new(404, "NotFound", format!("{} {name:?} not found", kind.resource())).about(kind, name)
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Status {
        Status::new(409, "AlreadyExists", format!("{} {name:?} already exists", kind.resource())).about(kind, name)
    }

    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource());
        Status::new(409, "Conflict", message).about(kind, name)
    }

    /// The conflict of an update that assumed an older resourceVersion.
    pub fn modified(kind: &Kind, name: &str) -> Status {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(kind, name, why)
    }

    pub fn invalid(kind: &Kind, name: &str, causes: FieldErrors) -> Status {
        let list: Vec<String> = causes.0.iter().map(ToString::to_string).collect();
        let text = match list.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let group_kind = match kind.group {
            "" => kind.kind.to_string(),
            group => format!("{}.{group}", kind.kind),
        };
        let mut status = Status::new(422, "Invalid", format!("{group_kind} {name:?} is invalid: {text}"));
        (status.name, status.group, status.kind) = (name.into(), kind.group.into(), kind.kind.into());
        status.causes = causes;
        status
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Status {
        let resource = kind.resource();
        let message = match name {
            "" => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Status::new(403, "Forbidden", message).about(kind, name)
    }

    pub fn method_not_allowed() -> Status {
        Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub fn too_large(max_bytes: usize) -> Status {
        let message = format!("Request entity too large: limit is {max_bytes} bytes");
        Status::new(413, "RequestEntityTooLarge", message)
    }

    pub fn unsupported_media(asked: &str, supported: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format ({asked}) - accepted media types include: {}",
            supported.join(", ")
        );
        Status::new(415, "UnsupportedMediaType", message)
    }

    /// 410: the asked revision has left the history; list again.
    pub fn expired(asked: u64, oldest: u64) -> Status {
        Status::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    pub fn unavailable(message: impl Into<String>) -> Status {
        // No Retry-After: the request has already waited for a leader, and clients told to come back
        // would hold the error from their users for ten more rounds.
        Status::new(503, "ServiceUnavailable", message)
    }

    /// The request may or may not have been carried out.
    pub fn timeout(message: impl Into<String>) -> Status {
        Status::new(504, "Timeout", message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_s: u32) -> Status {
        Status { retry_after_s: Some(retry_after_s), ..Status::new(429, "TooManyRequests", message) }
    }

    pub fn internal(message: impl Into<String>) -> Status {
        Status::new(500, "InternalError", message)
    }

    pub fn to_json(&self) -> Value {
        let mut details = json!({});
        for (field, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind)] {
            if !text.is_empty() {
                details[field] = json!(text);
            }
        }
        if !self.causes.is_empty() {
            let cause = |e: &crate::FieldError| json!({"reason": e.reason, "message": e.message, "field": e.path});
            details["causes"] = self.causes.0.iter().map(cause).collect();
        }
        if let Some(seconds) = self.retry_after_s {
            details["retryAfterSeconds"] = json!(seconds);
        }
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": details, "code": self.code,
        })
    }
}
