//! Rules as the walk asks them.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crate::hash_limit::{Gauge, Table};
use crate::limit::Bucket;
use crate::{
    Condition, Network, Packet, Policy, PortId, PortRange, PortSet, ProgramError, Quality, Rule,
    Test, WIDEST, Which,
};

/// A condition with what it remembers.
#[derive(Debug)]
pub(crate) struct Asked {
    negated: bool,
    test: Question,
}

#[derive(Debug)]
enum Question {
    Plain(Quality),
    Limit(Bucket),
    HashLimit(Gauge),
}

/// The tables of hash limits while rules are made ready: one for each name.
#[derive(Default)]
pub(crate) struct Tables<'p> {
    by_name: HashMap<&'p str, u32>,
    most: Vec<u32>,
}

impl<'p> Tables<'p> {
    pub(crate) fn asked(&mut self, conditions: &'p [Condition]) -> Box<[Asked]> {
        let one = |condition: &'p Condition| Asked {
            negated: condition.negated,
            test: match &condition.test {
                Quality::Limit(rate) => Question::Limit(Bucket::new(*rate)),
                Quality::HashLimit(limit) => {
                    let next = u32::try_from(self.most.len()).unwrap_or(u32::MAX);
                    let table = *self.by_name.entry(&limit.name).or_insert(next);
                    match self.most.get_mut(table as usize) {
                        Some(most) => *most = limit.most.max(*most),
                        None => self.most.push(limit.most),
                    }
                    Question::HashLimit(Gauge::new(limit, table))
                }
                plain => Question::Plain(plain.clone()),
            },
        };
        conditions.iter().map(one).collect()
    }

    pub(crate) fn finish(self) -> Box<[Table]> {
        self.most.into_iter().map(Table::new).collect()
    }
}

/// A rule's own tests, in one line of the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tests {
    source: Masked,
    destination: Masked,
    source_ports: PortRange,
    destination_ports: PortRange,
    proto: u8,
    /// 0 where no protocol is asked for.
    proto_mask: u8,
    flags: u8,
    /// Index of the set of ingress ports; 0 is the set of all.
    in_ports: u16,
    out_ports: u16,
}

const NOT_SOURCE: u8 = 1;
const NOT_DESTINATION: u8 = 1 << 1;
const NOT_SOURCE_PORTS: u8 = 1 << 2;
const NOT_DESTINATION_PORTS: u8 = 1 << 3;
const NOT_PROTO: u8 = 1 << 4;
const ASKS_PORTS: u8 = 1 << 5;
const ASKS_MORE: u8 = 1 << 6;

#[derive(Clone, Copy, Debug)]
struct Masked {
    bits: u32,
    mask: u32,
}

impl Masked {
    fn of(test: &Test<Network>) -> Self {
        match test {
            Test::Any => Self { bits: 0, mask: 0 },
            Test::Is(network) | Test::Not(network) => Self {
                bits: network.addr().to_bits(),
                mask: network.mask().to_bits(),
            },
        }
    }

    #[inline]
    const fn has(self, addr: Ipv4Addr) -> bool {
        addr.to_bits() & self.mask == self.bits
    }
}

/// The different sets of ports that rules ask for; the first is the set of all.
pub(crate) struct PortSets {
    numbers: HashMap<PortSet, u16>,
    all: Vec<PortSet>,
}

impl Default for PortSets {
    fn default() -> Self {
        Self {
            numbers: HashMap::from([(PortSet::ALL, 0)]),
            all: vec![PortSet::ALL],
        }
    }
}

impl PortSets {
    fn number(&mut self, set: PortSet) -> Result<u16, ProgramError> {
        let next = u16::try_from(self.all.len()).map_err(|_| ProgramError::TooManyPortSets)?;
        Ok(*self.numbers.entry(set).or_insert_with(|| {
            self.all.push(set);
            next
        }))
    }

    pub(crate) fn tests(&mut self, rule: &Rule) -> Result<Tests, ProgramError> {
        let range = |test: &Test<PortRange>| match test {
            Test::Any => WIDEST,
            Test::Is(range) | Test::Not(range) => *range,
        };
        let (proto, proto_mask) = match rule.proto {
            Test::Any => (0, 0),
            Test::Is(proto) | Test::Not(proto) => (proto.0, u8::MAX),
        };
        let asks_ports = !rule.source_ports.is_any() || !rule.destination_ports.is_any();
        let flags = [
            (matches!(rule.source, Test::Not(_)), NOT_SOURCE),
            (matches!(rule.destination, Test::Not(_)), NOT_DESTINATION),
            (matches!(rule.source_ports, Test::Not(_)), NOT_SOURCE_PORTS),
            (
                matches!(rule.destination_ports, Test::Not(_)),
                NOT_DESTINATION_PORTS,
            ),
            (matches!(rule.proto, Test::Not(_)), NOT_PROTO),
            (asks_ports, ASKS_PORTS),
            (!rule.more.is_empty(), ASKS_MORE),
        ];
        Ok(Tests {
            source: Masked::of(&rule.source),
            destination: Masked::of(&rule.destination),
            source_ports: range(&rule.source_ports),
            destination_ports: range(&rule.destination_ports),
            proto,
            proto_mask,
            flags: flags
                .iter()
                .fold(0, |all, (is, flag)| if *is { all | flag } else { all }),
            in_ports: self.number(rule.in_ports)?,
            out_ports: self.number(rule.out_ports)?,
        })
    }

    pub(crate) fn finish(self) -> Box<[PortSet]> {
        self.all.into()
    }
}

impl Tests {
    const fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Policy {
    /// Whether the packet passes every test of a rule. Limits are drawn on where all before them
    /// holds, and `asks_limit` is set then, whatever comes of it.
    #[inline]
    pub(crate) fn matches(&self, id: u32, packet: &Packet, asks_limit: &mut bool) -> bool {
        let Some(tests) = self.tests.get(id as usize) else {
            return false;
        };
        let tuple = &packet.tuple;
        let (source, destination) = packet.ports();
        tests.source.has(tuple.src.addr) != tests.is(NOT_SOURCE)
            && tests.destination.has(tuple.dst.addr) != tests.is(NOT_DESTINATION)
            && tests.destination_ports.contains(destination) != tests.is(NOT_DESTINATION_PORTS)
            && tests.source_ports.contains(source) != tests.is(NOT_SOURCE_PORTS)
            && (tuple.proto.0 & tests.proto_mask == tests.proto) != tests.is(NOT_PROTO)
            && !(tests.is(ASKS_PORTS) && packet.is_tail)
            && (tests.in_ports == 0 || self.is_in(tests.in_ports, packet.in_port))
            && (tests.out_ports == 0 || self.is_in(tests.out_ports, packet.out_port))
            && (!tests.is(ASKS_MORE) || self.holds_all(id, packet, asks_limit))
    }

    fn is_in(&self, set: u16, port: Option<PortId>) -> bool {
        self.port_sets
            .get(usize::from(set))
            .is_some_and(|set| set.has(port))
    }

    fn holds_all(&self, id: u32, packet: &Packet, asks_limit: &mut bool) -> bool {
        let asked = self.asked.get(id as usize);
        asked.is_some_and(|all| {
            all.iter()
                .all(|asked| self.holds(asked, packet, asks_limit))
        })
    }

    fn holds(&self, asked: &Asked, packet: &Packet, asks_limit: &mut bool) -> bool {
        *asks_limit |= !matches!(asked.test, Question::Plain(_));
        let answer = match &asked.test {
            Question::Plain(quality) => self.has(quality, packet),
            // Its limits held when the flow was first asked about.
            Question::Limit(bucket) => Some(packet.is_rejudged || bucket.draw(packet.now_ns)),
            Question::HashLimit(gauge) => Some(gauge.holds(&self.tables, packet)),
        };
        answer.is_some_and(|holds| holds != asked.negated)
    }

    /// Whether the packet has this quality; none if that cannot be asked of it.
    fn has(&self, quality: &Quality, packet: &Packet) -> Option<bool> {
        let tuple = &packet.tuple;
        Some(match quality {
            Quality::Tail => packet.is_tail,
            Quality::TcpFlags { mask, set } => packet.tcp_flags? & mask == *set,
            Quality::Icmp { kind, codes } => {
                let (is, code) = packet.icmp?;
                *kind == u8::MAX || is == *kind && codes.contains(&code)
            }
            Quality::Ports { which, ranges } => {
                if packet.is_tail {
                    return None;
                }
                let (source, destination) = packet.ports();
                let any = |port| ranges.iter().any(|range| range.contains(port));
                match which {
                    Which::Source => any(source),
                    Which::Destination => any(destination),
                    Which::Either => any(source) || any(destination),
                }
            }
            Quality::SourceRange(range) => range.contains(&tuple.src.addr),
            Quality::DestinationRange(range) => range.contains(&tuple.dst.addr),
            Quality::State(states) => states.meets(packet.states()),
            Quality::Tproxy => packet.is_tproxy,
            Quality::Mark { value, mask } => packet.mark & mask == *value,
            Quality::Set { set, by } => self.sets.get(set.0 as usize)?.contains(by, packet),
            Quality::Mac(mac) => packet.source_mac? == *mac,
            Quality::SourceZone(zone) => self
                .zones
                .zone_of(tuple.src.addr, packet.in_port)
                .is_some_and(|is| self.zones.is_within(is, *zone)),
            Quality::DestinationZone(zone) => self
                .zones
                .zone_of(tuple.dst.addr, None)
                .is_some_and(|is| self.zones.is_within(is, *zone)),
            Quality::Owner(test) => {
                1u8.checked_shl(u32::from(*test)).unwrap_or(0) & packet.owners != 0
            }
            // They are asked with what they remember, not here.
            Quality::Limit(_) | Quality::HashLimit(_) => return None,
        })
    }
}
