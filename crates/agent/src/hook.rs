//! Carrying out lifecycle hooks.

use crate::http_get::{self, Target};
use crate::probe;
use objects::{Value, ValueExt};
use podlife::HookKind;
use runtime::Runtime;
use std::time::Duration;

/// Runs a hook to its end, for at most `within`; `Err` holds why it failed.
pub(crate) async fn carry_out(
    runtime: &dyn Runtime,
    container: &Value,
    id: &str,
    (kind, within): (HookKind, Duration),
    pod_ip: &str,
) -> Result<(), String> {
    let hook = podlife::hook(container, kind);
    if !hook.at("exec").is_null() {
        return exec(runtime, id, hook.items("exec.command"), within).await;
    }
    let done = async {
        match hook.at("sleep") {
            sleep if !sleep.is_null() => {
                tokio::time::sleep(Duration::from_secs(sleep.at("seconds").as_u64().unwrap_or(0))).await;
            }
            _ => {
                let get = hook.at("httpGet");
                let target = Target::new(get, pod_ip, probe::port(container, get.at("port"))?);
                // That it is answered is all that is asked, as in Kubernetes.
                http_get::get(target, get.items("httpHeaders")).await?;
            }
        }
        Ok(())
    };
    let late = || Err(format!("it was not done within {} s", within.as_secs()));
    tokio::time::timeout(within, done).await.unwrap_or_else(|_| late())
}

async fn exec(runtime: &dyn Runtime, id: &str, command: &[Value], within: Duration) -> Result<(), String> {
    match probe::run(runtime, id, command, within).await? {
        (0, _) => Ok(()),
        (code, said) => Err(format!("command {} exited with {code}: {said}", Value::from(command))),
    }
}
