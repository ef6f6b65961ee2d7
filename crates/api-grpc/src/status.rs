//! `Status` as gRPC codes with google.rpc details: the one table of codes of this face.

use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

fn code(status: &objects::Status) -> Code {
    match (status.code, status.reason) {
        (400 | 413 | 415 | 422, _) => Code::InvalidArgument,
        (401, _) => Code::Unauthenticated,
        (403, _) => Code::PermissionDenied,
        (404, _) => Code::NotFound,
        (409, "AlreadyExists") => Code::AlreadyExists,
        (409, _) => Code::Aborted,
        (410, _) => Code::OutOfRange,
        (429, _) => Code::ResourceExhausted,
        (503, _) => Code::Unavailable,
        (504, _) => Code::DeadlineExceeded,
        (405, _) => Code::Unimplemented,
        _ => Code::Internal,
    }
}

pub(crate) fn to_tonic(status: &objects::Status) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(status.reason, "balsa.dev", [("code".to_string(), status.code.to_string())]);
    for cause in &status.causes.0 {
        details.add_bad_request_violation(&cause.path, &cause.message);
    }
    if let Some(seconds) = status.retry_after_s {
        details.set_retry_info(Some(Duration::from_secs(u64::from(seconds))));
    }
    Status::with_error_details(code(status), &status.message, details)
}
