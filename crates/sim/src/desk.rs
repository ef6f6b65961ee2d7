//! Where the proposals of everything beside consensus pass: plans are noted with the leader they were made
//! under, machines lose power beside them, and some planted faults are planted here.

use crate::Twin;
use crate::cluster::Cluster;
use crate::points::{Edge, Subject};
use async_trait::async_trait;
use objects::{Value, ValueExt, record, registry};
use state::{Op, Outcome, Txn};
use std::sync::Weak;
use store::{Error, Leadership, Proposer, Route, Store};
use tokio::sync::watch;

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
        self.plant(&mut txn);
        let Some(leader) = txn.fence.filter(|_| route == Route::Here) else { return self.store.propose(txn).await };
        let subject = if is_binding(&txn) { Subject::Binding } else { Subject::Control };
        if cluster.network.pass(self.master, subject, Edge::Before) {
            return std::future::pending().await;
        }
        let outcome = match self.twin {
            Some(Twin::Unfenced) => self.store.propose(Txn { fence: None, ..txn }).await,
            _ => self.store.propose_as(leader, txn).await,
        };
        if let Ok(Outcome::Applied(revisions)) = &outcome {
            let revisions = revisions.iter().map(|revision| revision.0).collect();
            cluster.chronicle.lock().plans.push((leader, revisions));
        }
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
    fn plant(&self, txn: &mut Txn) {
        let Some(twin) = self.twin else { return };
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
                    *object = record::encode(&set);
                }
                Op::Create { .. } | Op::Update { .. } | Op::Delete { .. } => {}
            }
        }
    }
}

fn parsed(object: &[u8]) -> Value {
    serde_json::from_slice(object).unwrap_or_default()
}
