//! Pod: row, defaulting, validation, and the update rule. Pod templates share all but the row.
//!
//! Rules: kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1.

use super::{age, node, or_none};
use crate::validate::{at_least, dns_label, non_negative, one_of};
use crate::{FieldErrors, Quantity, Timestamp, Value, ValueExt, json, selector, time, validate};
use std::collections::BTreeSet;

// ---- defaulting ----

fn each<'a>(value: &'a mut Value, path: &str) -> impl Iterator<Item = &'a mut Value> {
    let mut here = Some(value);
    for step in path.split('.') {
        here = here.and_then(|value| value.get_mut(step));
    }
    here.and_then(Value::as_array_mut).into_iter().flatten()
}

fn default_probe(probe: &mut Value) {
    for (field, default) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        probe.default_to(field, default);
    }
    if probe.get("httpGet").is_some_and(Value::is_object) {
        probe.default_to("httpGet.path", "/");
        probe.default_to("httpGet.scheme", "HTTP");
    }
}

/// `Always` for `latest` or no tag, else `IfNotPresent`.
fn default_pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let tag = name.rsplit('/').next().unwrap_or("").split_once(':').map(|(_, tag)| tag);
    if !digest && matches!(tag, None | Some("latest")) { "Always" } else { "IfNotPresent" }
}

fn default_container(container: &mut Value) {
    let policy = default_pull_policy(container.text("image"));
    container.default_to("imagePullPolicy", policy);
    container.default_to("terminationMessagePath", "/dev/termination-log");
    container.default_to("terminationMessagePolicy", "File");
    container.default_to("resources", json!({}));
    for port in each(container, "ports") {
        port.default_to("protocol", "TCP");
    }
    for variable in each(container, "env") {
        if !variable.at("valueFrom.fieldRef").is_null() {
            variable.default_to("valueFrom.fieldRef.apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) {
            default_probe(probe);
        }
    }
}

/// Defaults for a pod spec, in a pod or in a template.
pub fn default_spec(spec: &mut Value) {
    spec.default_to("dnsPolicy", "ClusterFirst");
    spec.default_to("restartPolicy", "Always");
    spec.default_to("securityContext", json!({}));
    spec.default_to("terminationGracePeriodSeconds", 30);
    spec.default_to("schedulerName", "default-scheduler");
    let account = spec.text("serviceAccountName").to_string();
    if !account.is_empty() {
        spec.default_to("serviceAccount", account);
    }
    for list in ["containers", "initContainers"] {
        each(spec, list).for_each(default_container);
    }
    for volume in each(spec, "volumes") {
        if volume.as_object().is_some_and(|fields| fields.keys().all(|field| field == "name")) {
            volume.set("emptyDir", json!({}));
        }
        for source in ["secret", "configMap", "downwardAPI", "projected"] {
            if volume.get(source).is_some_and(Value::is_object) {
                volume.default_to(&format!("{source}.defaultMode"), 0o644);
            }
        }
        if volume.get("hostPath").is_some_and(Value::is_object) {
            volume.default_to("hostPath.type", "");
        }
    }
}

pub fn default_pod(pod: &mut Value) {
    pod.object("spec");
    let spec = pod.get_mut("spec").expect("made on the line above");
    default_spec(spec);
    spec.default_to("enableServiceLinks", true);
    let host_network = spec.at("hostNetwork") == true;
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            let limits = container.at("resources.limits").as_object().cloned().unwrap_or_default();
            for (resource, limit) in limits {
                container.object("resources.requests").entry(resource).or_insert(limit);
            }
            for port in each(container, "ports").filter(|_| host_network) {
                let container_port = port.at("containerPort").clone();
                port.default_to("hostPort", container_port);
            }
        }
    }
    pod.default_to("status.phase", "Pending");
    let class = qos_class(pod.at("spec"));
    pod.default_to("status.qosClass", class);
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of all containers.
pub fn qos_class(spec: &Value) -> &'static str {
    let containers = || spec.items("containers").iter().chain(spec.items("initContainers"));
    let quantity = |container: &Value, path: &str| Quantity::parse(container.text(path)).map_or(0, Quantity::milli);
    let mut any = false;
    let mut guaranteed = containers().next().is_some();
    for container in containers() {
        for resource in ["cpu", "memory"] {
            let request = quantity(container, &format!("resources.requests.{resource}"));
            let limit = quantity(container, &format!("resources.limits.{resource}"));
            any |= request > 0 || limit > 0;
            guaranteed &= limit > 0 && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

// ---- validation ----

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const FIELD_PATHS: &[&str] = &[
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
/// The volume sources a worker can realize. Others are refused rather than ignored.
const VOLUME_SOURCES: &[&str] = &["configMap", "secret", "emptyDir", "hostPath", "downwardAPI", "projected"];

fn port_number(value: &Value, path: String, errors: &mut FieldErrors) {
    if let Some(port) = value.as_i64().filter(|port| !(1..=65535).contains(port)) {
        errors.invalid(path, &json!(port), "must be between 1 and 65535, inclusive");
    }
}

fn validate_probe(container: &Value, field: &str, base: &str, errors: &mut FieldErrors) {
    let probe = container.at(field);
    if !probe.is_object() {
        return;
    }
    let path = format!("{base}.{field}");
    let handlers = ["httpGet", "tcpSocket", "exec", "grpc"];
    let present: Vec<&&str> = handlers.iter().filter(|handler| !probe.at(handler).is_null()).collect();
    match present.as_slice() {
        [] => errors.required(path.clone(), "must specify a handler type"),
        [_] => {}
        [_, second, ..] => errors.forbidden(format!("{path}.{second}"), "may not specify more than 1 handler type"),
    }
    if !probe.at("grpc").is_null() {
        errors.forbidden(format!("{path}.grpc"), "gRPC probes are not supported here; use httpGet, tcpSocket or exec");
    }
    for handler in ["httpGet", "tcpSocket"] {
        let port = probe.at(handler).at("port");
        if !probe.at(handler).is_null() && port.is_null() {
            errors.required(format!("{path}.{handler}.port"), "");
        }
        port_number(port, format!("{path}.{handler}.port"), errors);
    }
    if !probe.at("exec").is_null() && probe.items("exec.command").is_empty() {
        errors.required(format!("{path}.exec.command"), "");
    }
    for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        non_negative(probe, &path, number, errors);
    }
    if field != "readinessProbe" && probe.at("successThreshold").as_i64().is_some_and(|n| n != 1) {
        errors.invalid(format!("{path}.successThreshold"), probe.at("successThreshold"), "must be 1");
    }
}

fn validate_resources(container: &Value, base: &str, errors: &mut FieldErrors) {
    let quantity = |value: &Value| match value {
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => None,
    };
    for list in ["limits", "requests"] {
        for (resource, value) in container.at("resources").at(list).as_object().into_iter().flatten() {
            let path = format!("{base}.resources.{list}");
            let standard = ["cpu", "memory", "ephemeral-storage"].contains(&resource.as_str())
                || resource.starts_with("hugepages-");
            if !standard && !resource.contains('/') {
                errors.invalid(
                    format!("{path}[{resource}]"),
                    &json!(resource),
                    "must be a standard resource type or fully qualified",
                );
            }
            if quantity(value).is_some_and(Quantity::is_negative) {
                errors.invalid(format!("{path}[{resource}]"), value, "must be greater than or equal to 0");
            }
        }
    }
    for (resource, request) in container.at("resources.requests").as_object().into_iter().flatten() {
        let limit = container.at("resources.limits").get(resource);
        if let (Some(asked), Some(Some(most))) = (quantity(request), limit.map(quantity))
            && asked > most
        {
            let why = format!("must be less than or equal to {resource} limit of {most}");
            errors.invalid(format!("{base}.resources.requests"), request, &why);
        }
    }
}

fn validate_env(container: &Value, base: &str, errors: &mut FieldErrors) {
    for (i, variable) in container.items("env").iter().enumerate() {
        let path = format!("{base}.env[{i}]");
        let name = variable.text("name");
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if name.contains('=') || !name.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            let why =
                "a valid environment variable name must consist only of printable ASCII characters other than '='";
            errors.invalid(format!("{path}.name"), variable.at("name"), why);
        }
        let from = variable.at("valueFrom");
        if from.is_null() {
            continue;
        }
        let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];
        let n_sources = sources.iter().filter(|source| !from.at(source).is_null()).count();
        let at = format!("{path}.valueFrom");
        if n_sources == 0 {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.invalid(at.clone(), &json!(""), why);
        } else if !variable.text("value").is_empty() {
            errors.invalid(at.clone(), &json!(""), "may not be specified when `value` is not empty");
        } else if n_sources > 1 {
            errors.invalid(at.clone(), &json!(""), "may not have more than one field specified at a time");
        }
        for source in ["configMapKeyRef", "secretKeyRef"] {
            for field in ["name", "key"] {
                if !from.at(source).is_null() && from.at(source).text(field).is_empty() {
                    errors.required(format!("{at}.{source}.{field}"), "");
                }
            }
        }
        let field = from.text("fieldRef.fieldPath");
        if !from.at("fieldRef").is_null() {
            let keyed = ["metadata.labels['", "metadata.annotations['"].iter().any(|p| field.starts_with(p));
            if field.is_empty() {
                errors.required(format!("{at}.fieldRef.fieldPath"), "");
            } else if !keyed && !FIELD_PATHS.contains(&field) {
                errors.unsupported(format!("{at}.fieldRef.fieldPath"), &json!(field), FIELD_PATHS);
            }
        }
    }
    for (i, from) in container.items("envFrom").iter().enumerate() {
        if from.at("configMapRef").is_null() && from.at("secretRef").is_null() {
            let why = "must specify one of: `configMapRef` or `secretRef`";
            errors.invalid(format!("{base}.envFrom[{i}]"), &json!(""), why);
        }
    }
}

fn validate_container(container: &Value, base: &str, volumes: &BTreeSet<&str>, errors: &mut FieldErrors) {
    if container.text("image").is_empty() {
        errors.required(format!("{base}.image"), "");
    } else if container.text("image").trim() != container.text("image") {
        let why = "must not have leading or trailing whitespace";
        errors.invalid(format!("{base}.image"), container.at("image"), why);
    }
    one_of(container, base, "imagePullPolicy", PULL_POLICIES, errors);
    one_of(container, base, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], errors);
    let mut names = BTreeSet::new();
    for (i, port) in container.items("ports").iter().enumerate() {
        let path = format!("{base}.ports[{i}]");
        if port.at("containerPort").as_i64().unwrap_or(0) == 0 {
            errors.required(format!("{path}.containerPort"), "");
        } else {
            port_number(port.at("containerPort"), format!("{path}.containerPort"), errors);
        }
        if port.at("hostPort").as_i64().unwrap_or(0) != 0 {
            port_number(port.at("hostPort"), format!("{path}.hostPort"), errors);
        }
        one_of(port, &path, "protocol", &["TCP", "UDP", "SCTP"], errors);
        let name = port.text("name");
        if name.len() > 15 {
            errors.invalid(format!("{path}.name"), port.at("name"), "must be no more than 15 characters");
        }
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(format!("{path}.name"), port.at("name"));
        }
    }
    validate_env(container, base, errors);
    validate_resources(container, base, errors);
    let mut mount_paths = BTreeSet::new();
    for (i, mount) in container.items("volumeMounts").iter().enumerate() {
        let path = format!("{base}.volumeMounts[{i}]");
        if mount.text("name").is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if !volumes.contains(mount.text("name")) {
            errors.not_found(format!("{path}.name"), mount.at("name"));
        }
        if mount.text("mountPath").is_empty() {
            errors.required(format!("{path}.mountPath"), "");
        } else if !mount_paths.insert(mount.text("mountPath")) {
            errors.invalid(format!("{path}.mountPath"), mount.at("mountPath"), "must be unique");
        }
        let sub_path = mount.text("subPath");
        if sub_path.starts_with('/') {
            errors.invalid(format!("{path}.subPath"), mount.at("subPath"), "must be a relative path");
        }
        if sub_path.split('/').any(|step| step == "..") {
            errors.invalid(format!("{path}.subPath"), mount.at("subPath"), "must not contain '..'");
        }
        if !mount.text("subPathExpr").is_empty() {
            errors.forbidden(format!("{path}.subPathExpr"), "subPathExpr is not supported here; use subPath");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        validate_probe(container, probe, base, errors);
    }
}

fn validate_containers(spec: &Value, base: &str, volumes: &BTreeSet<&str>, errors: &mut FieldErrors) {
    if spec.items("containers").is_empty() {
        errors.required(format!("{base}.containers"), "");
    }
    let mut names = BTreeSet::new();
    for list in ["initContainers", "containers"] {
        for (i, container) in spec.items(list).iter().enumerate() {
            let path = format!("{base}.{list}[{i}]");
            if container.text("name").is_empty() {
                errors.required(format!("{path}.name"), "");
            } else {
                dns_label(container.at("name"), &format!("{path}.name"), errors);
            }
            if !container.text("name").is_empty() && !names.insert(container.text("name")) {
                errors.duplicate(format!("{path}.name"), container.at("name"));
            }
            validate_container(container, &path, volumes, errors);
            if list == "containers" && !container.at("lifecycle").is_null() {
                errors.forbidden(format!("{path}.lifecycle"), "lifecycle hooks are not supported here");
            }
            let sidecar = container.text("restartPolicy") == "Always";
            if list == "containers" && !container.at("restartPolicy").is_null() {
                errors.forbidden(format!("{path}.restartPolicy"), "may not be set for non-init containers");
            }
            if list == "initContainers" && sidecar {
                let why = "restartable init containers are not supported here; use an ordinary container";
                errors.forbidden(format!("{path}.restartPolicy"), why);
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
                if list == "initContainers" && !container.at(probe).is_null() {
                    let why = "may not be set for init containers without restartPolicy=Always";
                    errors.forbidden(format!("{path}.{probe}"), why);
                }
            }
        }
    }
}

fn validate_volumes<'a>(spec: &'a Value, base: &str, errors: &mut FieldErrors) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (i, volume) in spec.items("volumes").iter().enumerate() {
        let path = format!("{base}.volumes[{i}]");
        if volume.text("name").is_empty() {
            errors.required(format!("{path}.name"), "");
        } else {
            dns_label(volume.at("name"), &format!("{path}.name"), errors);
            if !names.insert(volume.text("name")) {
                errors.duplicate(format!("{path}.name"), volume.at("name"));
            }
        }
        let mut sources = 0;
        for (source, inner) in
            volume.as_object().into_iter().flatten().filter(|(field, v)| *field != "name" && !v.is_null())
        {
            sources += 1;
            if sources > 1 {
                errors.forbidden(format!("{path}.{source}"), "may not specify more than 1 volume type");
            }
            if !VOLUME_SOURCES.contains(&source.as_str()) {
                let why = format!("this volume type is not supported here; supported: {}", VOLUME_SOURCES.join(", "));
                errors.forbidden(format!("{path}.{source}"), &why);
            }
            let needed = match source.as_str() {
                "configMap" => "name",
                "secret" => "secretName",
                "hostPath" => "path",
                _ => continue,
            };
            if inner.text(needed).is_empty() {
                errors.required(format!("{path}.{source}.{needed}"), "");
            }
        }
    }
    names
}

/// One node selector term or preference: expressions over labels or fields.
fn validate_node_term(term: &Value, base: &str, errors: &mut FieldErrors) {
    for list in ["matchExpressions", "matchFields"] {
        for (i, expression) in term.items(list).iter().enumerate() {
            let path = format!("{base}.{list}[{i}]");
            let values = expression.items("values");
            match expression.text("operator") {
                "In" | "NotIn" if values.is_empty() => {
                    errors.required(format!("{path}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
                    format!("{path}.values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
                "Gt" | "Lt" if values.len() != 1 => errors.required(
                    format!("{path}.values"),
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                ),
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                _ => errors.invalid(
                    format!("{path}.operator"),
                    expression.at("operator"),
                    "not a valid selector operator",
                ),
            }
            if list == "matchExpressions" {
                validate::qualified_name(expression.text("key"), &format!("{path}.key"), errors);
            } else if expression.text("key") != "metadata.name" {
                errors.invalid(format!("{path}.key"), expression.at("key"), "not a valid field selector key");
            }
        }
    }
}

fn weight(item: &Value, path: &str, errors: &mut FieldErrors) {
    if !(1..=100).contains(&item.at("weight").as_i64().unwrap_or(0)) {
        errors.invalid(format!("{path}.weight"), item.at("weight"), "must be in the range 1-100");
    }
}

fn validate_affinity(affinity: &Value, base: &str, errors: &mut FieldErrors) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = affinity.at("nodeAffinity");
    if !node.at(required).is_null() {
        let path = format!("{base}.nodeAffinity.{required}.nodeSelectorTerms");
        let terms = node.at(required).items("nodeSelectorTerms");
        if terms.is_empty() {
            errors.required(path.clone(), "must have at least one node selector term");
        }
        for (i, term) in terms.iter().enumerate() {
            validate_node_term(term, &format!("{path}[{i}]"), errors);
        }
    }
    for (i, item) in node.items(preferred).iter().enumerate() {
        let path = format!("{base}.nodeAffinity.{preferred}[{i}]");
        weight(item, &path, errors);
        validate_node_term(item.at("preference"), &format!("{path}.preference"), errors);
    }
    for family in ["podAffinity", "podAntiAffinity"] {
        let term = |term: &Value, path: String, errors: &mut FieldErrors| {
            match term.text("topologyKey") {
                "" => errors.required(format!("{path}.topologyKey"), "can not be empty"),
                key => validate::qualified_name(key, &format!("{path}.topologyKey"), errors),
            }
            for selector in ["labelSelector", "namespaceSelector"] {
                selector::validate_label_selector(term.at(selector), &format!("{path}.{selector}"), errors);
            }
        };
        for (i, item) in affinity.at(family).items(required).iter().enumerate() {
            term(item, format!("{base}.{family}.{required}[{i}]"), errors);
        }
        for (i, item) in affinity.at(family).items(preferred).iter().enumerate() {
            let path = format!("{base}.{family}.{preferred}[{i}]");
            weight(item, &path, errors);
            term(item.at("podAffinityTerm"), format!("{path}.podAffinityTerm"), errors);
        }
    }
}

fn validate_tolerations(spec: &Value, base: &str, errors: &mut FieldErrors) {
    for (i, toleration) in spec.items("tolerations").iter().enumerate() {
        let path = format!("{base}.tolerations[{i}]");
        let (key, operator) = (toleration.text("key"), toleration.text("operator"));
        if key.is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(format!("{path}.operator"), &json!(operator), why);
        }
        if operator == "Exists" && !toleration.text("value").is_empty() {
            let why = "value must be empty when `operator` is 'Exists'";
            errors.invalid(format!("{path}.operator"), &json!(operator), why);
        }
        if !["", "Exists", "Equal"].contains(&operator) {
            errors.unsupported(format!("{path}.operator"), &json!(operator), &["Equal", "Exists"]);
        }
        if toleration.at("tolerationSeconds").is_i64() && toleration.text("effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(format!("{path}.effect"), &json!(toleration.text("effect")), why);
        }
        if !toleration.text("effect").is_empty() {
            one_of(toleration, &path, "effect", node::EFFECTS, errors);
        }
    }
}

/// Validates a pod spec at `base` (`spec`, or `spec.template.spec`).
pub fn validate_spec(spec: &Value, base: &str, errors: &mut FieldErrors) {
    let volumes = validate_volumes(spec, base, errors);
    validate_containers(spec, base, &volumes, errors);
    one_of(spec, base, "restartPolicy", &["Always", "OnFailure", "Never"], errors);
    one_of(spec, base, "dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], errors);
    one_of(spec, base, "preemptionPolicy", &["PreemptLowerPriority", "Never"], errors);
    non_negative(spec, base, "terminationGracePeriodSeconds", errors);
    if !spec.at("activeDeadlineSeconds").is_null() {
        at_least(spec, base, "activeDeadlineSeconds", 1, errors);
    }
    for name in ["nodeName", "serviceAccountName", "priorityClassName", "hostname"] {
        if !spec.text(name).is_empty() {
            validate::name(validate::NameRule::Subdomain, spec.at(name), &format!("{base}.{name}"), errors);
        }
    }
    validate::labels(spec.at("nodeSelector"), &format!("{base}.nodeSelector"), errors);
    validate_affinity(spec.at("affinity"), &format!("{base}.affinity"), errors);
    validate_tolerations(spec, base, errors);
    let mut seen = BTreeSet::new();
    for (i, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        let path = format!("{base}.topologySpreadConstraints[{i}]");
        let (key, when) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        if constraint.at("maxSkew").as_i64().unwrap_or(0) <= 0 {
            errors.invalid(format!("{path}.maxSkew"), constraint.at("maxSkew"), "must be greater than zero");
        }
        if key.is_empty() {
            errors.required(format!("{path}.topologyKey"), "can not be empty");
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&when) {
            let supported = &["DoNotSchedule", "ScheduleAnyway"];
            errors.unsupported(format!("{path}.whenUnsatisfiable"), constraint.at("whenUnsatisfiable"), supported);
        }
        if !seen.insert((key, when)) {
            errors.duplicate(path.clone(), &json!(format!("{{{key}, {when}}}")));
        }
        selector::validate_label_selector(constraint.at("labelSelector"), &format!("{path}.labelSelector"), errors);
    }
}

pub fn validate_pod(pod: &Value, errors: &mut FieldErrors) {
    validate_spec(pod.at("spec"), "spec", errors);
    if !pod.items("spec.ephemeralContainers").is_empty() {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
}

/// Only images, activeDeadlineSeconds, added tolerations and labels of metadata may change.
pub fn validate_pod_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for list in ["containers", "initContainers"] {
        if new.at("spec").items(list).len() != old.at("spec").items(list).len() {
            errors.forbidden(format!("spec.{list}"), "pod updates may not add or remove containers");
            return;
        }
    }
    let is_kept = |toleration: &Value| new.items("spec.tolerations").contains(toleration);
    if !old.items("spec.tolerations").iter().all(is_kept) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden("spec.tolerations", why);
        return;
    }
    let (mut new, mut old) = (new.at("spec").clone(), old.at("spec").clone());
    for spec in [&mut new, &mut old] {
        for list in ["containers", "initContainers"] {
            each(spec, list).for_each(|container| container.set("image", ""));
        }
        for field in ["activeDeadlineSeconds", "tolerations"] {
            spec.remove_at(field);
        }
    }
    if new != old {
        let changed: Vec<&str> = new
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(field, value)| old.get(field) != Some(value))
            .map(|(field, _)| field.as_str())
            .collect();
        errors.forbidden(
            "spec",
            &format!(
                "pod updates may not change fields other than `spec.containers[*].image`,\
                 `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                 existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                 previously negative); changed: {}",
                if changed.is_empty() { "a field was removed".into() } else { changed.join(", ") }
            ),
        );
    }
}

// ---- the row ----

/// READY, STATUS and RESTARTS as `kubectl get pods` shows them.
pub fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let n_containers = pod.items("spec.containers").len();
    let inits = pod.items("spec.initContainers").len();
    let (mut restarts, mut n_ready, mut last_restart) = (0, 0, String::new());
    let mut status = match (pod.text("status.reason"), pod.text("status.phase")) {
        ("", phase) => phase.to_string(),
        (reason, _) => reason.to_string(),
    };
    let mut count = |container: &Value, restarts: &mut i64| {
        *restarts += container.at("restartCount").as_i64().unwrap_or(0);
        let finished = container.text("lastState.terminated.finishedAt");
        if finished > last_restart.as_str() {
            last_restart = finished.to_string();
        }
    };
    let ended = |terminated: &Value| match (terminated.text("reason"), terminated.at("signal").as_i64()) {
        ("", Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        ("", _) => format!("ExitCode:{}", terminated.at("exitCode")),
        (reason, _) => reason.to_string(),
    };
    let mut initializing = false;
    for (i, container) in pod.items("status.initContainerStatuses").iter().enumerate() {
        count(container, &mut restarts);
        let terminated = container.at("state.terminated");
        if terminated.at("exitCode") == 0 {
            continue;
        }
        status = match container.text("state.waiting.reason") {
            _ if !terminated.is_null() => format!("Init:{}", ended(terminated)),
            "" | "PodInitializing" => format!("Init:{i}/{inits}"),
            reason => format!("Init:{reason}"),
        };
        initializing = true;
        break;
    }
    if !initializing || node::condition(pod, "Initialized") == "True" {
        restarts = 0;
        let mut any_running = false;
        for container in pod.items("status.containerStatuses").iter().rev() {
            count(container, &mut restarts);
            let (waiting, terminated) = (container.text("state.waiting.reason"), container.at("state.terminated"));
            if !waiting.is_empty() {
                status = waiting.to_string();
            } else if !terminated.is_null() {
                status = ended(terminated);
            } else if container.at("ready") == true && !container.at("state.running").is_null() {
                any_running = true;
                n_ready += 1;
            }
        }
        if status == "Completed" && any_running {
            status = if node::condition(pod, "Ready") == "True" { "Running".into() } else { "NotReady".into() };
        }
    }
    if !pod.at("metadata.deletionTimestamp").is_null() {
        if pod.text("status.reason") == "NodeLost" {
            status = "Unknown".into();
        } else if !["Succeeded", "Failed"].contains(&pod.text("status.phase")) {
            status = "Terminating".into();
        }
    }
    let restarts = match Timestamp::parse(&last_restart) {
        Some(at) if restarts != 0 => format!("{restarts} ({} ago)", time::human(now.since_ms(at))),
        _ => restarts.to_string(),
    };
    vec![
        format!("{n_ready}/{n_containers}").into(),
        status.into(),
        restarts.into(),
        age(pod, now),
        or_none(pod.text("status.podIP")),
        or_none(pod.text("spec.nodeName")),
        or_none(pod.text("status.nominatedNodeName")),
        or_none(""),
    ]
}
