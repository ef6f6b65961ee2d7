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

/// The request of a probe. A header of its own stands in the place of ours of the same name.
fn request(path: &str, host: &str, headers: &[Value]) -> String {
    let ours = [("Host", host), ("User-Agent", "kube-probe/1.36")];
    let named = |name: &str| headers.iter().any(|header| header.text("name").eq_ignore_ascii_case(name));
    let ours = ours.into_iter().filter(|(name, _)| !named(name));
    let all = ours.chain(headers.iter().map(|header| (header.text("name"), header.text("value"))));
    let lines: String = all.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n")
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
    let request = request(path, &format!("{}:{}", address.0, address.1), get.items("httpHeaders"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_may_name_its_host() {
        assert_eq!(
            request("/", "10.0.0.9:80", &[]),
            "GET / HTTP/1.1\r\nHost: 10.0.0.9:80\r\nUser-Agent: kube-probe/1.36\r\nConnection: close\r\n\r\n"
        );
        let named = objects::json!({"name": "host", "value": "example.org"});
        assert_eq!(
            request("/x", "10.0.0.9:80", &[named]),
            "GET /x HTTP/1.1\r\nUser-Agent: kube-probe/1.36\r\nhost: example.org\r\nConnection: close\r\n\r\n"
        );
    }
}
