//! One address that outlives any master: held by the leader, announced on the masters' link (ARP for
//! IPv4, neighbour discovery for IPv6).
//!
//! The address lies on a TUN interface that belongs to this process: when the process ends, however it
//! ends, the kernel takes the interface and the address with it, and no dead master answers for it.
//! Whoever is connected at the address must hear of that while it can still be said: an ending
//! process's files are closed from the highest number down, so the interface has a number below every
//! connection's (`Seat`).

mod interface;
mod link;
mod packets;
mod refusal;

pub(crate) use interface::Seat;

use crate::config::Vip;
use anyhow::Result;
use link::Announcer;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use store::{Leadership, Store};
use tokio::sync::watch;
use tokio::time::Instant;

/// How often the holder says so. Neighbours ignore a change within a second of the last, and a frozen
/// holder may answer beside the new one until it wakes.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(500);
/// Without a leader the first master in the list looks after this many longest election timeouts, in
/// which one is elected; each next one a step later, longer than the look. With two of three masters dead
/// the last one in the list holds the address before a user's patience ends.
const LEADERLESS_ELECTIONS: u32 = 2;
const LEADERLESS_STEP: Duration = Duration::from_millis(200);
const PROBE_MAX: Duration = Duration::from_millis(150);
/// Connections at the address are ended this long before it goes, so that their last segments leave
/// under it.
const PARTING: Duration = Duration::from_millis(30);

/// What a master should do with the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Hold,
    /// Hold it unless somebody answers there.
    HoldIfFree,
    Leave,
}

/// The leader holds it. While there is none, whoever has it keeps it (it still answers stale reads and
/// says what is wrong); if nobody has it, the first of the masters that are left takes it.
fn claim(now: &Leadership, own: &str, holding: bool, leaderless: Duration, turn: Duration) -> Claim {
    match &now.leader {
        _ if now.active.is_some() => Claim::Hold,
        Some(leader) if leader != own => Claim::Leave,
        _ if holding => Claim::Hold,
        _ if leaderless >= turn => Claim::HoldIfFree,
        _ => Claim::Leave,
    }
}

/// How long there must be no leader before the master of this rank looks after the address.
fn turn(election: Duration, rank: u32) -> Duration {
    election * LEADERLESS_ELECTIONS + LEADERLESS_STEP * rank
}

async fn hold(vip: &Vip, seat: &mut Seat) -> Result<Announcer> {
    let announcer = Announcer::open(vip)?;
    seat.hold(vip.address).await?;
    announcer.announce();
    Ok(announcer)
}

/// Whether somebody else serves at the address.
async fn is_served(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PROBE_MAX, tokio::net::TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// The address, and the master that may hold it.
pub(crate) struct Place {
    pub(crate) vip: Vip,
    pub(crate) port: u16,
    /// The master's name.
    pub(crate) own: String,
    /// The longest election timeout of the group.
    pub(crate) election: Duration,
}

/// Keeps the address where it belongs, for ever. `rank` counts this master among the members by name.
/// `leaving` tells the listener whose connections to end.
pub(crate) async fn keep(
    Place { vip, port, own, election }: Place,
    store: Store,
    rank: impl Fn() -> u32,
    mut seat: Seat,
    leaving: watch::Sender<Option<IpAddr>>,
) {
    let address = vip.address;
    match link::is_on_network(&vip) {
        Ok(true) => {}
        Ok(false) => tracing::warn!(
            interface = vip.interface, network = %format!("{address}/{}", vip.prefix),
            "vip: the interface has no address in the VIP's network; who is there may not be answered"
        ),
        Err(error) => tracing::warn!(error = %format!("{error:#}"), "cannot see whether the VIP fits its interface"),
    }
    if let Err(error) = refusal::refuse_while_absent(address, port, &vip.interface).await {
        let why = format!("{error:#}");
        tracing::warn!(why, "clients will wait a second longer when the VIP moves");
    }
    let mut leadership = store.leadership();
    let mut held: Option<Announcer> = None;
    let mut leaderless_since: Option<Instant> = None;
    let mut said = String::new();
    loop {
        let now = leadership.borrow_and_update().clone();
        leaderless_since = match now.leader {
            Some(_) => None,
            None => leaderless_since.or(Some(Instant::now())),
        };
        let leaderless = leaderless_since.map_or(Duration::ZERO, |since| since.elapsed());
        let turn = turn(election, rank());
        let wanted = match claim(&now, &own, held.is_some(), leaderless, turn) {
            Claim::Hold => true,
            Claim::HoldIfFree => !is_served((address, port).into()).await,
            Claim::Leave => false,
        };
        match (&held, wanted) {
            (None, true) => match hold(&vip, &mut seat).await {
                Ok(new) => {
                    tracing::info!(%address, "holding the VIP");
                    held = Some(new);
                    said.clear();
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if why != said {
                        tracing::error!(%address, why, "the VIP cannot be held");
                    }
                    said = why;
                }
            },
            (Some(_), false) => {
                tracing::info!(%address, "letting go of the VIP");
                leaving.send_replace(Some(address));
                tokio::time::sleep(PARTING).await;
                held = None;
                if let Err(error) = seat.release() {
                    tracing::error!(error = %format!("{error:#}"), "the VIP cannot be let go of");
                }
                leaving.send_replace(None);
            }
            (Some(announcer), true) => announcer.announce(),
            (None, false) => {}
        }
        // Its turn may come earlier than the next announcement.
        let wait = leaderless_since.map(|since| (since + turn).saturating_duration_since(Instant::now()));
        let tick =
            tokio::time::sleep(wait.filter(|wait| !wait.is_zero()).unwrap_or(ANNOUNCE_EVERY).min(ANNOUNCE_EVERY));
        let answer = async {
            match &held {
                Some(announcer) => announcer.answer().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            () = tick => {}
            () = answer => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leadership(leader: Option<&str>, active: bool) -> Leadership {
        Leadership { leader: leader.map(Into::into), term: 1, active: active.then(state::LeaderId::default) }
    }

    #[test]
    fn the_leader_holds_it_and_nobody_else_does() {
        let (zero, turn) = (Duration::ZERO, turn(Duration::from_millis(180), 0));
        assert_eq!(claim(&leadership(Some("a"), true), "a", false, zero, turn), Claim::Hold);
        assert_eq!(claim(&leadership(Some("b"), false), "a", true, zero, turn), Claim::Leave);
        assert_eq!(claim(&leadership(Some("a"), false), "a", false, zero, turn), Claim::Leave, "not yet in office");
    }

    #[test]
    fn without_a_leader_it_stays_or_goes_to_the_first_that_looks() {
        let none = leadership(None, false);
        let ms = Duration::from_millis;
        let turn = |rank| turn(ms(180), rank);
        assert_eq!(claim(&none, "a", true, ms(9_000), turn(0)), Claim::Hold);
        assert_eq!(claim(&none, "a", false, ms(100), turn(0)), Claim::Leave, "an election may be on");
        assert_eq!(claim(&none, "a", false, ms(360), turn(0)), Claim::HoldIfFree);
        assert_eq!(claim(&none, "b", false, ms(500), turn(1)), Claim::Leave, "the first of them looks");
        assert_eq!(claim(&none, "b", false, ms(560), turn(1)), Claim::HoldIfFree);
        assert_eq!(claim(&none, "c", false, ms(760), turn(2)), Claim::HoldIfFree);
    }
}
