//! openraft's own storage suite over the in-memory disk.

use crate::disk::MemoryDisk;
use crate::log::Log;
use crate::machine::Machine;
use crate::types::TypeConfig;
use crate::writer::{Writer, spawn_inline};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use std::sync::Arc;

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
