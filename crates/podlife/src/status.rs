//! The PodStatus: phase, conditions and container statuses from what was observed.
//!
//! Rules: kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle.

use crate::{BACKOFF, Memory, Observed, State, World, containers, hooks, probes, restarts};
use objects::{Timestamp, Value, ValueExt, json};

/// What the cluster remembers of a container.
pub(crate) fn old_status<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let lists = ["containerStatuses", "initContainerStatuses"];
    lists.iter().flat_map(|list| pod.at("status").items(list)).find(|status| status.text("name") == name)
}

fn terminated(pod: &Value, observed: &Observed) -> Option<Value> {
    let State::Exited { started, finished, code, reason, message } = &observed.state else { return None };
    let mut terminated = json!({
        "exitCode": code, "reason": reason, "startedAt": started.rfc3339(), "finishedAt": finished.rfc3339(),
        "containerID": observed.id,
    });
    let message = beginning(message, message_max(pod));
    if !message.is_empty() {
        terminated.set("message", message);
    }
    Some(terminated)
}

/// Bytes of last words that a container's status holds: so many, and all containers' together no more
/// than three times as many.
///
/// Rule: kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure.
pub const MESSAGE_MAX: usize = 4096;

fn message_max(pod: &Value) -> usize {
    MESSAGE_MAX.min(3 * MESSAGE_MAX / containers(pod).count().max(1))
}

/// As much of a text as fits, ending between characters.
fn beginning(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `NAME_NAMESPACE(UID)`, as messages name a pod.
pub(crate) fn full_name(pod: &Value) -> String {
    format!("{}_{}({})", pod.text("metadata.name"), pod.text("metadata.namespace"), pod.text("metadata.uid"))
}

fn waiting(reason: &str, message: &str) -> Value {
    match message {
        "" => json!({"waiting": {"reason": reason}}),
        message => json!({"waiting": {"reason": reason, "message": message}}),
    }
}

fn seconds_text(ms: u64) -> String {
    let seconds = ms / 1000;
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

fn container_status(pod: &Value, container: &Value, is_init: bool, world: &World, memory: &Memory) -> Value {
    let name = container.text("name");
    let old = old_status(pod, name);
    let latest = world.latest(name);
    let mut status = json!({
        "name": name, "image": container.at("image"), "imageID": "", "ready": false, "started": false,
        "restartCount": latest.map_or(old.map_or(0, |o| o.at("restartCount").as_u64().unwrap_or(0)), |l| u64::from(l.attempt)),
        "lastState": {},
    });
    let failure = memory.failures.get(name);
    let idle = if pod.at("spec.initContainers").is_array() { "PodInitializing" } else { "ContainerCreating" };
    let Some(latest) = latest else {
        let ran = old.filter(|old| !old.text("containerID").is_empty());
        status["state"] = match (failure, ran) {
            (Some(failure), _) => failed(failure, container),
            // What has ended stays ended; what ran and is gone ended somehow.
            (None, Some(old)) if !old.at("state.terminated").is_null() => old.at("state").clone(),
            (None, Some(old)) if pod.text("spec.restartPolicy") == "Never" => json!({"terminated": {
                "exitCode": 137, "reason": "ContainerStatusUnknown", "containerID": old.text("containerID"),
                "message": "The container could not be located when the pod was deleted.  The container used to be Running",
            }}),
            _ => waiting(idle, ""),
        };
        if let Some(old) = ran {
            status["containerID"] = old.at("containerID").clone();
            status["lastState"] = if old.at("state.terminated").is_null() {
                old.at("lastState").clone()
            } else {
                old.at("state").clone()
            };
        }
        return status;
    };
    status["containerID"] = latest.id.as_str().into();
    status["imageID"] = latest.image_id.as_str().into();
    if let Some(previous) = world.previous(name, latest.attempt).and_then(|previous| terminated(pod, previous)) {
        status["lastState"] = json!({"terminated": previous});
    } else if let Some(old) = old.filter(|old| old.at("lastState").is_object() && latest.attempt > 0) {
        status["lastState"] = match old.at("state.terminated") {
            Value::Null => old.at("lastState").clone(),
            ended if old.text("containerID") != latest.id => json!({"terminated": ended}),
            _ => old.at("lastState").clone(),
        };
    }
    match &latest.state {
        State::Created => status["state"] = waiting("ContainerCreating", ""),
        State::Running { .. } if !hooks::is_begun(pod, container, latest, memory) => {
            status["state"] = waiting(idle, "")
        }
        State::Running { started } => {
            status["state"] = json!({"running": {"startedAt": started.rfc3339()}});
            status["started"] = probes::is_started(container, &latest.id, memory).into();
            status["ready"] = (!is_init && probes::is_ready(container, &latest.id, memory)).into();
        }
        State::Exited { code, .. } => {
            let ended = terminated(pod, latest).expect("it exited");
            let deleting = !pod.at("metadata.deletionTimestamp").is_null();
            let again = !deleting && restarts(pod, is_init, *code) && !(is_init && *code == 0);
            if let Some(failure) = failure.filter(|_| again) {
                status["state"] = failed(failure, container);
                status["lastState"] = json!({"terminated": ended});
            } else if again && latest.attempt > 0 {
                let forgiven = memory.forgiven.get(name).copied().unwrap_or(0);
                let delay = BACKOFF.delay_ms(latest.attempt.saturating_sub(forgiven));
                let message = format!(
                    "back-off {} restarting failed container={name} pod={}",
                    seconds_text(delay),
                    full_name(pod)
                );
                status["state"] = waiting("CrashLoopBackOff", &message);
                status["lastState"] = json!({"terminated": ended});
            } else {
                status["state"] = json!({"terminated": ended});
            }
            status["ready"] = (is_init && *code == 0).into();
        }
    }
    status
}

/// After the first failure an image is said to be backed off.
pub(crate) fn is_image_backed_off(failure: &crate::Failure) -> bool {
    failure.reason == "ErrImagePull" && failure.n_failures > 1
}

fn failed(failure: &crate::Failure, container: &Value) -> Value {
    match failure.reason.as_str() {
        // The error is kept in the message.
        "ErrImagePull" if is_image_backed_off(failure) => {
            let message =
                format!("Back-off pulling image {:?}: ErrImagePull: {}", container.text("image"), failure.message);
            waiting("ImagePullBackOff", &message)
        }
        reason => waiting(reason, &failure.message),
    }
}

fn phase(pod: &Value, inits: &[Value], mains: &[Value]) -> &'static str {
    let was = pod.text("status.phase");
    for terminal in ["Succeeded", "Failed"] {
        if was == terminal {
            return terminal;
        }
    }
    let code = |status: &Value| {
        let ended = status.at("state.terminated.exitCode").as_i64();
        ended.or(status.at("lastState.terminated.exitCode").as_i64())
    };
    let is = |status: &Value, state: &str| status.at("state").get(state).is_some();
    let never = pod.text("spec.restartPolicy") == "Never";
    let deleting = !pod.at("metadata.deletionTimestamp").is_null();
    let ended = |status: &Value| status.at("state.terminated.exitCode").as_i64();
    if never && inits.iter().any(|init| ended(init).is_some_and(|code| code != 0)) {
        return "Failed";
    }
    let ever = |status: &Value| is(status, "running") || code(status).is_some();
    if inits.iter().any(|init| ended(init) != Some(0)) && !mains.iter().any(ever) {
        return "Pending";
    }
    if mains.iter().any(|status| is(status, "waiting") && code(status).is_none()) {
        return "Pending";
    }
    if mains.iter().any(|status| is(status, "running")) {
        return "Running";
    }
    let all_zero = mains.iter().all(|status| code(status) == Some(0));
    let all_ended = mains.iter().all(|status| ended(status).is_some());
    match pod.text("spec.restartPolicy") {
        _ if deleting && all_ended => {
            if all_zero {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        "Never" if all_ended => {
            if all_zero {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        "OnFailure" if all_zero && all_ended => "Succeeded",
        _ if mains.iter().any(ever) => "Running",
        _ => "Pending",
    }
}

pub(crate) fn status(pod: &Value, world: &World, memory: &Memory, now: Timestamp, host_ip: &str) -> Value {
    let (mut inits, mut mains) = (Vec::new(), Vec::new());
    // Of a pod that was never admitted there is nothing to tell but why.
    let rejected = pod.text("status.phase") == "Failed" && pod.at("status.containerStatuses").is_null();
    for (container, is_init) in containers(pod) {
        let status = container_status(pod, container, is_init, world, memory);
        if is_init { inits.push(status) } else { mains.push(status) }
    }
    let mut phase = phase(pod, &inits, &mains);
    let mut status = json!({
        "qosClass": objects::kinds::pod::qos_class(pod.at("spec")),
        "startTime": memory.started.unwrap_or(now).rfc3339(), "hostIP": host_ip, "hostIPs": [{"ip": host_ip}],
    });
    if let (Some(seconds), Some(started)) = (pod.at("spec.activeDeadlineSeconds").as_i64(), memory.started)
        && now >= started.plus_secs(seconds)
        && !["Succeeded", "Failed"].contains(&phase)
    {
        phase = "Failed";
        status.set("reason", "DeadlineExceeded");
        status.set("message", "Pod was active on the node longer than the specified deadline");
    }
    if let Some(why) = memory.evicted.as_ref().filter(|_| !["Succeeded", "Failed"].contains(&phase)) {
        phase = "Failed";
        status.set("reason", "Evicted");
        status.set("message", why.as_str());
    }
    for kept in ["reason", "message", "nominatedNodeName"] {
        if pod.text("status.phase") == phase && !pod.at("status").at(kept).is_null() && status.get(kept).is_none() {
            status.set(kept, pod.at("status").at(kept).clone());
        }
    }
    status.set("phase", phase);
    if let Some(ip) = world.sandbox.as_ref().and_then(|sandbox| sandbox.ips.first()) {
        let ips = world.sandbox.iter().flat_map(|sandbox| &sandbox.ips);
        status.set("podIPs", ips.map(|ip| json!({"ip": ip})).collect::<Vec<_>>());
        status.set("podIP", ip.as_str());
    }
    status.set("conditions", conditions(pod, world, phase, &inits, &mains, now));
    if rejected && world.containers.is_empty() {
        return status;
    }
    if !inits.is_empty() {
        status.set("initContainerStatuses", inits);
    }
    mains.sort_by(|a, b| a.text("name").cmp(b.text("name")));
    status.set("containerStatuses", mains);
    status
}

fn conditions(pod: &Value, world: &World, phase: &str, inits: &[Value], mains: &[Value], now: Timestamp) -> Vec<Value> {
    let names = |statuses: &[Value], good: fn(&Value) -> bool| {
        let bad: Vec<&str> = statuses.iter().filter(|s| !good(s)).map(|s| s.text("name")).collect();
        bad.join(" ")
    };
    let unready = names(mains, |status| status.at("ready") == true);
    let unfinished = names(inits, |status| status.at("state.terminated.exitCode") == 0);
    let main_ran = mains.iter().any(|m| !m.text("containerID").is_empty());
    let ready: (bool, &str, String) = match phase {
        "Succeeded" => (false, "PodCompleted", String::new()),
        "Failed" => (false, "PodFailed", String::new()),
        _ if unready.is_empty() => (true, "", String::new()),
        _ => (false, "ContainersNotReady", format!("containers with unready status: [{unready}]")),
    };
    let initialized = match phase {
        "Succeeded" => (true, "PodCompleted", String::new()),
        _ if unfinished.is_empty() || main_ran => (true, "", String::new()),
        _ => (false, "ContainersNotInitialized", format!("containers with incomplete status: [{unfinished}]")),
    };
    let has_sandbox = world.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready);
    let all = [
        ("PodReadyToStartContainers", (has_sandbox, "", String::new())),
        ("Initialized", initialized),
        ("Ready", ready.clone()),
        ("ContainersReady", ready),
        ("PodScheduled", (true, "", String::new())),
    ];
    let condition = |(ty, (holds, reason, message)): (&str, (bool, &str, String))| {
        let value = if holds { "True" } else { "False" };
        let old = pod.items("status.conditions").iter().find(|c| c.text("type") == ty && c.text("status") == value);
        let since = old.map_or_else(|| now.rfc3339(), |old| old.text("lastTransitionTime").to_string());
        let mut condition = json!({"type": ty, "status": value, "lastProbeTime": null, "lastTransitionTime": since});
        if !reason.is_empty() {
            condition.set("reason", reason);
        }
        if !message.is_empty() {
            condition.set("message", message);
        }
        condition
    };
    all.into_iter().map(condition).collect()
}
