//! The snapshot codec: the state as bytes that a master can send, keep and trust.
//!
//! Layout: magic, format version, then length-prefixed items each with its CRC-32C: one `Head`,
//! then every object in key order. History is not included: watchers older than a snapshot list
//! again.

use crate::State;
use crate::dedup::Dedup;
use crate::history::History;
use bytes::Bytes;
use objects::{Key, Record, Revision, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"balsasn1";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not a snapshot, or one of an unknown format")]
    Magic,
    #[error("the snapshot ends early")]
    Short,
    #[error("item {item} fails its checksum")]
    Checksum { item: usize },
    #[error("item {item} cannot be decoded")]
    Decode { item: usize, source: postcard::Error },
    #[error("item {item} is not an object")]
    Record { item: usize, source: objects::record::Error },
    #[error("the state is of feature level {needs}, and this build knows {knows}: install the version that wrote it")]
    FeatureLevel { needs: u32, knows: u32 },
    #[error(
        "the state was written by an earlier build, which this one does not read: restore it with that build, or empty \
         the data folder and join again with a token"
    )]
    Earlier,
    #[error("the snapshot holds {found} objects but announces {announced}")]
    Count { found: u64, announced: u64 },
}

/// Everything but the objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    revision: Revision,
    stamp: Timestamp,
    feature_level: u32,
    n_objects: u64,
    dedup: Dedup,
}

#[derive(Serialize, Deserialize)]
struct Item {
    key: Key,
    revision: Revision,
    json: Bytes,
}

fn head_of(bytes: &[u8]) -> Result<Head, Error> {
    match postcard::take_from_bytes(bytes).map_err(|source| Error::Decode { item: 0, source })? {
        (head, []) => Ok(head),
        // It held an index of names besides.
        (_, _) => Err(Error::Earlier),
    }
}

/// An item, with its length and its CRC-32C before it.
pub(crate) fn push(out: &mut Vec<u8>, item: &[u8]) {
    out.extend_from_slice(&(item.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(item).to_le_bytes());
    out.extend_from_slice(item);
}

fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("our own types serialise")
}

pub fn encode(state: &State) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    push(&mut out, &head_bytes(state));
    for record in state.objects.values() {
        push(&mut out, &record_bytes(record));
    }
    out
}

/// The head alone, for a store that keeps objects as rows.
pub fn head_bytes(state: &State) -> Vec<u8> {
    to_bytes(&Head {
        revision: state.revision,
        stamp: state.stamp,
        feature_level: state.feature_level,
        n_objects: state.objects.len() as u64,
        dedup: state.dedup.clone(),
    })
}

/// One object as a row.
pub fn record_bytes(record: &Record) -> Vec<u8> {
    to_bytes(&Item { key: record.key.clone(), revision: record.header.revision, json: record.json.clone() })
}

/// The head of the same state as it stands in a group that begins at `revision`.
pub fn rebase(head: &[u8], revision: Revision) -> Result<Vec<u8>, Error> {
    Ok(to_bytes(&Head { revision, ..head_of(head)? }))
}

/// The replicated time that a head holds.
pub fn stamp_of(head: &[u8]) -> Result<Timestamp, Error> {
    Ok(head_of(head)?.stamp)
}

/// An object as `record_bytes` makes it, checked.
pub struct Row {
    pub record: Record,
    pub bytes: Vec<u8>,
}

impl Row {
    pub fn parse(bytes: Vec<u8>) -> Result<Row, Error> {
        let item: Item = postcard::from_bytes(&bytes).map_err(|source| Error::Decode { item: 1, source })?;
        let record = Record::restore(item.key, item.revision, item.json);
        Ok(Row { record: record.map_err(|source| Error::Record { item: 1, source })?, bytes })
    }
}

/// `knows`: the highest feature level that is understood; a state of a higher one is refused.
pub fn decode(bytes: &[u8], knows: u32) -> Result<State, Error> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(Error::Magic)?;
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (header, body) = rest.split_at_checked(8).ok_or(Error::Short)?;
        let word = |i: usize| u32::from_le_bytes(header[i..i + 4].try_into().expect("four bytes"));
        let (item, after) = body.split_at_checked(word(0) as usize).ok_or(Error::Short)?;
        if crc32c::crc32c(item) != word(4) {
            return Err(Error::Checksum { item: items.len() });
        }
        items.push(item);
        rest = after;
    }
    let (head, records) = items.split_first().ok_or(Error::Short)?;
    let mut assembly = Assembly::begin(head, knows)?;
    records.iter().try_for_each(|row| assembly.add(row))?;
    assembly.finish()
}

/// A state that is built row by row, so that they need not be in memory together.
pub struct Assembly {
    state: State,
    n_announced: u64,
    n_added: usize,
}

impl Assembly {
    /// `knows` as in `decode`.
    pub fn begin(head: &[u8], knows: u32) -> Result<Assembly, Error> {
        let head = head_of(head)?;
        if head.feature_level > knows {
            return Err(Error::FeatureLevel { needs: head.feature_level, knows });
        }
        let state = State {
            revision: head.revision,
            stamp: head.stamp,
            feature_level: head.feature_level,
            dedup: head.dedup,
            history: History::starting_after(head.revision),
            ..State::default()
        };
        Ok(Assembly { state, n_announced: head.n_objects, n_added: 0 })
    }

    pub fn add(&mut self, row: &[u8]) -> Result<(), Error> {
        self.n_added += 1;
        let item = self.n_added;
        let row: Item = postcard::from_bytes(row).map_err(|source| Error::Decode { item, source })?;
        let record = Record::restore(row.key.clone(), row.revision, row.json)
            .map_err(|source| Error::Record { item, source })?;
        self.state.put(&row.key, Some(Arc::new(record)));
        Ok(())
    }

    pub fn finish(self) -> Result<State, Error> {
        match self.state.objects.len() as u64 {
            found if found != self.n_announced => Err(Error::Count { found, announced: self.n_announced }),
            _ => Ok(self.state),
        }
    }
}
