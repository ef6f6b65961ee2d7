//! Decay of a stopped master's stored bytes, and the remedy that a damaged master names: its data folder is
//! emptied, and it joins anew.

use anyhow::{Context, Result, bail};
use raft_node::REMEDY;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use stdx::Rng;

/// Where to flip: (which file, which byte, which bit), each byte of all files alike likely. The same draw
/// and sizes give the same places.
fn places(sizes: &[u64], n_bits: u32, draw: u64) -> Vec<(usize, u64, u8)> {
    let total: u64 = sizes.iter().sum();
    if total == 0 {
        return Vec::new();
    }
    let mut rng = Rng::new(draw);
    let mut place = || {
        let (mut at, bit) = (rng.below(total), u8::try_from(rng.below(8)).expect("a byte has 8 bits"));
        for (i, size) in sizes.iter().enumerate() {
            if at < *size {
                return (i, at, bit);
            }
            at -= size;
        }
        unreachable!("it lies within the total")
    };
    (0..n_bits).map(|_| place()).collect()
}

/// Inverts bits in the Raft storage of a master that does not run.
pub(super) fn flip(data: &Path, n_bits: u32, draw: u64) -> Result<()> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(data).with_context(|| format!("reading {}", data.display()))? {
        let folder = folder?;
        if folder.file_name().to_string_lossy().starts_with("raft") {
            files.extend(raft_disk::extents(&folder.path())?);
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let sizes: Vec<u64> = files.iter().map(|file| file.n_bytes).collect();
    let places = places(&sizes, n_bits, draw);
    if places.is_empty() {
        bail!("{} holds no Raft storage", data.display());
    }
    for (i, at, bit) in places {
        let file = OpenOptions::new().read(true).write(true).open(&files[i].path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
        file.sync_data()?;
    }
    Ok(())
}

/// Whether the last words of a master that ended tell its operator what to do.
pub(super) fn names_remedy(last_words: &str) -> bool {
    last_words.contains(REMEDY)
}

/// Empties a data folder. The folder itself stays, as a disk may be mounted there.
pub(super) fn empty(data: &Path) -> Result<()> {
    for entry in std::fs::read_dir(data).with_context(|| format!("reading {}", data.display()))? {
        let path = entry?.path();
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draw_fixes_the_places_and_they_lie_in_the_files() {
        let sizes = [10, 0, 1000];
        assert_eq!(places(&sizes, 50, 7), places(&sizes, 50, 7));
        assert_ne!(places(&sizes, 50, 7), places(&sizes, 50, 8));
        assert!(places(&sizes, 500, 7).iter().all(|(i, at, bit)| *at < sizes[*i] && *bit < 8));
        assert!(places(&[], 5, 7).is_empty() && places(&[0], 5, 7).is_empty());
    }

    #[test]
    fn bits_are_flipped_where_state_is_kept_and_nowhere_else() {
        let data = tempfile::tempdir().unwrap();
        let raft = data.path().join("raft");
        std::fs::create_dir(&raft).unwrap();
        for name in ["000001.log", "LOCK", "LOG"] {
            std::fs::write(raft.join(name), [0; 64]).unwrap();
        }
        std::fs::write(data.path().join("identity.json"), [0; 64]).unwrap();
        flip(data.path(), 1, 3).unwrap();
        let ones =
            |path: std::path::PathBuf| std::fs::read(path).unwrap().iter().map(|byte| byte.count_ones()).sum::<u32>();
        assert_eq!(ones(raft.join("000001.log")), 1);
        assert_eq!(ones(raft.join("LOCK")) + ones(raft.join("LOG")) + ones(data.path().join("identity.json")), 0);
        empty(data.path()).unwrap();
        assert!(flip(data.path(), 1, 3).is_err());
    }
}
