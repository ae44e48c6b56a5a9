//! What is looked at of packets and rules to bring them together.

use crate::{Packet, PortId};

/// Which bits of a packet a key holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Shape {
    /// Leading bits of the source address.
    pub(crate) source: u8,
    /// Leading bits of the destination address.
    pub(crate) destination: u8,
    /// Leading bits of the source port.
    pub(crate) source_port: u8,
    /// Leading bits of the destination port.
    pub(crate) destination_port: u8,
    /// All of the protocol.
    pub(crate) proto: bool,
    /// The ingress port.
    pub(crate) in_port: bool,
    pub(crate) extra: Extra,
}

/// What else a key may hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Extra {
    None,
    Mac,
    Mark,
}

/// The bits of a shape, of one packet or of one rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    /// Source and destination address.
    addrs: u64,
    /// Ports, protocol and ingress port.
    rest: u64,
    extra: u64,
}

const PROTO: u64 = 0xff << 16;
/// A port and a bit that says there is one.
const IN_PORT: u64 = 0x1ff;
pub(crate) const THERE: u64 = 1 << 63;

const fn leading(bits: u8, of: u32) -> u64 {
    let all = (1u64 << of) - 1;
    all & !(all >> bits)
}

pub(crate) const fn in_port_bits(port: PortId) -> u64 {
    0x100 | port.0 as u64
}

pub(crate) const fn mac_bits(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    THERE | u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// What a shape leaves of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    addrs: u64,
    rest: u64,
    extra: Extra,
    /// Later fragments have no such bits.
    pub(crate) has_ports: bool,
}

impl Shape {
    pub(crate) fn mask(self) -> Mask {
        let ports = leading(self.source_port, 16) << 48 | leading(self.destination_port, 16) << 32;
        let proto = if self.proto { PROTO } else { 0 };
        let in_port = if self.in_port { IN_PORT } else { 0 };
        Mask {
            addrs: leading(self.source, 32) << 32 | leading(self.destination, 32),
            rest: ports | proto | in_port,
            extra: self.extra,
            has_ports: ports != 0,
        }
    }
}

/// All of a packet that keys can hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    addrs: u64,
    rest: u64,
    mac: u64,
    mark: u64,
}

impl Whole {
    #[inline]
    pub(crate) fn of(packet: &Packet) -> Self {
        let tuple = &packet.tuple;
        let (source, destination) = packet.ports();
        Self {
            addrs: u64::from(tuple.src.addr.to_bits()) << 32 | u64::from(tuple.dst.addr.to_bits()),
            rest: u64::from(source) << 48
                | u64::from(destination) << 32
                | u64::from(tuple.proto.0) << 16
                | packet.in_port.map_or(0, in_port_bits),
            mac: packet.source_mac.map_or(0, mac_bits),
            mark: THERE | u64::from(packet.mark),
        }
    }

    #[inline]
    pub(crate) const fn under(&self, mask: &Mask) -> Key {
        Key {
            addrs: self.addrs & mask.addrs,
            rest: self.rest & mask.rest,
            extra: match mask.extra {
                Extra::None => 0,
                Extra::Mac => self.mac,
                Extra::Mark => self.mark,
            },
        }
    }

    pub(crate) const fn source(&self) -> u32 {
        (self.addrs >> 32) as u32
    }

    pub(crate) const fn destination(&self) -> u32 {
        self.addrs as u32
    }

    pub(crate) const fn destination_port(&self) -> u32 {
        (self.rest >> 32) as u32 & 0xffff
    }
}

impl Key {
    pub(crate) const fn source(&self) -> u32 {
        (self.addrs >> 32) as u32
    }

    pub(crate) const fn destination(&self) -> u32 {
        self.addrs as u32
    }

    pub(crate) const fn destination_port(&self) -> u32 {
        (self.rest >> 32) as u32 & 0xffff
    }
}

impl Key {
    /// The key of a rule, from prefixes of its addresses and ports.
    pub(crate) fn new(
        addrs: [u32; 2],
        ports: [u32; 2],
        proto: Option<u8>,
        in_port: Option<PortId>,
        extra: u64,
    ) -> Self {
        let [source, destination] = addrs.map(u64::from);
        let [from, to] = ports.map(u64::from);
        Self {
            addrs: source << 32 | destination,
            rest: from << 48
                | to << 32
                | proto.map_or(0, |proto| u64::from(proto) << 16)
                | in_port.map_or(0, in_port_bits),
            extra,
        }
    }
}
