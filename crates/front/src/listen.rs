//! Listening: TLS, HTTP/1.1 and HTTP/2 on one port, with the caller's identity attached.

use crate::gathered::Gathered;
use authz::Identity;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tower::Service;

/// A client that does not finish its TLS handshake by then is dropped.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// And one that was refused, when it does not hang up, or sends more than a first request.
const PARTING_MAX: Duration = Duration::from_secs(1);
const PARTING_BYTES_MAX: u64 = 64 * 1024;
/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: u32 = 10_000;
/// Of an ending process a connection gets this long for the requests under way. Long watches do not end by themselves;
/// clients reconnect elsewhere.
const LAST_ANSWERS_MAX: Duration = Duration::from_millis(300);

/// The caller, as its verified certificate names it; absent when it showed none. An extension of
/// every request.
#[derive(Clone, Debug)]
pub struct Caller(pub Option<Identity>);

/// What ends connections from outside.
#[derive(Clone)]
pub struct Ends {
    /// Turns true when the process stops.
    pub stop: watch::Receiver<bool>,
    /// The address this process is letting go of: another is about to serve at it, and whoever is
    /// connected to us there must hear of the end while we can still say it.
    pub leaving: watch::Receiver<Option<IpAddr>>,
}

impl Ends {
    /// For a listener whose address stays.
    pub fn at_stop(stop: watch::Receiver<bool>) -> Ends {
        Ends { stop, leaving: watch::channel(None).1 }
    }
}

/// Serves `router` until `ends` says so and every connection has ended. `tls` is watched, so that renewed certificates
/// are used for new connections.
pub async fn serve(listener: TcpListener, tls: watch::Receiver<Arc<ServerConfig>>, router: Router, mut ends: Ends) {
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX as usize));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut ends.stop) => {
                drop((listener, slot));
                // Each connection ends soon, and gives its place back.
                drop(slots.acquire_many(CONNECTIONS_MAX).await);
                return;
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a connection that died in the queue.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(tls.borrow().clone());
        let (router, ends) = (router.clone(), ends.clone());
        // A listener of both families shows an IPv4 address mapped into IPv6.
        let own = stream.local_addr().map(|address| address.ip().to_canonical()).ok();
        let mut leaving = ends.leaving.clone();
        tokio::spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = connection(stream, peer, acceptor, router, ends.stop) => {}
                () = left(&mut leaving, own) => tracing::debug!(%peer, "the address moves: connection ended"),
            }
        });
    }
}

async fn connection(
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let handshake = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream).into_fallible());
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = stopped(&mut stop) => return,
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, stream))) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return part(stream).await;
        }
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let caller = Caller(certificate.and_then(|der| pki::identity_of(der).ok()));
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(caller.clone());
        router.clone().call(request)
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(1000).keep_alive_interval(Some(Duration::from_secs(10)));
    // A master that was frozen or starved finds many requests given up at once, by as many clients as share
    // a connection. By default the 21st ends it for all of them.
    builder.http2().max_pending_accept_reset_streams(1000);
    builder.http2().timer(hyper_util::rt::TokioTimer::new());
    builder.http1().timer(hyper_util::rt::TokioTimer::new());
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(Gathered::new(stream)), service);
    tokio::pin!(serving);
    tokio::select! {
        result = serving.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }
        () = stopped(&mut stop) => {
            serving.as_mut().graceful_shutdown();
            drop(tokio::time::timeout(LAST_ANSWERS_MAX, serving).await);
        }
    }
}

/// Closes a refused connection so that its client can read why: closed with something unread, the kernel resets it,
/// and the alert that is on its way may be lost with it.
async fn part(mut stream: tokio::net::TcpStream) {
    let parting = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(PARTING_BYTES_MAX), &mut tokio::io::sink()).await
    };
    // A client that is gone, or does not go, has heard what there is to hear.
    drop(tokio::time::timeout(PARTING_MAX, parting).await);
}

/// Returns once the address `own` is being let go of.
async fn left(leaving: &mut watch::Receiver<Option<IpAddr>>, own: Option<IpAddr>) {
    if leaving.wait_for(|address| address.is_some() && *address == own).await.is_err() {
        std::future::pending().await
    }
}

/// Returns once `stop` is true, or its sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}
