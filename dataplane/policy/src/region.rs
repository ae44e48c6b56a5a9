//! Sets of packets, as far as ingress port, protocol and destination port tell them apart.
//!
//! Where exactness would cost too much, a region grows: it may hold packets that do
//! not belong, and never lacks one that does.

use crate::condition::ByteSet;
use crate::{PortRange, Rule, Test, WIDEST};

/// Beyond this a region is no longer cut finer.
const MAX_CELLS: usize = 256;

/// Every combination of an ingress port, a protocol and a destination port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    pub(crate) in_ports: ByteSet,
    pub(crate) protos: ByteSet,
    pub(crate) ports: PortRange,
}

impl Cell {
    fn and(&self, other: &Self) -> Option<Self> {
        let in_ports = self.in_ports.and(other.in_ports);
        let protos = self.protos.and(other.protos);
        let ports = self.ports.and(other.ports)?;
        (!in_ports.is_empty() && !protos.is_empty()).then_some(Self {
            in_ports,
            protos,
            ports,
        })
    }

    fn without(self, other: &Self) -> impl Iterator<Item = Self> {
        let common = self.and(other);
        let untouched = common.is_none().then_some(self);
        let pieces = common.into_iter().flat_map(move |common| {
            let [below, above] = self.ports.without(common.ports);
            let of_common = move |ports| Self { ports, ..common };
            [
                Some(Self {
                    in_ports: self.in_ports.without(common.in_ports),
                    ..self
                }),
                Some(Self {
                    in_ports: common.in_ports,
                    protos: self.protos.without(common.protos),
                    ..self
                }),
                below.map(of_common),
                above.map(of_common),
            ]
        });
        untouched
            .into_iter()
            .chain(pieces.flatten())
            .filter(|c| !c.in_ports.is_empty() && !c.protos.is_empty())
    }

    fn hull(self, other: Self) -> Self {
        Self {
            in_ports: self.in_ports.or(other.in_ports),
            protos: self.protos.or(other.protos),
            ports: self.ports.hull(other.ports),
        }
    }
}

/// A union of cells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Region {
    cells: Vec<Cell>,
}

impl Region {
    /// Every packet that comes in by one of these ports.
    pub(crate) fn from_ports(in_ports: ByteSet) -> Self {
        let cell = Cell {
            in_ports,
            protos: ByteSet::ALL,
            ports: WIDEST,
        };
        Self {
            cells: if in_ports.is_empty() {
                Vec::new()
            } else {
                vec![cell]
            },
        }
    }

    /// What a rule's tests of ingress port, protocol and destination port let pass.
    pub(crate) fn of_rule(rule: &Rule) -> Self {
        let protos = match rule.proto {
            Test::Any => ByteSet::ALL,
            Test::Is(proto) => ByteSet::of(proto.0),
            Test::Not(proto) => ByteSet::of(proto.0).complement(),
        };
        let ports = match rule.destination_ports {
            Test::Any => [Some(WIDEST), None],
            Test::Is(range) => [Some(range), None],
            Test::Not(range) => WIDEST.without(range),
        };
        let in_ports = rule.in_ports.0;
        let cell = |ports| Cell {
            in_ports,
            protos,
            ports,
        };
        Self {
            cells: ports.into_iter().flatten().map(cell).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    pub(crate) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    pub(crate) fn and(&self, other: &Self) -> Self {
        let mut common = Self::default();
        for cell in &self.cells {
            common
                .cells
                .extend(other.cells.iter().filter_map(|c| cell.and(c)));
        }
        common.bounded()
    }

    /// What is left without `other`; nothing is taken where that would cut too fine.
    pub(crate) fn without(self, other: &Self) -> Self {
        let mut left = self;
        for hole in &other.cells {
            let cells: Vec<Cell> = left
                .cells
                .iter()
                .flat_map(|cell| cell.without(hole))
                .collect();
            if cells.len() > MAX_CELLS {
                break;
            }
            left.cells = cells;
        }
        left
    }

    pub(crate) fn or(mut self, other: Self) -> Self {
        for cell in other.cells {
            if !self.cells.iter().any(|held| held.and(&cell) == Some(cell)) {
                self.cells.push(cell);
            }
        }
        self.bounded()
    }

    fn bounded(mut self) -> Self {
        if self.cells.len() > MAX_CELLS {
            self.cells = self
                .cells
                .into_iter()
                .reduce(Cell::hull)
                .into_iter()
                .collect();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn region() -> impl Strategy<Value = Region> {
        let set = || proptest::collection::vec(0..4u8, 1..4);
        let cell = (set(), set(), 0..8u16, 0..8u16).prop_map(|(i, p, a, b)| Cell {
            in_ports: i
                .into_iter()
                .map(ByteSet::of)
                .fold(ByteSet::EMPTY, ByteSet::or),
            protos: p
                .into_iter()
                .map(ByteSet::of)
                .fold(ByteSet::EMPTY, ByteSet::or),
            ports: PortRange::new(a, b),
        });
        proptest::collection::vec(cell, 0..5).prop_map(|cells| Region { cells })
    }

    fn holds(region: &Region, (i, proto, port): (u8, u8, u16)) -> bool {
        region
            .cells
            .iter()
            .any(|c| c.in_ports.contains(i) && c.protos.contains(proto) && c.ports.contains(port))
    }

    proptest! {
        #[test]
        fn regions_agree_with_membership(a in region(), b in region()) {
            let (both, either, rest) = (a.and(&b), a.clone().or(b.clone()), a.clone().without(&b));
            for point in (0..4u8).flat_map(|i| (0..4u8).flat_map(move |p| (0..9u16).map(move |d| (i, p, d)))) {
                prop_assert_eq!(holds(&both, point), holds(&a, point) && holds(&b, point));
                prop_assert_eq!(holds(&either, point), holds(&a, point) || holds(&b, point));
                prop_assert_eq!(holds(&rest, point), holds(&a, point) && !holds(&b, point));
            }
        }
    }

    #[test]
    fn a_region_cut_too_fine_grows_and_loses_nothing() {
        let one = |port| Region {
            cells: vec![Cell {
                in_ports: ByteSet::of(0),
                protos: ByteSet::of(6),
                ports: port,
            }],
        };
        let odd = |n: u16| one(PortRange::new(2 * n + 1, 2 * n + 1));
        let many = (0..1000).fold(Region::default(), |all, n| all.or(odd(n)));
        assert!(many.cells.len() <= MAX_CELLS);
        assert!((0..1000).all(|n| holds(&many, (0, 6, 2 * n + 1))));
        let rest = (0..1000).fold(one(WIDEST), |left, n| left.without(&odd(n)));
        assert!(rest.cells.len() <= MAX_CELLS);
        assert!((0..=1000).all(|n| holds(&rest, (0, 6, 2 * n))));
    }
}
