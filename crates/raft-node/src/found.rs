//! A group that begins with a given state: what a restore and a quorum repair write to an empty disk.

use crate::codec;
use crate::disk::{self, Batch, Disk, Origin};
use crate::types::{LogId, Member, Membership, SnapshotMeta, StoredMembership, Vote};
use bytes::Bytes;
use objects::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// Rows written at once.
const BATCH_BYTES: usize = 4 << 20;

/// A disk being filled. Without `finish` it holds no master: there is no checkpoint yet.
pub struct Founding {
    disk: Arc<dyn Disk>,
    rows: BTreeMap<Vec<u8>, Bytes>,
    n_bytes: usize,
}

impl Founding {
    pub fn on(disk: Arc<dyn Disk>) -> Founding {
        Founding { disk, rows: BTreeMap::new(), n_bytes: 0 }
    }

    /// An object, as `state::snapshot::record_bytes` makes it.
    pub fn row(&mut self, key: &Key, bytes: Vec<u8>) -> io::Result<()> {
        self.n_bytes += bytes.len();
        self.rows.insert(disk::object_key(key), bytes.into());
        match self.n_bytes >= BATCH_BYTES {
            true => self.write_rows(),
            false => Ok(()),
        }
    }

    fn write_rows(&mut self) -> io::Result<()> {
        self.n_bytes = 0;
        let rows = std::mem::take(&mut self.rows).into_iter();
        self.disk.write_rows(Origin::Snapshot, &mut rows.map(|(key, value)| (key, Some(value))))
    }

    /// Completes it, durably: a group whose one member is `member`, with `head` (as
    /// `state::snapshot::head_bytes` makes it) and all rows as its first checkpoint.
    pub fn finish(self, node_id: u64, member: Member, head: Vec<u8>) -> io::Result<()> {
        self.finish_as(node_id, member, head, vec![BTreeSet::from([node_id])])
    }

    pub(crate) fn finish_as(
        mut self,
        node_id: u64,
        member: Member,
        head: Vec<u8>,
        voters: Vec<BTreeSet<u64>>,
    ) -> io::Result<()> {
        let leader_id = openraft::impls::leader_id_adv::LeaderId { term: 1, node_id };
        // The log begins after an entry that stands for all that was before.
        let begins = LogId { leader_id, index: 1 };
        let invalid = |error: &dyn std::fmt::Display| io::Error::other(format!("the first membership: {error}"));
        let membership =
            Membership::new(voters, BTreeMap::from([(node_id, member)])).map_err(|error| invalid(&error))?;
        let meta = SnapshotMeta {
            last_log_id: Some(begins),
            last_membership: StoredMembership::new(Some(begins), membership),
        };
        let mut batch = Batch::default();
        batch.put(disk::PURGED, codec::log_id_to_bytes(&begins));
        batch.put(disk::COMMITTED, codec::log_id_to_bytes(&begins));
        batch.put(disk::VOTE, codec::vote_to_bytes(&Vote { leader_id, committed: false }));
        self.disk.write(batch, true)?;
        self.rows.insert(disk::CHECKPOINT_HEAD.to_vec(), head.into());
        self.rows.insert(disk::CHECKPOINT_META.to_vec(), codec::meta_to_bytes(&meta).into());
        self.write_rows()
    }
}
