//! Watchers of pods through the API: they list, watch with and without a selector, take bookmarks and
//! resume on other masters.

use crate::Twin;
use crate::chronicle::{Item, Sitting};
use crate::cluster::{Asked, Cluster};
use crate::tenants::{NAMESPACE, call, request};
use crate::world::Phase;
use api::watch::Shown;
use api::{Reply, Verb};
use front::Answer;
use objects::{Value, ValueExt, registry};
use state::View;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Follows the pods of an app, or all, until the run is over.
pub(crate) async fn watch(
    cluster: Arc<Cluster>,
    number: usize,
    app: Option<String>,
    mut phase: watch::Receiver<Phase>,
) {
    let mut rng = cluster.fork_rng();
    let who = format!("onlooker-{number}");
    let mut position: Option<u64> = None;
    let twin = cluster.twin;
    let is_deaf = twin == Some(Twin::DeafWatch) && app.is_some();
    while *phase.borrow() != Phase::Over {
        if *phase.borrow() == Phase::Torment && rng.chance(1, 4) {
            sleep(Duration::from_millis(rng.below(3_000))).await;
        }
        let i = rng.below(cluster.n_masters() as u64) as usize;
        let Some(host) = cluster.network.host(i) else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let selector = app.as_ref().map(|app| format!("app={app}")).unwrap_or_default();
        let from = match position {
            Some(position) => position,
            None => {
                let mut list = request(Verb::List, registry::POD, "");
                list.options.label_selector = selector.clone();
                match call(&cluster, i, list, ()).await {
                    Asked::Answered(Ok(Answer::Reply(Reply::List(list)))) => list.revision.0,
                    Asked::Answered(_) | Asked::Lost | Asked::Down => {
                        sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                }
            }
        };
        position = Some(from);
        let mut ask = request(Verb::Watch, registry::POD, "");
        ask.options.label_selector = selector;
        ask.options.resource_version = Some(from);
        ask.options.allow_bookmarks = true;
        let (mut watch, view) = match call(&cluster, i, ask, ()).await {
            Asked::Answered(Ok(Answer::Watch(watch, view))) => (watch, view),
            Asked::Answered(Err(status)) if status.code == 410 => {
                position = None;
                continue;
            }
            Asked::Answered(_) | Asked::Lost | Asked::Down => {
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(office) = host.office.as_ref() else { return };
        let mut sitting = Sitting {
            who: who.clone(),
            kind: registry::POD,
            namespace: NAMESPACE.into(),
            app: app.clone(),
            from,
            items: Vec::new(),
        };
        let mut changed = office.front.store.watch(registry::POD);
        let moves_at = Instant::now() + Duration::from_millis(rng.below(6_000));
        let mut next_view: View = view;
        let expired = loop {
            match watch.next(&next_view) {
                Ok(shown) => {
                    let items = shown.iter().filter_map(|shown| item(shown, is_deaf)).collect();
                    sitting.items.extend(planted(twin, items));
                    sitting.items.push(Item::Caught(watch.position().0));
                }
                Err(_) => break true,
            }
            if rng.chance(1, 8) {
                sitting.items.extend(item(&watch.bookmark(), is_deaf));
            }
            tokio::select! {
                biased;
                () = host.ended() => break false,
                news = phase.changed() => if news.is_err() || *phase.borrow() == Phase::Over { break false },
                () = office.front.store.leaderless() => break false,
                () = tokio::time::sleep_until(moves_at) => break false,
                news = changed.changed() => if news.is_err() { break false },
            }
            next_view = office.front.store.view();
        };
        position = (!expired).then(|| sitting.position());
        cluster.trace.note(format_args!(
            "{who} has seen {} from {from} to {} at {i}",
            sitting.items.len(),
            sitting.position()
        ));
        cluster.chronicle.lock().sittings.push(sitting);
    }
}

/// What a planted fault makes of a batch.
fn planted(twin: Option<Twin>, mut items: Vec<Item>) -> Vec<Item> {
    match twin {
        Some(Twin::SwappingWatch) if items.len() > 1 => items.swap(0, 1),
        Some(Twin::RepeatingWatch) => items.extend(items.last().cloned()),
        _ => {}
    }
    items
}

/// `None` where a planted fault keeps it back.
fn item(shown: &Shown, is_deaf: bool) -> Option<Item> {
    let object: Value = serde_json::from_slice(shown.json()).unwrap_or_default();
    let revision: u64 = object.text("metadata.resourceVersion").parse().unwrap_or(0);
    match shown {
        Shown::Bookmark(_) => Some(Item::Bookmark(revision)),
        Shown::Deleted(_) if is_deaf => None,
        Shown::Added(json) | Shown::Modified(json) | Shown::Deleted(json) => Some(Item::Event {
            ty: shown.type_name(),
            revision,
            name: object.text("metadata.name").into(),
            json: json.clone(),
        }),
    }
}
