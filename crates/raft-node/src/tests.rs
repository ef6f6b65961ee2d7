//! openraft's own storage suite over the in-memory disk, and what the simulator has taught.

use crate::disk::{Batch, Disk, MemoryDisk};
use crate::log::Log;
use crate::machine::Machine;
use crate::transport::{Lane, PeerReply, PeerRequest, Transport, TransportError};
use crate::types::{Entry, LogId, TypeConfig};
use crate::writer::{Writer, spawn_inline};
use crate::{Checkpoints, Error, Member, Node, Options, Profile};
use async_trait::async_trait;
use objects::Timestamp;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, StorageError};
use std::sync::Arc;
use std::time::Duration;

struct InMemory;

impl StoreBuilder<TypeConfig, Log, Machine> for InMemory {
    async fn build(&self) -> Result<((), Log, Machine), StorageError<TypeConfig>> {
        let disk = Arc::new(MemoryDisk::default());
        let writer = spawn_inline()(Writer::new(disk.clone()));
        let log = Log::open(disk.clone(), writer).map_err(|e| StorageError::read(TypeConfig::err_from_error(&e)))?;
        let machine = Machine::open(disk, 1).map_err(|e| StorageError::read(TypeConfig::err_from_error(&e)))?;
        Ok(((), log, machine))
    }
}

#[test]
fn passes_the_storage_suite() {
    TypeConfig::run(async { Suite::test_all(InMemory).await.unwrap() });
}

/// A purge that reaches beyond the log, as a snapshot that is installed brings it: what lingers is not the log's end.
#[test]
fn a_purged_log_goes_on_behind_what_was_purged() {
    let disk = Arc::new(MemoryDisk::default());
    let open = || Log::open(disk.clone(), spawn_inline()(Writer::new(disk.clone())));
    let id = |index| LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
    let append = async |log: &mut Log, indices: std::ops::Range<u64>| {
        let entries = indices.map(|index| Entry { log_id: id(index), payload: EntryPayload::Blank });
        log.append(entries, IOFlushed::noop()).await.unwrap();
    };
    TypeConfig::run(async {
        let mut log = open().unwrap();
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

struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn call(&self, _: Lane, _: &str, _: PeerRequest, _: Duration) -> Result<PeerReply, TransportError> {
        Err(TransportError::Unreachable("there is nobody else".into()))
    }
}

async fn boot(disk: Arc<dyn Disk>) -> Node {
    boot_as(disk, 1).await.unwrap()
}

/// A master whose binary knows `feature_level`.
async fn boot_as(disk: Arc<dyn Disk>, feature_level: u32) -> Result<Node, Error> {
    let options = Options {
        cluster_id: "test".into(),
        node_id: 1,
        name: "master-1".into(),
        profile: Profile::Lan,
        checkpoints: Checkpoints::default(),
        seed: 1,
        disk,
        transport: Arc::new(Nowhere),
        spawn_writer: spawn_inline(),
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
        Ok(node) => node.failed().await,
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
    assert!(node.failed().await.contains("feature level 2, and this build knows 1"));
}
