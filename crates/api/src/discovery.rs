//! Discovery documents, made from the registry of kinds.

use objects::registry::{self, Served};
use objects::{Kind, Value, json};
use std::collections::BTreeMap;

const VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];

/// The Kubernetes version whose semantics are served.
pub const MINOR: &str = "36";

pub fn version(git_commit: &str) -> Value {
    json!({
        "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0+balsa-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": git_commit, "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

pub fn has_subresource(kind: &Kind, name: &str) -> bool {
    (name == "status" && kind.has_status)
        || (name == "scale" && kind.has_scale)
        || kind.subresources.iter().any(|(subresource, ..)| *subresource == name)
}

/// What a subresource that is not there is called by who looks for it: those of Kubernetes by what they do.
pub(crate) fn absent_subresource(kind: &Kind, name: &str) -> String {
    let what = match (kind.kind, name) {
        ("Pod", "attach") => "attaching to containers is",
        ("Pod", "portforward") => "forwarding ports of pods is",
        ("Pod", "ephemeralcontainers") => "ephemeral containers are",
        ("Pod", "resize") => "resizing pods in place is",
        ("Pod" | "Node" | "Service", "proxy") => "proxying through masters is",
        ("ServiceAccount", "token") => "tokens of service accounts are",
        _ => return "the server could not find the requested resource".into(),
    };
    format!("{what} not supported by this version")
}

/// Groups in order of preference, each with its versions.
fn groups() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for served in registry::served() {
        let versions = groups.entry(served.group).or_default();
        if !versions.contains(&served.version) {
            versions.push(served.version);
        }
    }
    groups
}

fn subresources(kind: &Kind) -> Vec<(&'static str, &'static str, &'static str, &'static str, Vec<&'static str>)> {
    let mut all = Vec::new();
    if kind.has_status {
        all.push(("status", kind.kind, kind.group, kind.version, vec!["get", "patch", "update"]));
    }
    if kind.has_scale {
        all.push(("scale", "Scale", "autoscaling", "v1", vec!["get", "patch", "update"]));
    }
    for (name, sub_kind, api_version, verbs) in kind.subresources {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        all.push((name, sub_kind, group, version, verbs.to_vec()));
    }
    all
}

/// `/api` or `/apis`, in the old form.
pub fn legacy_root(core: bool, server: &str) -> Value {
    if core {
        return json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
        });
    }
    let all: Vec<Value> =
        groups().keys().filter(|group| !group.is_empty()).map(|group| group_document(group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all})
}

fn group_document(group: &str) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<Value> = groups().get(group).into_iter().flatten().map(version).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

/// `/apis/GROUP`; `None` when the group is not served.
pub fn group(group: &str) -> Option<Value> {
    let mut document = groups().contains_key(group).then(|| group_document(group))?;
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(document)
}

fn of_group_version(group: &str, version: &str) -> Vec<Served> {
    registry::served().filter(|served| served.group == group && served.version == version).collect()
}

/// `/api/v1` and `/apis/GROUP/VERSION`; `None` when it is not served.
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let served = of_group_version(group, version);
    if served.is_empty() {
        return None;
    }
    let mut list = Vec::new();
    for Served { kind, .. } in served {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": verbs(kind),
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        for (name, sub_kind, sub_group, sub_version, verbs) in subresources(kind) {
            let mut entry = json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": sub_kind, "verbs": verbs,
            });
            if sub_group != group {
                entry["group"] = sub_group.into();
                entry["version"] = sub_version.into();
            }
            list.push(entry);
        }
    }
    let group_version = registry::api_version(group, version);
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

/// Collections are deleted one by one by clients; the verb exists for every kind but namespaces.
fn verbs(kind: &Kind) -> Vec<&'static str> {
    if kind.create_only {
        return vec!["create"];
    }
    if kind.read_only.is_some() {
        return vec!["get", "list", "watch"];
    }
    let mut verbs = VERBS.to_vec();
    if kind.id != registry::NAMESPACE {
        verbs.insert(2, "deletecollection");
    }
    verbs
}

/// `/api` or `/apis` in the aggregated form; `version` is `v2` or `v2beta1`, which differ in name only.
pub fn aggregated(core: bool, version: &str) -> Value {
    let items: Vec<Value> = groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| json!({"version": version, "freshness": "Current", "resources": of_version(group, version)}))
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

fn of_version(group: &str, version: &str) -> Vec<Value> {
    let resource = |served: Served| {
        let kind = served.kind;
        let kind_reference =
            |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
        let subs: Vec<Value> = subresources(kind)
            .into_iter()
            .map(|(name, sub_kind, sub_group, sub_version, verbs)| {
                json!({"subresource": name, "responseKind": kind_reference(sub_group, sub_version, sub_kind), "verbs": verbs})
            })
            .collect();
        let mut entry = json!({
            "resource": kind.plural, "singularResource": kind.singular,
            "responseKind": kind_reference(served.group, served.version, kind.kind),
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" }, "verbs": verbs(kind),
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        if !subs.is_empty() {
            entry["subresources"] = json!(subs);
        }
        entry
    };
    of_group_version(group, version).into_iter().map(resource).collect()
}
