//! Programs and connections that often meet.

use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use wire::{Endpoint, Protocol};

use super::Opening;
use crate::{
    Action, ChainId, Condition, End, Entry, Hook, IpSet, Network, NetworkEntry, NoListener,
    OwnerTest, PortEntry, PortRange, Program, Quality, RejectWith, Rule, SetEntries, SetId,
    StateSet, Test, Verdict, WIDEST, Which, ZoneId, ZoneSpec, Zones,
};

fn addr() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        8 => (0..3u8, 0..8u8).prop_map(|(c, d)| Ipv4Addr::new(10, 0, c, d)),
        1 => Just(Ipv4Addr::LOCALHOST),
        1 => prop_oneof![Just(Ipv4Addr::UNSPECIFIED), Just(Ipv4Addr::BROADCAST)],
        1 => any::<u32>().prop_map(Ipv4Addr::from_bits),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 78..84u16, 1 => Just(0), 1 => Just(65_535)]
}

fn range() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        6 => (port(), port()).prop_map(|(a, b)| PortRange::new(a, b)),
        1 => Just(WIDEST),
    ]
}

fn prefix() -> impl Strategy<Value = u8> {
    prop_oneof![6 => 28..=32u8, 1 => 0..=32u8]
}

fn asked<T: Clone + std::fmt::Debug>(
    of: impl Strategy<Value = T>,
) -> impl Strategy<Value = Test<T>> {
    (0..8u8, of).prop_map(|(kind, value)| match kind {
        0..4 => Test::Any,
        4..7 => Test::Is(value),
        _ => Test::Not(value),
    })
}

fn network() -> impl Strategy<Value = Network> {
    let odd = (addr(), Just(Ipv4Addr::new(255, 0, 0, 3)));
    prop_oneof![
        6 => (addr(), prefix()).prop_map(|(addr, bits)| Network::of_prefix(addr, bits).unwrap()),
        1 => odd.prop_map(|(addr, mask)| Network::new(addr, mask)),
    ]
}

fn quality() -> impl Strategy<Value = Quality> {
    let ends = prop_oneof![
        Just(vec![End::Destination]),
        Just(vec![End::Destination, End::Destination]),
        Just(vec![]),
    ];
    let low = || 0..4u32;
    prop_oneof![
        2 => (vec(range(), 0..4)).prop_map(|ranges| Quality::Ports { which: Which::Destination, ranges }),
        1 => (addr(), addr()).prop_map(|(a, b)| Quality::DestinationRange(a.min(b)..=a.max(b))),
        2 => (low(), low()).prop_map(|(value, mask)| Quality::Mark { value, mask }),
        4 => (0..5u32, ends).prop_map(|(set, by)| Quality::Set { set: SetId(set), by }),
        2 => (0..4u16).prop_map(|zone| Quality::DestinationZone(ZoneId(zone))),
        3 => (0..3u8).prop_map(Quality::Owner),
        1 => (0..8u8, 0..4u8).prop_map(|(mask, set)| Quality::TcpFlags { mask, set }),
        1 => any::<u16>().prop_map(|states| Quality::State(StateSet(states))),
        1 => prop_oneof![
            Just(Quality::Tail),
            Just(Quality::Tproxy),
            Just(Quality::Mac([0; 6])),
            Just(Quality::Icmp { kind: 255, codes: 0..=255 }),
        ],
    ]
}

fn action(chain: usize, chains: usize) -> impl Strategy<Value = Action> {
    let plain = prop_oneof![
        2 => Just(Action::Count),
        1 => Just(Action::Return),
        1 => Just(Action::Accept),
        1 => Just(Action::Drop),
        1 => Just(Action::Reject(RejectWith::TcpReset)),
        3 => (prop::option::of(addr()), prop::option::of(port()), 0..3u8).prop_map(|(addr, port, kind)| {
            let kinds = [NoListener::Reject, NoListener::Drop, NoListener::Accept];
            Action::Redirect { addr, port, otherwise: kinds[usize::from(kind)] }
        }),
    ];
    (plain, 0..8u8, chain + 1..chains + 1).prop_map(move |(plain, kind, to)| {
        let to = ChainId(to as u32);
        match kind {
            0 | 1 if to.0 < chains as u32 => Action::Jump(to),
            2 if to.0 < chains as u32 => Action::Goto(to),
            _ => plain,
        }
    })
}

fn rule(chain: usize, chains: usize) -> impl Strategy<Value = Rule> {
    let protos = prop_oneof![6 => Just(Protocol::TCP), 1 => Just(Protocol::UDP)];
    let more = (any::<bool>(), quality()).prop_map(|(negated, test)| Condition { negated, test });
    (
        asked(protos),
        asked(network()),
        asked(range()),
        vec(more, 0..3),
        action(chain, chains),
    )
        .prop_map(
            |(proto, destination, destination_ports, more, action)| Rule {
                proto,
                destination,
                destination_ports,
                more,
                action,
                ..Rule::default()
            },
        )
}

fn sets() -> impl Strategy<Value = Vec<IpSet>> {
    let net = || {
        (addr(), prefix(), any::<bool>()).prop_map(|(addr, bits, nomatch)| NetworkEntry {
            addr,
            bits,
            nomatch,
        })
    };
    let protos = || prop_oneof![4 => Just(Protocol::TCP), 1 => Just(Protocol::UDP)];
    let entry = || (protos(), port()).prop_map(|(proto, port)| PortEntry { proto, port });
    (
        (prefix(), vec(addr(), 0..6))
            .prop_map(|(bits, entries)| SetEntries::Addresses { bits, entries }),
        vec(net(), 0..8).prop_map(SetEntries::Networks),
        vec((addr(), entry()), 0..8).prop_map(SetEntries::AddressPorts),
        vec((net(), entry()), 0..8).prop_map(SetEntries::NetworkPorts),
        vec(port(), 0..5).prop_map(SetEntries::Ports),
    )
        .prop_map(|(a, b, c, d, e)| [a, b, c, d, e].map(IpSet::new).to_vec())
}

fn zones() -> impl Strategy<Value = Zones> {
    let networks = || vec((addr(), prefix()), 0..4);
    let parent = |below: usize| prop::option::of(0..below);
    (
        (networks(), networks(), networks(), networks()),
        (parent(1), parent(2), parent(3)),
    )
        .prop_filter_map("two zones with one network", |((a, b, c, d), (x, y, z))| {
            let of = [(a, None), (b, x), (c, y), (d, z)];
            let specs = of
                .into_iter()
                .enumerate()
                .map(|(n, (networks, parent))| ZoneSpec {
                    name: n.to_string(),
                    networks,
                    parent,
                    ..ZoneSpec::default()
                });
            Zones::new(specs.collect(), Vec::new()).ok()
        })
}

pub fn program() -> impl Strategy<Value = Program> {
    let owner = |uids, gids| OwnerTest { uids, gids };
    let owners = vec![
        owner(1..=2, None),
        owner(0..=u32::MAX, Some(2..=3)),
        owner(2..=2, Some(0..=1)),
    ];
    let chains = (
        vec(rule(0, 3), 0..6),
        vec(rule(1, 3), 0..5),
        vec(rule(2, 3), 0..5),
    );
    let policy = prop_oneof![Just(Verdict::Accept), Just(Verdict::Drop)];
    (chains, policy, sets(), zones()).prop_map(move |((a, b, c), policy, sets, zones)| Program {
        chains: vec![a, b, c],
        entries: vec![Entry {
            hook: Hook::TproxyOutput,
            chain: ChainId(0),
            policy,
        }],
        sets,
        owners: owners.clone(),
        zones: Arc::new(zones),
        ..Program::default()
    })
}

pub fn opening() -> impl Strategy<Value = Opening> {
    (addr(), port(), 0..4u32, 0..4u32, 0..4u32).prop_map(|(addr, port, user, group, mark)| {
        Opening {
            to: Endpoint::new(addr, port),
            user,
            group,
            mark,
        }
    })
}
