//! A packet of the test: who sends it, what it says, and its bytes.

use std::net::Ipv4Addr;

use etherparse::{IpNumber, Ipv4Header, TcpHeader, TransportHeader, UdpHeader};
use lab::checksum;

/// The firewall at eth1.
pub const FW_INTRA: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// The firewall at eth2.
pub const FW_INTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// One of the firewall's two sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// eth1, with 192.168.1.0/24.
    Intra,
    /// eth2, with everything else.
    Inter,
}

impl Side {
    /// Both, in the order of their port numbers.
    pub const ALL: [Side; 2] = [Side::Intra, Side::Inter];

    /// The firewall's interface.
    pub fn interface(self) -> &'static str {
        match self {
            Side::Intra => "eth1",
            Side::Inter => "eth2",
        }
    }

    /// The firewall's address there.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Side::Intra => FW_INTRA,
            Side::Inter => FW_INTER,
        }
    }

    /// Where the firewall's routes lead to an address.
    pub fn of(address: Ipv4Addr) -> Self {
        match address.octets() {
            [192, 168, 1, _] => Side::Intra,
            _ => Side::Inter,
        }
    }
}

/// Who sends a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// Somebody behind a side.
    Wire(Side),
    /// A program on the firewall.
    Box,
}

/// What is above IPv4.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A TCP segment.
    Tcp {
        /// Source and destination port.
        ports: (u16, u16),
        /// As on the wire.
        flags: u8,
        /// Sequence number and acknowledgement.
        numbers: (u32, u32),
    },
    /// A UDP datagram.
    Udp {
        /// Source and destination port.
        ports: (u16, u16),
    },
    /// An ICMP message with an identifier, or four bytes that mean nothing.
    Icmp {
        /// Type and code.
        kind: (u8, u8),
        /// Identifier.
        id: u16,
    },
    /// An ICMP error about a packet.
    Error {
        /// Type and code.
        kind: (u8, u8),
        /// The packet it is about.
        about: Box<Packet>,
    },
    /// Another protocol.
    Other(u8),
}

/// TCP's flags as on the wire.
pub mod flag {
    /// No more from this side.
    pub const FIN: u8 = 1;
    /// A beginning.
    pub const SYN: u8 = 2;
    /// An end at once.
    pub const RST: u8 = 4;
    /// Something for the program.
    pub const PSH: u8 = 8;
    /// The acknowledgement counts.
    pub const ACK: u8 = 16;
    /// Urgent data.
    pub const URG: u8 = 32;
}

/// A packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Tells it from all others of its ruleset: IPv4's identification.
    pub id: u16,
    /// Who sends it.
    pub sender: Sender,
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// The source's hardware address, on a wire.
    pub mac: [u8; 6],
    /// The rest.
    pub body: Body,
}

impl Packet {
    /// Its protocol's number.
    pub fn protocol(&self) -> u8 {
        match self.body {
            Body::Tcp { .. } => 6,
            Body::Udp { .. } => 17,
            Body::Icmp { .. } | Body::Error { .. } => 1,
            Body::Other(protocol) => protocol,
        }
    }

    /// Source and destination port, where it has them.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.body {
            Body::Tcp { ports, .. } | Body::Udp { ports } => Some(ports),
            Body::Icmp { .. } | Body::Error { .. } | Body::Other(_) => None,
        }
    }

    /// Whether the firewall itself is addressed.
    pub fn is_for_box(&self) -> bool {
        [FW_INTRA, FW_INTER].contains(&self.dst)
    }

    /// The answer of whom it was for: `None` where there is none.
    pub fn answer(&self, id: u16) -> Option<Packet> {
        let body = match &self.body {
            Body::Tcp {
                ports,
                flags,
                numbers,
            } if *flags == flag::SYN => Body::Tcp {
                ports: (ports.1, ports.0),
                flags: flag::SYN | flag::ACK,
                numbers: (numbers.0 ^ 0x5555, numbers.0 + 1),
            },
            Body::Udp { ports } => Body::Udp {
                ports: (ports.1, ports.0),
            },
            Body::Icmp { kind: (8, 0), id } => Body::Icmp {
                kind: (0, 0),
                id: *id,
            },
            _ => return None,
        };
        Some(self.turned(id, body))
    }

    /// An error of whom it was for, about it.
    pub fn error(&self, id: u16, kind: (u8, u8)) -> Packet {
        let about = Box::new(self.clone());
        self.turned(id, Body::Error { kind, about })
    }

    /// What the sender sends next, once answered.
    pub fn next(&self, id: u16) -> Packet {
        let body = match &self.body {
            Body::Tcp { ports, numbers, .. } => Body::Tcp {
                ports: *ports,
                flags: flag::ACK,
                numbers: (numbers.0 + 1, (numbers.0 ^ 0x5555) + 1),
            },
            other => other.clone(),
        };
        Packet {
            id,
            body,
            ..self.clone()
        }
    }

    fn turned(&self, id: u16, body: Body) -> Packet {
        let sender = match self.sender {
            Sender::Box => Sender::Wire(Side::of(self.dst)),
            Sender::Wire(_) => Sender::Box,
        };
        Packet {
            id,
            sender,
            src: self.dst,
            dst: self.src,
            mac: self.mac,
            body,
        }
    }

    /// From the IPv4 header on.
    pub fn bytes(&self) -> Vec<u8> {
        let above = self.above();
        let len = u16::try_from(above.len()).unwrap_or(u16::MAX);
        let protocol = IpNumber(self.protocol());
        let (src, dst) = (self.src.octets(), self.dst.octets());
        let mut header = Ipv4Header::new(len, 64, protocol, src, dst).unwrap_or_default();
        header.identification = self.id;
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(above);
        bytes
    }

    /// A whole frame.
    pub fn frame(&self, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        let mut frame = [to, from].concat();
        frame.extend([8, 0]);
        frame.extend(self.bytes());
        frame
    }

    /// What is above IPv4.
    pub fn above(&self) -> Vec<u8> {
        const PAYLOAD: &[u8] = b"differential";
        let mut bytes = Vec::new();
        let mut transport = match &self.body {
            Body::Tcp {
                ports,
                flags,
                numbers,
            } => TransportHeader::Tcp(segment(*ports, *flags, *numbers)),
            Body::Udp { ports } => TransportHeader::Udp(UdpHeader {
                source_port: ports.0,
                destination_port: ports.1,
                length: 8 + PAYLOAD.len() as u16,
                checksum: 0,
            }),
            Body::Icmp { kind, id } => return icmp(*kind, *id, PAYLOAD),
            Body::Error { kind, about } => {
                let about = about.bytes();
                return icmp(*kind, 0, about.get(..28).unwrap_or(&about));
            }
            Body::Other(_) => return PAYLOAD.to_vec(),
        };
        let payload = match self.body {
            Body::Udp { .. } => PAYLOAD,
            _ => &[],
        };
        let (src, dst) = (self.src.octets(), self.dst.octets());
        let header = Ipv4Header::new(0, 64, IpNumber(self.protocol()), src, dst);
        let header = header.unwrap_or_default();
        // Both only fail for payloads that no packet can hold.
        drop(transport.update_checksum_ipv4(&header, payload));
        drop(transport.write(&mut bytes));
        bytes.extend(payload);
        bytes
    }
}

fn segment(ports: (u16, u16), flags: u8, numbers: (u32, u32)) -> TcpHeader {
    let has = |bit| flags & bit != 0;
    let mut tcp = TcpHeader::new(ports.0, ports.1, numbers.0, 0x4000);
    tcp.acknowledgment_number = if has(flag::ACK) { numbers.1 } else { 0 };
    tcp.fin = has(flag::FIN);
    tcp.syn = has(flag::SYN);
    tcp.rst = has(flag::RST);
    tcp.psh = has(flag::PSH);
    tcp.ack = has(flag::ACK);
    tcp.urg = has(flag::URG);
    tcp
}

fn icmp(kind: (u8, u8), id: u16, rest: &[u8]) -> Vec<u8> {
    let [hi, lo] = id.to_be_bytes();
    let mut bytes = vec![kind.0, kind.1, 0, 0, hi, lo, 0, 1];
    if !matches!(kind.0, 0 | 8 | 13..=18) {
        bytes[4..].fill(0);
    }
    bytes.extend(rest);
    let sum = !checksum::sum(&[&bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketHeaders, TransportHeader};

    fn packet(body: Body) -> Packet {
        Packet {
            id: 77,
            sender: Sender::Wire(Side::Intra),
            src: [192, 168, 1, 10].into(),
            dst: FW_INTRA,
            mac: [2; 6],
            body,
        }
    }

    #[test]
    fn bytes_are_what_another_parser_reads() {
        let tcp = packet(Body::Tcp {
            ports: (1000, 80),
            flags: flag::SYN | flag::URG,
            numbers: (9, 0),
        });
        let frame = tcp.frame([1; 6], [2; 6]);
        let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(TransportHeader::Tcp(header)) = read.transport else {
            panic!("no TCP");
        };
        assert_eq!((header.source_port, header.destination_port), (1000, 80));
        assert!(header.syn && header.urg && !header.ack);
        let ip = Ipv4Header::from_slice(&frame[14..]).unwrap().0;
        assert_eq!(ip.identification, 77);
        assert_eq!(
            header.calc_checksum_ipv4(&ip, &[]).unwrap(),
            header.checksum
        );
        assert_eq!(checksum::sum(&[&frame[14..34]]), 0xffff);
    }

    #[test]
    fn an_answer_goes_back() {
        let question = packet(Body::Icmp {
            kind: (8, 0),
            id: 5,
        });
        let answer = question.answer(78).unwrap();
        assert_eq!((answer.src, answer.dst), (question.dst, question.src));
        assert_eq!(answer.sender, Sender::Box);
        assert_eq!(
            answer.body,
            Body::Icmp {
                kind: (0, 0),
                id: 5
            }
        );
        let error = question.error(79, (3, 3));
        assert_eq!(checksum::sum(&[&error.bytes()[20..]]), 0xffff);
    }
}
