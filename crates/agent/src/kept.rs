//! What a worker keeps on disk of its assignments, for a restart without masters: a file for each pod, so that news
//! of one pod costs no more where there are many. Not synced: what a power loss takes, the masters tell again.

use crate::assignments::Assignment;
use runtime::files::{Owned, replace_as};
use std::io;
use std::path::{Path, PathBuf};

/// All that an earlier worker here kept.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Kept {
    /// By uid.
    pub(crate) assignments: Vec<Assignment>,
    /// What cannot be read, why, and where it was put for a look.
    pub(crate) damaged: Vec<String>,
}

/// Where the files are, each named by its pod's uid.
pub(crate) fn folder(dir: &Path) -> PathBuf {
    dir.join("assignments")
}

fn file_of(dir: &Path, uid: &str) -> PathBuf {
    folder(dir).join(format!("{uid}.json"))
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

/// Reads what was kept. A damaged file is put aside; the others count.
pub(crate) fn read(dir: &Path) -> Kept {
    let mut kept = Kept::default();
    let names = match std::fs::read_dir(folder(dir)).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            kept.damaged.push(format!("{}: {error}", folder(dir).display()));
            Vec::new()
        }
    };
    for name in &names {
        // Beside these there may be damaged ones, and what a worker was writing when it ended.
        let Some(uid) = name.strip_suffix(".json") else { continue };
        match read_file(&file_of(dir, uid), uid) {
            Ok(assignment) => kept.assignments.extend(assignment),
            Err(why) => kept.damaged.push(why),
        }
    }
    kept.assignments.sort_by_key(Assignment::uid);
    kept
}

/// Reads a file, or puts it aside.
fn read_file(path: &Path, uid: &str) -> Result<Option<Assignment>, String> {
    let read = match std::fs::read(path) {
        Err(error) => Err(error.to_string()),
        // A power loss came before the disk had any of it.
        Ok(bytes) if bytes.is_empty() => return Ok(None),
        Ok(bytes) => parse(&bytes, uid),
    };
    read.map(Some).map_err(|why| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

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
        remove(dir.path(), "c").unwrap();
        remove(dir.path(), "c").unwrap();
        std::fs::write(folder(dir.path()).join(".d.json.new"), "half").unwrap();
        assert_eq!(read(dir.path()), Kept { assignments: vec![of("a"), of("b")], damaged: Vec::new() });
        let mode = std::fs::metadata(file_of(dir.path(), "a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_told_and_put_aside_and_the_others_count() {
        for damaged in ["{", "[]", "{}", r#"{"pod": {"metadata": {"uid": "a"}}}"#] {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), &of("a")).unwrap();
            put(dir.path(), &of("b")).unwrap();
            std::fs::write(file_of(dir.path(), "b"), damaged).unwrap();
            let kept = read(dir.path());
            assert_eq!(kept.assignments, [of("a")], "{damaged}");
            assert!(kept.damaged.len() == 1 && kept.damaged[0].ends_with("b.json.damaged"), "{:?}", kept.damaged);
            assert_eq!(read(dir.path()).damaged, Vec::<String>::new(), "only once");
        }
    }

    #[test]
    fn an_empty_file_is_what_a_power_loss_leaves() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), &of("a")).unwrap();
        std::fs::write(file_of(dir.path(), "a"), "").unwrap();
        assert_eq!(read(dir.path()), Kept::default());
    }
}
