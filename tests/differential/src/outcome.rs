//! What became of a packet, and how to see that from what came out.

use std::net::Ipv4Addr;

use etherparse::{IpSlice, Ipv4Slice};

use crate::packet::{Body, Packet, Side};

/// How a packet was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// ICMP destination unreachable with this code.
    Unreachable(u8),
    /// A TCP reset.
    Reset,
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It reached the box.
    Delivered,
    /// It left by a side.
    Left(Side),
    /// A nat target took it: the one with this number.
    Translated(u16),
    /// Its sender was told that it shall not.
    Refused(Refusal),
    /// Nobody heard of it.
    Gone,
}

/// The address to which, or from which, the nat target of a number translates.
pub fn nat_address(number: u16, is_source: bool) -> Ipv4Addr {
    Ipv4Addr::new(10, if is_source { 78 } else { 77 }, number as u8, 1)
}

/// The first port to which nat targets translate that do not choose the address.
pub const NAT_PORTS: u16 = 61_000;
/// How many of them each has: two connections must not need the same one.
pub const NAT_PORTS_EACH: u16 = 20;

/// A packet that came out somewhere, from its IPv4 header on.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Source and destination.
    pub addresses: (Ipv4Addr, Ipv4Addr),
    /// IPv4's identification.
    pub id: u16,
    /// The protocol's number.
    pub protocol: u8,
    /// What is above IPv4.
    pub above: Vec<u8>,
}

impl Seen {
    /// Reads one; `None` for what is no IPv4.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let ip = Ipv4Slice::from_slice(bytes).ok()?;
        let header = ip.header();
        Some(Seen {
            addresses: (header.source_addr(), header.destination_addr()),
            id: header.identification(),
            protocol: header.protocol().0,
            above: IpSlice::Ipv4(ip).payload().payload.to_vec(),
        })
    }

    fn ports(&self) -> Option<(u16, u16)> {
        let [a, b, c, d] = *self.above.first_chunk()?;
        let pair = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        matches!(self.protocol, 6 | 17).then_some(pair)
    }

    /// Whether this is `packet`, perhaps translated.
    pub fn is(&self, packet: &Packet) -> bool {
        let (src, dst) = self.addresses;
        let is_same_way = src == packet.src || dst == packet.dst;
        let is_same = self.id == packet.id && self.protocol == packet.protocol() && is_same_way;
        // An error of the kernel's may have any number.
        let sent = packet.above();
        let is_message = self.above.len() == sent.len() && self.above.get(..2) == sent.get(..2);
        is_same && (self.protocol != 1 || is_message)
    }

    /// The number of the nat target that translated `packet` into this.
    pub fn translation(&self, packet: &Packet) -> Option<u16> {
        let (src, dst) = self.addresses;
        let of = |address: Ipv4Addr| u16::from(address.octets()[2]);
        if dst != packet.dst && dst.octets().starts_with(&[10, 77]) {
            return Some(of(dst));
        }
        if src != packet.src && src.octets().starts_with(&[10, 78]) {
            return Some(of(src));
        }
        let (before, after) = (packet.ports()?, self.ports()?);
        let changed = [(before.0, after.0), (before.1, after.1)];
        let mut changed = changed
            .into_iter()
            .filter(|(before, after)| before != after);
        changed
            .next()
            .map(|(_, after)| after.wrapping_sub(NAT_PORTS) / NAT_PORTS_EACH)
    }

    /// How this refuses `packet`, if it does.
    pub fn refusal(&self, packet: &Packet) -> Option<Refusal> {
        if self.addresses.1 != packet.src {
            return None;
        }
        if let [3, code, _, _, _, _, _, _, about @ ..] = self.above.as_slice()
            && self.protocol == 1
        {
            let about = about.get(4..6).and_then(|id| id.first_chunk())?;
            let is_about = u16::from_be_bytes(*about) == packet.id;
            // The sender's own error about something else has its number at the same place.
            let is_own = self.is(packet) && matches!(packet.body, Body::Error { .. });
            return (is_about && !is_own).then_some(Refusal::Unreachable(*code));
        }
        let is_reset = self.protocol == 6 && self.above.get(13).is_some_and(|f| f & 4 != 0);
        let (sport, dport) = packet.ports()?;
        let is_back = self.ports() == Some((dport, sport)) && self.addresses.0 == packet.dst;
        (is_reset && is_back && packet.protocol() == 6).then_some(Refusal::Reset)
    }
}
