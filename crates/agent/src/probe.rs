//! Carrying out probes.

use objects::{Value, ValueExt};
use podlife::ProbeKind;
use runtime::Runtime;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The port a probe names: a number, or the name of one of the container's ports.
fn port(container: &Value, port: &Value) -> Result<u16, String> {
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

/// Asks once; `Err` holds why it failed.
pub(crate) async fn ask(
    runtime: &dyn Runtime,
    container: &Value,
    id: &str,
    kind: ProbeKind,
    pod_ip: &str,
) -> Result<(), String> {
    let probe = container.at(kind.field());
    let seconds = probe.at("timeoutSeconds").as_u64().unwrap_or(1).max(1);
    let timeout = Duration::from_secs(seconds);
    if !probe.at("exec").is_null() {
        let command: Vec<String> =
            probe.items("exec.command").iter().map(|word| word.as_str().unwrap_or("").to_string()).collect();
        let output = runtime.exec_sync(id, &command, timeout).await.map_err(|error| error.to_string())?;
        return match output.code {
            0 => Ok(()),
            _ => Err(String::from_utf8_lossy(&output.output[..output.output.len().min(1024)]).into_owned()),
        };
    }
    let asked = async {
        if !probe.at("tcpSocket").is_null() {
            let address = (host(probe.text("tcpSocket.host"), pod_ip), port(container, probe.at("tcpSocket.port"))?);
            let shown = format!("dial tcp {}:{}", address.0, address.1);
            TcpStream::connect(address).await.map(drop).map_err(|error| format!("{shown}: {error}"))
        } else {
            http(container, probe.at("httpGet"), pod_ip).await
        }
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {seconds} s")),
    }
}

fn host<'a>(named: &'a str, pod_ip: &'a str) -> &'a str {
    if named.is_empty() { pod_ip } else { named }
}

/// A GET over HTTP/1.1; 200..=399 is success. HTTPS probes only check that the port answers TLS-less
/// connects, as certificates of pods are nobody's to verify.
async fn http(container: &Value, get: &Value, pod_ip: &str) -> Result<(), String> {
    let address = (host(get.text("host"), pod_ip), port(container, get.at("port"))?);
    let path = get.text("path");
    let shown = format!("Get \"{}://{}:{}{path}\"", get.text("scheme").to_lowercase(), address.0, address.1);
    let failed = |error: std::io::Error| format!("{shown}: {error}");
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    if get.text("scheme") == "HTTPS" {
        return Ok(());
    }
    let mut request =
        format!("GET {path} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: kube-probe/1.36\r\n", address.0, address.1);
    for header in get.items("httpHeaders") {
        request.push_str(&format!("{}: {}\r\n", header.text("name"), header.text("value")));
    }
    request.push_str("Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = [0; 64];
    let n = stream.read(&mut head).await.map_err(failed)?;
    let line = String::from_utf8_lossy(&head[..n]);
    let code = line.split_whitespace().nth(1).and_then(|code| code.parse::<u16>().ok());
    match code {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err(format!("{shown}: malformed HTTP response")),
    }
}
