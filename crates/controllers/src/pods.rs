//! Finished pods that nobody removed: the oldest go when there are too many.
//!
//! Rules: kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle (garbage collection of Pods).

use crate::{Context, Plan};
use objects::{Record, registry};
use std::sync::Arc;

/// Kubernetes' default of `terminated-pod-gc-threshold`.
pub(crate) const FINISHED_MAX: usize = 12_500;
/// Removed in one plan; what that changes brings the next.
const BURST_MAX: usize = 500;

pub(crate) fn reconcile(context: &mut Context) -> Plan {
    excess(context, FINISHED_MAX)
}

pub(crate) fn excess(context: &Context, finished_max: usize) -> Plan {
    let mut plan = Plan::default();
    let is_finished = |pod: &&Arc<Record>| {
        pod.header.deletion.is_none() && matches!(pod.header.phase.as_deref(), Some("Succeeded" | "Failed"))
    };
    let mut finished: Vec<&Arc<Record>> = context.view.list(registry::POD, "", None).filter(is_finished).collect();
    let n_excess = finished.len().saturating_sub(finished_max);
    finished.sort_by_key(|pod| (pod.header.created, pod.key.clone()));
    finished.into_iter().take(n_excess.min(BURST_MAX)).for_each(|pod| plan.delete(pod, Some(0)));
    if n_excess > BURST_MAX {
        plan.wake_after(0);
    }
    plan
}
