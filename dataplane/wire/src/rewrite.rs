//! Changes a parsed frame in place. The frame keeps its length.

use crate::checksum::{self, Delta};
use crate::headers::{Fragment, Headers, Transport};
use crate::tuple::{Protocol, Tuple};

/// Offset of the header checksum in an IPv4 header.
const IP_CHECK: usize = 10;
/// Offset of the source address in an IPv4 header.
const IP_SRC: usize = 12;
/// Offset of the checksum in a TCP header.
const TCP_CHECK: usize = 16;
/// Offset of the checksum in a UDP header.
const UDP_CHECK: usize = 6;
/// Offset of the checksum in an ICMP header.
const ICMP_CHECK: usize = 2;
/// Offset of the embedded packet in an ICMP error.
const ICMP_EMBEDDED: usize = 8;

fn word_mut(frame: &mut [u8], at: usize) -> Option<&mut [u8; 2]> {
    frame.get_mut(at..)?.first_chunk_mut()
}

/// Replaces the checksum at `at` by what `change` makes of it.
fn update(frame: &mut [u8], at: usize, change: impl FnOnce(u16) -> u16) {
    if let Some(field) = word_mut(frame, at) {
        *field = change(u16::from_be_bytes(*field)).to_be_bytes();
    }
}

/// A UDP checksum of 0 means none and stays so; a computed 0 is sent as all ones (RFC 768).
fn update_udp(check: u16, delta: Delta) -> u16 {
    match (check, delta.apply(check)) {
        (0, _) => 0,
        (_, 0) => 0xffff,
        (_, new) => new,
    }
}

fn addr_delta(old: &Tuple, new: &Tuple) -> Delta {
    Delta::ZERO
        .long(old.src.addr.to_bits(), new.src.addr.to_bits())
        .long(old.dst.addr.to_bits(), new.dst.addr.to_bits())
}

fn port_delta(delta: Delta, old: &Tuple, new: &Tuple) -> Delta {
    delta
        .word(old.src.port, new.src.port)
        .word(old.dst.port, new.dst.port)
}

fn put_addresses(frame: &mut [u8], l3: usize, new: &Tuple) {
    if let Some(field) = frame
        .get_mut(l3 + IP_SRC..)
        .and_then(|f| f.first_chunk_mut::<8>())
    {
        let [s0, s1, s2, s3] = new.src.addr.octets();
        let [d0, d1, d2, d3] = new.dst.addr.octets();
        *field = [s0, s1, s2, s3, d0, d1, d2, d3];
    }
}

fn put_ports(frame: &mut [u8], l4: usize, new: &Tuple) {
    if let Some(field) = frame.get_mut(l4..).and_then(|f| f.first_chunk_mut::<4>()) {
        let [s0, s1] = new.src.port.to_be_bytes();
        let [d0, d1] = new.dst.port.to_be_bytes();
        *field = [s0, s1, d0, d1];
    }
}

/// Gives a TCP or UDP packet the addresses and ports of `new`, with all its checksums
/// (RFC 1624). `headers` must be what [`Headers::parse`] said of this frame.
///
/// A packet of another protocol, or a later fragment, gets the addresses alone.
pub fn rewrite(frame: &mut [u8], headers: &Headers, new: &Tuple) {
    let old = &headers.tuple;
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let addresses = addr_delta(old, new);
    put_addresses(frame, l3, new);
    update(frame, l3 + IP_CHECK, |check| addresses.apply(check));
    let delta = port_delta(addresses, old, new);
    match headers.transport {
        Transport::Tcp(_) => {
            put_ports(frame, l4, new);
            update(frame, l4 + TCP_CHECK, |check| delta.apply(check));
        }
        Transport::Udp => {
            put_ports(frame, l4, new);
            update(frame, l4 + UDP_CHECK, |check| update_udp(check, delta));
        }
        Transport::Icmp(_) | Transport::Other => {}
    }
}

/// Completes the checksum of a packet whose sender left that to its NIC: the field then
/// holds the folded pseudo-header sum and nothing else marks it (Linux `CHECKSUM_PARTIAL`).
///
/// A finished checksum equals that sum once in 65 536 packets; computing it again is
/// right then too.
pub fn complete_partial_checksum(frame: &mut [u8], headers: &Headers) {
    let at = match headers.transport {
        Transport::Tcp(_) => TCP_CHECK,
        Transport::Udp => UDP_CHECK,
        Transport::Icmp(_) | Transport::Other => return,
    };
    if headers.fragment != Fragment::Whole {
        return;
    }
    let (l4, end) = (usize::from(headers.l4), usize::from(headers.end));
    let pseudo = checksum::pseudo_header(
        headers.tuple.src.addr.to_bits(),
        headers.tuple.dst.addr.to_bits(),
        headers.tuple.proto.0,
        headers.end.saturating_sub(headers.l4),
    );
    let Some(segment) = frame.get_mut(l4..end) else {
        return;
    };
    let Some(field) = word_mut(segment, at) else {
        return;
    };
    if u16::from_be_bytes(*field) != checksum::fold(pseudo) {
        return;
    }
    *field = [0, 0];
    let whole = !checksum::fold(pseudo + checksum::sum(segment));
    let sent = if headers.tuple.proto == Protocol::UDP && whole == 0 {
        0xffff
    } else {
        whole
    };
    update(segment, at, |_| sent);
}

/// Translates an ICMP error: the outer addresses become those of `outer`, the embedded
/// packet's tuple becomes `inner` (RFC 5508 REQ-4, REQ-5), of what is neither TCP nor UDP the
/// addresses alone. The embedded transport checksum is carried along if it was kept; the ICMP
/// checksum covers all of it.
///
/// Does nothing to a frame that is not an ICMP error with a readable embedded packet.
pub fn rewrite_icmp_error(frame: &mut [u8], headers: &Headers, outer: &Tuple, inner: &Tuple) {
    let Transport::Icmp(icmp) = headers.transport else {
        return;
    };
    let Some(old_inner) = icmp.embedded else {
        return;
    };
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let outer_delta = addr_delta(&headers.tuple, outer);
    put_addresses(frame, l3, outer);
    update(frame, l3 + IP_CHECK, |check| outer_delta.apply(check));

    let inner_l3 = l4 + ICMP_EMBEDDED;
    let Some(ihl) = frame.get(inner_l3).map(|b| usize::from(b & 0x0f) * 4) else {
        return;
    };
    let end = usize::from(headers.end);
    let before = checksum::fold(checksum::sum(frame.get(inner_l3..end).unwrap_or_default()));

    let addresses = addr_delta(&old_inner, inner);
    put_addresses(frame, inner_l3, inner);
    update(frame, inner_l3 + IP_CHECK, |check| addresses.apply(check));
    let inner_l4 = inner_l3 + ihl;
    let delta = port_delta(addresses, &old_inner, inner);
    let check_at = match inner.proto {
        Protocol::TCP => Some(inner_l4 + TCP_CHECK),
        Protocol::UDP => Some(inner_l4 + UDP_CHECK),
        _ => None,
    };
    if let Some(at) = check_at {
        put_ports(frame, inner_l4, inner);
        if at + 2 <= end {
            update(frame, at, |check| match inner.proto {
                Protocol::UDP => update_udp(check, delta),
                _ => delta.apply(check),
            });
        }
    }

    let after = checksum::fold(checksum::sum(frame.get(inner_l3..end).unwrap_or_default()));
    update(frame, l4 + ICMP_CHECK, |check| {
        Delta::ZERO.word(before, after).apply(check)
    });
}
