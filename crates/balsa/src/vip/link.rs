//! The masters' link: where the holder of the VIP announces it, and answers those who ask for it.

use super::packets::{self, Mac};
use crate::config::Vip;
use anyhow::{Context, Result};
use nix::ifaddrs::InterfaceAddress;
use nix::libc;
use nix::sys::socket::LinkAddr;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longer than any neighbour solicitation.
const FRAME_MAX: usize = 512;

/// Says that the address is here. For IPv4 that is all there is to do: the kernel answers ARP for the
/// addresses of all its interfaces. For IPv6 it answers only for those of the interface that is asked,
/// and the VIP lies on one of its own, which goes with this process; so the holder answers itself.
pub(super) struct Announcer {
    socket: AsyncFd<OwnedFd>,
    announcement: Vec<u8>,
    asked: Option<Asked>,
}

/// What it takes to answer for an IPv6 address.
struct Asked {
    mac: Mac,
    address: Ipv6Addr,
    /// A member of the group in which neighbours ask; nothing is read from it.
    _group: UdpSocket,
}

impl Announcer {
    /// Call it within a runtime.
    pub(super) fn open(vip: &Vip) -> Result<Announcer> {
        let entries = entries_of(&vip.interface)?;
        let link = |entry: &InterfaceAddress| entry.address?.as_link_addr().and_then(LinkAddr::addr);
        let mac = entries.iter().find_map(link);
        let mac = mac.with_context(|| format!("vip.interface: there is no Ethernet interface {:?}", vip.interface))?;
        let index =
            nix::net::if_::if_nametoindex(vip.interface.as_str()).context("asking for the interface's number")?;
        let (announcement, filter, asked) = match vip.address {
            IpAddr::V4(address) => (packets::gratuitous_arp(mac, address), None, None),
            IpAddr::V6(address) => {
                let group = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).context("opening an IPv6 socket")?;
                group
                    .join_multicast_v6(&packets::solicited_node(address), index)
                    .with_context(|| format!("joining the group of those who ask for {address}"))?;
                let announcement = packets::unsolicited_advertisement(mac, address);
                let filter = packets::solicitations_only(address);
                (announcement, Some(filter), Some(Asked { mac, address, _group: group }))
            }
        };
        let socket = packet_socket(index, filter.as_deref())?;
        Ok(Announcer { socket, announcement, asked })
    }

    pub(super) fn announce(&self) {
        self.send(&self.announcement);
    }

    fn send(&self, frame: &[u8]) {
        if let Err(error) = nix::unistd::write(self.socket.get_ref(), frame) {
            tracing::debug!(%error, "the VIP could not be announced");
        }
    }

    /// Answers whoever asks for the address. Never returns; may be dropped and called again at any time.
    pub(super) async fn answer(&self) {
        let Some(asked) = &self.asked else { return std::future::pending().await };
        let mut frame = [0; FRAME_MAX];
        loop {
            let read = |socket: &OwnedFd| Ok(nix::unistd::read(socket, &mut frame)?);
            match self.socket.async_io(Interest::READABLE, read).await {
                Ok(n) => {
                    if let Some(answer) = packets::answer(&frame[..n], asked.mac, asked.address) {
                        self.send(&answer);
                    }
                }
                Err(error) => {
                    // The interface went down, say. The caller comes again at its next tick.
                    tracing::debug!(%error, "cannot hear who asks for the VIP");
                    return std::future::pending().await;
                }
            }
        }
    }
}

/// What the kernel knows of an interface: /sys shows those of the namespace it was mounted in, the
/// kernel's calls show ours.
fn entries_of(interface: &str) -> Result<Vec<InterfaceAddress>> {
    let all = nix::ifaddrs::getifaddrs().context("listing the interfaces of this machine")?;
    Ok(all.filter(|entry| entry.interface_name == interface).collect())
}

/// Whether the interface has an address in the VIP's network, so that the holder can answer from it.
pub(super) fn is_on_network(vip: &Vip) -> Result<bool> {
    let address = |entry: &InterfaceAddress| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|own| IpAddr::V4(own.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|own| IpAddr::V6(own.ip())))
    };
    Ok(entries_of(&vip.interface)?.iter().filter_map(address).any(|own| same_network(own, vip.address, vip.prefix)))
}

fn same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let differing = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    differing.leading_zeros() >= u32::from(prefix)
}

/// A packet socket at an interface: it sends whole frames, and hears the IPv6 ones that `filter` passes,
/// or none.
#[expect(unsafe_code, reason = "packet sockets have no safe interface")]
fn packet_socket(index: u32, filter: Option<&[libc::sock_filter]>) -> Result<AsyncFd<OwnedFd>> {
    let failed = |what: &'static str| Err(std::io::Error::last_os_error()).context(what);
    // SAFETY: plain system calls on a socket that is owned from its making; `program` and `link` are
    // complete and outlive the calls that read them, and the kernel does not write to the filter. An
    // `OwnedFd` is open, and the same, for as long as it lives.
    unsafe {
        let raw = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if raw < 0 {
            return failed("opening a packet socket");
        }
        let socket = OwnedFd::from_raw_fd(raw);
        if let Some(filter) = filter {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            let size = std::mem::size_of::<libc::sock_fprog>() as u32;
            let option = (&raw const program).cast();
            if libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, option, size) < 0 {
                return failed("setting the filter of a packet socket");
            }
        }
        let mut link: libc::sockaddr_ll = std::mem::zeroed();
        link.sll_family = libc::AF_PACKET as u16;
        link.sll_ifindex = index as i32;
        if filter.is_some() {
            link.sll_protocol = (libc::ETH_P_IPV6 as u16).to_be();
        }
        let size = std::mem::size_of::<libc::sockaddr_ll>() as u32;
        if libc::bind(socket.as_raw_fd(), (&raw const link).cast(), size) < 0 {
            return failed("binding a packet socket");
        }
        AsyncFd::register_with_interest(socket, Interest::READABLE)
            .map_err(|error| error.into_parts().1)
            .context("watching a packet socket")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_share_a_network_as_far_as_the_prefix_goes() {
        let same = |a: &str, b: &str, prefix| same_network(a.parse().unwrap(), b.parse().unwrap(), prefix);
        assert!(same("10.0.0.1", "10.0.0.100", 24) && !same("10.0.1.1", "10.0.0.100", 24));
        assert!(same("10.0.0.1", "10.0.0.1", 32) && same("fd00::1", "fd00::ffff", 64));
        assert!(!same("fd00:0:0:1::1", "fd00::1", 64) && !same("fd00::1", "fd00::2", 128));
        assert!(!same("10.0.0.1", "fd00::1", 1), "the families differ");
    }
}
