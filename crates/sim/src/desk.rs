//! Where the proposals of everything beside consensus pass: plans are noted with the leader they were made
//! under, before they are proposed, since one whose outcome nobody hears may be applied all the same; machines
//! lose power beside them, and some planted faults are planted here.

use crate::Twin;
use crate::chronicle::{Plan, Told};
use crate::cluster::Cluster;
use crate::points::{Edge, Subject};
use async_trait::async_trait;
use objects::{Value, ValueExt, record, registry};
use state::{Op, Outcome, Txn, View};
use std::sync::Weak;
use store::{Error, Leadership, Proposer, Route, Store};
use tokio::sync::watch;

/// Where a set tells how many pods there may be.
const MAX: &str = "deployment.kubernetes.io/max-replicas";

pub(crate) struct Desk {
    pub(crate) cluster: Weak<Cluster>,
    pub(crate) master: usize,
    /// The product's own.
    pub(crate) store: Store,
    pub(crate) twin: Option<Twin>,
}

fn is_binding(txn: &Txn) -> bool {
    txn.ops.iter().any(|op| op.key().kind == registry::POD && matches!(op, Op::Update { .. }))
}

#[async_trait]
impl Proposer for Desk {
    async fn propose(&self, mut txn: Txn, route: Route) -> Result<Outcome, Error> {
        let Some(cluster) = self.cluster.upgrade() else { return std::future::pending().await };
        self.plant(&mut txn, &cluster);
        let Some(leader) = txn.fence.filter(|_| route == Route::Here) else { return self.store.propose(txn).await };
        let subject = if is_binding(&txn) { Subject::Binding } else { Subject::Control };
        if cluster.network.pass(self.master, subject, Edge::Before) {
            return std::future::pending().await;
        }
        let noted = {
            let plans = &mut cluster.chronicle.lock().plans;
            plans.push(Plan { leader, ops: txn.ops.clone(), told: Told::Nothing });
            plans.len() - 1
        };
        let outcome = match self.twin {
            Some(Twin::Unfenced) => self.store.propose(Txn { fence: None, ..txn }).await,
            _ => self.store.propose_as(leader, txn).await,
        };
        cluster.chronicle.lock().plans[noted].told = match &outcome {
            Ok(Outcome::Applied(revisions)) => Told::Applied(revisions.iter().map(|revision| revision.0).collect()),
            Ok(Outcome::Refused(_)) => Told::Void,
            // "Certainly not applied" is believed by those who propose, not here.
            Err(Error::Unavailable(_) | Error::Unknown(_)) => Told::Nothing,
        };
        cluster.network.pass(self.master, subject, Edge::After);
        outcome
    }

    async fn read_barrier(&self) -> Result<(), Error> {
        match self.twin {
            Some(Twin::StaleRead) => Ok(()),
            _ => self.store.read().await.map(drop),
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.store.leadership()
    }
}

impl Desk {
    /// What a planted fault makes of a proposal.
    fn plant(&self, txn: &mut Txn, cluster: &Cluster) {
        let Some(twin) = self.twin else { return };
        let chance = |numerator, denominator| cluster.fork_rng().chance(numerator, denominator);
        let view = self.store.view();
        for op in &mut txn.ops {
            let old = view.get(op.key()).map(|record| record.value());
            match op {
                Op::Update { key, assumed, .. } if twin == Twin::LostUpdate => {
                    *assumed = view.get(key).map_or(*assumed, |record| record.header.revision);
                }
                Op::Update { key, object, .. } if twin == Twin::Crowding && key.kind == registry::POD => {
                    let mut pod = parsed(object);
                    let binds = old.is_some_and(|old| old.text("spec.nodeName") != pod.text("spec.nodeName"));
                    let first = view.list(registry::NODE, "", None).next();
                    if let Some(first) = first.filter(|_| binds) {
                        pod.set("spec.nodeName", first.key.name.to_string());
                        *object = record::encode(&pod);
                    }
                }
                Op::Create { key, object } if twin == Twin::Doubling && key.kind == registry::REPLICA_SET => {
                    let mut set = parsed(object);
                    let twice = set.at("spec.replicas").as_i64().unwrap_or(0) * 2 + 1;
                    set.set("spec.replicas", twice);
                    // It stands by what it does.
                    set.object("metadata.annotations").insert(MAX.into(), twice.to_string().into());
                    *object = record::encode(&set);
                }
                Op::Update { key, object, .. } if key.kind == registry::POD && !unminded(twin).is_empty() => {
                    let mut pod = parsed(object);
                    let binds = old.is_some_and(|old| old.text("spec.nodeName") != pod.text("spec.nodeName"));
                    let has_rules = unminded(twin).iter().any(|rule| !pod.at(rule).is_null());
                    // Now and then: the worker turns such pods away, and others are made in their place.
                    if binds && has_rules && chance(1, 4) {
                        move_on(&mut pod, &view);
                        *object = record::encode(&pod);
                    }
                }
                Op::Update { key, object, .. } if twin == Twin::Rebinding && key.kind == registry::POD => {
                    let mut pod = parsed(object);
                    let phase = |pod: &Value| pod.text("status.phase").to_string();
                    // Once for each pod, as it is told to run.
                    let starts = old.is_some_and(|old| phase(&old) == "Pending" && phase(&pod) == "Running");
                    if starts {
                        move_on(&mut pod, &view);
                        *object = record::encode(&pod);
                    }
                }
                Op::Create { .. } | Op::Update { .. } | Op::Delete { .. } => {}
            }
        }
    }
}

/// The rules that a planted fault does not mind.
fn unminded(twin: Twin) -> &'static [&'static str] {
    match twin {
        Twin::Careless => &["spec.nodeSelector", "spec.affinity.nodeAffinity"],
        Twin::Unsociable => &["spec.affinity.podAffinity", "spec.affinity.podAntiAffinity"],
        _ => &[],
    }
}

/// Binds a pod to the node after its own.
fn move_on(pod: &mut Value, view: &View) {
    let names: Vec<&str> = view.list(registry::NODE, "", None).map(|node| node.key.name.as_str()).collect();
    let at = names.iter().position(|name| *name == pod.text("spec.nodeName"));
    if let Some(at) = at {
        pod.set("spec.nodeName", names[(at + 1) % names.len()]);
    }
}

fn parsed(object: &[u8]) -> Value {
    serde_json::from_slice(object).unwrap_or_default()
}
