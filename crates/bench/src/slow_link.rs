//! A slow link between masters on one machine: what one sends another is handed on after half a round trip, and
//! what is left of the millisecond.

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// Whom relays call as, so that their own calls are not led to a relay again.
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Bytes read at once, and how many reads may be on their way in one direction of a connection: more than
/// loopback hands on in half a round trip of 100 ms.
const CHUNK: usize = 64 << 10;
const CHUNKS_ON_THE_WAY: usize = 4096;

/// Moves this process, and all that it starts from now on, into a network of its own, which holds nothing
/// but loopback and ends with the last of them. Before any other thread is started: each has its own.
pub(crate) fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a slow link needs a network namespace of its own, which needs root")?;
    run("ip", &["link", "set", "lo", "up"], "")
}

fn run(program: &str, words: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new(program);
    let mut child = command.args(words).stdin(Stdio::piped()).spawn().with_context(|| format!("starting {program}"))?;
    child.stdin.take().context("it was piped")?.write_all(input.as_bytes())?;
    match child.wait()? {
        status if status.success() => Ok(()),
        status => bail!("{program} {}: {status}", words.join(" ")),
    }
}

/// What leads calls of `ports` to the relay before each.
fn rules(relays: &[(u16, u16)]) -> String {
    let rule = |(port, relay): &(u16, u16)| {
        format!("ip saddr 127.0.0.1 ip daddr 127.0.0.1 tcp dport {port} redirect to :{relay}\n")
    };
    let rules: String = relays.iter().map(rule).collect();
    format!(
        "table ip slow_link {{\nchain output {{\ntype nat hook output priority -100; policy accept;\n{rules}}}\n}}\n"
    )
}

/// Relays that end with this value.
pub(crate) struct SlowLink(Vec<AbortHandle>);

impl SlowLink {
    /// Slows connections to `ports` of loopback that are made from now on. In a network of one's own.
    pub(crate) async fn before(ports: &[u16], round_trip: Duration) -> Result<SlowLink> {
        let (mut relays, mut tasks) = (Vec::new(), Vec::new());
        for port in ports {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a relay's port")?;
            relays.push((*port, listener.local_addr()?.port()));
            tasks.push(tokio::spawn(relay(listener, *port, round_trip / 2)).abort_handle());
        }
        run("nft", &["-f", "-"], &rules(&relays))?;
        Ok(SlowLink(tasks))
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

async fn relay(listener: TcpListener, port: u16, delay: Duration) {
    // Ends its connections when it is ended.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((caller, _)) => drop(connections.spawn(connect(caller, port, delay))),
                Err(error) => return eprintln!("the slow link to port {port} is cut: {error}"),
            },
            Some(ended) = connections.join_next() => match ended {
                Ok(Err(error)) if !is_end(&error) => eprintln!("a connection to port {port}: {error}"),
                Ok(_) => {}
                Err(error) => return eprintln!("the slow link to port {port} is cut: {error}"),
            },
        }
    }
}

/// Whether it says no more than that one of the two has gone.
fn is_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

async fn connect(caller: TcpStream, port: u16, delay: Duration) -> std::io::Result<()> {
    tokio::time::sleep(delay).await;
    let socket = TcpSocket::new_v4()?;
    socket.bind((RELAY, 0).into())?;
    let called = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    caller.set_nodelay(true)?;
    called.set_nodelay(true)?;
    let ((from_caller, to_caller), (from_called, to_called)) = (caller.into_split(), called.into_split());
    tokio::try_join!(hand_on(from_caller, to_called, delay), hand_on(from_called, to_caller, delay)).map(drop)
}

/// Copies bytes, each `delay` after it was read, and then the end.
async fn hand_on(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    delay: Duration,
) -> std::io::Result<()> {
    let (sent, mut arriving) = mpsc::channel(CHUNKS_ON_THE_WAY);
    let read = async move {
        loop {
            let mut bytes = prost::bytes::BytesMut::with_capacity(CHUNK);
            if from.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            // The other half is polled beside this one, so it can only have failed.
            if sent.send((Instant::now() + delay, bytes)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = arriving.recv().await {
            tokio::time::sleep_until(due).await;
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_led_to_its_relay() {
        expect_test::expect![[r#"
            table ip slow_link {
            chain output {
            type nat hook output priority -100; policy accept;
            ip saddr 127.0.0.1 ip daddr 127.0.0.1 tcp dport 1 redirect to :11
            ip saddr 127.0.0.1 ip daddr 127.0.0.1 tcp dport 2 redirect to :12
            }
            }
        "#]]
        .assert_eq(&rules(&[(1, 11), (2, 12)]));
    }

    /// In virtual time: all of it, in order, and no byte before its time.
    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_after_the_delay() {
        let ((mut near, from), (to, mut far)) = (tokio::io::duplex(1 << 20), tokio::io::duplex(1 << 20));
        let (from, to) = (tokio::io::split(from).0, tokio::io::split(to).1);
        let handing = tokio::spawn(hand_on(from, to, Duration::from_millis(10)));
        let sent = Instant::now();
        near.write_all(b"one").await.unwrap();
        let mut read = [0; 3];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!((&read, sent.elapsed().as_millis()), (b"one", 10));
        near.write_all(b"two").await.unwrap();
        drop(near);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!((rest.as_slice(), sent.elapsed().as_millis()), (b"two".as_slice(), 20));
        handing.await.unwrap().unwrap();
    }
}
