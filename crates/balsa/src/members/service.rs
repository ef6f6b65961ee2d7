//! Changes of the group of masters, on the leader: one at a time, each decided by `plan`.

use super::plan::{Change, No, Plan, Seat, admit, plan};
use crate::cluster_service::ClusterService;
use protos::cluster as pb;
use raft_node::{Error, Member, Node};
use std::time::{Duration, Instant};
use store::Store;
use tonic::Status;

/// A learner catches up within this, or the caller asks again.
const CATCH_UP_MAX: Duration = Duration::from_secs(55);

/// What is being changed right now; one change at a time.
pub(crate) type Changing = parking_lot::Mutex<Option<String>>;

/// Holds the place of the one change; gives it back when dropped.
struct Turn<'a>(&'a Changing);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

fn turn<'a>(changing: &'a Changing, what: String) -> Result<Turn<'a>, Status> {
    let mut current = changing.lock();
    if let Some(other) = &*current {
        return Err(Status::aborted(format!(
            "another change of the group is under way ({other}); try again once `balsa members list` shows it done"
        )));
    }
    *current = Some(what);
    Ok(Turn(changing))
}

fn told(error: Error) -> Status {
    match error {
        Error::NotLeader => Status::unavailable("leadership has moved meanwhile; try again"),
        Error::Changing => Status::aborted("another change of the group is under way; try again"),
        Error::Refused(why) => Status::failed_precondition(why),
        other => Status::unavailable(other.to_string()),
    }
}

fn no(no: No) -> Status {
    match no {
        No::NotFound(why) => Status::not_found(why),
        No::Refused(why) => Status::failed_precondition(why),
    }
}

/// The members, each asked whether it answers.
async fn seats(node: &Node) -> Vec<Seat> {
    let asked = node.status().members.into_iter().map(async |m| Seat {
        answers: m.id == node.id() || node.answers(m.id, &m.member).await,
        id: m.id,
        name: m.member.name,
        voter: m.voter,
        peer_addr: m.member.peer_addr,
        api_addr: m.member.api_addr,
    });
    futures::future::join_all(asked).await
}

/// Between two tries to end a change that another leader began.
const END_RETRY: Duration = Duration::from_secs(1);

/// Runs for ever: a leader that takes office ends the change of the group that the one before left half
/// done, in which two majorities are needed for everything.
pub(crate) async fn end_changes(node: Node, store: Store) {
    let mut leadership = store.leadership();
    while leadership.wait_for(|now| now.active.is_some()).await.is_ok() {
        match node.end_change().await {
            Ok(()) => {
                if leadership.wait_for(|now| now.active.is_none()).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::info!(%error, "a change of the group is half done; trying to end it");
                tokio::time::sleep(END_RETRY).await;
            }
        }
    }
}

impl ClusterService {
    async fn carry_out(&self, plan: Plan) -> Result<String, Status> {
        self.node.change_members(plan.promote, plan.remove).await.map_err(told)?;
        Ok(plan.warning)
    }

    /// A new master: a learner first, a voter once it has caught up.
    pub(crate) async fn take_in(&self, request: pb::AddMemberRequest) -> Result<(), Status> {
        let member = request.member.ok_or_else(|| api_grpc::required("member"))?;
        let (id, name) = (member.id, member.name.clone());
        let present = seats(&self.node).await;
        if present.iter().any(|seat| seat.id == id && seat.voter) {
            return Ok(());
        }
        let pb::Member { peer_addr, api_addr, feature_level, .. } = member;
        let (own_peer_addr, own_api_addr) = (peer_addr.clone(), api_addr.clone());
        let new = Seat {
            id,
            name: name.clone(),
            voter: false,
            answers: true,
            peer_addr: own_peer_addr,
            api_addr: own_api_addr,
        };
        admit(&present, &new, &request.replaces).map_err(no)?;
        {
            let _turn = turn(&self.changing, format!("{name} joins"))?;
            // Builds before feature levels tell none, and know the first.
            let feature_level = feature_level.max(1);
            let new = Member { name: name.clone(), peer_addr, api_addr, feature_level };
            self.node.add_learner(id, new).await.map_err(told)?;
        }
        if request.learner {
            tracing::info!(member = %name, id, "member added as a learner");
            return Ok(());
        }
        // Not finished is not refused: the joining master asks again.
        self.node.caught_up(id, CATCH_UP_MAX).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let _turn = turn(&self.changing, format!("{name} becomes a voter"))?;
        // It waits for this very answer, so that it need not be asked.
        let present = seats(&self.node).await.into_iter();
        let present: Vec<Seat> = present.map(|seat| Seat { answers: seat.answers || seat.id == id, ..seat }).collect();
        let decided = plan(&present, Change::Join { id, replaces: &request.replaces });
        let decided = decided.map_err(|why| Status::unavailable(no(why).message().to_string()))?;
        self.carry_out(decided).await.map_err(|status| Status::unavailable(status.message().to_string()))?;
        tracing::info!(member = %name, id, "member added");
        Ok(())
    }

    pub(crate) async fn promote(&self, name: &str) -> Result<String, Status> {
        let decided = plan(&seats(&self.node).await, Change::Promote { name }).map_err(no)?;
        for id in &decided.promote {
            self.node.caught_up(*id, CATCH_UP_MAX).await.map_err(told)?;
        }
        let _turn = turn(&self.changing, format!("{name} becomes a voter"))?;
        // Catching up may have taken a while.
        let decided = plan(&seats(&self.node).await, Change::Promote { name }).map_err(no)?;
        let warning = self.carry_out(decided).await?;
        tracing::info!(member = name, "member promoted");
        Ok(warning)
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<String, Status> {
        let _turn = turn(&self.changing, format!("{name} is removed"))?;
        let decided = plan(&seats(&self.node).await, Change::Remove { name }).map_err(no)?;
        let warning = self.carry_out(decided).await?;
        tracing::info!(member = name, "member removed");
        Ok(warning)
    }

    pub(crate) async fn replace(&self, old: &str, new: &str, force: bool) -> Result<String, Status> {
        let change = Change::Replace { old, new, force };
        let decided = plan(&seats(&self.node).await, change).map_err(no)?;
        for id in &decided.promote {
            self.node.caught_up(*id, CATCH_UP_MAX).await.map_err(told)?;
        }
        let _turn = turn(&self.changing, format!("{new} replaces {old}"))?;
        let decided = plan(&seats(&self.node).await, change).map_err(no)?;
        let warning = self.carry_out(decided).await?;
        tracing::info!(old, new, "member replaced");
        Ok(warning)
    }

    /// Hands leadership over; answers once another leads.
    pub(crate) async fn transfer(&self, to: &str) -> Result<pb::TransferLeaderResponse, Status> {
        let status = self.node.status();
        let voters = || status.members.iter().filter(|m| m.voter && m.id != self.node.id());
        // Of two of one name, as after the loss of a disk, the one that votes can lead.
        let named = |name: &str| status.members.iter().filter(|m| m.member.name == name).max_by_key(|m| m.voter);
        let target = match to {
            "" => voters().min_by_key(|m| m.lag.unwrap_or(u64::MAX)),
            name if name == self.name => {
                return Ok(pb::TransferLeaderResponse { leader: self.name.clone(), took_ms: 0 });
            }
            name => Some(named(name).ok_or_else(|| Status::not_found(format!("no member is named {name:?}")))?),
        };
        let target = target.ok_or_else(|| Status::failed_precondition("there is no other voter to hand over to"))?;
        if !target.voter {
            let name = &target.member.name;
            return Err(Status::failed_precondition(format!(
                "{name} is a learner, which cannot lead; `balsa members promote {name}` makes it a voter"
            )));
        }
        if !self.node.answers(target.id, &target.member).await {
            return Err(Status::failed_precondition(format!("{} does not answer", target.member.name)));
        }
        let started = Instant::now();
        self.node.hand_over_to(target.id).await.map_err(told)?;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(to = %target.member.name, took_ms, "leadership handed over");
        Ok(pb::TransferLeaderResponse { leader: target.member.name.clone(), took_ms })
    }
}
