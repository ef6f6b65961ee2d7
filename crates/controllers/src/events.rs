//! Events that controllers write for people.

use objects::{Record, Timestamp, Value, json, registry};
use stdx::Rng;

/// A core/v1 Event about `record`.
pub(crate) fn event(
    record: &Record,
    component: &str,
    ty: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
    rng: &mut Rng,
) -> Value {
    let kind = registry::must(record.key.kind);
    let namespace = if record.key.namespace.is_empty() { "default" } else { record.key.namespace.as_str() };
    json!({
        "metadata": {
            "name": format!("{}.{:016x}", record.key.name, rng.next_u64()), "namespace": namespace,
        },
        "involvedObject": {
            "apiVersion": kind.api_version(), "kind": kind.kind, "name": record.key.name.as_str(),
            "namespace": record.key.namespace.as_str(), "uid": record.header.uid.as_str(),
            "resourceVersion": record.header.revision.to_string(),
        },
        "reason": reason, "message": message, "type": ty, "count": 1,
        "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
        "firstTimestamp": now.rfc3339(), "lastTimestamp": now.rfc3339(),
    })
}
