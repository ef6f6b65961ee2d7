//! Files that are replaced as a whole: a reader sees the old one or the new one, never half of one.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A name beside `path`, in the same folder so that renaming replaces, and hidden from those who list it.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.new"))
}

/// Replaces the file at `path`. Not synced: what is written so can be made anew after a power loss.
pub fn replace(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let temporary = beside(path);
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(temporary, path)
}

/// The same, with these permissions.
pub fn replace_as(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> io::Result<()> {
    let temporary = beside(path);
    std::fs::write(&temporary, bytes)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        replace(&path, "one").unwrap();
        replace_as(&path, "two", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
