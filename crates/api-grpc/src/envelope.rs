//! What every call of the gRPC face gets, whichever service answers it: a deadline, and error details.

use crate::status::with_details;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use http_body_util::BodyExt;
use std::time::Duration;
use tonic::Status;

/// Wraps the router of the services, and the guard before them.
pub async fn envelope(request: Request, next: Next) -> Response {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    if !content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return next.run(request).await;
    }
    let response = match deadline(request.uri().path(), request.headers()) {
        None => next.run(request).await,
        Some(limit) => match tokio::time::timeout(limit, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let why = format!("no answer within {limit:?}; the outcome of a write is unknown");
                Status::deadline_exceeded(why).into_http()
            }
        },
    };
    let (mut head, body) = response.into_parts();
    amend(&mut head.headers);
    // A stream's refusal comes after its messages, in the trailers.
    let body = body.map_frame(|mut frame| {
        if let Some(trailers) = frame.trailers_mut() {
            amend(trailers);
        }
        frame
    });
    Response::from_parts(head, Body::new(body))
}

/// Gives a refusal among these headers the details that its code implies, unless it has its own.
fn amend(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else { return };
    if status.code() == tonic::Code::Ok || !status.details().is_empty() {
        return;
    }
    let detailed = with_details(status);
    if let Err(error) = detailed.add_header(headers) {
        tracing::warn!(%error, "the details of a refusal cannot be sent");
    }
}

/// The caller's deadline, or the one that the RPC's comment states. Streams have none of their own, and a
/// caller's own ends only the wait for their beginning: the caller ends the rest.
fn deadline(path: &str, headers: &HeaderMap) -> Option<Duration> {
    let asked = headers.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
    let stated = || protos::DEADLINES.iter().find(|(name, _)| *name == path);
    asked.or_else(|| stated().map(|(_, ms)| Duration::from_millis(*ms)))
}

/// gRPC's form of a duration: up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let n: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_deadline_goes_before_the_stated_one() {
        let mut headers = HeaderMap::new();
        let get = "/balsa.objects.v1.Objects/Get";
        assert_eq!(deadline(get, &headers), Some(Duration::from_secs(5)));
        assert_eq!(deadline("/balsa.objects.v1.Objects/Watch", &headers), None);
        headers.insert("grpc-timeout", http::HeaderValue::from_static("1500m"));
        assert_eq!(deadline(get, &headers), Some(Duration::from_millis(1500)));
        for (text, want) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("7u", Some(Duration::from_micros(7))),
            ("9n", Some(Duration::from_nanos(9))),
            ("", None),
            ("S", None),
            ("1x", None),
            ("1é", None),
            ("123456789S", None),
        ] {
            assert_eq!(timeout(text), want, "{text}");
        }
    }
}
