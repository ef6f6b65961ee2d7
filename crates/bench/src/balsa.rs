//! Balsa: three masters on loopback, and clients of its ports.

use crate::body;
use crate::load::Client;
use crate::process::{Server, free_ports};
use crate::watch::Watcher;
use crate::wire::Access;
use anyhow::{Context, Result, bail};
use objects::{Key, Revision, json, record, registry};
use pki::Credential;
use protos::cluster::cluster_client::ClusterClient;
use protos::cluster::{StatusRequest, StatusResponse};
use protos::objects as pb;
use protos::objects::objects_client::ObjectsClient;
use protos::raft;
use protos::raft::raft_client::RaftClient;
use raft_node::{outcome_from_bytes, txn_to_bytes};
use state::{Op, Outcome, RequestId, Txn};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// How long a group may take until all three vote.
const START_MAX: Duration = Duration::from_secs(30);

/// A running group.
pub(crate) struct Balsa {
    servers: Vec<Server>,
    /// With a master's certificate, which may propose and has an administrator's rights.
    access: Access,
    to: raft::To,
    api: String,
    peer: String,
}

impl Balsa {
    /// Starts three masters in `dir`, with the shipped defaults, and waits until all vote.
    pub(crate) async fn start(binary: &Path, dir: &Path) -> Result<Balsa> {
        let ports = free_ports(6)?;
        let api = |i: usize| format!("127.0.0.1:{}", ports[2 * i]);
        let folder = |i: usize| dir.join(format!("master-{}", i + 1));
        let configure = |i: usize, token: Option<&str>| -> Result<()> {
            std::fs::create_dir_all(folder(i))?;
            let mut config = json!({
                "name": format!("master-{}", i + 1), "dataDir": folder(i).join("data"), "address": "127.0.0.1",
                "apiPort": ports[2 * i], "peerPort": ports[2 * i + 1],
            });
            if let Some(token) = token {
                config["join"] = json!({"server": api(0), "token": token});
            }
            Ok(std::fs::write(folder(i).join("config.yaml"), config.to_string())?)
        };
        let start = |i: usize| {
            let mut command = Command::new(binary);
            command.arg("master").arg("--config").arg(folder(i).join("config.yaml"));
            Server::start(&mut command, &folder(i).join("log"))
        };
        configure(0, None)?;
        let init = Command::new(binary).arg("init").arg("--config").arg(folder(0).join("config.yaml")).output();
        let init = init.with_context(|| format!("running {}", binary.display()))?;
        if !init.status.success() {
            bail!("balsa init failed: {}", String::from_utf8_lossy(&init.stderr).trim());
        }
        let mut servers = vec![start(0)?];
        let data = folder(0).join("data");
        let read = |name: &str| std::fs::read_to_string(data.join(name)).with_context(|| format!("reading {name}"));
        let credential = Credential { certificate: read("master.crt")?, key: read("master.key")? };
        let access = Access { ca: read("ca.crt")?, credential };
        let token = wait("join tokens", &mut servers, async || join_token(binary, &data)).await?;
        for i in 1..3 {
            configure(i, Some(&token))?;
            servers.push(start(i)?);
        }
        let status = wait("three voters", &mut servers, async || three_voters(&access, &api(0)).await).await?;
        let leader = status.members.iter().find(|member| member.leader).context("nobody leads")?;
        let to = raft::To { cluster_id: status.cluster_id.clone(), node_id: leader.id };
        Ok(Balsa { servers, access, to, api: leader.api_addr.clone(), peer: leader.peer_addr.clone() })
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Server::pid).collect()
    }

    /// Clients that propose transactions where masters forward theirs: at the leader's peer port.
    pub(crate) async fn raw(&self, cell: &str, n: usize, n_bytes: usize) -> Result<Vec<Raw>> {
        let pool = self.access.pool(&self.peer, n).await?;
        let ids = Arc::new(Ids { incarnation: body::nanos(), next: AtomicU64::new(1) });
        let raw = |i: usize| Raw {
            client: RaftClient::new(pool[i % pool.len()].clone()),
            to: self.to.clone(),
            ids: ids.clone(),
            keys: Keys::new(crate::names(cell, i, n)),
            n_bytes,
        };
        Ok((0..n).map(raw).collect())
    }

    /// Clients that create and replace objects, as any client does.
    pub(crate) async fn admitted(&self, cell: &str, n: usize, n_bytes: usize) -> Result<Vec<Admitted>> {
        let pool = self.access.pool(&self.api, n).await?;
        let admitted = |i: usize| Admitted {
            client: ObjectsClient::new(pool[i % pool.len()].clone()),
            names: crate::names(cell, i, n),
            next: 0,
            n_bytes,
        };
        Ok((0..n).map(admitted).collect())
    }

    /// Clients that read one object each, linearizably.
    pub(crate) async fn readers(&self, cell: &str, n: usize) -> Result<Vec<Get>> {
        let pool = self.access.pool(&self.api, n).await?;
        let get = |i: usize| Get {
            client: ObjectsClient::new(pool[i % pool.len()].clone()),
            key: config_map(&crate::names(cell, i, n)[0]),
        };
        Ok((0..n).map(get).collect())
    }

    /// Watchers of all ConfigMaps of the namespace, from now on.
    pub(crate) async fn watchers(&self, n: usize) -> Result<Vec<Watch>> {
        let pool = self.access.pool(&self.api, n).await?;
        let mut watchers = Vec::with_capacity(n);
        for i in 0..n {
            let mut client = ObjectsClient::new(pool[i % pool.len()].clone());
            let now = ClusterClient::new(pool[0].clone()).status(StatusRequest {}).await?.into_inner().revision;
            let request = pb::WatchRequest { key: Some(config_map("")), after_revision: now, ..Default::default() };
            let mut events = client.watch(request).await?.into_inner();
            // A resuming watch tells its position first.
            events.message().await?.context("a watch ended before it began")?;
            watchers.push(Watch { events });
        }
        Ok(watchers)
    }
}

/// Tries until it works.
async fn wait<T>(what: &str, servers: &mut [Server], attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        servers.iter_mut().try_for_each(Server::check)?;
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() > START_MAX => return Err(error.context(format!("waiting for {what}"))),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn join_token(binary: &Path, data: &Path) -> Result<String> {
    let mut command = Command::new(binary);
    let output = command.args(["token", "-o", "json", "--kubeconfig"]).arg(data.join("admin.kubeconfig")).output()?;
    if !output.status.success() {
        bail!("balsa token: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let tokens: objects::Value = serde_json::from_slice(&output.stdout)?;
    Ok(tokens["master"].as_str().context("no token for masters")?.to_string())
}

async fn three_voters(access: &Access, addr: &str) -> Result<StatusResponse> {
    let mut client = ClusterClient::new(access.connect(addr).await?);
    let status = client.status(StatusRequest {}).await?.into_inner();
    let n_voters = status.members.iter().filter(|member| member.voter).count();
    if n_voters != 3 || status.leader.is_empty() {
        bail!("{n_voters} of 3 masters vote; the leader is {:?}", status.leader);
    }
    Ok(status)
}

fn config_map(name: &str) -> pb::Key {
    pb::Key {
        resource: "configmaps".into(),
        namespace: body::NAMESPACE.into(),
        name: name.into(),
        ..Default::default()
    }
}

/// Request ids, so that a proposal is applied once, as a master's own are.
struct Ids {
    incarnation: u64,
    next: AtomicU64,
}

/// A client's keys in turn, each with the revision it was last given.
struct Keys {
    keys: Vec<(Key, Option<Revision>)>,
    next: usize,
}

impl Keys {
    fn new(names: Vec<String>) -> Keys {
        let key = |name: &String| (Key::new(registry::CONFIG_MAP, body::NAMESPACE, name), None);
        Keys { keys: names.iter().map(key).collect(), next: 0 }
    }

    /// The write of the next key: a creation, or a replacement of exactly the revision known.
    fn op(&mut self, n_bytes: usize) -> (usize, Op) {
        let at = self.next % self.keys.len();
        self.next += 1;
        let (key, known) = &self.keys[at];
        let (key, object) = (key.clone(), record::encode(&body::object(&key.name, n_bytes)));
        (
            at,
            match known {
                None => Op::Create { key, object },
                Some(assumed) => Op::Update { key, assumed: *assumed, object },
            },
        )
    }

    fn learn(&mut self, at: usize, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Applied(revisions) => {
                self.keys[at].1 = revisions.first().copied();
                Ok(())
            }
            Outcome::Refused(refusal) => bail!("refused: {refusal:?}"),
        }
    }
}

pub(crate) struct Raw {
    client: RaftClient<Channel>,
    to: raft::To,
    ids: Arc<Ids>,
    keys: Keys,
    n_bytes: usize,
}

impl Client for Raw {
    async fn once(&mut self) -> Result<u64> {
        let (at, op) = self.keys.op(self.n_bytes);
        let seq = self.ids.next.fetch_add(1, Ordering::Relaxed);
        let request = Some(RequestId { incarnation: self.ids.incarnation, seq });
        let txn = Txn { ops: vec![op], request, ..Txn::default() };
        let request = raft::ProposeRequest { to: Some(self.to.clone()), txn: txn_to_bytes(&txn).into() };
        let answer = self.client.propose(request).await?.into_inner();
        if answer.outcome.is_empty() {
            bail!("not committed: {}{}", answer.not_leader, answer.unknown);
        }
        self.keys.learn(at, outcome_from_bytes(&answer.outcome)?)?;
        Ok(1)
    }
}

pub(crate) struct Admitted {
    client: ObjectsClient<Channel>,
    names: Vec<String>,
    next: usize,
    n_bytes: usize,
}

impl Client for Admitted {
    async fn once(&mut self) -> Result<u64> {
        let (lap, at) = (self.next / self.names.len(), self.next % self.names.len());
        self.next += 1;
        let name = &self.names[at];
        let json = body::object(name, self.n_bytes).to_string().into();
        let request = pb::WriteRequest { key: Some(config_map(name)), json, ..Default::default() };
        match lap {
            0 => self.client.create(request).await?,
            _ => self.client.update(request).await?,
        };
        Ok(1)
    }
}

pub(crate) struct Get {
    client: ObjectsClient<Channel>,
    key: pb::Key,
}

impl Client for Get {
    async fn once(&mut self) -> Result<u64> {
        self.client.get(pb::GetRequest { key: Some(self.key.clone()), ..Default::default() }).await?;
        Ok(1)
    }
}

pub(crate) struct Watch {
    events: tonic::Streaming<pb::WatchEvent>,
}

impl Watcher for Watch {
    async fn next(&mut self) -> Result<Vec<u64>> {
        let event = self.events.message().await?.context("a watch ended")?;
        Ok(event.object.and_then(|object| body::stamp(&object.json)).into_iter().collect())
    }
}
