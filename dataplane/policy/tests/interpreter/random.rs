//! Programs and packets that often meet.

use std::net::Ipv4Addr;
use std::sync::Arc;

use policy::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use wire::{Endpoint, Protocol, Tuple};

pub fn addr() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        6 => (0..3u8, 0..12u8).prop_map(|(c, d)| Ipv4Addr::new(10, 0, c, d)),
        1 => (0..4u8).prop_map(|d| Ipv4Addr::new(192, 168, 0, d)),
        1 => any::<u32>().prop_map(Ipv4Addr::from_bits),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![6 => 0..24u16, 1 => 1020..1030u16, 1 => 65_530..=65_535u16]
}

fn range() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        3 => port().prop_map(|p| PortRange::new(p, p)),
        2 => (port(), port()).prop_map(|(a, b)| PortRange::new(a, b)),
        1 => Just(WIDEST),
    ]
}

fn proto() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        4 => Just(Protocol::TCP),
        2 => Just(Protocol::UDP),
        1 => Just(Protocol::ICMP),
        1 => Just(Protocol(47)),
        1 => Just(Protocol(0)),
    ]
}

fn network() -> impl Strategy<Value = Network> {
    let mask = prop_oneof![
        4 => Just(u32::MAX),
        4 => (0..=32u32).prop_map(|n| u32::MAX.checked_shl(32 - n).unwrap_or(0)),
        3 => (20..=32u32).prop_map(|n| u32::MAX << (32 - n)),
        1 => Just(0xff00_00ff),
    ];
    (addr(), mask).prop_map(|(addr, mask)| Network::new(addr, Ipv4Addr::from_bits(mask)))
}

fn test<T: Clone + std::fmt::Debug>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Test<T>> {
    (0..10u8, value).prop_map(|(kind, value)| match kind {
        0..5 => Test::Any,
        5..9 => Test::Is(value),
        _ => Test::Not(value),
    })
}

fn port_set() -> impl Strategy<Value = PortSet> {
    let some =
        || vec(0..4u8, 0..3).prop_map(|all| all.into_iter().map(PortId).collect::<PortSet>());
    prop_oneof![6 => Just(PortSet::ALL), 2 => some(), 1 => some().prop_map(PortSet::complement)]
}

fn rate() -> impl Strategy<Value = Rate> {
    (1..4u32, 1..5u64, 1..4u32).prop_map(|(tokens, per, burst)| Rate {
        tokens,
        per_ns: per * 1000,
        burst,
    })
}

fn hash_limit() -> impl Strategy<Value = HashLimit> {
    let key = prop_oneof![
        Just(HashKey::SourceIp),
        Just(HashKey::SourcePort),
        Just(HashKey::DestinationIp),
        Just(HashKey::DestinationPort),
    ];
    // Rules that share a table have one rate, as text has it.
    (any::<bool>(), vec(key, 0..3), 0..=32u8, 0..=32u8, 0..2u32).prop_map(
        |(above, by, source_bits, destination_bits, name)| HashLimit {
            rate: Rate {
                tokens: 1,
                per_ns: 1000,
                burst: 2 + name,
            },
            above,
            by,
            source_bits,
            destination_bits,
            name: name.to_string(),
            most: 0,
            idle_ns: 0,
        },
    )
}

fn quality() -> impl Strategy<Value = Quality> {
    let which = prop_oneof![
        Just(Which::Source),
        Just(Which::Destination),
        Just(Which::Either)
    ];
    let end = prop_oneof![Just(End::Source), Just(End::Destination)];
    let addrs = || (addr(), addr()).prop_map(|(a, b)| a.min(b)..=a.max(b));
    prop_oneof![
        1 => Just(Quality::Tail),
        2 => (0..8u8, 0..8u8).prop_map(|(mask, set)| Quality::TcpFlags { mask, set: set & mask }),
        1 => (prop_oneof![0..4u8, Just(255)], 0..2u8)
            .prop_map(|(kind, code)| Quality::Icmp { kind, codes: 0..=code }),
        4 => (which, vec(range(), 1..4)).prop_map(|(which, ranges)| Quality::Ports { which, ranges }),
        3 => addrs().prop_map(Quality::SourceRange),
        3 => addrs().prop_map(Quality::DestinationRange),
        3 => (0..32u16, 0..4u16).prop_map(|(s, t)| Quality::State(StateSet(s | t << 8))),
        1 => Just(Quality::Tproxy),
        3 => (0..4u32, prop_oneof![Just(3), Just(1), Just(u32::MAX)])
            .prop_map(|(value, mask)| Quality::Mark { value, mask }),
        2 => rate().prop_map(Quality::Limit),
        2 => hash_limit().prop_map(Quality::HashLimit),
        2 => (0..3u32, vec(end, 1..3)).prop_map(|(set, by)| Quality::Set { set: SetId(set), by }),
        2 => (0..3u8).prop_map(|n| Quality::Mac([2, 0, 0, 0, 0, n])),
        1 => (0..3u16).prop_map(|n| Quality::SourceZone(ZoneId(n))),
        1 => (0..3u16).prop_map(|n| Quality::DestinationZone(ZoneId(n))),
        1 => (0..2u8).prop_map(Quality::Owner),
    ]
}

fn conditions() -> impl Strategy<Value = Vec<Condition>> {
    let condition = (0..5u8, quality()).prop_map(|(n, test)| Condition {
        negated: n == 0,
        test,
    });
    prop_oneof![3 => Just(Vec::new()), 2 => vec(condition, 1..4)]
}

/// What a rule of any table may do; chains are filled in by level.
fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => Just(Action::Count),
        1 => Just(Action::Return),
        3 => Just(Action::Accept),
        2 => Just(Action::Drop),
        1 => Just(Action::Reject(RejectWith::TcpReset)),
        2 => Just(Action::Log),
        3 => (0..4u32, 0..4u32).prop_map(|(and, xor)| Action::Mark { and, xor }),
        3 => (0..9u32).prop_map(|n| Action::Jump(ChainId(n))),
        2 => (0..9u32).prop_map(|n| Action::Goto(ChainId(n))),
    ]
}

fn special(table: &'static str) -> BoxedStrategy<Action> {
    match table {
        "raw" => Just(Action::NoTrack).boxed(),
        "nat" => Just(Action::Nat).boxed(),
        "tproxy" => (option::of(addr()), option::of(port()))
            .prop_map(|(addr, port)| Action::Redirect {
                addr,
                port,
                otherwise: NoListener::Drop,
            })
            .boxed(),
        _ => Just(Action::Accept).boxed(),
    }
}

fn rule(table: &'static str) -> impl Strategy<Value = Rule> {
    let action = prop_oneof![4 => action(), 1 => special(table)];
    let ports = (
        port_set(),
        prop_oneof![9 => Just(PortSet::ALL), 1 => port_set()],
    );
    let addrs = (test(network()), test(network()));
    let numbers = (test(range()), test(range()));
    (ports, test(proto()), addrs, numbers, conditions(), action).prop_map(
        |((in_ports, out_ports), proto, addrs, numbers, more, action)| Rule {
            in_ports,
            out_ports,
            proto,
            source: addrs.0,
            destination: addrs.1,
            source_ports: numbers.0,
            destination_ports: numbers.1,
            more,
            action,
        },
    )
}

/// Few levels of chains, the lower ones for the upper ones to call.
const LEVELS: u32 = 3;

/// The chains of one table: one for each hook, then three that they, and those, may call.
fn table(
    name: &'static str,
    length: std::ops::Range<usize>,
) -> impl Strategy<Value = (Vec<Hook>, Vec<Vec<Rule>>)> {
    let hooks: Vec<Hook> = Hook::ALL
        .into_iter()
        .filter(|h| h.table() == name)
        .collect();
    let count = hooks.len() + LEVELS as usize;
    vec(vec(rule(name), length), count).prop_map(move |chains| (hooks.clone(), chains))
}

pub fn program(length: std::ops::Range<usize>) -> impl Strategy<Value = Program> {
    let tables = ["raw", "mangle", "tproxy", "nat", "filter"].map(|t| table(t, length.clone()));
    let policies = vec(0..3u8, Hook::ALL.len());
    (tables, policies).prop_map(|(tables, policies)| {
        let mut program = Program {
            generation: 1,
            ports: (0..3)
                .map(|n| LocalPort {
                    port: PortId(n),
                    first_address: (n < 2).then(|| Ipv4Addr::new(10, 0, n, 1)),
                })
                .collect(),
            sets: sets(),
            owners: vec![
                OwnerTest {
                    uids: 0..=0,
                    gids: None
                };
                2
            ],
            zones: Arc::new(zones()),
            ..Program::default()
        };
        for (hooks, chains) in tables {
            let base = program.chains.len() as u32;
            let callable = base + hooks.len() as u32;
            for (n, hook) in (0u32..).zip(hooks) {
                let policy = match policies[hook.index()] {
                    0 => continue,
                    1 => Verdict::Drop,
                    _ => Verdict::Accept,
                };
                program.entries.push(Entry {
                    hook,
                    chain: ChainId(base + n),
                    policy,
                });
            }
            for (n, mut chain) in (0u32..).zip(chains) {
                // A chain calls only those behind it, and only so often that the whole stays bounded.
                let level = (base + n + 1).max(callable);
                let calls = chain.len() / 5;
                for (place, rule) in chain.iter_mut().enumerate() {
                    let to = if place % (calls.max(4)) == 0 {
                        callable + LEVELS
                    } else {
                        level
                    };
                    rule.action = lowered(rule.action, level, to);
                }
                program.chains.push(chain);
            }
        }
        program
    })
}

fn lowered(action: Action, from: u32, to: u32) -> Action {
    let callee = |n: u32| (from < to).then(|| ChainId(from + n % (to - from)));
    match action {
        Action::Jump(ChainId(n)) => callee(n).map_or(Action::Count, Action::Jump),
        Action::Goto(ChainId(n)) => callee(n).map_or(Action::Count, Action::Goto),
        other => other,
    }
}

fn sets() -> Vec<IpSet> {
    let a = |d| Ipv4Addr::new(10, 0, 0, d);
    let tcp = |port| PortEntry {
        proto: Protocol::TCP,
        port,
    };
    vec![
        IpSet::new(SetEntries::Addresses {
            bits: 32,
            entries: (0..6).map(a).collect(),
        }),
        IpSet::new(SetEntries::Ports(vec![1, 2, 3, 80])),
        IpSet::new(SetEntries::AddressPorts(
            (0..20).map(|n| (a(n as u8 % 4), tcp(n))).collect(),
        )),
    ]
}

fn zones() -> Zones {
    let zone = |name: &str, networks, ports: &[u8], parent| ZoneSpec {
        name: name.into(),
        networks,
        ports: ports.iter().copied().map(PortId).collect(),
        parent,
        inbound: None,
        outbound: None,
    };
    let net = |c, bits| (Ipv4Addr::new(10, 0, c, 0), bits);
    Zones::new(
        vec![
            zone("intra", vec![net(0, 23)], &[0], None),
            zone("hosts", vec![net(0, 29)], &[], Some(0)),
            zone("inter", vec![net(2, 24)], &[1], None),
        ],
        vec![],
    )
    .unwrap()
}

pub fn packet() -> impl Strategy<Value = Packet> {
    let state = prop_oneof![
        5 => Just(ConnState::New),
        1 => Just(ConnState::Established),
        1 => Just(ConnState::Related),
        1 => Just(ConnState::Invalid),
        1 => Just(ConnState::Untracked),
    ];
    let id = || option::weighted(0.9, (0..5u8).prop_map(PortId));
    let tuple = (proto(), addr(), port(), addr(), port()).prop_map(|(proto, s, sp, d, dp)| Tuple {
        proto,
        src: Endpoint::new(s, sp),
        dst: Endpoint::new(d, dp),
    });
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let rest = (0..4u32, 0..4u8, 0..3u8, 0..8u8, 0..10u8, 0..1500u64);
    ((id(), id()), tuple, state, (0..4u8, 0..2u8), flags, rest).prop_map(
        |((in_port, out_port), tuple, state, icmp, flags, rest)| {
            let (mark, owners, mac, tcp_flags, odd, later) = rest;
            let is_tail = odd == 0;
            let is = |proto| tuple.proto == proto && !is_tail;
            Packet {
                in_port,
                out_port,
                tuple,
                icmp: is(Protocol::ICMP).then_some(icmp),
                tcp_flags: is(Protocol::TCP).then_some(tcp_flags),
                is_tail,
                source_mac: flags.0.then_some([2, 0, 0, 0, 0, mac]),
                state,
                is_tproxy: flags.1,
                is_snat: flags.2,
                is_dnat: flags.3,
                mark,
                owners,
                bytes: 60,
                // The time since the packet before; the test adds them up.
                now_ns: later,
                is_rejudged: odd == 1,
            }
        },
    )
}
