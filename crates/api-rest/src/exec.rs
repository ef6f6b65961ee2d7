//! exec over WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Rules: KEP-4006. Binary messages whose first byte is the channel; the worker speaks the same
//! channels, so this only moves frames.

use crate::{RawRequest, failure};
use api::Request;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use front::workers::{CLOSE, ERROR, Frame, WorkerStream};
use front::{Answer, Front};
use futures::{SinkExt, StreamExt};
use objects::Status;

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
    let worker = match front.workers.open(&call).await {
        Ok(worker) => worker,
        Err(status) => return Ok(failure(&status)),
    };
    Ok(upgrade.protocols(PROTOCOLS).on_upgrade(move |socket| carry(socket, worker)))
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
            if to_worker.send(frame).await.is_err() {
                break;
            }
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
            let channel = u8::try_from(frame.channel).unwrap_or(CLOSE as u8);
            let mut message = Vec::with_capacity(frame.data.len() + 1);
            message.push(channel);
            message.extend_from_slice(&frame.data);
            if to_client.send(Message::Binary(message.into())).await.is_err() {
                return;
            }
            if ends {
                break;
            }
        }
        let close = CloseFrame { code: 1000, reason: "".into() };
        drop(to_client.send(Message::Close(Some(close))).await);
    };
    tokio::select! {
        () = upstream => {}
        () = downstream => {}
    }
}
