//! The packets that tell a link where the VIP is: gratuitous ARP, and IPv6's neighbour discovery.
//!
//! Pure: bytes in, bytes out. All are whole Ethernet frames.

use nix::libc::sock_filter;
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) type Mac = [u8; 6];

const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Only a packet that crossed no router still has it.
const HOP_LIMIT: u8 = 255;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// The Ethernet header's length, then that with the IPv6 header's.
const IPV6_AT: usize = 14;
const ICMP_AT: usize = IPV6_AT + 40;
/// A solicitation's or advertisement's fixed part: its head, four bytes of flags, the target.
const FIXED_LEN: usize = 24;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// A gratuitous ARP request (RFC 5227, section 3): "this address is at this interface".
pub(super) fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; 42];
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

/// An unsolicited neighbour advertisement (RFC 4861, section 7.2.6): the same for IPv6.
pub(super) fn unsolicited_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    advertisement(mac, address, ALL_NODES_MAC, ALL_NODES, OVERRIDE)
}

/// The multicast group in which neighbours ask for an address (RFC 4291, section 2.7.1).
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The answer to a frame that validly asks for `address` (RFC 4861, sections 7.1.1 and 7.2.4); to any
/// other there is none.
pub(super) fn answer(frame: &[u8], mac: Mac, address: Ipv6Addr) -> Option<Vec<u8>> {
    let ip = frame.get(IPV6_AT..ICMP_AT)?;
    let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let message = frame.get(ICMP_AT..ICMP_AT + length)?;
    let (source, destination) = (address_at(ip, 8), address_at(ip, 24));
    let valid = frame[12..14] == [0x86, 0xdd]
        && ip[0] >> 4 == 6
        && ip[6] == ICMPV6
        && ip[7] == HOP_LIMIT
        && !source.is_multicast()
        && length >= FIXED_LEN
        && message[..2] == [NEIGHBOUR_SOLICITATION, 0]
        && checksum(source, destination, message) == 0
        && address_at(message, 8) == address;
    if !valid {
        return None;
    }
    let asker = source_link_layer(&message[FIXED_LEN..])?;
    if source.is_unspecified() {
        // Somebody who is about to take the address for its own has none to be answered at.
        return Some(unsolicited_advertisement(mac, address));
    }
    let asker = asker.unwrap_or([frame[6], frame[7], frame[8], frame[9], frame[10], frame[11]]);
    Some(advertisement(mac, address, asker, source, SOLICITED | OVERRIDE))
}

fn advertisement(mac: Mac, address: Ipv6Addr, to_mac: Mac, to: Ipv6Addr, flags: u8) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(address.octets());
    // An option's length counts eights of bytes.
    message.extend([TARGET_LINK_LAYER, 1]);
    message.extend(mac);
    let sum = checksum(address, to, &message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);

    let mut frame = Vec::with_capacity(ICMP_AT + message.len());
    frame.extend(to_mac);
    frame.extend(mac);
    frame.extend([0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, HOP_LIMIT]);
    frame.extend(address.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

/// The Internet checksum of an ICMPv6 message (RFC 4443, section 2.3). Of one that carries its right
/// checksum it is 0.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut sum = message.len() as u32 + u32::from(ICMPV6);
    for pair in [&source.octets()[..], &destination.octets()[..], message].iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn address_at(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    octets.into()
}

/// The asker's own link-layer address, if its options tell one; `None` when they are malformed.
fn source_link_layer(mut options: &[u8]) -> Option<Option<Mac>> {
    let mut found = None;
    while let [kind, eights, ..] = *options {
        let (option, rest) = options.split_at_checked(usize::from(eights) * 8).filter(|_| eights > 0)?;
        if kind == SOURCE_LINK_LAYER {
            found = option.get(2..8).and_then(|mac| mac.try_into().ok());
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}

/// What the bytes of a frame at an offset must be, in one, two or four bytes.
struct Check {
    at: u32,
    n_bytes: u8,
    value: u32,
}

/// What sets a solicitation for `address` apart from the link's other traffic.
fn marks(address: Ipv6Addr) -> Vec<Check> {
    let byte = |at: usize, value: u8| Check { at: at as u32, n_bytes: 1, value: value.into() };
    let word = |(i, bytes): (usize, &[u8])| {
        let value = bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
        Check { at: (ICMP_AT + 8 + 4 * i) as u32, n_bytes: 4, value }
    };
    let mut checks = vec![byte(IPV6_AT + 6, ICMPV6), byte(ICMP_AT, NEIGHBOUR_SOLICITATION)];
    checks.extend(address.octets().chunks(4).enumerate().map(word));
    checks
}

/// A program for the kernel (classic BPF) that passes only solicitations for `address`, so that nothing
/// else of the link's traffic wakes us.
pub(super) fn solicitations_only(address: Ipv6Addr) -> Vec<sock_filter> {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let checks = marks(address);
    let mut program = Vec::new();
    for (i, check) in checks.iter().enumerate() {
        let load = if check.n_bytes == 1 { LOAD_BYTE } else { LOAD_WORD };
        program.push(sock_filter { code: load, jt: 0, jf: 0, k: check.at });
        // Otherwise to the last instruction, over the checks that are left and "pass it whole".
        let to_refusal = (2 * (checks.len() - i) - 1) as u8;
        program.push(sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: to_refusal, k: check.value });
    }
    program.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: u32::MAX });
    program.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 });
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = [2, 0, 0, 0, 0, 7];
    const THEIRS: Mac = [2, 0, 0, 0, 0, 9];

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// A solicitation for `target` as a neighbour sends it.
    fn solicitation(source: &str, target: &str, options: &[u8]) -> Vec<u8> {
        let (source, target) = (ip(source), ip(target));
        let to = solicited_node(target);
        let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        message.extend(options);
        let sum = checksum(source, to, &message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let mut frame = vec![0x33, 0x33, 0xff, 0, 0, 0];
        frame.extend(THEIRS);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, HOP_LIMIT]);
        frame.extend(source.octets());
        frame.extend(to.octets());
        frame.extend(message);
        frame
    }

    fn passes(frame: &[u8], address: &str) -> bool {
        marks(ip(address)).iter().all(|check| {
            let at = check.at as usize;
            let bytes = &frame[at..at + usize::from(check.n_bytes)];
            bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)) == check.value
        })
    }

    #[test]
    fn the_announcement_is_a_gratuitous_arp() {
        let frame = gratuitous_arp(OURS, Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!((&frame[..6], &frame[12..14]), (&[0xff; 6][..], &[8, 6][..]));
        assert_eq!((&frame[28..32], &frame[38..42]), (&[10, 0, 0, 9][..], &[10, 0, 0, 9][..]));
    }

    #[test]
    fn the_announcement_is_an_unsolicited_advertisement_to_all_nodes() {
        let frame = unsolicited_advertisement(OURS, ip("fd00::9"));
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!((&frame[..6], &frame[6..12], &frame[12..14]), (&ALL_NODES_MAC[..], &OURS[..], &[0x86, 0xdd][..]));
        let header = &frame[14..54];
        assert_eq!((header[0], header[5], header[6], header[7]), (0x60, 32, 58, 255));
        assert_eq!((address_at(header, 8), address_at(header, 24)), (ip("fd00::9"), ip("ff02::1")));
        let message = &frame[54..];
        assert_eq!((message[0], message[1], message[4]), (136, 0, OVERRIDE), "it does not claim to be an answer");
        assert_eq!(address_at(message, 8), ip("fd00::9"));
        assert_eq!(message[24..], [2, 1, 2, 0, 0, 0, 0, 7], "the target's link-layer address");
        assert_eq!(checksum(ip("fd00::9"), ip("ff02::1"), message), 0);
    }

    /// Worked out by hand: the sum of the words is 0x2ffc5, which folds to 0xffc7.
    #[test]
    fn the_checksum_covers_the_pseudo_header() {
        let message = [NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0x20, 0, 0, 0];
        // fe80 + 1, ff02 + 1, length 8, next header 58, 8800 + 2000.
        let by_hand: u32 = 0xfe80 + 1 + 0xff02 + 1 + 8 + 58 + 0x8800 + 0x2000;
        let folded = (by_hand & 0xffff) + (by_hand >> 16);
        assert_eq!(checksum(ip("fe80::1"), ip("ff02::1"), &message), !(folded as u16));
        assert_eq!(checksum(ip("::"), ip("::"), &[1]), !(0x0100 + 1 + 58), "an odd byte is the high one");
    }

    #[test]
    fn who_asks_is_answered_where_it_is() {
        assert_eq!(solicited_node(ip("fd00::ab:cdef")), ip("ff02::1:ffab:cdef"));
        for (options, to) in [(&[1, 1, 2, 0, 0, 0, 0, 5][..], [2, 0, 0, 0, 0, 5]), (&[][..], THEIRS)] {
            let asked = solicitation("fd00::1", "fd00::9", options);
            assert!(passes(&asked, "fd00::9") && !passes(&asked, "fd00::8"));
            let frame = answer(&asked, OURS, ip("fd00::9")).unwrap();
            assert_eq!((&frame[..6], address_at(&frame, 14 + 24)), (&to[..], ip("fd00::1")));
            assert_eq!((frame[54], frame[58]), (136, SOLICITED | OVERRIDE));
            assert_eq!(checksum(ip("fd00::9"), ip("fd00::1"), &frame[54..]), 0);
        }
        let without_address = answer(&solicitation("::", "fd00::9", &[]), OURS, ip("fd00::9")).unwrap();
        assert_eq!(without_address, unsolicited_advertisement(OURS, ip("fd00::9")));
    }

    #[test]
    fn anything_else_is_not_answered() {
        let good = solicitation("fd00::1", "fd00::9", &[]);
        let (ours, vip) = (OURS, ip("fd00::9"));
        assert_eq!(answer(&solicitation("fd00::1", "fd00::8", &[]), ours, vip), None, "another's address");
        for (at, value, why) in [
            (12, 8, "not IPv6"),
            (20, 17, "not ICMPv6"),
            (21, 64, "it came over a router"),
            (54, 136, "not a solicitation"),
            (55, 1, "an unknown code"),
            (57, 0xee, "a wrong checksum"),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(answer(&bad, ours, vip), None, "{why}");
        }
        for options in [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[1, 2, 0, 0, 0, 0, 0, 0], &[1]] {
            assert_eq!(answer(&solicitation("fd00::1", "fd00::9", options), ours, vip), None, "malformed options");
        }
        (0..good.len()).for_each(|n| assert_eq!(answer(&good[..n], ours, vip), None, "cut short at {n}"));
    }

    #[test]
    fn the_kernel_is_told_to_pass_solicitations_only() {
        let program = solicitations_only(ip("fd00::9"));
        assert_eq!(program.len(), 2 * 6 + 2);
        for (at, instruction) in program.iter().enumerate().filter(|(_, one)| one.code == 0x15) {
            assert_eq!(at + 1 + usize::from(instruction.jf), program.len() - 1, "whatever differs is refused");
        }
        assert_eq!(program[4].k, 62, "the target's first word");
    }
}
