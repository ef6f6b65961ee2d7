//! Connections, the same for every system: HTTP/2 over TLS with client certificates, no delay.

use anyhow::{Context, Result};
use http::Uri;
use http::uri::{Authority, Scheme};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::Credential;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::task;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connections that clients share, at most; what a pool of this size would hold.
pub(crate) const CONNECTIONS_MAX: usize = 8;
const HOST: &str = "localhost";
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);

/// Who connects to what.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) ca: String,
    pub(crate) credential: Credential,
}

impl Access {
    pub(crate) async fn connect(&self, addr: &str) -> Result<Connection> {
        let stream = self.tls(addr, "h2").await?;
        let (send, driven) = Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await?;
        // It ends with its last sender; what broke it, each request of its senders is told.
        tokio::spawn(driven);
        Ok(Connection(send))
    }

    /// A TLS stream for `protocol`, by its ALPN name.
    pub(crate) async fn tls(&self, addr: &str, protocol: &str) -> Result<TlsStream<TcpStream>> {
        let config = pki::tls::client(&self.credential, &self.ca, protocol)?;
        let connecting = async {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            anyhow::Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST)?, stream).await?)
        };
        let connected = tokio::time::timeout(CONNECTED_WITHIN, connecting).await.map_err(Into::into).flatten();
        connected.with_context(|| format!("connecting to {addr}"))
    }

    /// The connections of `n_clients`, for the clients to take turns on.
    pub(crate) async fn pool(&self, addr: &str, n_clients: usize) -> Result<Vec<Connection>> {
        let mut pool = Vec::new();
        for _ in 0..n_clients.clamp(1, CONNECTIONS_MAX) {
            pool.push(self.connect(addr).await?);
        }
        Ok(pool)
    }
}

/// One HTTP/2 connection, that its clones share, for tonic's clients to send on. Where tonic's own channel reconnects,
/// queues and times out, this does nothing: the driver runs on the processors that it measures.
#[derive(Clone)]
pub(crate) struct Connection(SendRequest<tonic::body::Body>);

impl tower::Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> task::Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> Self::Future {
        // tonic's clients name the path alone.
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(Authority::from_static(HOST));
        *request.uri_mut() = Uri::from_parts(uri).expect("scheme, host and path are a URI");
        Box::pin(self.0.send_request(request))
    }
}
