//! The pod networks of all nodes, as workers are told of them: kept once for all sessions of a master, and read anew of
//! those nodes only that changed.

use crate::addresses;
use objects::{Key, Record, Revision, Value, ValueExt, registry};
use protos::dispatch as pb;
use state::View;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub(crate) struct Networks {
    /// Those that all pods of the cluster are in.
    cluster: Vec<String>,
    nodes: BTreeMap<String, Network>,
}

#[derive(Clone, Debug, PartialEq)]
struct Network {
    address: String,
    cidrs: Vec<String>,
}

impl Networks {
    /// What the worker of `own` is told; `None` while there is no such node.
    pub(crate) fn told_to(&self, own: &str) -> Option<pb::Peers> {
        let own_pod_cidrs = self.nodes.get(own)?.cidrs.clone();
        let peer = |(node, network): (&String, &Network)| pb::Peer {
            node: node.clone(),
            address: network.address.clone(),
            pod_cidrs: network.cidrs.clone(),
        };
        let peers = self.nodes.iter().filter(|(node, _)| *node != own).map(peer).collect();
        Some(pb::Peers { cluster_pod_cidrs: self.cluster.clone(), own_pod_cidrs, peers })
    }
}

/// The newest networks that any session of a master has looked at.
#[derive(Default)]
pub(crate) struct Newest {
    /// Another `Arc` after each change, while anybody holds the one before.
    networks: Arc<Networks>,
    /// Of the ConfigMap that tells the cluster's.
    cluster_revision: Option<Revision>,
    as_of: Option<Revision>,
}

impl Newest {
    /// The networks of `view`, or newer ones: sessions look one after the other.
    pub(crate) fn as_of(&mut self, view: &View) -> Arc<Networks> {
        if self.as_of.is_none_or(|as_of| as_of < view.revision()) {
            self.renew(view);
            self.as_of = Some(view.revision());
        }
        self.networks.clone()
    }

    fn renew(&mut self, view: &View) {
        let cluster_revision = view.get(&addresses::map_key()).map(|record| record.header.revision);
        if cluster_revision != self.cluster_revision {
            self.cluster_revision = cluster_revision;
            let cluster = addresses::cluster_cidrs(view);
            if cluster != self.networks.cluster {
                Arc::make_mut(&mut self.networks).cluster = cluster;
            }
        }
        let changed: BTreeSet<String> = match self.as_of.map(|as_of| view.events_after(registry::NODE, as_of)) {
            Some(Ok(events)) => events.iter().map(|event| event.key.name.to_string()).collect(),
            // What the history has dropped may be of any node.
            Some(Err(_)) | None => {
                let now = view.list(registry::NODE, "", None).map(|record| record.key.name.to_string());
                now.chain(self.networks.nodes.keys().cloned()).collect()
            }
        };
        for name in changed {
            let now = view.get(&Key::new(registry::NODE, "", &name)).map(|record| network(record));
            if now.as_ref() != self.networks.nodes.get(&name) {
                let nodes = &mut Arc::make_mut(&mut self.networks).nodes;
                match now {
                    Some(now) => drop(nodes.insert(name, now)),
                    None => drop(nodes.remove(&name)),
                }
            }
        }
    }
}

fn network(record: &Record) -> Network {
    let node = record.value();
    let addresses = node.items("status.addresses");
    let internal = addresses.iter().find(|address| address.text("type") == "InternalIP");
    Network {
        address: internal.map_or("", |address| address.text("address")).into(),
        cidrs: node.items("spec.podCIDRs").iter().filter_map(Value::as_str).map(ToString::to_string).collect(),
    }
}
