//! Looks at a manifest before RocksDB does. Where the kind of a record has become one that only recycled files have,
//! RocksDB reads that record for ever (11.8: `Reader::ReadPhysicalRecord` answers and does not go on): a master would
//! neither start nor say why.

use crate::{EXISTS, OpenError};
use std::io;
use std::path::Path;

/// A record lies within a block, behind a head: a checksum of four bytes, a length of two, and its kind.
/// (RocksDB, `db/log_format.h`.)
const BLOCK_BYTES: usize = 32 << 10;
const HEAD_BYTES: usize = 7;

fn is_of_recycled_files(kind: u8) -> bool {
    matches!(kind, 5..=8) || kind >= 10 && kind % 2 == 1
}

/// Where a record of such a kind begins. Behind damage of another sort it may be none: what is said of it is true of
/// the file all the same.
fn recycled(bytes: &[u8]) -> Option<usize> {
    bytes.chunks(BLOCK_BYTES).enumerate().find_map(|(i, block)| {
        let mut at = 0;
        while let Some(&[_, _, _, _, low, high, kind]) = block.get(at..at + HEAD_BYTES) {
            if is_of_recycled_files(kind) {
                return Some(i * BLOCK_BYTES + at);
            }
            at += HEAD_BYTES + usize::from(u16::from_le_bytes([low, high]));
        }
        None
    })
}

/// That RocksDB will come to an end with the manifest of the database in `folder`, if there is one.
pub(crate) fn check(folder: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { path: folder.display().to_string(), source };
    let read = |name: &str| match std::fs::read(folder.join(name)) {
        // RocksDB says what is missing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(failed),
    };
    let Some(current) = read(EXISTS)? else { return Ok(()) };
    let Ok(name) = String::from_utf8(current) else { return Ok(()) };
    let name = name.trim_end();
    // It names a file of its folder, or is damaged.
    if !name.starts_with("MANIFEST-") || name.contains(['/', '\0']) {
        return Ok(());
    }
    match read(name)?.as_deref().and_then(recycled) {
        None => Ok(()),
        Some(at) => {
            let why = format!("the record at byte {at} of {name} is of a kind that no manifest has");
            Err(OpenError::Damaged { path: folder.display().to_string(), why })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, n_bytes: u16) -> Vec<u8> {
        let [low, high] = n_bytes.to_le_bytes();
        [&[9, 9, 9, 9, low, high, kind][..], &vec![5; usize::from(n_bytes)]].concat()
    }

    #[test]
    fn records_are_found_by_their_lengths_in_every_block() {
        let whole = [record(1, 100), record(2, 32_647)].concat();
        assert_eq!(whole.len(), BLOCK_BYTES - 7);
        let more = |kind: u8| [&whole[..], &[0; 7], &record(4, 10), &record(kind, 3)].concat();
        assert_eq!(recycled(&more(1)), None);
        assert_eq!(recycled(&more(5)), Some(BLOCK_BYTES + 17));
        assert_eq!(recycled(&more(11)), Some(BLOCK_BYTES + 17));
        assert_eq!(recycled(&more(130)), None);
        assert_eq!(recycled(&record(8, 0)), Some(0));
        assert_eq!(recycled(&record(1, 100)[..50]), None, "a torn end");
        assert_eq!(recycled(&[0; 100]), None);
        assert_eq!(recycled(&[]), None);
    }
}
