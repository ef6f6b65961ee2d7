//! Streaming answers: watches, logs, exec.

use crate::status::to_tonic;
use crate::{object, request};
use api::Verb;
use api::watch::{Shown, Watch};
use authz::Identity;
use front::workers::{CLOSE, ERROR, Frame, STDOUT};
use front::{Answer, Front};
use futures::{Stream, StreamExt};
use objects::{Value, ValueExt};
use protos::dispatch as dp;
use protos::objects as pb;
use state::View;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

pub(crate) type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Events waiting for one watcher; a slower one holds its own stream up, nothing else.
const EVENTS_MAX: usize = 256;
const BOOKMARK_EVERY: Duration = Duration::from_secs(10);

fn event(shown: &Shown) -> pb::WatchEvent {
    use pb::watch_event::Type;
    let ty = match shown {
        Shown::Added(_) => Type::Added,
        Shown::Modified(_) => Type::Modified,
        Shown::Deleted(_) => Type::Deleted,
        Shown::Bookmark(_) => Type::Bookmark,
    };
    pb::WatchEvent { r#type: ty.into(), object: Some(object(shown.json().clone())) }
}

pub(crate) fn watch(front: Front, mut watch: Watch, mut view: View) -> Outgoing<pb::WatchEvent> {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(async move {
        let mut changed = front.store.watch(watch.served.kind.id);
        // The first answer says from where: a resuming watcher hears a bookmark at once.
        let mut tell_position = true;
        loop {
            let shown = match watch.next(&view) {
                Ok(shown) => shown,
                Err(status) => return drop(sender.send(Err(to_tonic(&status))).await),
            };
            for shown in &shown {
                if sender.send(Ok(event(shown))).await.is_err() {
                    return;
                }
            }
            if std::mem::take(&mut tell_position) && sender.send(Ok(event(&watch.bookmark()))).await.is_err() {
                return;
            }
            tokio::select! {
                news = changed.changed() => if news.is_err() { return },
                () = tokio::time::sleep(BOOKMARK_EVERY) => tell_position = true,
                () = sender.closed() => return,
                () = front.store.leaderless() => {
                    let why = "this master hears from no leader; resume at another";
                    return drop(sender.send(Err(Status::unavailable(why))).await);
                }
            }
            view = front.store.view();
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

fn pod_request(
    identity: Identity,
    what: &str,
    namespace: String,
    pod: String,
    params: Vec<(String, String)>,
) -> Result<api::Request, Status> {
    let key = pb::Key { resource: "pods".into(), namespace, name: pod, ..Default::default() };
    let mut request = request(identity, Verb::Get, Some(key))?;
    request.subresource = what.into();
    request.params = params;
    Ok(request)
}

fn failure(data: &[u8]) -> Status {
    let value: Value = serde_json::from_slice(data).unwrap_or_default();
    Status::failed_precondition(value.text("message"))
}

pub(crate) async fn logs(
    front: &Front,
    identity: Identity,
    raw: pb::LogsRequest,
) -> Result<Response<Outgoing<pb::LogChunk>>, Status> {
    let mut params = vec![
        ("container".to_string(), raw.container),
        ("follow".into(), raw.follow.to_string()),
        ("previous".into(), raw.previous.to_string()),
        ("timestamps".into(), raw.timestamps.to_string()),
    ];
    params.extend(raw.tail_lines.map(|lines| ("tailLines".to_string(), lines.to_string())));
    let request = pod_request(identity, "log", raw.namespace, raw.pod, params)?;
    let Answer::Worker(call) = front.call(&request).await.map_err(|status| to_tonic(&status))? else {
        return Err(Status::internal("not a stream"));
    };
    let worker = front.workers.open(&call).await.map_err(|status| to_tonic(&status))?;
    let chunks = futures::stream::unfold(Some(worker), |worker| async move {
        let mut worker = worker?;
        match worker.from_worker.recv().await {
            Some(frame) if frame.channel == STDOUT => Some((Ok(pb::LogChunk { data: frame.data }), Some(worker))),
            Some(frame) if frame.channel == CLOSE => None,
            Some(frame) => Some((Err(failure(&frame.data)), None)),
            None => Some((Err(Status::unavailable("the log stream broke off")), None)),
        }
    });
    Ok(Response::new(Box::pin(chunks)))
}

pub(crate) async fn exec(
    front: &Front,
    identity: Identity,
    mut incoming: Streaming<pb::ExecRequest>,
) -> Result<Response<Outgoing<dp::Frame>>, Status> {
    let first = incoming.next().await.ok_or_else(|| Status::invalid_argument("start: Required value"))??;
    let start = first.start.ok_or_else(|| Status::invalid_argument("start: Required value in the first message"))?;
    let mut params = vec![
        ("container".to_string(), start.container),
        ("stdin".into(), start.stdin.to_string()),
        ("tty".into(), start.tty.to_string()),
    ];
    params.extend(start.command.into_iter().map(|word| ("command".to_string(), word)));
    let mut request = pod_request(identity, "exec", start.namespace, start.pod, params)?;
    request.verb = Verb::Create;
    let Answer::Worker(call) = front.call(&request).await.map_err(|status| to_tonic(&status))? else {
        return Err(Status::internal("not a stream"));
    };
    let worker = front.workers.open(&call).await.map_err(|status| to_tonic(&status))?;
    let to_worker = worker.to_worker;
    tokio::spawn(async move {
        while let Some(Ok(message)) = incoming.next().await {
            let Some(frame) = message.frame else { continue };
            if to_worker.send(Frame { channel: frame.channel, data: frame.data }).await.is_err() {
                return;
            }
        }
    });
    let frames = futures::stream::unfold(Some(worker.from_worker), |from_worker| async move {
        let mut from_worker = from_worker?;
        let frame = from_worker.recv().await?;
        // The status ends an exec.
        let rest = (frame.channel != ERROR).then_some(from_worker);
        Some((Ok(dp::Frame { channel: frame.channel, data: frame.data }), rest))
    });
    Ok(Response::new(Box::pin(frames)))
}
