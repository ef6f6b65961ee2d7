//! What a container is given besides volumes: environment variables, names, identity, from the pod and
//! what it refers to.

use crate::sources::{Missing, Sources, texts};
use objects::{Quantity, Value, ValueExt};
use runtime::{ContainerSpec, Dns, Mount};
use std::io;
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

/// The pod's own /etc/hosts, unless the container mounts one or the pod is on the host's network.
pub(crate) fn hosts(pod: &Value, container: &Value, dir: &Path, pod_ip: &str) -> Result<Option<Mount>, Missing> {
    let own = container.items("volumeMounts").iter().any(|mount| mount.text("mountPath") == "/etc/hosts");
    if own || pod.at("spec.hostNetwork") == true {
        return Ok(None);
    }
    let hostname = Some(pod.text("spec.hostname")).filter(|name| !name.is_empty()).unwrap_or(pod.text("metadata.name"));
    let mut text = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{pod_ip}\t{hostname}\n");
    for alias in pod.items("spec.hostAliases") {
        let names: Vec<&str> = alias.items("hostnames").iter().filter_map(Value::as_str).collect();
        text.push_str(&format!("{}\t{}\n", alias.text("ip"), names.join("\t")));
    }
    let failed = |error: io::Error| format!("making /etc/hosts failed: {error}");
    std::fs::create_dir_all(dir).map_err(failed)?;
    let host = dir.join(".hosts");
    // Written in place: a running container has this very file mounted.
    std::fs::write(&host, text).map_err(failed)?;
    Ok(Some(Mount { host, container: "/etc/hosts".into(), read_only: false }))
}

/// What the pod's resolv.conf says. There is no cluster DNS in this version: `ClusterFirst` is the
/// node's own, as `Default`.
pub(crate) fn dns(pod: &Value, resolv_conf: &str) -> Dns {
    let mut dns = Dns::default();
    if pod.text("spec.dnsPolicy") != "None" {
        for line in resolv_conf.lines() {
            let mut words = line.split_whitespace().map(ToString::to_string);
            match words.next().as_deref() {
                Some("nameserver") => dns.servers.extend(words.next()),
                Some("search") => dns.searches = words.collect(),
                Some("options") => dns.options = words.collect(),
                _ => {}
            }
        }
    }
    let texts = |field: &str| pod.items(field).iter().filter_map(Value::as_str).map(ToString::to_string);
    dns.servers.extend(texts("spec.dnsConfig.nameservers"));
    dns.searches.extend(texts("spec.dnsConfig.searches"));
    let option = |option: &Value| match option.text("value") {
        "" => option.text("name").to_string(),
        value => format!("{}:{value}", option.text("name")),
    };
    dns.options.extend(pod.items("spec.dnsConfig.options").iter().map(option));
    dns
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

/// The security context of a container: its own, else the pod's.
pub(crate) fn security(pod: &Value, container: &Value) -> Result<ContainerSpec, Missing> {
    let (own, shared) = (container.at("securityContext"), pod.at("spec.securityContext"));
    let number = |field: &str| own.at(field).as_i64().or(shared.at(field).as_i64());
    let user = number("runAsUser");
    if must_not_be_root(pod, container) && user == Some(0) {
        return Err("container's runAsUser breaks non-root policy".into());
    }
    let texts =
        |field: &str| own.items(field).iter().filter_map(Value::as_str).map(ToString::to_string).collect::<Vec<_>>();
    let profile =
        if own.at("seccompProfile").is_null() { shared.at("seccompProfile") } else { own.at("seccompProfile") };
    let groups = shared.items("supplementalGroups").iter().filter_map(Value::as_i64);
    Ok(ContainerSpec {
        privileged: own.at("privileged") == true,
        run_as_user: user,
        run_as_group: number("runAsGroup"),
        groups: groups.chain(shared.at("fsGroup").as_i64()).collect(),
        add_capabilities: texts("capabilities.add"),
        drop_capabilities: texts("capabilities.drop"),
        no_new_privileges: own.at("allowPrivilegeEscalation") == false,
        seccomp: match profile.text("type") {
            "Unconfined" => "unconfined".into(),
            "Localhost" => profile.text("localhostProfile").into(),
            _ => String::new(),
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
    fn names_are_resolved_as_the_pod_says() {
        let conf = "nameserver 10.0.0.2\nsearch a.example b.example\noptions ndots:2\n";
        let own = json!({"nameservers": ["1.2.3.4"], "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}]});
        let mixed = dns(&json!({"spec": {"dnsPolicy": "Default", "dnsConfig": own.clone()}}), conf);
        assert_eq!(mixed.servers, ["10.0.0.2", "1.2.3.4"]);
        assert_eq!(mixed.options, ["ndots:2", "ndots:5", "edns0"]);
        let none = dns(&json!({"spec": {"dnsPolicy": "None", "dnsConfig": own}}), conf);
        assert_eq!((none.servers.len(), none.searches.len()), (1, 0));
    }

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
        let pod = json!({"spec": {"securityContext": {"runAsUser": 5, "fsGroup": 7, "runAsNonRoot": true}}});
        let spec = security(&pod, &json!({"securityContext": {"capabilities": {"drop": ["ALL"]}}})).unwrap();
        assert_eq!((spec.run_as_user, spec.groups, spec.drop_capabilities), (Some(5), vec![7], vec!["ALL".into()]));
        let error = security(&pod, &json!({"securityContext": {"runAsUser": 0}})).unwrap_err();
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
        let sources = Sources { assignment: &assignment, host_ip: "h", pod_ip: "i" };
        let env = variables(&sources, &container).unwrap();
        let text: Vec<String> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(text, ["C_k=v", "A=1", "B=1$(A)$(Z)", "S=top", "N=w"]);
        let missing = json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "q"}}}]});
        let error = variables(&sources, &missing).unwrap_err();
        assert_eq!(error, "couldn't find key q in Secret d/s");
    }
}
