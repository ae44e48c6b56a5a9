//! Sets of addresses, networks and ports, with the meaning that ipset gives them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use hashbrown::{HashMap, HashSet};
use wire::Protocol;

use crate::{End, Network, Packet};

/// An entry of a set of networks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NetworkEntry {
    /// The network.
    pub addr: Ipv4Addr,
    /// Its prefix length; more than 32 counts as 32.
    pub bits: u8,
    /// It is an exception: what it holds is not in the set.
    pub nomatch: bool,
}

/// A protocol and a port; of ICMP, type and code: `type << 8 | code`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortEntry {
    /// The protocol.
    pub proto: Protocol,
    /// The port; 0 where the protocol has none.
    pub port: u16,
}

/// What a set is of, and what is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SetEntries {
    /// `hash:ip`.
    Addresses {
        /// How many leading bits of an address count: 32, unless the set has a `netmask`.
        bits: u8,
        /// The addresses.
        entries: Vec<Ipv4Addr>,
    },
    /// `hash:net`: the longest prefix decides.
    Networks(Vec<NetworkEntry>),
    /// `hash:ip,port`.
    AddressPorts(Vec<(Ipv4Addr, PortEntry)>),
    /// `hash:net,port`: of one protocol and port, the longest prefix decides.
    NetworkPorts(Vec<(NetworkEntry, PortEntry)>),
    /// `bitmap:port`, of TCP and UDP alike.
    Ports(Vec<u16>),
}

impl SetEntries {
    /// How many ends a rule must name.
    #[must_use]
    pub const fn dimensions(&self) -> usize {
        match self {
            Self::Addresses { .. } | Self::Networks(_) | Self::Ports(_) => 1,
            Self::AddressPorts(_) | Self::NetworkPorts(_) => 2,
        }
    }
}

/// A set, ready to be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IpSet(Held);

/// For each prefix length, the longest first, the entries and whether they match.
type Levels<K> = Vec<(u32, HashMap<K, bool>)>;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Held {
    Addresses { mask: u32, entries: HashSet<u32> },
    Networks(Levels<u32>),
    AddressPorts(HashSet<(u32, PortEntry)>),
    NetworkPorts(Levels<(u32, PortEntry)>),
    Ports(Box<[u64; 1024]>),
}

impl IpSet {
    /// Makes a set. Of entries that are there twice the last one counts.
    #[must_use]
    pub fn new(entries: SetEntries) -> Self {
        Self(match entries {
            SetEntries::Addresses { bits, entries } => {
                let mask = mask_of(bits);
                let entries = entries.into_iter().map(|addr| addr.to_bits() & mask);
                Held::Addresses {
                    mask,
                    entries: entries.collect(),
                }
            }
            SetEntries::Networks(entries) => {
                Held::Networks(levels(entries.into_iter().map(|e| (e, e.masked()))))
            }
            SetEntries::AddressPorts(entries) => Held::AddressPorts(
                entries
                    .into_iter()
                    .map(|(addr, port)| (addr.to_bits(), port))
                    .collect(),
            ),
            SetEntries::NetworkPorts(entries) => Held::NetworkPorts(levels(
                entries.into_iter().map(|(e, port)| (e, (e.masked(), port))),
            )),
            SetEntries::Ports(entries) => {
                let mut words = Box::new([0u64; 1024]);
                for port in entries {
                    if let Some(word) = words.get_mut(usize::from(port >> 6)) {
                        *word |= 1 << (port & 63);
                    }
                }
                Held::Ports(words)
            }
        })
    }

    /// How many ends a rule must name.
    #[must_use]
    pub const fn dimensions(&self) -> usize {
        match self.0 {
            Held::Addresses { .. } | Held::Networks(_) | Held::Ports(_) => 1,
            Held::AddressPorts(_) | Held::NetworkPorts(_) => 2,
        }
    }

    /// Whether a packet is in it, looking at these ends; ends beyond the set's dimensions
    /// are not looked at, and with fewer nothing is in it.
    #[must_use]
    pub fn contains(&self, by: &[End], packet: &Packet) -> bool {
        let addr = |end: End| match end {
            End::Source => packet.tuple.src.addr.to_bits(),
            End::Destination => packet.tuple.dst.addr.to_bits(),
        };
        match (&self.0, by) {
            (Held::Addresses { mask, entries }, &[end, ..]) => {
                entries.contains(&(addr(end) & mask))
            }
            (Held::Networks(levels), &[end, ..]) => {
                let addr = addr(end);
                found(levels, |mask| addr & mask)
            }
            (Held::AddressPorts(entries), &[end, port, ..]) => {
                port_of(port, packet).is_some_and(|port| entries.contains(&(addr(end), port)))
            }
            (Held::NetworkPorts(levels), &[end, port, ..]) => {
                let addr = addr(end);
                port_of(port, packet).is_some_and(|port| found(levels, |mask| (addr & mask, port)))
            }
            (Held::Ports(words), &[end, ..]) => port_of(end, packet)
                .filter(|port| matches!(port.proto, Protocol::TCP | Protocol::UDP))
                .and_then(|port| words.get(usize::from(port.port >> 6)).zip(Some(port.port)))
                .is_some_and(|(word, port)| word >> (port & 63) & 1 != 0),
            _ => false,
        }
    }
}

impl IpSet {
    /// Where it can change whether a TCP endpoint is in the set: for each port that counts,
    /// or for all alike, the first addresses of stretches that are in it or not.
    pub(crate) fn tcp_edges(&self) -> BTreeMap<Option<u16>, Vec<u32>> {
        let mut edges: BTreeMap<Option<u16>, Vec<u32>> = BTreeMap::new();
        let mut network = |port: Option<u16>, first: u32, mask: u32| {
            let of = edges.entry(port).or_default();
            of.push(first);
            of.extend((first | !mask).checked_add(1));
        };
        let tcp = |port: &PortEntry| (port.proto == Protocol::TCP).then_some(Some(port.port));
        match &self.0 {
            Held::Addresses { mask, entries } => {
                entries.iter().for_each(|addr| network(None, *addr, *mask));
            }
            Held::Networks(levels) => {
                for (mask, level) in levels {
                    level.keys().for_each(|addr| network(None, *addr, *mask));
                }
            }
            Held::AddressPorts(entries) => {
                for (addr, port) in entries {
                    tcp(port)
                        .into_iter()
                        .for_each(|port| network(port, *addr, u32::MAX));
                }
            }
            Held::NetworkPorts(levels) => {
                for (mask, level) in levels {
                    for (addr, port) in level.keys() {
                        tcp(port)
                            .into_iter()
                            .for_each(|port| network(port, *addr, *mask));
                    }
                }
            }
            Held::Ports(_) => (0..=u16::MAX).for_each(|port| network(Some(port), 0, 0)),
        }
        edges
    }
}

impl NetworkEntry {
    fn masked(self) -> u32 {
        self.addr.to_bits() & mask_of(self.bits)
    }
}

fn mask_of(bits: u8) -> u32 {
    Network::mask_of(bits.min(32))
}

fn levels<K: Eq + std::hash::Hash>(entries: impl Iterator<Item = (NetworkEntry, K)>) -> Levels<K> {
    let mut levels: Levels<K> = Vec::new();
    for (entry, key) in entries {
        let mask = mask_of(entry.bits);
        let at = match levels.iter().position(|(of, _)| *of == mask) {
            Some(at) => at,
            None => {
                levels.push((mask, HashMap::new()));
                levels.len() - 1
            }
        };
        if let Some((_, level)) = levels.get_mut(at) {
            level.insert(key, !entry.nomatch);
        }
    }
    levels.sort_by_key(|(mask, _)| std::cmp::Reverse(*mask));
    levels
}

#[inline]
fn found<K: Eq + std::hash::Hash>(levels: &Levels<K>, key: impl Fn(u32) -> K) -> bool {
    levels
        .iter()
        .find_map(|(mask, level)| level.get(&key(*mask)).copied())
        .unwrap_or(false)
}

/// The protocol and port of one end; none for what has lost its ports on the way.
fn port_of(end: End, packet: &Packet) -> Option<PortEntry> {
    const UDP_LITE: Protocol = Protocol(136);
    const SCTP: Protocol = Protocol(132);
    let proto = packet.tuple.proto;
    let has_ports = matches!(
        proto,
        Protocol::TCP | Protocol::UDP | Protocol::ICMP | UDP_LITE | SCTP
    );
    if packet.is_tail && has_ports {
        return None;
    }
    let (source, destination) = packet.ports();
    let port = match (proto, end) {
        (Protocol::ICMP, _) => {
            let (kind, code) = packet.icmp?;
            u16::from_be_bytes([kind, code])
        }
        (_, End::Source) => source,
        (_, End::Destination) => destination,
    };
    Some(PortEntry { proto, port })
}
