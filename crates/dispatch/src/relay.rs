//! Log and exec streams for workers whose session another master holds.

use crate::Hub;
use front::workers::{FRAMES_MAX, Frame, WorkerStream};
use futures::{Stream, StreamExt};
use objects::Status;
use prost::Message;
use protos::dispatch as pb;
use protos::relay::Call;
use protos::relay::relay_client::RelayClient;
use protos::relay::relay_server::{Relay, RelayServer};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Streaming};

pub struct RelayService {
    hub: Arc<Hub>,
}

impl RelayService {
    pub fn server(hub: Arc<Hub>) -> RelayServer<RelayService> {
        RelayServer::new(RelayService { hub })
    }
}

#[tonic::async_trait]
impl Relay for RelayService {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<pb::Frame, tonic::Status>> + Send>>;

    async fn open(&self, request: Request<Streaming<pb::Frame>>) -> Result<Response<Self::OpenStream>, tonic::Status> {
        let mut incoming = request.into_inner();
        let first =
            incoming.next().await.ok_or_else(|| tonic::Status::invalid_argument("a relay starts with its call"))??;
        let call = Call::decode(first.data).map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
        let stream = self.hub.open_here(&call.node, call.open.unwrap_or_default()).await;
        let stream = stream.ok_or_else(|| tonic::Status::not_found("this master does not hold the session"))?;
        let WorkerStream { to_worker, from_worker } =
            stream.map_err(|status| tonic::Status::unavailable(status.message))?;
        tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.next().await {
                if to_worker.send(Frame { channel: frame.channel, data: frame.data }).await.is_err() {
                    return;
                }
            }
        });
        let outgoing =
            ReceiverStream::new(from_worker).map(|frame| Ok(pb::Frame { channel: frame.channel, data: frame.data }));
        Ok(Response::new(Box::pin(outgoing)))
    }
}

/// Asks one peer for a stream; `None` when it does not hold the session or does not answer.
pub async fn ask(channel: Channel, node: &str, open: pb::OpenStream) -> Option<Result<WorkerStream, Status>> {
    let (to_peer, outgoing) = mpsc::channel::<pb::Frame>(FRAMES_MAX);
    let call = Call { node: node.into(), open: Some(open) };
    to_peer.send(pb::Frame { channel: 0, data: call.encode_to_vec().into() }).await.ok()?;
    let mut client = RelayClient::new(channel);
    let opened = client.open(ReceiverStream::new(outgoing));
    let mut incoming = match tokio::time::timeout(Duration::from_secs(6), opened).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(_)) | Err(_) => return None,
    };
    let (to_worker, mut from_client) = mpsc::channel::<Frame>(FRAMES_MAX);
    let (to_client, from_worker) = mpsc::channel(FRAMES_MAX);
    // A task for each direction: neither waits for the other to be taken.
    tokio::spawn(async move {
        while let Some(frame) = from_client.recv().await {
            if to_peer.send(pb::Frame { channel: frame.channel, data: frame.data }).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let frame = tokio::select! {
                frame = incoming.next() => frame,
                () = to_client.closed() => return,
            };
            let Some(Ok(frame)) = frame else { return };
            if to_client.send(Frame { channel: frame.channel, data: frame.data }).await.is_err() {
                return;
            }
        }
    });
    Some(Ok(WorkerStream { to_worker, from_worker }))
}
