//! One line about the beginning of a frame, for people.
//!
//! The frame is one that the pipeline refused, and it may be cut off: whatever can be
//! read is told, and nothing is trusted.

use std::fmt::{self, Write};
use std::net::Ipv4Addr;

use wire::{ETHERNET_BYTES, EtherType, MacAddr, Protocol, TcpFlags, VLAN_TAG_BYTES};

/// Tells what `frame` is.
pub(crate) fn decode(frame: &[u8]) -> String {
    let mut line = String::new();
    // Writing to a string cannot fail; an error says that the frame has ended.
    if ethernet(&mut line, frame).is_err() {
        line.push_str(" [cut off]");
    }
    line
}

fn ethernet(line: &mut String, frame: &[u8]) -> fmt::Result {
    let [to, from] = [array(frame, 0)?, array(frame, 6)?].map(MacAddr);
    write!(line, "{from} > {to}")?;
    let mut at = ETHERNET_BYTES - 2;
    let mut kind = EtherType(u16_at(frame, at)?);
    // Two tags are what the pipeline takes; a third one is told as what it is.
    for _ in 0..3 {
        if kind != EtherType::VLAN && kind != EtherType::QINQ {
            break;
        }
        write!(line, " vlan {}", u16_at(frame, at + 2)? & 0x0fff)?;
        at += VLAN_TAG_BYTES;
        kind = EtherType(u16_at(frame, at)?);
    }
    let packet = frame.get(at + 2..).unwrap_or_default();
    match kind {
        EtherType::IPV4 => ipv4(line, packet),
        EtherType::ARP => write!(line, " ARP"),
        EtherType::IPV6 => ipv6(line, packet),
        EtherType(other) => write!(line, " ethertype {other:#06x}"),
    }
}

fn ipv4(line: &mut String, packet: &[u8]) -> fmt::Result {
    let header_bytes = usize::from(byte(packet, 0)? & 0x0f) * 4;
    let proto = Protocol(byte(packet, 9)?);
    let [src, dst] = [array(packet, 12)?, array(packet, 16)?].map(|b: [u8; 4]| Ipv4Addr::from(b));
    write!(
        line,
        " IPv4 ttl {} length {}",
        byte(packet, 8)?,
        u16_at(packet, 2)?
    )?;
    let fragment = u16_at(packet, 6)?;
    let offset = (fragment & 0x1fff) * 8;
    if fragment & 0x3fff != 0 {
        write!(line, " fragment at {offset}")?;
    }
    let has_ports = proto == Protocol::TCP || proto == Protocol::UDP;
    if !has_ports || offset != 0 || header_bytes < 20 {
        return write!(line, " {proto} {src} > {dst}");
    }
    let segment = packet.get(header_bytes..).unwrap_or_default();
    let (Ok(sport), Ok(dport)) = (u16_at(segment, 0), u16_at(segment, 2)) else {
        write!(line, " {proto} {src} > {dst}")?;
        return Err(fmt::Error);
    };
    write!(line, " {proto} {src}:{sport} > {dst}:{dport}")?;
    if proto == Protocol::TCP {
        tcp(line, segment)
    } else {
        Ok(())
    }
}

fn tcp(line: &mut String, segment: &[u8]) -> fmt::Result {
    let flags = byte(segment, 13)?;
    let names = [
        (TcpFlags::SYN, 'S'),
        (TcpFlags::FIN, 'F'),
        (TcpFlags::RST, 'R'),
        (TcpFlags::ACK, '.'),
    ];
    let text: String = names
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| name)
        .collect();
    let (seq, ack) = (array(segment, 4)?, array(segment, 8)?);
    write!(
        line,
        " [{text}] seq {} ack {}",
        u32::from_be_bytes(seq),
        u32::from_be_bytes(ack)
    )
}

fn ipv6(line: &mut String, packet: &[u8]) -> fmt::Result {
    let [src, dst] =
        [array(packet, 8)?, array(packet, 24)?].map(|b: [u8; 16]| std::net::Ipv6Addr::from(b));
    write!(line, " IPv6 next header {} {src} > {dst}", byte(packet, 6)?)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], fmt::Error> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or(fmt::Error)
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, fmt::Error> {
    bytes.get(at).copied().ok_or(fmt::Error)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, fmt::Error> {
    array(bytes, at).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ethernet, IPv4, TCP SYN 10.0.0.1:4660 > 192.0.2.1:80.
    const SYN: [u8; 54] = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, // Ethernet
        0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1, // IPv4
        0x12, 0x34, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0, // TCP
    ];

    #[test]
    fn a_syn_is_told_in_one_line() {
        assert_eq!(
            decode(&SYN),
            "02:00:00:00:00:02 > 02:00:00:00:00:01 IPv4 ttl 64 length 40 \
             tcp 10.0.0.1:4660 > 192.0.2.1:80 [S] seq 7 ack 0"
        );
    }

    #[test]
    fn what_is_cut_off_is_told_as_far_as_it_goes() {
        assert_eq!(decode(&[]), " [cut off]");
        assert_eq!(
            decode(&SYN[..14 + 20 + 3]),
            "02:00:00:00:00:02 > 02:00:00:00:00:01 IPv4 ttl 64 length 40 \
             tcp 10.0.0.1 > 192.0.2.1 [cut off]"
        );
    }

    #[test]
    fn tags_fragments_and_strangers() {
        let mut tagged = SYN.to_vec();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert!(
            decode(&tagged).contains(" vlan 5 IPv4"),
            "{}",
            decode(&tagged)
        );
        let mut fragment = SYN;
        fragment[21] = 2;
        assert!(decode(&fragment).ends_with("fragment at 16 tcp 10.0.0.1 > 192.0.2.1"));
        let mut stranger = SYN;
        stranger[12..14].copy_from_slice(&[0x88, 0xcc]);
        assert!(decode(&stranger).ends_with("ethertype 0x88cc"));
    }

    proptest! {
        #[test]
        fn no_bytes_stop_it(
            bytes in prop::collection::vec(any::<u8>(), 0..96),
            kind in prop::sample::select(vec![0x0800_u16, 0x8100, 0x88a8, 0x86dd, 0x0806]),
        ) {
            let mut frame = bytes;
            if let Some(place) = frame.get_mut(12..14) {
                place.copy_from_slice(&kind.to_be_bytes());
            }
            prop_assert!(!decode(&frame).contains('\n'));
        }
    }
}
