//! Who leads, as this master's metrics tell it.

use super::Inner;
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant, ServerState};
use state::LeaderId;
use std::time::Duration;
use store::Leadership;

/// Keeps `leadership` true: follows the metrics, and the age of the last quorum acknowledgement.
pub(super) async fn follow(inner: std::sync::Weak<Inner>, lease: Duration) {
    let Some(strong) = inner.upgrade() else { return };
    let mut metrics = strong.raft.metrics();
    let mut server = strong.raft.server_metrics();
    drop(strong);
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let (vote, state, leader) = {
            let server = server.borrow_and_update();
            (server.vote, server.state, server.current_leader)
        };
        let (news, settled) = {
            let metrics = metrics.borrow_and_update();
            // openraft tells `server` first: these metrics may be those from before, and are told in a moment.
            let agree = (metrics.vote, metrics.state, metrics.current_leader) == (vote, state, leader);
            let leader = metrics.current_leader;
            let name = leader.and_then(|id| metrics.membership_config.membership().get_node(&id));
            let acked = metrics.last_quorum_acked.as_ref().map(|at| at.elapsed());
            let alone = metrics.membership_config.membership().voter_ids().count() == 1;
            let fresh = alone || acked.is_some_and(|age| age < 2 * lease);
            let mine = LeaderId { term: metrics.vote.leader_id.term, node: metrics.vote.leader_id.node_id };
            // Having applied an entry of one's own term means having applied all earlier ones.
            let caught_up = metrics.last_applied.is_some_and(|log_id| crate::types::leader_id(&log_id) == mine);
            let leads = metrics.state == ServerState::Leader && leader == Some(inner.id);
            // A follower that has heard nothing for several election timeouts has no leader, whatever
            // the last vote says.
            let deaf = !leads && inner.heard.lock().elapsed() > 5 * lease;
            let lost = (leads && !fresh) || deaf;
            let active = (leads && fresh && caught_up).then_some(mine);
            let news = Leadership {
                leader: name.filter(|_| !lost).map(|member| member.name.clone()),
                term: metrics.current_term,
                active,
            };
            (news, agree && !lost && (!leads || active.is_some()))
        };
        inner.leadership.send_if_modified(|current| {
            let changed = *current != news;
            if changed {
                *current = news;
            }
            changed
        });
        drop(inner);
        // What is settled changes with a leader or a member, or as the lease runs out, which no metric tells.
        // Until then every step counts: these metrics change with each write, too.
        let changed = async {
            match settled {
                true => server.changed().await.is_ok(),
                false => metrics.changed().await.is_ok(),
            }
        };
        if let Ok(false) = tokio::time::timeout(lease / 2, changed).await {
            return;
        }
    }
}
