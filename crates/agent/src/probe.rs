//! Carrying out probes; and what hooks share with them.

use crate::http_get::{self, Target};
use objects::{Value, ValueExt};
use podlife::{Answer, ProbeKind};
use runtime::Runtime;
use std::time::Duration;
use tokio::net::TcpStream;

/// How much of what a command said is told when it failed, in bytes.
const SAID_MAX: usize = 1024;

/// The port a probe or a hook names: a number, or the name of one of the container's ports.
pub(crate) fn port(container: &Value, port: &Value) -> Result<u16, String> {
    let number = match port {
        Value::String(name) => {
            let ports = container.items("ports").iter();
            let named = ports.filter(|p| p.text("name") == name).find_map(|p| p.at("containerPort").as_i64());
            named.or_else(|| name.parse().ok())
        }
        other => other.as_i64(),
    };
    number.and_then(|n| u16::try_from(n).ok()).ok_or_else(|| format!("port {port} is not known"))
}

/// Asks once.
pub(crate) async fn ask(runtime: &dyn Runtime, container: &Value, id: &str, kind: ProbeKind, pod_ip: &str) -> Answer {
    let probe = container.at(kind.field());
    let seconds = probe.at("timeoutSeconds").as_u64().unwrap_or(1).max(1);
    let timeout = Duration::from_secs(seconds);
    if !probe.at("exec").is_null() {
        return exec(runtime, id, probe.items("exec.command"), timeout).await;
    }
    let asked = async {
        match probe.at("tcpSocket") {
            Value::Null => http(container, probe.at("httpGet"), pod_ip).await,
            socket => connect(container, socket, pod_ip).await,
        }
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(answer) => answer.unwrap_or_else(Answer::Failed),
        Err(_) => Answer::Failed(format!("no answer within {seconds} s")),
    }
}

/// Runs a command in a container: its exit code, and the beginning of what it said.
pub(crate) async fn run(
    runtime: &dyn Runtime,
    id: &str,
    command: &[Value],
    within: Duration,
) -> Result<(i32, String), String> {
    let command: Vec<String> = command.iter().map(|word| word.as_str().unwrap_or("").to_string()).collect();
    let output = runtime.exec_sync(id, &command, within).await.map_err(|error| error.to_string())?;
    let said = &output.output[..output.output.len().min(SAID_MAX)];
    Ok((output.code, String::from_utf8_lossy(said).into_owned()))
}

async fn exec(runtime: &dyn Runtime, id: &str, command: &[Value], timeout: Duration) -> Answer {
    match run(runtime, id, command, timeout).await {
        Ok((0, _)) => Answer::Passed,
        Ok((_, said)) | Err(said) => Answer::Failed(said),
    }
}

async fn connect(container: &Value, socket: &Value, pod_ip: &str) -> Result<Answer, String> {
    let host = Some(socket.text("host")).filter(|host| !host.is_empty()).unwrap_or(pod_ip);
    let port = port(container, socket.at("port"))?;
    let connected = TcpStream::connect((host, port)).await;
    connected.map(|_| Answer::Passed).map_err(|error| format!("dial tcp {host}:{port}: {error}"))
}

/// 200 to 399 passes. A redirect to another host is not followed, and passes with a warning.
async fn http(container: &Value, get: &Value, pod_ip: &str) -> Result<Answer, String> {
    let target = Target::new(get, pod_ip, port(container, get.at("port"))?);
    match http_get::get(target, get.items("httpHeaders")).await? {
        200..=299 => Ok(Answer::Passed),
        300..=399 => Ok(Answer::Warned("Probe terminated redirects".into())),
        code => Err(format!("HTTP probe failed with statuscode: {code}")),
    }
}
