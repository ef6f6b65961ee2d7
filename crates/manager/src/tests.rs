//! The manager over a store in memory: what is proposed, how often, and when it stops.

use super::*;
use crate::proposals::propose_all;
use api::WorkerCall;
use async_trait::async_trait;
use controllers::Controller;
use front::workers::{WorkerStream, Workers};
use objects::{Key, KindId, Status, Timestamp, Value, ValueExt, json, record, registry};
use parking_lot::Mutex;
use state::{Op, Outcome, Refusal, State, Txn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use store::{Leadership, Proposer, Published, Route, Store};
use tokio::sync::watch;

const LEADER: LeaderId = LeaderId { term: 1, node: 1 };
/// What a commit takes here.
const COMMIT: Duration = Duration::from_millis(2);
/// Until a wait is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Applies what is proposed after a commit's time, and counts.
struct Fake {
    published: Arc<Published>,
    leadership: watch::Sender<Leadership>,
    /// The leader under which entries are appended.
    appends_as: Mutex<LeaderId>,
    n_proposals: AtomicUsize,
    /// The next proposal that makes a pod is told of as unknown; it is applied before whatever comes after.
    loses_one: AtomicBool,
    late: Mutex<Vec<Txn>>,
}

#[async_trait]
impl Proposer for Fake {
    async fn propose(&self, txn: Txn, _: Route) -> Result<Outcome, store::Error> {
        self.n_proposals.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(COMMIT).await;
        let makes_pod = txn.ops.iter().any(|op| matches!(op, Op::Create { key, .. } if key.kind == registry::POD));
        if makes_pod && self.loses_one.swap(false, Ordering::Relaxed) {
            self.late.lock().push(txn);
            return Err(store::Error::Unknown("the leader did not answer in time".into()));
        }
        let late = std::mem::take(&mut *self.late.lock());
        late.iter().for_each(|txn| drop(self.apply(txn)));
        Ok(self.apply(&txn))
    }

    async fn read_barrier(&self) -> Result<(), store::Error> {
        Ok(())
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}

impl Fake {
    fn apply(&self, txn: &Txn) -> Outcome {
        self.published.apply(*self.appends_as.lock(), txn)
    }

    fn leads(&self, active: Option<LeaderId>) {
        self.leadership.send_replace(Leadership { leader: None, term: 1, active });
    }
}

struct NoWorkers;

#[async_trait]
impl Workers for NoWorkers {
    async fn open(&self, _: &WorkerCall) -> Result<WorkerStream, Status> {
        Err(Status::unavailable("there are no workers here"))
    }
}

/// Every node is heard all the time.
struct AllHeard(Store);

impl FactSource for AllHeard {
    fn facts(&self) -> Facts {
        let view = self.0.view();
        let nodes = view.list(registry::NODE, "", None).map(|node| (node.key.name.to_string(), 0));
        Facts { silent_ms: nodes.collect(), ca: "CA".into() }
    }

    fn took_office(&self) {}
}

struct House {
    fake: Arc<Fake>,
    front: Front,
}

impl House {
    fn new() -> House {
        let published = Published::new(State::new());
        let leadership = watch::Sender::new(Leadership::default());
        let fake = Arc::new(Fake {
            published: published.clone(),
            leadership,
            appends_as: Mutex::new(LEADER),
            n_proposals: AtomicUsize::new(0),
            loses_one: AtomicBool::new(false),
            late: Mutex::default(),
        });
        let store = Store::new(published, fake.clone());
        let front = Front::new(store, Arc::new(NoWorkers), Arc::new(|| Timestamp(1_700_000_000_000)), 7);
        House { fake, front }
    }

    /// Runs `story` beside the manager of a leader.
    fn run<F: Future<Output = ()>>(self, story: impl FnOnce(Arc<House>) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let house = Arc::new(self);
        house.fake.leads(Some(LEADER));
        let facts = Arc::new(AllHeard(house.front.store.clone()));
        runtime.block_on(async {
            tokio::select! {
                () = run(house.front.clone(), facts) => panic!("the manager has ended"),
                () = story(house.clone()) => {}
            }
        });
    }

    fn create(&self, kind: KindId, object: Value) {
        let mut rng = self.front.rng();
        let mut context = api::Context { now: self.front.now(), rng: &mut rng };
        let view = self.front.store.view();
        let (op, _) = api::creation(object, registry::must(kind), &view, &mut context).unwrap();
        assert!(matches!(self.fake.apply(&Txn { ops: vec![op], ..Txn::default() }), Outcome::Applied(_)));
    }

    fn node(&self, name: &str) {
        self.create(
            registry::NODE,
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "status": {
                "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}]}}),
        );
    }

    fn deployment(&self, replicas: usize) {
        self.create(
            registry::DEPLOYMENT,
            json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": replicas,
                "selector": {"matchLabels": {"app": "w"}}, "template": {"metadata": {"labels": {"app": "w"}},
                "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}),
        );
    }

    async fn until(&self, what: &str, done: impl Fn(&View) -> bool) {
        let mut revisions = self.front.store.revisions();
        let reached = revisions.wait_for(|_| done(&self.front.store.view()));
        assert!(tokio::time::timeout(PATIENCE, reached).await.is_ok(), "waited in vain for {what}");
    }

    fn n_bound(view: &View) -> usize {
        view.list(registry::POD, "", None).filter(|pod| pod.header.node_name.is_some()).count()
    }

    fn n_proposals(&self) -> usize {
        self.fake.n_proposals.load(Ordering::Relaxed)
    }

    /// No proposal for a while: longer than any pause between two of the manager's own.
    async fn quiet(&self) {
        loop {
            let before = self.n_proposals();
            tokio::time::sleep(Duration::from_millis(300)).await;
            if self.n_proposals() == before {
                return;
            }
        }
    }
}

async fn started(house: &House) {
    house.until("the namespaces", |view| view.list(registry::NAMESPACE, "", None).count() == 4).await;
}

#[test]
fn two_hundred_pods_are_made_and_bound_in_few_proposals() {
    House::new().run(|house| async move {
        started(&house).await;
        (0..50).for_each(|i| house.node(&format!("n{i}")));
        house.quiet().await;
        let before = house.n_proposals();
        house.deployment(200);
        house.until("200 bound pods", |view| House::n_bound(view) == 200).await;
        house.quiet().await;
        // 200 pods and their events are four proposals to make and four to bind; the rest are sets,
        // deployments and their statuses.
        let n = house.n_proposals() - before;
        assert!(n < 30, "{n} proposals");
        let view = house.front.store.view();
        let deployment = view.get(&Key::new(registry::DEPLOYMENT, "default", "web")).unwrap().value();
        assert_eq!(deployment.at("status.replicas"), 200);
    });
}

#[test]
fn nothing_is_proposed_when_nothing_happens() {
    House::new().run(|house| async move {
        started(&house).await;
        house.node("n");
        house.deployment(2);
        house.until("two bound pods", |view| House::n_bound(view) == 2).await;
        house.quiet().await;
        let before = house.n_proposals();
        // Longer than the node's own look, which comes every four seconds.
        tokio::time::sleep(Duration::from_millis(4_500)).await;
        assert_eq!(house.n_proposals(), before);
    });
}

#[test]
fn a_pod_that_fits_nowhere_is_told_and_bound_once_a_node_comes() {
    House::new().run(|house| async move {
        started(&house).await;
        house.deployment(1);
        let condition = |view: &View| {
            let pod = view.list(registry::POD, "", None).next()?.value();
            let conditions = pod.items("status.conditions").iter();
            conditions.clone().find(|c| c.text("type") == "PodScheduled").cloned()
        };
        house.until("the verdict", |view| condition(view).is_some()).await;
        let told = condition(&house.front.store.view()).unwrap();
        assert_eq!((told.text("status"), told.text("reason")), ("False", "Unschedulable"));
        assert_eq!(told.text("message"), "no nodes available to schedule pods");
        let view = house.front.store.view();
        let reasons: Vec<Value> = view.list(registry::EVENT, "", None).map(|event| event.value()).collect();
        assert!(reasons.iter().any(|event| event.text("reason") == "FailedScheduling"));
        house.node("n");
        house.until("the binding", |view| House::n_bound(view) == 1).await;
        assert_eq!(condition(&house.front.store.view()).unwrap().text("status"), "True");
    });
}

#[test]
fn a_gated_pod_says_so() {
    House::new().run(|house| async move {
        started(&house).await;
        house.node("n");
        house.create(
            registry::POD,
            json!({"metadata": {"name": "x", "namespace": "default"}, "spec": {"schedulingGates": [{"name": "g"}],
                "containers": [{"name": "c", "image": "i:1"}]}}),
        );
        let reason = |view: &View| {
            let pod = view.get(&Key::new(registry::POD, "default", "x")).unwrap().value();
            pod.items("status.conditions").iter().any(|c| c.text("reason") == "SchedulingGated")
        };
        house.until("the condition", reason).await;
        house.quiet().await;
        assert_eq!(House::n_bound(&house.front.store.view()), 0);
    });
}

#[test]
fn it_stops_at_once_when_leadership_goes_and_goes_on_when_it_is_back() {
    House::new().run(|house| async move {
        started(&house).await;
        house.node("n");
        house.quiet().await;
        house.fake.leads(None);
        tokio::time::sleep(COMMIT * 2).await;
        let before = house.n_proposals();
        house.deployment(3);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(house.n_proposals(), before);
        let next = LeaderId { term: 2, node: 1 };
        *house.fake.appends_as.lock() = next;
        house.fake.leads(Some(next));
        house.until("three bound pods", |view| House::n_bound(view) == 3).await;
    });
}

#[test]
fn plans_of_a_deposed_leader_are_void_and_end_its_work() {
    House::new().run(|house| async move {
        started(&house).await;
        house.node("n");
        house.quiet().await;
        // Another leader appends, before this master has heard of it.
        *house.fake.appends_as.lock() = LeaderId { term: 2, node: 2 };
        house.deployment(3);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let view = house.front.store.view();
        assert_eq!(view.list(registry::REPLICA_SET, "", None).count(), 0);
        // The first refusals end it; it does not begin anew for the same office.
        let n = house.n_proposals();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(house.n_proposals(), n);
    });
}

fn n_made(view: &View) -> usize {
    let events = view.events_after(registry::POD, Revision(0)).unwrap();
    events.iter().filter(|event| event.old.is_none()).count()
}

#[test]
fn a_plan_of_unknown_outcome_is_not_made_twice() {
    House::new().run(|house| async move {
        started(&house).await;
        house.node("n");
        house.quiet().await;
        house.fake.loses_one.store(true, Ordering::Relaxed);
        house.deployment(2);
        house.until("two bound pods", |view| House::n_bound(view) == 2).await;
        house.quiet().await;
        assert_eq!(n_made(&house.front.store.view()), 2);
    });
}

#[test]
fn a_plan_of_an_earlier_sitting_of_the_same_leader_is_not_made_twice() {
    House::new().run(|house| async move {
        started(&house).await;
        house.node("n");
        house.quiet().await;
        house.fake.loses_one.store(true, Ordering::Relaxed);
        house.deployment(2);
        house.until("the set", |view| view.list(registry::REPLICA_SET, "", None).count() == 1).await;
        // It loses sight of its quorum, and finds it again in the same term.
        house.fake.leads(None);
        tokio::time::sleep(COMMIT * 2).await;
        house.fake.leads(Some(LEADER));
        house.until("two bound pods", |view| House::n_bound(view) == 2).await;
        house.quiet().await;
        assert_eq!(n_made(&house.front.store.view()), 2);
    });
}

#[test]
fn a_stale_transaction_does_not_hold_the_others_up() {
    House::new().run(|house| async move {
        started(&house).await;
        let map = |name: &str, assumed: Option<u64>| {
            let key = Key::new(registry::CONFIG_MAP, "default", name);
            let object = record::encode(&json!({"metadata": {"name": name, "namespace": "default"}}));
            let op = match assumed {
                None => Op::Create { key, object },
                Some(revision) => Op::Update { key, assumed: Revision(revision), object },
            };
            Txn { ops: vec![op], ..Txn::default() }
        };
        let txns = vec![map("a", None), map("b", Some(1)), map("c", None)];
        let answers = propose_all(&house.front, LEADER, txns).await;
        let fine: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(fine, [true, false, true]);
        assert!(matches!(&answers[1], Err(Failure::Refused(Refusal::NotFound(_)))));
    });
}

fn item(name: &str) -> Item {
    (Controller::ReplicaSet, Key::new(registry::REPLICA_SET, "default", name))
}

#[test]
fn the_queue_is_fair_and_gives_each_key_once() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    for name in ["b", "a", "b", "c"] {
        queue.push(item(name));
    }
    let names =
        |queue: &mut Queue| std::iter::from_fn(|| queue.pop(now)).map(|i| i.1.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&mut queue), ["b", "a", "c"]);
}

#[test]
fn a_key_is_not_given_while_it_is_worked_on_but_once_more_after() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.push(item("a"));
    assert_eq!(queue.pop(now), Some(item("a")));
    queue.push(item("a"));
    assert_eq!(queue.pop(now), None);
    queue.done(&item("a"));
    assert_eq!(queue.pop(now), Some(item("a")));
    queue.done(&item("a"));
    assert_eq!(queue.pop(now), None);
}

#[test]
fn a_delayed_key_comes_at_its_soonest_time_or_with_an_earlier_look() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let after = |ms| now + Duration::from_millis(ms);
    queue.push_at(item("a"), after(30));
    queue.push_at(item("a"), after(10));
    queue.push_at(item("a"), after(20));
    assert!(!queue.has_ready(after(9)) && queue.has_ready(after(10)));
    assert_eq!(queue.pop(after(10)), Some(item("a")));
    queue.done(&item("a"));
    assert_eq!(queue.pop(after(100)), None, "the other times are answered, too");
}

#[test]
fn failures_back_off_and_success_forgives() {
    let (mut queue, mut now) = (Queue::default(), Instant::now());
    let mut delays = Vec::new();
    queue.push(item("a"));
    for _ in 0..13 {
        let taken = queue.pop(now).unwrap();
        queue.failed(&taken, now);
        let started = now;
        while !queue.has_ready(now) {
            now += Duration::from_millis(5);
        }
        delays.push((now - started).as_millis());
    }
    assert_eq!(delays, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_000, 10_000]);
    let taken = queue.pop(now).unwrap();
    queue.done(&taken);
    queue.push(item("a"));
    let taken = queue.pop(now).unwrap();
    queue.failed(&taken, now);
    assert!(queue.has_ready(now + Duration::from_millis(5)));
}
