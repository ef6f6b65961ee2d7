//! Changes of the group of masters, on the leader: one at a time, each decided by `plan`.

mod plan;

use crate::node::{Error, MemberStatus, Node};
use crate::types::Member;
use plan::{Change, No, Plan, Seat, admit, plan};
use std::time::{Duration, Instant};
use store::Store;

/// A learner catches up within this, or the caller asks again.
const CATCH_UP_MAX: Duration = Duration::from_secs(55);

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    NotFound(String),
    /// It would not be safe; the text names the remedy.
    #[error("{0}")]
    Refused(String),
    /// Another change is under way.
    #[error("{0}")]
    Busy(String),
    /// Not made, or not known to be: to be asked for again.
    #[error("{0}")]
    Again(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        match error {
            Error::NotLeader => Refusal::Again("leadership has moved meanwhile; try again".into()),
            Error::Changing => Refusal::Busy("another change of the group is under way; try again".into()),
            Error::Refused(why) => Refusal::Refused(why),
            other => Refusal::Again(other.to_string()),
        }
    }
}

impl From<No> for Refusal {
    fn from(no: No) -> Refusal {
        match no {
            No::NotFound(why) => Refusal::NotFound(why),
            No::Refused(why) => Refusal::Refused(why),
        }
    }
}

/// Not finished is not refused: who joins asks again.
fn unfinished(why: impl Into<Refusal>) -> Refusal {
    Refusal::Again(why.into().to_string())
}

/// A new master, as it asks to be taken in.
#[derive(Clone, Debug)]
pub struct Joiner {
    pub id: u64,
    pub member: Member,
    /// It stays a learner.
    pub learner: bool,
    /// The name of a member in whose place it comes, besides that of its own name; empty for none.
    pub replaces: String,
}

/// The changes that are asked of one master.
pub struct Changes {
    node: Node,
    /// What is being changed right now.
    current: parking_lot::Mutex<Option<String>>,
}

/// Holds the place of the one change; gives it back when dropped.
struct Turn<'a>(&'a Changes);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.current.lock() = None;
    }
}

/// Between two tries to end a change that is half done; one that goes well is over in less.
const END_RETRY: Duration = Duration::from_secs(1);

/// Runs for ever: a leader ends the change of the group that the one before it, or it itself, left half done, in which
/// two majorities are needed for everything. Its own second entry is refused while it hears from no quorum.
pub async fn end_changes(node: Node, store: Store) {
    let mut leadership = store.leadership();
    while leadership.wait_for(|now| now.active.is_some()).await.is_ok() {
        match node.end_change().await {
            Ok(()) => tokio::select! {
                gone = leadership.wait_for(|now| now.active.is_none()) => {
                    if gone.is_err() {
                        return;
                    }
                }
                () = node.left_half_done(END_RETRY) => {}
            },
            Err(error) => {
                tracing::info!(%error, "a change of the group is half done; trying to end it");
                tokio::time::sleep(END_RETRY).await;
            }
        }
    }
}

impl Changes {
    pub fn new(node: Node) -> Changes {
        Changes { node, current: Default::default() }
    }

    fn turn(&self, what: String) -> Result<Turn<'_>, Refusal> {
        let mut current = self.current.lock();
        if let Some(other) = &*current {
            return Err(Refusal::Busy(format!(
                "another change of the group is under way ({other}); try again once `balsa members list` shows it done"
            )));
        }
        *current = Some(what);
        Ok(Turn(self))
    }

    /// The members, each asked whether it answers, once it is certain that they are. What this leader knows of an earlier
    /// one's change may come to nothing, or be half done: nobody is told then that he is in, or that another is gone.
    /// In turn, as it ends what is half done.
    async fn seats(&self, _: &Turn<'_>) -> Result<Vec<Seat>, Error> {
        let node = &self.node;
        node.settled().await?;
        let asked = node.status().members.into_iter().map(async |m| Seat {
            answers: m.id == node.id() || node.answers(m.id, &m.member).await,
            id: m.id,
            name: m.member.name,
            voter: m.voter,
            peer_addr: m.member.peer_addr,
            api_addr: m.member.api_addr,
        });
        Ok(futures::future::join_all(asked).await)
    }

    /// Carries a plan out; returns what the operator should know, empty when nothing.
    async fn carry_out(&self, plan: Plan) -> Result<String, Error> {
        self.node.change_members(plan.promote, plan.remove).await?;
        Ok(plan.warning)
    }

    /// A new master: a learner first, a voter once it has caught up. Does nothing for one that votes. That it asks says
    /// nothing of whether it can be reached: like any other it has to acknowledge entries, and to answer.
    pub async fn take_in(&self, joiner: Joiner) -> Result<(), Refusal> {
        let Joiner { id, member, learner, replaces } = joiner;
        let name = member.name.clone();
        {
            let turn = self.turn(format!("{name} joins"))?;
            let present = self.seats(&turn).await.map_err(unfinished)?;
            if present.iter().any(|seat| seat.id == id && seat.voter) {
                return Ok(());
            }
            let (peer_addr, api_addr) = (member.peer_addr.clone(), member.api_addr.clone());
            let seat = Seat { id, name: name.clone(), voter: false, answers: true, peer_addr, api_addr };
            admit(&present, &seat, &replaces)?;
            self.node.add_learner(id, member).await?;
        }
        if learner {
            tracing::info!(member = %name, id, "member added as a learner");
            return Ok(());
        }
        self.node.caught_up(id, CATCH_UP_MAX).await.map_err(unfinished)?;
        let turn = self.turn(format!("{name} becomes a voter"))?;
        let present = self.seats(&turn).await.map_err(unfinished)?;
        let decided = plan(&present, Change::Join { id, replaces: &replaces });
        let decided = decided.map_err(unfinished)?;
        self.carry_out(decided).await.map_err(unfinished)?;
        tracing::info!(member = %name, id, "member added");
        Ok(())
    }

    /// Makes a learner a voter, in the place of a lost member of its name. Returns a warning, or nothing.
    pub async fn promote(&self, name: &str) -> Result<String, Refusal> {
        let warning = self.change(Change::Promote { name }, format!("{name} becomes a voter")).await?;
        tracing::info!(member = name, "member promoted");
        Ok(warning)
    }

    pub async fn remove(&self, name: &str) -> Result<String, Refusal> {
        let warning = self.change(Change::Remove { name }, format!("{name} is removed")).await?;
        tracing::info!(member = name, "member removed");
        Ok(warning)
    }

    pub async fn replace(&self, old: &str, new: &str, force: bool) -> Result<String, Refusal> {
        let warning = self.change(Change::Replace { old, new, force }, format!("{new} replaces {old}")).await?;
        tracing::info!(old, new, "member replaced");
        Ok(warning)
    }

    async fn change(&self, change: Change<'_>, what: String) -> Result<String, Refusal> {
        let decided = {
            let turn = self.turn(what.clone())?;
            plan(&self.seats(&turn).await?, change)?
        };
        for id in &decided.promote {
            self.node.caught_up(*id, CATCH_UP_MAX).await?;
        }
        let turn = self.turn(what)?;
        // Catching up may have taken a while.
        let decided = plan(&self.seats(&turn).await?, change)?;
        Ok(self.carry_out(decided).await?)
    }

    /// Hands leadership over: to a voter of that name, or, without one, to the voter that answers and whose log is
    /// nearest. Returns who leads then, and after how many milliseconds.
    pub async fn transfer(&self, to: &str) -> Result<(String, u64), Refusal> {
        let target = match to {
            "" => self.node.present_successors().await.into_iter().next().map(|(successor, _)| successor),
            name => Some(self.named(name)?),
        };
        let me = self.node.id();
        let target = target.ok_or_else(|| Refusal::Refused("there is no other voter to hand over to".into()))?;
        let name = &target.member.name;
        if target.id == me {
            return Ok((name.clone(), 0));
        }
        if !target.voter {
            return Err(Refusal::Refused(format!(
                "{name} is a learner, which cannot lead; `balsa members promote {name}` makes it a voter"
            )));
        }
        if !self.node.answers(target.id, &target.member).await {
            return Err(Refusal::Refused(format!("{name} does not answer")));
        }
        let started = Instant::now();
        self.node.hand_over_to(target.id).await?;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(to = %name, took_ms, "leadership handed over");
        Ok((name.clone(), took_ms))
    }

    /// The member of that name or id. Of two of one name, as after the loss of a disk, the one that votes can lead.
    fn named(&self, name: &str) -> Result<MemberStatus, Refusal> {
        let members = self.node.status().members;
        let is_named = |m: &&MemberStatus| m.member.name == name || format!("{:x}", m.id) == name;
        members.iter().filter(is_named).max_by_key(|m| m.voter).cloned().ok_or_else(|| {
            let mut there: Vec<&str> = members.iter().map(|m| m.member.name.as_str()).collect();
            there.sort_unstable();
            Refusal::NotFound(format!("no member is named {name:?}; there are {}", there.join(", ")))
        })
    }
}
