//! The cluster as the scheduler sees it: nodes, and pods in small projections.

use objects::selector::{Labels, Requirement, Selector, from_expression};
use objects::{Key, Quantity, Record, Revision, Value, ValueExt, registry};
use state::View;
use std::collections::BTreeMap;

/// Amounts by resource name: CPU in thousandths, everything else in whole units.
pub type Resources = BTreeMap<String, i64>;

#[derive(Clone, Debug, PartialEq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NodeInfo {
    pub name: String,
    pub labels: Labels,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub allocatable: Resources,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Toleration {
    pub key: String,
    pub exists: bool,
    pub value: String,
    pub effect: String,
}

impl Toleration {
    /// Rules: kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.exists || self.value == taint.value)
    }
}

/// A node selector term: all expressions and fields must match; an empty term matches nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeTerm {
    pub labels: Vec<Requirement>,
    /// On `metadata.name`.
    pub names: Vec<Requirement>,
}

impl NodeTerm {
    pub fn matches(&self, node: &NodeInfo) -> bool {
        let name: Labels = [("metadata.name".into(), node.name.as_str().into())].into();
        let empty = self.labels.is_empty() && self.names.is_empty();
        !empty && self.labels.iter().all(|r| r.matches(&node.labels)) && self.names.iter().all(|r| r.matches(&name))
    }
}

/// A pod (anti-)affinity term: which pods, within which topology.
#[derive(Clone, Debug, PartialEq)]
pub struct PodTerm {
    pub topology_key: String,
    /// `None` matches no pod.
    pub selector: Option<Selector>,
    /// Named namespaces; empty with no selector means the pod's own.
    pub namespaces: Vec<String>,
    pub namespace_selector: Option<Selector>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    pub max_skew: i64,
    pub topology_key: String,
    pub hard: bool,
    pub selector: Option<Selector>,
    pub min_domains: i64,
}

/// A pod as placement needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodInfo {
    pub key: Key,
    pub created: i64,
    pub priority: i64,
    pub labels: Labels,
    pub node: Option<String>,
    pub requests: Resources,
    /// (host address, protocol, port).
    pub host_ports: Vec<(String, String, i64)>,
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
    pub gated: bool,
    pub scheduler: String,
    pub leaving: bool,
}

fn requirements(expressions: &[Value]) -> Vec<Requirement> {
    expressions.iter().filter_map(from_expression).collect()
}

fn node_term(term: &Value) -> NodeTerm {
    NodeTerm { labels: requirements(term.items("matchExpressions")), names: requirements(term.items("matchFields")) }
}

fn pod_term(term: &Value) -> PodTerm {
    let names = term.items("namespaces").iter().filter_map(Value::as_str).map(ToString::to_string);
    PodTerm {
        topology_key: term.text("topologyKey").into(),
        selector: Selector::from_object(term.at("labelSelector")),
        namespaces: names.collect(),
        namespace_selector: Selector::from_object(term.at("namespaceSelector")),
    }
}

fn amount(resource: &str, value: &Value) -> i64 {
    let text = value.as_str().map_or_else(|| value.to_string(), ToString::to_string);
    let quantity = Quantity::parse(&text).unwrap_or_default();
    if resource == "cpu" { quantity.milli() } else { quantity.value() }
}

pub(crate) fn resources(map: &Value) -> Resources {
    map.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), amount(name, value))).collect()
}

/// The larger of what all containers need together and what any init container needs alone.
fn requests(pod: &Value) -> Resources {
    let mut total = Resources::new();
    for container in pod.items("spec.containers") {
        for (name, amount) in resources(container.at("resources.requests")) {
            *total.entry(name).or_default() += amount;
        }
    }
    for container in pod.items("spec.initContainers") {
        for (name, amount) in resources(container.at("resources.requests")) {
            let entry = total.entry(name).or_default();
            *entry = (*entry).max(amount);
        }
    }
    for (name, amount) in resources(pod.at("spec.overhead")) {
        *total.entry(name).or_default() += amount;
    }
    total.insert("pods".into(), 1);
    total
}

impl PodInfo {
    pub fn of(record: &Record) -> PodInfo {
        let pod = record.value();
        let spec = pod.at("spec");
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let node_affinity = spec.at("affinity.nodeAffinity");
        let (affinity, anti) = (spec.at("affinity.podAffinity"), spec.at("affinity.podAntiAffinity"));
        let weighted = |family: &Value, sign: i64| -> Vec<(i64, PodTerm)> {
            let term =
                |item: &Value| (sign * item.at("weight").as_i64().unwrap_or(0), pod_term(item.at("podAffinityTerm")));
            family.items(preferred).iter().map(term).collect()
        };
        let selector = spec.at("nodeSelector").as_object().into_iter().flatten();
        let ports = spec.items("containers").iter().flat_map(|container| container.items("ports"));
        let mut preferences = weighted(affinity, 1);
        preferences.extend(weighted(anti, -1));
        PodInfo {
            key: record.key.clone(),
            created: record.header.created.map_or(0, |at| at.0),
            priority: spec.at("priority").as_i64().unwrap_or(0),
            labels: record.header.labels.clone(),
            node: record.header.node_name.as_ref().map(ToString::to_string),
            requests: requests(&pod),
            host_ports: ports
                .filter(|port| port.at("hostPort").as_i64().unwrap_or(0) > 0)
                .map(|port| {
                    let number = port.at("hostPort").as_i64().unwrap_or(0);
                    (port.text("hostIP").to_string(), port.text("protocol").to_string(), number)
                })
                .collect(),
            tolerations: spec
                .items("tolerations")
                .iter()
                .map(|t| Toleration {
                    key: t.text("key").into(),
                    exists: t.text("operator") == "Exists",
                    value: t.text("value").into(),
                    effect: t.text("effect").into(),
                })
                .collect(),
            node_selector: selector
                .map(|(key, value)| Requirement::In(key.clone(), vec![value.as_str().unwrap_or("").into()]))
                .collect(),
            node_affinity: node_affinity
                .at(required)
                .is_object()
                .then(|| node_affinity.at(required).items("nodeSelectorTerms").iter().map(node_term).collect()),
            node_preferences: node_affinity
                .items(preferred)
                .iter()
                .map(|item| (item.at("weight").as_i64().unwrap_or(0), node_term(item.at("preference"))))
                .collect(),
            affinity: affinity.items(required).iter().map(pod_term).collect(),
            anti_affinity: anti.items(required).iter().map(pod_term).collect(),
            preferences,
            spread: spec
                .items("topologySpreadConstraints")
                .iter()
                .map(|c| Spread {
                    max_skew: c.at("maxSkew").as_i64().unwrap_or(1),
                    topology_key: c.text("topologyKey").into(),
                    hard: c.text("whenUnsatisfiable") == "DoNotSchedule",
                    selector: Selector::from_object(c.at("labelSelector")),
                    min_domains: c.at("minDomains").as_i64().unwrap_or(1),
                })
                .collect(),
            gated: !spec.items("schedulingGates").is_empty(),
            scheduler: spec.text("schedulerName").into(),
            leaving: record.header.deletion.is_some(),
        }
    }

    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| toleration.tolerates(taint))
    }
}

impl NodeInfo {
    pub fn of(record: &Record) -> NodeInfo {
        let node = record.value();
        let taint = |t: &Value| Taint {
            key: t.text("key").into(),
            value: t.text("value").into(),
            effect: t.text("effect").into(),
        };
        NodeInfo {
            name: record.key.name.to_string(),
            labels: record.header.labels.clone(),
            unschedulable: node.at("spec.unschedulable") == true,
            taints: node.items("spec.taints").iter().map(taint).collect(),
            allocatable: resources(node.at("status.allocatable")),
        }
    }
}

/// Kept up to date from views; projections are made once per revision of an object.
#[derive(Clone, Debug, Default)]
pub struct Model {
    nodes: BTreeMap<String, (Revision, NodeInfo)>,
    pods: BTreeMap<Key, (Revision, PodInfo)>,
    namespaces: BTreeMap<String, Labels>,
}

impl Model {
    /// Brings the model to `view`. Assumed placements stay until the view shows the pod changed.
    pub fn sync(&mut self, view: &View) {
        let mut nodes = std::mem::take(&mut self.nodes);
        for record in view.list(registry::NODE, "", None) {
            let name = record.key.name.to_string();
            let kept = nodes.remove(&name).filter(|(revision, _)| *revision == record.header.revision);
            let entry = kept.unwrap_or_else(|| (record.header.revision, NodeInfo::of(record)));
            self.nodes.insert(name, entry);
        }
        let mut pods = std::mem::take(&mut self.pods);
        for record in view.list(registry::POD, "", None) {
            if matches!(record.header.phase.as_deref(), Some("Succeeded" | "Failed")) {
                continue;
            }
            let kept = pods.remove(&record.key).filter(|(revision, _)| *revision == record.header.revision);
            let entry = kept.unwrap_or_else(|| (record.header.revision, PodInfo::of(record)));
            self.pods.insert(record.key.clone(), entry);
        }
        let namespaces = view.list(registry::NAMESPACE, "", None);
        self.namespaces = namespaces.map(|r| (r.key.name.to_string(), r.header.labels.clone())).collect();
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().map(|(_, node)| node)
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).map(|(_, node)| node)
    }

    /// Pods that hold a place on a node.
    pub fn placed(&self) -> impl Iterator<Item = (&PodInfo, &NodeInfo)> {
        self.pods.values().filter_map(|(_, pod)| Some((pod, self.node(pod.node.as_deref()?)?)))
    }

    pub fn placed_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a PodInfo> {
        self.pods.values().map(|(_, pod)| pod).filter(move |pod| pod.node.as_deref() == Some(node))
    }

    pub fn waiting(&self) -> impl Iterator<Item = &PodInfo> {
        let pods = self.pods.values().map(|(_, pod)| pod);
        pods.filter(|pod| pod.node.is_none() && !pod.gated && !pod.leaving && pod.scheduler == crate::NAME)
    }

    /// Takes a placement for granted until the view says otherwise.
    pub fn assume(&mut self, pod: &Key, node: &str) {
        if let Some((_, pod)) = self.pods.get_mut(pod) {
            pod.node = Some(node.into());
        }
    }

    /// A binding was refused: the pod waits again.
    pub fn forget(&mut self, pod: &Key) {
        if let Some((_, pod)) = self.pods.get_mut(pod) {
            pod.node = None;
        }
    }

    pub fn namespace_labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace)
    }

    /// Whether `term`, written on a pod of `owner_namespace`, is about `other`.
    pub fn term_matches(&self, term: &PodTerm, owner_namespace: &str, other: &PodInfo) -> bool {
        let namespace = other.key.namespace.as_str();
        let own = term.namespaces.is_empty() && term.namespace_selector.is_none() && namespace == owner_namespace;
        let named = term.namespaces.iter().any(|named| named == namespace);
        let selected = term
            .namespace_selector
            .as_ref()
            .is_some_and(|selector| self.namespace_labels(namespace).is_some_and(|labels| selector.matches(labels)));
        (own || named || selected) && term.selector.as_ref().is_some_and(|selector| selector.matches(&other.labels))
    }
}
