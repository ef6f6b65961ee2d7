//! What the API adds to objects on their way in, besides plain defaults.

use authz::{Attributes, Identity, Verdict};
use objects::{Key, Kind, Status, Value, ValueExt, json, registry};
use state::View;

/// How long a pod stays bound to a node that is not ready or unreachable, unless it says otherwise.
/// Kubernetes waits 300 s; nodes here are found dead within 4 s, so that a replacement runs in
/// about ten.
pub const DEFAULT_TOLERATION_S: i64 = 3;

/// Namespaces that are there from the start and may not be deleted.
pub const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

const SYSTEM_PRIORITIES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// What a new object is given before it is validated.
pub(crate) fn admit(kind: &Kind, object: &mut Value, view: &View) -> Result<(), Status> {
    if kind.id == registry::POD { admit_pod(object, view) } else { Ok(()) }
}

/// What is asked of valid objects, new or changed, in view of the others.
pub(crate) fn check(kind: &Kind, object: &Value, view: &View) -> Result<(), Status> {
    if kind.id == registry::PRIORITY_CLASS && object.at("globalDefault") == true {
        let name = object.text("metadata.name");
        let others = view.list(kind.id, "", None).filter(|record| record.key.name != name);
        if let Some(other) = others.filter(|record| record.value().at("globalDefault") == true).last() {
            let why =
                format!("PriorityClass {} is already marked as default. Only one default can exist", other.key.name);
            return Err(Status::forbidden(kind, name, &why).at("globalDefault"));
        }
    }
    Ok(())
}

/// Refuses a role or binding that gives rights its writer does not have.
pub(crate) fn no_escalation(
    identity: &Identity,
    object: &Value,
    old: Option<&Value>,
    kind: &Kind,
    view: &View,
) -> Result<(), Status> {
    let unchanged = |field: &str| old.is_some_and(|old| old.at(field) == object.at(field));
    let (rules, override_verb, role) = match kind.id {
        registry::ROLE | registry::CLUSTER_ROLE if !(unchanged("rules") && unchanged("aggregationRule")) => {
            let mut rules = object.items("rules").to_vec();
            if !object.at("aggregationRule").is_null() && !unchanged("aggregationRule") {
                // Whoever writes a matching role later decides what this one gives.
                rules.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
                rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
            }
            let own = Key::new(kind.id, object.text("metadata.namespace"), object.text("metadata.name"));
            (rules, "escalate", own)
        }
        registry::ROLE_BINDING | registry::CLUSTER_ROLE_BINDING if !(unchanged("subjects") && unchanged("roleRef")) => {
            let (role, rules) = authz::bound_role(view, object);
            (rules, "bind", role)
        }
        _ => return Ok(()),
    };
    let namespace = object.text("metadata.namespace");
    let role_kind = registry::must(role.kind);
    let asked = Attributes {
        verb: override_verb,
        group: role_kind.group,
        resource: role_kind.plural.into(),
        namespace,
        name: &role.name,
        path: "",
    };
    if matches!(authz::authorize(view, identity, &asked), Verdict::Yes(_)) {
        return Ok(());
    }
    let lacking = authz::lacking(view, identity, namespace, &rules);
    // A role that is not there yet may be given any rules later.
    let unknown = override_verb == "bind" && view.get(&role).is_none();
    if lacking.is_empty() && !unknown {
        return Ok(());
    }
    let what: Vec<String> = lacking.iter().map(ToString::to_string).collect();
    let why = match unknown {
        true => format!("user {:?} may not bind {role}, which does not exist", identity.user),
        false => format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held: {}",
            identity.user,
            identity.groups,
            what.join(", ")
        ),
    };
    let field = if override_verb == "bind" { "roleRef" } else { "rules" };
    Err(Status::forbidden(kind, object.text("metadata.name"), &why).at(field))
}

fn admit_pod(pod: &mut Value, view: &View) -> Result<(), Status> {
    if pod.text("spec.serviceAccountName").is_empty() {
        pod.set("spec.serviceAccountName", "default");
        pod.set("spec.serviceAccount", "default");
    }
    let (namespace, account) = (pod.text("metadata.namespace"), pod.text("spec.serviceAccountName"));
    // The default account is made with its namespace, moments later; any other must be there.
    if account != "default" && view.get(&Key::new(registry::SERVICE_ACCOUNT, namespace, account)).is_none() {
        let why =
            format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
        let refused = Status::forbidden(registry::must(registry::POD), pod.text("metadata.name"), &why);
        return Err(refused.at("spec.serviceAccountName"));
    }
    merge_label_keys(pod);
    admit_priority(pod, view)?;
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = pod.items("spec.tolerations").iter().any(|toleration| {
            let matches_key = [key, ""].contains(&toleration.text("key"));
            matches_key && ["NoExecute", ""].contains(&toleration.text("effect"))
        });
        if !tolerated {
            let toleration = json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": DEFAULT_TOLERATION_S,
            });
            pod.default_to("spec.tolerations", json!([]));
            let list = pod.get_mut("spec").and_then(|spec| spec.get_mut("tolerations")).and_then(Value::as_array_mut);
            list.into_iter().for_each(|list| list.push(toleration.clone()));
        }
    }
    Ok(())
}

/// Writes the values of `matchLabelKeys` and `mismatchLabelKeys` into the selectors beside them, so that
/// the scheduler needs to know selectors only.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod.at("metadata.labels").clone();
    let merge = |term: &mut Value| {
        for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            for key in term.items(list).to_vec() {
                let Some(value) = key.as_str().and_then(|key| labels.get(key)) else { continue };
                let mut expressions = term.items("labelSelector.matchExpressions").to_vec();
                expressions.push(json!({"key": key, "operator": operator, "values": [value]}));
                term.set("labelSelector.matchExpressions", expressions);
            }
        }
    };
    let items = |value: &mut Value, path: &str, merge: &dyn Fn(&mut Value)| {
        if value.at(path).is_array() {
            let mut list = value.items(path).to_vec();
            list.iter_mut().for_each(merge);
            value.set(path, list);
        }
    };
    items(pod, "spec.topologySpreadConstraints", &merge);
    for family in ["podAffinity", "podAntiAffinity"] {
        let base = format!("spec.affinity.{family}");
        items(pod, &format!("{base}.requiredDuringSchedulingIgnoredDuringExecution"), &merge);
        items(pod, &format!("{base}.preferredDuringSchedulingIgnoredDuringExecution"), &|weighted| {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                merge(term);
            }
        });
    }
}

/// Resolves the priority class to a number, as the Priority admission plugin does.
fn admit_priority(pod: &mut Value, view: &View) -> Result<(), Status> {
    let forbidden = |pod: &Value, field: &str, why: &str| {
        Err(Status::forbidden(registry::must(registry::POD), pod.text("metadata.name"), why).at(field))
    };
    let class = pod.text("spec.priorityClassName").to_string();
    let (priority, policy) = if class.is_empty() {
        let default = view.list(registry::PRIORITY_CLASS, "", None).map(|record| record.value());
        let default = default.filter(|class| class.at("globalDefault") == true).max_by_key(|c| c.at("value").as_i64());
        match default {
            Some(class) => {
                pod.set("spec.priorityClassName", class.text("metadata.name"));
                (class.at("value").as_i64().unwrap_or(0), class.text("preemptionPolicy").to_string())
            }
            None => (0, String::new()),
        }
    } else if let Some(record) = view.get(&Key::new(registry::PRIORITY_CLASS, "", &class)) {
        let class = record.value();
        (class.at("value").as_i64().unwrap_or(0), class.text("preemptionPolicy").to_string())
    } else if let Some((_, priority)) = SYSTEM_PRIORITIES.iter().find(|(name, _)| *name == class) {
        (*priority, String::new())
    } else {
        let why = format!("no PriorityClass with name {class} was found");
        return forbidden(pod, "spec.priorityClassName", &why);
    };
    if let Some(given) = pod.at("spec.priority").as_i64().filter(|given| *given != priority) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        );
        return forbidden(pod, "spec.priority", &why);
    }
    pod.set("spec.priority", priority);
    let policy = if policy.is_empty() { "PreemptLowerPriority".into() } else { policy };
    pod.default_to("spec.preemptionPolicy", policy);
    Ok(())
}
