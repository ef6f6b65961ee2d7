//! `Status` as gRPC codes with google.rpc details: the one table of codes of this face.

use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// REST's code and reason, the gRPC code. A row without a reason is for every reason that no other row
/// names; the first row of a gRPC code also says how a refusal that was born here is told.
pub(crate) const CODES: &[(u16, &str, Code)] = &[
    (400, "BadRequest", Code::InvalidArgument),
    (400, "", Code::InvalidArgument),
    (413, "", Code::InvalidArgument),
    (415, "", Code::InvalidArgument),
    (422, "", Code::InvalidArgument),
    (401, "Unauthorized", Code::Unauthenticated),
    (403, "Forbidden", Code::PermissionDenied),
    (404, "NotFound", Code::NotFound),
    (405, "MethodNotAllowed", Code::Unimplemented),
    (409, "AlreadyExists", Code::AlreadyExists),
    (409, "Conflict", Code::Aborted),
    (409, "", Code::Aborted),
    (412, "PreconditionFailed", Code::FailedPrecondition),
    (410, "Expired", Code::OutOfRange),
    (429, "TooManyRequests", Code::ResourceExhausted),
    (500, "InternalError", Code::Internal),
    (503, "ServiceUnavailable", Code::Unavailable),
    (504, "Timeout", Code::DeadlineExceeded),
    (499, "Canceled", Code::Cancelled),
];

/// Nothing was applied, and another master may serve at once; a new leader is there within this time
/// (elections take 90 to 160 ms, and writes are back after 350 ms).
const FAILOVER: Duration = Duration::from_millis(350);

fn code(rest: u16, reason: &str) -> Code {
    let of = |wanted: &str| CODES.iter().find(|(code, name, _)| *code == rest && *name == wanted);
    let of_code = || CODES.iter().find(|(code, _, _)| *code == rest);
    of(reason).or_else(|| of("")).or_else(of_code).map_or(Code::Internal, |(_, _, code)| *code)
}

fn details(rest: u16, reason: &str, code: Code) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "balsa.dev", [("code".to_string(), rest.to_string())]);
    if code == Code::Unavailable {
        details.set_retry_info(Some(FAILOVER));
    }
    details
}

pub(crate) fn to_tonic(status: &objects::Status) -> Status {
    let code = code(status.code, status.reason);
    let mut details = details(status.code, status.reason, code);
    for cause in &status.causes.0 {
        details.add_bad_request_violation(&cause.path, &cause.message);
    }
    if let Some(seconds) = status.retry_after_s {
        details.set_retry_info(Some(Duration::from_secs(u64::from(seconds))));
    }
    Status::with_error_details(code, &status.message, details)
}

/// A refusal that came without details, with those its code implies.
pub(crate) fn with_details(status: Status) -> Status {
    if !status.details().is_empty() || status.code() == Code::Ok {
        return status;
    }
    // tonic's word for a message that is too long, which this face has for revisions.
    if status.code() == Code::OutOfRange {
        return to_tonic(&objects::Status::too_large(api::BODY_BYTES_MAX));
    }
    let row = CODES.iter().find(|(_, _, code)| *code == status.code());
    let (rest, reason, _) = row.copied().unwrap_or((500, "InternalError", Code::Internal));
    let details = details(rest, reason, status.code());
    let metadata = status.metadata().clone();
    Status::with_error_details_and_metadata(status.code(), status.message(), details, metadata)
}

/// A field of a request that must be set.
pub fn required(field: &str) -> Status {
    let mut status = objects::Status::bad_request(format!("{field}: Required value"));
    status.causes.required(field, "");
    to_tonic(&status)
}

/// A field of a request whose value cannot be used.
pub fn invalid(field: &str, value: &str, why: &str) -> Status {
    let mut status = objects::Status::bad_request(format!("{field}: Invalid value: {value:?}: {why}"));
    status.causes.invalid(field, &objects::Value::from(value), why);
    to_tonic(&status)
}

/// The refusal that a worker sent as a `Status` in JSON.
pub(crate) fn from_worker(data: &[u8]) -> Status {
    use objects::ValueExt;
    let value: objects::Value = serde_json::from_slice(data).unwrap_or_default();
    let rest = value.at("code").as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
    let code = code(rest, value.text("reason"));
    let details = details(rest, value.text("reason"), code);
    Status::with_error_details(code, value.text("message"), details)
}
