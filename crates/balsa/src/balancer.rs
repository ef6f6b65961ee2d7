//! A development cluster's common address where there are no network namespaces: a TCP balancer over
//! the masters that are ready. It cuts the connections of a master that stops being ready, so that
//! clients come back through another.

use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const CHECK_EVERY: Duration = Duration::from_millis(200);
const CHECK_MAX: Duration = Duration::from_millis(700);

pub(crate) fn run(listen: &str, targets: Vec<String>) -> Result<()> {
    crate::multi_thread("balancer", 1)?.block_on(serve(listen, targets))
}

struct Target {
    addr: String,
    ready: watch::Receiver<bool>,
}

async fn serve(listen: &str, targets: Vec<String>) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    let mut all = Vec::new();
    for addr in targets {
        let (sender, ready) = watch::channel(false);
        tokio::spawn(watch_target(addr.clone(), sender));
        all.push(Target { addr, ready });
    }
    let all = Arc::new(all);
    let mut turn = 0_usize;
    loop {
        let (client, _) = listener.accept().await?;
        turn += 1;
        let (all, turn) = (all.clone(), turn);
        tokio::spawn(async move { carry(client, &all, turn).await });
    }
}

/// Asks a master's `/readyz` for ever.
async fn watch_target(addr: String, ready: watch::Sender<bool>) {
    loop {
        let now = matches!(tokio::time::timeout(CHECK_MAX, is_ready(&addr)).await, Ok(Ok(true)));
        ready.send_if_modified(|was| std::mem::replace(was, now) != now);
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

async fn is_ready(addr: &str) -> Result<bool> {
    let mut stream = pki::tls::connect_unverified(addr).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n").await?;
    // A TLS stream may keep what it took until it is told.
    stream.flush().await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(head.ends_with(b" 200"))
}

async fn carry(mut client: TcpStream, targets: &[Target], turn: usize) {
    let n = targets.len();
    // With no master ready, any that takes the connection can still say why, and answer from its
    // own state.
    let in_turn = || (0..n).map(|i| &targets[(turn + i) % n]);
    let ready = in_turn().filter(|target| *target.ready.borrow());
    let rest = in_turn().filter(|target| !*target.ready.borrow());
    for target in ready.chain(rest) {
        let was_ready = *target.ready.borrow();
        let connecting = TcpStream::connect(&target.addr);
        let Ok(Ok(mut server)) = tokio::time::timeout(Duration::from_millis(500), connecting).await else { continue };
        for stream in [&client, &server] {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
        }
        let mut ready = target.ready.clone();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            _ = async { drop(ready.wait_for(|ready| *ready != was_ready).await) } => {}
        }
        return;
    }
    tracing::debug!("no master is ready");
}
