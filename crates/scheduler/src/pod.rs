//! A pod as placement needs it.

use crate::node::Taint;
use crate::resources;
use compact_str::CompactString;
use objects::needs::{self, HostPort, NodeChoice, NodeTerm, Resources, host_ports};
use objects::selector::{Labels, Requirement, Selector};
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
    pub node_choice: NodeChoice,
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
        let images = spec.items("containers").iter().chain(spec.items("initContainers"));
        let set = record.header.controller().filter(|owner| owner.kind == "ReplicaSet");
        PodInfo {
            key: record.key.clone(),
            created: record.header.created.map_or(0, |at| at.0),
            priority: spec.at("priority").as_i64().unwrap_or(0),
            labels: labels.clone(),
            requests: needs::requests(&pod),
            scored: resources::scored(&pod),
            host_ports: host_ports(spec),
            tolerations: spec.items("tolerations").iter().map(toleration).collect(),
            node_choice: NodeChoice::of(spec),
            node_preferences: node
                .items(PREFERRED)
                .iter()
                .map(|item| (weight(item), NodeTerm::of(item.at("preference"))))
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
