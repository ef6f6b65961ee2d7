//! exec over WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Rules: KEP-4006. Binary messages whose first byte is the channel; the worker speaks the same
//! channels, so this only moves frames.

use crate::RawRequest;
use api::Request;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use front::workers::{CLOSE, ERROR, Frame, WorkerStream};
use front::{Answer, Front};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use objects::Status;
use std::time::Duration;

/// How long a client may take to answer a close.
const CLOSING_MAX: Duration = Duration::from_secs(1);
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

pub(crate) async fn exec(front: &Front, request: Request, raw: RawRequest) -> Result<Response, Status> {
    let (mut parts, _) = raw.into_parts();
    let call = match front.call(&request).await? {
        Answer::Worker(call) => call,
        Answer::Reply(_) | Answer::Watch(..) => return Err(Status::internal("exec led elsewhere")),
    };
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|_| {
        Status::bad_request("exec needs a WebSocket upgrade (v5.channel.k8s.io or v4.channel.k8s.io); kubectl 1.30 and newer ask for it, 1.29 with KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true")
    })?;
    let worker = front.workers.open(&call).await;
    // Told where kubectl reads it: of an upgrade that is refused it makes another try, in the older protocol.
    Ok(upgrade.protocols(PROTOCOLS).on_upgrade(move |socket| async {
        match worker {
            Ok(worker) => carry(socket, worker).await,
            Err(status) => refuse(socket, &status).await,
        }
    }))
}

fn message(channel: u32, data: &[u8]) -> Message {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(u8::try_from(channel).unwrap_or(CLOSE as u8));
    message.extend_from_slice(data);
    Message::Binary(message.into())
}

/// Tells why nothing was run.
async fn refuse(socket: WebSocket, status: &Status) {
    let (mut to_client, mut from_client) = socket.split();
    // A client that is gone need not hear it.
    drop(to_client.send(message(ERROR, status.to_json().to_string().as_bytes())).await);
    end(&mut to_client, &mut from_client).await;
}

/// Closes, and waits for the client to do so: a connection that is dropped with input unread takes back what was
/// sent last.
async fn end(to_client: &mut SplitSink<WebSocket, Message>, from_client: &mut SplitStream<WebSocket>) {
    let close = Message::Close(Some(CloseFrame { code: 1000, reason: "".into() }));
    if to_client.send(close).await.is_ok() {
        let last = async { while let Some(Ok(_)) = from_client.next().await {} };
        // A client that goes on talking has had its time.
        drop(tokio::time::timeout(CLOSING_MAX, last).await);
    }
}

/// Moves frames both ways until the worker ends the stream or the client goes.
async fn carry(socket: WebSocket, worker: WorkerStream) {
    let (mut to_client, mut from_client) = socket.split();
    let WorkerStream { to_worker, mut from_worker } = worker;
    let upstream = async {
        while let Some(Ok(message)) = from_client.next().await {
            let Message::Binary(data) = message else { continue };
            let Some((channel, rest)) = data.split_first() else { continue };
            let frame = Frame { channel: u32::from(*channel), data: data.slice(data.len() - rest.len()..) };
            // A command may end before its input does. Only a client that goes ends the rest too.
            drop(to_worker.send(frame).await);
        }
    };
    let downstream = async {
        loop {
            // A stream that ends without a status has broken off: that is not a success.
            let broken = || Frame {
                channel: ERROR,
                data: Status::internal("the worker's stream broke off").to_json().to_string().into(),
            };
            let frame = from_worker.recv().await.unwrap_or_else(broken);
            let ends = frame.channel == ERROR;
            if to_client.send(message(frame.channel, &frame.data)).await.is_err() {
                return;
            }
            if ends {
                break;
            }
        }
    };
    tokio::select! {
        () = upstream => return,
        () = downstream => {}
    }
    end(&mut to_client, &mut from_client).await;
}
