//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.
//!
//! Rules: kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin (ServiceAccount
//! controller) and …/concepts/configuration/configmap.

use crate::{Context, Plan};
use objects::{Key, ValueExt, json, registry};

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
pub(crate) const NAMES: [&str; 2] = [ACCOUNT, ROOT_CA];

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(namespace) = context.view.get(key) else { return plan };
    if namespace.header.deletion.is_some() {
        return plan;
    }
    let name = key.name.as_str();
    if context.view.get(&Key::new(registry::SERVICE_ACCOUNT, name, ACCOUNT)).is_none() {
        plan.create(registry::SERVICE_ACCOUNT, json!({"metadata": {"name": ACCOUNT, "namespace": name}}));
    }
    let data = json!({"ca.crt": context.facts.ca});
    match context.view.get(&Key::new(registry::CONFIG_MAP, name, ROOT_CA)) {
        None => {
            let metadata = json!({"name": ROOT_CA, "namespace": name, "annotations": {"kubernetes.io/description":
                "Contains a CA bundle that can be used to verify the API of this cluster, from inside and outside."}});
            plan.create(registry::CONFIG_MAP, json!({"metadata": metadata, "data": data}));
        }
        // Left alone while a person holds it back from being deleted; made anew once it is gone.
        Some(record) if record.header.deletion.is_some() => {}
        Some(record) => {
            let mut object = record.value();
            if object.at("data") != &data {
                object.set("data", data);
                plan.update(record, object);
            }
        }
    }
    plan
}
