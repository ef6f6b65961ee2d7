//! Pod: row, defaulting, validation, and the update rule. Pod templates share all but the row.
//!
//! Rules: kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1.

use super::container::{self, Surroundings};
use super::{age, node, or_none, placement, security, volume};
use crate::json::differences;
use crate::validate::{in_range, non_negative, one_of};
use crate::{FieldErrors, Map, Quantity, Timestamp, Value, ValueExt, json, time, validate};

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
    default_http_get(probe);
}

/// Of a probe or a lifecycle hook.
fn default_http_get(handler: &mut Value) {
    if handler.get("httpGet").is_some_and(Value::is_object) {
        handler.default_to("httpGet.path", "/");
        handler.default_to("httpGet.scheme", "HTTP");
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
    for hook in ["postStart", "preStop"] {
        let lifecycle = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(hook));
        if let Some(hook) = lifecycle.filter(|hook| hook.is_object()) {
            default_http_get(hook);
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

/// Fields that nothing here acts on. Refused: a pod that asks for them must not run without them.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("overhead", "must not be set without RuntimeClass, and runtime classes are not supported here"),
    ("readinessGates", "readiness gates are not supported here"),
    ("resourceClaims", "resource claims are not supported here"),
    ("resources", "resources of the pod as a whole are not supported here; set them per container"),
    ("runtimeClassName", "runtime classes are not supported here"),
    ("schedulingGroup", "pods that are scheduled as a group are not supported here"),
];

/// Validates a pod spec at `base` (`spec`, or `spec.template.spec`).
pub fn validate_spec(spec: &Value, base: &str, errors: &mut FieldErrors) {
    let around = Surroundings {
        volumes: volume::volumes(spec, base, errors),
        host_network: spec.at("hostNetwork") == true,
        grace_s: spec.at("terminationGracePeriodSeconds").as_i64().unwrap_or(30),
    };
    container::containers(spec, base, &around, errors);
    one_of(spec, base, "restartPolicy", &["Always", "OnFailure", "Never"], errors);
    one_of(spec, base, "dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], errors);
    one_of(spec, base, "preemptionPolicy", &["PreemptLowerPriority", "Never"], errors);
    one_of(spec, base, "os.name", &["linux"], errors);
    non_negative(spec, base, "terminationGracePeriodSeconds", errors);
    in_range(spec, base, "activeDeadlineSeconds", (1, i64::from(i32::MAX)), errors);
    for name in ["nodeName", "serviceAccountName", "priorityClassName"] {
        if !spec.text(name).is_empty() {
            validate::name(validate::NameRule::Subdomain, spec.at(name), &format!("{base}.{name}"), errors);
        }
    }
    for (i, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            errors.required(format!("{base}.imagePullSecrets[{i}].name"), "");
        }
    }
    security::of_pod(spec.at("securityContext"), &format!("{base}.securityContext"), errors);
    if spec.at("hostUsers") == false {
        errors.forbidden(
            format!("{base}.hostUsers"),
            "user namespaces are not supported here; leave it out, or set it to true",
        );
    }
    container::host_names(spec, base, errors);
    container::name_resolution(spec, base, errors);
    placement::affinity(spec.at("affinity"), &format!("{base}.affinity"), errors);
    placement::tolerations(spec, base, errors);
    placement::topology_spread(spec, base, errors);
    placement::scheduling_gates(spec, base, errors);
    for (field, why) in UNSUPPORTED {
        let value = spec.at(field);
        let is_empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
        if !value.is_null() && !is_empty {
            errors.forbidden(format!("{base}.{field}"), why);
        }
    }
}

/// Fields of a pod spec at `base` that are kept, and that nothing acts on: the pod runs all the same, so whoever
/// asks for them is told.
pub fn unheeded(spec: &Value, base: &str) -> Vec<String> {
    let mut told = Vec::new();
    if !spec.items("imagePullSecrets").is_empty() {
        told.push(format!(
            "{base}.imagePullSecrets: not acted on here; credentials of registries are set in the workers' configuration"
        ));
    }
    for field in ["initContainers", "containers"] {
        for (i, container) in spec.items(field).iter().enumerate() {
            if container.at("resources.limits").get("ephemeral-storage").is_some() {
                told.push(format!(
                    "{base}.{field}[{i}].resources.limits[ephemeral-storage]: not enforced here; the request counts \
                     where the pod is placed"
                ));
            }
        }
    }
    told
}

pub fn warn_pod(pod: &Value) -> Vec<String> {
    unheeded(pod.at("spec"), "spec")
}

pub fn validate_pod(pod: &Value, errors: &mut FieldErrors) {
    validate_spec(pod.at("spec"), "spec", errors);
    if !pod.items("spec.ephemeralContainers").is_empty() {
        errors.forbidden("spec.ephemeralContainers", "ephemeral containers are not supported here");
    }
    if !pod.items("spec.schedulingGates").is_empty() && !pod.text("spec.nodeName").is_empty() {
        errors.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
    }
}

/// A deadline may come, and come closer.
fn deadline_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = "spec.activeDeadlineSeconds";
    match (old.at(path).as_i64(), new.at(path).as_i64()) {
        (Some(_), None) => {
            errors.invalid(path, &Value::Null, "must not update from a positive integer to nil value");
        }
        (Some(old), Some(new)) if new > old => {
            errors.invalid(path, &json!(new), "must be less than or equal to previous value");
        }
        _ => {}
    }
}

/// Tolerations are added; of those that are there only the seconds change.
fn tolerations_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let timeless = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.remove_at("tolerationSeconds");
        toleration
    };
    let present: Vec<Value> = new.items("spec.tolerations").iter().map(timeless).collect();
    if !old.items("spec.tolerations").iter().all(|toleration| present.contains(&timeless(toleration))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden("spec.tolerations", why);
    }
}

/// What may change: images, a closer deadline, more tolerations, fewer gates, and the metadata.
pub fn validate_pod_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for list in ["containers", "initContainers"] {
        if new.at("spec").items(list).len() != old.at("spec").items(list).len() {
            errors.forbidden(format!("spec.{list}"), "pod updates may not add or remove containers");
            return;
        }
    }
    deadline_update(new, old, errors);
    tolerations_update(new, old, errors);
    for (i, gate) in new.items("spec.schedulingGates").iter().enumerate() {
        if !old.items("spec.schedulingGates").contains(gate) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.text("name"));
            errors.forbidden(format!("spec.schedulingGates[{i}]"), &why);
        }
    }
    if !errors.is_empty() {
        return;
    }
    let (mut new, mut old) = (new.at("spec").clone(), old.at("spec").clone());
    for spec in [&mut new, &mut old] {
        for list in ["containers", "initContainers"] {
            each(spec, list).for_each(|container| container.set("image", ""));
        }
        for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
            spec.remove_at(field);
        }
    }
    if new != old {
        let changed: Vec<String> = differences(&old, &new).iter().map(|path| format!("spec.{path}")).collect();
        errors.forbidden(
            "spec",
            &format!(
                "pod updates may not change fields other than `spec.containers[*].image`,\
                 `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                 existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                 previously negative); changed: {}",
                changed.join(", ")
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
