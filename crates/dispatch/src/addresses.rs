//! Which piece of the cluster's pod network each node has.
//!
//! One ConfigMap, `kube-system/balsa-network`, says what the whole is and who has which piece; a node
//! gets its piece in the transaction that writes it down there, so that no two ever have the same.

use front::Front;
use objects::{Key, Status, Value, ValueExt, registry};
use state::{Op, Outcome, Txn, View};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub const NAMESPACE: &str = "kube-system";
pub const NAME: &str = "balsa-network";
/// The networks of all pods, separated by commas.
pub const CLUSTER_CIDRS: &str = "podCIDRs";
/// `node.NAME`: the pieces of a node.
const NODE_PREFIX: &str = "node.";
/// A node's piece: 254 addresses, more than twice the pods a node runs by default.
const NODE_BITS_V4: u8 = 24;
const NODE_BITS_V6: u8 = 64;
/// Two nodes that come at once race for the same piece; each race is won by one.
const RACES_MAX: usize = 100;

/// A network: its first address as a number, its prefix length, and its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cidr {
    first: u128,
    bits: u8,
    v6: bool,
}

impl Cidr {
    fn parse(text: &str) -> Option<Cidr> {
        let (address, bits) = text.trim().split_once('/')?;
        let bits: u8 = bits.parse().ok()?;
        let (first, v6) = match address.parse().ok()? {
            IpAddr::V4(address) => (u128::from(address.to_bits()), false),
            IpAddr::V6(address) => (address.to_bits(), true),
        };
        let width = if v6 { 128 } else { 32 };
        let host_bits = width - u32::from(bits.min(width as u8));
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        (u32::from(bits) <= width && bits > 0).then_some(Cidr { first: first & mask, bits, v6 })
    }

    fn text(self) -> String {
        let address = match self.v6 {
            true => IpAddr::V6(self.first.into()),
            false => IpAddr::V4((self.first as u32).into()),
        };
        format!("{address}/{}", self.bits)
    }

    /// Its pieces for nodes, in order.
    fn pieces(self) -> impl Iterator<Item = Cidr> {
        let (width, wanted) = if self.v6 { (128, NODE_BITS_V6) } else { (32, NODE_BITS_V4) };
        // A network no larger than one piece is one piece.
        let bits = wanted.max(self.bits);
        let size = 1_u128 << (width - u32::from(bits));
        let n = 1_u128 << u32::from(bits - self.bits).min(64);
        (0..n).map(move |i| Cidr { first: self.first + i * size, bits, v6: self.v6 })
    }
}

/// Whether a text names networks, separated by commas.
pub fn are_networks(text: &str) -> bool {
    !text.is_empty() && text.split(',').all(|part| Cidr::parse(part).is_some())
}

/// The pieces for `node`: those it has, else one of each network that nobody has, else one whose node
/// is gone. An error names the network that is used up.
fn choose(
    networks: &[Cidr],
    given: &BTreeMap<String, Vec<String>>,
    exists: impl Fn(&str) -> bool,
    node: &str,
) -> Result<Vec<String>, String> {
    if let Some(own) = given.get(node) {
        return Ok(own.clone());
    }
    let of = |live_only: bool| -> BTreeSet<&String> {
        let nodes = given.iter().filter(|(name, _)| !live_only || exists(name));
        nodes.flat_map(|(_, pieces)| pieces).collect()
    };
    let (all, live) = (of(false), of(true));
    let pick = |network: &Cidr| {
        let free = |taken: &BTreeSet<&String>| network.pieces().map(Cidr::text).find(|piece| !taken.contains(piece));
        let full = || format!("every piece of the pod network {} is given to a node", network.text());
        free(&all).or_else(|| free(&live)).ok_or_else(full)
    };
    networks.iter().map(pick).collect()
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_string()).filter(|part| !part.is_empty()).collect()
}

pub(crate) fn map_key() -> Key {
    Key::new(registry::CONFIG_MAP, NAMESPACE, NAME)
}

/// The networks of all pods, as stored.
pub(crate) fn cluster_cidrs(view: &View) -> Vec<String> {
    let record = view.get(&map_key());
    record.map(|record| split(record.value().at("data").text(CLUSTER_CIDRS))).unwrap_or_default()
}

/// Gives the node its piece of the pod network, unless it has one.
pub(crate) async fn ensure(front: &Front, name: &str) -> Result<(), Status> {
    let unavailable = |error: store::Error| Status::unavailable(error.to_string());
    let (node_key, map_key) = (Key::new(registry::NODE, "", name), map_key());
    let mut view = front.store.view();
    for _ in 0..RACES_MAX {
        let (Some(node), Some(map)) = (view.get(&node_key), view.get(&map_key)) else {
            // The cluster is being set up, or this master lags: the truth decides.
            view = front.store.read().await.map_err(unavailable)?;
            if view.get(&node_key).is_none() || view.get(&map_key).is_none() {
                return Err(Status::unavailable("the cluster's pod network is not set up yet"));
            }
            continue;
        };
        let mut changed = node.value();
        if !changed.items("spec.podCIDRs").is_empty() {
            return Ok(());
        }
        let mut stored = map.value();
        let data = stored.at("data").as_object().cloned().unwrap_or_default();
        let given = data.iter().filter_map(|(key, value)| {
            Some((key.strip_prefix(NODE_PREFIX)?.to_string(), split(value.as_str().unwrap_or(""))))
        });
        let networks: Vec<Cidr> = cluster_cidrs(&view).iter().filter_map(|text| Cidr::parse(text)).collect();
        let exists = |name: &str| view.get(&Key::new(registry::NODE, "", name)).is_some();
        let pieces = choose(&networks, &given.collect(), exists, name).map_err(Status::unavailable)?;
        // A piece taken over from a node that is gone is no longer that node's.
        for (key, value) in &data {
            if key.starts_with(NODE_PREFIX)
                && split(value.as_str().unwrap_or("")).iter().any(|piece| pieces.contains(piece))
            {
                stored.object("data").remove(key);
            }
        }
        stored.object("data").insert(format!("{NODE_PREFIX}{name}"), pieces.join(",").into());
        changed.set("spec.podCIDR", pieces.first().cloned().unwrap_or_default());
        changed.set("spec.podCIDRs", Value::from(pieces));
        let ops: Vec<Op> = [api::change(node, changed), api::change(map, stored)].into_iter().flatten().collect();
        drop(view);
        match front.store.propose(Txn { ops, ..Txn::default() }).await.map_err(unavailable)? {
            Outcome::Applied(_) => return Ok(()),
            Outcome::Refused(_) => view = front.store.read().await.map_err(unavailable)?,
        }
    }
    Err(Status::unavailable(format!("the pod network changes too fast to give node {name} a piece")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(networks: &[&str], given: &[(&str, &str)], node: &str) -> String {
        let networks: Vec<Cidr> = networks.iter().map(|text| Cidr::parse(text).unwrap()).collect();
        let given = given.iter().map(|(name, pieces)| (name.to_string(), split(pieces))).collect();
        match choose(&networks, &given, |name| !name.starts_with("gone"), node) {
            Ok(pieces) => pieces.join(" "),
            Err(why) => why,
        }
    }

    #[test]
    fn every_node_has_its_own_piece() {
        let net = ["10.244.0.0/16"];
        assert_eq!(chosen(&net, &[], "a"), "10.244.0.0/24");
        assert_eq!(chosen(&net, &[("a", "10.244.0.0/24")], "b"), "10.244.1.0/24");
        assert_eq!(chosen(&net, &[("a", "10.244.5.0/24")], "a"), "10.244.5.0/24", "it keeps what it had");
        assert_eq!(chosen(&net, &[("gone", "10.244.0.0/24")], "b"), "10.244.1.0/24", "fresh pieces first");
    }

    #[test]
    fn pieces_of_nodes_that_are_gone_are_given_again_at_last() {
        let net = ["10.0.0.0/23"];
        assert_eq!(chosen(&net, &[("a", "10.0.0.0/24"), ("gone", "10.0.1.0/24")], "b"), "10.0.1.0/24");
        let full = chosen(&net, &[("a", "10.0.0.0/24"), ("c", "10.0.1.0/24")], "b");
        assert_eq!(full, "every piece of the pod network 10.0.0.0/23 is given to a node");
    }

    #[test]
    fn both_families_are_given() {
        assert_eq!(chosen(&["10.9.0.0/16", "fd00:9::/48"], &[], "a"), "10.9.0.0/24 fd00:9::/64");
        assert_eq!(chosen(&["10.9.1.128/25"], &[], "a"), "10.9.1.128/25", "a small network is one piece");
        assert!(are_networks("10.0.0.0/8,fd00::/48") && !are_networks("10.0.0.0") && !are_networks("10.0.0.0/40"));
    }
}
