//! The worker's own admission: whether a pod that is bound here fits what is left of this node.
//!
//! The scheduler has looked already; who binds by hand has not, and two masters' plans may have met. It is
//! the last guard, in Kubernetes' words. A pod is asked once: what was admitted stays, whatever becomes
//! of the node.

use objects::needs::{HostPort, NodeChoice, Resources, add, host_ports, requests};
use objects::selector::Labels;
use objects::{Timestamp, Value, ValueExt, json};

/// The node as its worker knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub name: String,
    /// What pods may have of it, as it was reported.
    pub allocatable: Resources,
    /// As the masters have them; `None` while nobody has told, and then nothing is refused for them.
    pub labels: Option<Labels>,
}

/// Why a pod is not run: the reason of its status, and a sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

/// Whether a pod was admitted before, here or by the worker that ran here earlier: only a worker
/// sets a pod's start time, and it does so at admission.
pub fn is_admitted(pod: &Value) -> bool {
    !pod.text("status.startTime").is_empty()
}

/// Looks whether `pod` fits beside `others`, the pods that have a place here.
pub fn admit<'a>(pod: &Value, others: impl Iterator<Item = &'a Value>, node: &Node) -> Result<(), Rejection> {
    let (mut used, mut taken) = (Resources::new(), Vec::<HostPort>::new());
    for other in others {
        add(&mut used, &requests(other));
        taken.extend(host_ports(other.at("spec")));
    }
    let asked = requests(pod);
    // The number of pods first, then by name: the reason is the first that fails.
    let names = std::iter::once("pods").chain(asked.keys().map(|name| name.as_str()).filter(|name| *name != "pods"));
    for name in names {
        let of = |amounts: &Resources| amounts.get(name).copied().unwrap_or(0);
        let (wanted, used, capacity) = (of(&asked), of(&used), of(&node.allocatable));
        if wanted > 0 && used.saturating_add(wanted) > capacity {
            return Err(Rejection {
                reason: format!("OutOf{name}"),
                message: format!(
                    "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
                ),
            });
        }
    }
    let failed = |predicate: &str, why: &str| Rejection {
        reason: predicate.into(),
        message: format!("Predicate {predicate} failed: {why}"),
    };
    let choice = NodeChoice::of(pod.at("spec"));
    if node.labels.as_ref().is_some_and(|labels| !choice.allows(&node.name, labels)) {
        return Err(failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let ports = host_ports(pod.at("spec"));
    if ports.iter().any(|port| taken.iter().any(|other| other.clashes(port))) {
        return Err(failed("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

/// Whether a pod that has a place here still needs it: a finished one holds nothing.
pub fn holds_its_place(pod: &Value) -> bool {
    is_admitted(pod) && !["Succeeded", "Failed"].contains(&pod.text("status.phase"))
}

/// Writes the verdict into the pod's status, where it is kept: that it is admitted, or failed for good.
pub fn seal(pod: &mut Value, verdict: &Result<(), Rejection>, now: Timestamp) {
    pod.set("status.startTime", now.rfc3339());
    if let Err(Rejection { reason, message }) = verdict {
        let told = json!({
            "phase": "Failed", "reason": reason, "message": format!("Pod was rejected: {message}"),
            "startTime": now.rfc3339(),
        });
        pod.set("status", told);
    }
}
