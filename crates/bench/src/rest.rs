//! A list over REST, whole and read as it comes: what an informer begins with.

use crate::wire::Access;
use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The end of a list's JSON, of its last chunk, and of the answer.
const END: &[u8] = b"]}\r\n0\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 ";

/// Lists `path` whole and returns how many bytes that was.
pub(crate) async fn list(access: &Access, addr: &str, path: &str) -> Result<usize> {
    let mut stream = access.tls(addr, "http/1.1").await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // A TLS stream may keep what it took until it is told.
    stream.flush().await?;
    let (mut buffer, mut n_bytes) = (vec![0; 256 << 10], 0);
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    loop {
        // The server ends the connection with the answer, politely or not: the end of the JSON tells.
        let n = stream.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            break;
        }
        n_bytes += n;
        let missing = OK.len().saturating_sub(head.len()).min(n);
        head.extend_from_slice(&buffer[..missing]);
        tail.extend_from_slice(&buffer[n.saturating_sub(END.len())..n]);
        tail.drain(..tail.len().saturating_sub(END.len()));
    }
    if head != OK || tail != END {
        bail!("a list of {path} was not answered whole: {}", String::from_utf8_lossy(&head));
    }
    Ok(n_bytes)
}
