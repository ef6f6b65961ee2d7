//! How much of the disk the volumes take that have a limit.

use objects::{Quantity, Value, ValueExt};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Folders deeper in each other than this are not looked into: each keeps a file open meanwhile.
const DEPTH_MAX: usize = 256;

/// The limited `emptyDir`s of a pod: their names.
pub(crate) fn limited(pod: &Value) -> Vec<String> {
    let has_limit =
        |volume: &&Value| Quantity::parse(volume.text("emptyDir.sizeLimit")).is_some_and(|limit| limit.value() > 0);
    pod.items("spec.volumes").iter().filter(has_limit).map(|volume| volume.text("name").to_string()).collect()
}

/// Bytes that each of these volumes takes; one that is not there takes none.
pub(crate) fn measure(dir: &Path, names: &[String]) -> BTreeMap<String, i64> {
    let bytes = |name: &String| match below(&dir.join(name)) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::debug!(%error, name, "a volume could not be measured");
            0
        }
    };
    names.iter().map(|name| (name.clone(), i64::try_from(bytes(name)).unwrap_or(i64::MAX))).collect()
}

/// Bytes on disk at and below a folder, a file with several names counted once.
fn below(dir: &Path) -> io::Result<u64> {
    match dir.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        _ => add_up(dir, 0, &mut BTreeSet::new()),
    }
}

fn add_up(dir: &Path, depth: usize, seen: &mut BTreeSet<(u64, u64)>) -> io::Result<u64> {
    // A container changes the folder meanwhile: what is opened is looked at by its handle, and no link
    // that has taken its place is followed out of the volume.
    let flags = nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_NOFOLLOW;
    let handle = File::options().read(true).custom_flags(flags.bits()).open(dir)?;
    let own = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    let mut total = 0;
    for entry in std::fs::read_dir(&own)? {
        let path = own.join(entry?.file_name());
        let meta = match path.symlink_metadata() {
            // It was removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        // The kernel counts in blocks of 512 bytes, whatever the file system's.
        total += meta.blocks() * 512;
        if meta.is_dir() && depth < DEPTH_MAX {
            total += match add_up(&path, depth + 1, seen) {
                Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => 0,
                bytes => bytes?,
            };
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_in_a_volume_is_added_up_once_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        std::fs::create_dir_all(volume.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let empty = below(&volume).unwrap();
        std::fs::write(outside.join("big"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        std::fs::write(volume.join("a/b/file"), vec![1; 200_000]).unwrap();
        std::fs::hard_link(volume.join("a/b/file"), volume.join("again")).unwrap();
        let grown = below(&volume).unwrap() - empty;
        assert!((200_000..300_000).contains(&grown), "{grown}");
        let all = measure(dir.path(), &["v".into(), "absent".into()]);
        assert_eq!((all["v"] > 200_000, all["absent"]), (true, 0));
    }

    #[test]
    fn only_what_has_a_limit_is_measured() {
        let pod = json!({"spec": {"volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Mi"}},
            {"name": "b", "emptyDir": {}}, {"name": "c", "emptyDir": {"sizeLimit": "0"}}]}});
        assert_eq!(limited(&pod), ["a"]);
    }
}
