//! Names for stored things: the kind's id, the (kind, namespace, name) key, the revision.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A kind's number in the replicated log. Fixed for ever once released: see `registry::KINDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KindId(pub u16);

/// A position in the replicated history; clients see it as `resourceVersion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies one object. Orders by kind, then namespace, then name, so that a kind and a
/// namespace of a kind are ranges. Cluster-scoped objects have an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub kind: KindId,
    pub namespace: CompactString,
    pub name: CompactString,
}

impl Key {
    pub fn new(kind: KindId, namespace: &str, name: &str) -> Key {
        Key { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = crate::kind(self.kind).map_or("?", |kind| kind.singular);
        match self.namespace.as_str() {
            "" => write!(f, "{kind}/{}", self.name),
            namespace => write!(f, "{kind}/{namespace}/{}", self.name),
        }
    }
}
