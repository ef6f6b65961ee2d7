//! Connections, the same for every system: tonic over TLS with client certificates, no delay.

use anyhow::{Context, Result};
use pki::Credential;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// Connections that clients share, at most; what a pool of this size would hold.
pub(crate) const CONNECTIONS_MAX: usize = 8;

/// Who connects to what.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) ca: String,
    pub(crate) credential: Credential,
}

impl Access {
    pub(crate) async fn connect(&self, addr: &str) -> Result<Channel> {
        let tls = pki::tls::tonic_client(Some(&self.credential), &self.ca, "localhost");
        let endpoint = Endpoint::from_shared(format!("https://{addr}"))?.tls_config(tls)?.tcp_nodelay(true);
        let connected = endpoint.connect_timeout(Duration::from_secs(2)).connect().await;
        connected.with_context(|| format!("connecting to {addr}"))
    }

    /// The connections of `n_clients`, for the clients to take turns on.
    pub(crate) async fn pool(&self, addr: &str, n_clients: usize) -> Result<Vec<Channel>> {
        let mut pool = Vec::new();
        for _ in 0..n_clients.clamp(1, CONNECTIONS_MAX) {
            pool.push(self.connect(addr).await?);
        }
        Ok(pool)
    }
}
