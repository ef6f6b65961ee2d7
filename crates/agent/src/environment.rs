//! What a container is given besides volumes and names: environment variables and identity, from the pod
//! and what it refers to.

use crate::sources::{Missing, Sources, texts};
use objects::{Quantity, Value, ValueExt};
use runtime::{AppArmor, ContainerSpec};
use std::path::Path;

/// `$(NAME)` stands for an earlier variable; `$$(NAME)` for itself.
pub(crate) fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')')) {
            match env.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out + rest
}

/// The environment of a container.
pub(crate) fn variables(sources: &Sources, container: &Value) -> Result<Vec<(String, String)>, Missing> {
    let mut env = Vec::new();
    for from in container.items("envFrom") {
        for (field, kind) in [("configMapRef", "ConfigMap"), ("secretRef", "Secret")] {
            let reference = from.at(field);
            if reference.is_null() {
                continue;
            }
            let name = reference.text("name");
            match sources.find(kind, name) {
                Some(object) => env.extend(texts(object).into_iter().map(|(key, value)| {
                    (format!("{}{key}", from.text("prefix")), String::from_utf8_lossy(&value).into_owned())
                })),
                None if reference.at("optional") == true => {}
                None => return Err(format!("{} {name:?} not found", kind.to_lowercase())),
            }
        }
    }
    for variable in container.items("env") {
        let name = variable.text("name").to_string();
        let from = variable.at("valueFrom");
        let value = if let Some(kind) = [("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")]
            .iter()
            .find(|(field, _)| !from.at(field).is_null())
        {
            match sources.key(kind.1, from.at(kind.0))? {
                Some(value) => String::from_utf8_lossy(&value).into_owned(),
                None => continue,
            }
        } else if !from.at("fieldRef").is_null() {
            sources.field(from.text("fieldRef.fieldPath"))
        } else if !from.at("resourceFieldRef").is_null() {
            sources.resource(container, from.at("resourceFieldRef"))
        } else {
            expand(variable.text("value"), &env)
        };
        env.push((name, value));
    }
    Ok(env)
}

pub(crate) fn must_not_be_root(pod: &Value, container: &Value) -> bool {
    let said = |at: &Value| at.at("securityContext.runAsNonRoot").as_bool();
    said(container).or(said(pod.at("spec"))).unwrap_or(false)
}

/// Whether an image's user is certainly not root.
pub(crate) fn check_not_root(user: &str) -> Result<(), Missing> {
    match user.parse::<i64>() {
        Ok(0) => Err("container has runAsNonRoot and image will run as root".into()),
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
        )),
    }
}

/// The security context of a container: its own, else the pod's. The node's own seccomp profiles lie below
/// `profiles`.
pub(crate) fn security(pod: &Value, container: &Value, profiles: &Path) -> Result<ContainerSpec, Missing> {
    let (own, shared) = (container.at("securityContext"), pod.at("spec.securityContext"));
    let number = |field: &str| own.at(field).as_i64().or(shared.at(field).as_i64());
    let user = number("runAsUser");
    if must_not_be_root(pod, container) && user == Some(0) {
        return Err("container's runAsUser breaks non-root policy".into());
    }
    let texts =
        |field: &str| own.items(field).iter().filter_map(Value::as_str).map(ToString::to_string).collect::<Vec<_>>();
    let either = |field: &str| if own.at(field).is_null() { shared.at(field) } else { own.at(field) };
    let seccomp = either("seccompProfile");
    let groups = shared.items("supplementalGroups").iter().filter_map(Value::as_i64);
    Ok(ContainerSpec {
        privileged: own.at("privileged") == true,
        run_as_user: user,
        run_as_group: number("runAsGroup"),
        groups: groups.chain(shared.at("fsGroup").as_i64()).collect(),
        add_capabilities: texts("capabilities.add"),
        drop_capabilities: texts("capabilities.drop"),
        no_new_privileges: own.at("allowPrivilegeEscalation") == false,
        seccomp: match seccomp.text("type") {
            "Unconfined" => "unconfined".into(),
            "Localhost" => profiles.join(seccomp.text("localhostProfile")).display().to_string(),
            _ => String::new(),
        },
        app_armor: match either("appArmorProfile").text("type") {
            "Unconfined" => AppArmor::Unconfined,
            "RuntimeDefault" => AppArmor::RuntimeDefault,
            _ => AppArmor::Unsaid,
        },
        read_only_root: own.at("readOnlyRootFilesystem") == true,
        ..ContainerSpec::default()
    })
}

/// Who goes first when the machine is out of memory, by quality of service.
///
/// Rule: kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction, "Node out of memory".
pub(crate) fn oom_score(pod: &Value, container: &Value, memory_bytes: i64) -> i64 {
    match objects::kinds::pod::qos_class(pod.at("spec")) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = Quantity::parse(container.text("resources.requests.memory")).map_or(0, Quantity::value);
            let share = request.saturating_mul(1000) / memory_bytes.max(1);
            (1000 - share).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Assignment;
    use serde_json::json;

    #[test]
    fn out_of_memory_the_unpromised_go_first() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        let score = |pod: &Value| oom_score(pod, &pod.items("spec.containers")[0], 1000);
        assert_eq!(score(&pod(json!({}))), 1000);
        assert_eq!(score(&pod(json!({"requests": {"memory": "250"}}))), 750);
        let both = json!({"cpu": "1", "memory": "250"});
        assert_eq!(score(&pod(json!({"requests": both, "limits": both}))), -997);
    }

    #[test]
    fn a_containers_own_security_goes_before_the_pods() {
        let profile = json!({"type": "Localhost", "localhostProfile": "deny.json"});
        let pod = json!({"spec": {"securityContext": {"runAsUser": 5, "fsGroup": 7, "runAsNonRoot": true,
            "seccompProfile": profile, "appArmorProfile": {"type": "RuntimeDefault"}}}});
        let security = |own: Value| security(&pod, &json!({"securityContext": own}), Path::new("/profiles"));
        let spec = security(json!({"capabilities": {"drop": ["ALL"]}})).unwrap();
        assert_eq!((spec.run_as_user, spec.groups, spec.drop_capabilities), (Some(5), vec![7], vec!["ALL".into()]));
        assert_eq!((spec.seccomp.as_str(), spec.app_armor), ("/profiles/deny.json", AppArmor::RuntimeDefault));
        let spec = security(json!({"appArmorProfile": {"type": "Unconfined"}})).unwrap();
        assert_eq!(spec.app_armor, AppArmor::Unconfined);
        let error = security(json!({"runAsUser": 0})).unwrap_err();
        assert!(error.contains("non-root"), "{error}");
    }

    #[test]
    fn variables_from_everywhere() {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "labels": {"app": "w"}}, "spec": {}});
        let objects = vec![
            json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "v"}}),
            json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dG9w"}}),
        ];
        let assignment = Assignment { pod, objects, ..Assignment::default() };
        let container = json!({"envFrom": [{"prefix": "C_", "configMapRef": {"name": "c"}}], "env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$$(A)$(Z)"},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        ]});
        let sources = Sources { assignment: &assignment, host_ip: "h", pod_ip: "i", allocatable: &Value::Null };
        let env = variables(&sources, &container).unwrap();
        let text: Vec<String> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(text, ["C_k=v", "A=1", "B=1$(A)$(Z)", "S=top", "N=w"]);
        let missing = json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "q"}}}]});
        let error = variables(&sources, &missing).unwrap_err();
        assert_eq!(error, "couldn't find key q in Secret d/s");
    }
}
