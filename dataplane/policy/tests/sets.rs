//! Sets against lists that are read from end to end, with ipset's meaning.

use std::net::Ipv4Addr;

use policy::{End, IpSet, NetworkEntry, Packet, PortEntry, PortId, SetEntries};
use proptest::collection::vec;
use proptest::prelude::*;
use wire::{Endpoint, Protocol, Tuple};

fn addr() -> impl Strategy<Value = Ipv4Addr> {
    (0..3u8, 0..9u8).prop_map(|(c, d)| Ipv4Addr::new(10, 0, c, d))
}

fn network() -> impl Strategy<Value = NetworkEntry> {
    let bits = prop_oneof![Just(0), 20..=32u8, Just(40)];
    (addr(), bits, any::<bool>()).prop_map(|(addr, bits, nomatch)| NetworkEntry {
        addr,
        bits,
        nomatch,
    })
}

fn proto() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::TCP),
        Just(Protocol::UDP),
        Just(Protocol::ICMP),
        Just(Protocol(47))
    ]
}

fn port() -> impl Strategy<Value = PortEntry> {
    (proto(), 0..4u16).prop_map(|(proto, port)| PortEntry { proto, port })
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Source), Just(End::Destination)]
}

fn packet() -> impl Strategy<Value = Packet> {
    let ends = (addr(), 0..4u16, addr(), 0..4u16);
    (proto(), ends, 0..4u8, 0..8u8).prop_map(|(proto, (src, sport, dst, dport), code, odd)| {
        let (src, dst) = (Endpoint::new(src, sport), Endpoint::new(dst, dport));
        let is_tail = odd == 0;
        Packet {
            is_tail,
            icmp: (proto == Protocol::ICMP && !is_tail).then_some((0, code)),
            ..Packet::first(PortId(0), Tuple { proto, src, dst })
        }
    })
}

fn addr_of(packet: &Packet, end: End) -> u32 {
    match end {
        End::Source => packet.tuple.src.addr.to_bits(),
        End::Destination => packet.tuple.dst.addr.to_bits(),
    }
}

/// Protocol and port as ipset reads them, where there are any.
fn port_of(packet: &Packet, end: End) -> Option<PortEntry> {
    let proto = packet.tuple.proto;
    let port = match (proto, end) {
        (Protocol(47), _) => 0,
        _ if packet.is_tail => return None,
        (Protocol::ICMP, _) => u16::from(packet.icmp?.1),
        (_, End::Source) => packet.tuple.src.port,
        (_, End::Destination) => packet.tuple.dst.port,
    };
    Some(PortEntry { proto, port })
}

fn mask(bits: u8) -> u32 {
    (0..bits.min(32)).fold(0, |mask, bit| mask | 1 << (31 - bit))
}

/// The longest prefix decides, and of the same prefix the last entry.
fn longest(entries: impl Iterator<Item = NetworkEntry>, addr: u32) -> bool {
    let holds = |e: &NetworkEntry| (addr ^ e.addr.to_bits()) & mask(e.bits) == 0;
    let found = entries.filter(holds).max_by_key(|e| e.bits.min(32));
    found.is_some_and(|e| !e.nomatch)
}

/// Most of the ports here are 0 where a protocol has none.
fn with_ports(packet: Packet) -> Packet {
    let mut packet = packet;
    if packet.tuple.proto == Protocol(47) || packet.is_tail {
        packet.tuple.src.port = 0;
        packet.tuple.dst.port = 0;
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn addresses(entries in vec(addr(), 0..20), bits in 0..=33u8, p in packet(), by in vec(end(), 0..3)) {
        let set = IpSet::new(SetEntries::Addresses { bits, entries: entries.clone() });
        let expected = by.first().is_some_and(|end| {
            entries.iter().any(|e| (e.to_bits() ^ addr_of(&p, *end)) & mask(bits) == 0)
        });
        prop_assert_eq!(set.contains(&by, &p), expected);
    }

    #[test]
    fn networks(entries in vec(network(), 0..20), p in packet(), by in vec(end(), 0..3)) {
        let set = IpSet::new(SetEntries::Networks(entries.clone()));
        let expected = by.first().is_some_and(|end| longest(entries.iter().copied(), addr_of(&p, *end)));
        prop_assert_eq!(set.contains(&by, &p), expected);
    }

    #[test]
    fn address_ports(entries in vec((addr(), port()), 0..60), p in packet(), by in vec(end(), 0..3)) {
        let p = with_ports(p);
        let set = IpSet::new(SetEntries::AddressPorts(entries.clone()));
        let expected = match by.as_slice() {
            [end, at, ..] => port_of(&p, *at).is_some_and(|port| {
                entries.iter().any(|(a, e)| a.to_bits() == addr_of(&p, *end) && *e == port)
            }),
            _ => false,
        };
        prop_assert_eq!(set.contains(&by, &p), expected);
    }

    #[test]
    fn network_ports(entries in vec((network(), port()), 0..30), p in packet(), by in vec(end(), 0..3)) {
        let p = with_ports(p);
        let set = IpSet::new(SetEntries::NetworkPorts(entries.clone()));
        let expected = match by.as_slice() {
            [end, at, ..] => port_of(&p, *at).is_some_and(|port| {
                let same = entries.iter().filter(|(_, e)| *e == port).map(|(n, _)| *n);
                longest(same, addr_of(&p, *end))
            }),
            _ => false,
        };
        prop_assert_eq!(set.contains(&by, &p), expected);
    }

    #[test]
    fn ports(entries in vec(prop_oneof![0..4u16, 60..70u16, Just(u16::MAX)], 0..4), p in packet(), by in vec(end(), 0..3)) {
        let set = IpSet::new(SetEntries::Ports(entries.clone()));
        let expected = by.first().and_then(|end| port_of(&p, *end)).is_some_and(|port| {
            [Protocol::TCP, Protocol::UDP].contains(&port.proto) && entries.contains(&port.port)
        });
        prop_assert_eq!(set.contains(&by, &p), expected);
    }
}

#[test]
fn the_last_port_is_in_a_set_that_names_it() {
    let set = IpSet::new(SetEntries::Ports(vec![u16::MAX]));
    let at = |port| {
        let end = |port| Endpoint::new(Ipv4Addr::LOCALHOST, port);
        let tuple = Tuple {
            proto: Protocol::UDP,
            src: end(1),
            dst: end(port),
        };
        set.contains(&[End::Destination], &Packet::first(PortId(0), tuple))
    };
    assert!(at(u16::MAX) && !at(u16::MAX - 1) && !at(0));
}

#[test]
fn a_set_knows_how_many_ends_a_rule_must_name() {
    let all = [
        (
            SetEntries::Addresses {
                bits: 32,
                entries: vec![],
            },
            1,
        ),
        (SetEntries::Networks(vec![]), 1),
        (SetEntries::AddressPorts(vec![]), 2),
        (SetEntries::NetworkPorts(vec![]), 2),
        (SetEntries::Ports(vec![]), 1),
    ];
    for (entries, dimensions) in all {
        assert_eq!(entries.dimensions(), dimensions);
        assert_eq!(IpSet::new(entries).dimensions(), dimensions);
    }
}
