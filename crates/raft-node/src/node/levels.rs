//! Feature levels of a group: which level each member's binary knows, and the entry by which one that has been
//! replaced by a newer build is written down.
//!
//! Masters tell their level with every answer to a heartbeat, once they serve: a build that does not get so far is
//! no reason to burn the bridges behind it. The membership holds it, so that the level in force
//! follows from committed entries alone (`Machine`): the lowest that a member knows, and never lower than it was.
//! A rolling upgrade raises it with the last master that comes back.

use super::members::SETTLE_MAX;
use super::{Inner, Member};
use crate::types::LogId;
use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, Precondition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two tries to write levels down, while another change of the group is under way.
const RETRY: Duration = Duration::from_secs(1);

/// What members have told this leader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<watch::Sender<Told>>);

#[derive(Debug, Default)]
struct Told {
    /// Of an earlier term it says nothing: the member may have been replaced by an older build since.
    term: u64,
    levels: BTreeMap<u64, u32>,
}

impl Heard {
    /// `level` as it came: 0 from a master that does not serve yet.
    pub(crate) fn hear(&self, term: u64, id: u64, level: u32) {
        self.0.send_if_modified(|told| {
            if told.term < term {
                *told = Told { term, ..Told::default() };
            }
            level > 0 && told.term == term && told.levels.insert(id, level) != Some(level)
        });
    }

    /// Has it looked at again.
    pub(super) fn wake(&self) {
        self.0.send_modify(|_| {});
    }

    fn of(&self, term: u64) -> BTreeMap<u64, u32> {
        let told = self.0.borrow();
        if told.term == term { told.levels.clone() } else { BTreeMap::new() }
    }
}

/// The members whose level the membership tells wrongly, as they are to be written. When there are none and yet all
/// know more than is in force (a group founded by a newer build on an older one's backup), all of them as they are:
/// any entry of the membership raises it.
fn due(members: &BTreeMap<u64, Member>, told: &BTreeMap<u64, u32>, in_force: u32) -> BTreeMap<u64, Member> {
    let now = |(id, member): (&u64, &Member)| {
        let feature_level = *told.get(id)?;
        (member.feature_level != feature_level).then(|| (*id, Member { feature_level, ..member.clone() }))
    };
    let outdated: BTreeMap<u64, Member> = members.iter().filter_map(now).collect();
    let all_know = members.values().map(|member| member.feature_level).min().unwrap_or_default();
    if outdated.is_empty() && all_know > in_force { members.clone() } else { outdated }
}

/// Whether the membership, `effective` since that entry, tells what has been heard in `term`, which this master leads.
/// A change of the group that is under way is left to end.
async fn write_down(inner: &Inner, term: u64, effective: Option<LogId>) -> bool {
    let (membership, in_force) = inner.machine.group();
    if *membership.log_id() != effective || membership.membership().get_joint_config().len() > 1 {
        return false;
    }
    let mut told = inner.heard_levels.of(term);
    told.extend(inner.told_level().map(|level| (inner.id, level)));
    let members = membership.membership().nodes().map(|(id, member)| (*id, member.clone())).collect();
    let due = due(&members, &told, in_force);
    if due.is_empty() {
        return true;
    }
    for Member { name, feature_level, .. } in due.values() {
        tracing::info!(master = %name, feature_level, "a master's build is written down");
    }
    // Of another group than that which was looked at it might take in again who has just been removed.
    let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: effective };
    let change = inner.raft.change_membership_if(ChangeMembers::SetNodes(due), false, [unchanged]);
    match tokio::time::timeout(SETTLE_MAX, change).await {
        Ok(Ok(_)) => return true,
        Ok(Err(error)) => tracing::debug!(%error, "it is not written down yet"),
        Err(_) => tracing::debug!("it is not written down yet: nothing is committed"),
    }
    false
}

/// Keeps the members' levels true in the membership, whenever this master leads.
pub(super) async fn keep(inner: std::sync::Weak<Inner>) {
    let Some(strong) = inner.upgrade() else { return };
    let mut told = strong.heard_levels.0.subscribe();
    let mut leadership = strong.leadership.subscribe();
    // These change with the members, too.
    let mut server = strong.raft.server_metrics();
    drop(strong);
    loop {
        let Some(inner) = inner.upgrade() else { return };
        told.mark_unchanged();
        let effective = *server.borrow_and_update().membership_config.log_id();
        let active = leadership.borrow_and_update().active;
        let done = match active {
            Some(leader) => write_down(&inner, leader.term, effective).await,
            None => true,
        };
        drop(inner);
        tokio::select! {
            biased;
            news = told.changed() => if news.is_err() { return },
            news = leadership.changed() => if news.is_err() { return },
            news = server.changed() => if news.is_err() { return },
            () = tokio::time::sleep(RETRY), if !done => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_in_an_earlier_term_is_forgotten() {
        let heard = Heard::default();
        heard.hear(1, 1, 2);
        heard.hear(1, 2, 0);
        heard.hear(1, 3, 1);
        assert_eq!(heard.of(1), BTreeMap::from([(1, 2), (3, 1)]));
        heard.hear(3, 2, 2);
        heard.hear(2, 1, 9);
        assert_eq!((heard.of(3), heard.of(1)), (BTreeMap::from([(2, 2)]), BTreeMap::new()));
    }

    #[test]
    fn a_group_that_knows_more_than_is_in_force_is_written_again() {
        let members = BTreeMap::from([(1, Member { feature_level: 2, ..Member::default() })]);
        assert_eq!(due(&members, &BTreeMap::from([(1, 2)]), 1), members);
        assert!(due(&members, &BTreeMap::from([(1, 2)]), 2).is_empty());
    }

    #[test]
    fn only_members_whose_level_has_changed_are_written() {
        let member = |name: &str, feature_level| Member { name: name.into(), feature_level, ..Member::default() };
        let members = BTreeMap::from([(1, member("a", 1)), (2, member("b", 2)), (3, member("c", 1))]);
        let told = BTreeMap::from([(1, 2), (2, 2), (9, 2)]);
        assert_eq!(due(&members, &told, 1), BTreeMap::from([(1, member("a", 2))]));
        assert!(due(&members, &BTreeMap::new(), 1).is_empty());
    }
}
