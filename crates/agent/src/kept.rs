//! What a worker keeps on disk of its assignments, for a restart without masters: a file for each pod, so that news
//! of one pod costs no more where there are many, and a file that says how new they are. Not synced: what a power
//! loss takes, the masters tell again.

use crate::assignments::Assignment;
use objects::{Value, ValueExt};
use runtime::files::{Owned, replace_as};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};

/// All that an earlier worker here kept.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Kept {
    /// (epoch, revision) of the newest assignments acted on.
    pub(crate) newest: (u64, u64),
    /// By uid.
    pub(crate) assignments: Vec<Assignment>,
    /// What cannot be read, why, and where it was put for a look.
    pub(crate) damaged: Vec<String>,
}

fn folder(dir: &Path) -> PathBuf {
    dir.join("assignments")
}

fn file_of(dir: &Path, uid: &str) -> PathBuf {
    folder(dir).join(format!("{uid}.json"))
}

fn newest_file(dir: &Path) -> PathBuf {
    dir.join("newest.json")
}

/// Keeps an assignment in place of what was kept of that pod.
pub(crate) fn put(dir: &Path, assignment: &Assignment) -> io::Result<()> {
    let own = Owned { mode: 0o600, group: None }; // It may hold a Secret.
    std::fs::create_dir_all(folder(dir))?;
    replace_as(&file_of(dir, &assignment.uid()), serde_json::to_vec(assignment)?, own)
}

/// Keeps nothing of a pod any more.
pub(crate) fn remove(dir: &Path, uid: &str) -> io::Result<()> {
    match std::fs::remove_file(file_of(dir, uid)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Keeps how new the assignments are: once they are kept themselves, as otherwise a restart would ignore the masters'
/// word of what it does not know.
pub(crate) fn put_newest(dir: &Path, (epoch, revision): (u64, u64)) -> io::Result<()> {
    runtime::files::replace(&newest_file(dir), json!({"epoch": epoch, "revision": revision}).to_string())
}

/// Reads what was kept. A damaged file is put aside; the others count.
pub(crate) fn read(dir: &Path) -> Kept {
    let mut kept = Kept::default();
    match read_file(&newest_file(dir), parse_newest) {
        Ok(newest) => kept.newest = newest.unwrap_or_default(),
        Err(why) => kept.damaged.push(why),
    }
    let names = match std::fs::read_dir(folder(dir)).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            kept.damaged.push(format!("{}: {error}", folder(dir).display()));
            Vec::new()
        }
    };
    for name in &names {
        let path = folder(dir).join(name);
        if name.starts_with('.') {
            // Its worker ended while it wrote it.
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "a file that was never whole could not be removed");
            }
        } else if let Some(uid) = name.strip_suffix(".json") {
            match read_file(&path, |bytes| parse(bytes, uid)) {
                Ok(assignment) => kept.assignments.extend(assignment),
                Err(why) => kept.damaged.push(why),
            }
        }
    }
    kept.assignments.sort_by_key(Assignment::uid);
    kept
}

/// Reads a file, if it is there, or puts it aside.
fn read_file<T>(path: &Path, parse: impl Fn(&[u8]) -> Result<T, String>) -> Result<Option<T>, String> {
    let read = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| error.to_string()),
    };
    read.and_then(|bytes| parse(&bytes)).map(Some).map_err(|why| {
        let aside = path.with_extension("json.damaged");
        match std::fs::rename(path, &aside) {
            Ok(()) => format!("{why}; it is kept as {}", aside.display()),
            Err(error) => format!("{}: {why}; it could not be put aside: {error}", path.display()),
        }
    })
}

fn parse(bytes: &[u8], uid: &str) -> Result<Assignment, String> {
    let assignment: Assignment = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if assignment.uid() == uid { Ok(assignment) } else { Err(format!("it does not hold the pod {uid}")) }
}

fn parse_newest(bytes: &[u8]) -> Result<(u64, u64), String> {
    let saved: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let number = |field: &str| saved.at(field).as_u64().ok_or_else(|| format!("{field} is missing"));
    Ok((number("epoch")?, number("revision")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uid: &str) -> Assignment {
        let pod = json!({"metadata": {"uid": uid}});
        Assignment { pod, objects: vec![json!({"kind": "Secret"})], stopped: true, ..Assignment::default() }
    }

    #[test]
    fn what_is_kept_is_read_back_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), Kept::default());
        for uid in ["b", "a", "c"] {
            put(dir.path(), &of(uid)).unwrap();
        }
        put_newest(dir.path(), (2, 70)).unwrap();
        remove(dir.path(), "c").unwrap();
        remove(dir.path(), "c").unwrap();
        std::fs::write(folder(dir.path()).join(".d.json.new"), "half").unwrap();
        let kept = Kept { newest: (2, 70), assignments: vec![of("a"), of("b")], damaged: Vec::new() };
        assert_eq!(read(dir.path()), kept);
        let left = std::fs::read_dir(folder(dir.path())).unwrap().count();
        assert_eq!(left, 2, "what was never whole is gone");
    }

    #[test]
    fn a_damaged_file_is_told_and_put_aside_and_the_others_count() {
        for damaged in ["", "{", "[]", r#"{"pod": {}, "objects": [], "removed": false, "stopped": false}"#] {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), &of("a")).unwrap();
            put(dir.path(), &of("b")).unwrap();
            std::fs::write(file_of(dir.path(), "b"), damaged).unwrap();
            std::fs::write(newest_file(dir.path()), r#"{"epoch": 1}"#).unwrap();
            let kept = read(dir.path());
            assert_eq!((kept.newest, kept.assignments), ((0, 0), vec![of("a")]), "{damaged}");
            let told = ["revision is missing; it is kept as ", "newest.json.damaged", "b.json.damaged"];
            assert!(told.iter().all(|words| kept.damaged.join("\n").contains(words)), "{:?}", kept.damaged);
            assert_eq!(read(dir.path()).damaged, Vec::<String>::new(), "only once");
        }
    }
}
