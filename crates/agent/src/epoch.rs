//! The epoch of the masters that this worker last obeyed: after a restart, too, it must not listen to masters that a
//! restore has replaced. Of revisions it needs none: a session opens with the truth as of then.

use std::io;
use std::path::{Path, PathBuf};

fn path(dir: &Path) -> PathBuf {
    dir.join("epoch")
}

/// Keeps it, on disk before this returns.
pub(crate) fn keep(dir: &Path, epoch: u64) -> io::Result<()> {
    runtime::files::replace_durably(&path(dir), format!("{epoch}\n"))
}

/// What `keep` kept; `None` when nothing was, `Err` when it cannot be read.
pub(crate) fn kept(dir: &Path) -> Result<Option<u64>, String> {
    let path = path(dir);
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("reading {} failed: {error}", path.display())),
        Ok(text) => match text.trim().parse() {
            Ok(epoch) => Ok(Some(epoch)),
            Err(_) => Err(format!("{} does not hold a number", path.display())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_and_what_is_damaged_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kept(dir.path()), Ok(None));
        keep(dir.path(), 7).unwrap();
        assert_eq!(kept(dir.path()), Ok(Some(7)));
        std::fs::write(path(dir.path()), "seven").unwrap();
        assert!(kept(dir.path()).unwrap_err().ends_with("/epoch does not hold a number"));
    }
}
