//! What a container is given: environment variables and files, from the pod and what it refers to.

use crate::Assignment;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use objects::{Quantity, Value, ValueExt};
use runtime::{ContainerSpec, Dns, Mount};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A reference that cannot be followed (yet); the container waits with this as its message.
pub(crate) type Missing = String;

struct Sources<'a> {
    assignment: &'a Assignment,
    host_ip: &'a str,
    pod_ip: &'a str,
}

impl Sources<'_> {
    fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.assignment.objects.iter().find(|o| o.text("kind") == kind && o.text("metadata.name") == name)
    }

    /// The value of a key of a ConfigMap or Secret; `Ok(None)` when it is optional and absent.
    fn key(&self, kind: &str, reference: &Value) -> Result<Option<Vec<u8>>, Missing> {
        let (name, key) = (reference.text("name"), reference.text("key"));
        let optional = reference.at("optional") == true;
        let word = kind.to_lowercase();
        let Some(object) = self.find(kind, name) else {
            return if optional { Ok(None) } else { Err(format!("{word} {name:?} not found")) };
        };
        match entries(object).remove(key) {
            Some(value) => Ok(Some(value)),
            None if optional => Ok(None),
            None => {
                let namespace = self.assignment.pod.text("metadata.namespace");
                Err(format!("couldn't find key {key} in {kind} {namespace}/{name}"))
            }
        }
    }

    /// The value of a field of the pod, as the downward API gives it.
    fn field(&self, path: &str) -> String {
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

    fn resource(&self, container: &Value, reference: &Value) -> String {
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
fn entries(object: &Value) -> BTreeMap<String, Vec<u8>> {
    let secret = object.text("kind") == "Secret";
    let decode = |text: &str| STANDARD.decode(text).unwrap_or_default();
    let pairs = |field: &str, encoded: bool| {
        let map = object.at(field).as_object().cloned().unwrap_or_default();
        map.into_iter().map(move |(key, value)| {
            let text = value.as_str().unwrap_or("").to_string();
            (key, if encoded { decode(&text) } else { text.into_bytes() })
        })
    };
    pairs("data", secret).chain(pairs("binaryData", true)).collect()
}

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

pub(crate) fn variables(
    assignment: &Assignment,
    container: &Value,
    host_ip: &str,
    pod_ip: &str,
) -> Result<Vec<(String, String)>, Missing> {
    let sources = Sources { assignment, host_ip, pod_ip };
    let mut env = Vec::new();
    for from in container.items("envFrom") {
        for (field, kind) in [("configMapRef", "ConfigMap"), ("secretRef", "Secret")] {
            let reference = from.at(field);
            if reference.is_null() {
                continue;
            }
            let name = reference.text("name");
            match sources.find(kind, name) {
                Some(object) => env.extend(entries(object).into_iter().map(|(key, value)| {
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

fn write(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let path = dir.join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // A container never reads half a file.
    runtime::files::replace_as(&path, bytes, mode)
}

/// Makes a volume hold these files and no others.
fn fill(dir: &Path, files: &[(String, Vec<u8>)], mode: u32) -> io::Result<()> {
    for (name, bytes) in files {
        let same = std::fs::read(dir.join(name)).is_ok_and(|old| old == *bytes);
        if !same {
            write(dir, name, bytes, mode)?;
        }
    }
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = files.iter().any(|(file, _)| file.split('/').next() == Some(&name));
        match entry.path().is_dir() {
            _ if wanted => {}
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// A path inside a volume, made where it is missing. A container that had the volume before may have
/// put links there that lead out of it: none is followed.
fn beneath(volume: &Path, sub: &str) -> Result<PathBuf, Missing> {
    let failed = |error: io::Error| format!("failed to prepare subPath {sub:?}: {error}");
    let mut path = volume.to_path_buf();
    for part in Path::new(sub).components() {
        let std::path::Component::Normal(part) = part else {
            return Err(format!("subPath {sub:?} must be a relative path without '..'"));
        };
        path.push(part);
        match path.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => {
                return Err(format!("subPath {sub:?} is a symbolic link or leads through one; none is followed"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir(&path).map_err(failed)?,
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(path)
}

/// The files of one source, relative to the volume.
fn files(sources: &Sources, source: &str, spec: &Value) -> Result<Vec<(String, Vec<u8>)>, Missing> {
    match source {
        "configMap" | "secret" => {
            let kind = if source == "secret" { "Secret" } else { "ConfigMap" };
            let name = if spec.text("secretName").is_empty() { spec.text("name") } else { spec.text("secretName") };
            let Some(object) = sources.find(kind, name) else {
                let optional = spec.at("optional") == true;
                return if optional {
                    Ok(Vec::new())
                } else {
                    Err(format!("{} {name:?} not found", kind.to_lowercase()))
                };
            };
            let all = entries(object);
            if spec.items("items").is_empty() {
                return Ok(all.into_iter().collect());
            }
            let mut chosen = Vec::new();
            for item in spec.items("items") {
                match all.get(item.text("key")) {
                    Some(value) => chosen.push((item.text("path").to_string(), value.clone())),
                    None if spec.at("optional") == true => {}
                    None => return Err(format!("references non-existent config key: {}", item.text("key"))),
                }
            }
            Ok(chosen)
        }
        "downwardAPI" => {
            let file = |item: &Value| {
                let value = match item.at("fieldRef") {
                    Value::Null => sources.resource(&Value::Null, item.at("resourceFieldRef")),
                    field => sources.field(field.text("fieldPath")),
                };
                (item.text("path").to_string(), value.into_bytes())
            };
            Ok(spec.items("items").iter().map(file).collect())
        }
        "projected" => {
            let mut all = Vec::new();
            for part in spec.items("sources") {
                for (source, spec) in part.as_object().into_iter().flatten() {
                    if source == "serviceAccountToken" {
                        return Err("service account tokens are not issued by this version".into());
                    }
                    all.extend(files(sources, source, spec)?);
                }
            }
            Ok(all)
        }
        other => Err(format!("the volume type {other} is not supported")),
    }
}

/// Makes the volumes of a pod under `dir`, and the mounts of one container into them.
pub(crate) fn mounts(
    assignment: &Assignment,
    container: &Value,
    dir: &Path,
    host_ip: &str,
    pod_ip: &str,
) -> Result<Vec<Mount>, Missing> {
    let sources = Sources { assignment, host_ip, pod_ip };
    let failed = |error: io::Error| format!("making a volume failed: {error}");
    let mut mounts = Vec::new();
    for mount in container.items("volumeMounts") {
        let name = mount.text("name");
        let volumes = assignment.pod.items("spec.volumes");
        let Some(volume) = volumes.iter().find(|volume| volume.text("name") == name) else {
            return Err(format!("volume {name:?} not found"));
        };
        let source =
            volume.as_object().into_iter().flatten().find(|(field, value)| *field != "name" && !value.is_null());
        let Some((source, spec)) = source else { return Err(format!("volume {name:?} has no source")) };
        let host = match source.as_str() {
            "hostPath" => {
                let path = PathBuf::from(spec.text("path"));
                match spec.text("type") {
                    "DirectoryOrCreate" => std::fs::create_dir_all(&path).map_err(failed)?,
                    "" => {}
                    "Directory" if path.is_dir() => {}
                    "File" if path.is_file() => {}
                    kind => return Err(format!("hostPath type check failed: {} is not a {kind}", path.display())),
                }
                path
            }
            "emptyDir" => {
                let path = dir.join(name);
                std::fs::create_dir_all(&path).map_err(failed)?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
                path
            }
            source => {
                let path = dir.join(name);
                std::fs::create_dir_all(&path).map_err(failed)?;
                let mode = spec.at("defaultMode").as_u64().and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644);
                fill(&path, &files(&sources, source, spec)?, mode).map_err(failed)?;
                path
            }
        };
        let host = match mount.text("subPath") {
            "" => host,
            sub => beneath(&host, sub)?,
        };
        // What is made from objects is theirs: a container only reads it.
        let made = !["hostPath", "emptyDir"].contains(&source.as_str());
        let read_only = made || mount.at("readOnly") == true;
        mounts.push(Mount { host, container: mount.text("mountPath").into(), read_only });
    }
    Ok(mounts)
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
    fn a_sub_path_stays_in_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        assert_eq!(beneath(dir.path(), "a/b").unwrap(), dir.path().join("a/b"));
        assert!(dir.path().join("a/b").is_dir());
        for sub in ["out", "out/ssl", "../x", "/etc"] {
            assert!(beneath(dir.path(), sub).is_err(), "{sub}");
        }
    }

    #[test]
    fn a_volume_follows_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let names = || {
            let entries = std::fs::read_dir(dir.path()).unwrap().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        let file = |name: &str, text: &str| (name.to_string(), text.as_bytes().to_vec());
        fill(dir.path(), &[file("a", "1"), file("sub/b", "2")], 0o644).unwrap();
        assert_eq!(names(), ["a", "sub"]);
        fill(dir.path(), &[file("a", "3"), file("c", "4")], 0o644).unwrap();
        assert_eq!(names(), ["a", "c"]);
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "3");
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
        let env = variables(&assignment, &container, "h", "i").unwrap();
        let text: Vec<String> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(text, ["C_k=v", "A=1", "B=1$(A)$(Z)", "S=top", "N=w"]);
        let missing = json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "q"}}}]});
        let error = variables(&assignment, &missing, "h", "i").unwrap_err();
        assert_eq!(error, "couldn't find key q in Secret d/s");
    }
}
