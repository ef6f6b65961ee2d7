//! A node as placement needs it.

use compact_str::CompactString;
use objects::needs::{Resources, amounts};
use objects::selector::Labels;
use objects::{Record, Value, ValueExt};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

impl Taint {
    /// The taint that a cordon amounts to.
    pub(crate) fn cordon() -> Taint {
        Taint { key: "node.kubernetes.io/unschedulable".into(), value: String::new(), effect: "NoSchedule".into() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct NodeInfo {
    pub name: CompactString,
    pub labels: Labels,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub allocatable: Resources,
    /// Bytes of each image the node holds, by every name it has.
    pub images: BTreeMap<String, i64>,
}

impl NodeInfo {
    pub fn of(record: &Record) -> NodeInfo {
        let node = record.value();
        let taint = |t: &Value| Taint {
            key: t.text("key").into(),
            value: t.text("value").into(),
            effect: t.text("effect").into(),
        };
        let named = |image: &Value| {
            let size = image.at("sizeBytes").as_i64().unwrap_or(0);
            let names: Vec<String> =
                image.items("names").iter().filter_map(Value::as_str).map(ToString::to_string).collect();
            names.into_iter().map(move |name| (name, size))
        };
        NodeInfo {
            name: record.key.name.clone(),
            labels: record.header.labels.clone(),
            unschedulable: node.at("spec.unschedulable") == true,
            taints: node.items("spec.taints").iter().map(taint).collect(),
            allocatable: amounts(node.at("status.allocatable")),
            images: node.items("status.images").iter().flat_map(named).collect(),
        }
    }

    /// The node's domain of a topology.
    pub fn domain(&self, topology_key: &str) -> Option<&str> {
        self.labels.get(topology_key).map(CompactString::as_str)
    }

    pub fn allocatable(&self, resource: &str) -> i64 {
        self.allocatable.get(resource).copied().unwrap_or(0)
    }
}
