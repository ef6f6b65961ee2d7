//! Those who use the masters: clients that write and read, watchers, and the manager on each leader.

use crate::cluster::{Asked, Cluster};
use crate::history::{is_clients, name_of, refusal, sight, sights};
use crate::world::Phase;
use crate::{KINDS, NAMESPACE, Twin};
use judge::{Assumed, Change, End, Operation, Shown, What, Write, fenced};
use objects::{Key, KindId, Revision, json, record};
use state::{ListError, Op, Outcome, Txn, View};
use std::sync::Arc;
use std::time::Duration;
use stdx::Rng;
use store::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Tries of one write; with a healthy majority the second succeeds.
const TRIES_MAX: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Client {
    cluster: Arc<Cluster>,
    name: String,
    rng: Rng,
    n_written: u64,
}

impl Client {
    pub(crate) fn new(cluster: &Arc<Cluster>, name: String) -> Client {
        Client { cluster: cluster.clone(), name, rng: cluster.fork_rng(), n_written: 0 }
    }

    pub(crate) async fn run(mut self, until: Instant) {
        while Instant::now() < until {
            sleep(Duration::from_millis(self.rng.below(self.cluster.mix.think_ms_max + 1))).await;
            let i = self.any_master();
            match self.rng.chance(1, 3) {
                true => drop(self.read(i).await),
                false => drop(self.write().await),
            }
        }
    }

    fn any_master(&mut self) -> usize {
        self.rng.below(self.cluster.n_masters() as u64) as usize
    }

    /// Most clients wait; some lose patience while their request is under way.
    fn patience(&mut self) -> Duration {
        match self.rng.chance(1, 20) {
            true => Duration::from_millis(self.rng.below(200)),
            false => PATIENCE,
        }
    }

    /// A linearizable read of everything. Returns whether it was answered.
    pub(crate) async fn read(&mut self, i: usize) -> bool {
        let invoked = self.cluster.trace.note(format_args!("{} reads at {i}", self.name));
        let skips_the_barrier = self.cluster.twin == Some(Twin::StaleRead);
        let patience = self.patience();
        let asked = self.cluster.ask(i, patience, move |host| async move {
            let store = host.node.store();
            match skips_the_barrier {
                true => Ok(store.view()),
                false => store.read().await,
            }
        });
        let Asked::Answered(Ok(view)) = asked.await else { return false };
        let at = view.revision();
        let answered = self.cluster.trace.note(format_args!("{} has read revision {at}", self.name));
        let what = What::Read { at: at.0, seen: sights(&view) };
        let operation = Operation { who: self.name.clone(), invoked, tried: invoked, answered, what };
        self.cluster.history.lock().operations.push(operation);
        true
    }

    /// Writes one or two objects in one txn, again and again until it knows what became of it. Returns
    /// whether it was applied.
    pub(crate) async fn write(&mut self) -> bool {
        // A look at the present, at any master: it may be stale.
        let i = self.any_master();
        let patience = self.patience();
        let Asked::Answered(view) = self.cluster.ask(i, patience, |host| async move { host.node.store().view() }).await
        else {
            return false;
        };
        self.n_written += 1;
        let value = format!("{}-{}", self.name, self.n_written);
        let mut keys = vec![self.any_key()];
        let second = self.any_key();
        if self.rng.chance(1, 4) && second != keys[0] {
            keys.push(second);
        }
        let ops: Vec<Op> = keys.into_iter().map(|key| self.op(&view, key, &value)).collect();
        let changes = ops.iter().map(change).collect();
        let request = u128::from(self.rng.next_u64());
        let txn = Txn { ops, client_request: Some(request), ..Txn::default() };
        let invoked = self.cluster.trace.note(format_args!("{} writes {value}", self.name));
        let (mut tried, mut doubtful, mut end) = (invoked, false, End::Never);
        let n_tries = if self.rng.chance(1, 4) { 1 } else { TRIES_MAX };
        for n_try in 0..n_tries {
            let mut txn = txn.clone();
            if n_try > 0 && self.cluster.twin == Some(Twin::Forgetful) {
                txn.client_request = Some(request + u128::from(n_try));
            }
            let i = self.any_master();
            if self.cluster.twin == Some(Twin::LostUpdate) {
                self.cluster.assume_the_present(i, &mut txn);
            }
            let patience = self.patience();
            tried = self.cluster.trace.note(format_args!("{} tries {value} at {i}", self.name));
            let asked = self.cluster.ask(i, patience, |host| async move { host.node.store().propose(txn).await }).await;
            match asked {
                Asked::Answered(Ok(Outcome::Applied(revisions))) => {
                    end = applied(revisions);
                    break;
                }
                Asked::Answered(Ok(Outcome::Refused(why))) => {
                    end = End::Refused(refusal(&why));
                    break;
                }
                Asked::Answered(Err(Error::Unavailable(_))) | Asked::Down => sleep(Duration::from_millis(50)).await,
                Asked::Answered(Err(Error::Unknown(_))) | Asked::Lost => doubtful = true,
            }
        }
        if doubtful && end == End::Never {
            end = End::Unknown;
        }
        let answered = self.cluster.trace.note(format_args!("{} is told of {value}: {end:?}", self.name));
        let is_applied = matches!(end, End::Applied(_));
        let what = What::Write(Write { value, changes, doubtful, end });
        let operation = Operation { who: self.name.clone(), invoked, tried, answered, what };
        self.cluster.history.lock().operations.push(operation);
        is_applied
    }

    fn any_key(&mut self) -> Key {
        let kind = KINDS[self.rng.below(KINDS.len() as u64) as usize];
        Key::new(kind, NAMESPACE, &format!("k{}", self.rng.below(self.cluster.mix.n_keys)))
    }

    fn op(&mut self, view: &View, key: Key, value: &str) -> Op {
        let object = object(&key, value);
        match view.get(&key).map(|record| record.header.revision) {
            // Now and then wrong on purpose.
            Some(assumed) if self.rng.chance(1, 6) => Op::Delete { key, assumed },
            Some(assumed) if !self.rng.chance(1, 20) => Op::Update { key, assumed, object },
            None | Some(_) => Op::Create { key, object },
        }
    }
}

fn object(key: &Key, value: &str) -> bytes::Bytes {
    record::encode(&json!({"metadata": {"name": key.name.as_str()}, "data": {"v": value}}))
}

fn applied(revisions: Vec<Revision>) -> End {
    End::Applied(revisions.into_iter().map(|revision| revision.0).collect())
}

fn change(op: &Op) -> Change {
    let name = name_of(op.key());
    match op {
        Op::Create { .. } => Change { name, assumed: Assumed::Absent, deletes: false },
        Op::Update { assumed, .. } => Change { name, assumed: Assumed::At(assumed.0), deletes: false },
        Op::Delete { assumed, .. } => Change { name, assumed: Assumed::At(assumed.0), deletes: true },
    }
}

/// What the manager does wherever a master leads: writes objects of its own, under the fence.
pub(crate) async fn manage(cluster: Arc<Cluster>, i: usize, until: Instant) {
    let mut rng = cluster.fork_rng();
    let who = format!("manager {i}");
    let mut n_written = 0;
    while Instant::now() < until {
        sleep(Duration::from_millis(1 + rng.below(60))).await;
        let Some(host) = cluster.network.host(i) else { continue };
        let store = host.node.store();
        let Some(leader) = store.leadership().borrow().active else { continue };
        // A plan takes its time to be made, and may be old when it is carried out.
        let thought_ms = if rng.chance(1, 10) { rng.below(2_000) } else { rng.below(30) };
        sleep(Duration::from_millis(thought_ms)).await;
        n_written += 1;
        let value = fenced::value(leader.term, leader.node, n_written);
        let key = Key::new(KINDS[0], NAMESPACE, &format!("manager-{i}"));
        let object = object(&key, &value);
        let op = match store.view().get(&key) {
            None => Op::Create { key, object },
            Some(record) => Op::Update { key, assumed: record.header.revision, object },
        };
        let changes = vec![change(&op)];
        let txn = Txn { ops: vec![op], ..Txn::default() };
        let invoked = cluster.trace.note(format_args!("{who} plans {value}"));
        let unfenced = cluster.twin == Some(Twin::Unfenced);
        let carried_out = async {
            match unfenced {
                true => store.propose(txn).await,
                false => store.propose_as(leader, txn).await,
            }
        };
        let answer = tokio::select! {
            biased;
            () = host.ended() => None,
            answer = carried_out => Some(answer),
        };
        cluster.tell(i);
        let end = match answer {
            Some(Ok(Outcome::Applied(revisions))) => applied(revisions),
            Some(Ok(Outcome::Refused(why))) => End::Refused(refusal(&why)),
            Some(Err(Error::Unavailable(_))) => End::Never,
            Some(Err(Error::Unknown(_))) | None => End::Unknown,
        };
        let answered = cluster.trace.note(format_args!("{who} is told of {value}: {end:?}"));
        let what = What::Write(Write { value, changes, doubtful: false, end });
        let operation = Operation { who: who.clone(), invoked, tried: invoked, answered, what };
        cluster.history.lock().operations.push(operation);
    }
}

/// Follows a kind by its wake-ups alone and moves between masters as long as the torment lasts.
pub(crate) async fn watch(cluster: Arc<Cluster>, number: u64, kind: KindId, mut phase: watch::Receiver<Phase>) {
    let mut rng = cluster.fork_rng();
    let who = format!("watcher {number} of {}/", kind.0);
    let mut position: Option<Revision> = None;
    loop {
        // Now and then it is away, and the history may not wait for it.
        if *phase.borrow() == Phase::Torment && rng.chance(1, 4) {
            sleep(Duration::from_millis(rng.below(3_000))).await;
        }
        let i = rng.below(cluster.n_masters() as u64) as usize;
        let Some(host) = cluster.network.host(i) else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let store = host.node.store();
        let mut changed = store.watch(kind);
        let moves_at = Instant::now() + Duration::from_millis(rng.below(3_000));
        if cluster.twin == Some(Twin::SkippingWatch) {
            position = position.map(|_| store.view().revision());
        }
        loop {
            let view = store.view();
            cluster.tell(i);
            let shown = look(&view, kind, &mut position);
            for item in &shown {
                cluster.trace.note(format_args!("{who} at {i}: {item:?}"));
            }
            cluster.history.lock().watched.entry(who.clone()).or_default().extend(shown);
            let settled = *phase.borrow() == Phase::Settling;
            tokio::select! {
                biased;
                () = host.ended() => break,
                news = phase.changed() => if news.is_err() || *phase.borrow() == Phase::Over { return },
                () = store.leaderless() => break,
                () = tokio::time::sleep_until(moves_at), if !settled => break,
                news = changed.changed() => if news.is_err() { break },
            }
        }
    }
}

/// What a watcher at `position` is shown of a view.
fn look(view: &View, kind: KindId, position: &mut Option<Revision>) -> Vec<Shown> {
    let events = position.map(|position| view.events_after(kind, position));
    match events {
        Some(Ok(events)) => {
            *position = Some(view.revision());
            let shown = |event: &Arc<state::Event>| Shown::Event {
                revision: event.revision.0,
                name: name_of(&event.key),
                value: event.new.as_ref().map(|record| sight(record).value),
            };
            events.iter().filter(|event| is_clients(&event.key)).map(shown).collect()
        }
        // This master is behind the one before: wait for it.
        Some(Err(ListError::Future { .. })) => Vec::new(),
        None | Some(Err(ListError::Compacted { .. })) => {
            *position = Some(view.revision());
            let seen = view.list(kind, NAMESPACE, None).map(|record| sight(record)).collect();
            vec![Shown::Listed { at: view.revision().0, seen }]
        }
    }
}
