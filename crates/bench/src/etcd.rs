//! etcd: a group of three on loopback, and clients of its documented gRPC API (v3).
//!
//! The messages are written here as far as the bench needs them: names and field numbers are the wire
//! contract of etcd's documentation.

use crate::body;
use crate::load::{self, Client, Fill};
use crate::process::{Server, free_ports};
use crate::watch::Watcher;
use crate::wire::{Access, Connection};
use anyhow::{Context, Result, bail};
use authz::Role;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

const PREFIX: &str = "/registry/configmaps/default/";
/// The first key behind the prefix: its last byte plus one.
const PREFIX_END: &str = "/registry/configmaps/default0";
/// How long a group may take to elect a leader.
const START_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: prost::bytes::Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: prost::bytes::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// Without a condition: what it does always succeeds.
#[derive(Clone, PartialEq, prost::Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

/// One of a choice of requests, on the wire no other than the one that is made.
#[derive(Clone, PartialEq, prost::Message)]
struct RequestOp {
    #[prost(message, optional, tag = "2")]
    put: Option<PutRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnResponse {
    #[prost(bool, tag = "2")]
    succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    responses: Vec<ResponseOp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseOp {}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: prost::bytes::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: prost::bytes::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreate>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchCreate {
    #[prost(bytes = "bytes", tag = "1")]
    key: prost::bytes::Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    range_end: prost::bytes::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(bool, tag = "4")]
    canceled: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

async fn unary<Q, A>(connection: &Connection, path: &'static str, request: Q) -> Result<A>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(connection.clone());
    grpc.ready().await?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await?;
    Ok(answer.into_inner())
}

/// What the server calls itself, e.g. `etcd 3.4.23`.
pub(crate) fn label(binary: &Path) -> Result<String> {
    let output = Command::new(binary).arg("--version").output();
    let output = output.with_context(|| format!("running {} --version", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    let version = version.with_context(|| format!("{} is not an etcd server: {text}", binary.display()))?;
    Ok(format!("etcd {}", version.trim()))
}

/// A running group.
pub(crate) struct Etcd {
    servers: Vec<Server>,
    access: Access,
    /// Of clients.
    ports: Vec<u16>,
    leader: String,
}

impl Etcd {
    /// Starts three members in `dir` and waits until one leads. fsync is on, as it is by default.
    pub(crate) async fn start(binary: &Path, dir: &Path) -> Result<Etcd> {
        std::fs::create_dir_all(dir)?;
        let authority = pki::Authority::generate("bench")?;
        let names = ["localhost".to_string(), "127.0.0.1".to_string()];
        let credential = authority.issue(Role::Master, "etcd", &names)?;
        let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
        std::fs::write(file("ca.crt"), &authority.credential.certificate)?;
        std::fs::write(file("tls.crt"), &credential.certificate)?;
        std::fs::write(file("tls.key"), &credential.key)?;
        let ports = free_ports(6)?;
        let url = |port: u16| format!("https://127.0.0.1:{port}");
        let group: Vec<String> = (0..3).map(|i| format!("m{i}={}", url(ports[3 + i]))).collect();
        let mut servers = Vec::new();
        for i in 0..3 {
            // Masters raise their own priority: what they are compared with has the same.
            let mut command = Command::new("nice");
            command.arg("-n-10").arg(binary);
            command.args(["--name", &format!("m{i}"), "--data-dir", &file(&format!("m{i}"))]);
            command.args(["--listen-client-urls", &url(ports[i]), "--advertise-client-urls", &url(ports[i])]);
            command.args(["--listen-peer-urls", &url(ports[3 + i])]);
            command.args(["--initial-advertise-peer-urls", &url(ports[3 + i])]);
            command.args(["--initial-cluster", &group.join(","), "--initial-cluster-state", "new"]);
            for kind in ["", "peer-"] {
                command.arg(format!("--{kind}client-cert-auth"));
                command.args([format!("--{kind}trusted-ca-file"), file("ca.crt")]);
                command.args([format!("--{kind}cert-file"), file("tls.crt")]);
                command.args([format!("--{kind}key-file"), file("tls.key")]);
            }
            // Room for every round; its default of 2 GiB would end a long run.
            command.args(["--quota-backend-bytes", "8589934592", "--logger", "zap", "--log-level", "error"]);
            servers.push(Server::start(&mut command, &dir.join(format!("m{i}.log")))?);
        }
        let access = Access { ca: authority.credential.certificate.clone(), credential };
        let ports = ports[..3].to_vec();
        let leader = wait_for_leader(&mut servers, &access, &ports).await?;
        Ok(Etcd { servers, access, ports, leader })
    }

    /// Finds who leads now: a member that does not would only pass requests on.
    pub(crate) async fn follow_leader(&mut self) -> Result<()> {
        self.leader = wait_for_leader(&mut self.servers, &self.access, &self.ports).await?;
        Ok(())
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Server::pid).collect()
    }

    /// Clients that put one key at a time. Their keys are there.
    pub(crate) async fn writers(&self, cell: &str, n: usize, n_bytes: usize) -> Result<Vec<Put>> {
        let pool = self.access.pool(&self.leader, n).await?;
        let put = |i: usize| Put {
            connection: pool[i % pool.len()].clone(),
            names: crate::names(cell, i, n),
            next: 0,
            n_bytes,
        };
        load::filled((0..n).map(put).collect()).await.with_context(|| format!("putting the keys of {cell}"))
    }

    /// Clients with `size` puts in each transaction.
    pub(crate) async fn batched(&self, cell: &str, n: usize, size: usize, n_bytes: usize) -> Result<Vec<Batched>> {
        let puts = self.writers(cell, n, n_bytes).await?;
        Ok(puts.into_iter().map(|put| Batched { put, size }).collect())
    }

    pub(crate) async fn readers(&self, cell: &str, n: usize) -> Result<Vec<Range>> {
        let pool = self.access.pool(&self.leader, n).await?;
        let range = |i: usize| Range {
            connection: pool[i % pool.len()].clone(),
            key: format!("{PREFIX}{}", crate::names(cell, i, n)[0]).into(),
        };
        Ok((0..n).map(range).collect())
    }

    pub(crate) async fn watchers(&self, n: usize) -> Result<Vec<Watch>> {
        let pool = self.access.pool(&self.leader, n).await?;
        let mut watchers = Vec::with_capacity(n);
        for i in 0..n {
            let mut grpc = Grpc::new(pool[i % pool.len()].clone());
            grpc.ready().await?;
            let create = WatchCreate { key: PREFIX.into(), range_end: PREFIX_END.into() };
            let first = tokio_stream::once(WatchRequest { create: Some(create) });
            // The stream of requests stays open: its end would be the watch's.
            let requests = tonic::Request::new(first.chain(tokio_stream::pending()));
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            let mut events = grpc.streaming(requests, path, codec).await?.into_inner();
            match events.message().await? {
                Some(WatchResponse { created: true, .. }) => watchers.push(Watch { events }),
                other => bail!("a watch was answered with {other:?}"),
            }
        }
        Ok(watchers)
    }
}

async fn wait_for_leader(servers: &mut [Server], access: &Access, ports: &[u16]) -> Result<String> {
    let started = Instant::now();
    loop {
        servers.iter_mut().try_for_each(Server::check)?;
        match find_leader(access, ports).await {
            Ok(leader) => return Ok(leader),
            Err(error) if started.elapsed() > START_MAX => return Err(error.context("etcd elects no leader")),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn find_leader(access: &Access, ports: &[u16]) -> Result<String> {
    for port in ports {
        let addr = format!("127.0.0.1:{port}");
        let connection = access.connect(&addr).await?;
        let status: StatusResponse = unary(&connection, "/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
        if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
            return Ok(addr);
        }
    }
    bail!("no member leads")
}

/// Puts its own keys in turn.
pub(crate) struct Put {
    connection: Connection,
    names: Vec<String>,
    next: usize,
    n_bytes: usize,
}

impl Put {
    fn request(&mut self) -> PutRequest {
        let name = &self.names[self.next % self.names.len()];
        self.next += 1;
        let value = body::object(body::NAMESPACE, name, self.n_bytes);
        PutRequest { key: format!("{PREFIX}{name}").into(), value }
    }

    /// The next `n` in one transaction, which may not put a key twice.
    async fn many(&mut self, n: usize) -> Result<u64> {
        let n = n.min(self.names.len());
        let success = (0..n).map(|_| RequestOp { put: Some(self.request()) }).collect();
        let answer: TxnResponse = unary(&self.connection, "/etcdserverpb.KV/Txn", TxnRequest { success }).await?;
        if !answer.succeeded || answer.responses.len() != n {
            bail!("{} answers to a transaction of {n} puts", answer.responses.len());
        }
        Ok(n as u64)
    }
}

impl Fill for Put {
    async fn fill(&mut self) -> Result<()> {
        while self.next < self.names.len() {
            self.many(crate::AT_ONCE).await?;
        }
        Ok(())
    }
}

impl Client for Put {
    async fn once(&mut self) -> Result<u64> {
        let request = self.request();
        let _: PutResponse = unary(&self.connection, "/etcdserverpb.KV/Put", request).await?;
        Ok(1)
    }
}

/// Puts `size` of its keys in each transaction.
pub(crate) struct Batched {
    put: Put,
    size: usize,
}

impl Client for Batched {
    async fn once(&mut self) -> Result<u64> {
        self.put.many(self.size).await
    }
}

/// Reads one key, linearizably.
pub(crate) struct Range {
    connection: Connection,
    key: prost::bytes::Bytes,
}

impl Client for Range {
    async fn once(&mut self) -> Result<u64> {
        let request = RangeRequest { key: self.key.clone() };
        let answer: RangeResponse = unary(&self.connection, "/etcdserverpb.KV/Range", request).await?;
        match answer.kvs.len() {
            1 => Ok(1),
            n => bail!("{n} values of one key"),
        }
    }
}

pub(crate) struct Watch {
    events: tonic::Streaming<WatchResponse>,
}

impl Watcher for Watch {
    async fn next(&mut self) -> Result<Vec<u64>> {
        let answer = self.events.message().await?.context("a watch ended")?;
        if answer.canceled {
            bail!("a watch was cancelled");
        }
        let stamp = |event: &Event| body::stamp(&event.kv.as_ref()?.value);
        Ok(answer.events.iter().filter_map(stamp).collect())
    }
}
