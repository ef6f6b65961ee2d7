//! What the API adds to objects on their way in, besides plain defaults.

use objects::{Key, Status, Value, ValueExt, json, registry};
use state::View;

/// How long a pod stays bound to a node that is not ready or unreachable, unless it says otherwise.
/// Kubernetes waits 300 s; nodes here are found dead within 4 s, so that a replacement runs in
/// about ten.
pub const DEFAULT_TOLERATION_S: i64 = 3;

/// Namespaces that are there from the start and may not be deleted.
pub const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

const SYSTEM_PRIORITIES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(crate) fn admit_pod(pod: &mut Value, view: &View) -> Result<(), Status> {
    if pod.text("spec.serviceAccountName").is_empty() {
        pod.set("spec.serviceAccountName", "default");
        pod.set("spec.serviceAccount", "default");
    }
    admit_priority(pod, view)?;
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = pod.items("spec.tolerations").iter().any(|toleration| {
            let matches_key = [key, ""].contains(&toleration.text("key"));
            matches_key && ["NoExecute", ""].contains(&toleration.text("effect"))
        });
        if !tolerated {
            let toleration = json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": DEFAULT_TOLERATION_S,
            });
            pod.default_to("spec.tolerations", json!([]));
            let list = pod.get_mut("spec").and_then(|spec| spec.get_mut("tolerations")).and_then(Value::as_array_mut);
            list.into_iter().for_each(|list| list.push(toleration.clone()));
        }
    }
    Ok(())
}

/// Resolves the priority class to a number, as the Priority admission plugin does.
fn admit_priority(pod: &mut Value, view: &View) -> Result<(), Status> {
    let forbidden =
        |pod: &Value, why: &str| Err(Status::forbidden(registry::must(registry::POD), pod.text("metadata.name"), why));
    let class = pod.text("spec.priorityClassName").to_string();
    let (priority, policy) = if class.is_empty() {
        let default = view.list(registry::PRIORITY_CLASS, "", None).map(|record| record.value());
        let default = default.filter(|class| class.at("globalDefault") == true).max_by_key(|c| c.at("value").as_i64());
        match default {
            Some(class) => {
                pod.set("spec.priorityClassName", class.text("metadata.name"));
                (class.at("value").as_i64().unwrap_or(0), class.text("preemptionPolicy").to_string())
            }
            None => (0, String::new()),
        }
    } else if let Some(record) = view.get(&Key::new(registry::PRIORITY_CLASS, "", &class)) {
        let class = record.value();
        (class.at("value").as_i64().unwrap_or(0), class.text("preemptionPolicy").to_string())
    } else if let Some((_, priority)) = SYSTEM_PRIORITIES.iter().find(|(name, _)| *name == class) {
        (*priority, String::new())
    } else {
        return forbidden(pod, &format!("no PriorityClass with name {class} was found"));
    };
    if let Some(given) = pod.at("spec.priority").as_i64().filter(|given| *given != priority) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        );
        return forbidden(pod, &why);
    }
    pod.set("spec.priority", priority);
    let policy = if policy.is_empty() { "PreemptLowerPriority".into() } else { policy };
    pod.default_to("spec.preemptionPolicy", policy);
    Ok(())
}
