//! Under which keys a rule is filed, so that a packet that it matches finds it.
//!
//! Invariant: for every packet that a rule matches, one of the rule's keys is what that
//! packet has under the key's shape. Where that would take too many keys, they get
//! wider: a key may fit packets that the rule does not match.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::key::{Extra, Key, Shape, THERE, mac_bits};
use crate::prefixes::{Prefixes, prefixes_of};
use crate::ranges::Ranges;
use crate::{Condition, Network, PortId, PortRange, PortSet, Quality, Rule, Test, WIDEST, Which};

/// How finely keys may differ in shape: the lengths that prefixes are cut down to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grain {
    /// For addresses, rising from 0.
    pub(crate) addrs: &'static [u8],
    /// For source ports.
    pub(crate) source_ports: &'static [u8],
    /// For destination ports.
    pub(crate) destination_ports: &'static [u8],
}

const EVERY: &[u8] = &[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
    26, 27, 28, 29, 30, 31, 32,
];

/// From the finest on; the last has few shapes whatever the rules are.
pub(crate) const GRAINS: [Grain; 6] = [
    Grain {
        addrs: EVERY,
        source_ports: &[0, 4, 6, 8, 10, 12, 14, 16],
        destination_ports: &[0, 3, 6, 9, 12, 14, 16],
    },
    Grain {
        addrs: EVERY,
        source_ports: &[0, 16],
        destination_ports: &[0, 4, 6, 8, 10, 12, 14, 16],
    },
    Grain {
        addrs: &[0, 4, 8, 12, 16, 20, 24, 28, 32],
        source_ports: &[0, 16],
        destination_ports: &[0, 8, 12, 16],
    },
    Grain {
        addrs: &[0, 8, 16, 24, 28, 32],
        source_ports: &[0],
        destination_ports: &[0, 10, 16],
    },
    Grain {
        addrs: &[0, 16, 24, 32],
        source_ports: &[0],
        destination_ports: &[0, 16],
    },
    Grain {
        addrs: &[0, 24],
        source_ports: &[0],
        destination_ports: &[0],
    },
];

/// The conditions of a rule that its keys answer, by their place. What comes behind a limit is
/// none of them: whatever it says, the limit is drawn on.
#[derive(Default)]
struct Answered(Vec<usize>);

impl Answered {
    fn find<'r, T>(
        &mut self,
        rule: &'r Rule,
        pick: impl Fn(&'r Condition) -> Option<T>,
    ) -> Option<T> {
        let found = |(at, condition)| Some((at, pick(condition)?));
        let is_limit = |(_, condition): &(usize, &Condition)| {
            matches!(condition.test, Quality::Limit(_) | Quality::HashLimit(_))
        };
        let (at, found) = rule
            .more
            .iter()
            .enumerate()
            .take_while(|asked| !is_limit(asked))
            .find_map(found)?;
        self.0.push(at);
        Some(found)
    }
}

/// A rule's keys, and whether they say all that the rule asks.
pub(crate) struct Filed {
    pub(crate) keys: Vec<(Shape, Key)>,
    pub(crate) is_exact: bool,
}

/// Files a rule under at most about `most` keys.
pub(crate) fn file(rule: &Rule, grain: &Grain, most: usize) -> Filed {
    let mut fields = Fields::of(rule);
    fields.cut_down(grain, most);
    Filed {
        is_exact: fields.say_all_of(rule),
        keys: fields.keys(rule),
    }
}

/// What of a rule goes into its keys.
struct Fields {
    source: Prefixes,
    destination: Prefixes,
    source_ports: Prefixes,
    destination_ports: Prefixes,
    in_ports: Vec<Option<PortId>>,
    extra: (Extra, u64),
    answered: Answered,
}

impl Fields {
    fn of(rule: &Rule) -> Self {
        let mut answered = Answered::default();
        let source = addrs(&rule.source, || {
            answered.find(rule, |condition| match &condition.test {
                Quality::SourceRange(range) if !condition.negated => Some(range),
                _ => None,
            })
        });
        let destination = addrs(&rule.destination, || {
            answered.find(rule, |condition| match &condition.test {
                Quality::DestinationRange(range) if !condition.negated => Some(range),
                _ => None,
            })
        });
        let source_ports = ports(&rule.source_ports, || {
            answered.find(rule, |condition| listed(condition, Which::Source))
        });
        let destination_ports = ports(&rule.destination_ports, || {
            answered.find(rule, |condition| listed(condition, Which::Destination))
        });
        let extra = answered.find(rule, |condition| match condition.test {
            _ if condition.negated => None,
            Quality::Mac(mac) => Some((Extra::Mac, mac_bits(mac))),
            Quality::Mark {
                value,
                mask: u32::MAX,
            } => Some((Extra::Mark, THERE | u64::from(value))),
            _ => None,
        });
        Self {
            source,
            destination,
            source_ports,
            destination_ports,
            in_ports: few(rule.in_ports),
            extra: extra.unwrap_or((Extra::None, 0)),
            answered,
        }
    }

    /// Makes keys as coarse as the grain has them, and coarser until there are few enough.
    fn cut_down(&mut self, grain: &Grain, most: usize) {
        // What tells rules apart the least is given up first.
        let mut dimensions = [
            (&mut self.source_ports, grain.source_ports, 16),
            (&mut self.source, grain.addrs, 32),
            (&mut self.destination, grain.addrs, 32),
            (&mut self.destination_ports, grain.destination_ports, 16),
        ];
        for (dimension, levels, width) in &mut dimensions {
            dimension.cut_down(levels, *width);
        }
        for narrowed in 0..dimensions.len() {
            let counts = dimensions.iter().map(|(dimension, ..)| dimension.all.len());
            if counts
                .product::<usize>()
                .saturating_mul(self.in_ports.len())
                <= most
            {
                break;
            }
            if narrowed == 1 {
                self.in_ports = vec![None];
            }
            if let Some((dimension, levels, width)) = dimensions.get_mut(narrowed) {
                dimension.join(*width);
                dimension.cut_down(levels, *width);
            }
        }
    }

    /// Whether every packet that has one of the keys matches the rule.
    fn say_all_of(&self, rule: &Rule) -> bool {
        let dimensions = [
            &self.source,
            &self.destination,
            &self.source_ports,
            &self.destination_ports,
        ];
        // No key says that a packet has ports if it holds none of their bits.
        let unsaid = |test: &Test<PortRange>, keyed: &Prefixes| {
            !test.is_any() && keyed.all.iter().any(|(_, bits)| *bits == 0)
        };
        dimensions.iter().all(|dimension| dimension.is_exact)
            && self.answered.0.len() == rule.more.len()
            && rule.out_ports == PortSet::ALL
            && !unsaid(&rule.source_ports, &self.source_ports)
            && !unsaid(&rule.destination_ports, &self.destination_ports)
            && !matches!(rule.proto, Test::Not(_))
            && (rule.in_ports == PortSet::ALL || self.in_ports.iter().all(Option::is_some))
    }

    /// Every combination of its prefixes and ingress ports.
    fn keys(&self, rule: &Rule) -> Vec<(Shape, Key)> {
        let proto = match rule.proto {
            Test::Is(proto) => Some(proto.0),
            Test::Any | Test::Not(_) => None,
        };
        let (extra, extra_bits) = self.extra;
        let addrs = pairs(&self.source.all, &self.destination.all);
        let ports = pairs(&self.source_ports.all, &self.destination_ports.all);
        let numbers = pairs(&addrs, &ports);
        pairs(&numbers, &self.in_ports)
            .into_iter()
            .map(
                |((((source, source_bits), (destination, destination_bits)), ports), in_port)| {
                    let ((from, source_port), (to, destination_port)) = ports;
                    let shape = Shape {
                        source: source_bits,
                        destination: destination_bits,
                        source_port,
                        destination_port,
                        proto: proto.is_some(),
                        in_port: in_port.is_some(),
                        extra,
                    };
                    let addrs = [source, destination];
                    (
                        shape,
                        Key::new(addrs, [from, to], proto, in_port, extra_bits),
                    )
                },
            )
            .collect()
    }
}

fn pairs<A: Copy, B: Copy>(firsts: &[A], seconds: &[B]) -> Vec<(A, B)> {
    let of = |first: &A| {
        let first = *first;
        seconds.iter().map(move |second| (first, *second))
    };
    firsts.iter().flat_map(of).collect()
}

fn addrs<'r>(
    test: &Test<Network>,
    range: impl FnOnce() -> Option<&'r RangeInclusive<Ipv4Addr>>,
) -> Prefixes {
    match test {
        Test::Is(network) => {
            let mask = network.mask().to_bits();
            let bits = mask.leading_ones() as u8;
            Prefixes {
                all: vec![(network.addr().to_bits() & Network::mask_of(bits), bits)],
                is_exact: network.prefix_bits().is_some(),
            }
        }
        Test::Not(_) => Prefixes {
            is_exact: false,
            ..Prefixes::any()
        },
        Test::Any => range().map_or_else(Prefixes::any, |range| Prefixes {
            all: prefixes_of(range.start().to_bits(), range.end().to_bits(), 32),
            is_exact: true,
        }),
    }
}

fn ports(test: &Test<PortRange>, list: impl FnOnce() -> Option<Ranges>) -> Prefixes {
    let ranges = match test {
        Test::Is(range) => std::iter::once(*range).collect(),
        Test::Not(range) => WIDEST.without(*range).into_iter().flatten().collect(),
        Test::Any => match list() {
            Some(ranges) => ranges,
            None => return Prefixes::any(),
        },
    };
    let blocks = |range: &PortRange| prefixes_of(range.first().into(), range.last().into(), 16);
    let all: Vec<_> = ranges.as_slice().iter().flat_map(blocks).collect();
    // A list has no test of its own that says whether a packet has ports.
    let is_exact = !test.is_any() || all.iter().all(|(_, bits)| *bits > 0);
    Prefixes { all, is_exact }
}

/// The ports that a list lets pass.
fn listed(condition: &Condition, of: Which) -> Option<Ranges> {
    let Quality::Ports { which, ranges } = &condition.test else {
        return None;
    };
    let ranges: Ranges = ranges.iter().copied().collect();
    (*which == of).then(|| {
        if condition.negated {
            std::iter::once(WIDEST).collect::<Ranges>().without(&ranges)
        } else {
            ranges
        }
    })
}

/// Each port of a small set; none for a set that is not looked at.
fn few(set: PortSet) -> Vec<Option<PortId>> {
    let ports: Vec<_> = (0..=u8::MAX)
        .map(PortId)
        .filter(|port| set.contains(*port))
        .take(9)
        .map(Some)
        .collect();
    if ports.len() > 8 { vec![None] } else { ports }
}
