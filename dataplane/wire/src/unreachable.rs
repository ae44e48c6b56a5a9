//! ICMP "destination unreachable", made out of the packet that it is about.

use core::net::Ipv4Addr;

use crate::checksum;
use crate::headers::{Fragment, Headers, Transport};
use crate::reply::turn_round;

/// Bytes that the error has in front of what it quotes: an IPv4 and an ICMP header. A frame with
/// this much room behind it loses nothing of what is quoted.
pub const UNREACHABLE_ADDS: usize = 20 + 8;
/// The most that is quoted: the error is to be 576 bytes at most (RFC 1812 4.3.2.3).
const MOST_QUOTED: usize = 576 - UNREACHABLE_ADDS;
/// What must be quoted behind the IPv4 header, so that the sender knows its own (RFC 792).
const LEAST_BEHIND_HEADER: usize = 8;
/// Internetwork control (RFC 1812 4.3.2.5).
const PRECEDENCE: u8 = 0xc0;

/// Whether a packet may be answered by an ICMP error (RFC 1812 4.3.2.7): not an error itself, no
/// later fragment, to one host, from one host.
fn may_be_told(headers: &Headers) -> bool {
    let is_nobody = |addr: Ipv4Addr| {
        addr.is_multicast() || addr.is_broadcast() || addr.is_unspecified() || addr.is_loopback()
    };
    let is_about_icmp = match headers.transport {
        // What is unknown may be an error.
        Transport::Icmp(icmp) => !icmp.is_request() && !icmp.is_reply(),
        Transport::Tcp(_) | Transport::Udp | Transport::Other => false,
    };
    let [first_of_mac, ..] = headers.mac_dst.0;
    !is_about_icmp
        && headers.fragment != Fragment::Later
        && first_of_mac & 1 == 0
        && !is_nobody(headers.tuple.src.addr)
        && !is_nobody(headers.tuple.dst.addr)
        // Class E, where no host is.
        && headers.tuple.src.addr.octets().first().is_some_and(|&first| first < 240)
}

/// Turns a packet into the ICMP "destination unreachable" with this code that `source` sends
/// back where it came from, and returns the frame's new length.
///
/// The error is built in `frame`, which may be longer than the packet's frame: it quotes as much
/// of the packet as it should and as fits. `None`, and an unchanged frame, for what must not be
/// answered so, and where header and eight bytes do not fit.
pub fn unreachable_for(
    frame: &mut [u8],
    headers: &Headers,
    code: u8,
    source: Ipv4Addr,
) -> Option<usize> {
    if !may_be_told(headers) {
        return None;
    }
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let packet_bytes = usize::from(headers.packet_bytes());
    let room = frame.len().checked_sub(l3 + UNREACHABLE_ADDS)?;
    let quoted = packet_bytes.min(MOST_QUOTED).min(room);
    let least = packet_bytes.min(l4.checked_sub(l3)? + LEAST_BEHIND_HEADER);
    if quoted < least {
        return None;
    }
    let body = l3 + UNREACHABLE_ADDS;
    let new_len = body + quoted;
    // The copy below cannot fail: both ends lie inside.
    frame.get(l3..new_len)?;
    frame.copy_within(l3..l3 + quoted, body);
    turn_round(frame)?;

    let packet = frame.get_mut(l3..new_len)?;
    let [n0, n1] = (packet.len() as u16).to_be_bytes();
    let (ip, message) = packet.split_first_chunk_mut::<20>()?;
    let [s0, s1, s2, s3] = source.octets();
    let [d0, d1, d2, d3] = headers.tuple.src.addr.octets();
    *ip = [
        0x45, PRECEDENCE, n0, n1, 0, 0, 0, 0, 64, 1, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3,
    ];
    let check = !checksum::fold(checksum::sum(ip));
    put(ip, 10, check);
    *message.first_chunk_mut::<8>()? = [3, code, 0, 0, 0, 0, 0, 0];
    let check = !checksum::fold(checksum::sum(message));
    put(message, 2, check);
    Some(new_len)
}

fn put(bytes: &mut [u8], at: usize, check: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&check.to_be_bytes());
    }
}
