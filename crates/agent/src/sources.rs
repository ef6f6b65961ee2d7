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
    /// What pods may have of the node, as its status says.
    pub(crate) allocatable: &'a Value,
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

    /// A request or limit of a container, in units of the divisor, rounded up. A container without a limit
    /// may have what the node has for pods: that is the value of the limit.
    ///
    /// Rule: kubernetes.io/docs/concepts/workloads/pods/downward-api, "Fallback information for resource
    /// limits".
    pub(crate) fn resource(&self, container: &Value, reference: &Value) -> String {
        let (resource, named) = (reference.text("resource"), reference.text("containerName"));
        let lists = ["spec.containers", "spec.initContainers"].map(|list| self.assignment.pod.items(list));
        let other = lists.into_iter().flatten().find(|c| !named.is_empty() && c.text("name") == named);
        let own = Quantity::parse(other.unwrap_or(container).at("resources").text(resource)).unwrap_or_default();
        let amount = match resource.strip_prefix("limits.") {
            Some(limited) if own.milli() == 0 => {
                Quantity::parse(self.allocatable.text(limited)).unwrap_or_default().milli()
            }
            _ => own.milli(),
        };
        // No divisor is written as 0 too.
        let divisor = Quantity::parse(reference.text("divisor")).map(Quantity::milli).filter(|divisor| *divisor > 0);
        let divisor = divisor.unwrap_or(1000);
        (amount.saturating_add(divisor - 1) / divisor).to_string()
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_limit_that_is_not_set_is_what_the_node_has() {
        let containers = json!([
            {"name": "free"},
            {"name": "held", "resources": {"limits": {"cpu": "250m", "memory": "1Gi"}, "requests": {"cpu": "100m"}}}]);
        let pod = json!({"spec": {"containers": containers, "initContainers": [
            {"name": "first", "resources": {"limits": {"cpu": "3"}}}]}});
        let assignment = Assignment { pod, ..Assignment::default() };
        let allocatable = json!({"cpu": "1900m", "memory": "2048Ki", "pods": "110"});
        let sources = Sources { assignment: &assignment, host_ip: "h", pod_ip: "i", allocatable: &allocatable };
        let of = |name: &str, resource: &str, divisor: &str| {
            let reference = json!({"containerName": name, "resource": resource, "divisor": divisor});
            sources.resource(&Value::Null, &reference)
        };
        assert_eq!((of("free", "limits.cpu", "0"), of("free", "limits.cpu", "1m")), ("2".into(), "1900".into()));
        assert_eq!(
            (of("free", "limits.memory", ""), of("free", "limits.memory", "1Mi")),
            ("2097152".into(), "2".into())
        );
        assert_eq!((of("held", "limits.cpu", "1m"), of("held", "limits.memory", "1Mi")), ("250".into(), "1024".into()));
        assert_eq!((of("held", "requests.cpu", "1"), of("free", "requests.cpu", "1")), ("1".into(), "0".into()));
        assert_eq!(
            (of("first", "limits.cpu", "1"), of("free", "limits.ephemeral-storage", "1")),
            ("3".into(), "0".into())
        );
    }
}
