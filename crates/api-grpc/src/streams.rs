//! Streaming answers: watches, logs, exec.

use crate::status::{from_worker, required, to_tonic};
use crate::{object, request};
use api::Verb;
use api::watch::{Shown, Watch};
use authz::Identity;
use bytes::Bytes;
use front::workers::{CLOSE, ERROR, Frame, STDOUT};
use front::{Answer, Front};
use futures::{Stream, StreamExt};
use protos::dispatch as dp;
use protos::objects as pb;
use state::View;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

pub(crate) type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Events waiting for one watcher; a slower one holds its own stream up, nothing else.
const EVENTS_MAX: usize = 256;
/// How often a watcher that is told nothing hears its position: a fraction of the history's 5 minutes.
const POSITION_EVERY: Duration = Duration::from_secs(10);
/// How long a caller of Exec may take to say what it wants.
const START_PATIENCE: Duration = Duration::from_secs(10);

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

pub(crate) fn watch(front: Front, watch: Watch) -> Outgoing<pb::WatchEvent> {
    let step = |watch: &mut Watch, view: &View| watch.next(view);
    follow(front, watch, step, |shown, _| Some(event(shown)), |watch| event(&watch.bookmark()))
}

/// Carries a watch on until its reader goes: the changes that `step` takes, as `tell` puts them (it hears
/// whether they are the first step's), and `position` after the first step and whenever nothing was told
/// for a while. Changes are put into words one by one, as fast as the reader takes them.
pub(crate) fn follow<C: Send + 'static, T: Send + 'static>(
    front: Front,
    mut watch: Watch,
    step: impl Fn(&mut Watch, &View) -> Result<Vec<C>, objects::Status> + Send + 'static,
    tell: impl Fn(&C, bool) -> Option<T> + Send + 'static,
    position: impl Fn(&Watch) -> T + Send + 'static,
) -> Outgoing<T> {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(async move {
        let mut changed = front.store.watch(watch.served.kind.id);
        // The first answer says from where: a resuming watcher hears its position at once.
        let mut tell_at = Instant::now();
        let mut first = true;
        loop {
            // Marked as seen before the view is taken: a change in between wakes the loop again.
            changed.borrow_and_update();
            let changes = match step(&mut watch, &front.store.view()) {
                Ok(changes) => changes,
                Err(status) => return drop(sender.send(Err(to_tonic(&status))).await),
            };
            let mut quiet = true;
            for change in changes {
                let Some(told) = tell(&change, first) else { continue };
                if sender.send(Ok(told)).await.is_err() {
                    return;
                }
                quiet = false;
            }
            first = false;
            // Changes that the filter hides must not keep the position from moving on.
            if Instant::now() >= tell_at {
                if sender.send(Ok(position(&watch))).await.is_err() {
                    return;
                }
                tell_at = Instant::now() + POSITION_EVERY;
            } else if !quiet {
                tell_at = Instant::now() + POSITION_EVERY;
            }
            tokio::select! {
                news = changed.changed() => if news.is_err() { return },
                () = tokio::time::sleep_until(tell_at) => {}
                () = sender.closed() => return,
                () = front.store.leaderless() => {
                    let why = "this master hears from no leader; resume at another";
                    return drop(sender.send(Err(to_tonic(&objects::Status::unavailable(why)))).await);
                }
            }
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
            Some(frame) => Some((Err(from_worker(&frame.data)), None)),
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
    let first = tokio::time::timeout(START_PATIENCE, incoming.next()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("the first message of an exec did not come"))?;
    let start = first.ok_or_else(|| required("start"))??.start.ok_or_else(|| required("start"))?;
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
    // Dropped with the answer's stream: the client has all of it, or is gone.
    let (answering, answered) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        while let Some(Ok(message)) = incoming.next().await {
            let Some(frame) = message.frame else { continue };
            if to_worker.send(Frame { channel: frame.channel, data: frame.data }).await.is_err() {
                return;
            }
        }
        // The end of the request's stream is the end of standard input, not of the command.
        drop(to_worker.send(Frame { channel: CLOSE, data: Bytes::from_static(&[0]) }).await);
        drop(answered.await);
    });
    let frames = futures::stream::unfold(Some((worker.from_worker, answering)), |stream| async move {
        let (mut from_worker, answering) = stream?;
        let frame = from_worker.recv().await?;
        // The status ends an exec.
        let rest = (frame.channel != ERROR).then_some((from_worker, answering));
        Some((Ok(dp::Frame { channel: frame.channel, data: frame.data }), rest))
    });
    Ok(Response::new(Box::pin(frames)))
}
