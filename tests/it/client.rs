//! A gRPC client of a test's cluster: what a user's program would do, retries included.

use crate::cluster::Cluster;
use client::{Access, Client, Patience};
use protos::objects as pb;
use protos::objects::objects_client::ObjectsClient;
use std::path::Path;
use std::time::Duration;
use tonic::transport::Endpoint;

/// A connection to one context's server of the cluster's kubeconfig; without a certificate for nobody.
pub(crate) fn endpoint(cluster: &Cluster, context: &str, with_certificate: bool) -> Endpoint {
    endpoint_of(&cluster.dir.join("kubeconfig"), context, with_certificate)
}

/// The same of any kubeconfig.
pub(crate) fn endpoint_of(kubeconfig: &Path, context: &str, with_certificate: bool) -> Endpoint {
    let mut access = access(kubeconfig, context);
    access.identity = access.identity.filter(|_| with_certificate);
    access.endpoint(&access.servers[0]).unwrap()
}

fn access(kubeconfig: &Path, context: &str) -> Access {
    pki::tls::install_provider();
    let access = Access::read(kubeconfig).unwrap_or_else(|error| panic!("{}: {error}", kubeconfig.display()));
    access.only(context).unwrap_or_else(|| panic!("no server is named {context}"))
}

pub(crate) fn key(resource: &str, name: &str) -> pb::Key {
    pb::Key { resource: resource.into(), namespace: "default".into(), name: name.into(), ..pb::Key::default() }
}

/// Writes through one address for as long as it takes, as a client that must not lose a write does:
/// each write has a name, and is repeated under it until it is acknowledged.
pub(crate) struct Writer(Client);

impl Writer {
    pub(crate) fn new(kubeconfig: &Path, context: &str, total: Duration) -> Writer {
        // A broken path is found by silence, not only by an answer.
        let (connect, answer) = ([Duration::from_millis(100); 2], Duration::from_millis(500));
        let patience = Patience { connect, answer, pause: Duration::from_millis(5), total };
        Writer(Client::with_patience(access(kubeconfig, context), patience))
    }

    /// Creates a ConfigMap; returns once it is acknowledged, or says what was answered instead.
    pub(crate) async fn create(&self, name: &str) -> Result<(), client::Error> {
        let object = serde_json::json!({"metadata": {"name": name}, "data": {"written": "by a test"}});
        let request = pb::WriteRequest {
            key: Some(key("configmaps", "")),
            json: object.to_string().into(),
            request_id: format!("create-{name}"),
            ..pb::WriteRequest::default()
        };
        self.0.call(async |channel| ObjectsClient::new(channel).create(request.clone()).await).await.map(drop)
    }
}
