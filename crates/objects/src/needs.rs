//! What a pod needs of its node, as the scheduler places it and the worker admits it: amounts, ports
//! of the node, labels.
//!
//! Rules: kubernetes.io/docs/concepts/configuration/manage-resources-containers,
//! …/workloads/pods/init-containers, …/workloads/pods/sidecar-containers, …/scheduling-eviction/pod-overhead,
//! …/scheduling-eviction/assign-pod-node.

use crate::selector::{Labels, Requirement, from_expression};
use crate::{Quantity, Value, ValueExt};
use compact_str::CompactString;
use std::collections::BTreeMap;

/// Amounts by resource name: CPU in thousandths, everything else in whole units.
pub type Resources = BTreeMap<CompactString, i64>;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

fn amount(resource: &str, value: &Value) -> i64 {
    let text = value.as_str().map_or_else(|| value.to_string(), ToString::to_string);
    let quantity = Quantity::parse(&text).unwrap_or_default();
    if resource == "cpu" { quantity.milli() } else { quantity.value() }
}

/// The amounts of a `ResourceList`.
pub fn amounts(list: &Value) -> Resources {
    list.as_object().into_iter().flatten().map(|(name, value)| (name.as_str().into(), amount(name, value))).collect()
}

pub fn add(total: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_default() += amount;
    }
}

pub fn subtract(total: &mut Resources, less: &Resources) {
    for (name, amount) in less {
        *total.entry(name.clone()).or_default() -= amount;
    }
}

fn raise(total: &mut Resources, to: &Resources) {
    for (name, amount) in to {
        let entry = total.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

/// What a pod occupies at its hungriest moment, `of` saying what one container does: all containers and
/// sidecars together, or an init container with the sidecars started before it; what the pod asks for
/// as a whole goes before that; the overhead comes on top.
pub fn total(pod: &Value, of: impl Fn(&Value) -> Resources) -> Resources {
    let (mut together, mut sidecars, mut starting) = (Resources::new(), Resources::new(), Resources::new());
    for container in pod.items("spec.containers") {
        add(&mut together, &of(container));
    }
    for container in pod.items("spec.initContainers") {
        let mut now = of(container);
        if container.text("restartPolicy") == "Always" {
            add(&mut together, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut starting, &now);
    }
    raise(&mut together, &starting);
    together.extend(amounts(pod.at("spec.resources.requests")));
    add(&mut together, &amounts(pod.at("spec.overhead")));
    together
}

/// What a pod takes from its node; itself counts as one of the node's pods.
pub fn requests(pod: &Value) -> Resources {
    let mut requests = total(pod, |container| amounts(container.at("resources.requests")));
    requests.insert("pods".into(), 1);
    requests
}

#[derive(Clone, Debug, PartialEq)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i64,
}

impl HostPort {
    fn is_any(&self) -> bool {
        ["", "0.0.0.0", "::"].contains(&self.ip.as_str())
    }

    pub fn clashes(&self, other: &HostPort) -> bool {
        (&self.protocol, self.port) == (&other.protocol, other.port)
            && (self.is_any() || other.is_any() || self.ip == other.ip)
    }
}

/// Ports of the node that the pod takes: its containers' and its sidecars'.
pub fn host_ports(spec: &Value) -> Vec<HostPort> {
    let sidecars = spec.items("initContainers").iter().filter(|init| init.text("restartPolicy") == "Always");
    let ports = spec.items("containers").iter().chain(sidecars).flat_map(|container| container.items("ports"));
    let host_port = |port: &Value| {
        let number = port.at("hostPort").as_i64().filter(|number| *number > 0)?;
        let protocol = if port.text("protocol").is_empty() { "TCP" } else { port.text("protocol") };
        Some(HostPort { ip: port.text("hostIP").into(), protocol: protocol.into(), port: number })
    };
    ports.filter_map(host_port).collect()
}

/// A node selector term.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeTerm {
    pub labels: Vec<Requirement>,
    /// On `metadata.name`.
    pub names: Vec<Requirement>,
}

impl NodeTerm {
    /// A term that cannot be understood (`Gt` with a bound that is no number) matches nothing, as an
    /// empty one does.
    pub fn of(term: &Value) -> NodeTerm {
        // An expression that says nothing known must not make its term match more than it says.
        let requirements = |list: &str| term.items(list).iter().map(from_expression).collect::<Option<Vec<_>>>();
        match (requirements("matchExpressions"), requirements("matchFields")) {
            (Some(labels), Some(names)) => NodeTerm { labels, names },
            _ => NodeTerm::default(),
        }
    }

    /// All expressions and fields must match; an empty term matches nothing.
    pub fn matches(&self, node: &str, labels: &Labels) -> bool {
        let name: Labels = [("metadata.name".into(), node.into())].into();
        let empty = self.labels.is_empty() && self.names.is_empty();
        !empty && self.labels.iter().all(|r| r.matches(labels)) && self.names.iter().all(|r| r.matches(&name))
    }
}

/// The nodes that a pod's nodeSelector and required node affinity allow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeChoice {
    selector: Vec<Requirement>,
    /// Alternatives; `None` when there is no required node affinity.
    terms: Option<Vec<NodeTerm>>,
}

impl NodeChoice {
    pub fn of(spec: &Value) -> NodeChoice {
        let selected = spec.at("nodeSelector").as_object().into_iter().flatten();
        let selector =
            selected.map(|(key, value)| Requirement::In(key.clone(), vec![value.as_str().unwrap_or("").into()]));
        let required = spec.at("affinity.nodeAffinity").at(REQUIRED);
        let terms = || required.items("nodeSelectorTerms").iter().map(NodeTerm::of).collect();
        NodeChoice { selector: selector.collect(), terms: required.is_object().then(terms) }
    }

    pub fn allows(&self, node: &str, labels: &Labels) -> bool {
        self.selector.iter().all(|requirement| requirement.matches(labels))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node, labels)))
    }
}
