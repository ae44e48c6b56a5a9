//! ICMP errors and queries against an independent implementation (etherparse).

use std::net::Ipv4Addr;

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4,
};
use proptest::prelude::*;
use wire::{Headers, MacAddr, Transport, UNREACHABLE_ADDS, unreachable_for};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

fn udp(src: Ipv4Addr, dst: Ipv4Addr, payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4(src.octets(), dst.octets(), 64)
        .udp(40_000, 53)
        .write(&mut frame, &vec![7; payload])
        .unwrap();
    frame
}

fn icmp(kind: Icmpv4Type) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4(CLIENT.octets(), SERVER.octets(), 64)
        .icmpv4(kind)
        .write(&mut frame, &udp(SERVER, CLIENT, 20)[14..])
        .unwrap();
    frame
}

/// Refuses a frame in a buffer with `room` bytes behind it; the frame that goes back.
fn refused(frame: &[u8], room: usize) -> Option<Vec<u8>> {
    let headers = Headers::parse(frame).unwrap();
    let mut buffer = frame.to_vec();
    buffer.resize(frame.len() + room, 0xaa);
    let before = buffer.clone();
    match unreachable_for(&mut buffer, &headers, 3, SOURCE) {
        Some(len) => {
            buffer.truncate(len);
            Some(buffer)
        }
        None => {
            assert_eq!(buffer, before, "not answered, and changed all the same");
            None
        }
    }
}

/// What the error quotes; panics if anything of the error is not as it should be.
fn quoted(error: &[u8]) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(error).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &packet.net else {
        panic!("not IPv4")
    };
    let header = ip.header().to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum);
    assert_eq!(ip.header().source_addr(), SOURCE);
    assert_eq!(ip.header().destination_addr(), CLIENT);
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else {
        panic!("not ICMP")
    };
    assert_eq!(
        icmp.icmp_type(),
        Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
    );
    let want = icmp.icmp_type().calc_checksum(icmp.payload());
    assert_eq!(want, icmp.checksum(), "ICMP checksum");
    let headers = Headers::parse(error).unwrap();
    assert_eq!(
        (headers.mac_src, headers.mac_dst),
        (MacAddr(OWN_MAC), MacAddr(CLIENT_MAC))
    );
    icmp.payload().to_vec()
}

proptest! {
    #[test]
    fn an_error_quotes_what_it_should_and_what_fits(payload in 0..1400_usize, room in 0..600_usize) {
        let frame = udp(CLIENT, SERVER, payload);
        let packet = &frame[14..];
        let fits = (packet.len() + room).checked_sub(UNREACHABLE_ADDS);
        let want = fits.map(|fits| fits.min(548).min(packet.len())).filter(|&n| n >= 28);
        match (refused(&frame, room), want) {
            (Some(error), Some(want)) => prop_assert_eq!(quoted(&error), &packet[..want]),
            (None, None) => {}
            (error, want) => prop_assert!(false, "{:?} where {:?} fit", error, want),
        }
    }

    #[test]
    fn a_reply_has_the_reverse_of_its_requests_tuple(id: u16, seq: u16) {
        let parse = |kind| Headers::parse(&icmp(kind)).unwrap();
        let echo = IcmpEchoHeader { id, seq };
        let pairs = [
            (Icmpv4Type::EchoRequest(echo), Icmpv4Type::EchoReply(echo)),
            (raw(13, id), raw(14, id)),
            (raw(15, id), raw(16, id)),
            (raw(17, id), raw(18, id)),
        ];
        for (request, reply) in pairs {
            let (asks, answers) = (parse(request), parse(reply));
            let (Transport::Icmp(query), Transport::Icmp(reply)) = (asks.transport, answers.transport) else {
                panic!("not ICMP");
            };
            prop_assert_eq!((query.id, reply.id), (id, id));
            prop_assert!(query.is_request() && !query.is_reply() && !query.is_error());
            prop_assert!(reply.is_reply() && !reply.is_request() && !reply.is_error());
            let mut answered = asks.tuple.reversed();
            std::mem::swap(&mut answered.src.addr, &mut answered.dst.addr);
            prop_assert_eq!(answers.tuple, answered);
            prop_assert_eq!(asks.tuple.src.port, id);
        }
    }
}

fn raw(kind: u8, id: u16) -> Icmpv4Type {
    let [hi, lo] = id.to_be_bytes();
    Icmpv4Type::Unknown {
        type_u8: kind,
        code_u8: 0,
        bytes5to8: [hi, lo, 0, 1],
    }
}

#[test]
fn an_error_about_a_ping_tells_which_one() {
    for about in [raw(8, 77), raw(0, 77)] {
        let inner = icmp(about);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
            .ipv4(SERVER.octets(), CLIENT.octets(), 64)
            .icmpv4_raw(3, 1, [0; 4])
            .write(&mut frame, &inner[14..42])
            .unwrap();
        let Transport::Icmp(error) = Headers::parse(&frame).unwrap().transport else {
            panic!("not ICMP");
        };
        assert!(error.is_error());
        let sent = Headers::parse(&inner).unwrap().tuple;
        assert_eq!(error.embedded, Some(sent));
        // Translating it changes the addresses alone.
        let headers = Headers::parse(&frame).unwrap();
        let mut other = sent;
        other.src.addr = SOURCE;
        wire::rewrite_icmp_error(&mut frame, &headers, &headers.tuple, &other);
        let Transport::Icmp(after) = Headers::parse(&frame).unwrap().transport else {
            panic!("not ICMP");
        };
        assert_eq!(after.embedded, Some(other));
        assert_eq!(frame[62..70], inner[34..42]);
        assert_eq!(
            wire::checksum::fold(wire::checksum::sum(&frame[34..])),
            0xffff
        );
    }
}

#[test]
fn nothing_is_told_that_must_not_be() {
    assert!(refused(&udp(CLIENT, SERVER, 20), 28).is_some());
    let bad: [[u8; 4]; 5] = [
        [224, 0, 0, 1],
        [255, 255, 255, 255],
        [127, 0, 0, 1],
        [0, 0, 0, 0],
        [240, 0, 0, 1],
    ];
    for bad in bad {
        assert_eq!(refused(&udp(bad.into(), SERVER, 20), 600), None, "{bad:?}");
    }
    for group in [[224, 0, 0, 1], [255, 255, 255, 255]] {
        assert_eq!(refused(&udp(CLIENT, group.into(), 20), 600), None);
    }
    let mut to_group = udp(CLIENT, SERVER, 20);
    to_group[0] |= 1;
    assert_eq!(refused(&to_group, 600), None);
    for kind in [3, 4, 5, 11, 12, 9, 200] {
        assert_eq!(refused(&icmp(raw(kind, 0)), 600), None, "ICMP type {kind}");
    }
    for kind in [8, 0, 13] {
        assert!(refused(&icmp(raw(kind, 0)), 600).is_some(), "type {kind}");
    }
    let mut tail = udp(CLIENT, SERVER, 20);
    tail[21] = 3;
    tail[24..26].fill(0);
    let check = !wire::checksum::fold(wire::checksum::sum(&tail[14..34]));
    tail[24..26].copy_from_slice(&check.to_be_bytes());
    assert_eq!(refused(&tail, 600), None);
}

#[test]
fn tags_stay_and_padding_is_not_quoted() {
    let mut frame = udp(CLIENT, SERVER, 4);
    frame.resize(60, 0xee);
    frame.splice(12..12, [0x81, 0x00, 0, 7]);
    let error = refused(&frame, 28).unwrap();
    assert_eq!(error[12..16], [0x81, 0x00, 0, 7]);
    assert_eq!(quoted(&error), &frame[18..18 + 32]);
}
