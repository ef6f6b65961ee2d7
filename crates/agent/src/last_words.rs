//! What a container leaves to be read after its end: the file it was given for that, or else the end of
//! its log.
//!
//! Rule: kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure.

use crate::logs;
use objects::{Value, ValueExt};
use podlife::MESSAGE_MAX;
use runtime::Mount;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How much of a log stands in for last words.
const LOG_LINES: usize = 80;
const LOG_BYTES: usize = 2048;

/// The file beside an attempt's log, which is kept as long: a finished pod has no volumes any more.
pub(crate) fn beside(log: &Path) -> PathBuf {
    log.with_extension("last-words")
}

/// The file that an attempt at a container may write its last words to, and where it finds it. None where
/// it mounts something there itself.
pub(crate) fn mount(container: &Value, log: &Path) -> io::Result<Option<Mount>> {
    let path = container.text("terminationMessagePath");
    let own = container.items("volumeMounts").iter().any(|mount| mount.text("mountPath") == path);
    if path.is_empty() || own {
        return Ok(None);
    }
    let host = beside(log);
    if let Some(dir) = host.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::File::create(&host)?;
    // Whoever it runs as.
    std::fs::set_permissions(&host, std::fs::Permissions::from_mode(0o666))?;
    Ok(Some(Mount { host, container: path.into(), ..Mount::default() }))
}

/// The last words of an attempt that ended with `code`; `log` is its log.
pub(crate) async fn read(container: &Value, log: &Path, code: i32) -> String {
    let said = match end_of(&beside(log), MESSAGE_MAX) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        // It was given none, or ended while this was not yet done here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return format!("Error on reading termination log: {error}"),
    };
    let falls_back = container.text("terminationMessagePolicy") == "FallbackToLogsOnError" && code != 0;
    if !said.is_empty() || !falls_back {
        return said;
    }
    match logs::last_lines(log, LOG_LINES).await {
        Ok(text) => String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_BYTES)..]).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => format!("Error on reading termination message from logs: {error}"),
    }
}

/// The last bytes of a file.
fn end_of(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let bytes_max = bytes_max as u64;
    let from = file.metadata()?.len().saturating_sub(bytes_max);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn words_are_read_from_the_file_or_else_from_the_log_of_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("c/0.log");
        let mut container = json!({"name": "c", "terminationMessagePath": "/words"});
        let mount = mount(&container, &dir.path().join("c/0.log")).unwrap().unwrap();
        assert_eq!((mount.container.as_str(), mount.read_only), ("/words", false));
        assert_eq!(mount.host.metadata().unwrap().permissions().mode() & 0o777, 0o666);
        let at = "2026-01-01T00:00:00.000000Z";
        std::fs::write(&log, (0..100).map(|i| format!("{at} stderr F line {i}\n")).collect::<String>()).unwrap();
        assert_eq!(read(&container, &log, 1).await, "");
        container["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
        let told = read(&container, &log, 1).await;
        assert!(told.starts_with("line 20\n") && told.ends_with("line 99\n"), "{told}");
        assert_eq!(read(&container, &log, 0).await, "");
        std::fs::write(&mount.host, format!("{}end", "x".repeat(5000))).unwrap();
        let told = read(&container, &log, 1).await;
        assert!(told.len() == MESSAGE_MAX && told.ends_with("xend"), "{told}");
        assert_eq!(read(&container, &dir.path().join("none"), 1).await, "");
    }

    #[test]
    fn what_a_container_mounts_itself_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let container =
            json!({"name": "c", "terminationMessagePath": "/w", "volumeMounts": [{"name": "v", "mountPath": "/w"}]});
        assert!(mount(&container, &dir.path().join("c/0.log")).unwrap().is_none());
    }
}
