//! The records that the programs read, as types and as bytes. Each layout is
//! that of its twin in bpf/shared.h; the loader compares the sizes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use crate::Error;
use crate::host::Delivery;
use crate::port::PortConfig;
use crate::xdp::Mode;

/// A hardware address.
pub type Mac = [u8; 6];

/// Most ranges of one address.
pub const MAX_TAKEN: usize = 32;
/// Most management entries.
pub const MAX_MANAGEMENT: usize = 64;
/// Most own addresses, of each family.
pub const MAX_ADDRESSES: usize = 1024;

/// Most owner tests of a guard: a frame's mark has a bit for each.
pub const MAX_OWNERS: usize = 7;

pub(crate) const PORT_CONFIG_BYTES: usize = 52;
pub(crate) const HOST_CONFIG_BYTES: usize = 8;
pub(crate) const TAKEN_BYTES: usize = 4 + MAX_TAKEN * 8;
pub(crate) const MANAGEMENT_BYTES: usize = 4 + MAX_MANAGEMENT * 16;
/// The epoch's bit in a mark.
const EPOCH: u32 = 0x80;
pub(crate) const GUARD_BYTES: usize = 12 + MAX_OWNERS * 8;
pub(crate) const DELIVERY_BYTES: usize = 20;
pub(crate) const ENDPOINT_BYTES: usize = 8;

/// Which packets of a taken range are diverted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// Those to it, as they arrive.
    Inbound,
    /// Those from it, as they leave.
    Outbound,
    /// Both.
    Both,
}

/// A protocol and ports of an own address that the dataplane takes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Taken {
    /// The IP protocol number; 0 for any.
    pub proto: u8,
    /// The ports. A protocol without ports counts as port 0.
    pub ports: RangeInclusive<u16>,
    /// Which packets.
    pub direction: Direction,
}

/// Traffic of the box itself that always passes natively, daemon alive or not.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Management {
    /// The network that it comes from.
    pub network: Ipv4Addr,
    /// The length of the network's prefix, 0 to 32.
    pub prefix_len: u8,
    /// The IP protocol number; 0 for any.
    pub proto: u8,
    /// The box's ports. A protocol without ports counts as port 0.
    pub ports: RangeInclusive<u16>,
}

/// Whether rules stand about what the box itself receives and sends.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Guard {
    /// Whether all IPv4 to and from own addresses and to groups is diverted, not only what is
    /// taken.
    pub on: bool,
    /// Users that the rules tell apart, at most [`MAX_OWNERS`] ranges. The mark of what is
    /// diverted on its way out has bit n set if its sender's user is in range n, guard or not.
    pub owners: Vec<RangeInclusive<u32>>,
    /// Changes with `owners`, and is bit 7 in the same byte of a mark: who reads the mark knows which
    /// users were asked about.
    pub epoch: bool,
}

impl Direction {
    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::Inbound => 1,
            Self::Outbound => 2,
            Self::Both => 3,
        }
    }
}

/// Port 0: the marker of this address and protocol.
pub(crate) fn endpoint(proto: u8, at: SocketAddrV4) -> Vec<u8> {
    Bytes(Vec::new())
        .raw(&at.ip().octets())
        .u16(at.port())
        .raw(&[proto])
        .padded(ENDPOINT_BYTES)
}

/// Appends fields in the kernel's byte order for the machine.
struct Bytes(Vec<u8>);

impl Bytes {
    fn with_count(count: usize) -> Self {
        Self(Vec::new()).u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(self, value: u16) -> Self {
        self.raw(&value.to_ne_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.raw(&value.to_ne_bytes())
    }

    fn padded(mut self, len: usize) -> Vec<u8> {
        self.0.resize(len, 0);
        self.0
    }
}

pub(crate) fn port_config(config: &PortConfig) -> Vec<u8> {
    Bytes(Vec::new())
        .raw(&config.mac)
        .raw(&config.from_wire)
        .raw(&config.from_stack)
        .raw(&config.reinjected)
        .raw(&config.from_stranger)
        .raw(&config.from_box)
        .u32(config.host_ifindex)
        .u32(config.max_frame_bytes)
        .u32(config.open.into())
        .u32((config.mode == Mode::Generic).into())
        .padded(PORT_CONFIG_BYTES)
}

pub(crate) fn host_config(to_stack: [u8; 5]) -> Vec<u8> {
    Bytes(Vec::new()).raw(&to_stack).padded(HOST_CONFIG_BYTES)
}

pub(crate) fn delivery(port: &Delivery) -> Vec<u8> {
    Bytes(Vec::new())
        .u32(port.ifindex)
        .u32(port.reinjected.is_some().into())
        .raw(&port.mac)
        .raw(&port.reinjected.unwrap_or_default())
        .padded(DELIVERY_BYTES)
}

pub(crate) fn taken(addr: Ipv4Addr, ranges: &[Taken]) -> Result<Vec<u8>, Error> {
    limit(
        || format!("taken port ranges of {addr}"),
        ranges.len(),
        MAX_TAKEN,
    )?;
    let mut bytes = Bytes::with_count(ranges.len());
    for range in ranges {
        bytes = bytes
            .raw(&[range.proto, range.direction.bits()])
            .u16(*range.ports.start())
            .u16(*range.ports.end())
            .u16(0);
    }
    Ok(bytes.padded(TAKEN_BYTES))
}

pub(crate) fn management(entries: &[Management]) -> Result<Vec<u8>, Error> {
    limit(
        || "management entries".into(),
        entries.len(),
        MAX_MANAGEMENT,
    )?;
    let mut bytes = Bytes::with_count(entries.len());
    for entry in entries {
        let mask = mask(entry)?;
        bytes = bytes
            .raw(&(entry.network.to_bits() & mask).to_be_bytes())
            .raw(&mask.to_be_bytes())
            .u16(*entry.ports.start())
            .u16(*entry.ports.end())
            .raw(&[entry.proto, 0, 0, 0]);
    }
    Ok(bytes.padded(MANAGEMENT_BYTES))
}

pub(crate) fn guard(guard: &Guard) -> Result<Vec<u8>, Error> {
    limit(
        || "users that rules tell apart (-m owner)".into(),
        guard.owners.len(),
        MAX_OWNERS,
    )?;
    let count = u32::try_from(guard.owners.len()).unwrap_or(u32::MAX);
    let mut bytes = Bytes(Vec::new())
        .u32(guard.on.into())
        .u32(count)
        .u32(if guard.epoch { EPOCH } else { 0 });
    for uids in &guard.owners {
        bytes = bytes.u32(*uids.start()).u32(*uids.end());
    }
    Ok(bytes.padded(GUARD_BYTES))
}

fn mask(entry: &Management) -> Result<u32, Error> {
    let Management {
        network,
        prefix_len,
        ..
    } = entry;
    match prefix_len {
        0 => Ok(0),
        1..=32 => Ok(u32::MAX << (32 - prefix_len)),
        _ => Err(Error::Invalid {
            what: format!("management network {network}/{prefix_len}: a prefix has 0 to 32 bits"),
        }),
    }
}

/// Refuses more than fits.
pub(crate) fn limit(what: impl FnOnce() -> String, asked: usize, most: usize) -> Result<(), Error> {
    if asked > most {
        return Err(Error::TooMany {
            what: what(),
            asked,
            most,
        });
    }
    Ok(())
}
