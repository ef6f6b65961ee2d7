//! Which files of a folder hold state, and how much of each: for who damages them on purpose, and looks whether it
//! is told.

use crate::{FILLED_WITH, ROWS};
use std::io;
use std::path::{Path, PathBuf};

/// A file, and how many bytes from its start say something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    pub path: PathBuf,
    pub n_bytes: u64,
}

/// What holds state: RocksDB's tables, write-ahead logs and manifests, and the mark. The rest of a folder is locks
/// and notes.
fn holds_state(name: &str) -> bool {
    name.ends_with(".sst") || name.ends_with(".log") || name.starts_with("MANIFEST-") || name == crate::mark::NAME
}

/// The length of a file without what a log was filled with, and will be written over.
fn n_said(bytes: &[u8]) -> usize {
    let is_filler = |page: &[u8]| page.iter().all(|byte| *byte == FILLED_WITH);
    match bytes.chunks(4096).position(is_filler) {
        None => bytes.len(),
        Some(page) => bytes[..page * 4096].iter().rposition(|byte| *byte != FILLED_WITH).map_or(0, |last| last + 1),
    }
}

/// The files of `RocksDisk`'s folder that hold state, in no order.
pub fn extents(folder: &Path) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    for part in [folder.to_path_buf(), folder.join(ROWS)].into_iter().filter(|part| part.is_dir()) {
        for entry in std::fs::read_dir(part)? {
            let entry = entry?;
            if holds_state(&entry.file_name().to_string_lossy()) {
                let n_bytes = n_said(&std::fs::read(entry.path())?) as u64;
                extents.push(Extent { path: entry.path(), n_bytes });
            }
        }
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filler_says_nothing() {
        let filler = vec![FILLED_WITH; 10_000];
        let of = |said: &[u8]| n_said(&[said, &filler].concat());
        assert_eq!((of(b""), of(b"abc"), of(&[1; 5000])), (0, 3, 5000));
        assert_eq!(n_said(&[7, FILLED_WITH]), 2, "no page of it");
        assert_eq!(n_said(&[]), 0);
    }
}
