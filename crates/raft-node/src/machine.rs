//! openraft's state machine over `state::State`: applies, publishes, checkpoints.
//!
//! The applied state lives in memory. A checkpoint (openraft's "snapshot") writes what changed since
//! the last one, atomically and synced, beside the log; entries are purged only below a checkpoint.
//! A snapshot for a peer is the checkpointed state itself, encoded when it is sent.

use crate::codec;
use crate::disk::{self, Batch, Disk};
use crate::types::{Entry, LogId, Snapshot, SnapshotData, SnapshotMeta, StoredMembership, TypeConfig, leader_id};
use futures::{Stream, TryStreamExt};
use objects::{Key, KindId};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use state::{Outcome, State, View, snapshot};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use store::Published;
use tokio::sync::watch;

/// Entries applied before readers see them, at most: one publication costs about 2 us and a wake-up.
const PUBLISH_EVERY: usize = 256;

#[derive(Clone)]
pub(crate) struct Machine {
    disk: Arc<dyn Disk>,
    published: Arc<Published>,
    applied: watch::Sender<Option<LogId>>,
    shared: Arc<Mutex<Shared>>,
    /// Held while rows are written, so that a checkpoint and an installed snapshot never mix.
    rows: Arc<Mutex<()>>,
}

struct Shared {
    state: State,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    /// Objects changed since the last checkpoint.
    dirty: BTreeSet<Key>,
    checkpoint: Option<(SnapshotMeta, State)>,
}

fn invalid(error: impl std::error::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the applied state on disk cannot be read: {error}"))
}

impl Machine {
    /// The last checkpoint: the last entry it holds, the group then, and the state. Empty without one.
    pub(crate) fn checkpoint_of(disk: &dyn Disk) -> io::Result<(Option<LogId>, StoredMembership, State)> {
        let Some(meta) = disk.get(disk::CHECKPOINT_META)? else {
            return Ok((None, StoredMembership::default(), State::new()));
        };
        let meta = codec::meta_from_bytes(&meta)?;
        let head = disk.get(disk::CHECKPOINT_HEAD)?.unwrap_or_default();
        let rows = disk.scan(disk::OBJECTS_START, disk::OBJECTS_END, usize::MAX)?;
        let state = snapshot::assemble(&head, rows.iter().map(|(_, row)| &row[..])).map_err(invalid)?;
        Ok((meta.last_log_id, meta.last_membership, state))
    }

    /// Loads the last checkpoint; the log since then is re-applied by openraft.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> io::Result<Machine> {
        let (last_applied, membership, state) = Machine::checkpoint_of(&*disk)?;
        let meta = SnapshotMeta { last_log_id: last_applied, last_membership: membership.clone() };
        let checkpoint = last_applied.is_some().then(|| (meta, state.clone()));
        let shared = Shared { state, last_applied, membership, dirty: BTreeSet::new(), checkpoint };
        let published = Published::new(View::new(shared.state.clone()));
        let applied = watch::Sender::new(shared.last_applied);
        Ok(Machine { disk, published, applied, shared: Arc::new(Mutex::new(shared)), rows: Arc::default() })
    }

    pub(crate) fn published(&self) -> Arc<Published> {
        self.published.clone()
    }

    /// The log id of the newest entry applied here.
    pub(crate) fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    fn publish(&self, touched: &mut BTreeSet<KindId>) {
        let (view, last_applied) = {
            let shared = self.shared.lock();
            (View::new(shared.state.clone()), shared.last_applied)
        };
        self.published.publish(view, std::mem::take(touched));
        self.applied.send_replace(last_applied);
    }

    fn apply_one(&self, entry: Entry, touched: &mut BTreeSet<KindId>) -> io::Result<Outcome> {
        let mut shared = self.shared.lock();
        shared.last_applied = Some(entry.log_id);
        Ok(match entry.payload {
            EntryPayload::Blank => Outcome::Applied(Vec::new()),
            EntryPayload::Normal(command) => {
                let applied = shared.state.apply(leader_id(&entry.log_id), &command.txn()?);
                for event in &applied.events {
                    touched.insert(event.key.kind);
                    shared.dirty.insert(event.key.clone());
                }
                applied.outcome
            }
            EntryPayload::Membership(membership) => {
                shared.membership = StoredMembership::new(Some(entry.log_id), membership);
                Outcome::Applied(Vec::new())
            }
        })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Checkpoint;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let shared = self.shared.lock();
        Ok((shared.last_applied, shared.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut touched = BTreeSet::new();
        let mut answers = Vec::new();
        let mut n_unpublished = 0;
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.apply_one(entry, &mut touched)?;
            answers.extend(responder.map(|responder| (responder, outcome)));
            n_unpublished += 1;
            if n_unpublished == PUBLISH_EVERY {
                self.publish(&mut touched);
                answers.drain(..).for_each(|(responder, outcome)| responder.send(outcome));
                n_unpublished = 0;
            }
        }
        // Publish before answering: whoever gets the answer may read the view at once.
        self.publish(&mut touched);
        answers.into_iter().for_each(|(responder, outcome)| responder.send(outcome));
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Checkpoint {
        let mut shared = self.shared.lock();
        let meta = SnapshotMeta { last_log_id: shared.last_applied, last_membership: shared.membership.clone() };
        let dirty = std::mem::take(&mut shared.dirty);
        Checkpoint { machine: self.clone(), meta, state: shared.state.clone(), dirty }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, state: SnapshotData) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.delete_range(disk::OBJECTS_START.to_vec(), disk::OBJECTS_END.to_vec());
        let view = View::new(state.clone());
        for kind in objects::kinds() {
            for record in view.list(kind.id, "", None) {
                batch.put(disk::object_key(&record.key), snapshot::record_bytes(record));
            }
        }
        batch.put(disk::CHECKPOINT_HEAD, snapshot::head_bytes(&state));
        batch.put(disk::CHECKPOINT_META, codec::meta_to_bytes(meta));
        let _rows = self.rows.lock();
        self.disk.write(batch, true)?;
        {
            let mut shared = self.shared.lock();
            shared.state = state.clone();
            shared.last_applied = meta.last_log_id;
            shared.membership = meta.last_membership.clone();
            shared.dirty.clear();
            shared.checkpoint = Some((meta.clone(), state));
        }
        self.published.publish_all(view);
        self.applied.send_replace(meta.last_log_id);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let shared = self.shared.lock();
        let checkpoint = shared.checkpoint.as_ref();
        Ok(checkpoint.map(|(meta, state)| Snapshot { meta: meta.clone(), snapshot: state.clone() }))
    }
}

/// A checkpoint in the making: the state as it was when the builder was asked for.
pub(crate) struct Checkpoint {
    machine: Machine,
    meta: SnapshotMeta,
    state: State,
    dirty: BTreeSet<Key>,
}

impl RaftSnapshotBuilder<TypeConfig> for Checkpoint {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let _rows = self.machine.rows.lock();
        // A snapshot installed meanwhile is newer: writing older rows over it would mix the two.
        let newer = |shared: &Shared| {
            shared.checkpoint.as_ref().filter(|(meta, _)| meta.last_log_id > self.meta.last_log_id).cloned()
        };
        if let Some((meta, state)) = newer(&self.machine.shared.lock()) {
            return Ok(Snapshot { meta, snapshot: state });
        }
        let view = View::new(self.state.clone());
        let mut batch = Batch::default();
        for key in std::mem::take(&mut self.dirty) {
            match view.get(&key) {
                Some(record) => batch.put(disk::object_key(&key), snapshot::record_bytes(record)),
                None => batch.delete(disk::object_key(&key)),
            }
        }
        batch.put(disk::CHECKPOINT_HEAD, snapshot::head_bytes(&self.state));
        batch.put(disk::CHECKPOINT_META, codec::meta_to_bytes(&self.meta));
        self.machine.disk.write(batch, true)?;
        self.machine.shared.lock().checkpoint = Some((self.meta.clone(), self.state.clone()));
        Ok(Snapshot { meta: self.meta.clone(), snapshot: self.state.clone() })
    }
}
