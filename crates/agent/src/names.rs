//! A pod's names: its host's, what its /etc/hosts says, and who resolves the others.
//!
//! Rules: kubernetes.io/docs/concepts/services-networking/dns-pod-service, "Pod's hostname and subdomain
//! fields".

use crate::sources::Missing;
use objects::{Value, ValueExt};
use runtime::{Dns, Mount};
use std::io;
use std::path::Path;

/// The end of the names that a subdomain gives. Nobody answers for it here: there is no DNS.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// Bytes that Linux takes as a host's name, and that a label of a name has.
const HOST_NAME_MAX: usize = 64;
const LABEL_MAX: usize = 63;

/// What a pod is called.
struct Names {
    short: String,
    /// With its subdomain, where it has one.
    full: Option<String>,
}

fn names(pod: &Value) -> Names {
    let (exact, own, subdomain) =
        (pod.text("spec.hostnameOverride"), pod.text("spec.hostname"), pod.text("spec.subdomain"));
    if !exact.is_empty() {
        return Names { short: exact.into(), full: None };
    }
    let name: String = pod.text("metadata.name").chars().take(LABEL_MAX).collect();
    let short = if own.is_empty() { name.trim_end_matches(['-', '.']) } else { own }.to_string();
    let namespace = pod.text("metadata.namespace");
    let full = (!subdomain.is_empty()).then(|| format!("{short}.{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}"));
    Names { short, full }
}

/// The host's name that a pod on its own network sees.
pub(crate) fn hostname(pod: &Value) -> Result<String, String> {
    let Names { short, full } = names(pod);
    match full.filter(|_| pod.at("spec.setHostnameAsFQDN") == true) {
        Some(full) if full.len() > HOST_NAME_MAX => Err(format!(
            "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {full} is too long ({HOST_NAME_MAX} \
             characters is the max, {} characters requested)",
            full.len()
        )),
        Some(full) => Ok(full),
        None => Ok(short),
    }
}

/// The text of a pod's /etc/hosts. `node` is that of the node, which a pod on its network goes on from.
fn hosts_text(pod: &Value, pod_ip: &str, node: &str) -> String {
    let mut text = match pod.at("spec.hostNetwork") == true {
        true if node.is_empty() || node.ends_with('\n') => node.to_string(),
        true => format!("{node}\n"),
        false => {
            let Names { short, full } = names(pod);
            let all: Vec<String> = full.into_iter().chain([short]).collect();
            let local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
            format!("{local}{pod_ip}\t{}\n", all.join("\t"))
        }
    };
    for alias in pod.items("spec.hostAliases") {
        let names: Vec<&str> = alias.items("hostnames").iter().filter_map(Value::as_str).collect();
        text.push_str(&format!("{}\t{}\n", alias.text("ip"), names.join("\t")));
    }
    text
}

/// The pod's own /etc/hosts, unless the container mounts one, or the node's is all the pod asks for.
pub(crate) fn hosts(pod: &Value, container: &Value, dir: &Path, pod_ip: &str) -> Result<Option<Mount>, Missing> {
    let mounted = container.items("volumeMounts").iter().any(|mount| mount.text("mountPath") == "/etc/hosts");
    let on_node = pod.at("spec.hostNetwork") == true;
    if mounted || (on_node && pod.items("spec.hostAliases").is_empty()) {
        return Ok(None);
    }
    let failed = |error: io::Error| format!("making /etc/hosts failed: {error}");
    let node = if on_node { std::fs::read_to_string("/etc/hosts").map_err(failed)? } else { String::new() };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let host = dir.join(".hosts");
    // Written in place: a running container has this very file mounted.
    std::fs::write(&host, hosts_text(pod, pod_ip, &node)).map_err(failed)?;
    Ok(Some(Mount { host, container: "/etc/hosts".into(), ..Mount::default() }))
}

/// What the pod's resolv.conf says. There is no cluster DNS in this version: `ClusterFirst` is the
/// node's own, as `Default`.
pub(crate) fn dns(pod: &Value, resolv_conf: &str) -> Dns {
    let mut dns = Dns::default();
    if pod.text("spec.dnsPolicy") != "None" {
        for line in resolv_conf.lines() {
            let mut words = line.split_whitespace().map(ToString::to_string);
            match words.next().as_deref() {
                Some("nameserver") => dns.servers.extend(words.next()),
                Some("search") => dns.searches = words.collect(),
                Some("options") => dns.options = words.collect(),
                _ => {}
            }
        }
    }
    let texts = |field: &str| pod.items(field).iter().filter_map(Value::as_str).map(ToString::to_string);
    dns.servers.extend(texts("spec.dnsConfig.nameservers"));
    dns.searches.extend(texts("spec.dnsConfig.searches"));
    let option = |option: &Value| match option.text("value") {
        "" => option.text("name").to_string(),
        value => format!("{}:{value}", option.text("name")),
    };
    dns.options.extend(pod.items("spec.dnsConfig.options").iter().map(option));
    dns
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_resolved_as_the_pod_says() {
        let conf = "nameserver 10.0.0.2\nsearch a.example b.example\noptions ndots:2\n";
        let own = json!({"nameservers": ["1.2.3.4"], "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}]});
        let mixed = dns(&json!({"spec": {"dnsPolicy": "Default", "dnsConfig": own.clone()}}), conf);
        assert_eq!(mixed.servers, ["10.0.0.2", "1.2.3.4"]);
        assert_eq!(mixed.options, ["ndots:2", "ndots:5", "edns0"]);
        let none = dns(&json!({"spec": {"dnsPolicy": "None", "dnsConfig": own}}), conf);
        assert_eq!((none.servers.len(), none.searches.len()), (1, 0));
    }

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "web-0", "namespace": "d"}, "spec": spec})
    }

    #[test]
    fn a_subdomain_lengthens_the_name_and_fqdn_makes_it_the_hosts() {
        let name = |spec: Value| hostname(&pod(spec)).unwrap();
        assert_eq!(name(json!({})), "web-0");
        assert_eq!(name(json!({"hostname": "h", "subdomain": "s"})), "h");
        assert_eq!(name(json!({"subdomain": "s", "setHostnameAsFQDN": true})), "web-0.s.d.svc.cluster.local");
        // Without a subdomain there is no longer name.
        assert_eq!(name(json!({"setHostnameAsFQDN": true})), "web-0");
        assert_eq!(name(json!({"hostname": "h", "subdomain": "s", "hostnameOverride": "db.example"})), "db.example");
        let long = pod(json!({"subdomain": "s".repeat(50), "setHostnameAsFQDN": true}));
        let error = hostname(&long).unwrap_err();
        assert!(error.ends_with("is too long (64 characters is the max, 76 characters requested)"), "{error}");
        let mut cut = pod(json!({}));
        cut["metadata"]["name"] = format!("{}-tail", "a".repeat(62)).into();
        assert_eq!(hostname(&cut).unwrap(), "a".repeat(62));
    }

    #[test]
    fn the_hosts_file_knows_the_pod_and_its_aliases() {
        let aliases = json!([{"ip": "10.1.1.1", "hostnames": ["a", "b"]}]);
        let own = pod(json!({"subdomain": "s", "hostAliases": aliases}));
        assert_eq!(
            hosts_text(&own, "10.0.0.9", "not this"),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             10.0.0.9\tweb-0.s.d.svc.cluster.local\tweb-0\n10.1.1.1\ta\tb\n"
        );
        let on_node = pod(json!({"hostNetwork": true, "hostAliases": aliases}));
        assert_eq!(hosts_text(&on_node, "10.0.0.9", "10.2.2.2 n"), "10.2.2.2 n\n10.1.1.1\ta\tb\n");
    }
}
