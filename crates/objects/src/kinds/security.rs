//! Security contexts of pods and containers: identities, and how the runtime is to fence them in.
//!
//! Rules: kubernetes.io/docs/tasks/configure-pod-container/security-context. What no runtime here does
//! is refused: a pod that asks for it must not run without it.

use super::volume::descending_path;
use crate::validate::{in_range, one_of};
use crate::{FieldErrors, Value, ValueExt};

const IDS: (i64, i64) = (0, i32::MAX as i64);

fn ids(context: &Value, path: &str, errors: &mut FieldErrors) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        in_range(context, path, field, IDS, errors);
    }
    for (i, group) in context.items("supplementalGroups").iter().enumerate() {
        if group.as_i64().is_some_and(|id| !(IDS.0..=IDS.1).contains(&id)) {
            let why = format!("must be between {} and {}, inclusive", IDS.0, IDS.1);
            errors.invalid(format!("{path}.supplementalGroups[{i}]"), group, &why);
        }
    }
}

/// A profile of seccomp or AppArmor; `what` as messages call it.
fn profile(context: &Value, path: &str, (field, what): (&str, &str), errors: &mut FieldErrors) {
    let profile = context.at(field);
    if profile.is_null() {
        return;
    }
    let path = format!("{path}.{field}");
    let at = format!("{path}.localhostProfile");
    match (profile.text("type"), profile.text("localhostProfile")) {
        ("", _) => errors.required(format!("{path}.type"), &format!("type is required when {field} is set")),
        ("Localhost", "") => errors.required(at, &format!("must be set when {what} type is Localhost")),
        ("Localhost", _) => descending_path(profile, &path, "localhostProfile", errors),
        (_, "") => one_of(profile, &path, "type", &["Localhost", "RuntimeDefault", "Unconfined"], errors),
        _ => {
            one_of(profile, &path, "type", &["Localhost", "RuntimeDefault", "Unconfined"], errors);
            let why = format!("can only be set when {what} type is Localhost");
            errors.invalid(at, profile.at("localhostProfile"), &why);
        }
    }
}

/// What contexts of pods and of containers have in common.
fn common(context: &Value, path: &str, errors: &mut FieldErrors) {
    ids(context, path, errors);
    profile(context, path, ("seccompProfile", "seccomp"), errors);
    profile(context, path, ("appArmorProfile", "AppArmor"), errors);
    if context.text("appArmorProfile.type") == "Localhost" {
        let why = "profiles of the node's own are not supported here; use RuntimeDefault or Unconfined";
        errors.forbidden(format!("{path}.appArmorProfile.type"), why);
    }
    for (field, why) in [
        ("seLinuxOptions", "SELinux labels are not supported here; leave them out"),
        ("windowsOptions", "windows options cannot be set for a linux pod"),
    ] {
        if context.at(field).as_object().is_some_and(|options| !options.is_empty()) {
            errors.forbidden(format!("{path}.{field}"), why);
        }
    }
}

/// `spec.securityContext`.
pub(super) fn of_pod(context: &Value, path: &str, errors: &mut FieldErrors) {
    common(context, path, errors);
    // Both say how volumes that outlive a pod are changed; there are none, so nothing is left undone.
    one_of(context, path, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], errors);
    one_of(context, path, "seLinuxChangePolicy", &["MountOption", "Recursive"], errors);
    one_of(context, path, "supplementalGroupsPolicy", &["Merge", "Strict"], errors);
    if context.text("supplementalGroupsPolicy") == "Strict" {
        let why = "leaving out the groups that the image gives its user is not supported here; use Merge";
        errors.forbidden(format!("{path}.supplementalGroupsPolicy"), why);
    }
}

/// `securityContext` of a container.
pub(super) fn of_container(context: &Value, path: &str, errors: &mut FieldErrors) {
    common(context, path, errors);
    one_of(context, path, "procMount", &["Default", "Unmasked"], errors);
    if context.text("procMount") == "Unmasked" {
        let why =
            "`hostUsers` must be false to use `Unmasked`, and user namespaces are not supported here; use Default";
        errors.forbidden(format!("{path}.procMount"), why);
    }
    if context.at("allowPrivilegeEscalation") == false && context.at("privileged") == true {
        let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid(path, context, why);
    }
}
