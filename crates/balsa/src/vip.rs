//! One address that outlives any master: held by the leader, announced on the masters' link.
//!
//! The address lies on a TUN interface that belongs to this process: when the process ends, however it
//! ends, the kernel takes the interface and the address with it, and no dead master answers for it.
//! Whoever is connected at the address must hear of that while it can still be said: an ending
//! process's files are closed from the highest number down, so the interface has a number below every
//! connection's (`Seat`).

use crate::config::Vip;
use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use store::{Leadership, Store};
use tokio::sync::watch;
use tokio::time::Instant;

const INTERFACE: &str = "balsa-vip";
/// How often the holder says so. Neighbours ignore a change within a second of the last, and a frozen
/// holder may answer beside the new one until it wakes.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(500);
/// Without a leader the first master in the list looks after this long, the next a step later: longer
/// than an election, shorter than a user's patience.
const LEADERLESS_STEP: Duration = Duration::from_millis(700);
const PROBE_MAX: Duration = Duration::from_millis(300);
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
fn claim(now: &Leadership, own: &str, holding: bool, leaderless: Duration, rank: u32) -> Claim {
    match &now.leader {
        _ if now.active.is_some() => Claim::Hold,
        Some(leader) if leader != own => Claim::Leave,
        _ if holding => Claim::Hold,
        _ if leaderless >= LEADERLESS_STEP * (rank + 1) => Claim::HoldIfFree,
        _ => Claim::Leave,
    }
}

nix::ioctl_write_int!(tun_set_interface, b'T', 202);

/// A file number taken before any connection has one, for the interface of the address.
pub(crate) struct Seat(OwnedFd);

impl Seat {
    pub(crate) fn take() -> Result<Seat> {
        Ok(Seat(nobody()?.into()))
    }

    fn seat(&mut self, file: &File) -> Result<()> {
        nix::unistd::dup2(file, &mut self.0).context("giving the VIP's interface its file number")
    }
}

/// What sits there while the address is not held.
fn nobody() -> Result<File> {
    File::open("/dev/null").context("opening /dev/null")
}

async fn ip(words: &str) -> Result<()> {
    let output =
        tokio::process::Command::new("ip").args(words.split_whitespace()).output().await.context("starting ip")?;
    if !output.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A TUN interface that lives as long as the returned file is open.
#[expect(unsafe_code, reason = "the kernel's interface for TUN devices is an ioctl")]
fn make_interface() -> Result<File> {
    const IFF_TUN: i16 = 0x0001;
    const IFF_NO_PI: i16 = 0x1000;
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").context("opening /dev/net/tun")?;
    // struct ifreq: the name, then a union of which the flags are used.
    let mut request = [0_u8; 40];
    request[..INTERFACE.len()].copy_from_slice(INTERFACE.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    // SAFETY: the kernel reads and writes at most the 40 bytes of `request`, which outlives the call.
    unsafe { tun_set_interface(file.as_raw_fd(), request.as_mut_ptr() as nix::libc::c_ulong) }
        .context("making the interface of the VIP")?;
    Ok(file)
}

async fn hold(vip: &Vip, address: Ipv4Addr, seat: &mut Seat) -> Result<Announcer> {
    let announcer = Announcer::open(&vip.interface, address)?;
    let interface = make_interface()?;
    ip(&format!("addr add {address}/32 dev {INTERFACE}")).await?;
    ip(&format!("link set {INTERFACE} up")).await?;
    seat.seat(&interface)?;
    announcer.announce();
    Ok(announcer)
}

/// Sends gratuitous ARP: "this address is at this interface".
struct Announcer {
    socket: OwnedFd,
    frame: [u8; 42],
}

/// The Ethernet frame of a gratuitous ARP request (RFC 5227, section 3).
fn gratuitous_arp(mac: [u8; 6], address: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&0x0806_u16.to_be_bytes());
    // Ethernet, IPv4, lengths 6 and 4, operation 1 (request).
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

impl Announcer {
    #[expect(unsafe_code, reason = "packet sockets have no safe interface")]
    fn open(interface: &str, address: Ipv4Addr) -> Result<Announcer> {
        use nix::libc;
        let named = |what: &str| {
            // /sys shows the interfaces of the namespace it was mounted in; the kernel's calls show ours.
            nix::ifaddrs::getifaddrs().with_context(|| format!("{what} the interfaces of this machine"))
        };
        let all = named("listing")?;
        let found = all.into_iter().find_map(|entry| {
            let link = entry.address.filter(|_| entry.interface_name == interface)?;
            link.as_link_addr().and_then(nix::sys::socket::LinkAddr::addr)
        });
        let mac = found.with_context(|| format!("vip.interface: there is no Ethernet interface {interface:?}"))?;
        let index = nix::net::if_::if_nametoindex(interface).context("asking for the interface's number")?;
        // SAFETY: plain system calls on a socket that is owned from its making; `link` is a complete
        // sockaddr_ll that outlives the call that reads it.
        let socket = unsafe {
            let raw = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if raw < 0 {
                return Err(std::io::Error::last_os_error()).context("opening a packet socket");
            }
            let socket = OwnedFd::from_raw_fd(raw);
            let mut link: libc::sockaddr_ll = std::mem::zeroed();
            link.sll_family = libc::AF_PACKET as u16;
            link.sll_ifindex = index as i32;
            let size = std::mem::size_of::<libc::sockaddr_ll>() as u32;
            if libc::bind(raw, (&raw const link).cast(), size) < 0 {
                return Err(std::io::Error::last_os_error()).context("binding a packet socket");
            }
            socket
        };
        Ok(Announcer { socket, frame: gratuitous_arp(mac, address) })
    }

    fn announce(&self) {
        if let Err(error) = nix::unistd::write(&self.socket, &self.frame) {
            tracing::debug!(%error, "the VIP could not be announced");
        }
    }
}

/// What a host says to a connection at the address while it is not there: no, at once. Without this a
/// host whose master has just died swallows the first segment of every new connection until neighbours
/// learn of the new holder, and TCP repeats that only after a second.
fn refusal(address: Ipv4Addr, port: u16) -> String {
    format!(
        "table ip balsa_vip\ndelete table ip balsa_vip\ntable ip balsa_vip {{\n  chain prerouting {{\n    \
         type filter hook prerouting priority filter; policy accept;\n    \
         ip daddr {address} tcp dport {port} fib daddr type != local reject with tcp reset\n  }}\n}}\n"
    )
}

/// Tells the kernel to refuse; it goes on doing so when this process is gone, which is the point.
async fn refuse_while_absent(address: Ipv4Addr, port: u16) -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let mut command = tokio::process::Command::new("nft");
    command.args(["-f", "-"]).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().context("starting nft")?;
    let mut stdin = child.stdin.take().context("it was piped")?;
    stdin.write_all(refusal(address, port).as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Whether somebody else serves at the address.
async fn is_served(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PROBE_MAX, tokio::net::TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// Keeps the address where it belongs, for ever. `rank` counts this master among the members by name.
/// `leaving` tells the listener whose connections to end.
pub(crate) async fn keep(
    vip: Vip,
    port: u16,
    own: String,
    store: Store,
    rank: impl Fn() -> u32,
    mut seat: Seat,
    leaving: watch::Sender<Option<IpAddr>>,
) {
    let Ok(address) = vip.address.parse::<Ipv4Addr>() else {
        return tracing::error!(address = %vip.address, "the VIP is not an IPv4 address");
    };
    if let Err(error) = refuse_while_absent(address, port).await {
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
        let wanted = match claim(&now, &own, held.is_some(), leaderless, rank()) {
            Claim::Hold => true,
            Claim::HoldIfFree => !is_served((address, port).into()).await,
            Claim::Leave => false,
        };
        match (&held, wanted) {
            (None, true) => match hold(&vip, address, &mut seat).await {
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
                leaving.send_replace(Some(address.into()));
                tokio::time::sleep(PARTING).await;
                held = None;
                if let Err(error) = nobody().and_then(|nobody| seat.seat(&nobody)) {
                    tracing::error!(error = %format!("{error:#}"), "the VIP cannot be let go of");
                }
                leaving.send_replace(None);
            }
            (Some(announcer), true) => announcer.announce(),
            (None, false) => {}
        }
        let tick = tokio::time::sleep(ANNOUNCE_EVERY);
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            () = tick => {}
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
        let zero = Duration::ZERO;
        assert_eq!(claim(&leadership(Some("a"), true), "a", false, zero, 0), Claim::Hold);
        assert_eq!(claim(&leadership(Some("b"), false), "a", true, zero, 0), Claim::Leave);
        assert_eq!(claim(&leadership(Some("a"), false), "a", false, zero, 0), Claim::Leave, "not yet in office");
    }

    #[test]
    fn without_a_leader_it_stays_or_goes_to_the_first_that_looks() {
        let none = leadership(None, false);
        assert_eq!(claim(&none, "a", true, Duration::from_secs(9), 0), Claim::Hold);
        assert_eq!(claim(&none, "a", false, Duration::from_millis(100), 0), Claim::Leave, "an election may be on");
        assert_eq!(claim(&none, "a", false, Duration::from_secs(1), 0), Claim::HoldIfFree);
        assert_eq!(claim(&none, "b", false, Duration::from_secs(1), 1), Claim::Leave);
        assert_eq!(claim(&none, "b", false, Duration::from_secs(2), 1), Claim::HoldIfFree);
    }

    #[test]
    fn the_announcement_is_a_gratuitous_arp() {
        let frame = gratuitous_arp([2, 0, 0, 0, 0, 7], Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!((&frame[..6], &frame[12..14]), (&[0xff; 6][..], &[8, 6][..]));
        assert_eq!((&frame[28..32], &frame[38..42]), (&[10, 0, 0, 9][..], &[10, 0, 0, 9][..]));
    }
}
