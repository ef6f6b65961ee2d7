//! Streaming answers: watches and logs.

use api::WorkerCall;
use api::table::{self, Include};
use api::watch::{Shown, Watch};
use axum::body::{Body, Bytes};
use axum::response::Response;
use front::Front;
use front::workers::{CLOSE, ERROR, STDOUT};
use futures::stream;
use http::header;
use objects::{Status, Value, json};
use state::View;
use std::collections::VecDeque;
use std::time::Duration;

/// A watch without a timeout of its own ends after this; clients resume. Kubernetes: 30-60 min.
const WATCH_SECONDS_MAX: u64 = 1800;
/// How often a quiet watch that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(10);

struct Watching {
    front: Front,
    watch: Watch,
    changed: tokio::sync::watch::Receiver<objects::Revision>,
    ready: VecDeque<Bytes>,
    table: Option<Include>,
    columns_sent: bool,
    ends: tokio::time::Instant,
    /// Not put off by changes that the watch does not show.
    bookmark_at: tokio::time::Instant,
    next_view: Option<View>,
    over: bool,
}

/// Streams a watch as JSON lines, as tables when asked.
pub(crate) fn watch(front: Front, watch: Watch, view: View, table: Option<Include>) -> Response {
    let seconds = watch.timeout_seconds.unwrap_or(WATCH_SECONDS_MAX).min(WATCH_SECONDS_MAX);
    let changed = front.store.watch(watch.served.kind.id);
    // A change between the view that the watch was decided on and the subscription woke nobody.
    let newest = front.store.view();
    let view = if newest.revision() > view.revision() { newest } else { view };
    let watching = Watching {
        changed,
        front,
        watch,
        ready: VecDeque::new(),
        table,
        columns_sent: false,
        ends: tokio::time::Instant::now() + Duration::from_secs(seconds),
        bookmark_at: tokio::time::Instant::now() + BOOKMARK_EVERY,
        next_view: Some(view),
        over: false,
    };
    let lines = stream::unfold(watching, |mut watching| async move {
        let line = watching.line().await?;
        Some((Ok::<_, std::convert::Infallible>(line), watching))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

impl Watching {
    /// The next line, or the end.
    async fn line(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            let view = match self.next_view.take() {
                Some(view) => view,
                None => self.wait().await?,
            };
            match self.watch.next(&view) {
                Ok(shown) => shown.into_iter().for_each(|shown| self.push(&shown)),
                Err(status) => {
                    self.over = true;
                    let line = format!("{}\n", json!({"type": "ERROR", "object": status.to_json()}));
                    self.ready.push_back(line.into());
                }
            }
        }
    }

    /// Waits for a change of the kind; sends bookmarks meanwhile. `None` ends the watch.
    async fn wait(&mut self) -> Option<View> {
        loop {
            tokio::select! {
                changed = self.changed.changed() => {
                    changed.ok()?;
                    return Some(self.front.store.view());
                }
                _ = tokio::time::sleep_until(self.bookmark_at.min(self.ends)) => {
                    if tokio::time::Instant::now() >= self.ends {
                        return None;
                    }
                    self.bookmark_at = tokio::time::Instant::now() + BOOKMARK_EVERY;
                    // Moves the position past what other kinds did, so that it stays in the history.
                    let view = self.front.store.view();
                    if self.watch.bookmarks {
                        match self.watch.next(&view) {
                            Ok(shown) => shown.iter().for_each(|shown| self.push(shown)),
                            Err(_) => return Some(view),
                        }
                        let bookmark = self.watch.bookmark();
                        self.push(&bookmark);
                    }
                    return Some(view);
                }
                () = self.front.store.leaderless() => return None,
            }
        }
    }

    fn push(&mut self, shown: &Shown) {
        let line = match self.table {
            None => {
                let mut line = format!("{{\"type\":\"{}\",\"object\":", shown.type_name()).into_bytes();
                line.extend_from_slice(shown.json());
                line.extend_from_slice(b"}\n");
                line.into()
            }
            Some(include) => {
                let object: Value = serde_json::from_slice(shown.json()).expect("stored objects are JSON");
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let rows: &[Value] = if matches!(shown, Shown::Bookmark(_)) { &[] } else { &[object] };
                let kind = self.watch.served.kind;
                let table = table::table(kind, rows, metadata, include, !self.columns_sent, self.front.now());
                self.columns_sent = true;
                format!("{}\n", json!({"type": shown.type_name(), "object": table})).into()
            }
        };
        self.ready.push_back(line);
    }
}

/// Streams a container's log as text.
pub(crate) async fn log(front: &Front, call: &WorkerCall) -> Result<Response, Status> {
    let mut worker = front.workers.open(call).await?;
    // The first frame decides between an error status and a stream.
    let first = worker.from_worker.recv().await;
    if let Some(frame) = first.as_ref().filter(|frame| frame.channel == ERROR) {
        return Err(status_of_frame(&frame.data));
    }
    let body = stream::unfold(Some((first, worker)), |state| async move {
        let (first, mut worker) = state?;
        let frame = match first {
            Some(frame) => Some(frame),
            None => worker.from_worker.recv().await,
        };
        match frame {
            Some(frame) if frame.channel == STDOUT => Some((Ok(frame.data), Some((None, worker)))),
            Some(frame) if frame.channel == CLOSE => None,
            // Broken off: the client must not take what it has for all there is.
            Some(_) | None => Some((Err(std::io::Error::other("the log stream broke off")), None)),
        }
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// A `Status` that a worker sent as JSON.
pub(crate) fn status_of_frame(data: &[u8]) -> Status {
    let value: Value = serde_json::from_slice(data).unwrap_or_default();
    let message = objects::ValueExt::text(&value, "message").to_string();
    match value["code"].as_u64() {
        Some(404) => Status::new(404, "NotFound", message),
        Some(500) => Status::internal(message),
        _ => Status::bad_request(message),
    }
}
