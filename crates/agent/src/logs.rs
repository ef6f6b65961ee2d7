//! CRI log files, `TIME stream F|P text` one line each: reading them, and keeping them short.

use crate::Shared;
use crate::streams::STDOUT;
use objects::Timestamp;
use protos::dispatch as pb;
use runtime::ContainerState;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;

/// How often a followed file is looked at for more.
const POLL: Duration = Duration::from_millis(100);
/// A log that has grown this long is begun anew; the piece before it is kept beside it. Kubernetes'
/// default size, with one old file instead of four.
const BYTES_MAX: u64 = 10 << 20;
const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// Begins the logs of running containers anew when they are long, for as long as the worker runs.
pub(crate) async fn keep_short(shared: &Arc<Shared>) {
    let mut ticks = tokio::time::interval(MEASURE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let worlds = shared.worlds.borrow().clone();
        for sandbox in worlds.iter() {
            let running = sandbox.containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
            for container in running {
                let path = crate::pod::log_dir(shared, &sandbox.uid)
                    .join(crate::pod::log_file(&container.name, container.attempt));
                if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > BYTES_MAX)
                    && let Err(error) = begin_anew(shared, &container.id, &path).await
                {
                    tracing::warn!(path = %path.display(), error, "a long log could not be begun anew");
                }
            }
        }
    }
}

/// Where the piece of a log before the present one is.
pub(crate) fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

async fn begin_anew(shared: &Shared, id: &str, path: &Path) -> Result<(), String> {
    tokio::fs::rename(path, older(path)).await.map_err(|error| error.to_string())?;
    shared.options.runtime.reopen_log(id).await.map_err(|error| error.to_string())
}

#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail_lines: Option<usize>,
    pub(crate) limit_bytes: Option<usize>,
    pub(crate) since: Option<Timestamp>,
}

/// Whether a line of a log is a piece of one that goes on in the next.
fn is_piece(line: &[u8]) -> bool {
    line.splitn(4, |byte| *byte == b' ').nth(2).is_some_and(|tag| tag.first() == Some(&b'P'))
}

/// One log line as a client sees it; `None` when the request leaves it out. `goes_on`: it is not the first
/// piece of its line, which has its time.
fn shown(line: &[u8], request: &Request, goes_on: bool) -> Option<Vec<u8>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, _, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next().unwrap_or(b""));
    if let Some(since) = request.since {
        let at = Timestamp::parse(std::str::from_utf8(time).ok()?)?;
        if at < since {
            return None;
        }
    }
    let mut out = Vec::with_capacity(text.len() + 40);
    if request.timestamps && !goes_on {
        out.extend_from_slice(time);
        out.push(b' ');
    }
    out.extend_from_slice(text.strip_suffix(b"\n").unwrap_or(text));
    // A partial line goes on in the next one.
    if tag.first() == Some(&b'F') {
        out.push(b'\n');
    }
    Some(out)
}

/// Logs are looked through from their end in pieces of this many bytes.
const BLOCK: u64 = 64 << 10;

/// The position from which the last `n` lines start. A last line that has not ended yet counts.
async fn tail_position(file: &mut tokio::fs::File, n: usize) -> io::Result<u64> {
    let len = file.metadata().await?.len();
    if n == 0 {
        return Ok(len);
    }
    let (mut end, mut n_left) = (len, n);
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(io::SeekFrom::Start(start)).await?;
        block.resize((end - start) as usize, 0);
        file.read_exact(&mut block).await?;
        for (i, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + i as u64 + 1;
            // The newline at the very end starts no line.
            if after == len {
                continue;
            }
            n_left -= 1;
            if n_left == 0 {
                return Ok(after);
            }
        }
        end = start;
    }
    Ok(0)
}

/// The text of the last lines of a log.
pub(crate) async fn last_lines(path: &Path, n: usize) -> io::Result<Vec<u8>> {
    let mut file = tokio::fs::File::open(path).await?;
    let start = tail_position(&mut file, n).await?;
    file.seek(io::SeekFrom::Start(start)).await?;
    // A log line is at most 16 KiB.
    let mut bytes = Vec::new();
    file.take(n as u64 * (17 << 10)).read_to_end(&mut bytes).await?;
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| shown(line, &Request::default(), false)).flatten().collect())
}

/// Sends the log piece by piece until its end, or while `running` when following.
pub(crate) async fn read(
    path: &Path,
    request: &Request,
    running: impl Fn() -> bool,
    out: &mpsc::Sender<pb::Frame>,
) -> io::Result<()> {
    let mut file = tokio::fs::File::open(path).await?;
    if let Some(n) = request.tail_lines {
        let start = tail_position(&mut file, n).await?;
        file.seek(io::SeekFrom::Start(start)).await?;
    }
    let mut reader = BufReader::new(file);
    let mut inode = reader.get_ref().metadata().await?.ino();
    let mut left = request.limit_bytes.unwrap_or(usize::MAX);
    let (mut line, mut goes_on) = (Vec::new(), false);
    loop {
        // Looked at before reading, so that what is written before the end is not missed.
        let live = request.follow && running();
        let n = reader.read_until(b'\n', &mut line).await?;
        if n > 0 && line.last() == Some(&b'\n') {
            let piece = std::mem::replace(&mut goes_on, is_piece(&line));
            if let Some(mut text) = shown(&line, request, piece) {
                text.truncate(left);
                left -= text.len();
                let frame = pb::Frame { channel: STDOUT, data: text.into() };
                if out.send(frame).await.is_err() || left == 0 {
                    return Ok(());
                }
            }
            line.clear();
        } else if live && n == 0 && tokio::fs::metadata(path).await.is_ok_and(|meta| meta.ino() != inode) {
            // It was begun anew, and what was before that is read.
            let file = tokio::fs::File::open(path).await?;
            inode = file.metadata().await?.ino();
            reader = BufReader::new(file);
        } else if live {
            tokio::time::sleep(POLL).await;
        } else if n == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tails_and_joins_partial_lines() {
        let dir = std::env::temp_dir().join(format!("balsa-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("0.log");
        let at = "2026-01-01T00:00:00.000000Z";
        let text = format!("{at} stdout F one\n{at} stdout P tw\n{at} stdout F o\n{at} stderr F three\n");
        std::fs::write(&path, text).unwrap();
        let all = async |request: Request| {
            let (sender, mut receiver) = mpsc::channel(16);
            read(&path, &request, || false, &sender).await.unwrap();
            drop(sender);
            let mut text = Vec::new();
            while let Some(frame) = receiver.recv().await {
                text.extend_from_slice(&frame.data);
            }
            String::from_utf8(text).unwrap()
        };
        assert_eq!(all(Request::default()).await, "one\ntwo\nthree\n");
        assert_eq!(all(Request { tail_lines: Some(1), ..Request::default() }).await, "three\n");
        let stamped = all(Request { timestamps: true, ..Request::default() }).await;
        assert_eq!(stamped, format!("{at} one\n{at} two\n{at} three\n"));
        assert_eq!(all(Request { tail_lines: Some(0), ..Request::default() }).await, "");
        assert_eq!(all(Request { limit_bytes: Some(5), ..Request::default() }).await, "one\nt");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_long_log_is_looked_through_from_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |i: usize| format!("2026-01-01T00:00:00.000000Z stdout F {i:08}\n");
        let n_lines = 10_000;
        std::fs::write(&path, (0..n_lines).map(line).collect::<String>()).unwrap();
        let bytes = line(0).len() as u64;
        let len = bytes * n_lines as u64;
        for n in [0, 1, 2, BLOCK as usize / bytes as usize, 5_000, 9_999, 10_000, 20_000] {
            let mut file = tokio::fs::File::open(&path).await.unwrap();
            let expected = len - bytes * n.min(n_lines) as u64;
            assert_eq!(tail_position(&mut file, n).await.unwrap(), expected, "{n}");
        }
        assert_eq!(last_lines(&path, 2).await.unwrap(), b"00009998\n00009999\n");
        // A line that is being written is the last one.
        std::fs::write(&path, format!("{}half", line(0))).unwrap();
        let mut file = tokio::fs::File::open(&path).await.unwrap();
        assert_eq!(tail_position(&mut file, 1).await.unwrap(), bytes);
    }
}
