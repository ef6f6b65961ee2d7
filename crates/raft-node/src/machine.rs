//! openraft's state machine over `state::State`: applies, wakes who waits for it, checkpoints.
//!
//! The applied state lives in memory. A checkpoint (openraft's "snapshot") writes what changed since
//! the last one, atomically and synced, beside the log; entries are purged only below a checkpoint.
//! A snapshot for a peer is the checkpointed state itself, encoded when it is sent.

use crate::aside::aside;
use crate::codec;
use crate::disk::{self, Disk, Origin, REMEDY, Row};
use crate::types::{
    Entry, LogId, Membership, Snapshot, SnapshotData, SnapshotMeta, StoredMembership, TypeConfig, leader_id,
};
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

/// Entries applied before those are woken who wait for them, at most.
const WAKE_EVERY: usize = 256;

/// Rows read at once.
const ROWS_PAGE: usize = 1_000;

#[derive(Clone)]
pub(crate) struct Machine {
    disk: Arc<dyn Disk>,
    published: Arc<Published>,
    applied: watch::Sender<Option<LogId>>,
    shared: Arc<Mutex<Shared>>,
    /// Held while rows are written, so that a checkpoint and an installed snapshot never mix.
    rows: Arc<Mutex<()>>,
    /// The highest feature level that this binary understands.
    knows: u32,
}

/// What goes with the applied state, which is in `published`: that changes while this is locked, and only then.
struct Shared {
    last_applied: Option<LogId>,
    membership: StoredMembership,
    /// Objects changed since the last checkpoint.
    dirty: BTreeSet<Key>,
    checkpoint: Option<(SnapshotMeta, State)>,
}

/// Brings into force what all members of `membership` know. An error when that is more than this binary does, which
/// was a newer one when it told what it knows.
pub(crate) fn raise(state: &mut State, membership: &Membership, knows: u32) -> io::Result<()> {
    let level = membership.nodes().map(|(_, member)| member.feature_level).min().unwrap_or_default();
    if level > knows {
        return Err(invalid(snapshot::Error::FeatureLevel { needs: level, knows }));
    }
    let before = state.feature_level();
    state.raise(level);
    if state.feature_level() > before {
        tracing::info!(from = before, to = level, "the feature level has risen: no older build can go on from here");
    }
    Ok(())
}

fn invalid(error: snapshot::Error) -> io::Error {
    let kind = match error {
        // Nothing is damaged: a newer build reads it.
        snapshot::Error::FeatureLevel { .. } => io::ErrorKind::Unsupported,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, format!("the applied state cannot be read: {error}"))
}

impl Machine {
    /// The last checkpoint: the last entry it holds, the group then, and the state. Empty without one. Entries are
    /// purged only below a checkpoint: with some missing in between, the disk has lost one.
    pub(crate) fn checkpoint_of(disk: &dyn Disk, knows: u32) -> io::Result<(Option<LogId>, StoredMembership, State)> {
        let purged = disk.get(disk::PURGED)?.map(|bytes| codec::log_id_from_bytes(&bytes)).transpose()?;
        let meta = disk.get(disk::CHECKPOINT_META)?.map(|bytes| codec::meta_from_bytes(&bytes)).transpose()?;
        let last = meta.as_ref().and_then(|meta| meta.last_log_id);
        if purged > last {
            let [purged, last] = [purged, last].map(|id| id.map_or(0, |id| id.index));
            let why = format!(
                "the Raft storage has lost the applied state: its log begins after entry {purged}, its checkpoint ends \
                 at {last}; {REMEDY}"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let Some(meta) = meta else {
            return Ok((None, StoredMembership::default(), State::new()));
        };
        let head = disk.get(disk::CHECKPOINT_HEAD)?.unwrap_or_default();
        let mut state = snapshot::Assembly::begin(&head, knows).map_err(invalid)?;
        let mut from = disk::OBJECTS_START.to_vec();
        loop {
            let page = disk.scan(&from, disk::OBJECTS_END, ROWS_PAGE)?;
            let Some((last, _)) = page.last() else { break };
            // The next key there can be.
            from = [last, &[0][..]].concat();
            page.iter().try_for_each(|(_, row)| state.add(row)).map_err(invalid)?;
        }
        Ok((meta.last_log_id, meta.last_membership, state.finish().map_err(invalid)?))
    }

    /// Loads the last checkpoint; the log since then is re-applied by openraft.
    pub(crate) fn open(disk: Arc<dyn Disk>, knows: u32) -> io::Result<Machine> {
        let (last_applied, membership, state) = Machine::checkpoint_of(&*disk, knows)?;
        let meta = SnapshotMeta { last_log_id: last_applied, last_membership: membership.clone() };
        let checkpoint = last_applied.is_some().then(|| (meta, state.clone()));
        let shared = Shared { last_applied, membership, dirty: BTreeSet::new(), checkpoint };
        let published = Published::new(state);
        let applied = watch::Sender::new(shared.last_applied);
        Ok(Machine { disk, published, applied, shared: Arc::new(Mutex::new(shared)), rows: Arc::default(), knows })
    }

    pub(crate) fn published(&self) -> Arc<Published> {
        self.published.clone()
    }

    /// The log id of the newest entry applied here.
    pub(crate) fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    /// The members as of the last entry applied, and the feature level in force then.
    pub(crate) fn group(&self) -> (StoredMembership, u32) {
        let shared = self.shared.lock();
        (shared.membership.clone(), self.published.glance(State::feature_level))
    }

    /// Wakes those whom it concerns that `touched` have changed.
    fn wake(&self, touched: &mut BTreeSet<KindId>) {
        let last_applied = self.shared.lock().last_applied;
        self.published.wake(std::mem::take(touched));
        self.applied.send_replace(last_applied);
    }

    fn apply_one(&self, entry: Entry, touched: &mut BTreeSet<KindId>) -> io::Result<Outcome> {
        let mut shared = self.shared.lock();
        let outcome = match entry.payload {
            EntryPayload::Blank => Outcome::Applied(Vec::new()),
            EntryPayload::Normal(command) => {
                let txn = command.txn()?;
                let applied = self.published.change(|state| state.apply(leader_id(&entry.log_id), &txn));
                for event in &applied.events {
                    touched.insert(event.key.kind);
                    shared.dirty.insert(event.key.clone());
                }
                applied.outcome
            }
            EntryPayload::Membership(membership) => {
                self.published.change(|state| raise(state, &membership, self.knows))?;
                shared.membership = StoredMembership::new(Some(entry.log_id), membership);
                Outcome::Applied(Vec::new())
            }
        };
        shared.last_applied = Some(entry.log_id);
        Ok(outcome)
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
        let mut n_waiting = 0;
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.apply_one(entry, &mut touched)?;
            answers.extend(responder.map(|responder| (responder, outcome)));
            n_waiting += 1;
            if n_waiting == WAKE_EVERY {
                self.wake(&mut touched);
                answers.drain(..).for_each(|(responder, outcome)| responder.send(outcome));
                n_waiting = 0;
            }
        }
        self.wake(&mut touched);
        answers.into_iter().for_each(|(responder, outcome)| responder.send(outcome));
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Checkpoint {
        let mut shared = self.shared.lock();
        let meta = SnapshotMeta { last_log_id: shared.last_applied, last_membership: shared.membership.clone() };
        let dirty = std::mem::take(&mut shared.dirty);
        let state = self.published.view().state().without_history();
        Checkpoint { machine: self.clone(), meta, state, dirty }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, state: SnapshotData) -> io::Result<()> {
        let (machine, meta) = (self.clone(), meta.clone());
        aside(move || machine.install(meta, state)).await.map_err(io::Error::other)?
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let shared = self.shared.lock();
        let checkpoint = shared.checkpoint.as_ref();
        Ok(checkpoint.map(|(meta, state)| Snapshot { meta: meta.clone(), snapshot: state.clone() }))
    }
}

impl Machine {
    /// Makes `state` the applied one, and the checkpoint.
    fn install(&self, meta: SnapshotMeta, state: State) -> io::Result<()> {
        let _rows = self.rows.lock();
        let before = self.shared.lock().checkpoint.as_ref().map(|(_, state)| state.clone()).unwrap_or_default();
        let rows = head_rows(&meta, &state).into_iter();
        self.disk.write_rows(Origin::Snapshot, &mut rows.chain(replacing(&before, &state)))?;
        let applied = meta.last_log_id;
        let replaced = {
            let mut shared = self.shared.lock();
            shared.last_applied = applied;
            shared.membership = meta.last_membership.clone();
            shared.dirty.clear();
            (self.published.replace(state.clone()), shared.checkpoint.replace((meta, state)))
        };
        self.applied.send_replace(applied);
        drop(replaced);
        Ok(())
    }

    /// Writes what has changed since the last checkpoint.
    fn check_point(&self, meta: SnapshotMeta, state: State, dirty: BTreeSet<Key>) -> io::Result<Snapshot> {
        let _rows = self.rows.lock();
        // A snapshot installed meanwhile is newer: writing older rows over it would mix the two.
        let newer = |shared: &Shared| {
            shared.checkpoint.as_ref().filter(|(newest, _)| newest.last_log_id > meta.last_log_id).cloned()
        };
        if let Some((meta, state)) = newer(&self.shared.lock()) {
            return Ok(Snapshot { meta, snapshot: state });
        }
        let view = View::new(state.clone());
        let row =
            |key: &Key| (disk::object_key(key), view.get(key).map(|record| snapshot::record_bytes(record).into()));
        let rows = head_rows(&meta, &state).into_iter();
        self.disk.write_rows(Origin::Checkpoint, &mut rows.chain(dirty.iter().map(row)))?;
        let before = self.shared.lock().checkpoint.replace((meta.clone(), state.clone()));
        // All that was replaced since goes with it, which takes its time: not under the lock that `apply` waits for.
        drop(before);
        Ok(Snapshot { meta, snapshot: state })
    }
}

/// What a checkpoint has one of.
fn head_rows(meta: &SnapshotMeta, state: &State) -> [Row; 2] {
    let (head, meta) = (snapshot::head_bytes(state), codec::meta_to_bytes(meta));
    [(disk::CHECKPOINT_HEAD.to_vec(), Some(head.into())), (disk::CHECKPOINT_META.to_vec(), Some(meta.into()))]
}

/// The rows of `state`, in order, and the end of those that `before` has beside them.
fn replacing<'a>(before: &'a State, state: &'a State) -> impl Iterator<Item = Row> + use<'a> {
    let view = View::new(state.clone());
    let gone = before.records_after(None).filter(move |record| view.get(&record.key).is_none());
    let (mut gone, mut there) = (gone.peekable(), state.records_after(None).peekable());
    std::iter::from_fn(move || {
        let goes = match (gone.peek(), there.peek()) {
            (Some(gone), Some(there)) => gone.key < there.key,
            (gone, None) => gone.is_some(),
            (None, Some(_)) => false,
        };
        match goes {
            true => gone.next().map(|record| (disk::object_key(&record.key), None)),
            false => {
                there.next().map(|record| (disk::object_key(&record.key), Some(snapshot::record_bytes(record).into())))
            }
        }
    })
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
        let (machine, meta, state) = (self.machine.clone(), self.meta.clone(), self.state.clone());
        let dirty = std::mem::take(&mut self.dirty);
        aside(move || machine.check_point(meta, state, dirty)).await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::types::Command;
    use futures::FutureExt;
    use objects::{Revision, registry};
    use openraft::impls::leader_id_adv::LeaderId;
    use state::{FEATURE_LEVEL, Op, Txn};

    fn state_of(names: &[&str]) -> State {
        let mut state = State::new();
        let object = |name: &&str| {
            let object = objects::json!({"metadata": {"name": name}});
            Op::Create { key: Key::new(registry::NODE, "", name), object: objects::record::encode(&object) }
        };
        let txn = Txn { ops: names.iter().map(object).collect(), ..Txn::default() };
        state.apply(state::LeaderId::default(), &txn);
        state
    }

    #[test]
    fn what_replaces_a_state_ends_the_rows_that_it_does_not_have() {
        let told = |before: &[&str], after: &[&str]| -> String {
            let (before, after) = (state_of(before), state_of(after));
            let name = |row: Row| {
                let sign = if row.1.is_some() { '+' } else { '-' };
                format!("{sign}{} ", row.0.last().copied().map_or(' ', char::from))
            };
            replacing(&before, &after).map(name).collect()
        };
        assert_eq!(told(&[], &["a", "b"]), "+a +b ");
        assert_eq!(told(&["a", "c", "e"], &["b", "c", "d"]), "-a +b +c +d -e ");
        assert_eq!(told(&["a"], &[]), "-a ");
    }

    /// What is applied can be seen at once; who waits is told now and then within a batch; and a checkpoint that begins
    /// there holds what its id says.
    #[tokio::test]
    async fn within_a_batch_who_waits_is_told_and_a_checkpoint_is_of_one_entry() {
        let mut machine = Machine::open(Arc::new(MemoryDisk::default()), FEATURE_LEVEL).unwrap();
        let (looking, mut told) = (machine.clone(), Vec::new());
        let creation = |index: u64| {
            let object = objects::record::encode(&objects::json!({"metadata": {"name": format!("n{index}")}}));
            let op = Op::Create { key: Key::new(registry::NODE, "", &format!("n{index}")), object };
            let payload = EntryPayload::Normal(Command::new(&Txn { ops: vec![op], ..Txn::default() }));
            Entry { log_id: LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index }, payload }
        };
        let last = WAKE_EVERY as u64 + 44;
        let entries = (1..=last).map(|index| {
            told.push(looking.applied().borrow().map_or(0, |id| id.index));
            let begun = looking.clone().get_snapshot_builder().now_or_never().unwrap();
            let holds = View::new(begun.state).n_objects() as u64;
            assert_eq!((begun.meta.last_log_id.map_or(0, |id| id.index), holds), (index - 1, index - 1));
            Ok((creation(index), None))
        });
        machine.apply(futures::stream::iter(entries)).await.unwrap();
        told.dedup();
        assert_eq!(told, [0, WAKE_EVERY as u64]);
        assert_eq!(machine.applied().borrow().unwrap().index, last);
    }

    /// They are of use to watchers alone, and would be in memory twice.
    #[tokio::test]
    async fn a_checkpoint_keeps_no_events() {
        let mut machine = Machine::open(Arc::new(MemoryDisk::default()), FEATURE_LEVEL).unwrap();
        machine.install_snapshot(&SnapshotMeta::default(), state_of(&["a"])).await.unwrap();
        machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        let kept = machine.get_current_snapshot().await.unwrap().unwrap().snapshot;
        let has_event = |state: &State| View::new(state.clone()).event(registry::NODE, Revision(1)).is_some();
        assert!(has_event(machine.published.view().state()) && !has_event(&kept));
        assert_eq!(state::snapshot::encode(&kept), state::snapshot::encode(&state_of(&["a"])));
    }

    /// The rows of the older one over those of the newer would be a mixture of the two.
    #[tokio::test]
    async fn a_checkpoint_that_ends_after_a_newer_snapshot_was_installed_writes_nothing() {
        let disk = Arc::new(MemoryDisk::default());
        let id = |index| LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
        let meta = |index| SnapshotMeta { last_log_id: Some(id(index)), ..SnapshotMeta::default() };
        let mut machine = Machine::open(disk.clone(), FEATURE_LEVEL).unwrap();
        machine.install_snapshot(&meta(5), state_of(&["a"])).await.unwrap();
        let mut older = machine.get_snapshot_builder().await;
        machine.install_snapshot(&meta(9), state_of(&["a", "b"])).await.unwrap();
        let built = older.build_snapshot().await.unwrap();
        assert_eq!(
            (built.meta, state::snapshot::encode(&built.snapshot)),
            (meta(9), state::snapshot::encode(&state_of(&["a", "b"])))
        );
        let (last, _, state) = Machine::checkpoint_of(&*disk, FEATURE_LEVEL).unwrap();
        assert_eq!(
            (last, state::snapshot::encode(&state)),
            (Some(id(9)), state::snapshot::encode(&state_of(&["a", "b"])))
        );
    }
}
