//! Where everything of a development cluster is: names, addresses, ports, all derived from its folder.
//!
//! Pure. As root, every member is a host of its own in a network namespace; otherwise members share
//! the loopback interface and differ by port.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    Namespaces,
    Loopback,
}

/// The plan of one cluster; kept in its folder, as what it was made with is what it stays with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Topology {
    pub(crate) mode: Mode,
    /// Tells this cluster's namespaces and links from those of others on the machine.
    pub(crate) tag: String,
    /// Which of the machine's slots for clusters this one has: its subnets or its ports.
    pub(crate) slot: u16,
    pub(crate) runtime: String,
    /// The masters' timing profile.
    #[serde(default = "lan")]
    pub(crate) profile: String,
}

fn lan() -> String {
    "lan".into()
}

/// Subnets 10.128.SLOT.0/24 for hosts, and a /18 of 10.160.0.0 to 10.223.255.255 for pods.
const SLOTS_OF_SUBNETS: u16 = 256;
/// Ports of a cluster on loopback: the balancer's, then two for each of up to nine masters. All below
/// 32,768, where ephemeral ports begin: a client that tries such a port before its server listens can
/// be given that very port, and connect to itself.
const PORTS_PER_CLUSTER: u16 = 20;
const SLOTS_OF_PORTS: u16 = 600;
const PORT_BASE: u16 = 20_000;
/// Masters in namespaces: the ports that users know from Kubernetes.
const API_PORT: u16 = 6443;
const PEER_PORT: u16 = 6444;
/// Hosts 11 to 19 of the subnet are masters, 21 to 220 workers.
pub(crate) const MASTERS_MAX: usize = 9;
pub(crate) const WORKERS_MAX: usize = 64;

fn n_slots(mode: Mode) -> u16 {
    match mode {
        Mode::Namespaces => SLOTS_OF_SUBNETS,
        Mode::Loopback => SLOTS_OF_PORTS,
    }
}

impl Topology {
    /// The first choice for the cluster in `dir`; another slot is tried when this one is taken.
    pub(crate) fn of(dir: &Path, mode: Mode, runtime: &str) -> Topology {
        let digest = Sha256::digest(dir.to_string_lossy().as_bytes());
        let slot = u16::from_be_bytes([digest[0], digest[1]]) % n_slots(mode);
        let tag = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        Topology { mode, tag, slot, runtime: runtime.into(), profile: lan() }
    }

    /// The same plan in the first slot from this one on that is not taken; `None` when all are.
    pub(crate) fn in_free_slot(self, is_taken: impl Fn(&Topology) -> Result<bool>) -> Result<Option<Topology>> {
        let n_slots = n_slots(self.mode);
        for further in 0..n_slots {
            let topology = Topology { slot: (self.slot + further) % n_slots, ..self.clone() };
            if !is_taken(&topology)? {
                return Ok(Some(topology));
            }
        }
        Ok(None)
    }

    fn host(&self, number: usize) -> String {
        format!("10.128.{}.{number}", self.slot)
    }

    /// This machine's own address on the cluster's link.
    pub(crate) fn machine(&self) -> String {
        self.host(254)
    }

    /// Of a cluster in namespaces: those have one of fewer than 256 slots.
    pub(crate) fn vip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 128, self.slot as u8, 250)
    }

    /// `master-3` is 3.
    pub(crate) fn number(name: &str) -> usize {
        name.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn address(&self, name: &str) -> String {
        let number = Topology::number(name);
        match self.mode {
            Mode::Loopback => "127.0.0.1".into(),
            Mode::Namespaces if name.starts_with("master-") => self.host(10 + number),
            Mode::Namespaces => self.host(20 + number),
        }
    }

    fn port_base(&self) -> u16 {
        PORT_BASE + self.slot * PORTS_PER_CLUSTER
    }

    /// Every port of loopback that the cluster may come to use.
    pub(crate) fn all_ports(&self) -> std::ops::Range<u16> {
        self.port_base()..self.port_base() + PORTS_PER_CLUSTER
    }

    /// A master's ports: the API's and the peers'.
    pub(crate) fn ports(&self, name: &str) -> (u16, u16) {
        match self.mode {
            Mode::Namespaces => (API_PORT, PEER_PORT),
            Mode::Loopback => {
                let api = self.port_base() + 2 * u16::try_from(Topology::number(name)).unwrap_or(0) - 1;
                (api, api + 1)
            }
        }
    }

    /// host:port of a master's API.
    pub(crate) fn api(&self, name: &str) -> String {
        format!("{}:{}", self.address(name), self.ports(name).0)
    }

    /// host:port that outlives any master.
    pub(crate) fn common(&self) -> String {
        let port = self.common_port();
        match self.mode {
            Mode::Namespaces => format!("{}:{port}", self.vip()),
            Mode::Loopback => format!("127.0.0.1:{port}"),
        }
    }

    pub(super) fn common_port(&self) -> u16 {
        match self.mode {
            Mode::Namespaces => API_PORT,
            Mode::Loopback => self.port_base(),
        }
    }

    /// The networks that pods get their addresses from.
    pub(crate) fn pod_network(&self) -> String {
        format!("10.{}.{}.0/18", 160 + self.slot % SLOTS_OF_SUBNETS / 4, self.slot % 4 * 64)
    }

    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("balsa-{}-{name}", self.tag)
    }

    /// The namespace of the bridge that all members are plugged into.
    pub(crate) fn switch(&self) -> String {
        self.namespace("switch")
    }

    /// This machine's interface on the cluster's link.
    pub(crate) fn link(&self) -> String {
        format!("balsa-{}", self.tag)
    }
}

/// The switch's rules while groups of members are cut off: within a group everything passes, between
/// a group and anything else nothing does.
pub(crate) fn cut_rules(groups: &[Vec<String>]) -> String {
    let mut text = String::from("table bridge balsa\ndelete table bridge balsa\n");
    if groups.is_empty() {
        return text;
    }
    text.push_str("table bridge balsa {\n  chain forward {\n    type filter hook forward priority 0; policy accept;\n");
    for group in groups {
        let ports: Vec<String> = group.iter().map(|name| format!("\"{name}\"")).collect();
        let ports = ports.join(", ");
        text.push_str(&format!("    iifname {{ {ports} }} oifname != {{ {ports} }} drop\n"));
        text.push_str(&format!("    iifname != {{ {ports} }} oifname {{ {ports} }} drop\n"));
    }
    text.push_str("  }\n}\n");
    text
}

/// Cuts `names` off as one group; a member that was in another group leaves it.
pub(crate) fn cut(groups: &mut Vec<Vec<String>>, names: &[String]) {
    heal(groups, names);
    groups.push(names.to_vec());
}

/// Takes `names` out of their groups.
pub(crate) fn heal(groups: &mut Vec<Vec<String>>, names: &[String]) {
    for group in groups.iter_mut() {
        group.retain(|member| !names.contains(member));
    }
    groups.retain(|group| !group.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn everything_of_a_cluster_differs() {
        let topology = Topology { slot: 7, ..Topology::of(Path::new("/a"), Mode::Namespaces, "process") };
        let names =
            (1..=MASTERS_MAX).map(|i| format!("master-{i}")).chain((1..=WORKERS_MAX).map(|i| format!("worker-{i}")));
        let mut addresses: BTreeSet<String> = names.map(|name| topology.address(&name)).collect();
        addresses.extend([topology.vip().to_string(), topology.machine()]);
        assert_eq!(addresses.len(), MASTERS_MAX + WORKERS_MAX + 2);
        assert_eq!(
            (topology.api("master-2"), topology.common()),
            ("10.128.7.12:6443".into(), "10.128.7.250:6443".into())
        );
        assert_eq!(topology.pod_network(), "10.161.192.0/18");
        assert!(topology.link().len() <= 15, "the kernel's limit for an interface's name");
        let loopback = Topology { slot: 1, ..Topology::of(Path::new("/a"), Mode::Loopback, "process") };
        assert_eq!((loopback.common(), loopback.api("master-1")), ("127.0.0.1:20020".into(), "127.0.0.1:20021".into()));
        assert_eq!(loopback.ports("master-9"), (20_037, 20_038));
    }

    #[test]
    fn a_slot_that_is_taken_is_passed_over() {
        for mode in [Mode::Namespaces, Mode::Loopback] {
            let last = Topology { slot: n_slots(mode) - 1, ..Topology::of(Path::new("/a"), mode, "process") };
            let free = |taken: &[u16]| {
                let slot = last.clone().in_free_slot(|topology| Ok(taken.contains(&topology.slot))).unwrap();
                slot.map(|topology| topology.slot)
            };
            assert_eq!((free(&[]), free(&[last.slot, 0])), (Some(last.slot), Some(1)));
            assert_eq!(free(&(0..n_slots(mode)).collect::<Vec<_>>()), None);
            assert!(last.clone().in_free_slot(|_| anyhow::bail!("no ip")).is_err());
        }
        let loopback = Topology { slot: 1, ..Topology::of(Path::new("/a"), Mode::Loopback, "process") };
        assert!(loopback.all_ports().contains(&loopback.ports("master-9").1) && loopback.all_ports().start == 20_020);
    }

    #[test]
    fn clusters_in_different_folders_differ() {
        let of = |dir: &str| Topology::of(Path::new(dir), Mode::Namespaces, "process");
        assert_ne!(of("/a").namespace("master-1"), of("/b").namespace("master-1"));
    }

    #[test]
    fn members_are_cut_off_in_groups() {
        let name = |name: &str| name.to_string();
        let mut groups = Vec::new();
        cut(&mut groups, &[name("master-1"), name("worker-1")]);
        cut(&mut groups, &[name("worker-1")]);
        assert_eq!(groups, [[name("master-1")], [name("worker-1")]]);
        expect_test::expect![[r#"
            table bridge balsa
            delete table bridge balsa
            table bridge balsa {
              chain forward {
                type filter hook forward priority 0; policy accept;
                iifname { "master-1" } oifname != { "master-1" } drop
                iifname != { "master-1" } oifname { "master-1" } drop
                iifname { "worker-1" } oifname != { "worker-1" } drop
                iifname != { "worker-1" } oifname { "worker-1" } drop
              }
            }
        "#]]
        .assert_eq(&cut_rules(&groups));
        heal(&mut groups, &[name("worker-1"), name("master-1")]);
        assert!(groups.is_empty() && !cut_rules(&groups).contains("drop"));
    }
}
