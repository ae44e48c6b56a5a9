//! Answers made out of the packet that they answer.

use crate::checksum;
use crate::headers::{Headers, TcpFlags, Transport};

/// Room that a frame needs for [`reset_for`]: Ethernet, two tags, IPv4 and TCP without options.
pub const RESET_MAX_BYTES: usize = 14 + 8 + 20 + 20;

/// The MAC addresses change places; tags stay.
pub(crate) fn turn_round(frame: &mut [u8]) -> Option<()> {
    let ethernet = frame.first_chunk_mut::<12>()?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *ethernet;
    *ethernet = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    Some(())
}

/// Turns a TCP segment into the reset that refuses it (RFC 9293 3.10.7.1), ready to go back
/// where it came from, and returns the frame's new length.
///
/// `None` for what must not be answered so: not TCP, a later fragment, or itself a reset.
pub fn reset_for(frame: &mut [u8], headers: &Headers) -> Option<usize> {
    let Transport::Tcp(tcp) = headers.transport else {
        return None;
    };
    if tcp.flags.any(TcpFlags::RST) {
        return None;
    }
    let (seq, ack, flags) = if tcp.flags.any(TcpFlags::ACK) {
        (tcp.ack, 0, TcpFlags::RST)
    } else {
        (0, tcp.seq_end(), TcpFlags::RST | TcpFlags::ACK)
    };
    let tuple = headers.tuple.reversed();
    let l3 = usize::from(headers.l3);
    let new_len = l3 + 40;

    turn_round(frame)?;

    // Options, if there were any, are left behind: the new header is 20 bytes.
    let packet = frame.get_mut(l3..new_len)?;
    let (ip, segment) = packet.split_first_chunk_mut::<20>()?;
    let [s0, s1, s2, s3] = tuple.src.addr.octets();
    let [d0, d1, d2, d3] = tuple.dst.addr.octets();
    *ip = [
        0x45,
        0,
        0,
        40,
        0,
        0,
        0x40,
        0,
        64,
        tuple.proto.0,
        0,
        0,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ];
    let check = !checksum::fold(checksum::sum(ip));
    let [c0, c1] = check.to_be_bytes();
    if let Some(field) = ip.get_mut(10..12) {
        field.copy_from_slice(&[c0, c1]);
    }

    let segment = segment.first_chunk_mut::<20>()?;
    let [sp0, sp1] = tuple.src.port.to_be_bytes();
    let [dp0, dp1] = tuple.dst.port.to_be_bytes();
    let [q0, q1, q2, q3] = seq.to_be_bytes();
    let [a0, a1, a2, a3] = ack.to_be_bytes();
    *segment = [
        sp0, sp1, dp0, dp1, q0, q1, q2, q3, a0, a1, a2, a3, 0x50, flags, 0, 0, 0, 0, 0, 0,
    ];
    let pseudo = checksum::pseudo_header(
        tuple.src.addr.to_bits(),
        tuple.dst.addr.to_bits(),
        tuple.proto.0,
        20,
    );
    let check = !checksum::fold(pseudo + checksum::sum(segment));
    if let Some(field) = segment.get_mut(16..18) {
        field.copy_from_slice(&check.to_be_bytes());
    }
    Some(new_len)
}
