//! Parsing and rewriting against an independent implementation (etherparse), and against
//! random bytes.

use std::net::Ipv4Addr;

use etherparse::{PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use wire::{
    Endpoint, Fragment, Headers, MacAddr, ParseError, Protocol, TcpFlags, Transport, Tuple,
    complete_partial_checksum, reset_for, rewrite, rewrite_icmp_error,
};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn ip_step(vlan: Option<u16>, tuple: &Tuple) -> PacketBuilderStep<etherparse::IpHeaders> {
    let (src, dst) = (tuple.src.addr.octets(), tuple.dst.addr.octets());
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    match vlan {
        Some(id) => ethernet
            .single_vlan(id.try_into().unwrap())
            .ipv4(src, dst, 64),
        None => ethernet.ipv4(src, dst, 64),
    }
}

fn tcp_frame(vlan: Option<u16>, tuple: &Tuple, seq: u32, payload: &[u8]) -> Vec<u8> {
    let step = ip_step(vlan, tuple)
        .tcp(tuple.src.port, tuple.dst.port, seq, 1000)
        .ack(77);
    let mut frame = Vec::new();
    step.write(&mut frame, payload).unwrap();
    frame
}

fn udp_frame(vlan: Option<u16>, tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip_step(vlan, tuple)
        .udp(tuple.src.port, tuple.dst.port)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// What etherparse reads out of a frame; panics if a checksum is wrong.
fn checked(frame: &[u8]) -> Tuple {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else {
        panic!("not IPv4")
    };
    let ip = ip.header();
    assert_eq!(
        ip.to_header().calc_header_checksum(),
        ip.header_checksum(),
        "IP checksum"
    );
    let (proto, sport, dport) = match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let payload = tcp.payload();
            let want = tcp
                .to_header()
                .calc_checksum_ipv4(&ip.to_header(), payload)
                .unwrap();
            assert_eq!(want, tcp.checksum(), "TCP checksum");
            (Protocol::TCP, tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            let want = udp
                .to_header()
                .calc_checksum_ipv4(&ip.to_header(), udp.payload())
                .unwrap();
            // A computed 0 is sent as all ones.
            let want = if want == 0 { 0xffff } else { want };
            assert_eq!(want, udp.checksum(), "UDP checksum");
            (Protocol::UDP, udp.source_port(), udp.destination_port())
        }
        other => panic!("{other:?}"),
    };
    Tuple {
        proto,
        src: Endpoint::new(ip.source_addr(), sport),
        dst: Endpoint::new(ip.destination_addr(), dport),
    }
}

fn tuple_of(proto: Protocol) -> impl Strategy<Value = Tuple> {
    (any::<u32>(), any::<u16>(), any::<u32>(), any::<u16>()).prop_map(move |(s, sp, d, dp)| Tuple {
        proto,
        src: Endpoint::new(Ipv4Addr::from_bits(s), sp),
        dst: Endpoint::new(Ipv4Addr::from_bits(d), dp),
    })
}

fn fixed(proto: Protocol) -> Tuple {
    Tuple {
        proto,
        src: Endpoint::new(Ipv4Addr::new(192, 168, 1, 10), 40000),
        dst: Endpoint::new(Ipv4Addr::new(198, 51, 100, 10), 80),
    }
}

/// Two words make the ones' complement sum of a UDP packet with this tuple zero.
fn payload_for_zero_sum(tuple: &Tuple) -> Vec<u8> {
    let frame = udp_frame(None, tuple, &[0, 0]);
    let check = u16::from_be_bytes([frame[14 + 20 + 6], frame[14 + 20 + 7]]);
    check.to_be_bytes().to_vec()
}

proptest! {
    #[test]
    fn parse_agrees_with_an_independent_parser(
        tuple in tuple_of(Protocol::TCP), vlan in proptest::option::of(1_u16..4095),
        seq: u32, payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let frame = tcp_frame(vlan, &tuple, seq, &payload);
        let headers = Headers::parse(&frame).unwrap();
        prop_assert_eq!(headers.tuple, checked(&frame));
        prop_assert_eq!(headers.mac_src, MacAddr(CLIENT_MAC));
        prop_assert_eq!(headers.mac_dst, MacAddr(OWN_MAC));
        prop_assert_eq!(headers.fragment, Fragment::Whole);
        let Transport::Tcp(tcp) = headers.transport else { panic!() };
        prop_assert_eq!(tcp.seq, seq);
        prop_assert_eq!(tcp.ack, 77);
        prop_assert_eq!(usize::from(tcp.payload_bytes), payload.len());
        prop_assert_eq!(usize::from(headers.packet_bytes()), 40 + payload.len());
    }

    #[test]
    fn a_rewritten_tcp_packet_is_the_packet_of_the_new_tuple(
        old in tuple_of(Protocol::TCP), new in tuple_of(Protocol::TCP),
        vlan in proptest::option::of(1_u16..4095),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut frame = tcp_frame(vlan, &old, 5, &payload);
        let headers = Headers::parse(&frame).unwrap();
        rewrite(&mut frame, &headers, &new);
        prop_assert_eq!(checked(&frame), new);
        // Not only valid: what a sender with that tuple would have sent, to the bit, apart
        // from the two ways in which ones' complement writes zero.
        let want = tcp_frame(vlan, &new, 5, &payload);
        let l3 = if vlan.is_some() { 18 } else { 14 };
        for (at, (got, want)) in frame.iter().zip(&want).enumerate() {
            let is_checksum = [10, 11, 36, 37].contains(&(at - l3.min(at)));
            prop_assert!(got == want || is_checksum, "byte {} differs", at);
        }
    }

    #[test]
    fn a_rewritten_udp_packet_is_valid(
        old in tuple_of(Protocol::UDP), new in tuple_of(Protocol::UDP),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut frame = udp_frame(None, &old, &payload);
        let headers = Headers::parse(&frame).unwrap();
        rewrite(&mut frame, &headers, &new);
        prop_assert_eq!(checked(&frame), new);
    }

    #[test]
    fn a_partial_checksum_is_completed_and_a_finished_one_left(
        tuple in tuple_of(Protocol::TCP), payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let finished = tcp_frame(None, &tuple, 9, &payload);
        let mut frame = finished.clone();
        let headers = Headers::parse(&frame).unwrap();
        complete_partial_checksum(&mut frame, &headers);
        prop_assert_eq!(&frame, &finished);

        let pseudo = wire::checksum::pseudo_header(
            tuple.src.addr.to_bits(), tuple.dst.addr.to_bits(), 6, 20 + payload.len() as u16);
        frame[14 + 20 + 16..][..2].copy_from_slice(&wire::checksum::fold(pseudo).to_be_bytes());
        complete_partial_checksum(&mut frame, &headers);
        prop_assert_eq!(checked(&frame), tuple);
    }

    #[test]
    fn random_bytes_are_refused_or_read_and_never_more(
        bytes in proptest::collection::vec(any::<u8>(), 0..160),
    ) {
        let mut frame = bytes;
        if let Ok(headers) = Headers::parse(&frame) {
            let len = frame.len();
            rewrite(&mut frame, &headers, &fixed(Protocol::TCP));
            rewrite_icmp_error(&mut frame, &headers, &fixed(Protocol::ICMP), &fixed(Protocol::TCP));
            complete_partial_checksum(&mut frame, &headers);
            prop_assert_eq!(frame.len(), len);
            let _ = reset_for(&mut frame, &headers);
        }
    }

    #[test]
    fn a_damaged_packet_never_stops_us(
        damage in proptest::collection::vec((0_usize..80, any::<u8>()), 1..6), cut in 0_usize..90,
    ) {
        let mut frame = tcp_frame(Some(5), &fixed(Protocol::TCP), 1, &[7; 30]);
        for (at, value) in damage {
            let at = at % frame.len();
            frame[at] = value;
        }
        // The header checksum is put right again, so that the damage gets past it.
        let l3 = 18;
        frame[l3 + 10..l3 + 12].fill(0);
        let ihl = usize::from(frame[l3] & 15) * 4;
        if let Some(header) = frame.get(l3..l3 + ihl) {
            let check = !wire::checksum::fold(wire::checksum::sum(header));
            frame[l3 + 10..l3 + 12].copy_from_slice(&check.to_be_bytes());
        }
        frame.truncate(cut);
        if let Ok(headers) = Headers::parse(&frame) {
            rewrite(&mut frame, &headers, &fixed(Protocol::UDP));
            let _ = reset_for(&mut frame, &headers);
        }
    }
}

#[test]
fn every_truncation_of_a_frame_is_truncated() {
    let frame = tcp_frame(None, &fixed(Protocol::TCP), 1, &[1, 2, 3]);
    for len in 0..frame.len() {
        assert_eq!(
            Headers::parse(&frame[..len]),
            Err(ParseError::Truncated),
            "{len} bytes"
        );
    }
    assert!(Headers::parse(&frame).is_ok());
}

#[test]
fn ethernet_padding_is_not_payload() {
    let mut frame = tcp_frame(None, &fixed(Protocol::TCP), 1, &[]);
    frame.resize(60, 0xee);
    let headers = Headers::parse(&frame).unwrap();
    assert_eq!(headers.packet_bytes(), 40);
    let Transport::Tcp(tcp) = headers.transport else {
        panic!()
    };
    assert_eq!(tcp.payload_bytes, 0);
}

#[test]
fn bad_headers_have_names() {
    let good = tcp_frame(None, &fixed(Protocol::TCP), 1, &[]);
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        frame[24..26].fill(0);
        let ihl = usize::from(frame[14] & 15) * 4;
        let check = !wire::checksum::fold(wire::checksum::sum(&frame[14..14 + ihl]));
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        Headers::parse(&frame)
    };
    assert_eq!(broken(&|f| f[14] = 0x65), Err(ParseError::BadIpHeader));
    assert_eq!(broken(&|f| f[14] = 0x44), Err(ParseError::BadIpHeader));
    assert_eq!(broken(&|f| f[17] = 19), Err(ParseError::BadIpHeader));
    assert_eq!(
        broken(&|f| f[46] = 0x40),
        Err(ParseError::BadTransportHeader)
    );
    assert_eq!(
        broken(&|f| f[46] = 0xf0),
        Err(ParseError::BadTransportHeader)
    );
    let mut frame = good.clone();
    frame[22] ^= 1;
    assert_eq!(Headers::parse(&frame), Err(ParseError::BadIpChecksum));
    let mut tags = good[..12].to_vec();
    tags.extend([0x81, 0, 0, 1, 0x88, 0xa8, 0, 2, 0x81, 0, 0, 3]);
    tags.extend(&good[12..]);
    assert_eq!(Headers::parse(&tags), Err(ParseError::TooManyTags));
    let mut arp = good;
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(
        Headers::parse(&arp),
        Err(ParseError::NotIpv4(wire::EtherType::ARP))
    );
}

#[test]
fn udp_without_a_checksum_stays_without_and_a_computed_zero_is_sent_as_ones() {
    let old = fixed(Protocol::UDP);
    let new = Tuple {
        dst: Endpoint::new(Ipv4Addr::new(10, 0, 0, 1), 50080),
        ..old
    };
    let mut none = udp_frame(None, &old, &[1, 2]);
    none[14 + 20 + 6..][..2].fill(0);
    let headers = Headers::parse(&none).unwrap();
    rewrite(&mut none, &headers, &new);
    assert_eq!(none[14 + 20 + 6..][..2], [0, 0]);

    // A payload chosen so that the checksum after the rewrite is 0.
    let payload = payload_for_zero_sum(&new);
    let mut frame = udp_frame(None, &old, &payload);
    let headers = Headers::parse(&frame).unwrap();
    rewrite(&mut frame, &headers, &new);
    assert_eq!(frame[14 + 20 + 6..][..2], [0xff, 0xff]);
}

#[test]
fn fragments_are_told_apart_and_later_ones_have_no_ports() {
    let with_offset = |value: u16| {
        let mut frame = tcp_frame(None, &fixed(Protocol::TCP), 1, &[0; 40]);
        frame[20..22].copy_from_slice(&value.to_be_bytes());
        frame[24..26].fill(0);
        let check = !wire::checksum::fold(wire::checksum::sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        Headers::parse(&frame).unwrap()
    };
    assert_eq!(with_offset(0x4000).fragment, Fragment::Whole);
    assert_eq!(with_offset(0x2000).fragment, Fragment::First);
    assert_eq!(with_offset(0x2000).tuple.dst.port, 80);
    for later in [with_offset(0x2005), with_offset(0x0005)] {
        assert_eq!(later.fragment, Fragment::Later);
        assert_eq!((later.tuple.src.port, later.tuple.dst.port), (0, 0));
        assert_eq!(later.transport, Transport::Other);
    }
}

#[test]
fn a_refused_syn_gets_the_reset_that_acknowledges_it() {
    for vlan in [None, Some(7)] {
        let tuple = fixed(Protocol::TCP);
        let mut frame = Vec::new();
        ip_step(vlan, &tuple)
            .tcp(tuple.src.port, tuple.dst.port, 1000, 100)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        let headers = Headers::parse(&frame).unwrap();
        let len = reset_for(&mut frame, &headers).unwrap();
        frame.truncate(len);
        assert_eq!(checked(&frame), tuple.reversed());
        let reply = Headers::parse(&frame).unwrap();
        assert_eq!(
            (reply.mac_src, reply.mac_dst),
            (MacAddr(OWN_MAC), MacAddr(CLIENT_MAC))
        );
        let Transport::Tcp(tcp) = reply.transport else {
            panic!()
        };
        assert_eq!(tcp.flags, TcpFlags(TcpFlags::RST | TcpFlags::ACK));
        assert_eq!((tcp.seq, tcp.ack), (0, 1001));
        assert_eq!(
            reset_for(&mut frame, &reply),
            None,
            "a reset is not answered"
        );
    }
}

#[test]
fn a_refused_segment_gets_the_reset_at_its_acknowledgement() {
    let mut frame = tcp_frame(None, &fixed(Protocol::TCP), 1000, &[9; 400]);
    let headers = Headers::parse(&frame).unwrap();
    let len = reset_for(&mut frame, &headers).unwrap();
    frame.truncate(len);
    let Transport::Tcp(tcp) = Headers::parse(&frame).unwrap().transport else {
        panic!()
    };
    assert_eq!((tcp.flags, tcp.seq), (TcpFlags(TcpFlags::RST), 77));
}

#[test]
fn an_icmp_error_is_translated_inside_and_out() {
    // A router tells the server that the client's link is too narrow; the server is the proxy.
    let (proxy, shown) = (
        Endpoint::new(Ipv4Addr::new(192, 168, 1, 1), 50080),
        Endpoint::new(Ipv4Addr::new(192, 168, 1, 10), 41000),
    );
    let (server, client) = (fixed(Protocol::TCP).dst, fixed(Protocol::TCP).src);
    let seen = Tuple {
        proto: Protocol::TCP,
        src: server,
        dst: client,
    };
    let meant = Tuple {
        proto: Protocol::TCP,
        src: proxy,
        dst: shown,
    };
    let router = Ipv4Addr::new(192, 168, 1, 7);
    for kept in [8, 20, 60] {
        let embedded = &tcp_frame(None, &seen, 1, &[3; 200])[14..][..20 + kept];
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
            .ipv4(router.octets(), server.addr.octets(), 64)
            .icmpv4_raw(3, 4, [0, 0, 5, 0])
            .write(&mut frame, embedded)
            .unwrap();
        let headers = Headers::parse(&frame).unwrap();
        let Transport::Icmp(icmp) = headers.transport else {
            panic!()
        };
        assert_eq!(icmp.embedded, Some(seen));
        let outer = Tuple {
            proto: Protocol::ICMP,
            src: Endpoint::new(router, 0),
            dst: Endpoint::new(proxy.addr, 0),
        };
        rewrite_icmp_error(&mut frame, &headers, &outer, &meant);

        let after = Headers::parse(&frame).unwrap();
        assert_eq!(after.tuple, outer);
        let Transport::Icmp(icmp) = after.transport else {
            panic!()
        };
        assert_eq!((icmp.kind, icmp.code, icmp.embedded), (3, 4, Some(meant)));
        assert_eq!(
            wire::checksum::fold(wire::checksum::sum(&frame[34..])),
            0xffff,
            "ICMP checksum"
        );
        assert_eq!(
            wire::checksum::fold(wire::checksum::sum(&frame[42..62])),
            0xffff,
            "embedded IP checksum"
        );
        // What was kept of the embedded packet is what the proxy's stack had sent.
        let want = &tcp_frame(None, &meant, 1, &[3; 200])[14..][..20 + kept];
        assert_eq!(&frame[42..], want);
    }
}
