//! Log and exec streams that a master asked for.

use crate::masters::Incoming;
use crate::{Shared, logs};
use futures::StreamExt;
use objects::Value;
use protos::dispatch as pb;
use runtime::Terminal;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;

pub(crate) const STDOUT: u32 = 1;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;
const CLOSE: u32 = 255;
/// A terminal's size is waited for this long, past this many frames of input.
const FIRST_SIZE_MAX: std::time::Duration = std::time::Duration::from_millis(200);
const EARLY_MAX: usize = 8;
/// A reader that does not take the rest by then is cut off.
const DRAIN_MAX: std::time::Duration = std::time::Duration::from_secs(30);

pub(crate) async fn serve(shared: &Arc<Shared>, master: &str, open: pb::OpenStream) -> Result<(), tonic::Status> {
    let (sender, receiver) = mpsc::channel(64);
    let first = pb::Frame { channel: 0, data: open.id.clone().into() };
    drop(sender.send(first).await);
    let mut incoming = shared.options.masters.stream(master, receiver).await?;
    let result = match open.what.as_str() {
        "log" => log(shared, &open, &sender, &mut incoming).await,
        "exec" => exec(shared, &open, &sender, &mut incoming).await,
        other => Err((400, format!("this worker does not know the stream {other:?}"))),
    };
    if let Err((code, message)) = result {
        let reason = if code == 404 { "NotFound" } else { "InternalError" };
        let status = json!({"metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code});
        drop(sender.send(pb::Frame { channel: ERROR, data: status.to_string().into() }).await);
    } else if open.what == "log" {
        // A log that is whole says so: a stream that breaks off must not look like its end.
        drop(sender.send(pb::Frame { channel: CLOSE, data: bytes::Bytes::from_static(&[1]) }).await);
    }
    // Hanging up at once would cancel the call and lose what is still on its way: say that this side
    // has ended, and wait for the master to end the other.
    drop(sender);
    let drained = async { while let Some(Ok(_)) = incoming.next().await {} };
    if tokio::time::timeout(DRAIN_MAX, drained).await.is_err() {
        tracing::debug!("the master did not end the stream in time");
    }
    Ok(())
}

type Failed = (u16, String);

fn param<'a>(open: &'a pb::OpenStream, name: &str) -> Option<&'a str> {
    open.params.iter().find(|param| param.name == name).map(|param| param.value.as_str())
}

async fn log(
    shared: &Shared,
    open: &pb::OpenStream,
    sender: &mpsc::Sender<pb::Frame>,
    incoming: &mut Incoming<pb::Frame>,
) -> Result<(), Failed> {
    let yes = |name| param(open, name).is_some_and(|value| value == "true" || value == "1");
    let number = |name| param(open, name).and_then(|value| value.parse::<i64>().ok());
    let since_seconds = number("sinceSeconds").map(|seconds| shared.now().plus_secs(-seconds));
    let since_time = param(open, "sinceTime").and_then(objects::Timestamp::parse);
    let request = logs::Request {
        follow: yes("follow"),
        timestamps: yes("timestamps"),
        tail_lines: number("tailLines").and_then(|n| usize::try_from(n).ok()),
        limit_bytes: number("limitBytes").and_then(|n| usize::try_from(n).ok()),
        since: since_seconds.or(since_time),
    };
    let previous = yes("previous");
    let worlds = shared.worlds.borrow().clone();
    let sandbox = worlds.iter().filter(|sandbox| sandbox.uid == open.pod_uid).max_by_key(|sandbox| sandbox.attempt);
    let attempts = sandbox.into_iter().flat_map(|s| &s.containers).filter(|c| c.name == open.container);
    let mut attempts: Vec<u32> = attempts.map(|container| container.attempt).collect();
    attempts.sort_unstable();
    let attempt = match previous {
        false => attempts.last(),
        true => attempts.iter().rev().nth(1),
    };
    let Some(attempt) = attempt else {
        let which = if previous { "previous terminated container" } else { "container" };
        let pod = sandbox.map_or(open.pod_uid.as_str(), |sandbox| sandbox.name.as_str());
        return Err((400, format!("{which} {:?} in pod {pod:?} not found", open.container)));
    };
    let path = crate::pod::log_dir(shared, &open.pod_uid).join(crate::pod::log_file(&open.container, *attempt));
    let (uid, name, attempt) = (open.pod_uid.clone(), open.container.clone(), *attempt);
    let worlds = shared.worlds.subscribe();
    let running = move || {
        let worlds = worlds.borrow();
        let containers = worlds.iter().filter(|s| s.uid == uid).flat_map(|s| &s.containers);
        let mut same = containers.filter(|c| c.name == name && c.attempt == attempt);
        same.any(|c| matches!(c.state, runtime::ContainerState::Running { .. } | runtime::ContainerState::Created))
    };
    // The reader's hanging up ends a followed log.
    tokio::select! {
        result = logs::read(&path, &request, running, sender) => result.map_err(|error| (500, error.to_string())),
        _ = incoming.next() => Ok(()),
    }
}

/// The size a terminal begins with, and what came before it: a command that asks at once should not find
/// a terminal without a size. Clients tell it first; one that does not is not waited for long.
async fn first_size(incoming: &mut Incoming<pb::Frame>) -> (Option<Terminal>, Vec<pb::Frame>) {
    let mut early = Vec::new();
    let told = async {
        while let Some(Ok(frame)) = incoming.next().await {
            if frame.channel == RESIZE {
                return Terminal::parse(&frame.data);
            }
            early.push(frame);
            if early.len() == EARLY_MAX {
                break;
            }
        }
        Terminal::default()
    };
    let terminal = tokio::time::timeout(FIRST_SIZE_MAX, told).await.unwrap_or_default();
    (Some(terminal), early)
}

async fn exec(
    shared: &Shared,
    open: &pb::OpenStream,
    sender: &mpsc::Sender<pb::Frame>,
    incoming: &mut Incoming<pb::Frame>,
) -> Result<(), Failed> {
    let yes = |name| param(open, name).is_some_and(|value| value == "true" || value == "1");
    let command: Vec<String> =
        open.params.iter().filter(|param| param.name == "command").map(|param| param.value.clone()).collect();
    if command.is_empty() {
        return Err((400, "you must specify at least one command for the container".into()));
    }
    let worlds = shared.worlds.borrow().clone();
    let containers = worlds.iter().filter(|s| s.uid == open.pod_uid).flat_map(|s| &s.containers);
    let running = containers.filter(|c| matches!(c.state, runtime::ContainerState::Running { .. }));
    let Some(container) = running.filter(|c| c.name == open.container).max_by_key(|c| c.attempt) else {
        return Err((500, format!("container not found ({:?})", open.container)));
    };
    let (terminal, early) = match yes("tty") {
        true => first_size(incoming).await,
        false => (None, Vec::new()),
    };
    let started = shared.options.runtime.exec(&container.id, &command, terminal, yes("stdin")).await;
    let runtime::ExecStream { input, mut output, exit } = started.map_err(|error| (500, error.to_string()))?;
    let upstream = async {
        for frame in early {
            drop(input.send((frame.channel, frame.data)).await);
        }
        while let Some(Ok(frame)) = incoming.next().await {
            if input.send((frame.channel, frame.data)).await.is_err() {
                // The command takes no more input; it goes on until its output ends.
                std::future::pending::<()>().await;
            }
        }
    };
    let downstream = async {
        while let Some((channel, data)) = output.recv().await {
            if sender.send(pb::Frame { channel, data }).await.is_err() {
                return false;
            }
        }
        true
    };
    let is_over = tokio::select! {
        () = upstream => false,
        is_over = downstream => is_over,
    };
    if !is_over {
        // Whoever asked is gone (the end of its input alone is a frame): dropping the streams ends the
        // command.
        return Ok(());
    }
    let code = match exit.await {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => return Err((500, error.to_string())),
        Err(_) => return Err((500, "the command's end was not seen".into())),
    };
    let status: Value = match code {
        0 => json!({"metadata": {}, "status": "Success"}),
        code => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
    };
    drop(sender.send(pb::Frame { channel: ERROR, data: status.to_string().into() }).await);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(channel: u32, data: &'static str) -> pb::Frame {
        pb::Frame { channel, data: data.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_begins_with_the_size_its_client_tells() {
        let size = frame(RESIZE, r#"{"Width":99,"Height":33}"#);
        let told = Some(Terminal { width: 99, height: 33 });
        let of = |frames: Vec<pb::Frame>| -> Incoming<pb::Frame> {
            let frames = futures::stream::iter(frames.into_iter().map(Ok));
            Box::pin(frames.chain(futures::stream::pending()))
        };
        assert_eq!(first_size(&mut of(vec![size.clone()])).await, (told, vec![]));
        let input = frame(0, "ls\n");
        assert_eq!(first_size(&mut of(vec![input.clone(), size.clone()])).await, (told, vec![input.clone()]));
        // Who tells none is not waited for, and what it typed is kept.
        assert_eq!(first_size(&mut of(vec![input.clone()])).await, (Some(Terminal::default()), vec![input.clone()]));
        let many = vec![input; EARLY_MAX];
        assert_eq!(first_size(&mut of(many.clone())).await, (Some(Terminal::default()), many));
    }
}
