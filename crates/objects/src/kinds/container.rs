//! Containers of a pod spec: ports, environment, resources, mounts.
//!
//! Rules: kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Container.

use super::handler;
use super::volume::config_key;
use crate::validate::{dns_label, in_range, label_value, one_of, qualified_name, too_many_bytes};
use crate::{FieldErrors, Quantity, Value, ValueExt, json};
use std::collections::BTreeSet;

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
/// The fields of its own pod that a variable may show.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.podIP",
    "status.hostIPs",
    "status.podIPs",
];
/// The fields that a downward volume may show: those that stay the same for the pod's life, and the
/// labels and annotations as a whole.
pub(super) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
pub(super) const PORT: (i64, i64) = (1, 65535);

/// What Linux takes as a host's name.
const HOST_NAME_BYTES_MAX: usize = 64;

/// What a container's rules need to know of its pod.
pub(super) struct Surroundings<'a> {
    pub(super) volumes: BTreeSet<&'a str>,
    pub(super) host_network: bool,
    /// What its containers have to end, in seconds.
    pub(super) grace_s: i64,
}

// ---- ports ----

/// What keeps `text` from being the name of a port (an IANA service name).
pub(super) fn port_name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 15 {
        problems.push("must be no more than 15 characters".to_string());
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        problems.push("must contain only alphanumeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

fn ports(container: &Value, base: &str, around: &Surroundings, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (i, port) in container.items("ports").iter().enumerate() {
        let path = format!("{base}.ports[{i}]");
        let name = port.text("name");
        if !name.is_empty() {
            for problem in port_name_problems(name) {
                errors.invalid(format!("{path}.name"), port.at("name"), &problem);
            }
            if !names.insert(name) {
                errors.duplicate(format!("{path}.name"), port.at("name"));
            }
        }
        match port.at("containerPort").as_i64().unwrap_or(0) {
            0 => errors.required(format!("{path}.containerPort"), ""),
            _ => in_range(port, &path, "containerPort", PORT, errors),
        }
        let host_port = port.at("hostPort").as_i64().unwrap_or(0);
        if host_port != 0 {
            in_range(port, &path, "hostPort", PORT, errors);
            if around.host_network && port.at("containerPort") != port.at("hostPort") {
                let why = "must match `hostPort` when `hostNetwork` is true";
                errors.invalid(format!("{path}.containerPort"), port.at("containerPort"), why);
            }
        }
        ip_address(port, &path, "hostIP", errors);
        one_of(port, &path, "protocol", &["TCP", "UDP", "SCTP"], errors);
    }
}

/// An absent or empty address is left to the system.
pub(super) fn ip_address(object: &Value, base: &str, field: &str, errors: &mut FieldErrors) {
    let text = object.text(field);
    if !text.is_empty() && text.parse::<std::net::IpAddr>().is_err() {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.invalid(format!("{base}.{field}"), object.at(field), why);
    }
}

/// Two containers of a pod cannot have the same port of the host.
pub(super) fn host_port_conflicts(spec: &Value, base: &str, errors: &mut FieldErrors) {
    let mut taken = BTreeSet::new();
    for (c, container) in spec.items("containers").iter().enumerate() {
        for (p, port) in container.items("ports").iter().enumerate() {
            let number = port.at("hostPort").as_i64().unwrap_or(0);
            let place = (port.text("protocol"), port.text("hostIP"), number);
            if number != 0 && !taken.insert(place) {
                let shown = json!(format!("{}/{}/{number}", place.0, place.1));
                errors.duplicate(format!("{base}.containers[{c}].ports[{p}].hostPort"), &shown);
            }
        }
    }
}

// ---- resources ----

fn quantity(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?)
}

/// A whole number of things that cannot be shared: devices, huge pages.
fn is_countable(resource: &str) -> bool {
    resource.contains('/') || resource.starts_with("hugepages-")
}

fn resources(container: &Value, base: &str, errors: &mut FieldErrors) {
    let base = format!("{base}.resources");
    let resources = container.at("resources");
    if !resources.items("claims").is_empty() {
        errors.forbidden(format!("{base}.claims"), "resource claims are not supported here");
    }
    for list in ["limits", "requests"] {
        for (resource, value) in resources.at(list).as_object().into_iter().flatten() {
            let at = format!("{base}.{list}[{resource}]");
            qualified_name(resource, &at, errors);
            let standard = ["cpu", "memory", "ephemeral-storage"].contains(&resource.as_str())
                || resource.starts_with("hugepages-");
            if !standard && !resource.contains('/') {
                errors.invalid(at.clone(), &json!(resource), "must be a standard resource for containers");
            }
            match quantity(value) {
                Some(amount) if amount.is_negative() => {
                    errors.invalid(at, value, "must be greater than or equal to 0");
                }
                Some(amount) if resource.contains('/') && !amount.is_whole() => {
                    errors.invalid(at, value, "must be an integer");
                }
                _ => {}
            }
        }
    }
    for (resource, request) in resources.at("requests").as_object().into_iter().flatten() {
        let at = format!("{base}.requests");
        let Some(limit) = resources.at("limits").get(resource) else {
            if is_countable(resource) {
                errors.required(format!("{base}.limits"), "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let (Some(asked), Some(most)) = (quantity(request), quantity(limit)) else { continue };
        let shown = limit.as_str().unwrap_or("");
        if is_countable(resource) && asked != most {
            errors.invalid(at, request, &format!("must be equal to {resource} limit of {shown}"));
        } else if asked > most {
            errors.invalid(at, request, &format!("must be less than or equal to {resource} limit of {shown}"));
        }
    }
}

// ---- environment ----

fn variable_name(name: &Value, path: String, errors: &mut FieldErrors) {
    let text = name.as_str().unwrap_or("");
    if text.contains('=') || !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        errors.invalid(path, name, why);
    }
}

/// A reference to a field of the pod: `metadata.name`, `metadata.labels['app']`, ….
pub(super) fn field_reference(reference: &Value, path: &str, supported: &[&str], errors: &mut FieldErrors) {
    let field = reference.text("fieldPath");
    let at = format!("{path}.fieldPath");
    let keyed = ["metadata.labels['", "metadata.annotations['"].iter().find_map(|start| field.strip_prefix(start));
    match keyed {
        _ if field.is_empty() => errors.required(at, ""),
        Some(rest) => match rest.strip_suffix("']") {
            Some(key) => qualified_name(&key.to_lowercase(), &at, errors),
            None => errors.invalid(at, &json!(field), "the key lacks its closing \"']\""),
        },
        None if !supported.contains(&field) => errors.unsupported(at, &json!(field), supported),
        None => {}
    }
    one_of(reference, path, "apiVersion", &["v1"], errors);
}

/// A reference to a resource of a container: `limits.cpu`, ….
pub(super) fn resource_reference(reference: &Value, path: &str, errors: &mut FieldErrors) {
    match reference.text("resource") {
        "" => errors.required(format!("{path}.resource"), ""),
        _ => one_of(reference, path, "resource", RESOURCE_FIELDS, errors),
    }
}

fn variable_source(variable: &Value, path: &str, errors: &mut FieldErrors) {
    let from = variable.at("valueFrom");
    let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];
    let n_sources = sources.iter().filter(|source| !from.at(source).is_null()).count();
    if !from.at("fileKeyRef").is_null() {
        errors.forbidden(format!("{path}.fileKeyRef"), "variables from files are not supported here");
    } else if n_sources == 0 {
        let why =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, &json!(""), why);
    } else if !variable.text("value").is_empty() {
        errors.invalid(path, &json!(""), "may not be specified when `value` is not empty");
    } else if n_sources > 1 {
        errors.invalid(path, &json!(""), "may not have more than one field specified at a time");
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        let reference = from.at(source);
        if reference.is_null() {
            continue;
        }
        if reference.text("name").is_empty() {
            errors.required(format!("{path}.{source}.name"), "");
        }
        match reference.text("key") {
            "" => errors.required(format!("{path}.{source}.key"), ""),
            key => config_key(key, format!("{path}.{source}.key"), errors),
        }
    }
    if !from.at("fieldRef").is_null() {
        field_reference(from.at("fieldRef"), &format!("{path}.fieldRef"), ENV_FIELDS, errors);
    }
    if !from.at("resourceFieldRef").is_null() {
        resource_reference(from.at("resourceFieldRef"), &format!("{path}.resourceFieldRef"), errors);
    }
}

fn environment(container: &Value, base: &str, errors: &mut FieldErrors) {
    for (i, variable) in container.items("env").iter().enumerate() {
        let path = format!("{base}.env[{i}]");
        match variable.text("name") {
            "" => errors.required(format!("{path}.name"), ""),
            _ => variable_name(variable.at("name"), format!("{path}.name"), errors),
        }
        if !variable.at("valueFrom").is_null() {
            variable_source(variable, &format!("{path}.valueFrom"), errors);
        }
    }
    for (i, from) in container.items("envFrom").iter().enumerate() {
        let path = format!("{base}.envFrom[{i}]");
        variable_name(from.at("prefix"), format!("{path}.prefix"), errors);
        let sources = ["configMapRef", "secretRef"];
        let present: Vec<&&str> = sources.iter().filter(|source| !from.at(source).is_null()).collect();
        match present.as_slice() {
            [] => errors.invalid(path, &json!(""), "must specify one of: `configMapRef` or `secretRef`"),
            [source] => {
                if from.at(source).text("name").is_empty() {
                    errors.required(format!("{path}.{source}.name"), "");
                }
            }
            _ => errors.invalid(path, &json!(""), "may not have more than one field specified at a time"),
        }
    }
}

// ---- mounts ----

/// No runtime here makes what is mounted below a read-only mount read-only as well.
fn recursive_read_only(mount: &Value, path: &str, errors: &mut FieldErrors) {
    let field = "recursiveReadOnly";
    let at = format!("{path}.{field}");
    one_of(mount, path, field, &["Disabled", "Enabled", "IfPossible"], errors);
    if ["", "Disabled"].contains(&mount.text(field)) {
        return;
    }
    if mount.at("readOnly") != true {
        errors.forbidden(at.clone(), "may only be specified when readOnly is true");
    }
    if !["", "None"].contains(&mount.text("mountPropagation")) {
        errors.forbidden(at.clone(), "may only be specified when mountPropagation is None or not specified");
    }
    if mount.text(field) == "Enabled" {
        errors.forbidden(at, "mounts that are read-only all the way down are not supported here; use IfPossible");
    }
}

fn mounts(container: &Value, base: &str, around: &Surroundings, errors: &mut FieldErrors) {
    let mut mount_paths = BTreeSet::new();
    for (i, mount) in container.items("volumeMounts").iter().enumerate() {
        let path = format!("{base}.volumeMounts[{i}]");
        match mount.text("name") {
            "" => errors.required(format!("{path}.name"), ""),
            name if !around.volumes.contains(name) => errors.not_found(format!("{path}.name"), mount.at("name")),
            _ => {}
        }
        match mount.text("mountPath") {
            "" => errors.required(format!("{path}.mountPath"), ""),
            place if !mount_paths.insert(place) => {
                errors.invalid(format!("{path}.mountPath"), mount.at("mountPath"), "must be unique");
            }
            _ => {}
        }
        super::volume::descending_path(mount, &path, "subPath", errors);
        if !mount.text("subPathExpr").is_empty() {
            errors.forbidden(format!("{path}.subPathExpr"), "subPathExpr is not supported here; use subPath");
        }
        one_of(mount, &path, "mountPropagation", &["None", "HostToContainer", "Bidirectional"], errors);
        if mount.text("mountPropagation") == "Bidirectional" && container.at("securityContext.privileged") != true {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(format!("{path}.mountPropagation"), why);
        }
        recursive_read_only(mount, &path, errors);
    }
    if !container.items("volumeDevices").is_empty() {
        errors.forbidden(format!("{base}.volumeDevices"), "block devices are not supported here");
    }
}

fn container(container: &Value, base: &str, around: &Surroundings, errors: &mut FieldErrors) {
    let image = container.text("image");
    if image.is_empty() {
        errors.required(format!("{base}.image"), "");
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.invalid(format!("{base}.image"), container.at("image"), why);
    }
    one_of(container, base, "imagePullPolicy", PULL_POLICIES, errors);
    one_of(container, base, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], errors);
    if !container.items("resizePolicy").is_empty() {
        errors.forbidden(format!("{base}.resizePolicy"), "resizing containers in place is not supported here");
    }
    if !container.items("restartPolicyRules").is_empty() {
        errors.forbidden(format!("{base}.restartPolicyRules"), "restart rules per exit code are not supported here");
    }
    ports(container, base, around, errors);
    environment(container, base, errors);
    resources(container, base, errors);
    mounts(container, base, around, errors);
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        handler::probe(container, field, base, errors);
    }
    super::security::of_container(container.at("securityContext"), &format!("{base}.securityContext"), errors);
}

/// All containers of a spec, init containers first.
pub(super) fn containers(spec: &Value, base: &str, around: &Surroundings, errors: &mut FieldErrors) {
    if spec.items("containers").is_empty() {
        errors.required(format!("{base}.containers"), "");
    }
    let mut names = BTreeSet::new();
    for list in ["initContainers", "containers"] {
        for (i, one) in spec.items(list).iter().enumerate() {
            let path = format!("{base}.{list}[{i}]");
            match one.text("name") {
                "" => errors.required(format!("{path}.name"), ""),
                name => {
                    dns_label(one.at("name"), &format!("{path}.name"), errors);
                    if !names.insert(name) {
                        errors.duplicate(format!("{path}.name"), one.at("name"));
                    }
                }
            }
            container(one, &path, around, errors);
            if list == "containers" {
                handler::lifecycle(one.at("lifecycle"), &format!("{path}.lifecycle"), around.grace_s, errors);
            }
            what_the_list_forbids(one, list, &path, errors);
        }
    }
    host_port_conflicts(spec, base, errors);
}

fn what_the_list_forbids(container: &Value, list: &str, path: &str, errors: &mut FieldErrors) {
    if list == "containers" {
        if !container.at("restartPolicy").is_null() {
            errors.forbidden(format!("{path}.restartPolicy"), "may not be set for non-init containers");
        }
        return;
    }
    match container.text("restartPolicy") {
        "" => {}
        "Always" => {
            let why = "restartable init containers are not supported here; use an ordinary container";
            errors.forbidden(format!("{path}.restartPolicy"), why);
        }
        _ => one_of(container, path, "restartPolicy", &["Always"], errors),
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        if !container.at(field).is_null() {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(format!("{path}.{field}"), why);
        }
    }
}

/// `spec.hostAliases`, `spec.dnsConfig`: what lands in the containers' /etc.
pub(super) fn name_resolution(spec: &Value, base: &str, errors: &mut FieldErrors) {
    for (i, alias) in spec.items("hostAliases").iter().enumerate() {
        let path = format!("{base}.hostAliases[{i}]");
        match alias.text("ip") {
            "" => errors.required(format!("{path}.ip"), ""),
            _ => ip_address(alias, &path, "ip", errors),
        }
        for (j, host) in alias.items("hostnames").iter().enumerate() {
            for problem in crate::validate::dns_subdomain_problems(host.as_str().unwrap_or("")) {
                errors.invalid(format!("{path}.hostnames[{j}]"), host, &problem);
            }
        }
    }
    let servers = spec.items("dnsConfig.nameservers");
    if spec.text("dnsPolicy") == "None" && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(format!("{base}.dnsConfig.nameservers"), why);
    }
    for (i, server) in servers.iter().enumerate() {
        if server.as_str().is_none_or(|text| text.parse::<std::net::IpAddr>().is_err()) {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(format!("{base}.dnsConfig.nameservers[{i}]"), server, why);
        }
    }
    let max = 3;
    if servers.len() > max {
        errors.too_many(format!("{base}.dnsConfig.nameservers"), servers.len(), max);
    }
}

/// The pod's own names on the network.
pub(super) fn host_names(spec: &Value, base: &str, errors: &mut FieldErrors) {
    for field in ["hostname", "subdomain"] {
        if !spec.text(field).is_empty() {
            dns_label(spec.at(field), &format!("{base}.{field}"), errors);
        }
    }
    let (field, full) = (format!("{base}.hostnameOverride"), spec.text("hostnameOverride"));
    if !full.is_empty() {
        for problem in crate::validate::dns_subdomain_problems(full) {
            errors.invalid(field.clone(), &json!(full), &problem);
        }
        if full.len() > HOST_NAME_BYTES_MAX {
            errors.invalid(field.clone(), &json!(full), &too_many_bytes(HOST_NAME_BYTES_MAX));
        }
        if spec.at("setHostnameAsFQDN") == true {
            errors.forbidden(field.clone(), "may not be specified when `setHostnameAsFQDN` is true");
        }
        if spec.at("hostNetwork") == true {
            errors.forbidden(field, "may not be specified when `hostNetwork` is true");
        }
    }
    for (key, value) in spec.at("nodeSelector").as_object().into_iter().flatten() {
        qualified_name(key, &format!("{base}.nodeSelector"), errors);
        label_value(value, &format!("{base}.nodeSelector[{key}]"), errors);
    }
}
