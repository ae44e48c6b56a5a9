//! The head of an IPv4 packet, field by field, for the log.
//!
//! The frame may be cut off: what can be read is told, and nothing is trusted.

use std::fmt::Write;

use protocol::{LogPacket, proto_name};
use wire::{ETHERNET_BYTES, EtherType, Protocol, VLAN_TAG_BYTES};

/// Bytes of an IPv4 header without options.
const IPV4_BYTES: usize = 20;

/// The packet in this frame; none if there is no whole IPv4 header. With the frame's MAC
/// addresses if they mean something.
pub(crate) fn packet(frame: &[u8], has_mac: bool) -> Option<LogPacket> {
    let (kind, at) = ethernet(frame)?;
    let header = frame.get(at..at + IPV4_BYTES)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    if kind != EtherType::IPV4 || header[0] >> 4 != 4 || header_bytes < IPV4_BYTES {
        return None;
    }
    let fragment = u16_at(header, 6)?;
    let mut packet = LogPacket {
        mac: has_mac.then(|| mac(frame, kind)),
        src: <[u8; 4]>::try_from(&header[12..16]).ok()?.into(),
        dst: <[u8; 4]>::try_from(&header[16..20]).ok()?.into(),
        length: u16_at(header, 2)?,
        tos: header[1],
        ttl: header[8],
        id: u16_at(header, 4)?,
        is_df: fragment & 0x4000 != 0,
        is_mf: fragment & 0x2000 != 0,
        fragment: fragment & 0x1fff,
        proto: proto_name(header[9]),
        sport: None,
        dport: None,
        window: None,
        tcp_flags: None,
        icmp_type: None,
        icmp_code: None,
    };
    // A later fragment has no such header.
    if packet.fragment == 0 {
        let segment = frame.get(at + header_bytes..).unwrap_or_default();
        transport(&mut packet, Protocol(header[9]), segment);
    }
    Some(packet)
}

fn transport(packet: &mut LogPacket, proto: Protocol, segment: &[u8]) {
    if proto == Protocol::TCP || proto == Protocol::UDP {
        packet.sport = u16_at(segment, 0);
        packet.dport = u16_at(segment, 2);
    }
    if proto == Protocol::TCP {
        packet.tcp_flags = segment.get(13).copied();
        packet.window = u16_at(segment, 14);
    }
    if proto == Protocol::ICMP {
        packet.icmp_type = segment.first().copied();
        packet.icmp_code = segment.get(1).copied();
    }
}

/// What the frame carries, and where that begins.
fn ethernet(frame: &[u8]) -> Option<(EtherType, usize)> {
    let mut at = ETHERNET_BYTES;
    let mut kind = EtherType(u16_at(frame, at - 2)?);
    for _ in 0..2 {
        if kind == EtherType::VLAN || kind == EtherType::QINQ {
            at += VLAN_TAG_BYTES;
            kind = EtherType(u16_at(frame, at - 2)?);
        }
    }
    Some((kind, at))
}

/// Destination, source and type.
fn mac(frame: &[u8], kind: EtherType) -> String {
    let addresses = frame.iter().take(ETHERNET_BYTES - 2);
    let mut text = String::new();
    for byte in addresses.chain(&kind.0.to_be_bytes()) {
        let colon = if text.is_empty() { "" } else { ":" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{colon}{byte:02x}");
    }
    text
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let half = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([half[0], half[1]]))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ethernet, IPv4, TCP SYN 10.0.0.1:4660 > 192.0.2.1:80.
    pub(crate) const SYN: [u8; 54] = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, // Ethernet
        0x45, 0x10, 0, 40, 0x12, 0x67, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 192, 0, 2,
        1, // IPv4
        0x12, 0x34, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 0, 0, 0, 0, // TCP
    ];
    const ETHERNET: usize = 14;
    const HEAD: &str =
        " SRC=10.0.0.1 DST=192.0.2.1 LEN=40 TOS=0x10 PREC=0x00 TTL=64 ID=4711 DF PROTO=TCP";

    fn told(frame: &[u8]) -> String {
        packet(frame, false).map_or_else(String::new, |packet| packet.to_string())
    }

    #[test]
    fn a_syn_is_told_as_the_kernel_would() {
        let tail = " SPT=4660 DPT=80 WINDOW=64240 RES=0x00 SYN";
        assert_eq!(told(&SYN), format!("{HEAD}{tail}"));
        let mac = " MAC=02:00:00:00:00:01:02:00:00:00:00:02:08:00";
        let with_mac = packet(&SYN, true).unwrap().to_string();
        assert_eq!(with_mac, format!("{mac}{HEAD}{tail}"));
        let mut tagged = SYN.to_vec();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(packet(&tagged, true).unwrap().to_string(), with_mac);
        // Options of IPv4 are skipped.
        let mut longer = SYN.to_vec();
        longer[ETHERNET] = 0x46;
        longer.splice(34..34, [1, 1, 1, 0]);
        assert_eq!(told(&longer), format!("{HEAD}{tail}"));
    }

    #[test]
    fn datagrams_icmp_and_fragments_have_what_is_theirs() {
        let with = |changes: &[(usize, u8)]| {
            let mut frame = SYN;
            for (at, to) in changes {
                frame[ETHERNET + at] = *to;
            }
            told(&frame)
        };
        let udp = HEAD.replace("TCP", "UDP");
        assert_eq!(with(&[(9, 17)]), format!("{udp} SPT=4660 DPT=80"));
        let icmp = HEAD.replace("TCP", "ICMP");
        assert_eq!(
            with(&[(9, 1), (20, 8), (21, 0)]),
            format!("{icmp} TYPE=8 CODE=0")
        );
        assert_eq!(with(&[(9, 47)]), HEAD.replace("TCP", "47"));
        assert_eq!(
            with(&[(6, 0x20), (7, 2)]),
            HEAD.replace("DF", "MF FRAG:2"),
            "no ports in a later fragment"
        );
    }

    #[test]
    fn what_is_cut_off_is_told_as_far_as_it_goes() {
        assert_eq!(told(&SYN[..ETHERNET + 19]), "");
        assert_eq!(told(&SYN[..ETHERNET + 20]), HEAD);
        assert_eq!(
            told(&SYN[..ETHERNET + 24]),
            format!("{HEAD} SPT=4660 DPT=80")
        );
        let mut other = SYN;
        other[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(packet(&other, true), None);
        for first in [0x44, 0x65] {
            let mut bad = SYN;
            bad[ETHERNET] = first;
            assert_eq!(packet(&bad, true), None, "{first:#x}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_stop_it(
            bytes in prop::collection::vec(any::<u8>(), 0..96),
            kind in prop::sample::select(vec![0x0800_u16, 0x8100, 0x88a8]),
        ) {
            let mut frame = bytes;
            if let Some(place) = frame.get_mut(12..14) {
                place.copy_from_slice(&kind.to_be_bytes());
            }
            if let Some(packet) = packet(&frame, true) {
                prop_assert!(!packet.to_string().contains('\n'));
            }
        }
    }
}
