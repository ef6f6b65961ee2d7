//! The clients that are shown what happens: of the ConfigMaps, whose story is the truth of a run, and of the
//! pods, for their bindings. Each resumes at another master where it was.

use super::clients::{self, ASKED, LABEL, list_request, seen};
use super::world::World;
use crate::verbs::objects_client;
use anyhow::{Result, bail};
use chaos::lines::{DAMAGED, Line, OWN_STATE, Seen};
use objects::{Value, ValueExt};
use protos::objects as pb;
use protos::objects::watch_event::Type;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tonic::Code;

/// Bookmarks come every 10 s; a stream that shows nothing for longer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(15);
const OPENING_MAX: Duration = Duration::from_secs(2);
/// Nothing is due beyond a revision that no run reaches.
const ENDLESS: u64 = u64::MAX;
/// Watchers that have not been listed an empty namespace by then find no master that serves them.
const FIRST_LIST_MAX: Duration = Duration::from_secs(30);
/// Who has not been shown the last write by then has missed it.
const LAST_SIGHT_MAX: Duration = Duration::from_secs(20);

/// Those of one resource. They end with this value.
pub(super) struct Watchers {
    /// The revision they look up to.
    until: watch::Sender<u64>,
    all: JoinSet<()>,
}

impl Watchers {
    /// Waits until all have been shown `last`; returns how many were not, in time.
    pub(super) async fn end(mut self, last: u64) -> usize {
        self.until.send_replace(last);
        let all = timeout(LAST_SIGHT_MAX, async { while self.all.join_next().await.is_some() {} }).await;
        all.map_or(self.all.len(), |()| 0)
    }
}

/// Of the ConfigMaps. They begin before anything is there to see, so that they are shown all of it.
pub(super) async fn of_maps(world: &Arc<World>) -> Result<Watchers> {
    let (until, due) = watch::channel(ENDLESS);
    let mut all = JoinSet::new();
    let mut lists = Vec::new();
    for i in 0..world.scenario.workload.watchers as usize {
        let (listed, list) = oneshot::channel();
        lists.push(list);
        all.spawn(maps(world.clone(), i, due.clone(), listed));
    }
    let all_listed = timeout(FIRST_LIST_MAX, futures::future::try_join_all(lists)).await;
    if !matches!(all_listed, Ok(Ok(_))) {
        bail!("not every watcher was served within {} s", FIRST_LIST_MAX.as_secs());
    }
    Ok(Watchers { until, all })
}

/// Of the pods, one at each master, if the workload has any.
pub(super) fn of_pods(world: &Arc<World>) -> Option<Watchers> {
    let work = &world.scenario.workload;
    let (until, due) = watch::channel(ENDLESS);
    (work.pods + work.deployment > 0).then(|| {
        let all = (0..world.masters.len()).map(|i| pods(world.clone(), i, due.clone())).collect();
        Watchers { until, all }
    })
}

/// What one watcher makes of an event.
trait Viewer {
    /// The present objects, told when they are complete.
    fn listed(&mut self, world: &World, items: Vec<pb::Object>, revision: u64);
    fn shown(&mut self, world: &World, event: pb::WatchEvent);
}

/// Follows a resource from its present objects on until it has been shown everything up to `until`.
async fn follow(world: &World, resource: &str, i: usize, mut until: watch::Receiver<u64>, viewer: &mut impl Viewer) {
    let mut position: Option<u64> = None;
    let mut next_master = i;
    while position.is_none_or(|position| position < *until.borrow()) {
        let master = &world.masters[next_master % world.masters.len()];
        next_master += 1;
        if world.is_harmed(&master.name) && world.n_whole() > 0 {
            // Only to be asked when all are.
            sleep(Duration::from_millis(1)).await;
            continue;
        }
        let request = pb::WatchRequest {
            key: Some(world.key("", resource, "")),
            label_selector: format!("{LABEL}={}", world.nonce),
            after_revision: position.unwrap_or(0),
            ..Default::default()
        };
        let mut client = objects_client(master.channel.clone());
        let Ok(Ok(stream)) = timeout(OPENING_MAX, client.watch(request)).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut events = stream.into_inner();
        let mut present = position.is_none().then(Vec::new);
        loop {
            let event = tokio::select! {
                event = timeout(SILENCE_MAX, events.next()) => event,
                changed = until.changed() => {
                    if changed.is_err() || position.is_some_and(|position| position >= *until.borrow()) {
                        return;
                    }
                    continue;
                }
            };
            let event = match event {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(status))) if status.code() == Code::OutOfRange => {
                    position = None;
                    break;
                }
                // It broke, ended, or is dead: on to another master.
                Ok(Some(Err(_)) | None) | Err(_) => break,
            };
            let revision = event.object.as_ref().map_or(0, |object| object.revision);
            match (event.r#type(), &mut present) {
                (Type::Bookmark, collected) => {
                    if let Some(items) = collected.take() {
                        viewer.listed(world, items, revision);
                    }
                    position = position.max(Some(revision));
                }
                (_, Some(items)) => items.extend(event.object),
                (_, None) => {
                    viewer.shown(world, event);
                    position = Some(revision);
                }
            }
            if position.is_some_and(|position| position >= *until.borrow()) {
                return;
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
}

struct Maps {
    who: String,
    /// Told of the first list.
    first: Option<oneshot::Sender<()>>,
}

impl Viewer for Maps {
    fn listed(&mut self, world: &World, items: Vec<pb::Object>, revision: u64) {
        let (who, at_us) = (self.who.clone(), world.recorder.now_us());
        world.recorder.line(&Line::Listed { who, at_us, revision, seen: seen(&items) });
        if let Some(Err(())) = self.first.take().map(|first| first.send(())) {
            tracing::debug!(who = %self.who, "nobody waits for the first list any more");
        }
    }

    fn shown(&mut self, world: &World, event: pb::WatchEvent) {
        let (who, at_us) = (self.who.clone(), world.recorder.now_us());
        let deleted = event.r#type() == Type::Deleted;
        let Some(object) = event.object else { return };
        let revision = object.revision;
        let Some((name, (_, value))) = seen(&[object]).into_iter().next() else { return };
        let value = (!deleted).then_some(value);
        world.recorder.line(&Line::Shown { who, at_us, revision, name, value });
    }
}

/// The `i`th watcher of the ConfigMaps, which tells when it has been listed what is there.
async fn maps(world: Arc<World>, i: usize, until: watch::Receiver<u64>, listed: oneshot::Sender<()>) {
    let mut viewer = Maps { who: format!("watcher {}", i + 1), first: Some(listed) };
    follow(&world, "configmaps", i, until, &mut viewer).await;
}

struct Pods {
    world: Arc<World>,
    who: String,
    /// The first watcher deletes what it sees bound and was asked for: a Deployment would make others. After a while: a
    /// leader that was cut off and carries its old plan out is to find the pod there, and be seen.
    deletes: bool,
    told: BTreeSet<(String, String)>,
}

impl Pods {
    fn look(&mut self, object: &pb::Object) {
        let pod: Value = serde_json::from_slice(&object.json).unwrap_or_default();
        let text = |path: &str| pod.text(path).to_string();
        let (name, uid, node) = (text("metadata.name"), text("metadata.uid"), text("spec.nodeName"));
        if node.is_empty() || !self.told.insert((uid.clone(), node.clone())) {
            return;
        }
        let (who, at_us) = (self.who.clone(), self.world.recorder.now_us());
        let revision = object.revision;
        self.world.recorder.line(&Line::Bound { who, at_us, revision, pod: name.clone(), uid, node });
        // It says itself when it was asked for; those of the Deployment do not.
        let Some(asked_us) = pod.label(ASKED) else { return };
        self.world.bound.tell(asked_us.parse().unwrap_or(0));
        self.world.unbound.bound(&name);
        if self.deletes {
            let world = self.world.clone();
            let kept = clients::kept(world.scenario.workload.pods);
            tokio::spawn(async move {
                sleep(kept).await;
                clients::end_pod(&world, &name).await;
            });
        }
    }
}

impl Viewer for Pods {
    fn listed(&mut self, _: &World, items: Vec<pb::Object>, _: u64) {
        items.iter().for_each(|item| self.look(item));
    }

    fn shown(&mut self, _: &World, event: pb::WatchEvent) {
        let gone = event.r#type() == Type::Deleted;
        match event.object {
            Some(object) if !gone => self.look(&object),
            Some(_) | None => {}
        }
    }
}

async fn pods(world: Arc<World>, i: usize, until: watch::Receiver<u64>) {
    let who = format!("pod watcher {}", i + 1);
    let mut viewer = Pods { world: world.clone(), who, deletes: i == 0, told: BTreeSet::new() };
    follow(&world, "pods", i, until, &mut viewer).await;
}

/// Takes down what a master holds that runs on damaged bytes, if it answers: it may not be anything else than the truth.
pub(super) async fn damaged_state(world: &World, name: &str) {
    let Some(master) = world.masters.iter().find(|master| master.name == name) else { return };
    let mut client = objects_client(master.channel.clone());
    if let Ok(Ok(list)) = timeout(OPENING_MAX, client.list(list_request(world, true))).await {
        let list = list.into_inner();
        let (who, at_us) = (format!("{OWN_STATE}{name}{DAMAGED}"), world.recorder.now_us());
        let (revision, seen) = (list.revision, seen(&list.items));
        world.recorder.line(&Line::Listed { who, at_us, revision, seen });
    }
}

/// Takes down what each master holds itself, once it has applied `revision`; tells who does not get there.
pub(super) async fn own_states(world: &World, revision: u64) -> Option<String> {
    for master in &world.masters {
        let held = timeout(LAST_SIGHT_MAX, async {
            loop {
                let mut client = objects_client(master.channel.clone());
                if let Ok(Ok(list)) = timeout(OPENING_MAX, client.list(list_request(world, true))).await {
                    let list = list.into_inner();
                    if list.revision >= revision {
                        return (list.revision, seen(&list.items));
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        let (revision, seen): (u64, Seen) = match held.await {
            Ok(held) => held,
            Err(_) => return Some(format!("{} has not applied revision {revision}", master.name)),
        };
        let (who, at_us) = (format!("{OWN_STATE}{}", master.name), world.recorder.now_us());
        world.recorder.line(&Line::Listed { who, at_us, revision, seen });
    }
    None
}
