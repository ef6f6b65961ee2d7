//! The files of a volume that follow their source: replaced all at once, so that a reader never sees some
//! of the old and some of the new.
//!
//! A generation of files lies in a folder named by its time. `..data` is a link to the newest, switched by
//! a rename; the names that containers see are links through `..data`. It is the layout that Kubernetes'
//! programs know, and watch: kubernetes.io/docs/concepts/storage/volumes, "configMap".

use objects::Timestamp;
use runtime::files::{Owned, replace_as};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// What links through to the newest generation. No file of a source has a name that starts like this.
const DATA: &str = "..data";
/// What fsGroup adds to what a group may do with files that are only read, and with folders.
const GROUP_READS: u32 = 0o440;
const GROUP_ENTERS: u32 = 0o2550;

/// A file of a volume, relative to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
}

/// What is to be in a generation, by path: bytes and mode. Of two files with one path the later counts.
type Wanted<'a> = BTreeMap<PathBuf, (&'a [u8], u32)>;

fn wanted(files: &[File], group: Option<u32>) -> Wanted<'_> {
    let plain = |path: &str| -> PathBuf {
        Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect()
    };
    let mode = |file: &File| file.mode | group.map_or(0, |_| GROUP_READS);
    files.iter().map(|file| (plain(&file.path), (file.bytes.as_slice(), mode(file)))).collect()
}

/// Sets a folder's mode, and hands it to a group with more rights.
pub(crate) fn give(path: &Path, mode: u32, group: Option<(u32, u32)>) -> io::Result<()> {
    if let Some((group, _)) = group {
        chown(path, None, Some(group))?;
    }
    // After the owner, as a change of that takes the setgid bit away.
    let more = group.map_or(0, |(_, more)| more);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | more))
}

/// Makes a folder that anybody may look into, and a group enter.
pub(crate) fn give_to_readers(path: &Path, group: Option<u32>) -> io::Result<()> {
    give(path, 0o755, group.map(|group| (group, GROUP_ENTERS)))
}

/// The folder of the newest generation; `None` before the first.
pub(crate) fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    match std::fs::read_link(dir.join(DATA)) {
        Ok(name) => Ok(Some(dir.join(name))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The files below a folder, relative to it.
fn files_below(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(dir.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            match entry.file_type()?.is_dir() {
                true => folders.push(path),
                false => found.extend([path]),
            }
        }
    }
    Ok(found)
}

/// Whether a generation is what is wanted, owners and modes included.
fn holds(generation: &Path, wanted: &Wanted, group: Option<u32>) -> io::Result<bool> {
    if !generation.is_dir() || files_below(generation)? != wanted.keys().cloned().collect() {
        return Ok(false);
    }
    for (path, (bytes, mode)) in wanted {
        let path = generation.join(path);
        let meta = path.metadata()?;
        let same = meta.mode() & 0o777 == *mode && group.is_none_or(|group| meta.gid() == group);
        if !same || std::fs::read(&path)? != *bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write(generation: &Path, wanted: &Wanted, group: Option<u32>) -> io::Result<()> {
    give_to_readers(generation, group)?;
    for (path, (bytes, mode)) in wanted {
        let mut folder = generation.to_path_buf();
        for part in path.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            if !folder.is_dir() {
                std::fs::create_dir(&folder)?;
                give_to_readers(&folder, group)?;
            }
        }
        replace_as(&generation.join(path), bytes, Owned { mode: *mode, group })?;
    }
    Ok(())
}

/// Makes a folder named by the time, `..2026_01_31_23_59_59.0`. Within a second the number goes on from that
/// of the current one: a name that a reader may still hold never comes back with other files.
fn begin(dir: &Path, current: Option<&Path>, now: Timestamp) -> io::Result<String> {
    let time = now.rfc3339().trim_end_matches('Z').replace(['-', ':', 'T'], "_");
    let number = |name: &str| name.strip_prefix(&format!("..{time}."))?.parse::<u32>().ok();
    let current = current.and_then(Path::file_name).and_then(|name| number(name.to_str()?));
    for n in current.map_or(0, |n| n.saturating_add(1)).. {
        let name = format!("..{time}.{n}");
        match std::fs::create_dir(dir.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| name),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}

/// Puts a link in its place, whatever was there.
fn link(dir: &Path, name: &str, target: &Path) -> io::Result<()> {
    let (place, half) = (dir.join(name), dir.join("..link"));
    if std::fs::read_link(&place).is_ok_and(|present| present == target) {
        return Ok(());
    }
    if half.symlink_metadata().is_ok() {
        remove(&half)?;
    }
    symlink(target, &half)?;
    if place.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        remove(&place)?;
    }
    std::fs::rename(half, place)
}

/// Makes a volume hold these files and no others, in one moment. What an earlier try left half done goes.
pub(crate) fn publish(dir: &Path, files: &[File], group: Option<u32>, now: Timestamp) -> io::Result<()> {
    let wanted = wanted(files, group);
    let mut current = newest(dir)?;
    let changed = match &current {
        Some(generation) => !holds(generation, &wanted, group)?,
        None => true,
    };
    if changed {
        let name = begin(dir, current.as_deref(), now)?;
        let generation = dir.join(&name);
        if let Err(error) = write(&generation, &wanted, group) {
            std::fs::remove_dir_all(&generation)?;
            return Err(error);
        }
        link(dir, DATA, Path::new(&name))?;
        current = Some(generation);
    }
    let tops: BTreeSet<&str> = wanted.keys().filter_map(|path| path.iter().next()?.to_str()).collect();
    for top in &tops {
        link(dir, top, &Path::new(DATA).join(top))?;
    }
    let keeps = |name: &str| {
        name == DATA || tops.contains(name) || current.as_ref().is_some_and(|current| current.ends_with(name))
    };
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(keeps) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(0);

    fn file(path: &str, text: &str, mode: u32) -> File {
        File { path: path.into(), bytes: text.as_bytes().to_vec(), mode }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn a_volume_follows_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        publish(dir, &[file("a", "1", 0o644), file("sub/b", "2", 0o400), file("sub/x", "9", 0o644)], None, NOW)
            .unwrap();
        assert_eq!(names(dir), ["..1970_01_01_00_00_00.0", "..data", "a", "sub"]);
        assert_eq!((mode(&dir.join("a")), mode(&dir.join("sub/b"))), (0o644, 0o400));
        let links = ["..data", "a", "sub"].map(|name| std::fs::read_link(dir.join(name)).unwrap());
        assert_eq!(links.map(|link| link.display().to_string()), ["..1970_01_01_00_00_00.0", "..data/a", "..data/sub"]);
        // Nothing new is nothing done.
        publish(dir, &[file("sub//x", "9", 0o644), file("a", "1", 0o644), file("sub/b", "2", 0o400)], None, NOW)
            .unwrap();
        assert_eq!(names(dir)[0], "..1970_01_01_00_00_00.0");
        // A file below a folder goes too.
        publish(dir, &[file("sub/b", "2", 0o400)], None, NOW).unwrap();
        assert_eq!(
            (names(dir), names(&dir.join("sub"))),
            (vec!["..1970_01_01_00_00_00.1".into(), "..data".into(), "sub".into()], vec!["b".to_string()])
        );
        // A folder becomes a file, and a mode changes.
        publish(dir, &[file("sub", "3", 0o600)], None, NOW).unwrap();
        assert_eq!((std::fs::read_to_string(dir.join("sub")).unwrap(), mode(&dir.join("sub"))), ("3".into(), 0o600));
        publish(dir, &[], None, NOW).unwrap();
        assert_eq!(names(dir).len(), 2, "{:?}", names(dir));
    }

    #[test]
    fn what_was_left_half_done_goes_and_what_cannot_be_written_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::create_dir_all(dir.join("..1970_01_01_00_00_00.0/half")).unwrap();
        std::fs::create_dir(dir.join("a")).unwrap();
        symlink("nowhere", dir.join("..link")).unwrap();
        publish(dir, &[file("a", "1", 0o644)], None, NOW).unwrap();
        assert_eq!(names(dir), ["..1970_01_01_00_00_00.1", "..data", "a"]);
        assert!(publish(dir, &[file("a", "2", 0o644), file("a/b", "2", 0o644)], None, NOW).is_err());
        assert_eq!(names(dir), ["..1970_01_01_00_00_00.1", "..data", "a"]);
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "1");
    }

    #[test]
    fn a_group_reads_what_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let own = nix::unistd::getegid().as_raw();
        publish(dir.path(), &[file("sub/a", "1", 0o400)], Some(own), NOW).unwrap();
        assert_eq!((mode(&dir.path().join("sub/a")), mode(&dir.path().join("sub"))), (0o440, 0o2755));
    }

    #[test]
    fn a_reader_never_sees_a_mix() {
        let dir = tempfile::tempdir().unwrap();
        let write = |n: u32| {
            let text = n.to_string();
            publish(dir.path(), &[file("a", &text, 0o644), file("b", &text, 0o644)], None, NOW).unwrap();
        };
        write(0);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = BTreeSet::new();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    // Its files may go while they are looked at: then it looks again.
                    let generation = newest(dir.path()).unwrap().expect("there is always one");
                    let read = |name: &str| std::fs::read_to_string(generation.join(name));
                    if let (Ok(a), Ok(b)) = (read("a"), read("b")) {
                        assert_eq!(a, b);
                        seen.insert(a);
                    }
                }
                seen.len()
            });
            (1..300).for_each(write);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }
}
