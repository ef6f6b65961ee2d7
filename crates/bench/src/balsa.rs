//! Balsa: three masters on loopback, and clients of its ports.

use crate::body;
use crate::load::{self, Client};
use crate::process::{Server, free_ports};
use crate::proposer::{Batched, Keys, Raw};
use crate::slow_link::SlowLink;
use crate::watch::Watcher;
use crate::wire::{Access, Connection};
use anyhow::{Context, Result, bail};
use objects::json;
use pki::Credential;
use protos::cluster::cluster_client::ClusterClient;
use protos::cluster::{StatusRequest, StatusResponse};
use protos::objects as pb;
use protos::objects::objects_client::ObjectsClient;
use protos::raft;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a group may take until all three vote.
const START_MAX: Duration = Duration::from_secs(30);
/// And a master until it has caught up with a large state.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);
/// How often is looked whether it has: each look makes two connections, on the processors that are measured.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A running group.
pub(crate) struct Balsa {
    binary: PathBuf,
    dir: PathBuf,
    ports: Vec<u16>,
    profile: String,
    servers: Vec<Server>,
    /// With a master's certificate, which may propose and has an administrator's rights.
    access: Access,
    to: raft::To,
    api: String,
    peer: String,
    /// Between the masters, where it is slower than loopback.
    _link: Option<SlowLink>,
}

impl Balsa {
    /// Starts three masters in `dir`, with the shipped defaults, and waits until all vote.
    pub(crate) async fn start(binary: &Path, dir: &Path) -> Result<Balsa> {
        Balsa::start_with(binary, dir, "", Duration::ZERO).await
    }

    /// The same with the election timing of `profile`, and with `round_trip` between the masters, which takes
    /// a network of one's own unless it is zero.
    pub(crate) async fn start_with(binary: &Path, dir: &Path, profile: &str, round_trip: Duration) -> Result<Balsa> {
        let ports = free_ports(6)?;
        let link = match round_trip {
            Duration::ZERO => None,
            _ => Some(SlowLink::before(&[ports[1], ports[3], ports[5]], round_trip).await?),
        };
        configure(dir, &ports, profile, 0, None)?;
        let config = folder(dir, 0).join("config.yaml");
        let init = Command::new(binary).arg("init").arg("--config").arg(config).output();
        let init = init.with_context(|| format!("running {}", binary.display()))?;
        if !init.status.success() {
            bail!("balsa init failed: {}", String::from_utf8_lossy(&init.stderr).trim());
        }
        let mut servers = vec![start(binary, dir, 0)?];
        let data = folder(dir, 0).join("data");
        let read = |name: &str| std::fs::read_to_string(data.join(name)).with_context(|| format!("reading {name}"));
        let credential = Credential { certificate: read("master.crt")?, key: read("master.key")? };
        let access = Access { ca: read("ca.crt")?, credential };
        let token = wait("join tokens", &mut servers, async || join_token(binary, &data)).await?;
        for i in 1..3 {
            configure(dir, &ports, profile, i, Some(&token))?;
            servers.push(start(binary, dir, i)?);
        }
        let first = format!("127.0.0.1:{}", ports[0]);
        let status = wait("three voters", &mut servers, async || three_voters(&access, &first).await).await?;
        let (to, api, peer) = leader_in(&status)?;
        let (binary, dir, profile) = (binary.into(), dir.into(), profile.into());
        Ok(Balsa { binary, dir, ports, profile, servers, access, to, api, peer, _link: link })
    }

    /// Finds who leads now: an election between two rows must not cost the second its clients.
    pub(crate) async fn follow_leader(&mut self) -> Result<()> {
        let (access, first) = (&self.access, format!("127.0.0.1:{}", self.ports[0]));
        let led = async || leader_in(&three_voters(access, &first).await?);
        (self.to, self.api, self.peer) = wait("a leader", &mut self.servers, led).await?;
        Ok(())
    }

    /// The REST and gRPC address of the leader.
    pub(crate) fn api(&self) -> &str {
        &self.api
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        (0..3).map(|i| folder(&self.dir, i).join("data")).collect()
    }

    /// What the leader has applied.
    pub(crate) async fn revision(&self) -> Result<u64> {
        Ok(self.status(&self.api).await?.revision)
    }

    /// The newest term that any master knows, and who leads in it; empty while nobody does.
    pub(crate) async fn term(&self) -> Result<(u64, String)> {
        let mut newest = None;
        for i in 0..3 {
            let status = self.status(&format!("127.0.0.1:{}", self.ports[2 * i])).await?;
            newest = newest.max(Some((status.term, status.leader)));
        }
        newest.context("there are three masters")
    }

    async fn status(&self, addr: &str) -> Result<StatusResponse> {
        Ok(ClusterClient::new(self.access.connect(addr).await?).status(StatusRequest {}).await?.into_inner())
    }

    /// A master that does not lead. Never the first, whose folder has what tells join tokens.
    fn follower(&self) -> usize {
        if self.leader() == 1 { 2 } else { 1 }
    }

    /// Which master led when that was last looked up.
    pub(crate) fn leader(&self) -> usize {
        let leads = |i: &usize| self.api.ends_with(&format!(":{}", self.ports[2 * i]));
        (0..3).find(leads).unwrap_or(0)
    }

    /// Kills a follower and starts it again; returns how long it took from its start until it had applied what the
    /// leader had the moment before.
    pub(crate) async fn restart_follower(&mut self) -> Result<Duration> {
        self.back(None).await
    }

    /// The same of a follower that has lost its disk and joins with a token: it is sent a snapshot.
    pub(crate) async fn rebuild_follower(&mut self) -> Result<Duration> {
        let token = join_token(&self.binary, &folder(&self.dir, 0).join("data"))?;
        self.back(Some(token)).await
    }

    async fn back(&mut self, token: Option<String>) -> Result<Duration> {
        let i = self.follower();
        self.servers[i].end()?;
        if let Some(token) = &token {
            let data = folder(&self.dir, i).join("data");
            std::fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))?;
            configure(&self.dir, &self.ports, &self.profile, i, Some(token))?;
        }
        let started = Instant::now();
        self.servers[i] = start(&self.binary, &self.dir, i)?;
        let addr = format!("127.0.0.1:{}", self.ports[2 * i]);
        loop {
            self.servers.iter_mut().try_for_each(Server::check)?;
            // One that is busy, or is still starting, may not answer.
            if let (Ok(reached), Ok(status)) = (self.revision().await, self.status(&addr).await)
                && status.revision >= reached
            {
                return Ok(started.elapsed());
            }
            if started.elapsed() > CATCH_UP_MAX {
                bail!("a master did not catch up within {CATCH_UP_MAX:?}");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Server::pid).collect()
    }

    /// Clients that propose transactions where masters forward theirs: at the leader's peer port. Their keys are
    /// there.
    pub(crate) async fn raw(&self, cell: &str, n: usize, n_bytes: usize) -> Result<Vec<Raw>> {
        let keys = |i: usize| Keys::new(body::NAMESPACE, crate::names(cell, i, n));
        let proposers = self.proposers((0..n).map(keys).collect(), n_bytes, crate::AT_ONCE).await?;
        let filled = load::filled(proposers).await.with_context(|| format!("writing the keys of {cell}"))?;
        Ok(filled.into_iter().map(Raw::one_at_a_time).collect())
    }

    /// One client for each set of keys, with `n_ops` writes in a transaction.
    pub(crate) async fn proposers(&self, keys: Vec<Keys>, n_bytes: usize, n_ops: usize) -> Result<Vec<Raw>> {
        let pool = self.access.pool(&self.peer, keys.len()).await?;
        Ok(Raw::all(&pool, &self.to, keys, n_bytes, n_ops))
    }

    /// Clients that propose many transactions in each request, as masters forward those of theirs.
    pub(crate) async fn batched(&self, cell: &str, n: usize, size: usize, n_bytes: usize) -> Result<Vec<Batched>> {
        let raw = self.raw(cell, n, n_bytes).await?;
        Ok(raw.into_iter().map(|raw| raw.batched(size)).collect())
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

fn folder(dir: &Path, i: usize) -> PathBuf {
    dir.join(format!("master-{}", i + 1))
}

/// Writes master `i`'s configuration. `ports` are two for each: its API's and its peers'.
fn configure(dir: &Path, ports: &[u16], profile: &str, i: usize, token: Option<&str>) -> Result<()> {
    let folder = folder(dir, i);
    std::fs::create_dir_all(&folder)?;
    let mut config = json!({
        "name": format!("master-{}", i + 1), "dataDir": folder.join("data"), "address": "127.0.0.1",
        "apiPort": ports[2 * i], "peerPort": ports[2 * i + 1], "profile": profile,
    });
    if let Some(token) = token {
        // The first is asked by those that come after it; it is itself taken back by the second.
        let asked = if i == 0 { ports[2] } else { ports[0] };
        config["join"] = json!({"server": format!("127.0.0.1:{asked}"), "token": token});
    }
    Ok(std::fs::write(folder.join("config.yaml"), config.to_string())?)
}

fn start(binary: &Path, dir: &Path, i: usize) -> Result<Server> {
    let mut command = Command::new(binary);
    command.arg("master").arg("--config").arg(folder(dir, i).join("config.yaml"));
    Server::start(&mut command, &folder(dir, i).join("log"))
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

/// Whom a proposal to the leader is for, and its API's and peers' addresses.
fn leader_in(status: &StatusResponse) -> Result<(raft::To, String, String)> {
    let leader = status.members.iter().find(|member| member.leader).context("nobody leads")?;
    let to = raft::To { cluster_id: status.cluster_id.clone(), node_id: leader.id };
    Ok((to, leader.api_addr.clone(), leader.peer_addr.clone()))
}

fn config_map(name: &str) -> pb::Key {
    pb::Key {
        resource: "configmaps".into(),
        namespace: body::NAMESPACE.into(),
        name: name.into(),
        ..Default::default()
    }
}

pub(crate) struct Admitted {
    client: ObjectsClient<Connection>,
    names: Vec<String>,
    next: usize,
    n_bytes: usize,
}

impl Client for Admitted {
    async fn once(&mut self) -> Result<u64> {
        let (lap, at) = (self.next / self.names.len(), self.next % self.names.len());
        self.next += 1;
        let name = &self.names[at];
        let json = body::object(body::NAMESPACE, name, self.n_bytes);
        let request = pb::WriteRequest { key: Some(config_map(name)), json, ..Default::default() };
        match lap {
            0 => self.client.create(request).await?,
            _ => self.client.update(request).await?,
        };
        Ok(1)
    }
}

pub(crate) struct Get {
    client: ObjectsClient<Connection>,
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
