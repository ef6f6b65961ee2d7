//! The machine's control groups: which layout it has, and removing what pods leave there.
//!
//! The runtime makes the groups (`PARENT/podUID/CONTAINER`) and forgets the pod's own; a folder that
//! nobody removes is a leak of kernel memory.

use std::path::{Path, PathBuf};

/// How the machine mounts its controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One tree for all controllers.
    V2,
    /// A tree per controller, and a version 2 tree that holds none or few of them.
    Hybrid,
    /// A tree per controller.
    V1,
    Absent,
}

impl Layout {
    pub fn name(self) -> &'static str {
        match self {
            Layout::V2 => "v2",
            Layout::Hybrid => "hybrid",
            Layout::V1 => "v1",
            Layout::Absent => "absent",
        }
    }
}

/// Recognises the layout under `root`, which is /sys/fs/cgroup outside tests.
pub fn layout(root: &Path) -> Layout {
    match () {
        () if root.join("cgroup.controllers").exists() => Layout::V2,
        () if root.join("unified/cgroup.controllers").exists() => Layout::Hybrid,
        () if root.join("memory").is_dir() || root.join("cpu").is_dir() => Layout::V1,
        () => Layout::Absent,
    }
}

pub fn root() -> &'static Path {
    Path::new("/sys/fs/cgroup")
}

/// Every controller's tree.
fn trees(root: &Path) -> Vec<PathBuf> {
    if layout(root) == Layout::V2 {
        return vec![root.to_path_buf()];
    }
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

fn remove_tree(dir: &Path) {
    let children = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    children.filter(|path| path.is_dir()).for_each(|child| remove_tree(&child));
    // The kernel's files in it go with the folder; it refuses while a process is left.
    if let Err(error) = std::fs::remove_dir(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::debug!(%error, path = %dir.display(), "a control group is still in use");
    }
}

/// Removes the group `parent` (as in `/balsa/…`) and all below it, where no process is left.
pub fn remove(parent: &str) {
    for tree in trees(root()) {
        remove_tree(&tree.join(parent.trim_start_matches('/')));
    }
}

/// Removes the group `parent` itself, where nothing is below it any more.
pub fn remove_if_empty(parent: &str) {
    for tree in trees(root()) {
        if let Err(error) = std::fs::remove_dir(tree.join(parent.trim_start_matches('/'))) {
            tracing::debug!(%error, parent, "a control group stays");
        }
    }
}

/// Every process in the group `parent` and below.
pub fn processes(parent: &str) -> Vec<i32> {
    fn collect(dir: &Path, pids: &mut std::collections::BTreeSet<i32>) {
        let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        let children = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        children.filter(|path| path.is_dir()).for_each(|child| collect(&child, pids));
    }
    let mut pids = Default::default();
    trees(root()).iter().for_each(|tree| collect(&tree.join(parent.trim_start_matches('/')), &mut pids));
    pids.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(layout(dir.path()), Layout::Absent);
        std::fs::create_dir(dir.path().join("memory")).unwrap();
        assert_eq!(layout(dir.path()), Layout::V1);
        std::fs::create_dir(dir.path().join("unified")).unwrap();
        std::fs::write(dir.path().join("unified/cgroup.controllers"), "").unwrap();
        assert_eq!(layout(dir.path()), Layout::Hybrid);
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory").unwrap();
        assert_eq!(layout(dir.path()), Layout::V2);
    }
}
