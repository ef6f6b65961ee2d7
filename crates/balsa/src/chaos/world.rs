//! What all clients of a run share: the masters, who of them is harmed, the recorder, and what they have
//! had acknowledged.

use super::folder::Recorder;
use crate::config::{bare_address, host_of};
use anyhow::{Context, Result};
use chaos::Scenario;
use chaos::scenario::Through;
use client::Access;
use objects::{Value, ValueExt};
use parking_lot::Mutex;
use protos::cluster::cluster_client::ClusterClient;
use protos::{cluster as pb, objects as objects_pb};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use stdx::Rng;
use tokio::sync::Notify;
use tonic::transport::Channel;

/// Requests under way at most, of all clients: at 500 a second, eight seconds without an answer.
pub(super) const UNDER_WAY_MAX: usize = 4_096;
/// A master that does not answer about itself within this is taken for silent.
const STATUS_PATIENCE: Duration = Duration::from_millis(700);

/// Between two looks at what is missing.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Master {
    pub(super) name: String,
    pub(super) channel: Channel,
}

pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) recorder: Recorder,
    pub(super) masters: Vec<Master>,
    pub(super) workers: Vec<String>,
    /// Marks this run's objects, and makes its request ids its own.
    pub(super) nonce: String,
    pub(super) namespace: String,
    pub(super) unsent: AtomicU64,
    pub(super) reads_failed: AtomicU64,
    /// Why the last of them failed.
    pub(super) read_error: Mutex<Option<String>>,
    /// The latest beginning of a write that was acknowledged, and of a pod that was bound.
    pub(super) written: Latest,
    pub(super) bound: Latest,
    pub(super) unbound: Unbound,
    /// Sentences about members that ended by themselves.
    pub(super) ended: Mutex<Vec<String>>,
    /// Members of which a fault went wrong: what they do then may be its doing.
    unhealed: Mutex<BTreeSet<String>>,
    /// Members whose storage a fault has harmed at some time: they may end of it, also later.
    storage_harmed: Mutex<BTreeSet<String>>,
    /// Held from the look at who is whole until those are marked that a fault takes.
    pub(super) choosing: tokio::sync::Mutex<()>,
    harmed: Mutex<BTreeMap<String, usize>>,
    rng: Mutex<Rng>,
}

/// The largest of the moments told so far, in microseconds; 0 before any.
#[derive(Default)]
pub(super) struct Latest {
    at: AtomicU64,
    news: Notify,
}

impl Latest {
    pub(super) fn tell(&self, us: u64) {
        if self.at.fetch_max(us, Ordering::Relaxed) < us {
            self.news.notify_waiters();
        }
    }

    /// Waits until a moment since `us` has been told.
    pub(super) async fn since(&self, us: u64) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if self.at.load(Ordering::Relaxed) >= us {
                return;
            }
            news.await;
        }
    }
}

/// Pods that were made and not yet seen on a node, by name. Which of the two is told first is open.
#[derive(Default)]
pub(super) struct Unbound {
    names: Mutex<(BTreeSet<String>, BTreeSet<String>)>,
    news: Notify,
}

impl Unbound {
    pub(super) fn made(&self, name: &str) {
        let (waiting, bound) = &mut *self.names.lock();
        if !bound.contains(name) {
            waiting.insert(name.into());
        }
    }

    pub(super) fn bound(&self, name: &str) {
        let (waiting, bound) = &mut *self.names.lock();
        bound.insert(name.into());
        if waiting.remove(name) && waiting.is_empty() {
            self.news.notify_waiters();
        }
    }

    pub(super) fn n_waiting(&self) -> usize {
        self.names.lock().0.len()
    }

    /// Waits until no pod does.
    pub(super) async fn none(&self) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if self.n_waiting() == 0 {
                return;
            }
            news.await;
        }
    }
}

/// A connection that is made when it is needed, and found dead soon.
pub(super) fn connect(access: &Access, address: &str) -> Result<Channel> {
    let access = access.at(address);
    let endpoint = access.endpoint(&access.servers[0])?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_millis(300))
        .http2_keep_alive_interval(Duration::from_millis(500))
        .keep_alive_timeout(Duration::from_millis(700))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    Ok(endpoint.connect_lazy())
}

impl World {
    pub(super) fn new(
        scenario: Scenario,
        recorder: Recorder,
        masters: Vec<Master>,
        workers: Vec<String>,
        mut rng: Rng,
    ) -> World {
        let nonce = rng.suffix(6);
        World {
            namespace: format!("chaos-{nonce}"),
            nonce,
            scenario,
            recorder,
            masters,
            workers,
            unsent: AtomicU64::new(0),
            reads_failed: AtomicU64::new(0),
            read_error: Mutex::default(),
            written: Latest::default(),
            bound: Latest::default(),
            unbound: Unbound::default(),
            ended: Mutex::default(),
            unhealed: Mutex::default(),
            storage_harmed: Mutex::default(),
            choosing: tokio::sync::Mutex::default(),
            harmed: Mutex::default(),
            rng: Mutex::new(rng),
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.masters.iter().map(|master| master.name.clone()).collect()
    }

    pub(super) fn below(&self, n: u64) -> u64 {
        self.rng.lock().below(n)
    }

    pub(super) fn mark(&self, names: &[String], harmed: bool) {
        let mut all = self.harmed.lock();
        for name in names {
            let n = all.entry(name.clone()).or_default();
            *n = if harmed { *n + 1 } else { n.saturating_sub(1) };
        }
        all.retain(|_, n| *n > 0);
    }

    pub(super) fn is_harmed(&self, name: &str) -> bool {
        self.harmed.lock().contains_key(name)
    }

    /// A fault of these members went wrong.
    pub(super) fn went_wrong(&self, names: &[String]) {
        self.unhealed.lock().extend(names.iter().cloned());
    }

    pub(super) fn read_failed(&self, why: String) {
        self.reads_failed.fetch_add(1, Ordering::Relaxed);
        *self.read_error.lock() = Some(why);
    }

    pub(super) fn storage_is_harmed(&self, names: &[String]) {
        self.storage_harmed.lock().extend(names.iter().cloned());
    }

    pub(super) fn may_end_of_storage(&self, name: &str) -> bool {
        self.storage_harmed.lock().contains(name)
    }

    /// Takes down that a member ended though nothing that ends one had harmed it.
    pub(super) fn ended_by_itself(&self, name: &str, last_words: &str) {
        if !self.unhealed.lock().contains(name) {
            self.ended.lock().push(format!("{name} ended by itself: {last_words}"));
        }
    }

    /// Every member that is harmed by nothing.
    pub(super) fn whole(&self) -> Vec<String> {
        let everyone = [self.names(), self.workers.clone()].concat();
        everyone.into_iter().filter(|name| !self.is_harmed(name)).collect()
    }

    /// How many masters are harmed by nothing.
    pub(super) fn n_whole(&self) -> usize {
        self.masters.iter().filter(|master| !self.is_harmed(&master.name)).count()
    }

    /// A master for a client to ask.
    pub(super) fn any_master(&self) -> &Master {
        let whole: Vec<&Master> = self.masters.iter().filter(|master| !self.is_harmed(&master.name)).collect();
        let from = match (self.scenario.workload.through, whole.is_empty()) {
            (Through::Surviving, false) => whole,
            (Through::Any, _) | (_, true) => self.masters.iter().collect(),
        };
        from[self.below(from.len() as u64) as usize]
    }

    pub(super) fn key(&self, group: &str, resource: &str, name: &str) -> objects_pb::Key {
        objects_pb::Key {
            group: group.into(),
            version: String::new(),
            resource: resource.into(),
            namespace: self.namespace.clone(),
            name: name.into(),
        }
    }

    /// What every master says of itself and the group; `None` of one that says nothing.
    pub(super) async fn statuses(&self) -> Vec<Option<pb::StatusResponse>> {
        let ask = |master: &Master| {
            let mut client = ClusterClient::new(master.channel.clone());
            async move {
                let asked = client.status(pb::StatusRequest {});
                tokio::time::timeout(STATUS_PATIENCE, asked).await.ok()?.ok().map(tonic::Response::into_inner)
            }
        };
        futures::future::join_all(self.masters.iter().map(ask)).await
    }

    /// The newest term that anybody tells of.
    pub(super) async fn term(&self) -> Option<u64> {
        self.statuses().await.into_iter().flatten().map(|status| status.term).max()
    }

    /// The leader of the newest term that anybody tells of.
    pub(super) async fn leader(&self) -> Option<String> {
        let told = self.statuses().await.into_iter().flatten().filter(|status| !status.leader.is_empty());
        told.max_by_key(|status| status.term).map(|status| status.leader)
    }

    /// Waits until nothing is missing to a whole cluster; what still was when the patience was over.
    pub(super) async fn until_whole(&self, patience: Duration) -> Result<(), String> {
        let mut told = String::new();
        let whole = async {
            while let Some(missing) = self.missing().await {
                if told != missing {
                    tracing::debug!(missing, "not whole yet");
                }
                told = missing;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let waited = tokio::time::timeout(patience, whole).await;
        waited.map_err(|_| told)
    }

    /// What is missing to a whole cluster: every master answers, all name one leader, and nobody lags.
    pub(super) async fn missing(&self) -> Option<String> {
        /// Entries a follower may be behind under load.
        const LAG_MAX: u64 = 200;
        let statuses = self.statuses().await;
        let silent = self.masters.iter().zip(&statuses).find(|(_, status)| status.is_none());
        if let Some((master, _)) = silent {
            return Some(format!("{} does not answer", master.name));
        }
        let told: Vec<pb::StatusResponse> = statuses.into_iter().flatten().collect();
        let first = &told[0].leader;
        if first.is_empty() || told.iter().any(|status| status.leader != *first) {
            let leaders: Vec<String> =
                told.iter().map(|status| format!("{:?} by {}", status.leader, status.answered_by)).collect();
            return Some(format!("the leader is told to be {}", leaders.join(", ")));
        }
        let Some(leading) = told.iter().find(|status| status.answered_by == *first) else {
            return Some(format!("{first} leads and does not say so"));
        };
        let votes = |name: &str| leading.members.iter().any(|member| member.name == name && member.voter);
        if let Some(master) = self.masters.iter().find(|master| !votes(&master.name)) {
            return Some(format!("{} does not vote", master.name));
        }
        let late = leading.members.iter().find(|member| member.lag.is_none_or(|lag| lag > LAG_MAX) && !member.leader);
        late.map(|member| format!("{} is behind the leader", member.name))
    }
}

/// The run's members, as the cluster knows them: each with its address, of a master host:port.
pub(super) struct Members {
    /// Every voter.
    pub(super) masters: BTreeMap<String, String>,
    pub(super) workers: BTreeMap<String, String>,
}

pub(super) fn members(access: &Access) -> Result<Members> {
    let status = crate::verbs::cluster_status(access).context("the cluster does not answer")?;
    let masters = status.members.into_iter().filter(|member| member.voter).map(|m| (m.name, m.api_addr));
    let workers = crate::verbs::nodes(access)?.into_iter().map(|(name, node)| {
        let address = address(&node, &name);
        (name, address)
    });
    let members = Members { masters: masters.collect(), workers: workers.collect() };
    for (name, address) in &members.masters {
        is_address(name, host_of(address))?;
    }
    for (name, address) in &members.workers {
        is_address(name, address)?;
    }
    Ok(members)
}

/// They stand in an operator's commands, and what a member says of itself may be anything: also a command.
fn is_address(name: &str, address: &str) -> Result<()> {
    bare_address(name, address)
        .map(drop)
        .context("the cluster tells an address that is none, and no command is run with it")
}

/// Where a Node is reached: its own address, or what it calls itself.
fn address(node: &Value, name: &str) -> String {
    let told = node.items("status.addresses");
    let of = |kind: &str| told.iter().find(|address| address.text("type") == kind).map(|found| found.text("address"));
    of("InternalIP").or_else(|| of("Hostname")).unwrap_or(name).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use objects::json;

    #[test]
    fn a_worker_is_reached_at_its_own_address_or_by_its_name() {
        let ip = json!({"type": "InternalIP", "address": "10.0.0.7"});
        let host = json!({"type": "Hostname", "address": "w1.example"});
        let of = |addresses: Value| address(&json!({"status": {"addresses": addresses}}), "w1");
        assert_eq!(of(json!([host, ip])), "10.0.0.7");
        assert_eq!(of(json!([host])), "w1.example");
        assert_eq!(of(json!([])), "w1");
        assert_eq!(address(&json!({}), "w1"), "w1");
    }
}
