//! The newest view, and who is to be woken when it changes.

use arc_swap::ArcSwap;
use objects::{KindId, Revision};
use parking_lot::Mutex;
use state::View;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

pub struct Published {
    view: ArcSwap<View>,
    revisions: watch::Sender<Revision>,
    kinds: Mutex<BTreeMap<KindId, watch::Sender<Revision>>>,
}

impl Published {
    pub fn new(view: View) -> Arc<Published> {
        let revisions = watch::Sender::new(view.revision());
        Arc::new(Published { view: ArcSwap::from_pointee(view), revisions, kinds: Mutex::default() })
    }

    pub fn view(&self) -> View {
        View::clone(&self.view.load())
    }

    /// Called by the applier once per batch; `touched` are the kinds whose objects changed.
    pub fn publish(&self, view: View, touched: impl IntoIterator<Item = KindId>) {
        let revision = view.revision();
        self.view.store(Arc::new(view));
        let kinds = self.kinds.lock();
        for kind in touched {
            if let Some(sender) = kinds.get(&kind) {
                sender.send_replace(revision);
            }
        }
        drop(kinds);
        self.revisions.send_replace(revision);
    }

    /// Called after a snapshot replaced everything: every watcher must look again.
    pub fn publish_all(&self, view: View) {
        let kinds: Vec<KindId> = self.kinds.lock().keys().copied().collect();
        self.publish(view, kinds);
    }

    pub fn watch(&self, kind: KindId) -> watch::Receiver<Revision> {
        let revision = self.view().revision();
        self.kinds.lock().entry(kind).or_insert_with(|| watch::Sender::new(revision)).subscribe()
    }

    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revisions.subscribe()
    }
}
