//! Files that are replaced as a whole: a reader sees the old one or the new one, never half of one.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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

/// The same, and on the disk before this returns.
pub fn replace_durably(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let temporary = beside(path);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes.as_ref())?;
    file.sync_all()?;
    std::fs::rename(temporary, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug)]
pub struct Owned {
    pub mode: u32,
    /// Our own, unless it is another's.
    pub group: Option<u32>,
}

/// Replaces a file for these to use; not synced.
pub fn replace_as(path: &Path, bytes: impl AsRef<[u8]>, owned: Owned) -> io::Result<()> {
    let temporary = beside(path);
    // Ours alone until it is whole: it may hold a secret.
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes.as_ref())?;
    if let Some(group) = owned.group {
        std::os::unix::fs::chown(&temporary, None, Some(group))?;
    }
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(owned.mode))?;
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
        replace_durably(&path, "more").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "more");
        replace_as(&path, "two", Owned { mode: 0o600, group: None }).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
