//! A pod as placement needs it.

use crate::node::Taint;
use crate::resources::{self, Resources};
use compact_str::CompactString;
use objects::selector::{Labels, Requirement, Selector, from_expression};
use objects::{Key, Record, Value, ValueExt, registry};

#[derive(Clone, Debug, PartialEq)]
pub struct Toleration {
    pub key: String,
    pub exists: bool,
    pub value: String,
    pub effect: String,
}

impl Toleration {
    /// Without a key it tolerates every taint, without an effect every effect.
    ///
    /// Rules: kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.exists || self.value == taint.value)
    }
}

/// A node selector term.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeTerm {
    pub labels: Vec<Requirement>,
    /// On `metadata.name`.
    pub names: Vec<Requirement>,
}

/// A pod (anti-)affinity term: which pods, within which topology.
#[derive(Clone, Debug, PartialEq)]
pub struct PodTerm {
    pub topology_key: CompactString,
    /// `None` matches no pod.
    pub selector: Option<Selector>,
    /// By name: the pod's own when the term says nothing about namespaces.
    pub namespaces: Vec<CompactString>,
    /// By label, in addition.
    pub namespace_selector: Option<Selector>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    pub max_skew: i64,
    pub topology_key: CompactString,
    pub hard: bool,
    /// `None` matches no pod.
    pub selector: Option<Selector>,
    pub min_domains: i64,
    /// Only nodes that the pod's selector and affinity allow are counted.
    pub honors_affinity: bool,
    /// Only nodes whose taints the pod tolerates are counted.
    pub honors_taints: bool,
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

#[derive(Clone, Debug, PartialEq)]
pub struct PodInfo {
    pub key: Key,
    pub created: i64,
    pub priority: i64,
    pub labels: Labels,
    pub requests: Resources,
    /// CPU and memory as scores count them.
    pub scored: [i64; 2],
    pub host_ports: Vec<HostPort>,
    pub tolerations: Vec<Toleration>,
    pub node_selector: Vec<Requirement>,
    /// Alternatives; `None` when there is no required node affinity.
    pub node_affinity: Option<Vec<NodeTerm>>,
    pub node_preferences: Vec<(i64, NodeTerm)>,
    pub affinity: Vec<PodTerm>,
    pub anti_affinity: Vec<PodTerm>,
    /// Weights are negative for anti-affinity.
    pub preferences: Vec<(i64, PodTerm)>,
    pub spread: Vec<Spread>,
    pub images: Vec<String>,
    /// The ReplicaSet that controls it.
    pub set: Option<Key>,
    pub gated: bool,
    pub scheduler: String,
    pub leaving: bool,
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `None` when an expression cannot be understood: such a term must not match more than it says.
fn requirements(expressions: &[Value]) -> Option<Vec<Requirement>> {
    expressions.iter().map(from_expression).collect()
}

/// A term that cannot be understood (`Gt` with a bound that is no number) matches nothing, as an
/// empty one does.
fn node_term(term: &Value) -> NodeTerm {
    let labels = requirements(term.items("matchExpressions"));
    let names = requirements(term.items("matchFields"));
    match (labels, names) {
        (Some(labels), Some(names)) => NodeTerm { labels, names },
        _ => NodeTerm::default(),
    }
}

/// A label selector together with `matchLabelKeys` and `mismatchLabelKeys`, which stand for the
/// pod's own values of those labels.
fn selector(constraint: &Value, labels: &Labels) -> Option<Selector> {
    let mut selector = Selector::from_object(constraint.at("labelSelector"))?;
    let own = |list: &str| -> Vec<(String, Vec<String>)> {
        let keys = constraint.items(list).iter().filter_map(Value::as_str);
        keys.filter_map(|key| Some((key.to_string(), vec![labels.get(key)?.to_string()]))).collect()
    };
    selector.0.extend(own("matchLabelKeys").into_iter().map(|(key, value)| Requirement::In(key, value)));
    selector.0.extend(own("mismatchLabelKeys").into_iter().map(|(key, value)| Requirement::NotIn(key, value)));
    Some(selector)
}

fn pod_term(term: &Value, record: &Record) -> PodTerm {
    let named = term.items("namespaces").iter().filter_map(Value::as_str).map(CompactString::from);
    let mut namespaces: Vec<CompactString> = named.collect();
    let namespace_selector = Selector::from_object(term.at("namespaceSelector"));
    if namespaces.is_empty() && namespace_selector.is_none() {
        namespaces.push(record.key.namespace.clone());
    }
    PodTerm {
        topology_key: term.text("topologyKey").into(),
        selector: selector(term, &record.header.labels),
        namespaces,
        namespace_selector,
    }
}

fn spread(constraint: &Value, labels: &Labels) -> Spread {
    Spread {
        max_skew: constraint.at("maxSkew").as_i64().unwrap_or(1),
        topology_key: constraint.text("topologyKey").into(),
        hard: constraint.text("whenUnsatisfiable") == "DoNotSchedule",
        selector: selector(constraint, labels),
        min_domains: constraint.at("minDomains").as_i64().unwrap_or(1),
        honors_affinity: constraint.text("nodeAffinityPolicy") != "Ignore",
        honors_taints: constraint.text("nodeTaintsPolicy") == "Honor",
    }
}

fn toleration(toleration: &Value) -> Toleration {
    Toleration {
        key: toleration.text("key").into(),
        exists: toleration.text("operator") == "Exists",
        value: toleration.text("value").into(),
        effect: toleration.text("effect").into(),
    }
}

/// Ports of the node that the pod takes: its containers' and its sidecars'.
fn host_ports(spec: &Value) -> Vec<HostPort> {
    let sidecars = spec.items("initContainers").iter().filter(|init| init.text("restartPolicy") == "Always");
    let ports = spec.items("containers").iter().chain(sidecars).flat_map(|container| container.items("ports"));
    let host_port = |port: &Value| {
        let number = port.at("hostPort").as_i64().filter(|number| *number > 0)?;
        let protocol = if port.text("protocol").is_empty() { "TCP" } else { port.text("protocol") };
        Some(HostPort { ip: port.text("hostIP").into(), protocol: protocol.into(), port: number })
    };
    ports.filter_map(host_port).collect()
}

impl PodInfo {
    pub fn of(record: &Record) -> PodInfo {
        let pod = record.value();
        let spec = pod.at("spec");
        let labels = &record.header.labels;
        let node = spec.at("affinity.nodeAffinity");
        let (near, apart) = (spec.at("affinity.podAffinity"), spec.at("affinity.podAntiAffinity"));
        let weight = |item: &Value| item.at("weight").as_i64().unwrap_or(0);
        let required = |family: &Value| family.items(REQUIRED).iter().map(|term| pod_term(term, record)).collect();
        let preferred = |family: &Value, sign: i64| -> Vec<(i64, PodTerm)> {
            let term = |item: &Value| (sign * weight(item), pod_term(item.at("podAffinityTerm"), record));
            family.items(PREFERRED).iter().map(term).collect()
        };
        let selected = spec.at("nodeSelector").as_object().into_iter().flatten();
        let node_selector =
            selected.map(|(key, value)| Requirement::In(key.clone(), vec![value.as_str().unwrap_or("").into()]));
        let node_terms = node.at(REQUIRED);
        let images = spec.items("containers").iter().chain(spec.items("initContainers"));
        let set = record.header.controller().filter(|owner| owner.kind == "ReplicaSet");
        PodInfo {
            key: record.key.clone(),
            created: record.header.created.map_or(0, |at| at.0),
            priority: spec.at("priority").as_i64().unwrap_or(0),
            labels: labels.clone(),
            requests: resources::requests(&pod),
            scored: resources::scored(&pod),
            host_ports: host_ports(spec),
            tolerations: spec.items("tolerations").iter().map(toleration).collect(),
            node_selector: node_selector.collect(),
            node_affinity: node_terms
                .is_object()
                .then(|| node_terms.items("nodeSelectorTerms").iter().map(node_term).collect()),
            node_preferences: node
                .items(PREFERRED)
                .iter()
                .map(|item| (weight(item), node_term(item.at("preference"))))
                .collect(),
            affinity: required(near),
            anti_affinity: required(apart),
            preferences: [preferred(near, 1), preferred(apart, -1)].concat(),
            spread: spec.items("topologySpreadConstraints").iter().map(|c| spread(c, labels)).collect(),
            images: images.map(|container| container.text("image").to_string()).collect(),
            set: set.map(|owner| Key::new(registry::REPLICA_SET, &record.key.namespace, &owner.name)),
            gated: !spec.items("schedulingGates").is_empty(),
            scheduler: spec.text("schedulerName").into(),
            leaving: record.header.deletion.is_some(),
        }
    }

    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| toleration.tolerates(taint))
    }

    /// Whether it has any say about the pods around it.
    pub(crate) fn has_affinity(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferences.is_empty())
    }
}
