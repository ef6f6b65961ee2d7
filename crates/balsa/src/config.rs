//! Configuration files, as `cluster-configs/` shows them. Unknown fields are refused by name.

use agent::ImageThresholds;
use anyhow::{Context, Result, bail};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MasterConfig {
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    /// The address other machines reach this one at.
    pub(crate) address: String,
    #[serde(default = "default_api_port")]
    pub(crate) api_port: u16,
    #[serde(default = "default_peer_port")]
    pub(crate) peer_port: u16,
    /// `lan`, `wan` or `slow-disk`.
    #[serde(default)]
    pub(crate) profile: String,
    /// One address that outlives any master; held by the leader. Masters must share a link.
    #[serde(default)]
    pub(crate) vip: Option<Vip>,
    /// How a new master finds its cluster. Not needed once it has joined.
    #[serde(default)]
    pub(crate) join: Option<Join>,
    /// Further names and addresses clients use for this master.
    #[serde(default)]
    pub(crate) alt_names: Vec<String>,
    /// The networks that pods get their addresses from, separated by commas. Read by `init`; every
    /// node is given a piece.
    #[serde(default = "default_pod_network")]
    pub(crate) pod_network: String,
    /// Backups by itself, written by whichever master leads.
    #[serde(default)]
    pub(crate) backup: Option<Backup>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Backup {
    /// An existing folder, best on another disk or machine than the masters'. The files hold secrets.
    pub(crate) directory: PathBuf,
    /// Such as 30s, 15m, 6h or 1d; not below 10 s.
    #[serde(default = "default_interval")]
    pub(crate) interval: String,
    /// How many of the newest files are kept.
    #[serde(default = "default_kept")]
    pub(crate) keep: usize,
}

/// Backups are not taken more often: each reads the whole state.
const BACKUP_INTERVAL_MIN: Duration = Duration::from_secs(10);

impl Backup {
    pub(crate) fn period(&self) -> Result<Duration> {
        let text = self.interval.as_str();
        let unknown = || format!("backup.interval: {text:?} is not a number and a unit, such as 30s, 15m, 6h or 1d");
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).with_context(unknown)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => bail!(unknown()),
        };
        let number: u64 = number.parse().ok().filter(|n| *n <= 100_000).with_context(unknown)?;
        let period = Duration::from_secs(number * seconds);
        if period < BACKUP_INTERVAL_MIN {
            bail!("backup.interval: {text} is below {} s", BACKUP_INTERVAL_MIN.as_secs());
        }
        Ok(period)
    }

    fn check(&self) -> Result<()> {
        self.period()?;
        if self.keep == 0 {
            bail!("backup.keep: must be at least 1");
        }
        if !self.directory.is_absolute() {
            bail!(
                "backup.directory: {}: name it from / on, as a service's working folder is another",
                self.directory.display()
            );
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Vip {
    /// IPv4 or IPv6.
    #[serde(deserialize_with = "ip_address")]
    pub(crate) address: IpAddr,
    /// How many of its bits name the network that the masters share.
    pub(crate) prefix: u8,
    /// Of that network, on every master.
    pub(crate) interface: String,
}

fn ip_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom(format!("vip.address: {text:?} is not an IP address")))
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Join {
    /// host:port of any master's API.
    pub(crate) server: String,
    pub(crate) token: String,
    /// A master stays a learner, which does not vote, until `balsa members promote`.
    #[serde(default)]
    pub(crate) learner: bool,
    /// The name of a member that is gone, in whose place a master comes.
    #[serde(default)]
    pub(crate) replaces: String,
}

impl Join {
    pub(crate) fn new(server: String, token: String) -> Join {
        Join { server, token, learner: false, replaces: String::new() }
    }

    fn check(&self) -> Result<()> {
        if self.learner && !self.replaces.is_empty() {
            bail!(
                "join: a learner takes nobody's place yet: leave out join.replaces, and say `balsa members replace {} \
                 NEW` once it has caught up",
                self.replaces
            );
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WorkerConfig {
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) address: String,
    /// host:port of the masters' APIs; one that answers is enough.
    pub(crate) masters: Vec<String>,
    /// Not needed once the worker has its certificate.
    #[serde(default)]
    pub(crate) token: Option<String>,
    /// `containerd`, `process`, or `auto`: containerd where it is installed and this is root.
    #[serde(default = "default_runtime")]
    pub(crate) runtime: String,
    /// The socket of a CRI runtime that somebody else keeps running. By default the worker runs a
    /// containerd of its own.
    #[serde(default)]
    pub(crate) runtime_socket: Option<PathBuf>,
    /// Mirrors and credentials of registries, in containerd's certs.d layout.
    #[serde(default)]
    pub(crate) registries: Option<PathBuf>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) taints: Vec<Taint>,
    #[serde(default)]
    pub(crate) reserved: Reserved,
    #[serde(default = "default_pods")]
    pub(crate) max_pods: i64,
    #[serde(default)]
    pub(crate) images: Images,
}

/// When images that nobody uses are removed: once their disk is fuller than `highPercent`, until it is no
/// fuller than `lowPercent`, and none that has been here for less than `minAgeSeconds`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Images {
    pub(crate) high_percent: u64,
    pub(crate) low_percent: u64,
    pub(crate) min_age_seconds: u32,
}

impl Default for Images {
    fn default() -> Images {
        let ImageThresholds { high_percent, low_percent, min_age_ms } = ImageThresholds::default();
        Images { high_percent, low_percent, min_age_seconds: u32::try_from(min_age_ms / 1000).unwrap_or(u32::MAX) }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Taint {
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) value: String,
    pub(crate) effect: String,
}

/// What the machine keeps for itself, as quantities.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Reserved {
    #[serde(default)]
    pub(crate) cpu: String,
    #[serde(default)]
    pub(crate) memory: String,
}

fn default_api_port() -> u16 {
    6443
}
fn default_peer_port() -> u16 {
    6444
}
fn default_pod_network() -> String {
    "10.244.0.0/16".into()
}
fn default_runtime() -> String {
    "auto".into()
}
fn default_interval() -> String {
    "6h".into()
}
fn default_kept() -> usize {
    14
}
fn default_pods() -> i64 {
    110
}

fn load<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("{} is not a valid configuration", path.display()))
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    if !objects::validate::is_dns_subdomain(name) {
        bail!("name: {name:?} is not a valid name; use lower case letters, digits, '-' and '.'");
    }
    Ok(())
}

/// An address that others can reach this machine at: of IP or a host name, without a port, and without the brackets in
/// which an IPv6 address may come.
pub(crate) fn bare_address(field: &str, address: &str) -> Result<String> {
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    match bare.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
            bail!("{field}: {address} is nobody's address; name the one that other machines reach this one at")
        }
        Ok(_) => Ok(bare.into()),
        Err(_) if bare == address && objects::validate::is_dns_subdomain(&bare.to_lowercase()) => Ok(bare.into()),
        Err(_) => {
            bail!("{field}: {address:?} is neither an IP address nor a host name (ports have fields of their own)")
        }
    }
}

/// Two ports that can be listened on side by side. `fields` are what the user calls them.
pub(crate) fn check_ports(fields: [&str; 2], [api, peer]: [u16; 2]) -> Result<()> {
    for (field, port) in fields.iter().zip([api, peer]) {
        if port == 0 {
            bail!("{field}: 0 is no port that others could know; name one from 1 to 65535");
        }
    }
    if api == peer {
        bail!("{}: {peer} is the {} too; name two", fields[1], fields[0]);
    }
    Ok(())
}

/// host:port as sockets and URLs take it: an IPv6 address stands in brackets.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The other way: a host without its brackets.
pub(crate) fn host_of(addr: &str) -> &str {
    addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']'])
}

impl Vip {
    fn check(&self, own: &str) -> Result<()> {
        let Vip { address, prefix, interface } = self;
        let special = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            // A link-local address means nothing without naming a link, which URLs cannot.
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
        };
        if special || address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            bail!("vip.address: {address} cannot be held; name a free address of the network that the masters share");
        }
        if own.parse::<IpAddr>().is_ok_and(|own| own == *address) {
            bail!("vip.address: {address} is this master's own address; the VIP is one that no machine has");
        }
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        if *prefix == 0 || *prefix > bits_max {
            bail!("vip.prefix: {prefix} is not in 1..={bits_max}");
        }
        // The kernel's limit for an interface's name.
        if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ']) {
            bail!("vip.interface: {interface:?}: name the network interface that the masters share a link on");
        }
        Ok(())
    }

    pub(crate) fn server(&self, port: u16) -> String {
        host_port(&self.address.to_string(), port)
    }
}

impl MasterConfig {
    pub(crate) fn load(path: &Path) -> Result<MasterConfig> {
        let mut config: MasterConfig = load(path)?;
        check_name(&config.name)?;
        config.address = bare_address("address", &config.address)?;
        check_ports(["apiPort", "peerPort"], [config.api_port, config.peer_port])?;
        config.join.as_ref().map_or(Ok(()), Join::check)?;
        config.raft_profile()?;
        if !dispatch::addresses::are_networks(&config.pod_network) {
            bail!("podNetwork: {:?} is not a list of networks such as 10.244.0.0/16", config.pod_network);
        }
        if let Some(vip) = &config.vip {
            vip.check(&config.address)?;
        }
        if let Some(backup) = &config.backup {
            backup.check()?;
        }
        Ok(config)
    }

    /// This master, as the membership is to know it.
    pub(crate) fn member(&self) -> raft_node::Member {
        let (peer_addr, api_addr) = (self.peer_addr(), self.api_addr());
        raft_node::Member { name: self.name.clone(), peer_addr, api_addr, feature_level: state::FEATURE_LEVEL }
    }

    pub(crate) fn api_addr(&self) -> String {
        host_port(&self.address, self.api_port)
    }

    /// Where clients reach the cluster: at its VIP, or at this master.
    pub(crate) fn server(&self) -> String {
        self.vip.as_ref().map_or(self.api_addr(), |vip| vip.server(self.api_port))
    }

    pub(crate) fn peer_addr(&self) -> String {
        host_port(&self.address, self.peer_port)
    }

    pub(crate) fn raft_profile(&self) -> Result<raft_node::Profile> {
        Ok(match self.profile.as_str() {
            "" | "lan" => raft_node::Profile::Lan,
            "wan" => raft_node::Profile::Wan,
            "slow-disk" => raft_node::Profile::SlowDisk,
            other => bail!("profile: {other:?} is unknown; use lan, wan or slow-disk"),
        })
    }

    /// Every name and address its certificate must cover.
    pub(crate) fn alt_names(&self) -> Vec<String> {
        let mut names = self.alt_names.clone();
        names.push(self.address.clone());
        names.extend(self.vip.iter().map(|vip| vip.address.to_string()));
        pki::master_alt_names(&self.name, &names)
    }
}

impl WorkerConfig {
    pub(crate) fn load(path: &Path) -> Result<WorkerConfig> {
        let mut config: WorkerConfig = load(path)?;
        check_name(&config.name)?;
        config.address = bare_address("address", &config.address)?;
        if config.masters.is_empty() {
            bail!("masters: name at least one master as host:port");
        }
        if !["auto", "containerd", "process"].contains(&config.runtime.as_str()) {
            bail!("runtime: {:?} is unknown; use containerd, process, or auto", config.runtime);
        }
        if config.images.high_percent > 100 || config.images.low_percent > config.images.high_percent {
            bail!("images: lowPercent must not exceed highPercent, nor highPercent 100");
        }
        for taint in &config.taints {
            if !objects::kinds::node::EFFECTS.contains(&taint.effect.as_str()) {
                bail!("taints: effect {:?} is unknown; use {}", taint.effect, objects::kinds::node::EFFECTS.join(", "));
            }
        }
        for (field, text) in [("reserved.cpu", &config.reserved.cpu), ("reserved.memory", &config.reserved.memory)] {
            if !text.is_empty() && objects::Quantity::parse(text).is_none() {
                bail!("{field}: {text:?} is not a quantity such as 500m or 1Gi");
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Every file of `cluster-configs/` is a valid configuration (the examples are manifests).
    #[test]
    fn the_shipped_configurations_load() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster-configs");
        for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_file())
        {
            match path.file_name().unwrap().to_string_lossy().contains("worker") {
                true => drop(WorkerConfig::load(&path).unwrap()),
                false => drop(MasterConfig::load(&path).unwrap()),
            }
        }
    }

    #[test]
    fn an_interval_has_a_unit() {
        let period = |interval: &str| {
            let backup = Backup { directory: "/b".into(), interval: interval.into(), keep: 1 };
            backup.period().map(|period| period.as_secs()).map_err(|error| error.to_string())
        };
        assert_eq!(
            (period("10s"), period("15m"), period("6h"), period("1d")),
            (Ok(10), Ok(900), Ok(21_600), Ok(86_400))
        );
        for wrong in ["", "6", "h", "6 h", "-1h", "1w", "9s", "0d", "99999999h", "5é"] {
            assert!(period(wrong).unwrap_err().starts_with("backup.interval: "), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let path = std::env::temp_dir().join(format!("balsa-config-{}.yaml", std::process::id()));
        std::fs::write(&path, "name: a\ndataDir: /x\naddress: 1.2.3.4\nprot: 1\n").unwrap();
        let error = format!("{:#}", MasterConfig::load(&path).unwrap_err());
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("prot"), "{error}");
    }

    #[test]
    fn an_address_is_one_that_others_can_reach() {
        for good in ["10.0.0.1", "127.0.0.1", "fd00::1", "m1", "m1.example.com", "M1"] {
            assert_eq!(bare_address("address", good).unwrap(), good);
        }
        assert_eq!(bare_address("address", "[fd00::1]").unwrap(), "fd00::1");
        for wrong in [
            "",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "10.0.0.1:6443",
            "10.0.0.1/24",
            "m 1",
            "https://m1",
            "[m1]",
            "[::1",
            "a;b",
        ] {
            assert!(bare_address("address", wrong).unwrap_err().to_string().starts_with("address: "), "{wrong}");
        }
    }

    #[test]
    fn a_learner_that_is_to_replace_somebody_is_refused() {
        let join = |learner, replaces: &str| Join {
            learner,
            replaces: replaces.into(),
            ..Join::new("a:1".into(), "t".into())
        };
        assert!(join(true, "m2").check().unwrap_err().to_string().contains("members replace m2 NEW"));
        join(true, "").check().unwrap();
        join(false, "m2").check().unwrap();
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        assert_eq!((host_port("10.0.0.1", 6443), host_port("m1", 1)), ("10.0.0.1:6443".into(), "m1:1".into()));
        assert_eq!(host_port("fd00::1", 6443), "[fd00::1]:6443");
        assert_eq!([host_of("[fd00::1]:6443"), host_of("10.0.0.1:6443"), host_of("m1")], ["fd00::1", "10.0.0.1", "m1"]);
    }

    #[test]
    fn a_vip_that_cannot_be_held_is_refused() {
        let check = |address: &str, prefix, interface: &str| {
            let vip = json!({"address": address, "prefix": prefix, "interface": interface});
            let vip = serde_json::from_value::<Vip>(vip).map_err(anyhow::Error::from);
            vip.and_then(|vip| vip.check("fd00::1")).map_or_else(|error| error.to_string(), |()| "good".into())
        };
        assert_eq!(check("10.0.0.100", 24, "eth0"), "good");
        assert_eq!(check("fd00::100", 64, "eth0"), "good");
        for (address, prefix, interface, field) in [
            ("fd00::g", 64, "eth0", "vip.address"),
            ("fe80::1", 64, "eth0", "vip.address"),
            ("ff02::1", 64, "eth0", "vip.address"),
            ("::1", 64, "eth0", "vip.address"),
            ("::ffff:10.0.0.1", 96, "eth0", "vip.address"),
            ("fd00::1", 64, "eth0", "own address"),
            ("fd00::100", 129, "eth0", "vip.prefix"),
            ("fd00::100", 0, "eth0", "vip.prefix"),
            ("10.0.0.100", 33, "eth0", "vip.prefix"),
            ("fd00::100", 64, "", "vip.interface"),
        ] {
            let told = check(address, prefix, interface);
            assert!(told.contains(field), "{address}/{prefix} {interface}: {told}");
        }
    }
}
