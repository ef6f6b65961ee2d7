//! A gRPC client of a test's cluster: what a user's program would do, retries included.

use crate::cluster::Cluster;
use base64::Engine;
use protos::objects as pb;
use protos::objects::objects_client::ObjectsClient;
use serde_json::Value;
use std::time::{Duration, Instant};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

/// A connection to one context's server of the cluster's kubeconfig; without a certificate for nobody.
pub(crate) fn endpoint(cluster: &Cluster, context: &str, with_certificate: bool) -> Endpoint {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let text = std::fs::read_to_string(cluster.dir.join("kubeconfig")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let named = config["clusters"].as_array().unwrap().iter().find(|entry| entry["name"] == context).unwrap();
    let decode = |value: &Value| base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    let user = &config["users"][0]["user"];
    let ca = Certificate::from_pem(decode(&named["cluster"]["certificate-authority-data"]));
    let mut tls = ClientTlsConfig::new().ca_certificate(ca);
    if with_certificate {
        let certificate = decode(&user["client-certificate-data"]);
        tls = tls.identity(Identity::from_pem(certificate, decode(&user["client-key-data"])));
    }
    let server = named["cluster"]["server"].as_str().unwrap().to_string();
    Endpoint::from_shared(server).unwrap().tls_config(tls).unwrap()
}

pub(crate) fn key(resource: &str, name: &str) -> pb::Key {
    pb::Key { resource: resource.into(), namespace: "default".into(), name: name.into(), ..pb::Key::default() }
}

/// Writes through one address for as long as it takes, as a client that must not lose a write does:
/// each write has a name, and is repeated under it until it is acknowledged.
pub(crate) struct Writer {
    endpoint: Endpoint,
    client: ObjectsClient<Channel>,
}

impl Writer {
    pub(crate) fn new(cluster: &Cluster, context: &str) -> Writer {
        // A broken path is found by silence, not only by an answer.
        let endpoint = endpoint(cluster, context, true)
            .connect_timeout(Duration::from_millis(100))
            .timeout(Duration::from_millis(500))
            .tcp_nodelay(true);
        let client = ObjectsClient::new(endpoint.connect_lazy());
        Writer { endpoint, client }
    }

    /// Creates a ConfigMap; returns once it is acknowledged, or says what was answered instead.
    pub(crate) async fn create(&mut self, name: &str, patience: Duration) -> Result<(), Status> {
        let object = serde_json::json!({"metadata": {"name": name}, "data": {"written": "by a test"}});
        let request = pb::WriteRequest {
            key: Some(key("configmaps", "")),
            json: object.to_string().into(),
            request_id: format!("create-{name}"),
            ..pb::WriteRequest::default()
        };
        let started = Instant::now();
        loop {
            let status = match self.client.create(request.clone()).await {
                Ok(_) => return Ok(()),
                Err(status) => status,
            };
            let again = matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted
            );
            if !again || started.elapsed() > patience {
                return Err(status);
            }
            self.client = ObjectsClient::new(self.endpoint.connect_lazy());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
