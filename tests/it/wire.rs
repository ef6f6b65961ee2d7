//! Raw HTTPS and raw gRPC with a certificate of one's choice: what a master answers before any client
//! library has its say.

use crate::cluster::Cluster;
use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::{Authority, Credential};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An answer takes at most this long; a stream that is open by then stays so.
const PATIENCE: Duration = Duration::from_secs(8);
const STREAM_PATIENCE: Duration = Duration::from_millis(700);

/// What came back, or why nothing did.
#[derive(Debug, Clone)]
pub(crate) enum Answer<T> {
    Got(T),
    /// The other side wanted none of our certificate.
    Tls,
    Broken(String),
}

impl<T> Answer<T> {
    pub(crate) fn got(self) -> T {
        match self {
            Answer::Got(answer) => answer,
            Answer::Tls => panic!("TLS was refused"),
            Answer::Broken(why) => panic!("no answer: {why}"),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct RestAnswer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    /// Empty for a stream, whose head alone was read.
    pub(crate) body: Bytes,
}

impl RestAnswer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A call's end. A stream that is still open has none.
#[derive(Debug, Clone)]
pub(crate) struct GrpcAnswer {
    pub(crate) code: Option<tonic::Code>,
}

/// One REST request: who asks, and what.
#[derive(Clone, Copy)]
pub(crate) struct RestCall<'a> {
    credential: Option<&'a Credential>,
    method: &'a str,
    path: &'a str,
    content_type: &'a str,
    body: &'a str,
}

impl<'a> RestCall<'a> {
    /// Without a body.
    pub(crate) fn new(credential: Option<&'a Credential>, method: &'a str, path: &'a str) -> RestCall<'a> {
        RestCall { credential, method, path, content_type: "", body: "" }
    }

    pub(crate) fn get(credential: Option<&'a Credential>, path: &'a str) -> RestCall<'a> {
        RestCall::new(credential, "GET", path)
    }

    pub(crate) fn sending(self, content_type: &'a str, body: &'a str) -> RestCall<'a> {
        RestCall { content_type, body, ..self }
    }

    pub(crate) fn json(self, body: &'a str) -> RestCall<'a> {
        self.sending("application/json", body)
    }
}

/// One gRPC call: a message, and the end of the caller's side.
#[derive(Clone, Copy)]
pub(crate) struct GrpcCall<'a> {
    /// host:port.
    pub(crate) addr: &'a str,
    pub(crate) credential: Option<&'a Credential>,
    /// `package.Service/Method`.
    pub(crate) method: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) message: &'a [u8],
}

/// The addresses of one master, the cluster's CA with its key, and a way to speak as anybody.
pub(crate) struct Wire {
    pub(crate) api: String,
    pub(crate) peer: String,
    pub(crate) authority: Authority,
    runtime: tokio::runtime::Runtime,
}

/// The administrator of a kubeconfig.
fn admin(config: &Value) -> Credential {
    let user = &config["users"][0]["user"];
    let text = |field: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(user[field].as_str().unwrap()).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    Credential { certificate: text("client-certificate-data"), key: text("client-key-data") }
}

impl Wire {
    /// To the master `name`; its authority is read from the cluster, as an administrator may.
    pub(crate) fn new(cluster: &Cluster, name: &str) -> Wire {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let text = std::fs::read_to_string(cluster.dir.join("kubeconfig")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let members = cluster.json(&["status"])["members"].clone();
        let member = members.as_array().unwrap().iter().find(|member| member["name"] == name).unwrap().clone();
        let address = |field: &str| member[field].as_str().unwrap_or_else(|| panic!("{member}")).to_string();
        let ca_data = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
        let ca = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(ca_data).unwrap()).unwrap();
        let mut wire = Wire {
            api: address("apiAddress"),
            peer: address("peerAddress"),
            authority: Authority { credential: Credential { certificate: ca, key: String::new() } },
            runtime: tokio::runtime::Runtime::new().unwrap(),
        };
        let path = "/api/v1/namespaces/kube-system/secrets/balsa-cluster";
        let secret = wire.rest(RestCall::get(Some(&admin(&config)), path)).got().json();
        let key = base64::engine::general_purpose::STANDARD.decode(secret["data"]["ca.key"].as_str().unwrap()).unwrap();
        wire.authority.credential.key = String::from_utf8(key).unwrap();
        wire
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A certificate of the cluster that has been good until yesterday.
    pub(crate) fn expired(&self, role: authz::Role, holder: &str) -> Credential {
        let yesterday = std::time::SystemTime::now() - Duration::from_secs(24 * 3600);
        self.authority.issue_as_of(yesterday - pki::VALIDITY, role, holder, &[]).unwrap()
    }

    async fn connect(
        &self,
        addr: &str,
        credential: Option<&Credential>,
        protocol: &str,
    ) -> Result<TlsStream<TcpStream>, std::io::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.credential.certificate.as_bytes()).unwrap()).unwrap();
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let mut config = match credential {
            None => builder.with_no_client_auth(),
            Some(credential) => {
                let chain = vec![CertificateDer::from_pem_slice(credential.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(credential.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    /// Of an answer that streams, the head is read.
    pub(crate) fn rest(&self, call: RestCall) -> Answer<RestAnswer> {
        self.block_on(persistently(|| self.rest_now(call)))
    }

    async fn rest_now(&self, call: RestCall<'_>) -> Result<RestAnswer, Box<dyn std::error::Error>> {
        let RestCall { credential, method, path, content_type, body } = call;
        let stream = self.connect(&self.api, credential, "http/1.1").await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let serving = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let sent = sender.send_request(request.body(Full::new(Bytes::from(body.to_string())))?).await;
        let response = match sent {
            Ok(response) => response,
            // What TLS had to say reaches the connection.
            Err(error) => {
                serving.await??;
                return Err(error.into());
            }
        };
        let (head, body) = response.into_parts();
        let streams = path.contains("watch=true") && head.status.is_success();
        let body = if streams { Bytes::new() } else { body.collect().await?.to_bytes() };
        Ok(RestAnswer { code: head.status.as_u16(), headers: head.headers, body })
    }

    pub(crate) fn grpc(&self, call: GrpcCall) -> Answer<GrpcAnswer> {
        self.block_on(persistently(|| self.grpc_now(call)))
    }

    async fn grpc_now(&self, call: GrpcCall<'_>) -> Result<GrpcAnswer, Box<dyn std::error::Error>> {
        let GrpcCall { addr, credential, method, content_type, message } = call;
        let stream = self.connect(addr, credential, "h2").await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let serving = tokio::spawn(connection);
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        frame.extend_from_slice(message);
        let request = Request::builder()
            .method("POST")
            .uri(format!("https://localhost/{method}"))
            .header("content-type", content_type)
            .header("te", "trailers")
            .body(Full::new(Bytes::from(frame)))?;
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => {
                serving.await??;
                return Err(error.into());
            }
        };
        let end = |headers: &HeaderMap| {
            tonic::Status::from_header_map(headers).map(|status| GrpcAnswer { code: Some(status.code()) })
        };
        let (head, mut body) = response.into_parts();
        if let Some(answer) = end(&head.headers) {
            return Ok(answer);
        }
        if !head.status.is_success() {
            return Err(format!("HTTP {}", head.status).into());
        }
        let open = GrpcAnswer { code: None };
        loop {
            match tokio::time::timeout(STREAM_PATIENCE, body.frame()).await {
                Err(_) | Ok(None) => return Ok(open),
                Ok(Some(frame)) => {
                    if let Some(answer) = frame?.trailers_ref().and_then(&end) {
                        return Ok(answer);
                    }
                }
            }
        }
    }
}

/// Who is refused by TLS may find the connection closed before it has read why: then it asks again.
const TRIES_MAX: usize = 20;

async fn persistently<T, F: Future<Output = Result<T, Box<dyn std::error::Error>>>>(ask: impl Fn() -> F) -> Answer<T> {
    let mut last = String::new();
    for _ in 0..TRIES_MAX {
        match tokio::time::timeout(PATIENCE, ask()).await {
            Err(_) => return Answer::Broken(format!("no answer within {PATIENCE:?}")),
            Ok(answer) => match told(answer) {
                Answer::Broken(why) if ["broken pipe", "reset", "closed"].iter().any(|word| why.contains(word)) => {
                    last = why
                }
                answer => return answer,
            },
        }
    }
    Answer::Broken(last)
}

/// Tells a refusal by TLS from other failures.
fn told<T>(answer: Result<T, Box<dyn std::error::Error>>) -> Answer<T> {
    let error = match answer {
        Ok(answer) => return Answer::Got(answer),
        Err(error) => error,
    };
    let mut chain = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        chain.push(error.to_string());
        source = error.source();
    }
    let text = chain.join(": ");
    if text.contains("fatal alert") { Answer::Tls } else { Answer::Broken(text) }
}
