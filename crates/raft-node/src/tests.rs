//! openraft's own storage suite over the in-memory disk, and what the simulator has taught.

use crate::disk::{Disk, MemoryDisk};
use crate::log::Log;
use crate::machine::Machine;
use crate::transport::{Lane, PeerReply, PeerRequest, Transport, TransportError};
use crate::types::TypeConfig;
use crate::writer::{Writer, spawn_inline};
use crate::{Checkpoints, Member, Node, Options, Profile};
use async_trait::async_trait;
use objects::Timestamp;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use std::sync::Arc;
use std::time::Duration;

struct InMemory;

impl StoreBuilder<TypeConfig, Log, Machine> for InMemory {
    async fn build(&self) -> Result<((), Log, Machine), StorageError<TypeConfig>> {
        let disk = Arc::new(MemoryDisk::default());
        let writer = spawn_inline()(Writer::new(disk.clone()));
        let log = Log::open(disk.clone(), writer).map_err(|e| StorageError::read(TypeConfig::err_from_error(&e)))?;
        let machine = Machine::open(disk).map_err(|e| StorageError::read(TypeConfig::err_from_error(&e)))?;
        Ok(((), log, machine))
    }
}

#[test]
fn passes_the_storage_suite() {
    TypeConfig::run(async { Suite::test_all(InMemory).await.unwrap() });
}

struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn call(&self, _: Lane, _: &str, _: PeerRequest, _: Duration) -> Result<PeerReply, TransportError> {
        Err(TransportError::Unreachable("there is nobody else".into()))
    }
}

async fn boot(disk: Arc<dyn Disk>) -> Node {
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
        clock: Arc::new(|| Timestamp(0)),
    };
    Node::start(options).await.unwrap()
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
