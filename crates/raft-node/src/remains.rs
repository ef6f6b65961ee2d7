//! What the disk of a stopped master holds: for those who repair a group that lost its majority.

use crate::codec;
use crate::disk::{self, Disk, log_key};
use crate::machine::{Machine, raise};
use crate::node::MemberStatus;
use crate::types::{LogId, StoredMembership, leader_id};
use openraft::EntryPayload;
use state::{LeaderId, State};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// Entries read at once.
const PAGE: usize = 1_000;

/// How far a log reaches. Of two, the greater holds everything that a group has committed if either does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach {
    pub term: u64,
    pub index: u64,
}

impl Reach {
    fn of(log_id: Option<&LogId>) -> Reach {
        log_id.map_or(Reach::default(), |id| Reach { term: id.leader_id.term, index: id.index })
    }
}

/// The remains of a master.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The last vote given, and whether for an elected leader.
    pub vote: LeaderId,
    pub vote_committed: bool,
    /// The last entry of the log.
    pub last: Reach,
    /// Up to here this master knew entries to be committed when it last wrote it down.
    pub committed: Reach,
    pub members: Vec<MemberStatus>,
    /// The sets of voters; two while a change of the group was under way.
    pub voters: Vec<BTreeSet<u64>>,
    /// With every entry of the log applied, whether known to be committed or not: any of them may have
    /// been acknowledged.
    pub state: State,
}

fn damaged(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Reads everything; changes nothing.
pub fn read_remains(disk: Arc<dyn Disk>) -> io::Result<Remains> {
    let log_id = |key: &[u8]| disk.get(key)?.map(|bytes| codec::log_id_from_bytes(&bytes)).transpose();
    let vote = disk.get(disk::VOTE)?.map(|bytes| codec::vote_from_bytes(&bytes)).transpose()?;
    let vote = vote.ok_or_else(|| damaged("it holds no vote: no master has run on this disk".into()))?;
    let committed = log_id(disk::COMMITTED)?;
    let (mut applied, mut membership, mut state) = Machine::checkpoint_of(&*disk, state::FEATURE_LEVEL)?;
    let mut next = applied.map_or(0, |id| id.index + 1);
    loop {
        let page = disk.scan(&log_key(next), disk::LOG_END, PAGE)?;
        if page.is_empty() {
            break;
        }
        for (_, bytes) in page {
            let entry = codec::entry_from_bytes(&bytes)?;
            if entry.log_id.index != next {
                return Err(damaged(format!("entry {next} of its log is missing")));
            }
            next += 1;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    state.apply(leader_id(&entry.log_id), &command.txn()?);
                }
                EntryPayload::Membership(new) => {
                    raise(&mut state, &new, state::FEATURE_LEVEL)?;
                    membership = StoredMembership::new(Some(entry.log_id), new);
                }
            }
            applied = Some(entry.log_id);
        }
    }
    let group = membership.membership();
    let voters: BTreeSet<u64> = group.voter_ids().collect();
    let member = |(id, member): (&u64, &crate::Member)| MemberStatus {
        id: *id,
        member: member.clone(),
        voter: voters.contains(id),
        lag: None,
    };
    Ok(Remains {
        vote: LeaderId { term: vote.leader_id.term, node: vote.leader_id.node_id },
        vote_committed: vote.committed,
        last: Reach::of(applied.as_ref()),
        committed: Reach::of(committed.as_ref()),
        members: group.nodes().map(member).collect(),
        voters: group.get_joint_config().clone(),
        state,
    })
}
