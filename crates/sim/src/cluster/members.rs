//! The group of a run: founded, and changed as operators and joining masters would change it.

use super::{Cluster, label};
use crate::network::Host;
use raft_node::{Joiner, Member, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// One try at a change of members.
const CHANGE_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
enum MemberChange {
    TakeIn,
    Remove,
}

/// Ends what other leaders left half done, until the boot ends.
pub(super) async fn end_changes(host: Host) {
    tokio::select! {
        biased;
        () = host.ended() => {}
        () = raft_node::end_changes(host.node.clone(), host.node.store()) => {}
    }
}

impl Cluster {
    pub(crate) fn member(&self, i: usize) -> Member {
        let installed = self.masters[i].lock().feature_level;
        let feature_level = self.network.host(i).map_or(installed, |host| host.node.feature_level());
        Member { name: label(i), peer_addr: i.to_string(), api_addr: i.to_string(), feature_level }
    }

    /// All that were taken in, whether they are up or not.
    pub(crate) fn members(&self) -> Vec<usize> {
        (0..self.n_masters()).filter(|i| self.masters[*i].lock().member).collect()
    }

    /// Has the leader take a master in, as the joining master would ask for, until it is done.
    pub(crate) async fn take_in(&self, i: usize) {
        self.change_members(i, MemberChange::TakeIn, u32::MAX).await;
        self.masters[i].lock().member = true;
    }

    /// Has the leader remove a master, as an operator would: until it is done, or once. One who does not ask again may
    /// leave it half done, and the group has to see to that; the master comes back as another one of its name.
    pub(crate) async fn remove(&self, i: usize) {
        self.masters[i].lock().member = false;
        let n_tries = if self.fork_rng().chance(1, 2) { 1 } else { u32::MAX };
        self.change_members(i, MemberChange::Remove, n_tries).await;
    }

    async fn change_members(&self, i: usize, change: MemberChange, n_tries: u32) {
        let id = self.masters[i].lock().id;
        let mut n_tried = 0;
        while n_tried < n_tries {
            for (_, host) in self.network.up() {
                let status = host.node.status();
                if status.leader != Some(host.node.id()) {
                    continue;
                }
                let changing = async {
                    match change {
                        MemberChange::TakeIn => {
                            let (member, replaces) = (self.member(i), String::new());
                            host.changes.take_in(Joiner { id, member, learner: false, replaces }).await
                        }
                        MemberChange::Remove => match host.changes.remove(&format!("{id:x}")).await {
                            // An earlier try, of which nothing was heard, has done it.
                            Err(Refusal::NotFound(_)) => Ok(()),
                            told => told.map(drop),
                        },
                    }
                };
                let done = tokio::select! {
                    biased;
                    () = host.ended() => continue,
                    done = timeout(CHANGE_PATIENCE, changing) => done,
                };
                self.trace.note(format_args!("{change:?} {} by {}: {done:?}", label(i), host.node.id()));
                n_tried += 1;
                if matches!(done, Ok(Ok(()))) || n_tried == n_tries {
                    return;
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The group begins with one master; the others are taken in.
    pub(crate) async fn found(self: &Arc<Self>) {
        self.start(0).await;
        let Some(first) = self.network.host(0) else { return };
        if let Err(error) = first.node.initialize(self.member(0)).await {
            return self.problem("start", format!("an empty master does not initialize: {error}"));
        }
        self.masters[0].lock().member = true;
        for i in 1..self.n_masters() {
            self.start(i).await;
            self.take_in(i).await;
        }
    }
}
