//! Carries the API brain's steps out: reads, proposals, retries. Both faces and the dispatcher stand
//! on it, so that a request means the same through each.

mod gathered;
pub mod listen;
pub mod workers;

use api::{Context, Pending, Reply, Request, Step, Verb, WorkerCall, watch::Watch};
use authz::Identity;
use objects::{Status, Timestamp};
use parking_lot::Mutex;
use state::{Txn, View};
use std::sync::Arc;
use std::time::Duration;
use stdx::Rng;
use store::Store;
use workers::Workers;

/// A patch that loses a race is tried again this often before the caller is told.
const RACES_MAX: usize = 20;
/// How long a request may wait for the revision it asks for.
const REVISION_PATIENCE: Duration = Duration::from_secs(3);

/// What a request leads to, once everything that can be decided here has been.
pub enum Answer {
    Reply(Reply),
    Watch(Watch, View),
    Worker(WorkerCall),
}

#[derive(Clone)]
pub struct Front {
    pub store: Store,
    pub workers: Arc<dyn Workers>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    rng: Arc<Mutex<Rng>>,
}

fn unavailable(error: store::Error) -> Status {
    match error {
        store::Error::Unavailable(why) => Status::unavailable(format!("the cluster cannot serve this now: {why}")),
        store::Error::Unknown(why) => Status::timeout(format!("the outcome of the request is unknown: {why}")),
    }
}

impl Front {
    pub fn new(
        store: Store,
        workers: Arc<dyn Workers>,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        seed: u64,
    ) -> Front {
        Front { store, workers, clock, rng: Arc::new(Mutex::new(Rng::new(seed))) }
    }

    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    pub fn rng(&self) -> Rng {
        Rng::new(self.rng.lock().next_u64())
    }

    fn step(&self, request: &Request, view: &View) -> Step {
        let mut rng = self.rng();
        api::step(request, view, &mut Context { now: self.now(), rng: &mut rng })
    }

    /// The view a read is to be answered from, by what its resourceVersion asks.
    async fn view_for(&self, request: &Request) -> Result<View, Status> {
        match request.options.resource_version {
            Some(0) => Ok(self.store.view()),
            // A continue token names its own revision; the newest view can be rewound to it.
            None if !request.options.continue_token.is_empty() => Ok(self.store.view()),
            None => self.store.read().await.map_err(unavailable),
            Some(revision) => {
                let wanted = objects::Revision(revision);
                self.store.view_since(wanted, REVISION_PATIENCE).await.map_err(|error| {
                    let mut status = unavailable(error);
                    status.message =
                        format!("Too large resource version: {revision}, current: {}", self.store.view().revision());
                    (status.code, status.reason) = (504, "Timeout");
                    status
                })
            }
        }
    }

    /// Runs a request to its answer.
    pub async fn call(&self, request: &Request) -> Result<Answer, Status> {
        if request.verb == Verb::DeleteCollection {
            return self.delete_collection(request).await.map(Answer::Reply);
        }
        if matches!(request.verb, Verb::Get | Verb::List | Verb::Watch) {
            let view = self.view_for(request).await?;
            return match self.step(request, &view) {
                Step::Answer(reply) => Ok(Answer::Reply(reply)),
                Step::Watch(watch) => Ok(Answer::Watch(watch, view)),
                Step::Worker(call) => Ok(Answer::Worker(call)),
                Step::Fail(status) => Err(status),
                Step::Propose(..) => Err(Status::internal("a read asked to write")),
            };
        }
        // Writes start from the local view, which is nearly always new enough: preconditions catch
        // the rest. Whatever does not end in a commit is decided again on a linearizable read. No view
        // is held while a proposal is on its way: all that is applied meanwhile would be copied for it.
        let mut step = self.step(request, &self.store.view());
        let mut fresh = false;
        for _ in 0..RACES_MAX {
            match step {
                Step::Propose(txn, pending) => match self.conclude(request, txn, pending).await {
                    Ok(reply) => return Ok(Answer::Reply(reply)),
                    Err(Some(status)) if fresh || status.code >= 500 => return Err(status),
                    Err(_) => {}
                },
                Step::Answer(reply) if fresh => return Ok(Answer::Reply(reply)),
                Step::Fail(status) if fresh => return Err(status),
                Step::Worker(call) if fresh => return Ok(Answer::Worker(call)),
                Step::Answer(_) | Step::Fail(_) | Step::Worker(_) => {}
                Step::Watch(_) => return Err(Status::internal("a write asked to watch")),
            }
            step = self.step(request, &self.store.read().await.map_err(unavailable)?);
            fresh = true;
        }
        Err(Status::conflict(request.served.kind, &request.name, "too many concurrent changes; try again"))
    }

    async fn conclude(&self, request: &Request, txn: Txn, pending: Pending) -> Result<Reply, Option<Status>> {
        let outcome = self.store.propose(txn).await.map_err(|error| Some(unavailable(error)))?;
        // A retry may have overtaken its first attempt's answer: then what was applied is that attempt's
        // object, not the one decided here.
        if let (Some(_), state::Outcome::Applied(revisions)) = (request.client_request, &outcome) {
            let written = revisions.first().copied().unwrap_or_default();
            let lags =
                || Some(Status::timeout(format!("applied at revision {written}, which this master has not seen yet")));
            let view = self.store.view_since(written, REVISION_PATIENCE).await.map_err(|_| lags())?;
            if let Some(reply) = api::replay(request, &view) {
                return Ok(reply);
            }
        }
        api::concluded(request, pending, outcome)
    }

    /// Deletes every match of the selectors, one by one; what vanished meanwhile is fine.
    async fn delete_collection(&self, request: &Request) -> Result<Reply, Status> {
        let matches = match self.step(request, &self.store.read().await.map_err(unavailable)?) {
            Step::Answer(Reply::List(matches)) => matches,
            Step::Fail(status) => return Err(status),
            _ => return Err(Status::internal("a collection led elsewhere")),
        };
        for item in &matches.items {
            let object: objects::Value = serde_json::from_slice(item).unwrap_or_default();
            // The right to delete them all has been shown.
            let mut delete = Request { verb: Verb::Delete, identity: Identity::system(), ..request.clone() };
            delete.client_request = None;
            delete.name = objects::ValueExt::text(&object, "metadata.name").into();
            delete.namespace = objects::ValueExt::text(&object, "metadata.namespace").into();
            match Box::pin(self.call(&delete)).await {
                Ok(_) => {}
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        Ok(Reply::Value { value: api::success(), created: false, warnings: Vec::new() })
    }

    /// A request of the cluster itself.
    pub async fn call_as_system(&self, mut request: Request) -> Result<Reply, Status> {
        request.identity = Identity::system();
        match self.call(&request).await? {
            Answer::Reply(reply) => Ok(reply),
            Answer::Watch(..) | Answer::Worker(_) => Err(Status::internal("not a request with an answer")),
        }
    }
}
