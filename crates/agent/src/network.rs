//! The pods' network on this node: a bridge for the node's own pods (by CNI), a route to every other
//! node's, ports of the node that lead to pods, and a masquerade for what leaves the cluster.
//!
//! The decisions are functions from what the masters and the runtime say to text; the shell writes
//! the text where it belongs when it has changed. A worker that restarts, or loses all masters,
//! leaves everything as it is.

use crate::Shared;
use protos::dispatch as pb;
use runtime::files;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Marks our routes, so that nobody else's are touched; of the range the kernel leaves to anybody.
const ROUTE_PROTOCOL: &str = "98";
const BRIDGE: &str = "balsa0";
/// After a failure, and to mend what somebody removed.
const AGAIN: Duration = Duration::from_secs(10);
const COMMAND_MAX: Duration = Duration::from_secs(10);

/// Where a worker with a network of pods keeps it.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// The one CNI configuration goes here.
    pub cni_conf: PathBuf,
    /// Addresses given out on this node.
    pub ipam: PathBuf,
}

fn is_v6(cidr: &str) -> bool {
    cidr.contains(':')
}

/// The CNI configuration of a node's own pods.
pub(crate) fn cni(pod_cidrs: &[String], ipam: &Path) -> String {
    let ranges: Vec<_> = pod_cidrs.iter().map(|cidr| json!([{"subnet": cidr}])).collect();
    let defaults: BTreeSet<&str> =
        pod_cidrs.iter().map(|cidr| if is_v6(cidr) { "::/0" } else { "0.0.0.0/0" }).collect();
    let routes: Vec<_> = defaults.into_iter().map(|dst| json!({"dst": dst})).collect();
    let bridge = json!({
        // Addresses keep their place in the cluster: what leaves it is masqueraded by `nft` instead.
        "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": false, "hairpinMode": true,
        "ipam": {"type": "host-local", "dataDir": ipam.display().to_string(), "ranges": ranges, "routes": routes},
    });
    json!({"cniVersion": "0.4.0", "name": "balsa", "plugins": [bridge]}).to_string()
}

/// What of the other nodes is to be reached how: pod network -> node address.
pub(crate) fn routes(peers: &[pb::Peer]) -> BTreeMap<String, String> {
    let of = |peer: &pb::Peer| {
        let same_family = |cidr: &&String| is_v6(cidr) == is_v6(&peer.address);
        let (cidrs, address) = (peer.pod_cidrs.clone(), peer.address.clone());
        cidrs.iter().filter(same_family).map(|cidr| (cidr.clone(), address.clone())).collect::<Vec<_>>()
    };
    peers.iter().filter(|peer| !peer.address.is_empty()).flat_map(of).collect()
}

/// The `ip -batch` lines that turn the routes that are into those that should be.
pub(crate) fn route_changes(present: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Vec<String> {
    let family = |cidr: &str| if is_v6(cidr) { "-6 " } else { "" };
    let stale = present.keys().filter(|cidr| !wanted.contains_key(*cidr));
    let gone = stale.map(|cidr| format!("{}route del {cidr} proto {ROUTE_PROTOCOL}", family(cidr)));
    let new = wanted.iter().filter(|(cidr, via)| present.get(*cidr) != Some(via));
    let set = new.map(|(cidr, via)| format!("{}route replace {cidr} via {via} proto {ROUTE_PROTOCOL}", family(cidr)));
    gone.chain(set).collect()
}

/// The routes of `ip route show proto 98`.
fn parse_routes(text: &str) -> BTreeMap<String, String> {
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let via = words.iter().position(|word| *word == "via").and_then(|at| words.get(at + 1))?;
        // A single address is shown without its prefix.
        let cidr = words.first()?.to_string();
        Some((cidr, via.to_string()))
    };
    text.lines().filter_map(parse).collect()
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub(crate) protocol: String,
    pub(crate) host_port: u16,
    /// Empty for every address of the node.
    pub(crate) host_ip: String,
    pub(crate) pod_ip: String,
    pub(crate) pod_port: u16,
}

/// The node's nft tables, as a text that replaces them in one transaction.
pub(crate) fn nft(cluster_cidrs: &[String], pod_cidrs: &[String], ports: &BTreeSet<HostPort>) -> String {
    let mut text = String::new();
    for family in ["ip", "ip6"] {
        let of_family = |address: &&String| is_v6(address) == (family == "ip6");
        let cidrs: Vec<&String> = pod_cidrs.iter().filter(of_family).collect();
        // The empty definition makes the deletion hold where there is no table yet.
        text.push_str(&format!("table {family} balsa\ndelete table {family} balsa\n"));
        if cidrs.is_empty() {
            continue;
        }
        let cluster: Vec<&str> = cluster_cidrs.iter().filter(of_family).map(String::as_str).collect();
        let dnat: Vec<String> = ports
            .iter()
            .filter(|port| is_v6(&port.pod_ip) == (family == "ip6"))
            .map(|port| {
                let HostPort { protocol, host_port, host_ip, pod_ip, pod_port } = port;
                let whose = if host_ip.is_empty() {
                    "fib daddr type local".into()
                } else {
                    format!("{family} daddr {host_ip}")
                };
                let to =
                    if family == "ip6" { format!("[{pod_ip}]:{pod_port}") } else { format!("{pod_ip}:{pod_port}") };
                format!("    {whose} {protocol} dport {host_port} dnat to {to}\n")
            })
            .collect();
        text.push_str(&format!("table {family} balsa {{\n  chain ports {{\n{}  }}\n", dnat.concat()));
        text.push_str("  chain prerouting { type nat hook prerouting priority dstnat; policy accept; jump ports; }\n");
        text.push_str("  chain output { type nat hook output priority -100; policy accept; jump ports; }\n");
        text.push_str("  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n");
        for cidr in cidrs {
            // A pod that reaches itself through the node's port must not see its own address as the sender.
            text.push_str(&format!("    ct status dnat {family} saddr {cidr} {family} daddr {cidr} masquerade\n"));
            if !cluster.is_empty() {
                let outside = format!("{family} daddr != {{ {} }}", cluster.join(", "));
                text.push_str(&format!("    {family} saddr {cidr} {outside} oifname != \"{BRIDGE}\" masquerade\n"));
            }
        }
        text.push_str("  }\n}\n");
    }
    text
}

async fn run(program: &str, words: &[&str], input: &str) -> Result<String, String> {
    let mut command = tokio::process::Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let carried = async {
        let mut child = command.spawn().map_err(|error| format!("starting {program}: {error}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await.map_err(|error| format!("writing to {program}: {error}"))?;
        }
        let output = child.wait_with_output().await.map_err(|error| format!("running {program}: {error}"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
        }
    };
    match tokio::time::timeout(COMMAND_MAX, carried).await {
        Ok(result) => result,
        Err(_) => Err(format!("{program} took longer than {} s", COMMAND_MAX.as_secs())),
    }
}

/// Writes a file as a whole, within its folder: CNI's watcher ignores files moved in from elsewhere.
fn write_if_new(path: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    files::replace(path, text)
}

fn forward() -> std::io::Result<()> {
    for path in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
        let off = std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0");
        if off {
            std::fs::write(path, "1")?;
        }
    }
    Ok(())
}

/// The ports of the node that the pods here ask for, with the addresses their sandboxes have.
fn host_ports(shared: &Shared) -> BTreeSet<HostPort> {
    use objects::ValueExt;
    let worlds = shared.worlds.borrow().clone();
    let pods = shared.pods.lock();
    let mut all = BTreeSet::new();
    for sandbox in worlds.iter().filter(|sandbox| sandbox.ready) {
        let Some(sender) = pods.get(&sandbox.uid) else { continue };
        let assignment = sender.borrow();
        if assignment.pod.at("spec.hostNetwork") == true {
            continue;
        }
        for port in assignment.pod.items("spec.containers").iter().flat_map(|container| container.items("ports")) {
            let number = |field: &str| port.at(field).as_i64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
            let (Some(host_port), Some(pod_port)) = (number("hostPort"), number("containerPort")) else { continue };
            for pod_ip in &sandbox.ips {
                let host_ip = Some(port.text("hostIP")).filter(|ip| !["", "0.0.0.0", "::"].contains(ip)).unwrap_or("");
                all.insert(HostPort {
                    protocol: match port.text("protocol") {
                        "" => "tcp".into(),
                        protocol => protocol.to_lowercase(),
                    },
                    host_port,
                    host_ip: host_ip.into(),
                    pod_ip: pod_ip.clone(),
                    pod_port,
                });
            }
        }
    }
    all
}

async fn apply(options: &NetworkOptions, peers: &pb::Peers, ports: &BTreeSet<HostPort>) -> Result<(), String> {
    forward().map_err(|error| format!("turning forwarding on: {error}"))?;
    let mut present = BTreeMap::new();
    for family in ["-4", "-6"] {
        present.extend(parse_routes(&run("ip", &[family, "route", "show", "proto", ROUTE_PROTOCOL], "").await?));
    }
    let changes = route_changes(&present, &routes(&peers.peers));
    if !changes.is_empty() {
        run("ip", &["-force", "-batch", "-"], &(changes.join("\n") + "\n")).await?;
    }
    run("nft", &["-f", "-"], &nft(&peers.cluster_pod_cidrs, &peers.own_pod_cidrs, ports)).await?;
    // Last: with it, the node takes pods.
    let text = cni(&peers.own_pod_cidrs, &options.ipam);
    write_if_new(&options.cni_conf.join("10-balsa.conflist"), &text)
        .map_err(|error| format!("writing the CNI configuration: {error}"))
}

/// Keeps the node's network as the masters and the pods say, for as long as the worker runs.
pub(crate) async fn keep(shared: &Arc<Shared>) {
    let Some(options) = &shared.options.network else { return std::future::pending().await };
    let (mut peers, mut worlds) = (shared.peers.subscribe(), shared.worlds.subscribe());
    let mut applied = None;
    let mut said = String::new();
    loop {
        worlds.borrow_and_update();
        let wanted = (peers.borrow_and_update().clone(), host_ports(shared));
        // Before the first word from a master, what an earlier worker set up stays.
        if !wanted.0.own_pod_cidrs.is_empty() && applied.as_ref() != Some(&wanted) {
            match apply(options, &wanted.0, &wanted.1).await {
                Ok(()) => {
                    applied = Some(wanted);
                    said.clear();
                }
                Err(why) => {
                    if said != why {
                        tracing::warn!(%why, "the pods' network could not be set up; it is tried again");
                    }
                    said = why;
                }
            }
        }
        let again = tokio::time::sleep(AGAIN);
        tokio::select! {
            _ = peers.changed() => {}
            _ = worlds.changed() => {}
            () = again => applied = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn peer(node: &str, address: &str, cidrs: &[&str]) -> pb::Peer {
        let pod_cidrs = cidrs.iter().map(ToString::to_string).collect();
        pb::Peer { node: node.into(), address: address.into(), pod_cidrs }
    }

    #[test]
    fn routes_follow_the_peers() {
        let peers = [
            peer("b", "10.0.0.2", &["10.244.1.0/24", "fd00:1::/64"]),
            peer("c", "10.0.0.3", &["10.244.2.0/24"]),
            peer("not yet", "", &["10.244.3.0/24"]),
        ];
        let shown = "10.244.1.0/24 via 10.0.0.9 dev eth0 \n10.244.7.0/24 via 10.0.0.7 dev eth0 \n10.244.2.0/24 via 10.0.0.3 dev eth0";
        let changes = route_changes(&parse_routes(shown), &routes(&peers));
        expect![[r#"
            route del 10.244.7.0/24 proto 98
            route replace 10.244.1.0/24 via 10.0.0.2 proto 98"#]]
        .assert_eq(&changes.join("\n"));
    }

    #[test]
    fn a_node_port_leads_to_its_pod_and_pods_leave_under_the_nodes_name() {
        let port = HostPort {
            protocol: "tcp".into(),
            host_port: 8080,
            host_ip: String::new(),
            pod_ip: "10.244.1.5".into(),
            pod_port: 80,
        };
        let text = nft(&["10.244.0.0/16".into()], &["10.244.1.0/24".into()], &[port].into());
        expect![[r#"
            table ip balsa
            delete table ip balsa
            table ip balsa {
              chain ports {
                fib daddr type local tcp dport 8080 dnat to 10.244.1.5:80
              }
              chain prerouting { type nat hook prerouting priority dstnat; policy accept; jump ports; }
              chain output { type nat hook output priority -100; policy accept; jump ports; }
              chain postrouting {
                type nat hook postrouting priority srcnat; policy accept;
                ct status dnat ip saddr 10.244.1.0/24 ip daddr 10.244.1.0/24 masquerade
                ip saddr 10.244.1.0/24 ip daddr != { 10.244.0.0/16 } oifname != "balsa0" masquerade
              }
            }
            table ip6 balsa
            delete table ip6 balsa
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn the_bridge_gives_addresses_of_the_nodes_own_range() {
        let text = cni(&["10.244.1.0/24".into()], Path::new("/var/lib/balsa/ipam"));
        expect![[r#"{"cniVersion":"0.4.0","name":"balsa","plugins":[{"bridge":"balsa0","hairpinMode":true,"ipMasq":false,"ipam":{"dataDir":"/var/lib/balsa/ipam","ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}],"type":"host-local"},"isGateway":true,"type":"bridge"}]}"#]]
        .assert_eq(&text);
    }
}
