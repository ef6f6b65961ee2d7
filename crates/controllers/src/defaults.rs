//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.

use crate::{Context, Plan};
use objects::{Key, ValueExt, json, registry};

pub(crate) fn reconcile(key: &Key, context: &mut Context) -> Plan {
    let mut plan = Plan::default();
    let Some(namespace) = context.view.get(key) else { return plan };
    if namespace.header.deletion.is_some() {
        return plan;
    }
    let name = key.name.as_str();
    if context.view.get(&Key::new(registry::SERVICE_ACCOUNT, name, "default")).is_none() {
        plan.create(registry::SERVICE_ACCOUNT, json!({"metadata": {"name": "default", "namespace": name}}));
    }
    let data = json!({"ca.crt": context.facts.ca});
    match context.view.get(&Key::new(registry::CONFIG_MAP, name, "kube-root-ca.crt")) {
        None => {
            let object = json!({"metadata": {"name": "kube-root-ca.crt", "namespace": name}, "data": data});
            plan.create(registry::CONFIG_MAP, object);
        }
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
