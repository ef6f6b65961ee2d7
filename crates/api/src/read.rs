//! Reading one object, its scale, or finding its worker.

use crate::step::{Reply, Step, WorkerCall};
use crate::{Request, Verb};
use bytes::Bytes;
use objects::{Key, Record, Served, Status, Timestamp, Value, ValueExt, json};
use state::View;
use std::sync::Arc;

pub(crate) fn find<'a>(request: &Request, view: &'a View) -> Result<&'a Arc<Record>, Status> {
    let kind = request.served.kind;
    let key = Key::new(kind.id, &request.namespace, &request.name);
    view.get(&key).ok_or_else(|| Status::not_found(kind, &request.name))
}

/// The bytes of a record as a group and version serves it: verbatim for the stored form.
pub(crate) fn in_served_form(served: &Served, record: &Record) -> Bytes {
    match served.convert {
        None => record.json.clone(),
        Some((to, _)) => {
            let mut object = record.value();
            to(&mut object);
            object.to_string().into()
        }
    }
}

pub(crate) fn get(request: &Request, view: &View) -> Result<Reply, Status> {
    let record = find(request, view)?;
    Ok(Reply::Object { json: in_served_form(&request.served, record), created: false, warnings: Vec::new() })
}

/// The Scale of a workload, as autoscaling/v1 shapes it.
pub(crate) fn scale_of(object: &Value) -> Value {
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": object.at("metadata.name"), "namespace": object.at("metadata.namespace"),
            "uid": object.at("metadata.uid"), "resourceVersion": object.at("metadata.resourceVersion"),
            "creationTimestamp": object.at("metadata.creationTimestamp"),
        },
        "spec": {"replicas": object.at("spec.replicas").as_i64().unwrap_or(0)},
        "status": {
            "replicas": object.at("status.replicas").as_i64().unwrap_or(0),
            "selector": objects::kinds::workload::selector_text(object.at("spec.selector")),
        },
    })
}

pub(crate) fn scale(request: &Request, view: &View) -> Result<Reply, Status> {
    Ok(Reply::Value { value: scale_of(&find(request, view)?.value()), created: false, warnings: Vec::new() })
}

/// The container that a pod's author meant, when there is one of that name.
fn default_container(pod: &Value) -> Option<&str> {
    let named = pod.annotation("kubectl.kubernetes.io/default-container")?;
    pod.items("spec.containers").iter().any(|c| c.text("name") == named).then_some(named)
}

/// Refuses options of a log that mean nothing, rather than showing something else than what was asked for.
fn check_log_options(request: &Request) -> Result<(), Status> {
    for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        let given = request.param(name);
        if let Some(given) = given.filter(|given| given.parse::<i64>().map_or(true, |n| n < least)) {
            let why = format!("{name}: Invalid value: {given:?}: must be a number, and at least {least}");
            return Err(Status::bad_request(why).at(name));
        }
    }
    if let Some(time) = request.param("sinceTime").filter(|time| Timestamp::parse(time).is_none()) {
        let why = format!("sinceTime: Invalid value: {time:?}: must be a time such as 2026-01-02T15:04:05Z");
        return Err(Status::bad_request(why).at("sinceTime"));
    }
    if request.param("sinceTime").is_some() && request.param("sinceSeconds").is_some() {
        return Err(Status::bad_request("at most one of sinceTime and sinceSeconds may be given").at("sinceTime"));
    }
    match request.param("stream") {
        None | Some("" | "All") => Ok(()),
        Some(other) => {
            let why = format!("stream: Unsupported value: {other:?}: here both are shown, All");
            Err(Status::bad_request(why).at("stream"))
        }
    }
}

/// Finds the node and container that a log or exec request is for.
pub(crate) fn worker_call(request: &Request, view: &View) -> Result<Step, Status> {
    if request.subresource == "log" {
        check_log_options(request)?;
    }
    let pod = find(request, view)?.value();
    let node = pod.text("spec.nodeName");
    let name = pod.text("metadata.name");
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let all = || ["containers", "initContainers"].into_iter().flat_map(|list| pod.at("spec").items(list));
    let container = match request.param("container").filter(|container| !container.is_empty()) {
        Some(container) if all().any(|c| c.text("name") == container) => container,
        Some(container) => {
            return Err(Status::bad_request(format!("container {container} is not valid for pod {name}")));
        }
        None => match (default_container(&pod), pod.items("spec.containers")) {
            (Some(container), _) => container,
            (None, [only]) => only.text("name"),
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|c| c.text("name")).collect();
                return Err(Status::bad_request(format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    names.join(" ")
                )));
            }
        },
    };
    let lists = ["containerStatuses", "initContainerStatuses"];
    let status = lists.iter().flat_map(|list| pod.at("status").items(list)).find(|c| c.text("name") == container);
    let waiting = status.map(|status| status.text("state.waiting.reason")).unwrap_or("ContainerCreating");
    let ever_ran = status.is_some_and(|s| !s.at("lastState.terminated").is_null() || !s.text("containerID").is_empty());
    if request.subresource == "log" && !waiting.is_empty() && !ever_ran {
        let why = match waiting {
            "ErrImagePull" | "ImagePullBackOff" => "trying and failing to pull image",
            reason => reason,
        };
        let message = format!("container {container:?} in pod {name:?} is waiting to start: {why}");
        return Err(Status::bad_request(message));
    }
    if request.subresource == "exec" && status.is_none_or(|status| status.at("state.running").is_null()) {
        return Err(Status::bad_request(format!("container {container:?} of pod {name:?} is not running")));
    }
    debug_assert!(matches!(request.verb, Verb::Get | Verb::Create));
    Ok(Step::Worker(WorkerCall {
        node: node.into(),
        namespace: request.namespace.clone(),
        pod: name.into(),
        uid: pod.text("metadata.uid").into(),
        container: container.into(),
        what: request.subresource.clone(),
        params: request.params.clone(),
    }))
}
