//! The addresses that the box answers to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};

use crate::{Error, Netlink};

/// An IPv4 address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address4 {
    /// The box's own address.
    pub addr: Ipv4Addr,
    /// The length of its network's prefix.
    pub prefix_len: u8,
    /// The broadcast address that was given with it.
    pub broadcast: Option<Ipv4Addr>,
    /// Whether another address of the same network comes before it.
    pub secondary: bool,
}

/// An IPv6 address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address6 {
    /// The box's own address.
    pub addr: Ipv6Addr,
    /// The length of its network's prefix.
    pub prefix_len: u8,
}

/// What an IPv4 address of the box is to a sender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Own4 {
    /// The box alone.
    Unicast,
    /// All of a network that the box is in.
    Broadcast,
}

/// All addresses of all interfaces of this network namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// By interface index, in the kernel's order: the first is the primary one.
    pub v4: BTreeMap<u32, Vec<Address4>>,
    /// By interface index, in the kernel's order.
    pub v6: BTreeMap<u32, Vec<Address6>>,
}

impl Addresses {
    /// The first address of an interface: where a redirect without an address goes.
    pub fn primary4(&self, ifindex: u32) -> Option<Ipv4Addr> {
        self.v4.get(&ifindex)?.first().map(|address| address.addr)
    }

    /// Every IPv4 address that the box takes packets for, without 127.0.0.0/8. An address that is
    /// one network's broadcast and the box's own somewhere else counts as its own.
    pub fn own_v4(&self) -> BTreeMap<Ipv4Addr, Own4> {
        let addresses = || {
            self.v4
                .values()
                .flatten()
                .filter(|address| !address.addr.is_loopback())
        };
        let mut own: BTreeMap<Ipv4Addr, Own4> = addresses()
            .flat_map(Address4::broadcasts)
            .map(|broadcast| (broadcast, Own4::Broadcast))
            .collect();
        own.extend(addresses().map(|address| (address.addr, Own4::Unicast)));
        own
    }

    /// The broadcast addresses of the box's networks.
    pub fn broadcasts_v4(&self) -> BTreeSet<Ipv4Addr> {
        self.own_v4()
            .into_iter()
            .filter(|(_, own)| *own == Own4::Broadcast)
            .map(|(addr, _)| addr)
            .collect()
    }

    /// Every IPv6 address that the box takes packets for, without ::1.
    pub fn own_v6(&self) -> BTreeSet<Ipv6Addr> {
        self.v6
            .values()
            .flatten()
            .map(|address| address.addr)
            .filter(|addr| !addr.is_loopback())
            .collect()
    }

    fn add(&mut self, message: AddressMessage) {
        let (mut local, mut remote, mut broadcast) = (None, None, None);
        let mut secondary = message.header.flags.contains(AddressHeaderFlags::Secondary);
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(addr) => local = Some(addr),
                AddressAttribute::Address(addr) => remote = Some(addr),
                AddressAttribute::Broadcast(addr) => broadcast = Some(addr),
                AddressAttribute::Flags(flags) => {
                    secondary |= flags.contains(AddressFlags::Secondary);
                }
                _ => {}
            }
        }
        let ifindex = message.header.index;
        let prefix_len = message.header.prefix_len;
        // On a point-to-point link ADDRESS is the far end and only LOCAL is the box's own.
        match local.or(remote) {
            Some(IpAddr::V4(addr)) => self.v4.entry(ifindex).or_default().push(Address4 {
                addr,
                prefix_len,
                broadcast,
                secondary,
            }),
            Some(IpAddr::V6(addr)) => self
                .v6
                .entry(ifindex)
                .or_default()
                .push(Address6 { addr, prefix_len }),
            None => {}
        }
    }
}

impl Address4 {
    /// What the kernel takes as broadcast because of this address: the address given with it, and
    /// the last one of its network.
    fn broadcasts(&self) -> impl Iterator<Item = Ipv4Addr> {
        let last = (self.prefix_len < 31).then(|| {
            let host_bits = u32::MAX.checked_shr(self.prefix_len.into()).unwrap_or(0);
            Ipv4Addr::from_bits(self.addr.to_bits() | host_bits)
        });
        [self.broadcast, last]
            .into_iter()
            .flatten()
            .filter(|addr| !addr.is_unspecified() && !addr.is_broadcast())
    }
}

impl Netlink {
    /// Reads all addresses.
    pub async fn addresses(&self) -> Result<Addresses, Error> {
        let mut stream = self.route.address().get().execute();
        let mut addresses = Addresses::default();
        loop {
            match stream.try_next().await {
                Ok(Some(message)) if message.header.family == AddressFamily::Unspec => {}
                Ok(Some(message)) => addresses.add(message),
                Ok(None) => return Ok(addresses),
                Err(error) => return Err(Error::route("list the addresses", error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(addr: [u8; 4], prefix_len: u8, broadcast: Option<[u8; 4]>) -> Address4 {
        Address4 {
            addr: addr.into(),
            prefix_len,
            broadcast: broadcast.map(Into::into),
            secondary: false,
        }
    }

    #[test]
    fn broadcasts_are_the_given_and_the_last() {
        let of = |a: Address4| a.broadcasts().map(|b| b.octets()).collect::<Vec<_>>();
        assert_eq!(of(address([10, 0, 0, 1], 24, None)), [[10, 0, 0, 255]]);
        assert_eq!(
            of(address([10, 0, 0, 1], 24, Some([10, 0, 0, 200]))),
            [[10, 0, 0, 200], [10, 0, 0, 255]]
        );
        assert!(of(address([10, 0, 0, 1], 31, None)).is_empty());
        assert!(of(address([10, 0, 0, 1], 32, Some([0, 0, 0, 0]))).is_empty());
        assert!(of(address([10, 0, 0, 1], 0, None)).is_empty());
    }

    #[test]
    fn own_beats_broadcast_and_loopback_is_left_out() {
        let mut addresses = Addresses::default();
        addresses
            .v4
            .insert(1, vec![address([127, 0, 0, 1], 8, None)]);
        addresses
            .v4
            .insert(2, vec![address([10, 0, 0, 1], 24, None)]);
        addresses
            .v4
            .insert(3, vec![address([10, 0, 0, 255], 32, None)]);
        let own: Vec<_> = addresses.own_v4().into_iter().collect();
        assert_eq!(
            own,
            [
                ([10, 0, 0, 1].into(), Own4::Unicast),
                ([10, 0, 0, 255].into(), Own4::Unicast)
            ]
        );
    }
}
