//! Watchers of pods through the API: they list, or are shown what is there first, watch with and without a selector, take
//! bookmarks and resume on other masters.

use crate::Twin;
use crate::chronicle::{Item, Sitting};
use crate::cluster::{Asked, Cluster};
use crate::network::Host;
use crate::tenants::{NAMESPACE, call, request};
use crate::world::Phase;
use api::watch::{Shown, Watch};
use api::{Reply, Request, Verb};
use front::Answer;
use objects::{Value, ValueExt, json, registry};
use state::View;
use std::sync::Arc;
use std::time::Duration;
use stdx::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// One who follows the pods of an app, or all.
pub(crate) struct Onlooker {
    cluster: Arc<Cluster>,
    who: String,
    app: Option<String>,
    rng: Rng,
    /// Up to where it knows everything; `None` until it has begun, and when it has to begin anew.
    position: Option<u64>,
    /// It goes on where the connection before ended.
    resumes: bool,
}

impl Onlooker {
    pub(crate) fn new(cluster: &Arc<Cluster>, number: usize, app: Option<String>) -> Onlooker {
        let who = format!("onlooker-{number}");
        cluster.chronicle.lock().watchers.insert(who.clone());
        Onlooker { cluster: cluster.clone(), who, app, rng: cluster.fork_rng(), position: None, resumes: false }
    }

    pub(crate) async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        while *phase.borrow() != Phase::Over {
            if *phase.borrow() == Phase::Torment && self.rng.chance(1, 4) {
                sleep(Duration::from_millis(self.rng.below(3_000))).await;
            }
            let i = self.rng.below(self.cluster.n_masters() as u64) as usize;
            let Some(host) = self.cluster.network.host(i) else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            match self.begin(i).await {
                Some((watch, view)) => self.sit((i, &host), watch, view, &mut phase).await,
                None => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn request(&self, verb: Verb) -> Request {
        let mut request = request(verb, registry::POD, "");
        let leaks = verb == Verb::Watch && self.is_planted(Twin::LeakyWatch);
        if let Some(app) = self.app.as_ref().filter(|_| !leaks) {
            request.options.label_selector = format!("app={app}");
        }
        request
    }

    /// Connects, after a list where it needs one. `None` when that came to nothing.
    async fn begin(&mut self, i: usize) -> Option<(Watch, View)> {
        let mut ask = self.request(Verb::Watch);
        ask.options.allow_bookmarks = true;
        if self.position.is_none() && self.rng.chance(1, 3) {
            ask.options.send_initial_events = self.rng.chance(1, 2);
        } else {
            if self.position.is_none() {
                self.position = Some(self.list(i).await?);
            }
            ask.options.resource_version = self.position;
        }
        match call(&self.cluster, i, ask, ()).await {
            Asked::Answered(Ok(Answer::Watch(watch, view))) => Some((watch, view)),
            Asked::Answered(Err(status)) if status.code == 410 => {
                self.forget();
                None
            }
            Asked::Answered(_) | Asked::Lost | Asked::Down => None,
        }
    }

    async fn list(&self, i: usize) -> Option<u64> {
        match call(&self.cluster, i, self.request(Verb::List), ()).await {
            Asked::Answered(Ok(Answer::Reply(Reply::List(list)))) => Some(list.revision.0),
            Asked::Answered(_) | Asked::Lost | Asked::Down => None,
        }
    }

    fn forget(&mut self) {
        (self.position, self.resumes) = (None, false);
    }

    /// Takes in what one connection shows until that ends, or it moves on to another master.
    async fn sit(
        &mut self,
        (i, host): (usize, &Host),
        mut watch: Watch,
        mut view: View,
        phase: &mut watch::Receiver<Phase>,
    ) {
        let Some(office) = host.office.as_ref() else { return };
        let mut sitting = Sitting {
            who: self.who.clone(),
            kind: registry::POD,
            namespace: NAMESPACE.into(),
            app: self.app.clone(),
            from: watch.position().0,
            present: None,
            items: Vec::new(),
        };
        let mut begins_with_all = self.position.is_none();
        let mut changed = office.front.store.watch(registry::POD);
        // As the faces do: a change between the view that the watch was decided on and this has woken nobody.
        let newest = office.front.store.view();
        if newest.revision() > view.revision() {
            view = newest;
        }
        let moves_at = Instant::now() + Duration::from_millis(self.rng.below(6_000));
        let expired = loop {
            let Ok(shown) = watch.next(&view) else { break true };
            let mut items: Vec<Item> = shown.iter().filter_map(|shown| self.item(shown)).collect();
            if std::mem::take(&mut begins_with_all) {
                (sitting.from, sitting.present) = (watch.position().0, Some(present(&mut items)));
            }
            self.plant(&sitting, &mut items);
            sitting.items.extend(items);
            sitting.items.push(Item::Caught(watch.position().0));
            if self.rng.chance(1, 8) {
                sitting.items.extend(self.item(&watch.bookmark()));
            }
            tokio::select! {
                biased;
                () = host.ended() => break false,
                news = phase.changed() => if news.is_err() || *phase.borrow() == Phase::Over { break false },
                () = office.front.store.leaderless() => break false,
                () = tokio::time::sleep_until(moves_at) => break false,
                news = changed.changed() => if news.is_err() { break false },
            }
            view = office.front.store.view();
        };
        (self.position, self.resumes) = (Some(sitting.position()), true);
        if expired {
            self.forget();
        }
        self.cluster.trace.note(format_args!(
            "{} has seen {} from {} to {} at {i}",
            self.who,
            sitting.items.len(),
            sitting.from,
            sitting.position()
        ));
        self.cluster.chronicle.lock().sittings.push(sitting);
    }

    fn is_planted(&self, twin: Twin) -> bool {
        self.cluster.twin == Some(twin)
    }

    /// What a planted fault makes of a batch.
    fn plant(&self, sitting: &Sitting, items: &mut Vec<Item>) {
        match self.cluster.twin {
            Some(Twin::SwappingWatch) if items.len() > 1 => items.swap(0, 1),
            Some(Twin::RepeatingWatch) => items.extend(items.last().cloned()),
            Some(Twin::TornWatch) if items.len() > 1 => {
                if let Item::Event { revision, .. } = items[0] {
                    items.insert(1, Item::Caught(revision));
                }
            }
            Some(Twin::LeapingWatch) if self.resumes && sitting.shown().next().is_none() && !items.is_empty() => {
                items.remove(0);
            }
            _ => {}
        }
    }

    /// `None` where a planted fault keeps it back.
    fn item(&self, shown: &Shown) -> Option<Item> {
        let object: Value = serde_json::from_slice(shown.json()).unwrap_or_default();
        let revision: u64 = object.text("metadata.resourceVersion").parse().unwrap_or(0);
        let name = object.text("metadata.name");
        let (mut ty, mut json) = (shown.type_name(), shown.json().clone());
        match shown {
            Shown::Bookmark(_) if self.is_planted(Twin::HastyWatch) => return Some(Item::Bookmark(revision + HASTE)),
            Shown::Bookmark(_) => return Some(Item::Bookmark(revision)),
            Shown::Deleted(_) if self.is_planted(Twin::DeafWatch) && self.app.is_some() => return None,
            Shown::Deleted(_) if self.is_planted(Twin::BareWatch) => {
                json = json!({"metadata": {"name": name, "resourceVersion": revision.to_string()}}).to_string().into();
            }
            Shown::Modified(_) if self.is_planted(Twin::MistakenWatch) => ty = "ADDED",
            Shown::Added(_) | Shown::Modified(_) | Shown::Deleted(_) => {}
        }
        Some(Item::Event { ty, revision, name: name.into(), json })
    }
}

/// So far ahead are the bookmarks of `HastyWatch`.
const HASTE: u64 = 5;

/// Takes what a watch shows first, what is there, out of its first batch: revisions and names.
fn present(items: &mut Vec<Item>) -> Vec<(u64, String)> {
    let mut present = Vec::new();
    items.retain(|item| match item {
        Item::Event { revision, name, .. } => {
            present.push((*revision, name.clone()));
            false
        }
        Item::Bookmark(_) | Item::Caught(_) => true,
    });
    present
}
