//! rustls configurations from credentials.

use crate::{Credential, Error};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use std::sync::Arc;
use std::time::SystemTime;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Chooses the process-wide cryptography once; call it first in `main` and in tests.
pub fn install_provider() {
    // A second call finds the provider installed and changes nothing.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

fn parse(credential: &Credential) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let read = |error: rustls::pki_types::pem::Error| Error::Read(error.to_string());
    let chain = CertificateDer::pem_slice_iter(credential.certificate.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(read)?;
    Ok((chain, PrivateKeyDer::from_pem_slice(credential.key.as_bytes()).map_err(read)?))
}

fn roots(ca: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.map_err(|error| Error::Read(error.to_string()))?)?;
    }
    Ok(roots)
}

/// A server that verifies client certificates of the cluster. Without `required`, callers may come
/// without one (to join by token); a foreign or expired one is refused either way.
pub fn server(credential: &Credential, ca: &str, required: bool) -> Result<ServerConfig, Error> {
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca)?));
    let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
    let verifier = verifier.build().map_err(|error| Error::Verifier(error.to_string()))?;
    let (chain, key) = parse(credential)?;
    let mut config = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Whether this credential is a whole one that the cluster's authority issued, and not over at `now`. (One whose time is
/// yet to come is sound: then the clock is behind.)
pub fn check(credential: &Credential, ca: &str, now: SystemTime) -> Result<(), Error> {
    server(credential, ca, true)?;
    let (chain, _) = parse(credential)?;
    let leaf = chain.first().ok_or_else(|| Error::Read("there is none".into()))?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca)?));
    let verifier = verifier.build().map_err(|error| Error::Verifier(error.to_string()))?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match verifier.verify_client_cert(leaf, &[], UnixTime::since_unix_epoch(since)) {
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Ok(()),
        verified => Ok(verified.map(drop)?),
    }
}

/// A client of the cluster that speaks `protocol`, by its ALPN name, with a certificate.
pub fn client(credential: &Credential, ca: &str, protocol: &str) -> Result<ClientConfig, Error> {
    let (chain, key) = parse(credential)?;
    let builder = ClientConfig::builder().with_root_certificates(roots(ca)?);
    let mut config = builder.with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![protocol.into()];
    Ok(config)
}

/// tonic's client configuration: the cluster's CA, and the caller's certificate when it has one.
pub fn tonic_client(credential: Option<&Credential>, ca: &str, domain: &str) -> ClientTlsConfig {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(domain);
    match credential {
        Some(credential) => config.identity(Identity::from_pem(&credential.certificate, &credential.key)),
        None => config,
    }
}

/// A client that trusts nothing by name but reports the server's chain: with it a joiner fetches the
/// CA, whose digest its token pins.
fn unverified_client() -> ClientConfig {
    let mut config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny)).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS connection to a server whose certificate is not verified: send it nothing that matters.
pub async fn connect_unverified(addr: &str) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, Error> {
    let read = |why: String| Error::Read(why);
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']']).to_string();
    let stream =
        tokio::net::TcpStream::connect(addr).await.map_err(|e| read(format!("cannot connect to {addr}: {e}")))?;
    handshake_unverified(stream, &host).await.map_err(|e| read(format!("TLS with {addr}: {e}")))
}

/// Turns a connection into a TLS one with whoever answers: the certificate is not verified.
pub async fn handshake_unverified(
    stream: tokio::net::TcpStream,
    host: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let name = ServerName::try_from(host.to_string()).map_err(std::io::Error::other)?;
    tokio_rustls::TlsConnector::from(Arc::new(unverified_client())).connect(name, stream).await
}

/// Takes the last certificate of the chain that `addr` shows, and returns it as PEM if its digest is
/// the pinned one.
pub async fn fetch_ca(addr: &str, ca_digest: &str) -> Result<String, Error> {
    let stream = connect_unverified(addr).await?;
    let ca = stream.get_ref().1.peer_certificates().and_then(|chain| chain.last());
    let ca = ca.ok_or_else(|| Error::Read("the server shows no certificate".into()))?;
    if crate::token::digest(ca) != ca_digest {
        return Err(Error::OtherCluster(addr.into()));
    }
    Ok(to_pem(ca))
}

/// The digest that tokens pin: SHA-256 of the CA's DER form.
pub fn ca_digest(ca: &str) -> Result<String, Error> {
    let der = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|error| Error::Read(error.to_string()))?;
    Ok(crate::token::digest(&der))
}

fn to_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or("")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
