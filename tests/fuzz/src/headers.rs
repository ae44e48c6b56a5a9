//! A frame is parsed, rewritten, answered and rewritten back.

use std::net::Ipv4Addr;

use wire::{Endpoint, Fragment, Headers, Protocol, Transport, Tuple};

use crate::frames::{Input, repair};

/// The input: what to rewrite to (source, destination, their ports), whether to put the right
/// IPv4 checksum in, the frame.
///
/// # Panics
/// If a frame that parses does not parse to the wanted tuple after a rewrite, or a rewrite
/// touches what it must leave alone.
pub fn headers(bytes: &[u8]) {
    let mut input = Input(bytes);
    let new = Endpoints {
        src: endpoint(input.take()),
        dst: endpoint(input.take()),
    };
    let [raw] = input.take();
    let mut frame = input.rest(usize::MAX).to_vec();
    if raw == 0 {
        repair(&mut frame);
    }
    let Ok(before) = Headers::parse(&frame) else {
        return;
    };
    assert!(usize::from(before.packet_bytes()) <= frame.len());
    rewritten(&frame, &before, &new);
    translated_error(&frame, &before, &new);
    completed(&frame, &before);
    answered(&frame, &before);
    refused(&frame, &before, new.src.addr);
}

struct Endpoints {
    src: Endpoint,
    dst: Endpoint,
}

fn endpoint(bytes: [u8; 6]) -> Endpoint {
    let [a, b, c, d, hi, lo] = bytes;
    Endpoint::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([hi, lo]))
}

impl Endpoints {
    fn tuple(&self, proto: Protocol, has_ports: bool) -> Tuple {
        let end = |end: Endpoint| Endpoint::new(end.addr, if has_ports { end.port } else { 0 });
        Tuple {
            proto,
            src: end(self.src),
            dst: end(self.dst),
        }
    }
}

/// What a frame says behind the addresses and ports.
fn rest(headers: &Headers) -> impl PartialEq + std::fmt::Debug {
    let Headers {
        mac_dst,
        mac_src,
        fragment,
        has_options,
        ttl,
        ..
    } = *headers;
    (
        mac_dst,
        mac_src,
        fragment,
        has_options,
        ttl,
        headers.packet_bytes(),
    )
}

fn rewritten(frame: &[u8], before: &Headers, new: &Endpoints) {
    let has_ports = matches!(before.transport, Transport::Tcp(_) | Transport::Udp);
    let mut new = new.tuple(before.tuple.proto, has_ports);
    if matches!(before.transport, Transport::Icmp(_)) {
        // What stands for its ports is left alone.
        (new.src.port, new.dst.port) = (before.tuple.src.port, before.tuple.dst.port);
    }
    let mut out = frame.to_vec();
    wire::rewrite(&mut out, before, &new);
    let after = parsed(&out);
    assert_eq!(after.tuple, new);
    assert_eq!(after.transport, before.transport);
    assert_eq!(rest(&after), rest(before));
    assert_eq!(
        transport_is_right(&out, &after),
        transport_is_right(frame, before),
        "the transport checksum's truth"
    );
    wire::rewrite(&mut out, &after, &before.tuple);
    assert_eq!(parsed(&out), *before);
    // Checksums have two zeros, so they alone may differ.
    let differing = frame.iter().zip(&out).filter(|(a, b)| a != b).count();
    assert!(differing <= 4, "{differing} bytes differ after both ways");
}

/// What was rewritten has a right IPv4 checksum, or it would not parse.
#[track_caller]
fn parsed(frame: &[u8]) -> Headers {
    match Headers::parse(frame) {
        Ok(headers) => headers,
        Err(error) => panic!("it does not parse any more: {error:?}"),
    }
}

fn translated_error(frame: &[u8], before: &Headers, new: &Endpoints) {
    let Transport::Icmp(icmp) = before.transport else {
        return;
    };
    let outer = new.tuple(before.tuple.proto, false);
    let mut out = frame.to_vec();
    let Some(embedded) = icmp.embedded else {
        wire::rewrite_icmp_error(&mut out, before, &outer, &before.tuple);
        assert_eq!(out, frame, "nothing to translate");
        return;
    };
    let has_ports = matches!(embedded.proto, Protocol::TCP | Protocol::UDP);
    let mut inner = new.tuple(embedded.proto, has_ports).reversed();
    if !has_ports {
        (inner.src.port, inner.dst.port) = (embedded.src.port, embedded.dst.port);
    }
    wire::rewrite_icmp_error(&mut out, before, &outer, &inner);
    let after = parsed(&out);
    assert_eq!(after.tuple, outer);
    let Transport::Icmp(told) = after.transport else {
        panic!("no ICMP any more");
    };
    assert_eq!((told.kind, told.code), (icmp.kind, icmp.code));
    assert_eq!(told.embedded, Some(inner));
    assert_eq!(
        icmp_is_right(&out, &after),
        icmp_is_right(frame, before),
        "the ICMP checksum's truth"
    );
    assert_eq!(rest(&after), rest(before));
}

/// What is behind the IPv4 header, up to where the packet ends and padding begins.
fn payload<'a>(frame: &'a [u8], headers: &Headers) -> &'a [u8] {
    let ip = |at: &usize| frame.get(at - 2..*at) == Some(&[8, 0]);
    let l3 = (14..=22).step_by(4).find(ip).unwrap_or_default();
    let packet = frame.get(l3..l3 + usize::from(headers.packet_bytes()));
    let packet = packet.unwrap_or_default();
    let header_bytes = usize::from(packet.first().map_or(0, |b| b & 0x0f)) * 4;
    packet.get(header_bytes..).unwrap_or_default()
}

fn icmp_is_right(frame: &[u8], headers: &Headers) -> bool {
    wire::checksum::fold(wire::checksum::sum(payload(frame, headers))) == 0xffff
}

/// Whether the checksum of a whole TCP or UDP packet is right. Of others, and where there is
/// none, it says nothing.
fn transport_is_right(frame: &[u8], headers: &Headers) -> Option<bool> {
    let payload = payload(frame, headers);
    let has_one = match headers.transport {
        Transport::Tcp(_) => true,
        Transport::Udp => payload.get(6..8) != Some(&[0, 0]),
        Transport::Icmp(_) | Transport::Other => false,
    };
    if !has_one || headers.fragment != Fragment::Whole {
        return None;
    }
    let pseudo = wire::checksum::pseudo_header(
        headers.tuple.src.addr.to_bits(),
        headers.tuple.dst.addr.to_bits(),
        headers.tuple.proto.0,
        u16::try_from(payload.len()).ok()?,
    );
    Some(wire::checksum::fold(pseudo + wire::checksum::sum(payload)) == 0xffff)
}

fn completed(frame: &[u8], before: &Headers) {
    let mut out = frame.to_vec();
    wire::complete_partial_checksum(&mut out, before);
    assert_eq!(parsed(&out), *before);
    let differing = frame.iter().zip(&out).filter(|(a, b)| a != b).count();
    assert!(differing <= 2, "{differing} bytes of a checksum");
    if before.fragment != Fragment::Whole {
        assert_eq!(out, frame);
    }
}

fn answered(frame: &[u8], before: &Headers) {
    let mut out = frame.to_vec();
    let Some(len) = wire::reset_for(&mut out, before) else {
        return;
    };
    assert!(len <= frame.len() && len <= wire::RESET_MAX_BYTES);
    out.truncate(len);
    let after = parsed(&out);
    assert_eq!(after.tuple, before.tuple.reversed());
    assert_eq!(
        (after.mac_src, after.mac_dst),
        (before.mac_dst, before.mac_src)
    );
    let Transport::Tcp(reset) = after.transport else {
        panic!("no TCP any more");
    };
    assert!(reset.flags.any(wire::TcpFlags::RST));
    let mut again = out.clone();
    assert_eq!(
        wire::reset_for(&mut again, &after),
        None,
        "a reset for a reset"
    );
}

/// The ICMP error about a frame, in a buffer with some room behind it.
fn refused(frame: &[u8], before: &Headers, source: Ipv4Addr) {
    for room in [0, wire::UNREACHABLE_ADDS] {
        let mut out = frame.to_vec();
        out.resize(frame.len() + room, 0xaa);
        let untouched = out.clone();
        let Some(len) = wire::unreachable_for(&mut out, before, 13, source) else {
            assert_eq!(out, untouched, "not answered, and changed");
            continue;
        };
        out.truncate(len);
        let after = parsed(&out);
        assert!(usize::from(after.packet_bytes()) <= 576);
        assert_eq!(
            (after.tuple.src.addr, after.tuple.dst.addr),
            (source, before.tuple.src.addr)
        );
        let Transport::Icmp(icmp) = after.transport else {
            panic!("no ICMP");
        };
        assert_eq!((icmp.kind, icmp.code), (3, 13));
        assert!(icmp_is_right(&out, &after));
        assert_eq!(
            icmp.embedded.map(|tuple| tuple.src.addr),
            Some(before.tuple.src.addr)
        );
        let again = wire::unreachable_for(&mut out, &after, 13, source);
        assert_eq!(again, None, "an error about an error");
    }
}
