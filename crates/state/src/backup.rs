//! The backup file: the whole replicated state at one revision, as a stream that can be trusted.
//!
//! Layout: magic; then items, each with its length and its CRC-32C; first the manifest (JSON), then the
//! head, then every object in key order; last the trailer: a length of all ones and the SHA-256 of all
//! bytes before it. A file that ends early has no trailer, one with a flipped bit fails a checksum or the
//! hash. Reader and writer hold one item at a time.

use crate::View;
use crate::snapshot::{self, Row, push};
use objects::{Revision, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{self, Read};

const MAGIC: &[u8; 8] = b"balsabk1";
/// In the place of a length: what follows is the hash.
const TRAILER: u32 = u32::MAX;
/// No item is larger: objects are bounded at 1.5 MB, the head at some tens.
const ITEM_BYTES_MAX: u32 = 256 << 20;

/// What a backup says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub cluster_id: String,
    /// Of the group it was taken from.
    pub epoch: u64,
    pub revision: u64,
    pub feature_level: u32,
    pub n_objects: u64,
    /// The clock of the master that took it, in milliseconds since 1970.
    pub taken_at_ms: i64,
    /// The names of the group's members.
    pub members: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot be read")]
    Io(#[from] io::Error),
    #[error("is not a backup, or one of an unknown format")]
    Magic,
    #[error("is truncated or damaged: it ends after {items} items, without its trailer")]
    Short { items: u64 },
    #[error("is damaged: item {item} fails its checksum")]
    Checksum { item: u64 },
    #[error("is damaged: its bytes are not those that were written (SHA-256 differs)")]
    Hash,
    #[error("goes on after its trailer")]
    Trailing,
    #[error("is damaged: {why}")]
    Decode { why: String },
    #[error("needs feature level {needs}; this binary knows {knows}: upgrade it")]
    FeatureLevel { needs: u32, knows: u32 },
    #[error("holds {found} objects but announces {announced}")]
    Count { found: u64, announced: u64 },
}

/// The pieces of a backup file, one after the other.
pub struct Pieces {
    view: View,
    manifest: Manifest,
    hash: Sha256,
    stage: Stage,
}

enum Stage {
    Manifest,
    Head,
    Rows(Option<objects::Key>),
    End,
}

/// A piece holds at least this many bytes, except the last.
const PIECE_BYTES: usize = 256 << 10;

impl Pieces {
    /// Of a view as it is; `manifest`'s revision, level and count are the view's.
    pub fn of(view: View, manifest: Manifest) -> Pieces {
        let manifest = Manifest {
            revision: view.revision().0,
            feature_level: view.state().feature_level(),
            n_objects: view.n_objects() as u64,
            ..manifest
        };
        Pieces { view, manifest, hash: Sha256::new(), stage: Stage::Manifest }
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn rows(&mut self, out: &mut Vec<u8>, after: Option<objects::Key>) -> Stage {
        for record in self.view.state().records_after(after.as_ref()) {
            push(out, &snapshot::record_bytes(record));
            if out.len() >= PIECE_BYTES {
                return Stage::Rows(Some(record.key.clone()));
            }
        }
        Stage::End
    }
}

impl Iterator for Pieces {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.stage = match std::mem::replace(&mut self.stage, Stage::End) {
            Stage::Manifest => {
                out.extend_from_slice(MAGIC);
                push(&mut out, &serde_json::to_vec(&self.manifest).expect("our own types serialise"));
                Stage::Head
            }
            Stage::Head => {
                push(&mut out, &snapshot::head_bytes(self.view.state()));
                Stage::Rows(None)
            }
            Stage::Rows(after) => {
                let next = self.rows(&mut out, after);
                if matches!(next, Stage::End) {
                    self.hash.update(&out);
                    out.extend_from_slice(&TRAILER.to_le_bytes());
                    out.extend_from_slice(&self.hash.clone().finalize());
                    return Some(out);
                }
                next
            }
            Stage::End => return None,
        };
        self.hash.update(&out);
        Some(out)
    }
}

/// Reads a backup item by item. What it has yielded is to be trusted only once `next_row` has said that
/// there is no more: the hash stands at the end.
pub struct Reader<R> {
    source: R,
    hash: Sha256,
    n_items: u64,
    n_rows: u64,
    manifest: Manifest,
    head: Vec<u8>,
    digest: Option<[u8; 32]>,
}

impl<R: Read> Reader<R> {
    /// Reads manifest and head.
    pub fn open(mut source: R) -> Result<Reader<R>, Error> {
        let mut magic = [0; MAGIC.len()];
        source.read_exact(&mut magic).map_err(|_| Error::Magic)?;
        if magic != *MAGIC {
            return Err(Error::Magic);
        }
        let hash = Sha256::new_with_prefix(MAGIC);
        let (manifest, head) = (Manifest::default(), Vec::new());
        let mut reader = Reader { source, hash, n_items: 0, n_rows: 0, manifest, head, digest: None };
        let first = reader.item()?.ok_or(Error::Short { items: 0 })?;
        let manifest = serde_json::from_slice(&first);
        reader.manifest = manifest.map_err(|error| Error::Decode { why: format!("the manifest: {error}") })?;
        if reader.manifest.feature_level > crate::FEATURE_LEVEL {
            let needs = reader.manifest.feature_level;
            return Err(Error::FeatureLevel { needs, knows: crate::FEATURE_LEVEL });
        }
        reader.head = reader.item()?.ok_or(Error::Short { items: 1 })?;
        Ok(reader)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The state's head as it is to stand in a group that begins at `revision`.
    pub fn head_at(&self, revision: Revision) -> Result<Vec<u8>, Error> {
        snapshot::rebase(&self.head, revision).map_err(|error| Error::Decode { why: error.to_string() })
    }

    /// The replicated time in the backup.
    pub fn stamp(&self) -> Result<Timestamp, Error> {
        snapshot::stamp_of(&self.head).map_err(|error| Error::Decode { why: error.to_string() })
    }

    /// The next object; `None` after the last, once the trailer has been verified.
    pub fn next_row(&mut self) -> Result<Option<Row>, Error> {
        let Some(item) = self.item()? else {
            let (found, announced) = (self.n_rows, self.manifest.n_objects);
            return if found == announced { Ok(None) } else { Err(Error::Count { found, announced }) };
        };
        self.n_rows += 1;
        let row = Row::parse(item).map_err(|error| Error::Decode { why: error.to_string() })?;
        Ok(Some(row))
    }

    /// The SHA-256 of everything before the trailer, once that has been reached.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), Error> {
        let items = self.n_items;
        self.source.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Short { items },
            _ => Error::Io(error),
        })
    }

    /// The next item, `None` at the trailer.
    fn item(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.digest.is_some() {
            return Ok(None);
        }
        let mut word = [0; 4];
        self.fill(&mut word)?;
        let n_bytes = u32::from_le_bytes(word);
        if n_bytes == TRAILER {
            let mut told = [0; 32];
            self.fill(&mut told)?;
            if self.source.read(&mut [0; 1])? != 0 {
                return Err(Error::Trailing);
            }
            let digest: [u8; 32] = self.hash.clone().finalize().into();
            if digest != told {
                return Err(Error::Hash);
            }
            self.digest = Some(digest);
            return Ok(None);
        }
        let item = self.n_items;
        if n_bytes > ITEM_BYTES_MAX {
            return Err(Error::Checksum { item });
        }
        self.hash.update(word);
        self.fill(&mut word)?;
        self.hash.update(word);
        // Not allocated on a damaged length's word: it grows as the bytes come.
        let mut bytes = Vec::new();
        let n_read = self.source.by_ref().take(u64::from(n_bytes)).read_to_end(&mut bytes)?;
        if n_read < n_bytes as usize {
            return Err(Error::Short { items: item });
        }
        self.hash.update(&bytes);
        if crc32c::crc32c(&bytes) != u32::from_le_bytes(word) {
            return Err(Error::Checksum { item });
        }
        self.n_items += 1;
        Ok(Some(bytes))
    }
}

/// Revisions given out by one group, at most, for each second of its life: some thirty times what was ever measured
/// (27,000 writes/s on two processors). A revision stays below 2^53, which JavaScript's numbers end with, for 285 years.
pub const REVISIONS_PER_SECOND_MAX: u64 = 1_000_000;
/// A group begins no later: half of those numbers are left to it.
pub const BEGIN_MAX: u64 = 1 << 52;
/// On top, for what was in flight when the backup was taken, and for clocks that differ by 10 s.
pub const REVISIONS_SLACK: u64 = 1_000_000;

/// Where a group begins that continues from `revision` as of `as_of`: above anything that the old group
/// can have issued until `now`. A line through time: groups restored from the same backup, one after the
/// other, stay below the beginning of the next. A clock that is behind `as_of` counts as no time passed.
pub fn revision_after(revision: Revision, as_of: Timestamp, now: Timestamp) -> Revision {
    let seconds = u64::try_from(now.since_ms(as_of)).unwrap_or(0) / 1000 + 1;
    let issued = REVISIONS_SLACK.saturating_add(seconds.saturating_mul(REVISIONS_PER_SECOND_MAX));
    Revision(revision.0.saturating_add(issued))
}

/// The epoch of a group that follows one of epoch `old`: milliseconds since 1970, so that two groups made
/// from the same backup have two, the later one the greater.
pub fn epoch_after(old: u64, now: Timestamp) -> u64 {
    u64::try_from(now.0).unwrap_or(0).max(old.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LeaderId, Op, State, Txn};
    use objects::{Key, json, record, registry};

    fn view(n: usize) -> View {
        let mut state = State::new();
        let create = |i: usize| Op::Create {
            key: Key::new(registry::CONFIG_MAP, "default", &format!("c{i:03}")),
            object: record::encode(
                &json!({"metadata": {"name": format!("c{i:03}"), "namespace": "default", "uid": format!("u{i}")}, "data": {"x": "y".repeat(2000)}}),
            ),
        };
        let txn = Txn { ops: (0..n).map(create).collect(), stamp: Timestamp(5_000), ..Txn::default() };
        state.apply(LeaderId::default(), &txn);
        View::new(state)
    }

    fn manifest() -> Manifest {
        Manifest {
            cluster_id: "c".into(),
            epoch: 1,
            revision: 0,
            feature_level: 0,
            n_objects: 0,
            taken_at_ms: 6_000,
            members: vec!["m1".into()],
        }
    }

    fn read(bytes: &[u8]) -> Result<Vec<Row>, Error> {
        let mut reader = Reader::open(bytes)?;
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row()? {
            rows.push(row);
        }
        Ok(rows)
    }

    #[test]
    fn a_backup_holds_the_state_as_it_was() {
        let view = view(300);
        let pieces: Vec<Vec<u8>> = Pieces::of(view.clone(), manifest()).collect();
        assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.len() < 2 * PIECE_BYTES));
        let bytes = pieces.concat();
        let reader = Reader::open(&bytes[..]).unwrap();
        assert_eq!((reader.manifest().revision, reader.manifest().n_objects), (300, 300));
        assert_eq!(reader.stamp().unwrap(), Timestamp(5_000));
        let head = reader.head_at(Revision(9_000)).unwrap();
        let rows = read(&bytes).unwrap();
        let mut assembly = snapshot::Assembly::begin(&head, crate::FEATURE_LEVEL).unwrap();
        rows.iter().for_each(|row| assembly.add(&row.bytes).unwrap());
        let state = assembly.finish().unwrap();
        assert_eq!(state.revision(), Revision(9_000));
        let restored = View::new(state);
        for record in view.list(registry::CONFIG_MAP, "", None) {
            assert_eq!(restored.get(&record.key).unwrap().json, record.json);
        }
        // A watch from before the restore has to list again.
        assert!(restored.events_after(registry::CONFIG_MAP, Revision(300)).is_err());
        assert!(restored.events_after(registry::CONFIG_MAP, Revision(9_000)).unwrap().is_empty());
    }

    #[test]
    fn an_empty_state_can_be_backed_up() {
        let bytes: Vec<u8> = Pieces::of(view(0), manifest()).flatten().collect();
        assert!(read(&bytes).unwrap().is_empty());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let bytes: Vec<u8> = Pieces::of(view(3), manifest()).flatten().collect();
        for n in 0..bytes.len() {
            assert!(read(&bytes[..n]).is_err(), "cut to {n} of {}", bytes.len());
        }
        for i in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[i] ^= 1 << (i % 8);
            assert!(read(&damaged).is_err(), "bit {} of byte {i}", i % 8);
        }
        assert!(matches!(read(&[&bytes[..], b"x"].concat()), Err(Error::Trailing)));
        assert!(matches!(read(&bytes[..bytes.len() - 40]), Err(Error::Short { .. })));
    }

    #[test]
    fn revisions_go_on_above_what_the_old_group_can_have_issued() {
        let at = |seconds: i64| Timestamp(seconds * 1000);
        let first = revision_after(Revision(50), at(100), at(160));
        assert_eq!(first, Revision(50 + 1_000_000 + 61 * 1_000_000));
        // The old group went on at full speed, and so did the one restored first.
        assert!(first.0 > 50 + 60 * REVISIONS_PER_SECOND_MAX);
        let second = revision_after(Revision(50), at(100), at(1_000));
        assert!(second.0 > first.0 + (1_000 - 161) * REVISIONS_PER_SECOND_MAX);
        assert_eq!(revision_after(Revision(50), at(100), at(0)), Revision(50 + 2_000_000));
    }

    #[test]
    fn epochs_rise() {
        assert_eq!(epoch_after(1, Timestamp(1_700_000_000_000)), 1_700_000_000_000);
        assert_eq!(epoch_after(1_700_000_000_000, Timestamp(1_600_000_000_000)), 1_700_000_000_001);
    }
}
