//! The suite of disks over the one in memory, and what the simulator has taught.

use crate::disk::{Batch, Disk, MemoryDisk};
use crate::log::Log;
use crate::network::Network;
use crate::transport::{Lane, PeerReply, PeerRequest, Transport, TransportError};
use crate::types::{Entry, LogId, Snapshot, SnapshotMeta, TypeConfig, Vote};
use crate::writer::{Spawn, Writer, spawn_inline, spawn_task};
use crate::{Changes, Checkpoints, Error, Joiner, Member, Node, Options, Profile, suite};
use async_trait::async_trait;
use objects::Timestamp;
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use parking_lot::Mutex;
use protos::raft as pb;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn the_simulator_s_disk_passes_the_suite_of_disks() {
    suite::check(|| {
        let disk = Arc::new(MemoryDisk::default());
        Box::new(move || {
            disk.crash(0);
            disk.clone()
        })
    });
}

/// A purge that reaches beyond the log, as a snapshot that is installed brings it: what lingers is not the log's end.
#[test]
fn a_purged_log_goes_on_behind_what_was_purged() {
    let disk = Arc::new(MemoryDisk::default());
    let open = || open_log(&disk, Checkpoints::default());
    TypeConfig::run(async {
        let mut log = open().unwrap();
        log.save_vote(&Vote { leader_id: id(0).leader_id, committed: true }).await.unwrap();
        append(&mut log, 0..6).await;
        log.purge(id(501)).await.unwrap();
        let purged = LogState { last_purged_log_id: Some(id(501)), last_log_id: Some(id(501)) };
        let mut log = open().unwrap();
        assert!(disk.last(b"L", b"M").unwrap().is_some(), "purged entries linger");
        assert_eq!(log.get_log_state().await.unwrap(), purged);
        assert!(log.try_get_log_entries(..).await.unwrap().is_empty());
        append(&mut log, 502..504).await;
        let mut log = open().unwrap();
        assert_eq!(log.get_log_state().await.unwrap(), LogState { last_log_id: Some(id(503)), ..purged });
        let there = log.try_get_log_entries(..).await.unwrap();
        assert_eq!(there.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [502, 503]);
        // As when the disk has lost the newest purge point.
        let mut older = Batch::default();
        older.put(crate::disk::PURGED, crate::codec::log_id_to_bytes(&id(400)));
        disk.write(older, true).unwrap();
        let why = open().map(drop).unwrap_err().to_string();
        assert!(why.contains("entry 401") && why.contains("balsa token"), "{why}");
    });
}

/// A vote that is older than the log's last entry is not this master's last.
#[test]
fn a_log_without_its_vote_is_not_opened() {
    let disk = Arc::new(MemoryDisk::default());
    let open = || open_log(&disk, Checkpoints::default());
    TypeConfig::run(async {
        append(&mut open().unwrap(), 0..3).await;
        let why = open().map(drop).unwrap_err().to_string();
        assert!(why.contains("vote") && why.contains("term 1") && why.contains("balsa token"), "{why}");
    });
}

/// Of a master that restarts before it has written much, over and over.
#[test]
fn what_earlier_processes_wrote_is_trimmed_too() {
    let disk = Arc::new(MemoryDisk::default());
    let bounds = Checkpoints { every_bytes: 1_024, kept_bytes: 200, ..Checkpoints::default() };
    TypeConfig::run(async {
        let vote = Vote { leader_id: id(0).leader_id, committed: true };
        open_log(&disk, bounds).unwrap().save_vote(&vote).await.unwrap();
        let mut last_gone = None;
        for life in 0..50 {
            let mut log = open_log(&disk, bounds).unwrap();
            append(&mut log, 4 * life..4 * life + 4).await;
            if let Some(gone) = log.trim(Some(4 * life + 3)).purge {
                log.purge(id(gone)).await.unwrap();
                last_gone = Some(gone);
            }
        }
        assert!(last_gone > Some(150), "{last_gone:?} of 199");
        assert!(open_log(&disk, bounds).unwrap().n_bytes_open(0) < 400);
    });
}

fn open_log(disk: &Arc<MemoryDisk>, bounds: Checkpoints) -> std::io::Result<Log> {
    Log::open(disk.clone(), spawn_inline()(Writer::new(disk.clone())), bounds)
}

fn id(index: u64) -> LogId {
    LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index }
}

async fn append(log: &mut Log, indices: std::ops::Range<u64>) {
    let entries = indices.map(|index| Entry { log_id: id(index), payload: EntryPayload::Blank });
    log.append(entries, IOFlushed::noop()).await.unwrap();
}

pub(crate) struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn call(&self, _: Lane, _: &str, _: PeerRequest, _: Duration) -> Result<PeerReply, TransportError> {
        Err(TransportError::Unreachable("there is nobody else".into()))
    }
}

/// Nobody answers a greeting; counts what else was sent.
#[derive(Default)]
struct Ungreeted(AtomicUsize);

#[async_trait]
impl Transport for Ungreeted {
    async fn call(&self, _: Lane, _: &str, request: PeerRequest, _: Duration) -> Result<PeerReply, TransportError> {
        if !matches!(request, PeerRequest::Greet(_)) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Err(TransportError::Unreachable("it does not run".into()))
    }
}

/// To encode a large state takes seconds of a processor, and openraft tries on as long as the peer is down.
#[tokio::test]
async fn who_does_not_answer_a_greeting_is_sent_no_snapshot() {
    let transport = Arc::new(Ungreeted::default());
    let log = open_log(&Arc::new(MemoryDisk::default()), Checkpoints::default()).unwrap();
    let mut network = Network {
        cluster_id: "test".into(),
        transport: transport.clone(),
        heard_levels: Default::default(),
        granted: Default::default(),
        log: log.clone(),
    };
    let mut peer = network.new_snapshot_client(2, &joiner(2, "2").member).await;
    let meta = SnapshotMeta { last_log_id: Some(id(30)), ..SnapshotMeta::default() };
    let snapshot = Snapshot { meta, snapshot: state::State::default() };
    let vote = Vote { leader_id: id(30).leader_id, committed: true };
    let told = peer.full_snapshot(vote, snapshot, std::future::pending(), RPCOption::new(Duration::MAX)).await;
    assert!(told.unwrap_err().to_string().contains("it does not run"));
    assert_eq!(transport.0.load(Ordering::Relaxed), 0);
    assert_eq!(log.holds().lowest(0), None);
    // One that was replaced, and has applied some of its successor's log.
    let meta = SnapshotMeta { last_log_id: Some(id(30)), ..SnapshotMeta::default() };
    let snapshot = Snapshot { meta, snapshot: state::State::default() };
    let vote = Vote { leader_id: LeaderId { term: 0, node_id: 3 }, committed: true };
    let told = peer.full_snapshot(vote, snapshot, std::future::pending(), RPCOption::new(Duration::MAX)).await;
    assert!(told.unwrap_err().to_string().contains("does not lead any more"));
}

/// A group in one process. Counts appends that carry entries, by whom they are meant for.
#[derive(Default)]
struct Group {
    nodes: Mutex<BTreeMap<String, Node>>,
    carried: Mutex<BTreeMap<String, usize>>,
    /// Nothing but votes arrives.
    only_votes: AtomicBool,
    /// The master whose disk takes nothing, and says nothing.
    stalled: Arc<AtomicU64>,
}

/// A new master that others reach, as it says, at this address.
fn joiner(id: u64, peer_addr: &str) -> Joiner {
    let name = format!("master-{id}");
    let member = Member { api_addr: name.clone(), name, peer_addr: peer_addr.into(), feature_level: 1 };
    Joiner { id, member, learner: false, replaces: String::new() }
}

const STALL: Duration = Duration::from_secs(60);

impl Group {
    /// A group of the first of so many masters.
    async fn founded(n: u64) -> Arc<Group> {
        let group = Arc::new(Group::default());
        for id in 1..=n {
            let stalled = group.stalled.clone();
            let pause = move || if stalled.load(Ordering::Relaxed) == id { STALL } else { Duration::ZERO };
            let writer = spawn_task(move || [pause(), Duration::ZERO].map(tokio::time::sleep));
            let node = boot_in(id, group.clone(), Arc::new(MemoryDisk::default()), 1, writer).await.unwrap();
            group.nodes.lock().insert(id.to_string(), node);
        }
        group.node(1).initialize(joiner(1, "1").member).await.unwrap();
        leading_term(&group.node(1)).await;
        group
    }

    /// Three masters, led by the first, that all hold a log of some 4,000 entries.
    async fn started() -> Arc<Group> {
        let group = Group::founded(3).await;
        let changes = Changes::new(group.node(1));
        for id in [2, 3] {
            changes.take_in(joiner(id, &id.to_string())).await.unwrap();
        }
        let store = group.node(1).store();
        for written in futures::future::join_all((0..4_000).map(|_| store.propose(state::Txn::default()))).await {
            written.unwrap();
        }
        // A read waits until all that was acknowledged is applied here.
        for id in [2, 3] {
            group.node(id).store().read().await.unwrap();
        }
        group
    }

    fn node(&self, id: u64) -> Node {
        self.nodes.lock()[&id.to_string()].clone()
    }
}

#[async_trait]
impl Transport for Group {
    async fn call(&self, _: Lane, addr: &str, request: PeerRequest, _: Duration) -> Result<PeerReply, TransportError> {
        if matches!(&request, PeerRequest::Append(append) if !append.entries.is_empty()) {
            *self.carried.lock().entry(addr.to_string()).or_default() += 1;
        }
        let is_vote = matches!(&request, PeerRequest::Vote(_) | PeerRequest::TransferLeader(_));
        if self.only_votes.load(Ordering::Relaxed) && !is_vote {
            return Err(TransportError::Unreachable("it is cut off".into()));
        }
        let node = self.nodes.lock().get(addr).cloned();
        let node = node.ok_or_else(|| TransportError::Unreachable("it does not run".into()))?;
        node.handle(request).await.map_err(|error| TransportError::Failed(error.to_string()))
    }
}

async fn boot(disk: Arc<dyn Disk>) -> Node {
    boot_as(disk, 1).await.unwrap()
}

/// A master whose binary knows `feature_level`.
async fn boot_as(disk: Arc<dyn Disk>, feature_level: u32) -> Result<Node, Error> {
    boot_in(1, Arc::new(Nowhere), disk, feature_level, spawn_inline()).await
}

async fn boot_in(
    node_id: u64,
    transport: Arc<dyn Transport>,
    disk: Arc<dyn Disk>,
    feature_level: u32,
    spawn_writer: Spawn,
) -> Result<Node, Error> {
    let options = Options {
        cluster_id: "test".into(),
        node_id,
        name: format!("master-{node_id}"),
        profile: Profile::Lan,
        checkpoints: Checkpoints::default(),
        seed: node_id,
        disk,
        transport,
        spawn_writer,
        feature_level,
        clock: Arc::new(|| Timestamp(0)),
    };
    let node = Node::start(options).await?;
    node.serve();
    Ok(node)
}

async fn leading_term(node: &Node) -> u64 {
    let mut leadership = node.store().leadership();
    leadership.wait_for(|now| now.active.is_some()).await.unwrap().term
}

/// As the leader of its old term it would serve reads from a commit index it only half remembers, and
/// give indexes a second time that it had lost with the power.
#[tokio::test(start_paused = true)]
async fn a_restarted_leader_is_elected_anew() {
    let disk = Arc::new(MemoryDisk::default());
    let node = boot(disk.clone()).await;
    node.initialize(Member::default()).await.unwrap();
    let before = leading_term(&node).await;
    node.shutdown().await;
    disk.crash(0);
    let after = leading_term(&boot(disk).await).await;
    assert!(after > before, "term {before}, then {after}");
}

/// What a restore writes is a group that elects its one member; what a leader left half done is ended.
#[tokio::test(start_paused = true)]
async fn a_founded_group_leads_and_ends_a_change_that_was_begun() {
    use crate::{Founding, read_remains};
    use objects::{Key, Revision, json, record, registry};
    use state::{LeaderId, Op, State, Txn, snapshot};
    use std::collections::BTreeSet;
    let mut state = State::new();
    let key = Key::new(registry::CONFIG_MAP, "default", "a");
    let object = record::encode(&json!({"metadata": {"name": "a", "namespace": "default"}}));
    state.apply(LeaderId::default(), &Txn { ops: vec![Op::Create { key: key.clone(), object }], ..Txn::default() });
    let disk = Arc::new(MemoryDisk::default());
    let mut founding = Founding::on(disk.clone());
    state.records_after(None).for_each(|r| founding.row(&r.key, snapshot::record_bytes(r)).unwrap());
    let head = snapshot::rebase(&snapshot::head_bytes(&state), Revision(1_000)).unwrap();
    let voters = vec![BTreeSet::from([1]), BTreeSet::from([1])];
    founding.finish_as(1, Member { feature_level: 1, ..Member::default() }, head, voters.clone()).unwrap();
    let remains = read_remains(disk.clone()).unwrap();
    assert_eq!((remains.voters, remains.last.index, remains.state.revision()), (voters, 1, Revision(1_000)));

    let node = boot(disk.clone()).await;
    leading_term(&node).await;
    assert!(node.is_initialized().await.unwrap() && node.is_changing());
    node.end_change().await.unwrap();
    assert!(!node.is_changing());
    let view = node.store().read().await.unwrap();
    assert_eq!((view.revision(), view.get(&key).is_some()), (Revision(1_000), true));
    node.shutdown().await;
    assert_eq!(read_remains(disk).unwrap().voters, [BTreeSet::from([1])]);
}

async fn level_in_force(node: &Node, wanted: u32) {
    let mut revisions = tokio::time::interval(Duration::from_millis(10));
    while node.store().view().state().feature_level() != wanted {
        revisions.tick().await;
    }
}

/// An older build neither applies nor takes what a newer one may have written by newer rules.
#[tokio::test(start_paused = true)]
async fn a_newer_build_raises_the_feature_level_and_an_older_one_stops() {
    let disk = Arc::new(MemoryDisk::default());
    let node = boot_as(disk.clone(), 1).await.unwrap();
    node.initialize(Member { feature_level: 1, ..Member::default() }).await.unwrap();
    leading_term(&node).await;
    level_in_force(&node, 1).await;
    node.shutdown().await;

    let node = boot_as(disk.clone(), 2).await.unwrap();
    level_in_force(&node, 2).await;
    let old = Member { name: "master-2".into(), feature_level: 1, ..Member::default() };
    let refusal = node.add_learner(2, old).await.unwrap_err().to_string();
    assert!(refusal.contains("the build of master-2 knows 1"), "{refusal}");
    node.shutdown().await;

    let told = match boot_as(disk.clone(), 1).await {
        Ok(node) => node.failed().await.to_string(),
        Err(error) => format!("{error:?}"),
    };
    assert!(told.contains("feature level 2, and this build knows 1"), "{told}");
    level_in_force(&boot_as(disk, 2).await.unwrap(), 2).await;
}

/// It would be sent again and again, and nobody would know why this master lags.
#[tokio::test(start_paused = true)]
async fn an_older_build_that_is_sent_a_newer_state_stops() {
    let node = boot_as(Arc::new(MemoryDisk::default()), 1).await.unwrap();
    let mut newer = state::State::new();
    newer.raise(2);
    let meta = crate::types::SnapshotMeta::default();
    let snapshot = PeerRequest::Snapshot {
        to: protos::raft::To { cluster_id: "test".into(), node_id: 1 },
        vote: protos::raft::Vote { term: 9, node_id: 2, committed: true },
        meta: crate::codec::meta_to_bytes(&meta),
        data: state::snapshot::encode(&newer).into(),
    };
    assert!(matches!(node.handle(snapshot).await, Err(Error::Refused(_))));
    assert!(node.failed().await.to_string().contains("feature level 2, and this build knows 1"));
}

/// openraft's core ends of such a pair.
#[tokio::test(start_paused = true)]
async fn a_snapshot_of_a_later_term_than_its_leader_is_refused() {
    let node = boot_as(Arc::new(MemoryDisk::default()), 1).await.unwrap();
    let of = |term| PeerRequest::Snapshot {
        to: protos::raft::To { cluster_id: "test".into(), node_id: 1 },
        vote: protos::raft::Vote { term: 9, node_id: 2, committed: true },
        meta: crate::codec::meta_to_bytes(&SnapshotMeta {
            last_log_id: Some(LogId { leader_id: LeaderId { term, node_id: 2 }, index: 30 }),
            ..SnapshotMeta::default()
        }),
        data: state::snapshot::encode(&state::State::new()).into(),
    };
    assert!(matches!(node.handle(of(10)).await, Err(Error::Refused(_))));
    assert!(matches!(node.handle(of(9)).await, Ok(PeerReply::Snapshot(_))), "its core is there");
}

/// It would be sent the same again and again, and look like one that follows.
#[tokio::test(start_paused = true)]
async fn who_cannot_read_what_the_leader_sends_ends_and_says_so() {
    let node = boot_as(Arc::new(MemoryDisk::default()), 1).await.unwrap();
    let append = protos::raft::AppendRequest {
        to: Some(protos::raft::To { cluster_id: "test".into(), node_id: 1 }),
        vote: Some(protos::raft::Vote { term: 9, node_id: 2, committed: true }),
        entries: vec![vec![99, 0].into()],
        ..Default::default()
    };
    assert!(matches!(node.handle(PeerRequest::Append(append)).await, Err(Error::Storage(_))));
    let why = node.failed().await.to_string();
    assert!(why.contains("cannot be read by this build") && why.contains("install the leader's"), "{why}");
}

/// A log of 4,000 entries halved, step by step, would take nine messages to each.
#[tokio::test(start_paused = true)]
async fn a_new_leader_knows_from_the_votes_where_logs_agree() {
    let group = Group::started().await;
    group.carried.lock().clear();
    group.node(1).hand_over_to(2).await.unwrap();
    leading_term(&group.node(2)).await;
    let carried = group.carried.lock().clone();
    assert!(carried.values().all(|n| *n <= 4), "{carried:?}");
    group.node(2).store().propose(state::Txn::default()).await.unwrap();
}

/// What it knows of the logs is no word from their masters that it leads still.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_votes_and_nothing_else_serves_no_read() {
    let group = Group::started().await;
    group.only_votes.store(true, Ordering::Relaxed);
    let told = group.node(1).hand_over_to(2).await;
    assert!(told.is_err(), "nobody hears of the new leader");
    assert!(group.node(2).store().read().await.is_err());
    group.only_votes.store(false, Ordering::Relaxed);
    group.node(3).store().read().await.unwrap();
}

/// As a voter it would be needed for every write from then on, also for the one that takes it out again.
#[tokio::test(start_paused = true)]
async fn a_joiner_that_cannot_be_reached_does_not_vote() {
    let group = Group::founded(2).await;
    let changes = Changes::new(group.node(1));
    let told = changes.take_in(joiner(2, "behind a firewall")).await.unwrap_err().to_string();
    assert!(told.contains("has acknowledged nothing yet: is it to be reached at behind a firewall"), "{told}");
    group.node(1).store().propose(state::Txn::default()).await.unwrap();
    changes.take_in(joiner(2, "2")).await.unwrap();
    let members = group.node(1).status().members;
    assert!(members.iter().all(|m| m.voter && m.lag.is_some()), "{members:?}");
}

/// On its disk is less than was acknowledged, and who writes more than the others take would fill its memory.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_takes_nothing_hands_over() {
    let group = Group::started().await;
    group.stalled.store(1, Ordering::Relaxed);
    let store = group.node(1).store();
    store.propose(state::Txn::default()).await.expect("the other two take it");
    let mut leadership = group.node(3).store().leadership();
    let another = |now: &store::Leadership| now.leader.as_ref().is_some_and(|leader| leader != "master-1");
    tokio::time::timeout(Duration::from_secs(10), leadership.wait_for(another)).await.unwrap().unwrap();
    group.node(3).store().propose(state::Txn::default()).await.unwrap();
    assert!(store.read().await.is_err(), "its core waits for the disk");
    group.stalled.store(0, Ordering::Relaxed);
    let mut leadership = store.leadership();
    tokio::time::timeout(2 * STALL, leadership.wait_for(another)).await.unwrap().unwrap();
    store.read().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_master_whose_disk_takes_nothing_ends_when_it_is_told_to() {
    let group = Group::started().await;
    group.stalled.store(1, Ordering::Relaxed);
    group.node(1).store().propose(state::Txn::default()).await.unwrap();
    // Until its core waits for the disk.
    while group.node(1).store().read().await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::timeout(STALL / 2, group.node(1).shutdown()).await.expect("it does not wait with it");
}

/// A leader counts the answer as word that nobody else can have been elected.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_is_answered_for_a_busy_disk_until_another_has_been_promised_a_vote() {
    let group = Group::started().await;
    let term = leading_term(&group.node(1)).await;
    let to = || Some(pb::To { cluster_id: "test".into(), node_id: 2 });
    let vote = |term, node_id, committed| {
        Some(crate::codec::vote_to_pb(&Vote { leader_id: LeaderId { term, node_id }, committed }))
    };
    let heartbeat = || {
        let append = pb::AppendRequest { to: to(), vote: vote(term, 1, true), heartbeat: true, ..Default::default() };
        let node = group.node(2);
        async move {
            let answer = tokio::time::timeout(Duration::from_secs(1), node.handle(PeerRequest::Append(append))).await;
            match answer {
                Ok(Ok(PeerReply::Append(answer))) => Some(answer.result()),
                _ => None,
            }
        }
    };
    group.stalled.store(2, Ordering::Relaxed);
    group.node(1).store().propose(state::Txn::default()).await.unwrap();
    let success = Some(pb::append_response::Result::Success);
    assert_eq!(heartbeat().await, success, "the entry before is not written");
    let last_log_id = Some(crate::codec::log_id_to_pb(&id(1_000_000)));
    let ask = pb::VoteRequest { to: to(), vote: vote(term + 1, 3, false), last_log_id, leadership_transfer: true };
    let (node, asked) = (group.node(2), PeerRequest::Vote(ask));
    let asking = tokio::spawn(async move { node.handle(asked).await });
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_ne!(heartbeat().await, success, "the vote is on its way to the disk, and to who asked for it");
    assert!(!asking.is_finished());
}

#[test]
fn a_peer_that_is_back_waits_200_ms_at_most() {
    let config = openraft::Config { backoff: crate::node::BACKOFF.into(), ..openraft::Config::default() };
    let waits: Vec<u128> = config.build_backoff().take(50).map(|wait| wait.as_millis()).collect();
    assert_eq!(waits[..5], [20, 50, 100, 200, 200]);
    assert!(waits.iter().all(|wait| *wait <= 200));
}
