//! What variables and files of a pod refer to: ConfigMaps, Secrets, and the pod itself.

use crate::Assignment;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use objects::{Quantity, Value, ValueExt};
use std::collections::BTreeMap;

/// A reference that cannot be followed (yet); the container waits with this as its message.
pub(crate) type Missing = String;

/// What a pod refers to, and where it runs.
pub(crate) struct Sources<'a> {
    pub(crate) assignment: &'a Assignment,
    pub(crate) host_ip: &'a str,
    pub(crate) pod_ip: &'a str,
}

impl Sources<'_> {
    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.assignment.objects.iter().find(|o| o.text("kind") == kind && o.text("metadata.name") == name)
    }

    /// The value of a key of a ConfigMap or Secret; `Ok(None)` when it is optional and absent.
    pub(crate) fn key(&self, kind: &str, reference: &Value) -> Result<Option<Vec<u8>>, Missing> {
        let (name, key) = (reference.text("name"), reference.text("key"));
        let optional = reference.at("optional") == true;
        let word = kind.to_lowercase();
        let Some(object) = self.find(kind, name) else {
            return if optional { Ok(None) } else { Err(format!("{word} {name:?} not found")) };
        };
        match texts(object).remove(key) {
            Some(value) => Ok(Some(value)),
            None if optional => Ok(None),
            None => {
                let namespace = self.assignment.pod.text("metadata.namespace");
                Err(format!("couldn't find key {key} in {kind} {namespace}/{name}"))
            }
        }
    }

    /// The value of a field of the pod, as the downward API gives it.
    pub(crate) fn field(&self, path: &str) -> String {
        let pod = &self.assignment.pod;
        let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
        let list = |map: &Value| {
            let pairs = map.as_object().into_iter().flatten();
            pairs.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n")
        };
        if let Some(key) = keyed("metadata.labels['") {
            return pod.label(key).unwrap_or("").into();
        }
        if let Some(key) = keyed("metadata.annotations['") {
            return pod.annotation(key).unwrap_or("").into();
        }
        match path {
            "status.podIP" | "status.podIPs" => self.pod_ip.into(),
            "status.hostIP" | "status.hostIPs" => self.host_ip.into(),
            "metadata.labels" | "metadata.annotations" => list(pod.at(path)),
            path => pod.text(path).into(),
        }
    }

    pub(crate) fn resource(&self, container: &Value, reference: &Value) -> String {
        let resource = reference.text("resource");
        let named = reference.text("containerName");
        let containers = self.assignment.pod.items("spec.containers");
        let container = containers.iter().find(|c| !named.is_empty() && c.text("name") == named).unwrap_or(container);
        let amount = Quantity::parse(container.at("resources").text(resource)).unwrap_or_default();
        let divisor = Quantity::parse(reference.text("divisor")).map_or(1000, Quantity::milli).max(1);
        (amount.milli().saturating_add(divisor - 1) / divisor).to_string()
    }
}

/// All entries of a ConfigMap or Secret, decoded.
pub(crate) fn entries(object: &Value) -> BTreeMap<String, Vec<u8>> {
    let mut all = texts(object);
    let binary = object.at("binaryData").as_object().into_iter().flatten();
    all.extend(
        binary.map(|(key, value)| (key.clone(), STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default())),
    );
    all
}

/// Those that can become variables: a ConfigMap's `binaryData` cannot.
pub(crate) fn texts(object: &Value) -> BTreeMap<String, Vec<u8>> {
    let secret = object.text("kind") == "Secret";
    let bytes = |text: &str| match secret {
        true => STANDARD.decode(text).unwrap_or_default(),
        false => text.as_bytes().to_vec(),
    };
    let data = object.at("data").as_object().into_iter().flatten();
    data.map(|(key, value)| (key.clone(), bytes(value.as_str().unwrap_or("")))).collect()
}
