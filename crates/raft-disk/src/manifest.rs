//! Looks at a manifest before RocksDB does, for damage that RocksDB (11.8, `db/log_reader.cc`) does not tell of:
//!
//! - Where the kind of a record has become one that only recycled files have, it reads that record for ever: a master
//!   would neither start nor say why.
//! - Where the length of one has become more than the file has, it takes that for the torn end of a last write, and
//!   forgets that record and all behind it: column families, and tables with what was acknowledged.

use crate::{EXISTS, OpenError};
use std::io;
use std::path::Path;

/// A record lies within a block, behind a head: a checksum of four bytes, a length of two, and its kind.
/// (RocksDB, `db/log_format.h`.)
const BLOCK_BYTES: usize = 32 << 10;
const HEAD_BYTES: usize = 7;

fn is_of_recycled_files(kind: u8) -> bool {
    matches!(kind, 5..=8 | 11 | 131)
}

/// As RocksDB stores a checksum.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// Whether the checksum is that of a whole record, of whatever length; the first byte is its kind. One that was torn
/// has none that fits, but for one time in some hundred thousand.
fn has_a_whole(stored: u32, kind_and_rest: &[u8]) -> bool {
    let checksums = kind_and_rest.iter().scan(0, |checksum, byte| {
        *checksum = crc32c::crc32c_append(*checksum, &[*byte]);
        Some(*checksum)
    });
    checksums.map(masked).any(|checksum| checksum == stored)
}

/// What is wrong with these records and would not be told.
fn untold(bytes: &[u8]) -> Option<String> {
    for (i, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let mut at = 0;
        while let Some(&[a, b, c, d, low, high, kind]) = block.get(at..at + HEAD_BYTES) {
            let (length, begins) = (usize::from(u16::from_le_bytes([low, high])), i * BLOCK_BYTES + at);
            if is_of_recycled_files(kind) {
                return Some(format!("the record at byte {begins} is of a kind that no manifest has"));
            }
            // The rest of such a block is passed over: a file system had not written it.
            if kind == 0 && length == 0 {
                break;
            }
            let stored = u32::from_le_bytes([a, b, c, d]);
            let next = at + HEAD_BYTES + length;
            match block.get(at + HEAD_BYTES - 1..next) {
                Some(kind_and_rest) if masked(crc32c::crc32c(kind_and_rest)) == stored => at = next,
                // RocksDB looks no further, and tells.
                Some(_) => return None,
                None if has_a_whole(stored, &block[at + HEAD_BYTES - 1..]) => {
                    return Some(format!("the record at byte {begins} is said to be longer than the file"));
                }
                None => break,
            }
        }
    }
    None
}

/// That RocksDB will tell of any damage of the manifest of the database in `folder`, if there is one.
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
    match read(name)?.as_deref().and_then(untold) {
        None => Ok(()),
        Some(what) => Err(OpenError::Damaged { path: folder.display().to_string(), why: format!("{name}: {what}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, n_bytes: u16) -> Vec<u8> {
        let rest = [&[kind][..], &vec![5; usize::from(n_bytes)]].concat();
        let stored = masked(crc32c::crc32c(&rest)).to_le_bytes();
        [&stored[..], &n_bytes.to_le_bytes(), &rest].concat()
    }

    fn is_sound(bytes: &[u8]) -> bool {
        untold(bytes).is_none()
    }

    #[test]
    fn no_record_is_of_a_recycled_file() {
        let whole = [record(1, 100), record(2, 32_647)].concat();
        assert_eq!(whole.len(), BLOCK_BYTES - 7);
        let more = |kind: u8| [&whole[..], &[0; 7], &record(4, 10), &record(kind, 3)].concat();
        assert!(is_sound(&more(1)) && is_sound(&more(130)));
        let said = |kind| untold(&more(kind)).unwrap_or_default();
        assert_eq!(said(5), "the record at byte 32785 is of a kind that no manifest has");
        assert_eq!((said(11), said(131)), (said(5), said(5)));
        assert!(!is_sound(&record(8, 0)));
    }

    #[test]
    fn a_torn_end_is_none_and_a_long_length_is() {
        let whole = [record(1, 100), record(1, 300), record(1, 50)].concat();
        (0..=whole.len()).for_each(|n| assert!(is_sound(&whole[..n]), "{n}"));
        // The last ends within the file: RocksDB looks at its checksum.
        let flips = [(5, 7, true), (5, 1, true), (112, 3, true), (418, 6, true), (111, 4, false)];
        for (at, bit, is_told) in flips {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            assert_eq!(!is_sound(&flipped), is_told, "{at} {bit}");
        }
        let unwritten = [&record(1, 100)[..], &[0; 7], &[5; 300]].concat();
        assert!(is_sound(&unwritten) && is_sound(&[0; 100]) && is_sound(&[]));
    }
}
