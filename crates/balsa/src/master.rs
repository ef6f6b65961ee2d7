//! `balsa master`: wires the rooms of a master together.

use crate::backup;
use crate::cluster_service::{self, ClusterService};
use crate::config::{Join, MasterConfig};
use crate::files::{BOOTSTRAP, Bootstrap, DataDir, Identity, JOIN_ANEW, JOINING};
use crate::join;
use crate::{renewal, scrub, vip};
use anyhow::{Context, Result, bail};
use api::WorkerCall;
use async_trait::async_trait;
use authz::Role;
use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use controllers::Facts;
use dispatch::{DispatchService, Hub, Liveness, Peers, RelayService};
use front::Front;
use front::listen::{self, Caller, Ends};
use front::workers::WorkerStream;
use manager::FactSource;
use objects::{Status, registry};
use protos::cluster::certificate_authority_server::CertificateAuthorityServer;
use protos::cluster::cluster_client::ClusterClient;
use protos::cluster::cluster_server::ClusterServer;
use protos::dispatch as pb;
use raft_disk::RocksDisk;
use raft_node::{Changes, Disk, Failure, Member, Node, Options, REMEDY, RaftService, TonicTransport};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Followers tell the leader of their workers this often.
const BEATS_EVERY: Duration = Duration::from_millis(500);
/// Masters keep connections to each other; one that broke is made again after this long.
const GREET_EVERY: Duration = Duration::from_secs(1);
/// What still runs when a master stops is given this long to end.
const ENDING_MAX: Duration = Duration::from_secs(1);
/// Written to the Raft disk once this master belongs to a cluster: a folder with an identity but
/// without this has lost its disk, and must not speak under its old id.
pub(crate) const JOINED: &[u8] = b"Mjoined";

/// How a master stands before others on its machine, as `nice` counts: a leader that a build or a pod keeps from
/// its heartbeats is deposed. Where the kernel groups processes by session (`sched_autogroup`), it counts only
/// within the master's own.
const NICENESS: i32 = -10;

pub(crate) fn run(path: &Path) -> Result<()> {
    let config = MasterConfig::load(path)?;
    // Threads that begin later have what this one has.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::info!(%error, "this master runs at the priority of all others: only root, or CAP_SYS_NICE, may raise it");
    }
    let dir = DataDir::create(&config.data_dir)?;
    let _held = dir.hold()?;
    let seat = vip::Seat::take()?;
    // Consensus has threads of its own: no LIST may delay a heartbeat.
    let raft_runtime = crate::multi_thread("raft", 2)?;
    let api_runtime = crate::multi_thread("api", 2)?;
    let ended = api_runtime.block_on(serve(config, dir, seat, raft_runtime.handle().clone()));
    raft_runtime.shutdown_timeout(ENDING_MAX);
    api_runtime.shutdown_timeout(ENDING_MAX);
    ended
}

/// The identity and how it came: kept, or just earned with a token.
async fn identity(config: &MasterConfig, dir: &DataDir) -> Result<(Identity, bool)> {
    if let Some(identity) = dir.identity_of(&config.name)? {
        return Ok((identity, false));
    }
    dir.refuse_unnamed()?;
    dir.remove_unborn()?;
    let Some(join) = &config.join else {
        bail!(
            "{} holds no master yet: make a new cluster with `balsa init --config FILE`, or set join.server and join.token \
             (`balsa token` on a running cluster prints them)",
            dir.0.display()
        );
    };
    let mut retries = join::Retries::default();
    let issued = loop {
        match join::join(dir, join, Role::Master, &config.name, &config.alt_names()).await {
            Ok(issued) => break issued,
            Err(error) if error.is::<join::Refused>() => return Err(error),
            Err(error) => retries.tell(&join.server, &error),
        }
        retries.wait().await;
    };
    let node_id = stdx::Rng::new(crate::seed()).next_u64() >> 11;
    let (cluster_id, epoch) = (issued.cluster_id, issued.epoch);
    let identity = Identity { cluster_id, node_id, name: config.name.clone(), epoch };
    // First, so that a start that is interrupted here, or while the disk is made, goes on with the next.
    dir.write(JOINING, "")?;
    dir.save_identity(&identity)?;
    Ok((identity, true))
}

async fn bind(config: &MasterConfig, port: u16) -> Result<TcpListener> {
    // With a VIP the address may arrive later: listen on all. Otherwise only where told.
    match &config.vip {
        None => TcpListener::bind((config.address.as_str(), port)).await.map_err(Into::into),
        Some(vip) if vip.address.is_ipv4() && !config.address.contains(':') => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map_err(Into::into)
        }
        Some(_) => bind_both_families(port),
    }
    .with_context(|| format!("listening on port {port} for {}", config.address))
}

/// On every address of this machine, IPv4 and IPv6, whatever its `bindv6only` says.
fn bind_both_families(port: u16) -> Result<TcpListener> {
    /// As many as tokio's own listeners keep waiting.
    const BACKLOG: u32 = 1024;
    let socket = TcpSocket::new_v6()?;
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6V6Only, &false)?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    Ok(socket.listen(BACKLOG)?)
}

async fn serve(
    config: MasterConfig,
    dir: DataDir,
    seat: vip::Seat,
    raft_runtime: tokio::runtime::Handle,
) -> Result<()> {
    let start = Start::of(&config, &dir).await?;
    let mut consensus = Consensus::begin(&config, &dir, &start, &raft_runtime).await?;
    let api = Api::begin(&config, &dir, &start, &consensus).await?;
    tracing::info!(
        name = %start.identity.name, api = %config.api_addr(), peer = %config.peer_addr(), "master started"
    );
    belong(&config, &dir, &start, &mut consensus, &api).await?;
    begin_work(&config, &dir, &start, &consensus, &api, seat)?;
    consensus.node.serve();
    let failed = tokio::select! {
        signal = stop_signal() => {
            signal?;
            None
        }
        why = cannot_go_on(&consensus.node, &mut consensus.superseded, &start.identity, &dir) => Some(why),
        why = scrub::run(start.disk.clone(), start.raft_dir.clone()) => Some(why),
        leader = api.cluster.left_out() => Some(format!(
            "this master was taken out of the group, which {leader} leads: remove {} and, if it is to come back, start it \
             with a join token",
            dir.0.display()
        )),
    };
    if let Some(why) = failed {
        bail!("{why}");
    }
    end(consensus, api, &raft_runtime).await
}

/// What a start finds in the data folder.
struct Start {
    identity: Identity,
    ca: String,
    raft_dir: PathBuf,
    disk: Arc<RocksDisk>,
    /// Of the first start after `init`: this master becomes the cluster.
    bootstrap: Option<Bootstrap>,
    /// Whether the cluster has yet to take this master in.
    joining: bool,
}

impl Start {
    async fn of(config: &MasterConfig, dir: &DataDir) -> Result<Start> {
        let (identity, mut joining) = identity(config, dir).await?;
        let ca = dir.ca()?;
        let raft_dir = dir.path(&identity.raft_dir());
        let disk = Arc::new(RocksDisk::open(&raft_dir)?);
        let joined = disk.get(JOINED)?.is_some();
        if joined {
            // A start that ended before it could: with a later disk they would say that it may be empty.
            dir.remove(BOOTSTRAP)?;
            dir.remove(JOINING)?;
        }
        let bootstrap: Option<Bootstrap> =
            dir.read(BOOTSTRAP)?.map(|text| serde_json::from_str(&text)).transpose().with_context(|| {
                format!(
                    "{} is damaged, and this cluster has not begun: empty {} and make it again with `balsa init`",
                    dir.path(BOOTSTRAP).display(),
                    dir.0.display()
                )
            })?;
        // An interrupted join goes on; a lost disk does not.
        joining |= !joined && bootstrap.is_none() && config.join.is_some() && dir.path(JOINING).exists();
        if !joined && bootstrap.is_none() && !joining {
            bail!(
                "the Raft storage in {} is empty, but this machine was already master {} (id {}). An emptied disk must not \
                 vote again: remove {} and start with a join token; it joins under a new id and replaces the old one",
                raft_dir.display(),
                identity.name,
                identity.node_id,
                dir.0.display()
            );
        }
        Ok(Start { identity, ca, raft_dir, disk, bootstrap, joining })
    }
}

/// Consensus and its listener, on their own threads.
struct Consensus {
    node: Node,
    /// The epoch of a peer that has left this group behind: this master must not serve any more.
    superseded: watch::Receiver<Option<u64>>,
    liveness: Arc<Liveness>,
    hub: Arc<Hub>,
    stop: watch::Sender<bool>,
}

impl Consensus {
    async fn begin(
        config: &MasterConfig,
        dir: &DataDir,
        start: &Start,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Consensus> {
        let client_tls = |dir: &DataDir| -> Result<_> {
            Ok(Some(pki::tls::tonic_client(Some(&dir.credential("master")?), &dir.ca()?, "localhost")))
        };
        // What is lost or damaged may be issued anew once the state is there.
        let (shown, to_show) = watch::channel(client_tls(dir).unwrap_or_default());
        let transport = TonicTransport::new(move || to_show.borrow().clone(), runtime.clone());
        let (superseded_sender, superseded) = watch::channel(None);
        let own = start.identity.clone();
        let transport = Arc::new(transport.on_other_group(move |group| {
            if let Some(epoch) = own.superseded_by(group) {
                superseded_sender.send_replace(Some(epoch));
            }
        }));
        let options = Options {
            cluster_id: start.identity.group(),
            node_id: start.identity.node_id,
            name: start.identity.name.clone(),
            profile: config.raft_profile()?,
            checkpoints: raft_node::Checkpoints::default(),
            seed: crate::seed(),
            disk: start.disk.clone(),
            transport,
            spawn_writer: raft_node::spawn_thread(),
            feature_level: state::FEATURE_LEVEL,
            clock: Arc::new(crate::now),
        };
        let node = runtime.spawn(Node::start(options)).await??;
        let liveness = Arc::new(Liveness::default());
        let hub = Hub::new(liveness.clone());
        // In time for the first connection: it may have been off for longer than a certificate lasts.
        if let Err(error) = renewal::of_master(dir, config, &node.store().view()) {
            tracing::error!("this master's certificate cannot be issued anew: {error:#}");
        }
        let tls = tls_source(dir, true)?;
        shown.send_replace(client_tls(dir)?);
        tokio::spawn(keep_fresh(dir.clone(), client_tls, shown));
        let routes = tonic::service::Routes::new(RaftService::server(node.clone()))
            .add_service(RelayService::server(hub.clone()))
            .into_axum_router()
            .layer(axum::middleware::from_fn(guard));
        let listener = bind(config, config.peer_port).await?.into_std()?;
        let (stop, stopped) = watch::channel(false);
        runtime.spawn(async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => listen::serve(listener, tls, routes, Ends::at_stop(stopped)).await,
                Err(error) => tracing::error!(%error, "the peer listener cannot be used"),
            }
        });
        Ok(Consensus { node, superseded, liveness, hub, stop })
    }
}

/// What users, workers and joining masters call.
struct Api {
    front: Front,
    cluster: Arc<ClusterService>,
    stop: watch::Sender<bool>,
    /// The address that is being let go of, when it is a virtual one.
    leaving: watch::Sender<Option<IpAddr>>,
    /// Ends when all callers are gone.
    served: JoinHandle<()>,
}

impl Api {
    async fn begin(config: &MasterConfig, dir: &DataDir, start: &Start, consensus: &Consensus) -> Result<Api> {
        let Consensus { node, hub, .. } = consensus;
        let tls = tls_source(dir, false)?;
        let store = node.store();
        let front = Front::new(store.clone(), hub.clone(), Arc::new(crate::now), crate::seed());
        let credential_dir = dir.clone();
        let own_credential = dir.credential("master")?;
        let cluster = Arc::new(ClusterService {
            node: node.clone(),
            front: front.clone(),
            cluster_id: start.identity.cluster_id.clone(),
            epoch: start.identity.epoch,
            name: start.identity.name.clone(),
            ca: start.ca.clone(),
            credential: Arc::new(move || {
                credential_dir.credential("master").unwrap_or_else(|_| own_credential.clone())
            }),
            changes: Changes::new(node.clone()),
            join_server: config.join.as_ref().map(|join| join.server.clone()),
        });
        hub.set_peers(Arc::new(PeerMasters { node: node.clone(), dir: dir.clone() }));
        let (stop, stopped) = watch::channel(false);
        let health = api_grpc::health::server(&store, stopped.clone()).await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(protos::DESCRIPTORS)
            .build_v1()?;
        let grpc = tonic::service::Routes::new(ClusterServer::from_arc(cluster.clone()))
            .add_service(CertificateAuthorityServer::from_arc(cluster.clone()))
            .add_service(DispatchService::server(front.clone(), hub.clone(), start.identity.epoch))
            .add_service(api_grpc::ObjectsService::server(front.clone()))
            .add_service(api_grpc::ObserveService::server(front.clone()))
            .add_service(health)
            .add_service(reflection)
            .into_axum_router();
        let leadership = store.leadership();
        let ready = Arc::new(move || leadership.borrow().leader.is_some());
        let router = faces(grpc, api_rest::router(front.clone(), config.api_addr(), ready));
        let listener = bind(config, config.api_port).await?;
        let (leaving, left) = watch::channel(None);
        let served = tokio::spawn(listen::serve(listener, tls, router, Ends { stop: stopped, leaving: left }));
        Ok(Api { front, cluster, stop, leaving, served })
    }
}

/// Founds the cluster, or has it take this master in, where that is yet to be done.
async fn belong(
    config: &MasterConfig,
    dir: &DataDir,
    start: &Start,
    consensus: &mut Consensus,
    api: &Api,
) -> Result<()> {
    let (node, own) = (&consensus.node, config.member());
    if let Some(bootstrap) = &start.bootstrap {
        found(node, &api.front, bootstrap, own, &start.ca).await?;
        mark_joined(&*start.disk)?;
        dir.remove(BOOTSTRAP)?;
    } else if start.joining
        && let Some(join) = &config.join
    {
        let joined = async {
            let taken_in = add_self(dir, join, &start.ca, &start.identity, own, node);
            tokio::pin!(taken_in);
            tokio::select! {
                taken_in = &mut taken_in => return taken_in,
                // The answer may be lost; who votes must not come back with an empty disk under the same id.
                () = node.votes() => mark_joined(&*start.disk)?,
            }
            taken_in.await
        };
        tokio::select! {
            joined = joined => joined?,
            why = cannot_go_on(node, &mut consensus.superseded, &start.identity, dir) => bail!("{why}"),
        }
        mark_joined(&*start.disk)?;
        dir.remove(JOINING)?;
        tracing::info!("joined the cluster");
    }
    Ok(())
}

/// What goes on beside the answers to callers, until the process ends.
fn begin_work(
    config: &MasterConfig,
    dir: &DataDir,
    start: &Start,
    consensus: &Consensus,
    api: &Api,
    seat: vip::Seat,
) -> Result<()> {
    let (Consensus { node, liveness, .. }, front) = (consensus, &api.front);
    let store = node.store();
    let facts = LeaderFacts { liveness: liveness.clone(), front: front.clone(), ca: start.ca.clone() };
    if let Some(backup) = config.backup.clone() {
        tokio::spawn(backup::schedule::keep(backup, front.clone(), node.clone(), start.identity.clone()));
    }
    tokio::spawn(renewal::keep_master(dir.clone(), config.clone(), store.clone()));
    tokio::spawn(raft_node::end_changes(node.clone(), store.clone()));
    tokio::spawn(manager::run(front.clone(), Arc::new(facts)));
    tokio::spawn(keep_greeting(node.clone()));
    tokio::spawn(send_beats(node.clone(), liveness.clone()));
    tokio::spawn(take_beats(node.clone(), liveness.clone()));
    let Some(vip) = config.vip.clone() else { return Ok(()) };
    let (members, own) = (node.clone(), start.identity.name.clone());
    let rank = move || {
        let mut names: Vec<String> = members.status().members.into_iter().map(|m| m.member.name).collect();
        names.sort();
        u32::try_from(names.iter().position(|name| *name == own).unwrap_or(names.len())).unwrap_or(u32::MAX)
    };
    let place = vip::Place {
        vip,
        port: config.api_port,
        own: start.identity.name.clone(),
        election: config.raft_profile()?.election_timeout_max(),
    };
    tokio::spawn(vip::keep(place, store, rank, seat, api.leaving.clone()));
    Ok(())
}

/// A planned stop.
async fn end(consensus: Consensus, api: Api, raft_runtime: &tokio::runtime::Handle) -> Result<()> {
    tracing::info!("stopping: handing leadership over");
    let node = consensus.node.clone();
    raft_runtime.spawn(async move { node.hand_over().await }).await?;
    api.stop.send_replace(true);
    // What clients wait for here is answered once the new leader has said that it is committed: peers are
    // heard until the clients are gone.
    if tokio::time::timeout(ENDING_MAX, api.served).await.is_err() {
        tracing::warn!("a caller that does not hang up is left");
    }
    consensus.stop.send_replace(true);
    consensus.node.shutdown().await;
    Ok(())
}

/// Returns when consensus has stopped, or a master of a later epoch was met: what it says then, and what to do.
async fn cannot_go_on(
    node: &Node,
    superseded: &mut watch::Receiver<Option<u64>>,
    identity: &Identity,
    dir: &DataDir,
) -> String {
    tokio::select! {
        failure = node.failed() => match failure {
            Failure::DiskFull(_) => format!(
                "{failure}; nothing is lost: free some space (some 100 MB to start with) for {} and start this master \
                 again",
                dir.0.display()
            ),
            Failure::Storage(ref why) if why.contains(REMEDY) => failure.to_string(),
            Failure::Storage(_) => format!(
                "{failure}; start this master again, and if {} is damaged, as it says then: {REMEDY}",
                dir.0.display()
            ),
            Failure::Other(_) => format!("{failure}; this master must be started again"),
        },
        epoch = later_epoch(superseded) => format!(
            "this master is of epoch {} of its cluster, which was replaced by epoch {epoch} (a restore from a backup \
             or `balsa recover`): remove {} and join again with a token",
            identity.epoch,
            dir.0.display()
        ),
    }
}

async fn later_epoch(superseded: &mut watch::Receiver<Option<u64>>) -> u64 {
    let met = superseded.wait_for(Option::is_some).await.map(|epoch| *epoch);
    match met {
        Ok(Some(epoch)) => epoch,
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

pub(crate) fn mark_joined(disk: &dyn Disk) -> Result<()> {
    let mut batch = raft_node::Batch::default();
    batch.put(JOINED, b"1".to_vec());
    disk.write(batch, true).context("recording that this master has joined")
}

pub(crate) async fn stop_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// The TLS configuration of a listener; renewed certificates are picked up when the files change.
fn tls_source(dir: &DataDir, required: bool) -> Result<watch::Receiver<Arc<tokio_rustls::rustls::ServerConfig>>> {
    let load = move |dir: &DataDir| -> Result<_> {
        let (mut credential, ca) = (dir.credential("master")?, dir.ca()?);
        // The chain ends in the CA, so that a joining machine can compare it with its token.
        credential.certificate.push_str(&ca);
        let server = pki::tls::server(&credential, &ca, required).with_context(|| {
            let folder = dir.0.display();
            format!("master.crt, master.key or ca.crt in {folder} is damaged: put them back from a copy, {JOIN_ANEW}")
        });
        Ok(Arc::new(server?))
    };
    let (sender, receiver) = watch::channel(load(dir)?);
    tokio::spawn(keep_fresh(dir.clone(), load, sender));
    Ok(receiver)
}

/// Loads what is made of this master's certificate again whenever its file holds another.
async fn keep_fresh<T>(dir: DataDir, load: impl Fn(&DataDir) -> Result<T>, sender: watch::Sender<T>) {
    let read = |dir: &DataDir| dir.credential("master").ok().map(|credential| credential.certificate);
    let mut seen = read(&dir);
    loop {
        tokio::time::sleep(FRESH_EVERY).await;
        let now = read(&dir);
        if now != seen {
            match load(&dir) {
                Ok(made) => drop(sender.send_replace(made)),
                Err(error) => tracing::warn!(why = format!("{error:#}"), "the renewed certificate cannot be used"),
            }
            seen = now;
        }
    }
}

/// A certificate is issued anew weeks before the old one ends.
const FRESH_EVERY: Duration = Duration::from_secs(30);

/// gRPC and REST on one port, told apart by content type. REST asks for each request itself.
fn faces(grpc: Router, rest: Router) -> Router {
    let grpc = grpc.layer(axum::middleware::from_fn(guard));
    let choose = move |request: Request| {
        let is_grpc = request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        let (grpc, rest) = (grpc.clone(), rest.clone());
        async move {
            use tower::ServiceExt;
            let router = if is_grpc { grpc } else { rest };
            match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    };
    Router::new().fallback(choose).layer(axum::middleware::from_fn(api_grpc::envelope))
}

/// The role table at the door of every gRPC service. It does not ask what a request says of its
/// content: whatever reaches a service is guarded.
async fn guard(request: Request, next: Next) -> Response {
    use authz::roles::{Refusal, may_call};
    let path = request.uri().path().trim_start_matches('/').to_string();
    let (service, method) = path.split_once('/').unwrap_or((path.as_str(), ""));
    let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
    let refused = match may_call(caller.as_ref(), service, method) {
        Ok(()) => return next.run(request).await,
        Err(Refusal::NoCertificate) => tonic::Status::unauthenticated("a certificate of this cluster is needed"),
        Err(Refusal::NotAllowed) => {
            let user = caller.map(|identity| identity.user).unwrap_or_default();
            tonic::Status::permission_denied(format!("user {user:?} may not call {service}/{method}"))
        }
    };
    refused.into_http::<axum::body::Body>().into_response()
}

/// The first start after `init`: this master becomes the cluster.
async fn found(node: &Node, front: &Front, bootstrap: &Bootstrap, own: Member, ca: &str) -> Result<()> {
    if !node.is_initialized().await? {
        node.initialize(own).await?;
    }
    let mut leadership = front.store.leadership();
    let leading = leadership.wait_for(|now| now.active.is_some());
    drop(tokio::time::timeout(Duration::from_secs(10), leading).await.context("the new cluster elects no leader")??);
    cluster_service::store_bootstrap(front, bootstrap, ca).await.context("storing the cluster's authority")?;
    tracing::info!("cluster initialized");
    Ok(())
}

/// Asks the cluster to take this master in; tries until it does.
async fn add_self(dir: &DataDir, join: &Join, ca: &str, identity: &Identity, own: Member, node: &Node) -> Result<()> {
    let member = protos::cluster::Member {
        id: identity.node_id,
        name: own.name,
        peer_addr: own.peer_addr,
        api_addr: own.api_addr,
        feature_level: own.feature_level,
        ..Default::default()
    };
    let credential = dir.credential("master")?;
    let mut n_tries = 0;
    loop {
        // It may have died since; as a learner this one knows of others.
        let known = node.status().members.into_iter().filter(|m| m.id != identity.node_id).map(|m| m.member.api_addr);
        let servers: Vec<String> = std::iter::once(join.server.clone()).chain(known).collect();
        let server = &servers[n_tries % servers.len()];
        n_tries += 1;
        let attempt = async {
            let channel = join::channel(server, Some(&credential), ca).await?;
            let request = protos::cluster::AddMemberRequest {
                member: Some(member.clone()),
                learner: join.learner,
                replaces: join.replaces.clone(),
                epoch: identity.epoch,
            };
            Ok::<_, anyhow::Error>(ClusterClient::new(channel).add_member(request).await?)
        };
        match attempt.await {
            Ok(_) => return Ok(()),
            Err(error) => {
                let refused = error.downcast_ref::<tonic::Status>();
                if let Some(status) = refused.filter(|status| status.code() == tonic::Code::FailedPrecondition) {
                    bail!("the cluster refuses this master: {}", status.message());
                }
                tracing::info!(server, "not taken in yet; trying again: {error:#}");
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
    }
}

/// The leader's facts: heartbeats of this master's sessions and of its peers'.
struct LeaderFacts {
    liveness: Arc<Liveness>,
    front: Front,
    ca: String,
}

impl FactSource for LeaderFacts {
    fn facts(&self) -> Facts {
        let view = self.front.store.view();
        let nodes = view.list(registry::NODE, "", None).map(|record| record.key.name.to_string());
        Facts { silent_ms: self.liveness.silent_ms(nodes), ca: self.ca.clone() }
    }

    fn took_office(&self) {
        self.liveness.start_window();
    }
}

async fn keep_greeting(node: Node) {
    let mut ticks = tokio::time::interval(GREET_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        node.greet_members().await;
    }
}

async fn send_beats(node: Node, liveness: Arc<Liveness>) {
    let mut ticks = tokio::time::interval(BEATS_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let leader = node.status().leader;
        if leader.is_none() || leader == Some(node.id()) {
            continue;
        }
        if let Err(error) = node.send_beats(liveness.own_silent_ms()).await {
            tracing::debug!(%error, "the leader did not take the heartbeats; the next batch supersedes them");
        }
    }
}

async fn take_beats(node: Node, liveness: Arc<Liveness>) {
    loop {
        liveness.reported(node.beats().await);
    }
}

/// Relays streams to the master that holds a worker's session: the first that says it does.
struct PeerMasters {
    node: Node,
    dir: DataDir,
}

#[async_trait]
impl Peers for PeerMasters {
    async fn relay(&self, call: &WorkerCall, open: pb::OpenStream) -> Option<Result<WorkerStream, Status>> {
        let (credential, ca) = (self.dir.credential("master").ok()?, self.dir.ca().ok()?);
        for member in self.node.status().members {
            if member.id == self.node.id() {
                continue;
            }
            let Ok(channel) = join::channel(&member.member.peer_addr, Some(&credential), &ca).await else { continue };
            if let Some(stream) = dispatch::ask(channel, &call.node, open.clone()).await {
                return Some(stream);
            }
        }
        None
    }
}
