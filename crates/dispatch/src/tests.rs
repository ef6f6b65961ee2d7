//! What a worker is told as the cluster changes, and the streams it opens.

use crate::assigned::Assigned;
use crate::networks::{Networks, Newest};
use crate::*;
use objects::{Key, Value, ValueExt, json, registry};
use state::{LeaderId, Op, Outcome, State, Txn};

/// The state, and how many objects there have been.
#[derive(Default)]
struct Cluster(State, usize);

impl Cluster {
    fn view(&self) -> View {
        View::new(self.0.clone())
    }

    fn apply(&mut self, ops: Vec<Op>) {
        let outcome = self.0.apply(LeaderId { term: 1, node: 1 }, &Txn { ops, ..Txn::default() }).outcome;
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    fn op(&mut self, key: Key, mut value: Value) -> Op {
        let old = self.view().get(&key).map(|old| (old.header.uid.to_string(), old.header.revision));
        let uid = old.as_ref().map_or_else(|| format!("{}#{}", key.name, self.1), |(uid, _)| uid.clone());
        self.1 += 1;
        value.set("metadata.namespace", &*key.namespace);
        value.set("metadata.name", &*key.name);
        value.set("metadata.uid", uid);
        let object = objects::record::encode(&value);
        match old {
            Some((_, assumed)) => Op::Update { key, assumed, object },
            None => Op::Create { key, object },
        }
    }

    fn put(&mut self, key: Key, value: Value) {
        let op = self.op(key, value);
        self.apply(vec![op]);
    }

    fn delete(&mut self, key: Key) {
        let assumed = self.view().get(&key).unwrap().header.revision;
        self.apply(vec![Op::Delete { key, assumed }]);
    }

    fn pod(&mut self, name: &str, node: &str) {
        self.put(pod(name), json!({"spec": {"nodeName": node}}));
    }

    fn object(&mut self, kind: objects::KindId, name: &str) {
        self.put(Key::new(kind, "default", name), json!({}));
    }

    fn node(&mut self, name: &str, address: &str, cidr: &str) {
        let addresses = json!([{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]);
        self.put(node(name), json!({"spec": {"podCIDRs": [cidr]}, "status": {"addresses": addresses}}));
    }

    /// What a master has that was sent a snapshot: its history begins there.
    fn be_sent(&mut self) {
        self.0 = state::snapshot::decode(&state::snapshot::encode(&self.0), u32::MAX).unwrap();
    }
}

fn pod(name: &str) -> Key {
    Key::new(registry::POD, "default", name)
}

fn node(name: &str) -> Key {
    Key::new(registry::NODE, "", name)
}

/// `+NAME OBJECTS` of each pod that is sent and the objects with it, `-UID` of each that is taken away.
fn due(assigned: &mut Assigned, cluster: &Cluster) -> String {
    let due = assigned.due(&cluster.view());
    let name = |object: &bytes::Bytes| -> String {
        serde_json::from_slice::<Value>(object).unwrap().text("metadata.name").into()
    };
    let sent = due.changed.iter().map(|assignment| {
        let objects: String = assignment.objects.iter().map(|object| format!(" {}", name(object))).collect();
        format!("+{}{objects}", name(&assignment.pod))
    });
    let removed = due.removed.iter().map(|uid| format!("-{uid}"));
    sent.chain(removed).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_worker_is_sent_its_pods_when_they_come_and_go() {
    let mut cluster = Cluster::default();
    cluster.pod("a", "w1");
    cluster.pod("b", "w2");
    let mut assigned = Assigned::new("w1");
    assert_eq!(due(&mut assigned, &cluster), "+a", "what was there before");
    assert_eq!(due(&mut assigned, &cluster), "", "once");
    cluster.put(pod("b"), json!({"spec": {"nodeName": "w2", "hostNetwork": true}}));
    assert_eq!(due(&mut assigned, &cluster), "", "another's");
    cluster.pod("c", "");
    assert_eq!(due(&mut assigned, &cluster), "");
    cluster.pod("c", "w1");
    assert_eq!(due(&mut assigned, &cluster), "+c", "bound now");
    cluster.delete(pod("a"));
    assert_eq!(due(&mut assigned, &cluster), "-a#0");
    cluster.pod("c", "w2");
    assert_eq!(due(&mut assigned, &cluster), "-c#3", "it has gone elsewhere");
    cluster.pod("c", "w1");
    cluster.pod("c", "w2");
    assert_eq!(due(&mut assigned, &cluster), "", "there and away again between two looks");
    cluster.pod("a", "w1");
    assert_eq!(due(&mut assigned, &cluster), "+a");
    cluster.delete(pod("a"));
    cluster.pod("a", "w1");
    assert_eq!(due(&mut assigned, &cluster), "+a, -a#8", "another of the same name");
    let ops = ["d", "e"].map(|name| cluster.op(pod(name), json!({"spec": {"nodeName": "w1"}})));
    cluster.apply(ops.into());
    assert_eq!(due(&mut assigned, &cluster), "+d, +e", "of one transaction");
}

#[test]
fn a_pod_is_sent_again_for_what_its_worker_depends_on() {
    let mut cluster = Cluster::default();
    let mut object = json!({"spec": {"nodeName": "w1"}});
    let mut assigned = Assigned::new("w1");
    let mut change = |path: &str, value: Value| {
        object.set(path, value);
        cluster.put(pod("a"), object.clone());
        due(&mut assigned, &cluster)
    };
    assert_eq!(change("status.phase", json!("Pending")), "+a");
    assert_eq!(change("status.phase", json!("Running")), "", "its status is the worker's own");
    assert_eq!(
        change("metadata.annotations", json!({intake::OBSERVATION: "boot/1"})),
        "",
        "and so is the report's number"
    );
    assert_eq!(change("metadata.annotations", json!({intake::OBSERVATION: "boot/2", "x": "y"})), "+a");
    assert_eq!(change("metadata.labels", json!({"x": "y"})), "+a");
    assert_eq!(change("metadata.finalizers", json!(["example.com/x"])), "");
    assert_eq!(change("spec.activeDeadlineSeconds", json!(5)), "+a");
    assert_eq!(change("metadata.deletionTimestamp", json!("2026-01-01T00:00:00Z")), "+a");
    assert_eq!(change("metadata.deletionGracePeriodSeconds", json!(1)), "+a", "sooner");
}

#[test]
fn a_pod_is_sent_again_when_what_it_refers_to_comes_changes_or_goes() {
    let mut cluster = Cluster::default();
    let spec = json!({
        "nodeName": "w1",
        "initContainers": [{"envFrom": [{"configMapRef": {"name": "of-init"}}]}],
        "containers": [{
            "env": [{"valueFrom": {"secretKeyRef": {"name": "of-env"}}}],
            "envFrom": [{"secretRef": {"name": "of-env-from"}}],
        }],
        "volumes": [
            {"configMap": {"name": "of-volume"}},
            {"secret": {"secretName": "of-secret"}},
            {"projected": {"sources": [{"secret": {"name": "projected"}}]}},
        ],
    });
    cluster.put(pod("a"), json!({"spec": spec.clone()}));
    cluster.pod("b", "w1");
    let mut assigned = Assigned::new("w1");
    assert_eq!(due(&mut assigned, &cluster), "+a, +b");
    let (map, secret) = (registry::CONFIG_MAP, registry::SECRET);
    for (kind, name, told) in [
        (map, "other", ""),
        (secret, "of-volume", ""),
        (map, "of-volume", "+a of-volume"),
        (map, "of-volume", "+a of-volume"),
        (map, "of-init", "+a of-init of-volume"),
        (secret, "of-env", "+a of-init of-volume of-env"),
    ] {
        cluster.object(kind, name);
        assert_eq!(due(&mut assigned, &cluster), told, "{name}");
    }
    ["of-env-from", "of-secret", "projected"].into_iter().for_each(|name| cluster.object(secret, name));
    assert_eq!(due(&mut assigned, &cluster), "+a of-init of-volume of-env of-env-from of-secret projected");
    cluster.delete(Key::new(map, "default", "of-volume"));
    assert_eq!(due(&mut assigned, &cluster), "+a of-init of-env of-env-from of-secret projected");
    cluster.delete(pod("a"));
    assert_eq!(due(&mut assigned, &cluster), "-a#0");
    cluster.object(map, "of-init");
    assert_eq!(due(&mut assigned, &cluster), "", "nobody refers to it any more");
}

/// What a worker is told that has been told of `before`.
fn told(newest: &mut Newest, cluster: &Cluster, own: &str, before: &mut Option<Arc<Networks>>) -> String {
    let now = newest.as_of(&cluster.view());
    if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &now)) {
        return "no news".into();
    }
    *before = Some(now.clone());
    let Some(news) = now.told_to(own) else { return "it is not there".into() };
    let peers = news.peers.iter().map(|peer| format!("{} {} {}", peer.node, peer.address, peer.pod_cidrs.join(",")));
    let own = news.own_pod_cidrs.iter().map(|cidr| format!("own {cidr}"));
    let all = news.cluster_pod_cidrs.iter().map(|cidr| format!("all {cidr}"));
    peers.chain(own).chain(all).collect::<Vec<_>>().join("; ")
}

#[test]
fn workers_are_told_of_networks_when_they_change() {
    let mut cluster = Cluster::default();
    let mut newest = Newest::default();
    let (mut first, mut second) = (None, None);
    cluster.node("w1", "::1", "10.1.1.0/24");
    assert_eq!(told(&mut newest, &cluster, "w1", &mut first), "own 10.1.1.0/24");
    assert_eq!(told(&mut newest, &cluster, "w1", &mut first), "no news");
    cluster.node("w2", "::2", "10.1.2.0/24");
    assert_eq!(told(&mut newest, &cluster, "w1", &mut first), "w2 ::2 10.1.2.0/24; own 10.1.1.0/24");
    assert_eq!(told(&mut newest, &cluster, "w2", &mut second), "w1 ::1 10.1.1.0/24; own 10.1.2.0/24", "each by itself");
    cluster.pod("a", "w1");
    cluster.node("w2", "::2", "10.1.2.0/24");
    assert_eq!(told(&mut newest, &cluster, "w1", &mut first), "no news", "a report of w2");
    cluster.node("w2", "::9", "10.1.2.0/24");
    cluster.node("w2", "::2", "10.1.2.0/24");
    assert_eq!(told(&mut newest, &cluster, "w1", &mut first), "no news", "there and back between two looks");
    let map = |data: Value| (addresses::map_key(), json!({"data": data}));
    let (key, data) = map(json!({"podCIDRs": "10.1.0.0/16"}));
    cluster.put(key.clone(), data);
    assert_eq!(told(&mut newest, &cluster, "w1", &mut first), "w2 ::2 10.1.2.0/24; own 10.1.1.0/24; all 10.1.0.0/16");
    let (_, data) = map(json!({"podCIDRs": "10.1.0.0/16", "node.w1": "10.1.1.0/24"}));
    cluster.put(key.clone(), data);
    assert_eq!(told(&mut newest, &cluster, "w1", &mut first), "no news");
    cluster.delete(key);
    cluster.delete(node("w2"));
    let before = cluster.view();
    assert_eq!(told(&mut newest, &cluster, "w1", &mut first), "own 10.1.1.0/24");
    assert_eq!(told(&mut newest, &cluster, "w2", &mut second), "it is not there");
    cluster.node("w3", "::3", "10.1.3.0/24");
    assert_eq!(told(&mut newest, &cluster, "w3", &mut second), "w1 ::1 10.1.1.0/24; own 10.1.3.0/24");
    let now = newest.as_of(&before);
    assert!(Arc::ptr_eq(&now, second.as_ref().unwrap()), "one that looks with an older view gets the newer networks");
}

#[test]
fn a_change_is_found_when_the_history_does_not_reach_back() {
    let mut cluster = Cluster::default();
    cluster.pod("a", "w1");
    cluster.pod("b", "w1");
    ["w1", "w2", "w3"].iter().for_each(|name| cluster.node(name, &format!("::{}", &name[1..]), "10.1.0.0/24"));
    let (mut assigned, mut newest, mut before) = (Assigned::new("w1"), Newest::default(), None);
    assert_eq!(due(&mut assigned, &cluster), "+a, +b");
    assert_eq!(
        told(&mut newest, &cluster, "w1", &mut before),
        "w2 ::2 10.1.0.0/24; w3 ::3 10.1.0.0/24; own 10.1.0.0/24"
    );
    cluster.delete(pod("a"));
    cluster.pod("c", "w1");
    cluster.delete(node("w2"));
    cluster.node("w4", "::4", "10.1.4.0/24");
    cluster.be_sent();
    assert_eq!(due(&mut assigned, &cluster), "+c, -a#0");
    let now = "w3 ::3 10.1.0.0/24; w4 ::4 10.1.4.0/24; own 10.1.0.0/24";
    assert_eq!(told(&mut newest, &cluster, "w1", &mut before), now);
    cluster.pod("d", "w2");
    cluster.be_sent();
    assert_eq!(due(&mut assigned, &cluster), "");
    assert_eq!(told(&mut newest, &cluster, "w1", &mut before), "no news");
}

#[tokio::test]
async fn a_stream_is_opened_by_the_worker_that_was_asked() {
    let hub = Hub::new(Arc::default());
    let (down, mut asked) = mpsc::channel(DOWN_MAX);
    hub.register("w1", down);
    let opening = tokio::spawn({
        let hub = hub.clone();
        async move { hub.open_here("w1", pb::OpenStream::default()).await }
    });
    let message = asked.recv().await.unwrap().unwrap().message;
    let Some(to_worker::Message::OpenStream(open)) = message else { panic!("{message:?}") };
    assert!(hub.opened("w2", &open.id).is_none(), "another worker was asked");
    let (mut from_client, _to_client) = hub.opened("w1", &open.id).unwrap();
    let stream = opening.await.unwrap().unwrap().unwrap();
    let frame = Frame { channel: 1, data: "x".into() };
    stream.to_worker.send(frame.clone()).await.unwrap();
    assert_eq!(from_client.recv().await, Some(frame));
    assert!(hub.opened("w1", &open.id).is_none(), "it is opened once");
}
