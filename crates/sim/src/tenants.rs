//! Those who ask for Deployments and pods, through the API of any master: they create, scale, roll and delete, take
//! pods out of their set by a label and put them back, and do not mind an answer that is lost.

use crate::cluster::{Asked, Cluster};
use crate::mix::pick;
use crate::network::{Host, LATE_MS_MAX};
use crate::workers::{DEDICATED, ZONE, ZONES};
use api::{Patch, Request, Verb};
use authz::Identity;
use front::Answer;
use objects::{KindId, Record, Served, Status, Value, json, registry};
use std::sync::Arc;
use std::time::Duration;
use stdx::Rng;
use tokio::time::{Instant, sleep, timeout_at};

pub(crate) const NAMESPACE: &str = "default";
/// Asked again this long after healing; then the cluster has not come back.
const SETTLE_MAX: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(200);

fn app(number: usize) -> String {
    format!("app-{number}")
}

/// Any request about an object in the tenants' namespace, as an administrator.
pub(crate) fn request(verb: Verb, kind: KindId, name: &str) -> Request {
    let mut request = Request::new(Identity::system(), verb, Served::stored(registry::must(kind)));
    request.namespace = NAMESPACE.into();
    request.name = name.into();
    request
}

/// Has a master answer a request. `held` is dropped when its front works on it no more.
pub(crate) async fn call(
    cluster: &Arc<Cluster>,
    i: usize,
    request: Request,
    held: impl Send + 'static,
) -> Asked<Result<Answer, Status>> {
    let call = move |host: Host| async move {
        let _held = held;
        match &host.office {
            Some(office) => office.front.call(&request).await,
            None => Err(Status::unavailable("there is no front")),
        }
    };
    cluster.ask(i, PATIENCE, call).await
}

/// Where the pods of a tenant must be.
#[derive(Clone, Copy)]
enum Place {
    Anywhere,
    /// No two on one node.
    Apart,
    /// In a zone, by a `nodeSelector`.
    Selected(&'static str),
    /// In a zone, by node affinity.
    Drawn(&'static str),
    /// In a zone with pods of another app, or of their own.
    Beside,
}

/// Tenants of a run, at most, each with a number.
const TENANTS_MAX: usize = 3;

/// Bare pods of a tenant, at most.
const BARE_MAX: u64 = 4;

pub(crate) struct Tenant {
    cluster: Arc<Cluster>,
    rng: Rng,
    /// Of its app, its Deployment, and the first part of its pods.
    name: String,
    /// The app of a neighbour, if there is one.
    other: String,
    cpu_milli: u64,
    memory_mib: u64,
    place: Place,
    tolerates: bool,
    n_rolls: u64,
    /// Held by each request that a master's front may still work on.
    asked: Arc<()>,
}

/// Of a pod, with so many seconds of grace.
fn deletion(name: &str, grace_s: i64) -> Request {
    let mut delete = request(Verb::Delete, registry::POD, name);
    delete.options.grace_period_seconds = Some(grace_s);
    delete
}

impl Tenant {
    pub(crate) fn new(cluster: &Arc<Cluster>, number: usize) -> Tenant {
        let mut rng = cluster.fork_rng();
        let has_places = cluster.mix.has_places;
        let zone = pick(&mut rng, &ZONES);
        let place = match (has_places, rng.below(6)) {
            // In no zone besides: one may have a single node.
            (_, 0 | 1) => Place::Apart,
            (true, 2) => Place::Selected(zone),
            (true, 3) => Place::Drawn(zone),
            (true, 4) => Place::Beside,
            (false, 2..) | (true, _) => Place::Anywhere,
        };
        Tenant {
            cluster: cluster.clone(),
            name: app(number),
            other: app((number + 1) % TENANTS_MAX),
            // Two replicas and a surge of each of three tenants fit on three nodes: three pods on each. Where there
            // are rules about places, they and a surge of two fit on one.
            cpu_milli: 100 + rng.below(if has_places { 100 } else { 700 }),
            memory_mib: 16 + rng.below(if has_places { 100 } else { 2_000 }),
            place,
            tolerates: has_places && rng.chance(1, 2),
            n_rolls: 0,
            asked: Arc::default(),
            rng,
        }
    }

    /// Asks for things until then; after that for little, until it is sure to have been heard.
    pub(crate) async fn run(mut self, until: Instant) {
        while Instant::now() < until {
            let pause_ms = self.rng.below(self.cluster.mix.tenant_ms_max);
            sleep(Duration::from_millis(pause_ms)).await;
            if let Some(request) = self.next().await {
                self.ask(request).await;
            }
        }
        self.settle().await;
    }

    /// `None` when there is nothing yet to ask it for.
    async fn next(&mut self) -> Option<Request> {
        let request = match self.rng.below(13) {
            0..=3 => self.creation(),
            4..=5 => {
                let replicas = self.rng.below(6);
                self.patch(json!({"spec": {"replicas": replicas}}))
            }
            6..=8 => {
                self.n_rolls += 1;
                let annotations = json!({"roll": self.n_rolls.to_string()});
                self.patch(json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}))
            }
            9 => {
                let mut delete = request(Verb::Delete, registry::DEPLOYMENT, &self.name);
                let policies = ["Background", "Foreground"];
                delete.options.propagation = policies[self.rng.below(2) as usize].into();
                delete
            }
            10 => {
                let name = self.some_bare_name();
                if self.rng.chance(1, 2) {
                    // As `kubectl replace --force` does.
                    self.ask(deletion(&name, 0)).await;
                }
                self.bare_pod(&name)
            }
            11 => return self.relabelling().await,
            _ => {
                let name = self.some_bare_name();
                deletion(&name, self.rng.below(3) as i64)
            }
        };
        Some(request)
    }

    /// The label of pods that were taken out of their set.
    fn loose(&self) -> String {
        format!("{}-loose", self.name)
    }

    /// The pods of which this is so, as of now or as some master sees them; none when it does not answer.
    async fn pods(&mut self, is_it: impl Fn(&Record) -> bool, is_now: bool) -> Option<Vec<String>> {
        let i = self.any_master();
        let look = move |host: Host| async move {
            let store = host.node.store();
            if is_now { store.read().await.ok() } else { Some(store.view()) }
        };
        let Asked::Answered(Some(view)) = self.cluster.ask(i, PATIENCE, look).await else { return None };
        let all = view.list(registry::POD, NAMESPACE, None);
        Some(all.filter(|pod| is_it(pod)).map(|pod| pod.key.name.to_string()).collect())
    }

    /// Takes a pod out of its set, which lets it go and makes another, or puts one back, which is one too many.
    async fn relabelling(&mut self) -> Option<Request> {
        let (from, to) = match self.rng.chance(1, 2) {
            true => (self.name.clone(), self.loose()),
            false => (self.loose(), self.name.clone()),
        };
        let pods = self.pods(|pod| is_of(pod, &from), false).await.filter(|pods| !pods.is_empty())?;
        let mut patch = request(Verb::Patch, registry::POD, &pods[self.rng.below(pods.len() as u64) as usize]);
        patch.patch = Some(Patch::Merge);
        patch.body.value = json!({"metadata": {"labels": {"app": to}}});
        Some(patch)
    }

    fn any_master(&mut self) -> usize {
        self.rng.below(self.cluster.n_masters() as u64) as usize
    }

    fn template(&self, labels: Value) -> Value {
        let requests = json!({"cpu": format!("{}m", self.cpu_milli), "memory": format!("{}Mi", self.memory_mib)});
        let mut spec = json!({
            "terminationGracePeriodSeconds": 2,
            "containers": [{"name": "main", "image": "hollow", "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": requests}}],
        });
        let required = |rule: Value| json!({"requiredDuringSchedulingIgnoredDuringExecution": rule});
        let among = |key: &str, values: &[&str]| json!([{"key": key, "operator": "In", "values": values}]);
        match self.place {
            Place::Anywhere => {}
            Place::Apart => {
                let selector = json!({"matchLabels": {"app": self.name}});
                let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": selector});
                spec["affinity"] = json!({"podAntiAffinity": required(json!([term]))});
            }
            Place::Selected(zone) => spec["nodeSelector"] = json!({ZONE: zone}),
            Place::Drawn(zone) => {
                let terms = json!({"nodeSelectorTerms": [{"matchExpressions": among(ZONE, &[zone])}]});
                spec["affinity"] = json!({"nodeAffinity": required(terms)});
            }
            Place::Beside => {
                let selector = json!({"matchExpressions": among("app", &[self.name.as_str(), self.other.as_str()])});
                let term = json!({"topologyKey": ZONE, "labelSelector": selector});
                spec["affinity"] = json!({"podAffinity": required(json!([term]))});
            }
        }
        if self.tolerates {
            spec["tolerations"] = json!([{"key": DEDICATED, "operator": "Exists"}]);
        }
        json!({"metadata": {"labels": labels}, "spec": spec})
    }

    fn creation(&mut self) -> Request {
        let mut create = request(Verb::Create, registry::DEPLOYMENT, "");
        let rolling = [(1, 0), (0, 1), (1, 1), (2, 1)][self.rng.below(4) as usize];
        let strategy = match self.rng.below(5) {
            0 => json!({"type": "Recreate"}),
            _ => {
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": rolling.0, "maxUnavailable": rolling.1}})
            }
        };
        create.body.value = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": self.name, "namespace": NAMESPACE},
            "spec": {"replicas": 1 + self.rng.below(4), "selector": {"matchLabels": {"app": self.name}},
                "strategy": strategy, "template": self.template(json!({"app": self.name}))},
        });
        create.client_request = Some(u128::from(self.rng.next_u64()));
        create
    }

    fn bare_name(&self, number: u64) -> String {
        format!("{}-bare-{number}", self.name)
    }

    /// Of few, so that a pod soon has the name of one before it.
    fn some_bare_name(&mut self) -> String {
        let number = 1 + self.rng.below(BARE_MAX);
        self.bare_name(number)
    }

    fn bare_pod(&self, name: &str) -> Request {
        let mut pod = self.template(json!({"app": format!("{}-bare", self.name)}));
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = name.into();
        pod["metadata"]["namespace"] = NAMESPACE.into();
        let mut create = request(Verb::Create, registry::POD, "");
        create.body.value = pod;
        create
    }

    fn patch(&self, change: Value) -> Request {
        let mut patch = request(Verb::Patch, registry::DEPLOYMENT, &self.name);
        patch.patch = Some(Patch::Merge);
        patch.body.value = change;
        patch
    }

    /// Whether any answer came that is not one to try again for.
    async fn ask(&mut self, request: Request) -> bool {
        let i = self.any_master();
        let what = format!("{} {} {}", request.verb.name(), request.served.kind.plural, request.object_name());
        let answer = call(&self.cluster, i, request, self.asked.clone()).await;
        let (told, done) = match answer {
            Asked::Answered(Ok(_)) => ("yes".to_string(), true),
            Asked::Answered(Err(status)) => {
                (format!("{} {}", status.code, status.message), status.code < 500 && status.code != 409)
            }
            Asked::Lost => ("nothing".into(), false),
            Asked::Down => ("that it is down".into(), false),
        };
        self.cluster.trace.note(format_args!("{} asks {i} to {what}: {told}", self.name));
        done
    }

    async fn settle(&mut self) {
        let deadline = Instant::now() + self.cluster.mix.patience(crate::world::HEAL_MAX) + SETTLE_MAX;
        if timeout_at(deadline, self.nothing_under_way()).await.is_err() {
            let what = format!("a master works on a request of {} {SETTLE_MAX:?} after healing", self.name);
            return self.cluster.problem("heard", what);
        }
        if timeout_at(deadline, self.leave_what_fits()).await.is_err() {
            let what = format!("{} was not heard within {SETTLE_MAX:?} of healing", self.name);
            self.cluster.problem("heard", what);
        }
    }

    /// What was given up as lost may still be done, and would come after what is asked for now: in a front that works
    /// on, or in a message to the leader that comes late.
    async fn nothing_under_way(&self) {
        while Arc::strong_count(&self.asked) > 1 {
            sleep(RETRY).await;
        }
        sleep(Duration::from_millis(LATE_MS_MAX)).await;
    }

    /// Two replicas at most, no bare pods, and none that were taken out of their set: also those that were to be put back
    /// when it was gone, which no set takes.
    async fn leave_what_fits(&mut self) {
        let replicas = self.rng.below(3);
        self.insist(self.patch(json!({"spec": {"replicas": replicas}}))).await;
        let delete = |name: &str| request(Verb::Delete, registry::POD, name);
        for number in 1..=BARE_MAX {
            self.insist(delete(&self.bare_name(number))).await;
        }
        let (name, loose) = (self.name.clone(), self.loose());
        let is_left = |pod: &Record| is_of(pod, &loose) || is_of(pod, &name) && pod.header.controller().is_none();
        let loose = loop {
            match self.pods(is_left, true).await {
                Some(pods) => break pods,
                None => sleep(RETRY).await,
            }
        };
        for pod in loose {
            self.insist(delete(&pod)).await;
        }
    }

    async fn insist(&mut self, request: Request) {
        while !self.ask(request.clone()).await {
            sleep(RETRY).await;
        }
    }
}

fn is_of(pod: &Record, app: &str) -> bool {
    pod.header.labels.get("app").is_some_and(|label| label == app)
}
