//! One master's consensus: starts openraft, answers its peers, proposes, reads, changes members.

mod attempt;
mod beats;
mod leadership;
mod levels;
mod members;
mod peers;
mod stall;

pub(crate) use attempt::Attempt;
pub(crate) use levels::Heard;
pub use members::LAG_MAX;

use crate::disk::Disk;
use crate::forward::Forwarder;
use crate::granted::Granted;
use crate::halting::HaltingDisk;
use crate::log::Log;
use crate::machine::Machine;
use crate::network::Network;
use crate::rounds::Rounds;
use crate::transport::{Lane, PeerReply, PeerRequest, Transport, TransportError};
use crate::trim::Trim;
use crate::types::{Command, LogId, Member, Raft, TypeConfig};
use crate::writer::{Spawn, Writer};
use async_trait::async_trait;
use futures::StreamExt;
use objects::Timestamp;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, LinearizableReadError, RaftError};
use openraft::{RaftMetrics, ReadPolicy, SnapshotPolicy};
use parking_lot::Mutex;
use protos::raft as pb;
use state::{Outcome, Refusal, RequestId, Txn};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use store::{Error as StoreError, Leadership, Proposer, Route, Store};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// A write or read that has not been answered by then fails: a healthy failover takes 0.35 s, and a
/// cluster without a quorum must say so within 2 s.
const DEADLINE: Duration = Duration::from_millis(1800);
/// Proposals in flight from this master; well inside the deduplication window.
const IN_FLIGHT_MAX: usize = 1024;
/// Bytes that a leader has appended and not applied, beyond which it appends no more: what is written at once, and as
/// much that waits meanwhile. On a disk of 5 MB/s they take as long as a proposal waits.
const BACKLOG_MAX: u64 = 8 << 20;

/// How long replication waits, try by try, before it tries a peer again that is gone; as openraft's `Config` writes it,
/// which goes on up to a second unless it is told where to end. A peer that is back lacks more with every wait.
pub(crate) const BACKOFF: &str = "20ms 50ms 100ms 200ms ..200ms";

/// Entries between checkpoints, and entries kept behind one for followers that lag: so many, and no more than of so many
/// bytes. Some more are kept now and then, to be removed together (`trim.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    pub every: u64,
    pub kept: u64,
    pub every_bytes: u64,
    pub kept_bytes: u64,
}

impl Default for Checkpoints {
    fn default() -> Checkpoints {
        // A checkpoint writes every object that changed since the last one: of 10,000 objects that are written in
        // turn, 60 % fewer bytes than one every 10,000 entries. A restart applies these in 0.3 s.
        // Of 2 KiB each they are 60 MB; of the largest there may be, 37 GB.
        Checkpoints { every: 25_000, kept: 20_000, every_bytes: 128 << 20, kept_bytes: 64 << 20 }
    }
}

/// Election timing. `Lan` fits machines on one network with disks that sync within 50 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    #[default]
    Lan,
    Wan,
    SlowDisk,
}

impl Profile {
    /// Heartbeat, shortest and longest election timeout, in milliseconds.
    fn timing(self) -> (u64, u64, u64) {
        match self {
            Profile::Lan => (30, 90, 160),
            Profile::Wan => (150, 600, 1200),
            Profile::SlowDisk => (100, 300, 600),
        }
    }

    /// A follower that hears no leader stands for election after this long at the latest.
    pub fn election_timeout_max(self) -> Duration {
        Duration::from_millis(self.timing().2)
    }
}

pub struct Options {
    pub cluster_id: String,
    pub node_id: u64,
    pub name: String,
    pub profile: Profile,
    pub checkpoints: Checkpoints,
    /// Seeds elections and the proposer's incarnation.
    pub seed: u64,
    pub disk: Arc<dyn Disk>,
    pub transport: Arc<dyn Transport>,
    pub spawn_writer: Spawn,
    /// The highest feature level that this binary knows: `state::FEATURE_LEVEL`, but for tests.
    pub feature_level: u32,
    /// The one clock: milliseconds since the epoch.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the Raft storage")]
    Storage(#[source] std::io::Error),
    #[error("consensus stopped: {0}")]
    Fatal(String),
    #[error("the message is for cluster {cluster} node {node}, which this is not")]
    Misdirected { cluster: String, node: u64 },
    #[error("{0}")]
    Refused(String),
    #[error("not the leader")]
    NotLeader,
    #[error("another change of the group is under way")]
    Changing,
    /// Of a leader: nothing was begun.
    #[error("the leader has just now not heard from a quorum; try again")]
    LeaseExpired,
    /// Of a change of the group: it may take effect yet.
    #[error("the change is begun and not committed yet; `balsa members list` shows what becomes of it")]
    Undecided,
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// Why a master cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing is lost: with free space it goes on after a start.
    #[error("the disk is full: {0}")]
    DiskFull(String),
    /// It takes no more, cannot be read, or holds what this build cannot apply.
    #[error("the Raft storage cannot be used: {0}")]
    Storage(String),
    #[error("consensus stopped: {0}")]
    Other(String),
}

/// One member as `status` tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberStatus {
    pub id: u64,
    pub member: Member,
    pub voter: bool,
    /// Entries behind the leader; only the leader knows, and of one that has acknowledged any.
    pub lag: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub leader: Option<u64>,
    pub term: u64,
    pub last_index: u64,
    pub applied_index: u64,
    pub members: Vec<MemberStatus>,
}

#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    cluster_id: String,
    id: u64,
    raft: Raft,
    machine: Machine,
    transport: Arc<dyn Transport>,
    forwarder: Arc<Forwarder>,
    /// Read indexes asked of the quorum, as leader.
    confirmed: Rounds<Result<u64, String>>,
    /// Read indexes asked of a leader. A new leader's callers do not wait for what the old one owes.
    fetched: Mutex<(u64, Arc<Rounds<Result<u64, String>>>)>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    incarnation: u64,
    next_seq: AtomicU64,
    in_flight: Semaphore,
    leadership: watch::Sender<Leadership>,
    beats: beats::Beats,
    /// When a leader was last heard; openraft goes on naming one that died while no other is elected.
    heard: Mutex<tokio::time::Instant>,
    log: Log,
    disk: Arc<HaltingDisk>,
    feature_level: u32,
    /// Whether it serves: the leader is told of its level from then on.
    serves: AtomicBool,
    heard_levels: Heard,
    /// Why it must end, other than what openraft knows.
    refused: watch::Sender<Option<String>>,
    heartbeat: Duration,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Has entries removed that checkpoints cover, and checkpoints written where the log has too many bytes. Until the core
/// is gone.
async fn keep_within_bounds(log: Log, raft: Raft) {
    loop {
        log.grown().await;
        let checkpoint = raft.metrics().borrow_watched().snapshot.map(|id| id.index);
        let Trim { checkpoint, purge, .. } = log.trim(checkpoint);
        // One that is being written is left alone, and so are entries that are being sent or will be, until they are
        // overdue: the log grows on and tells again.
        if checkpoint && raft.trigger().snapshot().await.is_err() {
            return;
        }
        if let Some(upto) = purge
            && raft.trigger().purge_log(upto).await.is_err()
        {
            return;
        }
    }
}

impl Node {
    pub async fn start(options: Options) -> Result<Node, Error> {
        let (heartbeat, min, max) = options.profile.timing();
        let config = openraft::Config {
            cluster_name: options.cluster_id.clone(),
            heartbeat_interval: heartbeat,
            election_timeout_min: min,
            election_timeout_max: max,
            install_snapshot_timeout: 60_000,
            max_payload_entries: 2_000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(options.checkpoints.every),
            // It purges nothing by itself: `keep_within_bounds` does.
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: options.checkpoints.every * 2,
            enable_pre_vote: Some(true),
            // A leader that restarts must be elected anew: the commit index on its disk is only a hint,
            // so that it would serve reads older than writes it has acknowledged.
            enable_leader_restore: Some(false),
            quorum_loss_probe_interval: Some(2 * max),
            backoff: BACKOFF.into(),
            ..openraft::Config::default()
        };
        let config = Arc::new(config.validate().map_err(|error| Error::Fatal(error.to_string()))?);
        let halting = Arc::new(HaltingDisk::new(options.disk));
        let disk: Arc<dyn Disk> = halting.clone();
        let writer = (options.spawn_writer)(Writer::new(disk.clone()));
        let log = Log::open(disk.clone(), writer, options.checkpoints).map_err(Error::Storage)?;
        let machine = Machine::open(disk, options.feature_level).map_err(Error::Storage)?;
        let heard_levels = Heard::default();
        let network = Network {
            cluster_id: options.cluster_id.clone(),
            transport: options.transport.clone(),
            heard_levels: heard_levels.clone(),
            granted: Granted::default(),
            log: log.clone(),
        };
        let promises = log.clone();
        let starting = Raft::new(options.node_id, config, network, log, machine.clone());
        let raft = openraft::rt::deterministic_rng::DeterministicRng::<openraft_rt_tokio::TokioRuntime>::scope(
            options.seed,
            starting,
        );
        let raft = raft.await.map_err(|error| Error::Fatal(error.to_string()))?;
        let forwarder = Forwarder::new(options.cluster_id.clone(), options.transport.clone());
        let inner = Arc::new(Inner {
            cluster_id: options.cluster_id,
            id: options.node_id,
            raft,
            machine,
            transport: options.transport,
            forwarder: Arc::new(forwarder),
            confirmed: Rounds::default(),
            fetched: Mutex::default(),
            clock: options.clock,
            incarnation: stdx::Rng::new(options.seed ^ 0x1C4A_3B5D).next_u64(),
            next_seq: AtomicU64::new(1),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            leadership: watch::Sender::new(Leadership::default()),
            beats: beats::Beats::default(),
            heard: Mutex::new(tokio::time::Instant::now()),
            log: promises,
            disk: halting,
            feature_level: options.feature_level,
            serves: AtomicBool::new(false),
            heard_levels,
            refused: watch::Sender::new(None),
            heartbeat: Duration::from_millis(heartbeat),
            tasks: Mutex::default(),
        });
        let follow = tokio::spawn(leadership::follow(Arc::downgrade(&inner), Duration::from_millis(max)));
        let keep = tokio::spawn(levels::keep(Arc::downgrade(&inner)));
        let trim = tokio::spawn(keep_within_bounds(inner.log.clone(), inner.raft.clone()));
        let keep_off = tokio::spawn(stall::keep_off(Arc::downgrade(&inner)));
        inner.tasks.lock().extend([follow, keep, trim, keep_off]);
        Ok(Node(inner))
    }

    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// What tells this master's group from others: calls that name another are refused.
    pub fn cluster_id(&self) -> &str {
        &self.0.cluster_id
    }

    pub fn store(&self) -> Store {
        Store::new(self.0.machine.published(), self.0.clone())
    }

    /// The highest feature level that this binary knows.
    pub fn feature_level(&self) -> u32 {
        self.0.feature_level
    }

    /// From now on the others are told what its build knows: to be called once all of it is up.
    pub fn serve(&self) {
        self.0.serves.store(true, Ordering::Relaxed);
        self.0.heard_levels.wake();
    }

    /// Starts the cluster with this master as its only member. Refused once there is a log.
    pub async fn initialize(&self, member: Member) -> Result<(), Error> {
        let members = BTreeMap::from([(self.0.id, member)]);
        self.0.raft.initialize(members).await.map_err(|error| Error::Refused(error.to_string()))
    }

    pub async fn is_initialized(&self) -> Result<bool, Error> {
        self.0.raft.is_initialized().await.map_err(|error| Error::Fatal(error.to_string()))
    }

    /// Waits until peers report of the workers whose sessions they hold: when each was last heard. For one reader.
    pub async fn beats(&self) -> BTreeMap<String, tokio::time::Instant> {
        self.0.beats.read().await
    }

    /// Tells the leader how long the workers of this master's sessions have been silent.
    pub async fn send_beats(&self, silent_ms: BTreeMap<String, u64>) -> Result<(), Error> {
        let (id, member) = self.0.leader().ok_or(Error::NotLeader)?;
        let to = Some(self.0.to(id));
        let request = PeerRequest::Beats(pb::BeatsRequest { to, silent_ms: silent_ms.into_iter().collect() });
        let deadline = Duration::from_secs(1);
        self.0.transport.call(Lane::Heartbeat, &member.peer_addr, request, deadline).await?;
        Ok(())
    }

    /// Greets all other members on each lane that a change of leaders needs at once: a connection that is there
    /// already spares it a TLS handshake. To be called again and again. A snapshot may wait for its own.
    pub async fn greet_members(&self) {
        let others: Vec<MemberStatus> = self.status().members.into_iter().filter(|m| m.id != self.0.id).collect();
        self.0.transport.keep_only(&others.iter().map(|m| m.member.peer_addr.clone()).collect());
        let lanes = [Lane::Replication, Lane::Heartbeat, Lane::Client];
        let greetings = others.iter().flat_map(|m| lanes.map(|lane| self.greet(lane, m.id, m.member.clone())));
        futures::future::join_all(greetings).await;
    }

    async fn greet(&self, lane: Lane, id: u64, member: Member) {
        let request = PeerRequest::Greet(pb::GreetRequest { to: Some(self.0.to(id)) });
        let greeted = self.0.transport.call(lane, &member.peer_addr, request, Duration::from_secs(1)).await;
        if let Err(error) = greeted {
            tracing::debug!(master = %member.name, ?lane, %error, "no connection is kept");
        }
    }

    /// Waits until this master is a voter, for ever where it does not come to that.
    pub async fn votes(&self) {
        let id = self.0.id;
        let votes = |metrics: &RaftMetrics<TypeConfig>| metrics.membership_config.voter_ids().any(|voter| voter == id);
        let mut metrics = self.0.raft.metrics();
        while !votes(&metrics.borrow_watched()) {
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    pub fn status(&self) -> Status {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last_index = metrics.last_log_index.unwrap_or(0);
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        // Nothing is known of one that has acknowledged nothing yet: it may be out of reach.
        let matched = |id: &u64| {
            let matching = metrics.replication.as_ref()?.get(id).copied().flatten()?;
            Some(last_index.saturating_sub(matching.index))
        };
        let members = membership.nodes().map(|(id, member)| MemberStatus {
            id: *id,
            member: member.clone(),
            voter: voters.contains(id),
            lag: matched(id),
        });
        Status {
            leader: metrics.current_leader.filter(|_| self.0.leadership.borrow().leader.is_some()),
            term: metrics.current_term,
            last_index,
            applied_index: metrics.last_applied.map_or(0, |log_id| log_id.index),
            members: members.collect(),
        }
    }

    pub async fn shutdown(&self) {
        self.0.tasks.lock().drain(..).for_each(|task| task.abort());
        // A core that waits for a disk which takes nothing waits for ever. openraft's own waiting is not cut short: who
        // else asks for the core's end would panic.
        let raft = self.0.raft.clone();
        let ending = tokio::spawn(async move { raft.shutdown().await });
        match tokio::time::timeout(SHUTDOWN_MAX, ending).await.map(Result::flatten) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "consensus did not stop cleanly"),
            Err(_) => tracing::warn!("consensus waits for the disk, and is left behind"),
        }
    }

    /// Waits until consensus has failed for good (a failed sync, a panic) and says why.
    pub async fn failed(&self) -> Failure {
        let mut refused = self.0.refused.subscribe();
        let refused = async {
            let why = refused.wait_for(Option::is_some).await.map(|why| why.clone());
            Failure::Other(why.ok().flatten().unwrap_or_default())
        };
        let failure = tokio::select! {
            failure = refused => failure,
            failure = self.ended() => failure,
        };
        match self.0.disk.failure() {
            Some((std::io::ErrorKind::StorageFull, why)) => Failure::DiskFull(why.clone()),
            Some((_, why)) => Failure::Storage(format!("the disk took no more: {why}")),
            None => failure,
        }
    }

    /// Waits until openraft has ended.
    async fn ended(&self) -> Failure {
        // These metrics change with leaders and members only, not with every write; the core drops them
        // after it has said in the others why it ends.
        let mut ended = self.0.raft.server_metrics();
        while ended.changed().await.is_ok() {}
        match &self.0.raft.metrics().borrow_watched().running_state {
            Err(Fatal::StorageError(error)) => Failure::Storage(error.to_string()),
            Err(error @ (Fatal::Panicked | Fatal::Stopped)) => Failure::Other(error.to_string()),
            Ok(()) => Failure::Other("the Raft core is gone".into()),
        }
    }
}

impl Inner {
    fn to(&self, node_id: u64) -> pb::To {
        pb::To { cluster_id: self.cluster_id.clone(), node_id }
    }

    /// What the leader is told of its build.
    fn told_level(&self) -> Option<u32> {
        self.serves.load(Ordering::Relaxed).then_some(self.feature_level)
    }

    /// The members, by id.
    fn members(&self) -> BTreeMap<u64, Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().nodes().map(|(id, member)| (*id, member.clone())).collect()
    }

    /// The leader and its address, as the metrics know it.
    fn leader(&self) -> Option<(u64, Member)> {
        self.leadership.borrow().leader.as_ref()?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        let member = metrics.membership_config.membership().get_node(&id)?.clone();
        Some((id, member))
    }

    async fn propose_here(&self, command: Command) -> Attempt {
        Attempt::of(self.raft.client_write(command).await.map(|response| response.data))
    }

    /// Appends the transactions together and waits for each; within `DEADLINE` all are answered. One that
    /// cannot be read is refused alone.
    async fn propose_batch_here(&self, txns: &[bytes::Bytes]) -> Vec<Attempt> {
        let until = tokio::time::Instant::now() + DEADLINE;
        let commands: Vec<_> = txns.iter().map(Command::from_peer).collect();
        let readable: Vec<Command> = commands.iter().filter_map(|command| command.as_ref().ok().cloned()).collect();
        let n_readable = readable.len();
        let written = match readable.is_empty() {
            true => futures::stream::empty().boxed(),
            false => match self.raft.client_write_many(readable).await {
                Ok(written) => written.map(Attempt::of_many).boxed(),
                Err(error) => return txns.iter().map(|_| Attempt::Unknown(error.to_string())).collect(),
            },
        };
        let mut answers = attempt::in_time(written, n_readable, until).await.into_iter();
        let answer = |command: &std::io::Result<Command>| match command {
            Err(error) => Attempt::Done(Outcome::Refused(Refusal::Malformed(error.to_string()))),
            Ok(_) => answers.next().expect("each that could be read has an answer"),
        };
        commands.iter().map(answer).collect()
    }

    /// The refusal of a leader that has appended so much already that it cannot be written or committed in time: who is refused at
    /// once asks again, and what is not appended twice for it is committed the sooner. Not of its own plans, which are few.
    fn out_of_breath(&self) -> Option<Attempt> {
        let applied = self.machine.applied().borrow().map_or(0, |log_id| log_id.index);
        (self.log.n_bytes_open(applied) > BACKLOG_MAX).then(|| {
            let mib = BACKLOG_MAX >> 20;
            Attempt::NotAppended(format!(
                "the leader has more than {mib} MiB to write or to commit already; ask for less at once"
            ))
        })
    }

    async fn propose_once(&self, command: &Command, route: Route) -> Attempt {
        match self.leader() {
            None => Attempt::NotAppended(NO_LEADER.into()),
            Some((id, _)) if id == self.id => match self.out_of_breath() {
                Some(refusal) if route != Route::Here => refusal,
                Some(_) | None => self.propose_here(command.clone()).await,
            },
            Some(_) if route == Route::Here => Attempt::NotAppended("this master does not lead".into()),
            Some((id, member)) => self.forwarder.propose(id, member.peer_addr, command).await,
        }
    }

    /// Confirms leadership with a quorum, in a round shared by all who ask meanwhile, and returns the index
    /// a reader must have applied.
    async fn read_index_here(&self) -> Result<u64, String> {
        self.confirmed.join(self.confirm()).await
    }

    async fn confirm(&self) -> Result<u64, String> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().log_id().index),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(why))) => {
                Err(format!("not the leader ({:?})", why.reason))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err("the leader does not hear from a quorum".into())
            }
            Err(RaftError::Fatal(error)) => Err(error.to_string()),
        }
    }

    async fn read_index_once(&self, patience: Duration) -> Result<u64, String> {
        match self.leader() {
            None => Err(NO_LEADER.into()),
            Some((id, _)) if id == self.id => self.read_index_here().await,
            Some((id, member)) => {
                let rounds = {
                    let mut fetched = self.fetched.lock();
                    if fetched.0 != id {
                        *fetched = (id, Arc::default());
                    }
                    fetched.1.clone()
                };
                rounds.join(self.fetch_read_index(id, &member, patience)).await
            }
        }
    }

    async fn fetch_read_index(&self, id: u64, leader: &Member, patience: Duration) -> Result<u64, String> {
        let request = PeerRequest::ReadIndex(pb::ReadIndexRequest { to: Some(self.to(id)) });
        match self.transport.call(Lane::Client, &leader.peer_addr, request, patience).await {
            Ok(PeerReply::ReadIndex(reply)) if reply.not_leader.is_empty() => Ok(reply.index),
            Ok(PeerReply::ReadIndex(reply)) => Err(reply.not_leader),
            Ok(_) => Err("the leader answered something else".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits for news of a leader, or a moment: whichever comes first.
    async fn settle(&self) {
        let mut leadership = self.leadership.subscribe();
        leadership.mark_unchanged();
        let news = tokio::time::timeout(Duration::from_millis(20), leadership.changed());
        let _: Result<_, tokio::time::error::Elapsed> = news.await;
    }
}

/// What whoever asks is told while nobody leads.
pub const NO_LEADER: &str = "there is no leader; a majority of the masters must be up and reach each other";
/// openraft has this long to end.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
/// One try is given up after this, so that a leader that died with our request does not hold it for
/// the whole deadline: the next leader answers the retry.
pub(crate) const TRY: Duration = Duration::from_millis(600);

#[async_trait]
impl Proposer for Inner {
    async fn propose(&self, txn: Txn, route: Route) -> Result<Outcome, StoreError> {
        let started = tokio::time::Instant::now();
        let _permit = self.in_flight.acquire().await.expect("the semaphore is never closed");
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        let request = Some(RequestId { incarnation: self.incarnation, seq });
        let command = Command::new(&Txn { request, stamp: (self.clock)(), ..txn });
        if let Err(error) = command.fits() {
            return Ok(Outcome::Refused(Refusal::Malformed(error.to_string())));
        }
        let mut ambiguous = None;
        let mut why = String::from("no attempt was made in time");
        loop {
            let left = DEADLINE.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(match ambiguous {
                    Some(why) => StoreError::Unknown(why),
                    None => StoreError::Unavailable(why),
                });
            }
            let patience = left.min(TRY);
            match tokio::time::timeout(patience, self.propose_once(&command, route)).await {
                Ok(Attempt::Done(outcome)) => return Ok(outcome),
                Ok(Attempt::NotAppended(reason)) if route == Route::Here && ambiguous.is_none() => {
                    return Err(StoreError::Unavailable(reason));
                }
                Ok(Attempt::NotAppended(reason)) => why = reason,
                Ok(Attempt::Unknown(reason)) => ambiguous = Some(reason),
                Err(_) => ambiguous = Some("the leader did not answer in time".into()),
            }
            self.settle().await;
        }
    }

    async fn read_barrier(&self) -> Result<(), StoreError> {
        let started = tokio::time::Instant::now();
        let mut why = String::new();
        loop {
            let left = DEADLINE.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(StoreError::Unavailable(why));
            }
            let patience = left.min(TRY);
            match tokio::time::timeout(patience, self.read_index_once(patience)).await {
                Ok(Ok(index)) => {
                    let mut applied = self.machine.applied();
                    let reached = applied.wait_for(|log_id: &Option<LogId>| log_id.is_some_and(|id| id.index >= index));
                    let left = DEADLINE.saturating_sub(started.elapsed());
                    return match tokio::time::timeout(left, reached).await {
                        Ok(Ok(_)) => Ok(()),
                        Ok(Err(_)) => Err(StoreError::Unavailable("this master is stopping".into())),
                        Err(_) => Err(StoreError::Unavailable("this master lags behind the leader".into())),
                    };
                }
                Ok(Err(reason)) => why = reason,
                Err(_) => why = "the leader did not answer in time".into(),
            }
            self.settle().await;
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}
