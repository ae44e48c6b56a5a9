//! Rulesets of different shapes and any size, and first packets that meet them.

use std::net::Ipv4Addr;

use fastrand::Rng;
use policy::{
    Action, ChainId, Condition, ConnState, End, Entry, Hook, IpSet, LocalPort, Network, NoListener,
    Packet, PortId, PortRange, PortSet, Program, Quality, Rate, Rule, SetEntries, SetId, StateSet,
    Test, Verdict,
};
use wire::{Endpoint, Protocol, Tuple};

/// Rules of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Each rule lets one host reach one service.
    Hosts,
    /// Each rule is for a network; prefixes from /12 to /30 in no order, many in each other.
    Networks,
    /// Each rule is for networks of both ends, from /16 to /32.
    Pairs,
    /// Each rule is for a short range of ports.
    PortRanges,
    /// Each rule is for a range of ports of any width, so that most of them overlap.
    WideRanges,
    /// Every source with every port.
    Grid,
    /// Each rule excepts a network, and names a destination.
    Negated,
    /// Each rule excepts a network and a port, and names nothing.
    NegatedOnly,
    /// Each rule is for the addresses of a set of its own, and names nothing else. Such rules
    /// are read one after the other (decision 5).
    Sets,
    /// A chain for each of a hundred interfaces.
    Interfaces,
    /// Each rule is for one sender on the link.
    Senders,
    /// Four log with a limit and many mark, between rules for hosts.
    Logging,
    /// Every interface's PRxxx chain redirects services, and its LOxxx chain lets hosts in.
    Proxies,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Hosts,
        Self::Networks,
        Self::Pairs,
        Self::PortRanges,
        Self::WideRanges,
        Self::Grid,
        Self::Negated,
        Self::NegatedOnly,
        Self::Sets,
        Self::Interfaces,
        Self::Senders,
        Self::Logging,
        Self::Proxies,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Networks => "networks",
            Self::Pairs => "pairs",
            Self::PortRanges => "port_ranges",
            Self::WideRanges => "wide_ranges",
            Self::Grid => "grid",
            Self::Negated => "negated",
            Self::NegatedOnly => "negated_only",
            Self::Sets => "sets",
            Self::Interfaces => "interfaces",
            Self::Senders => "senders",
            Self::Logging => "logging",
            Self::Proxies => "proxies",
        }
    }

    /// A program of so many rules.
    pub fn program(self, rules: u32) -> Program {
        match self {
            Self::Interfaces => interfaces(rules),
            Self::Proxies => proxies(rules),
            _ => {
                let mut chain = vec![tracked()];
                chain.extend((1..rules).map(|n| self.rule(n - 1, rules)));
                let entries = vec![entry(Hook::FilterInput, 0, Verdict::Drop)];
                let mut program = program(vec![chain], entries);
                if self == Self::Sets {
                    program.sets = (0..rules).map(set).collect();
                }
                program
            }
        }
    }

    /// First packets: nine of ten for a rule somewhere in the list, the tenth for none in particular.
    pub fn packets(self, rules: u32, count: usize) -> Vec<Packet> {
        let mut rng = Rng::with_seed(7);
        let mut one = || self.packet(rules, &mut rng);
        std::iter::repeat_with(&mut one).take(count).collect()
    }

    /// One of them.
    pub fn packet(self, rules: u32, rng: &mut Rng) -> Packet {
        let n = rng.u32(..rules.max(2) - 1);
        let mut packet = packet(rng);
        if rng.u8(..10) > 0 {
            self.aim(&mut packet, n, rules, rng);
        }
        packet
    }

    fn rule(self, n: u32, of: u32) -> Rule {
        let mut rng = Rng::with_seed(u64::from(n));
        let accept = Rule {
            proto: Test::Is(Protocol::TCP),
            action: Action::Accept,
            ..Rule::default()
        };
        let dport = |range| Test::Is(range);
        match self {
            Self::Hosts => Rule {
                source: Test::Is(net(host(n), 32)),
                destination_ports: dport(single(22)),
                ..accept
            },
            Self::Networks => Rule {
                source: Test::Is(net(host(n * 977), rng.u8(12..=30))),
                ..accept
            },
            Self::Pairs => Rule {
                source: Test::Is(net(host(n * 977), rng.u8(16..=32))),
                destination: Test::Is(net(far(n * 331), rng.u8(16..=32))),
                ..accept
            },
            Self::PortRanges => Rule {
                destination_ports: dport(range_of(n)),
                ..accept
            },
            Self::WideRanges => Rule {
                destination_ports: dport(PortRange::new(rng.u16(..), rng.u16(..))),
                source: Test::Is(net(host(n % 64 * 65536), 16)),
                ..accept
            },
            Self::Grid => {
                let side = of.isqrt().max(1);
                Rule {
                    source: Test::Is(net(host(n / side), 32)),
                    destination_ports: dport(single((n % side) as u16 + 1000)),
                    ..accept
                }
            }
            Self::Negated => Rule {
                source: Test::Not(net(Ipv4Addr::new(172, 16, 0, 0), 12)),
                destination: Test::Is(net(far(n), 32)),
                ..accept
            },
            Self::NegatedOnly => Rule {
                source: Test::Not(net(host(n << 4), 28)),
                destination_ports: Test::Not(single(80)),
                ..accept
            },
            Self::Sets => Rule {
                more: vec![asked(Quality::Set {
                    set: SetId(n),
                    by: vec![End::Source],
                })],
                ..accept
            },
            Self::Senders => Rule {
                more: vec![asked(Quality::Mac(mac(n)))],
                ..accept
            },
            Self::Logging => Rule {
                source: match n % (of / 4).max(2) {
                    0 => Test::Any,
                    _ => Test::Is(net(host(n), 32)),
                },
                more: match n % (of / 4).max(2) {
                    0 => vec![asked(Quality::Limit(Rate {
                        tokens: 1,
                        per_ns: 1_000_000_000,
                        burst: 5,
                    }))],
                    _ => vec![asked(Quality::State(StateSet::of(ConnState::New)))],
                },
                action: match n % (of / 4).max(2) {
                    0 => Action::Log,
                    _ if n.is_multiple_of(7) => Action::Mark { and: !0, xor: 1 },
                    _ => Action::Accept,
                },
                ..accept
            },
            Self::Interfaces | Self::Proxies => accept,
        }
    }

    fn aim(self, packet: &mut Packet, n: u32, of: u32, rng: &mut Rng) {
        let tuple = &mut packet.tuple;
        match self {
            Self::Hosts => {
                tuple.src.addr = host(n);
                tuple.dst.port = 22;
            }
            Self::Networks => tuple.src.addr = host(n * 977),
            Self::Pairs => {
                tuple.src.addr = host(n * 977);
                tuple.dst.addr = far(n * 331);
            }
            Self::PortRanges => tuple.dst.port = range_of(n).first(),
            Self::WideRanges => tuple.src.addr = host(n % 64 * 65536 + rng.u32(..65536)),
            Self::Grid => {
                let side = of.isqrt().max(1);
                tuple.src.addr = host(n / side);
                tuple.dst.port = (n % side) as u16 + 1000;
            }
            Self::Negated => tuple.dst.addr = far(n),
            Self::NegatedOnly => tuple.src.addr = host(n << 4),
            Self::Sets => tuple.src.addr = host(n * SET_OF + rng.u32(..SET_OF)),
            Self::Interfaces => {
                packet.in_port = Some(PortId((n % PORTS) as u8));
                tuple.src.addr = host(n);
            }
            Self::Senders => packet.source_mac = Some(mac(n)),
            Self::Logging => tuple.src.addr = host(n),
            Self::Proxies => {
                packet.in_port = Some(PortId((n % ZONES) as u8));
                tuple.src.addr = host(n);
                tuple.dst.port = (n / ZONES % 500) as u16 + 1;
            }
        }
    }
}

/// How many ports the box has.
pub const PORTS: u32 = 100;
const ZONES: u32 = 4;
/// How many addresses are in a set.
const SET_OF: u32 = 4;

fn interfaces(rules: u32) -> Program {
    let count = PORTS.min(rules / 2);
    let dispatch = (0..count).map(|port| from(port, Action::Jump(ChainId(port + 1))));
    let mut chains = vec![dispatch.collect::<Vec<_>>()];
    chains.resize(count as usize + 1, Vec::new());
    for n in 0..rules - count {
        chains[(n % count) as usize + 1].push(Rule {
            source: Test::Is(net(host(n), 32)),
            action: Action::Accept,
            ..Rule::default()
        });
    }
    program(chains, vec![entry(Hook::FilterInput, 0, Verdict::Drop)])
}

/// The worked example: half of the rules are services, half local hosts.
fn proxies(rules: u32) -> Program {
    let zones = ZONES.min(rules / 5).max(1);
    let mut chains = vec![Vec::new(), vec![asks_tproxy()]];
    chains.resize(2 + 2 * zones as usize, Vec::new());
    for zone in 0..zones {
        chains[0].push(Rule {
            destination: Test::Not(net(Ipv4Addr::new(10, 255, 0, zone as u8 + 1), 32)),
            ..from(zone, Action::Jump(ChainId(2 + zone)))
        });
        chains[1].push(from(zone, Action::Jump(ChainId(2 + zones + zone))));
    }
    chains[1].push(Rule {
        action: Action::Drop,
        ..Rule::default()
    });
    let left = rules - chains.iter().map(Vec::len).sum::<usize>() as u32;
    for n in 0..left / 2 {
        let zone = n % zones;
        chains[(2 + zone) as usize].push(Rule {
            proto: Test::Is(Protocol::TCP),
            destination_ports: Test::Is(single((n / zones % 500) as u16 + 1)),
            destination: Test::Is(net(
                far(n / zones / 500 * 65536),
                if n < 2000 { 0 } else { 16 },
            )),
            action: Action::Redirect {
                addr: None,
                port: Some(50080),
                otherwise: NoListener::Reject,
            },
            ..Rule::default()
        });
        chains[(2 + zones + zone) as usize].push(Rule {
            proto: Test::Is(Protocol::TCP),
            source: Test::Is(net(host(n), 32)),
            destination_ports: Test::Is(single(22)),
            action: Action::Accept,
            ..Rule::default()
        });
    }
    program(
        chains,
        vec![
            entry(Hook::TproxyPrerouting, 0, Verdict::Accept),
            entry(Hook::FilterInput, 1, Verdict::Drop),
        ],
    )
}

fn program(chains: Vec<Vec<Rule>>, entries: Vec<Entry>) -> Program {
    Program {
        generation: 1,
        chains,
        entries,
        ports: (0..PORTS)
            .map(|n| PortId(n as u8))
            .map(|port| LocalPort {
                port,
                first_address: Some(own_address(port)),
            })
            .collect(),
        ..Program::default()
    }
}

/// The box's address on a port.
pub const fn own_address(port: PortId) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, port.0 + 1)
}

pub const fn entry(hook: Hook, chain: u32, policy: Verdict) -> Entry {
    Entry {
        hook,
        chain: ChainId(chain),
        policy,
    }
}

fn from(port: u32, action: Action) -> Rule {
    Rule {
        in_ports: [PortId(port as u8)].into_iter().collect::<PortSet>(),
        action,
        ..Rule::default()
    }
}

/// What stands at the top of every such chain.
fn tracked() -> Rule {
    let states = StateSet::of(ConnState::Established).or(StateSet::of(ConnState::Related));
    Rule {
        more: vec![asked(Quality::State(states))],
        action: Action::Accept,
        ..Rule::default()
    }
}

/// Lets in what a proxy gets.
pub fn asks_tproxy() -> Rule {
    Rule {
        more: vec![asked(Quality::Tproxy)],
        action: Action::Accept,
        ..Rule::default()
    }
}

const fn asked(test: Quality) -> Condition {
    Condition {
        negated: false,
        test,
    }
}

fn net(addr: Ipv4Addr, bits: u8) -> Network {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    Network::new(addr, Ipv4Addr::from_bits(mask))
}

fn host(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + n % 0x00ff_0000)
}

fn far(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc600_0000 + n % 0x00ff_ffff)
}

fn set(n: u32) -> IpSet {
    IpSet::new(SetEntries::Addresses {
        bits: 32,
        entries: (0..SET_OF).map(|at| host(n * SET_OF + at)).collect(),
    })
}

fn mac(n: u32) -> [u8; 6] {
    let [a, b, c, d] = n.to_be_bytes();
    [2, 0, a, b, c, d]
}

fn single(port: u16) -> PortRange {
    PortRange::new(port, port)
}

fn range_of(n: u32) -> PortRange {
    let first = (n * 6 % 65_000) as u16;
    PortRange::new(first, first + 4)
}

fn packet(rng: &mut Rng) -> Packet {
    let tuple = Tuple {
        proto: Protocol::TCP,
        src: Endpoint::new(host(rng.u32(..)), rng.u16(1024..)),
        dst: Endpoint::new(far(rng.u32(..)), rng.u16(1..)),
    };
    Packet {
        tcp_flags: Some(2),
        source_mac: Some(mac(rng.u32(0x0100_0000..))),
        bytes: 60,
        ..Packet::first(PortId(0), tuple)
    }
}
