//! The clients that write and read: open loop, so that a cluster that stalls is not asked less.

use super::world::{UNDER_WAY_MAX, World};
use crate::verbs::objects_client;
use anyhow::{Result, bail};
use chaos::lines::{Line, Seen, WriteEnd};
use objects::{Value, ValueExt, json};
use parking_lot::Mutex;
use protos::objects as pb;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// One try of a request; a master answers within 2 s, or says that the outcome is unknown.
const TRY_MAX: Duration = Duration::from_millis(2_500);
/// All tries of one request.
const PATIENCE: Duration = Duration::from_secs(15);
const BETWEEN_TRIES: Duration = Duration::from_millis(5);
/// The label of everything that is a run's, with its mark.
pub(super) const LABEL: &str = "balsa.dev/chaos";
/// On pods: when each was asked for, in microseconds of the run.
pub(super) const ASKED: &str = "balsa.dev/chaos-asked";

/// What an answer that is no success means for the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Certainly not applied; another try may be.
    Not,
    Unknown,
    Refused(WriteEnd),
}

/// Masters attach ErrorInfo to what they say; without it a broken connection speaks.
fn meaning(code: Code, by_a_master: bool, assumes: bool) -> Meaning {
    match code {
        Code::Unavailable if by_a_master => Meaning::Not,
        // Lost too many races: decided anew by the next try.
        Code::Aborted if !assumes => Meaning::Not,
        Code::Aborted => Meaning::Refused(WriteEnd::Conflict),
        Code::NotFound => Meaning::Refused(WriteEnd::NotFound),
        Code::AlreadyExists => Meaning::Refused(WriteEnd::Exists),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => Meaning::Unknown,
        // HTTP/2 says so of a connection that it ends.
        Code::ResourceExhausted | Code::Internal if !by_a_master => Meaning::Unknown,
        _ => Meaning::Refused(WriteEnd::Refused),
    }
}

/// How a write went, over all its tries.
struct Told {
    tried_us: u64,
    doubtful: bool,
    end: WriteEnd,
    revision: Option<u64>,
    why: Option<String>,
}

/// A write, as it is sent again and again under one request id.
enum Request {
    Create(pb::WriteRequest),
    Update(pb::WriteRequest),
    Patch(pb::PatchRequest),
    Delete(pb::DeleteRequest),
}

impl Request {
    async fn send(&self, channel: Channel) -> Result<pb::Object, Status> {
        let mut client = objects_client(channel);
        let answer = match self {
            Request::Create(request) => client.create(request.clone()).await,
            Request::Update(request) => client.update(request.clone()).await,
            Request::Patch(request) => client.patch(request.clone()).await,
            Request::Delete(request) => client.delete(request.clone()).await,
        };
        answer.map(tonic::Response::into_inner)
    }

    /// Whether a conflict answers what it assumes, rather than a race that the master lost.
    fn assumes(&self) -> bool {
        !matches!(self, Request::Patch(_))
    }
}

/// Tries at one master after the other until the outcome is known or patience is over.
async fn until_told(world: &World, request: Request) -> Told {
    let deadline = Instant::now() + PATIENCE;
    let mut told = Told { tried_us: 0, doubtful: false, end: WriteEnd::Never, revision: None, why: None };
    loop {
        told.tried_us = world.recorder.now_us();
        let channel = world.any_master().channel.clone();
        let meaning = match timeout(TRY_MAX, request.send(channel)).await {
            Ok(Ok(answer)) => {
                told.end = WriteEnd::Applied;
                told.revision = Some(answer.revision);
                return told;
            }
            Ok(Err(status)) => {
                let meaning = meaning(status.code(), status.get_details_error_info().is_some(), request.assumes());
                if meaning == Meaning::Refused(WriteEnd::Refused) {
                    told.why = Some(format!("{:?}: {}", status.code(), status.message()));
                }
                meaning
            }
            Err(_) => Meaning::Unknown,
        };
        match meaning {
            Meaning::Refused(end) => {
                told.end = end;
                return told;
            }
            Meaning::Unknown => (told.doubtful, told.end) = (true, WriteEnd::Unknown),
            Meaning::Not => {}
        }
        if Instant::now() > deadline {
            return told;
        }
        sleep(BETWEEN_TRIES).await;
    }
}

/// Starts `one` so often a second until told to stop, then waits for all that are under way.
async fn at_rate<F: Future<Output = ()> + Send + 'static>(
    world: &Arc<World>,
    per_second: u32,
    mut stop: watch::Receiver<bool>,
    mut one: impl FnMut(u64) -> F,
) {
    if per_second == 0 {
        return;
    }
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for n in 1.. {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = ticks.tick() => {}
        }
        let Ok(permit) = under_way.clone().try_acquire_owned() else {
            world.unsent.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let request = one(n);
        tokio::spawn(async move {
            request.await;
            drop(permit);
        });
    }
    // Closed by nobody, so that this waits for the last of them.
    if let Ok(all) = under_way.acquire_many(UNDER_WAY_MAX as u32).await {
        drop(all);
    }
}

/// The ConfigMaps that are written and read.
pub(super) struct Maps {
    world: Arc<World>,
    /// The revision of each that was last told to the writers; 0 before any.
    known: Mutex<Vec<u64>>,
    n_written: AtomicU64,
}

fn name(i: usize) -> String {
    format!("k{i}")
}

impl Maps {
    pub(super) fn new(world: &Arc<World>) -> Maps {
        let n_keys = world.scenario.workload.keys as usize;
        Maps { world: world.clone(), known: Mutex::new(vec![0; n_keys]), n_written: AtomicU64::new(0) }
    }

    fn data(&self, value: &str) -> Value {
        let pad = (self.world.scenario.workload.size as usize).saturating_sub(value.len());
        json!({"v": value, "pad": "x".repeat(pad)})
    }

    fn object(&self, i: usize, value: &str, revision: Option<u64>) -> String {
        let mut object = json!({
            "metadata": {"name": name(i), "labels": {LABEL: self.world.nonce}}, "data": self.data(value),
        });
        if let Some(revision) = revision {
            object.set("metadata.resourceVersion", revision.to_string());
        }
        object.to_string()
    }

    /// Creates them all, before any fault.
    pub(super) async fn create(&self, stopped: &watch::Receiver<bool>) -> Result<()> {
        for i in 0..self.world.scenario.workload.keys as usize {
            if *stopped.borrow() {
                bail!("{i} of the ConfigMaps had been made");
            }
            if self.write(i, true, None).await != WriteEnd::Applied {
                bail!("ConfigMap {} could not be made in namespace {}", name(i), self.world.namespace);
            }
        }
        Ok(())
    }

    /// One write, taken down whatever comes of it.
    async fn write(&self, i: usize, creates: bool, assumed: Option<u64>) -> WriteEnd {
        let (world, n) = (&self.world, self.n_written.fetch_add(1, Ordering::Relaxed) + 1);
        let value = format!("{}-{n}", world.nonce);
        let request_id = format!("chaos-{value}");
        let key = |name: String| Some(world.key("", "configmaps", &name));
        let invoked_us = world.recorder.now_us();
        let write = |name: String, request_id| pb::WriteRequest {
            key: key(name),
            json: self.object(i, &value, assumed).into(),
            request_id,
            ..Default::default()
        };
        let request = match (creates, assumed) {
            (true, _) => Request::Create(write(String::new(), request_id)),
            (false, Some(_)) => Request::Update(write(name(i), request_id)),
            (false, None) => Request::Patch(pb::PatchRequest {
                key: key(name(i)),
                r#type: pb::patch_request::Type::Merge.into(),
                patch: json!({"data": self.data(&value)}).to_string().into(),
                request_id,
                ..Default::default()
            }),
        };
        let told = until_told(world, request).await;
        if let Some(revision) = told.revision {
            let mut known = self.known.lock();
            known[i] = known[i].max(revision);
            drop(known);
            world.written.tell(invoked_us);
        }
        world.recorder.line(&Line::Write {
            who: "writer".into(),
            name: format!("configmaps/{}", name(i)),
            value,
            creates,
            assumed,
            invoked_us,
            tried_us: told.tried_us,
            answered_us: world.recorder.now_us(),
            doubtful: told.doubtful,
            end: told.end,
            revision: told.revision,
            why: told.why,
        });
        told.end
    }

    /// A write of any of them, which now and then names the revision it assumes.
    pub(super) async fn write_any(&self) -> WriteEnd {
        let i = self.world.below(u64::from(self.world.scenario.workload.keys.max(1))) as usize;
        let assumes = self.world.below(100) < u64::from(self.world.scenario.workload.assuming);
        let known = self.known.lock()[i];
        self.write(i, false, assumes.then_some(known)).await
    }

    /// A write after all others, of the first ConfigMap; its revision.
    pub(super) async fn write_last(&self) -> Option<u64> {
        match self.write(0, false, None).await {
            WriteEnd::Applied => Some(self.known.lock()[0]),
            _ => None,
        }
    }
}

pub(super) async fn writers(world: Arc<World>, maps: Arc<Maps>, stop: watch::Receiver<bool>) {
    let one = |_| {
        let maps = maps.clone();
        async move {
            maps.write_any().await;
        }
    };
    at_rate(&world, world.scenario.workload.writes, stop, one).await;
}

/// What a list of the ConfigMaps shows.
pub(super) fn seen(items: &[pb::Object]) -> Seen {
    let sight = |item: &pb::Object| {
        let object: Value = serde_json::from_slice(&item.json).unwrap_or_default();
        let name = format!("configmaps/{}", object.text("metadata.name"));
        (name, (item.revision, object.text("data.v").to_string()))
    };
    let mut all = Seen::new();
    for (mut name, sight) in items.iter().map(sight) {
        // One that is there twice is not to hide behind itself.
        while all.contains_key(&name) {
            name.push_str(" again");
        }
        all.insert(name, sight);
    }
    all
}

pub(super) fn list_request(world: &World, stale: bool) -> pb::ListRequest {
    let label_selector = format!("{LABEL}={}", world.nonce);
    pb::ListRequest { key: Some(world.key("", "configmaps", "")), label_selector, stale, ..Default::default() }
}

pub(super) async fn readers(world: Arc<World>, stop: watch::Receiver<bool>) {
    let one = |_| {
        let world = world.clone();
        async move {
            let invoked_us = world.recorder.now_us();
            let mut client = objects_client(world.any_master().channel.clone());
            // A read that fails shows nothing, and so nothing can be wrong with it; it is counted.
            match timeout(TRY_MAX, client.list(list_request(&world, false))).await {
                Ok(Ok(list)) => {
                    let list = list.into_inner();
                    let (revision, seen) = (list.revision, seen(&list.items));
                    let answered_us = world.recorder.now_us();
                    world.recorder.line(&Line::Read { who: "reader".into(), invoked_us, answered_us, revision, seen });
                }
                Ok(Err(status)) => world.read_failed(status.message().into()),
                Err(_) => world.read_failed(format!("no answer within {} ms", TRY_MAX.as_millis())),
            }
        }
    };
    at_rate(&world, world.scenario.workload.reads, stop, one).await;
}

/// What all pods of a run are: placed and bound, and never run, as they lack a ConfigMap. A container would
/// cost more than what is measured.
fn pod_spec() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "c", "image": "registry.local/none:1", "command": ["true"],
            "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "never", "key": "made"}}}],
        }],
    })
}

/// How long a pod stays once it is bound: longer than most faults, and as long as no more than forty do, as a worker has
/// room for 110 with those that wait and are ended.
pub(super) fn kept(per_second: u32) -> Duration {
    Duration::from_secs(10).min(Duration::from_secs(40) / per_second.max(1))
}

/// Ends a pod that has been seen bound. It must go: the workers have room for so many.
pub(super) async fn end_pod(world: &World, name: &str) {
    let request = pb::DeleteRequest {
        key: Some(world.key("", "pods", name)),
        grace_period_seconds: Some(0),
        request_id: format!("chaos-{}-{name}-end", world.nonce),
        ..Default::default()
    };
    let told = until_told(world, Request::Delete(request)).await;
    if told.end != WriteEnd::Applied {
        tracing::debug!(name, end = ?told.end, "a pod was not deleted");
    }
}

pub(super) async fn pods(world: Arc<World>, stop: watch::Receiver<bool>) {
    let one = |n| {
        let world = world.clone();
        async move {
            let name = format!("p{n}");
            let invoked_us = world.recorder.now_us();
            let labels = json!({LABEL: world.nonce, ASKED: invoked_us.to_string()});
            let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": pod_spec()});
            let request = pb::WriteRequest {
                key: Some(world.key("", "pods", "")),
                json: pod.to_string().into(),
                request_id: format!("chaos-{}-{name}", world.nonce),
                ..Default::default()
            };
            let told = until_told(&world, Request::Create(request)).await;
            let (answered_us, made) = (world.recorder.now_us(), told.end == WriteEnd::Applied);
            if made {
                world.unbound.made(&name);
            }
            world.recorder.line(&Line::Pod { name, invoked_us, answered_us, made });
        }
    };
    at_rate(&world, world.scenario.workload.pods, stop, one).await;
}

/// A pod after all others: whoever is shown it has been shown what became of them. Its revision, once it is made.
pub(super) async fn last_pod(world: &World) -> Option<u64> {
    let pod = json!({"metadata": {"name": "last", "labels": {LABEL: world.nonce}}, "spec": pod_spec()});
    let request = pb::WriteRequest {
        key: Some(world.key("", "pods", "")),
        json: pod.to_string().into(),
        request_id: format!("chaos-{}-last", world.nonce),
        ..Default::default()
    };
    until_told(world, Request::Create(request)).await.revision
}

/// Makes the run's namespace and, where asked for, its Deployment.
pub(super) async fn prepare(world: &World) -> Result<()> {
    let create = async |group: &str, resource: &str, object: Value| -> Result<()> {
        let mut key = world.key(group, resource, "");
        if resource == "namespaces" {
            key.namespace.clear();
        }
        let request_id = format!("chaos-{}-{resource}", world.nonce);
        let request =
            pb::WriteRequest { key: Some(key), json: object.to_string().into(), request_id, ..Default::default() };
        let told = until_told(world, Request::Create(request)).await;
        match told.end {
            WriteEnd::Applied => Ok(()),
            end => bail!("{resource} of the workload could not be made: {}", told.why.unwrap_or(format!("{end:?}"))),
        }
    };
    create("", "namespaces", json!({"metadata": {"name": world.namespace}})).await?;
    if world.scenario.workload.deployment > 0 {
        let spec = json!({
            "replicas": world.scenario.workload.deployment,
            "selector": {"matchLabels": {"app": "steady"}},
            "template": {"metadata": {"labels": {"app": "steady", LABEL: world.nonce}}, "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": "registry.local/busybox:1", "command": ["sleep", "1000000"]}],
            }},
        });
        create("apps", "deployments", json!({"metadata": {"name": "steady"}, "spec": spec})).await?;
    }
    Ok(())
}

/// What the workload still misses of being whole: a write that is taken, and the Deployment's replicas.
pub(super) async fn missing(world: &World, maps: &Maps) -> Option<String> {
    match maps.write_any().await {
        end @ (WriteEnd::Unknown | WriteEnd::Never | WriteEnd::Refused) => {
            return Some(format!("no write is accepted: one ended as {end:?}"));
        }
        WriteEnd::Applied | WriteEnd::Exists | WriteEnd::NotFound | WriteEnd::Conflict => {}
    }
    let wanted = i64::from(world.scenario.workload.deployment);
    if wanted == 0 {
        return None;
    }
    let request = pb::GetRequest { key: Some(world.key("apps", "deployments", "steady")), ..pb::GetRequest::default() };
    let mut client = objects_client(world.any_master().channel.clone());
    let found = match timeout(TRY_MAX, client.get(request)).await {
        Ok(Ok(found)) => found.into_inner(),
        Ok(Err(status)) => return Some(format!("the Deployment cannot be read: {}", status.message())),
        Err(_) => return Some("the Deployment cannot be read".into()),
    };
    let object: Value = serde_json::from_slice(&found.json).unwrap_or_default();
    let available = object.at("status.availableReplicas").as_i64().unwrap_or(0);
    (available < wanted).then(|| format!("{available} of {wanted} replicas of the Deployment are available"))
}

/// Removes what the run has made.
pub(super) async fn clean_up(world: &World) -> Result<()> {
    let mut key = world.key("", "namespaces", &world.namespace);
    key.namespace.clear();
    let request_id = format!("chaos-{}-end", world.nonce);
    let request = pb::DeleteRequest { key: Some(key), request_id, ..Default::default() };
    let told = until_told(world, Request::Delete(request)).await;
    match told.end {
        WriteEnd::Applied | WriteEnd::NotFound => Ok(()),
        _ => bail!("namespace {} could not be deleted; delete it by hand", world.namespace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_masters_word_makes_an_outcome_certain() {
        assert_eq!(meaning(Code::Unavailable, true, false), Meaning::Not);
        assert_eq!(meaning(Code::Unavailable, false, false), Meaning::Unknown);
        assert_eq!(meaning(Code::DeadlineExceeded, true, false), Meaning::Unknown);
        assert_eq!(meaning(Code::Unknown, false, false), Meaning::Unknown);
        assert_eq!(meaning(Code::Aborted, true, true), Meaning::Refused(WriteEnd::Conflict));
        assert_eq!(meaning(Code::Aborted, true, false), Meaning::Not);
        for code in [Code::Internal, Code::ResourceExhausted] {
            assert_eq!(meaning(code, true, false), Meaning::Refused(WriteEnd::Refused));
            assert_eq!(meaning(code, false, false), Meaning::Unknown);
        }
    }
}
