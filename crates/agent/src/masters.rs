//! The port to the masters: sessions and streams, and its gRPC implementation.

use async_trait::async_trait;
use futures::Stream;
use protos::dispatch as pb;
use protos::dispatch::dispatch_client::DispatchClient;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

/// A master that does not take the connection by then is passed over.
const CONNECT_MAX: Duration = Duration::from_secs(1);

pub type Incoming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Whoever carries messages to a master. Dropping either end of a call ends it.
#[async_trait]
pub trait Masters: Send + Sync + 'static {
    /// Opens a session with the master at `address` (host:port). The first message sent is a hello.
    async fn session(
        &self,
        address: &str,
        outgoing: mpsc::Receiver<pb::FromWorker>,
    ) -> Result<Incoming<pb::ToWorker>, Status>;

    /// Opens a log or exec stream that a master asked for; its first frame is the stream's id.
    async fn stream(&self, address: &str, outgoing: mpsc::Receiver<pb::Frame>) -> Result<Incoming<pb::Frame>, Status>;
}

/// gRPC with mutual TLS, a connection of its own for each call.
pub struct TonicMasters {
    tls: Box<dyn Fn() -> ClientTlsConfig + Send + Sync>,
}

impl TonicMasters {
    /// `tls`, the worker's certificate and the cluster's CA, is asked at each connection, so that renewed
    /// certificates are used.
    pub fn new(tls: impl Fn() -> ClientTlsConfig + Send + Sync + 'static) -> TonicMasters {
        TonicMasters { tls: Box::new(tls) }
    }

    async fn connect(&self, address: &str) -> Result<DispatchClient<Channel>, Status> {
        let refused = |error: tonic::transport::Error| Status::unavailable(format!("{error:?}"));
        let endpoint = Endpoint::from_shared(format!("https://{address}")).and_then(|e| e.tls_config((self.tls)()));
        let endpoint = endpoint
            .map_err(refused)?
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(refused)?;
        Ok(DispatchClient::new(channel).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20))
    }
}

#[async_trait]
impl Masters for TonicMasters {
    async fn session(
        &self,
        address: &str,
        outgoing: mpsc::Receiver<pb::FromWorker>,
    ) -> Result<Incoming<pb::ToWorker>, Status> {
        let mut client = self.connect(address).await?;
        Ok(Box::pin(client.session(ReceiverStream::new(outgoing)).await?.into_inner()))
    }

    async fn stream(&self, address: &str, outgoing: mpsc::Receiver<pb::Frame>) -> Result<Incoming<pb::Frame>, Status> {
        let mut client = self.connect(address).await?;
        Ok(Box::pin(client.stream(ReceiverStream::new(outgoing)).await?.into_inner()))
    }
}
