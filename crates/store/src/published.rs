//! The applied state, and who is to be woken when it has changed.

use objects::{KindId, Revision};
use parking_lot::Mutex;
use state::{LeaderId, State, Txn, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

pub struct Published {
    current: Mutex<Current>,
    revisions: watch::Sender<Revision>,
    kinds: Mutex<BTreeMap<KindId, watch::Sender<Revision>>>,
}

struct Current {
    state: State,
    /// What readers have been given since the last change. None is made before somebody asks: while a view is held,
    /// each change copies the nodes of the trees that it touches.
    view: Option<View>,
}

impl Published {
    pub fn new(state: State) -> Arc<Published> {
        let revisions = watch::Sender::new(state.revision());
        Arc::new(Published { current: Mutex::new(Current { state, view: None }), revisions, kinds: Mutex::default() })
    }

    /// The state as of the last entry applied, maybe before those are woken who wait for it. Waits while an entry is
    /// applied: some 10 us, of the largest some ms, and for its turn among other readers.
    pub fn view(&self) -> View {
        let Current { state, view } = &mut *self.current.lock();
        view.get_or_insert_with(|| View::new(state.clone())).clone()
    }

    /// What can be told at a glance: no view is made for it, and whoever applies waits.
    pub fn glance<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.current.lock().state)
    }

    pub fn watch(&self, kind: KindId) -> watch::Receiver<Revision> {
        let revision = self.glance(State::revision);
        self.kinds.lock().entry(kind).or_insert_with(|| watch::Sender::new(revision)).subscribe()
    }

    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revisions.subscribe()
    }
}

/// For the applier alone.
impl Published {
    /// Whoever looks from now on sees the change; nobody is woken before `wake`.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut current = self.current.lock();
        current.view = None;
        change(&mut current.state)
    }

    /// To be called once for all that was applied together; `touched` are the kinds whose objects changed.
    pub fn wake(&self, touched: impl IntoIterator<Item = KindId>) {
        let revision = self.glance(State::revision);
        let kinds = self.kinds.lock();
        for kind in touched {
            if let Some(sender) = kinds.get(&kind) {
                sender.send_replace(revision);
            }
        }
        drop(kinds);
        self.revisions.send_replace(revision);
    }

    /// Applies one proposal and wakes those whom it concerns.
    pub fn apply(&self, leader: LeaderId, txn: &Txn) -> state::Outcome {
        let applied = self.change(|state| state.apply(leader, txn));
        self.wake(applied.events.iter().map(|event| event.key.kind));
        applied.outcome
    }

    /// A snapshot replaces everything: every watcher must look again. Returns what it replaces, which can be large:
    /// free it where nobody waits.
    pub fn replace(&self, state: State) -> State {
        let before = self.change(|before| std::mem::replace(before, state));
        let kinds: Vec<KindId> = self.kinds.lock().keys().copied().collect();
        self.wake(kinds);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use objects::{Key, json, record, registry};
    use state::Op;

    const LEADER: LeaderId = LeaderId { term: 1, node: 1 };

    fn creation(kind: KindId, name: &str) -> Txn {
        let object = record::encode(&json!({"metadata": {"name": name}}));
        Txn { ops: vec![Op::Create { key: Key::new(kind, "", name), object }], ..Txn::default() }
    }

    #[test]
    fn a_view_that_is_held_does_not_change_and_the_next_one_does() {
        let published = Published::new(State::new());
        let before = published.view();
        published.apply(LEADER, &creation(registry::NODE, "a"));
        let after = published.view();
        assert_eq!((before.n_objects(), after.n_objects()), (0, 1));
        assert_eq!((before.revision(), after.revision()), (Revision(0), Revision(1)));
    }

    #[test]
    fn those_are_woken_whose_kind_changed_and_all_when_everything_is_replaced() {
        let published = Published::new(State::new());
        let (mut nodes, mut pods) = (published.watch(registry::NODE), published.watch(registry::POD));
        let mut all = published.revisions();
        let mut woken = || {
            let told = [&mut nodes, &mut pods, &mut all].map(|watch| watch.has_changed().unwrap());
            for watch in [&mut nodes, &mut pods, &mut all] {
                watch.mark_unchanged();
            }
            told
        };
        published.change(|state| state.apply(LEADER, &creation(registry::NODE, "a")));
        assert_eq!(woken(), [false; 3], "before they are told");
        published.wake([registry::NODE]);
        assert_eq!(woken(), [true, false, true]);
        published.apply(LEADER, &creation(registry::POD, "b"));
        assert_eq!(woken(), [false, true, true]);
        assert_eq!(published.replace(State::new()).revision(), Revision(2));
        assert_eq!(woken(), [true; 3]);
        assert_eq!(published.view().n_objects(), 0);
    }

    /// Readers look between the changes of another thread: each sees whole transactions, in their order, and who waits
    /// is woken for the last.
    #[tokio::test]
    async fn readers_beside_the_applier_see_whole_transactions_in_their_order() {
        const N_TXNS: u64 = 2_000;
        let published = Published::new(State::new());
        let (mut revisions, mut nodes) = (published.revisions(), published.watch(registry::NODE));
        let pair = |n: u64| {
            let mut txn = creation(registry::NODE, &format!("a{n}"));
            txn.ops.extend(creation(registry::NODE, &format!("b{n}")).ops);
            txn
        };
        let applier = {
            let published = published.clone();
            std::thread::spawn(move || {
                for n in 0..N_TXNS {
                    published.change(|state| state.apply(LEADER, &pair(n)));
                    if n % 7 == 0 {
                        published.wake([registry::NODE]);
                    }
                }
                published.wake([registry::NODE]);
            })
        };
        let mut seen = Revision(0);
        while seen.0 < 2 * N_TXNS {
            revisions.changed().await.unwrap();
            let told = *revisions.borrow_and_update();
            let view = published.view();
            assert_eq!(view.n_objects() as u64, view.revision().0);
            assert!(view.revision().0.is_multiple_of(2) && view.revision() >= told.max(seen));
            seen = view.revision();
        }
        applier.join().unwrap();
        assert_eq!(*nodes.borrow_and_update(), Revision(2 * N_TXNS));
    }
}
