//! The group's members: taking in, promoting, replacing, removing, and planned hand-over.
//!
//! What is safe is decided in `changes`; here a decided change is carried out. Only the leader can.

use super::{Error, Member, MemberStatus, Node};
use crate::transport::{Lane, PeerRequest};
use crate::types::TypeConfig;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardReason, RaftError};
use protos::raft as pb;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// A learner this close to the leader's log votes without holding commits up: 50 ms of full load.
pub const LAG_MAX: u64 = 1_000;
/// A follower that is asked to lead takes over within this, or is given up: three elections of `lan`.
const TAKEOVER_MAX: Duration = Duration::from_secs(1);
/// Who is to lead next has answered within this.
const PRESENT_MAX: Duration = Duration::from_millis(200);
/// A change of another that is not settled within this lacks a quorum; who is to come after it is told and may ask
/// again.
pub(super) const SETTLE_MAX: Duration = Duration::from_secs(2);
/// The same of one's own, which is begun: it goes on, and may yet take effect.
const COMMIT_MAX: Duration = Duration::from_secs(10);

impl Node {
    /// Takes a member in that is sent the log and does not vote. Does nothing for one that is there. A learner that comes
    /// back with another address is taken out before: a change of its address would not reach what sends it the log.
    pub(crate) async fn add_learner(&self, id: u64, member: Member) -> Result<(), Error> {
        let present = self.status().members.into_iter().find(|m| m.id == id);
        if present.as_ref().is_some_and(|m| m.member == member) {
            return Ok(());
        }
        let needs = self.needed_level();
        if member.feature_level < needs {
            return Err(Error::Refused(format!(
                "the group is of feature level {needs}, and the build of {} knows {}: install the version of the others",
                member.name, member.feature_level
            )));
        }
        let there = BTreeMap::from([(id, member.clone())]);
        match present.filter(|m| !m.voter) {
            Some(m) if m.member.peer_addr == member.peer_addr => {
                return self.change(ChangeMembers::SetNodes(there)).await;
            }
            Some(_) => self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await?,
            None => {}
        }
        self.change(ChangeMembers::AddNodes(there)).await
    }

    /// What a new member has to know: the feature level in force, or to be so in a moment.
    fn needed_level(&self) -> u32 {
        let in_force = self.0.machine.published().glance(state::State::feature_level);
        let all_know = self.0.members().values().map(|member| member.feature_level).min();
        in_force.max(all_know.unwrap_or_default())
    }

    /// Waits until a member's log is within `LAG_MAX` entries of this leader's.
    pub(crate) async fn caught_up(&self, id: u64, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        let mut metrics = self.0.raft.metrics();
        loop {
            let status = self.status();
            if status.leader != Some(self.0.id) {
                return Err(Error::NotLeader);
            }
            let member = status.members.iter().find(|m| m.id == id);
            let member = member.ok_or_else(|| Error::Refused(format!("member {id:x} has been removed meanwhile")))?;
            if member.lag.is_some_and(|lag| lag <= LAG_MAX) {
                return Ok(());
            }
            match tokio::time::timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Error::Fatal("the Raft core is gone".into())),
                Err(_) => {
                    let Member { name, peer_addr, .. } = &member.member;
                    return Err(Error::Refused(match member.lag {
                        Some(lag) => format!("{name} is still {lag} entries behind; try again later"),
                        None => format!(
                            "{name} has acknowledged nothing yet: is it to be reached at {peer_addr} from the other \
                             masters? See its `address` and `peerPort`, and firewalls"
                        ),
                    }));
                }
            }
        }
    }

    /// Makes learners voters and takes members out, in one change that at no moment has two majorities
    /// (joint consensus). When all of it is so already, waits until that is settled: what this leader sees
    /// may be the change of an earlier one, not committed or half done.
    pub(crate) async fn change_members(&self, promote: BTreeSet<u64>, remove: BTreeSet<u64>) -> Result<(), Error> {
        let status = self.status();
        let present = |m: &&MemberStatus| remove.contains(&m.id);
        let (voters, learners): (Vec<_>, Vec<_>) = status.members.iter().filter(present).partition(|m| m.voter);
        let ids = |members: Vec<&MemberStatus>| members.iter().map(|m| m.id).collect::<BTreeSet<u64>>();
        let promote: BTreeSet<u64> =
            promote.into_iter().filter(|id| !status.members.iter().any(|m| m.id == *id && m.voter)).collect();
        let (voters, learners) = (ids(voters), ids(learners));
        if voters.len() == status.members.iter().filter(|m| m.voter).count() && promote.is_empty() {
            return Err(Error::Refused("the last voter cannot be removed".into()));
        }
        self.knows_enough_to_leave(&remove)?;
        let mut changes = Vec::new();
        if !promote.is_empty() {
            changes.push(ChangeMembers::AddVoterIds(promote));
        }
        if !voters.is_empty() {
            changes.push(ChangeMembers::RemoveVoters(voters));
        }
        if !learners.is_empty() {
            changes.push(ChangeMembers::RemoveNodes(learners));
        }
        if changes.is_empty() {
            return self.settled().await;
        }
        self.change(ChangeMembers::Batch(changes)).await
    }

    /// Changes the group, once a change that is under way has ended: this leader makes some by itself (`levels`).
    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<(), Error> {
        let deadline = Instant::now() + SETTLE_MAX;
        let mut applied = self.0.machine.applied();
        loop {
            applied.mark_unchanged();
            match self.commit(change.clone()).await {
                Err(Error::Changing) => match tokio::time::timeout_at(deadline, applied.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return Err(Error::Changing),
                },
                ended => return ended,
            }
        }
    }

    /// In a task of its own: of a change's two entries the second must follow also when who asked has gone.
    async fn commit(&self, change: ChangeMembers<u64, Member>) -> Result<(), Error> {
        let raft = self.0.raft.clone();
        let changed = tokio::spawn(async move { raft.change_membership(change, false).await });
        match tokio::time::timeout(COMMIT_MAX, changed).await {
            // Refused was the second entry, then, and somebody ends what the first has begun.
            Ok(Ok(Err(error))) => Err(match refused(error) {
                Error::LeaseExpired | Error::NotLeader if self.is_changing() => Error::Undecided,
                error => error,
            }),
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Err(error)) => Err(Error::Fatal(error.to_string())),
            Err(_) => Err(Error::Undecided),
        }
    }

    /// A leader that is to remove itself would bring into force, for its last moments, what only the others know.
    fn knows_enough_to_leave(&self, remove: &BTreeSet<u64>) -> Result<(), Error> {
        let members = self.0.members();
        let stay = members.iter().filter(|(id, _)| !remove.contains(id)).map(|(_, member)| member.feature_level);
        let level = stay.min().unwrap_or_default();
        match remove.contains(&self.0.id) && level > self.0.feature_level {
            true => Err(Error::Refused(format!(
                "it leads, and its build knows feature level {}, those that stay {level}: hand leadership over first \
                 (`balsa members transfer`)",
                self.0.feature_level
            ))),
            false => Ok(()),
        }
    }

    /// Whether a change of the group is half done: under way, or begun by a leader that did not end it.
    pub(crate) fn is_changing(&self) -> bool {
        let metrics = self.0.raft.metrics();
        metrics.borrow_watched().membership_config.membership().get_joint_config().len() > 1
    }

    /// Ends when a change of the group has been half done for so long.
    pub(crate) async fn left_half_done(&self, patience: Duration) {
        // These tell of members and leaders alone, not of each write.
        let mut server = self.0.raft.server_metrics();
        loop {
            let is_joint = server.borrow_and_update().membership_config.membership().get_joint_config().len() > 1;
            let patience = if is_joint { patience } else { Duration::MAX };
            match tokio::time::timeout(patience, server.changed()).await {
                Ok(Ok(())) => {}
                // The core is gone, which others tell.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return,
            }
        }
    }

    /// Ends a change of the group that is half done. Does nothing when there is none.
    pub(crate) async fn end_change(&self) -> Result<(), Error> {
        if !self.is_changing() {
            return Ok(());
        }
        let nothing_more = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.commit(nothing_more).await
    }

    /// Waits until the group as this leader knows it is committed, and ends what is half done of it. Before that it may
    /// be the change of an earlier leader, and come to nothing.
    pub(crate) async fn settled(&self) -> Result<(), Error> {
        tokio::time::timeout(SETTLE_MAX, self.end_change()).await.unwrap_or(Err(Error::Changing))?;
        let me = self.0.id;
        let over = |m: &openraft::RaftMetrics<TypeConfig>| {
            m.current_leader != Some(me) || m.last_applied >= *m.membership_config.log_id()
        };
        match self.0.raft.wait(Some(SETTLE_MAX)).metrics(over, "the group is settled").await {
            Ok(metrics) if metrics.current_leader == Some(me) => Ok(()),
            Ok(_) => Err(Error::NotLeader),
            Err(_) => Err(Error::Changing),
        }
    }

    /// Whether the member answers right now.
    pub async fn answers(&self, id: u64, member: &Member) -> bool {
        let request = PeerRequest::ReadIndex(pb::ReadIndexRequest { to: Some(self.0.to(id)) });
        let call = self.0.transport.call(Lane::Client, &member.peer_addr, request, Duration::from_secs(1));
        call.await.is_ok()
    }

    /// Who may lead instead of this leader: the nearest log first.
    pub(super) fn successors(&self) -> Vec<MemberStatus> {
        let mut successors: Vec<MemberStatus> =
            self.status().members.into_iter().filter(|m| m.voter && m.id != self.0.id).collect();
        successors.sort_by_key(|m| m.lag.unwrap_or(u64::MAX));
        successors
    }

    /// The same, those first that answer right now: one that died a moment ago may lag by nothing. Meanwhile this one leads.
    pub(crate) async fn present_successors(&self) -> Vec<(MemberStatus, bool)> {
        let asked = self.successors().into_iter().map(async |successor| {
            let answers = self.answers(successor.id, &successor.member);
            let answers = tokio::time::timeout(PRESENT_MAX, answers).await.unwrap_or(false);
            (successor, answers)
        });
        let mut successors = futures::future::join_all(asked).await;
        successors.sort_by_key(|(_, answers)| !answers);
        successors
    }

    /// Hands leadership to the follower that answers and whose log is nearest, before a planned stop; to the next one
    /// when that does not take it. Does nothing on a follower.
    pub async fn hand_over(&self) {
        if self.status().leader != Some(self.0.id) {
            return;
        }
        for (candidate, _) in self.present_successors().await.iter().take(2) {
            match self.hand_over_to(candidate.id).await {
                Ok(()) | Err(Error::NotLeader) => return,
                Err(error) => tracing::warn!(to = %candidate.member.name, %error, "leadership was not taken over"),
            }
        }
    }

    /// Asks a voter to take leadership over. A follower far behind is refused: it could not in time, and nobody would
    /// lead meanwhile.
    pub(super) async fn offer_leadership(&self, id: u64) -> Result<MemberStatus, Error> {
        let status = self.status();
        if status.leader != Some(self.0.id) {
            return Err(Error::NotLeader);
        }
        let target = status.members.iter().find(|m| m.id == id && m.voter);
        let target = target.ok_or_else(|| Error::Refused(format!("{id:x} is not a voter")))?;
        if let Some(lag) = target.lag.filter(|lag| *lag > LAG_MAX) {
            return Err(Error::Refused(format!("{} is {lag} entries behind", target.member.name)));
        }
        self.0.raft.trigger().transfer_leader(id).await.map_err(|error| Error::Fatal(error.to_string()))?;
        Ok(target.clone())
    }

    /// Hands leadership to a voter, as `offer_leadership` does; returns once it is known to lead.
    pub(crate) async fn hand_over_to(&self, id: u64) -> Result<(), Error> {
        let target = self.offer_leadership(id).await?;
        let me = self.0.id;
        let wait = self.0.raft.wait(Some(TAKEOVER_MAX));
        match wait.metrics(|m| m.current_leader.is_some_and(|l| l != me), "hand over").await {
            Ok(metrics) if metrics.current_leader == Some(id) => Ok(()),
            Ok(_) => Err(Error::Refused(format!("another master was elected before {}", target.member.name))),
            Err(_) => Err(Error::Refused(format!(
                "{} did not take over within {} ms",
                target.member.name,
                TAKEOVER_MAX.as_millis()
            ))),
        }
    }
}

fn refused(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) if to.reason == ForwardReason::LeaseExpired => {
            Error::LeaseExpired
        }
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Error::NotLeader,
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Error::Undecided,
        // The one precondition is that of a change's second entry: that nobody has ended it meanwhile.
        RaftError::APIError(
            ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
            )
            | ClientWriteError::PreconditionFailed(_),
        ) => Error::Changing,
        RaftError::APIError(error) => Error::Refused(error.to_string()),
        RaftError::Fatal(error) => Error::Fatal(error.to_string()),
    }
}
