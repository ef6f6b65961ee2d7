//! What probes and lifecycle hooks of a container do: a command, a request, a connection, a pause.
//!
//! Rules: kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Probe and
//! #LifecycleHandler.

use super::container::{PORT, port_name_problems};
use crate::validate::{in_range, non_negative, one_of};
use crate::{FieldErrors, Value, ValueExt, json};

/// One of `handlers`, and what it needs.
fn handler(object: &Value, handlers: &[&str], path: &str, errors: &mut FieldErrors) {
    let present: Vec<&&str> = handlers.iter().filter(|handler| !object.at(handler).is_null()).collect();
    match present.as_slice() {
        [] => errors.required(path, "must specify a handler type"),
        [_] => {}
        [_, second, ..] => errors.forbidden(format!("{path}.{second}"), "may not specify more than 1 handler type"),
    }
    for handler in ["httpGet", "tcpSocket"] {
        let handler_path = format!("{path}.{handler}");
        match object.at(handler).at("port") {
            _ if object.at(handler).is_null() => {}
            Value::Null => errors.required(format!("{handler_path}.port"), ""),
            Value::String(name) => {
                for problem in port_name_problems(name) {
                    errors.invalid(format!("{handler_path}.port"), &json!(name), &problem);
                }
            }
            _ => in_range(object.at(handler), &handler_path, "port", PORT, errors),
        }
    }
    if !object.at("httpGet").is_null() {
        one_of(object, path, "httpGet.scheme", &["HTTP", "HTTPS"], errors);
        for (i, header) in object.items("httpGet.httpHeaders").iter().enumerate() {
            let name = header.text("name");
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', \
                           regex used for validation is '[-A-Za-z0-9]+')";
                errors.invalid(format!("{path}.httpGet.httpHeaders[{i}].name"), &json!(name), why);
            }
        }
    }
    if !object.at("exec").is_null() && object.items("exec.command").is_empty() {
        errors.required(format!("{path}.exec.command"), "");
    }
}

pub(super) fn probe(container: &Value, field: &str, base: &str, errors: &mut FieldErrors) {
    let probe = container.at(field);
    if !probe.is_object() {
        return;
    }
    let path = format!("{base}.{field}");
    handler(probe, &["httpGet", "tcpSocket", "exec", "grpc"], &path, errors);
    if !probe.at("grpc").is_null() {
        errors.forbidden(format!("{path}.grpc"), "gRPC probes are not supported here; use httpGet, tcpSocket or exec");
    }
    for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        non_negative(probe, &path, number, errors);
    }
    if field != "readinessProbe" && probe.at("successThreshold").as_i64().is_some_and(|n| n != 1) {
        errors.invalid(format!("{path}.successThreshold"), probe.at("successThreshold"), "must be 1");
    }
    let grace = probe.at("terminationGracePeriodSeconds");
    if field == "readinessProbe" && !grace.is_null() {
        let why = "must not be set for readinessProbes";
        errors.invalid(format!("{path}.terminationGracePeriodSeconds"), grace, why);
    } else if grace.as_i64().is_some_and(|seconds| seconds <= 0) {
        errors.invalid(format!("{path}.terminationGracePeriodSeconds"), grace, "must be greater than 0");
    }
}

/// Lifecycle hooks of a container whose pod has `grace_s` seconds to end.
pub(super) fn lifecycle(lifecycle: &Value, path: &str, grace_s: i64, errors: &mut FieldErrors) {
    for field in ["postStart", "preStop"] {
        let (hook, path) = (lifecycle.at(field), format!("{path}.{field}"));
        if hook.is_null() {
            continue;
        }
        handler(hook, &["exec", "httpGet", "tcpSocket", "sleep"], &path, errors);
        if !hook.at("tcpSocket").is_null() {
            let why = "a connection is not supported as a lifecycle hook; use exec, httpGet or sleep";
            errors.forbidden(format!("{path}.tcpSocket"), why);
        }
        let seconds = hook.at("sleep").at("seconds");
        if seconds.as_i64().is_some_and(|seconds| !(0..=grace_s).contains(&seconds)) {
            let why =
                format!("must be non-negative and less than or equal to terminationGracePeriodSeconds ({grace_s})");
            errors.invalid(format!("{path}.sleep.seconds"), seconds, &why);
        }
    }
    if !lifecycle.text("stopSignal").is_empty() {
        let why = "a stop signal of the container's own is not supported here; set STOPSIGNAL in the image";
        errors.forbidden(format!("{path}.stopSignal"), why);
    }
}
