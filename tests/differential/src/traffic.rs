//! Packets of one ruleset: first ones of many connections, and what follows them.

use std::net::Ipv4Addr;

use fastrand::Rng;

use crate::kernel::{DEAF, OTHER, SERVICES};
use crate::packet::{Body, FW_INTER, FW_INTRA, Packet, Sender, Side, flag};

/// Flags of segments that begin no connection.
const ODD: [u8; 10] = [
    flag::ACK,
    flag::PSH | flag::ACK,
    flag::FIN,
    flag::FIN | flag::ACK,
    flag::FIN | flag::PSH | flag::URG,
    flag::RST,
    flag::RST | flag::ACK,
    flag::SYN | flag::ACK,
    flag::SYN | flag::FIN,
    0,
];
/// ICMP's messages that are neither errors nor pings.
const MESSAGES: [(u8, u8); 6] = [(0, 0), (9, 0), (14, 0), (17, 0), (18, 0), (30, 0)];
const ERRORS: [(u8, u8); 4] = [(3, 3), (3, 1), (11, 0), (12, 0)];

/// Which ways the packets of a ruleset go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ways {
    /// From wire to wire.
    pub transit: bool,
}

/// The first packets of connections: no two belong to one.
pub fn firsts(random: &mut Rng, ways: Ways, count: u16) -> Vec<Packet> {
    let mut packets = Vec::new();
    for id in 1..=count {
        let (sender, src, dst) = parties(random, ways);
        let mut packet = Packet {
            id,
            sender,
            src,
            dst,
            mac: [2, 0, 0, 0, 1, src.octets()[3]],
            body: Body::Other(OTHER),
        };
        // Its connections are told apart by addresses alone.
        if id > 1 {
            packet.body = body(random, &packet);
        }
        packets.push(packet);
    }
    packets
}

fn parties(random: &mut Rng, ways: Ways) -> (Sender, Ipv4Addr, Ipv4Addr) {
    let own = [FW_INTRA, FW_INTER][random.usize(..2)];
    let side = Side::ALL[random.usize(..2)];
    let host = host(random, side);
    match random.u8(..if ways.transit { 10 } else { 7 }) {
        0..4 => (Sender::Wire(side), host, own),
        4..7 => (Sender::Box, side.address(), host),
        _ => {
            let other = Side::ALL[1 - side as usize];
            (Sender::Wire(side), host, self::host(random, other))
        }
    }
}

fn host(random: &mut Rng, side: Side) -> Ipv4Addr {
    let last = random.u8(10..14);
    let far = side == Side::Inter && random.u8(..4) == 0;
    let [a, b, c] = match (side, far) {
        (Side::Intra, _) => [192, 168, 1],
        (Side::Inter, false) => [198, 51, 100],
        (Side::Inter, true) => [203, 0, 113],
    };
    Ipv4Addr::new(a, b, c, last)
}

fn body(random: &mut Rng, packet: &Packet) -> Body {
    let service = SERVICES[random.usize(..SERVICES.len())];
    let is_from_box = packet.sender == Sender::Box;
    let sport = if is_from_box { DEAF.start } else { 20_000 } + packet.id;
    let ports = (sport, service);
    let tcp = |flags| Body::Tcp {
        ports,
        flags,
        numbers: (1000, 7000),
    };
    match random.u8(..20) {
        0..9 => tcp(flag::SYN),
        9..13 => Body::Udp { ports },
        13..15 => Body::Icmp {
            kind: (8, 0),
            id: packet.id,
        },
        15 => {
            let kinds = if is_from_box {
                &MESSAGES[..2]
            } else {
                &MESSAGES
            };
            let kind = kinds[random.usize(..kinds.len())];
            Body::Icmp {
                kind,
                id: packet.id,
            }
        }
        16 if !is_from_box => {
            let about = Packet {
                body: Body::Udp {
                    ports: (service, 33_000 + packet.id),
                },
                ..packet.clone()
            };
            let about = Packet {
                src: packet.dst,
                dst: packet.src,
                ..about
            };
            Body::Error {
                kind: ERRORS[random.usize(..ERRORS.len())],
                about: Box::new(about),
            }
        }
        _ => {
            let mut flags = ODD[random.usize(..ODD.len())];
            // The firewall's own resets pass unasked, see `rules`.
            if is_from_box && flags & flag::RST != 0 {
                flags = flag::SYN;
            }
            tcp(flags)
        }
    }
}

/// A connection's later packets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sequel {
    /// What the other side sends.
    pub answer: Packet,
    /// What the first one's sender sends then.
    pub next: Packet,
}

/// What follows a first packet, if it is one that the box sends or gets; its numbers are
/// `100 + id` and `200 + id`. It comes whatever became of the first packet.
pub fn sequel(random: &mut Rng, first: &Packet) -> Option<Sequel> {
    if first.sender != Sender::Box && !first.is_for_box() {
        return None;
    }
    let mut answer = first.answer(100 + first.id)?;
    if random.u8(..4) == 0 {
        answer = first.error(100 + first.id, ERRORS[random.usize(..ERRORS.len())]);
    }
    let next = first.next(200 + first.id);
    Some(Sequel { answer, next })
}
