//! Ranges of transport ports and sets of them.

use std::ops::RangeInclusive;

/// The ports `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// All ports.
pub const WIDEST: PortRange = PortRange {
    first: 0,
    last: u16::MAX,
};

impl PortRange {
    /// The range from one end to the other, whichever comes first.
    #[must_use]
    pub const fn new(a: u16, b: u16) -> Self {
        if a <= b {
            Self { first: a, last: b }
        } else {
            Self { first: b, last: a }
        }
    }

    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` lies in it.
    #[inline]
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    pub(crate) fn and(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self { first, last })
    }

    /// What lies below `other`, and what above.
    pub(crate) fn without(self, other: Self) -> [Option<Self>; 2] {
        let below = other
            .first
            .checked_sub(1)
            .and_then(|last| self.and(Self { first: 0, last }));
        let above = other.last.checked_add(1).and_then(|first| {
            self.and(Self {
                first,
                last: u16::MAX,
            })
        });
        [below, above]
    }

    /// The smallest range that holds both.
    pub(crate) fn hull(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }
}

impl From<PortRange> for RangeInclusive<u16> {
    fn from(range: PortRange) -> Self {
        range.first..=range.last
    }
}

/// A set of ports: ranges in order that neither overlap nor touch.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Ranges(Vec<PortRange>);

impl Ranges {
    pub(crate) fn as_slice(&self) -> &[PortRange] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn without(&self, other: &Self) -> Self {
        other.0.iter().fold(self.clone(), |left, hole| {
            left.0
                .into_iter()
                .flat_map(|range| range.without(*hole))
                .flatten()
                .collect()
        })
    }

    /// The width of the smallest gap between neighbours.
    pub(crate) fn smallest_gap(&self) -> Option<u16> {
        self.0
            .iter()
            .zip(self.0.iter().skip(1))
            .map(|(a, b)| b.first.saturating_sub(a.last))
            .min()
    }

    /// Closes every gap up to `width`.
    pub(crate) fn close_gaps(&mut self, width: u16) {
        let ranges = std::mem::take(&mut self.0);
        for range in ranges {
            match self.0.last_mut() {
                Some(last) if range.first.saturating_sub(last.last) <= width => {
                    *last = last.hull(range)
                }
                _ => self.0.push(range),
            }
        }
    }
}

impl FromIterator<PortRange> for Ranges {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut set = Self(ranges.into_iter().collect());
        set.0.sort_unstable();
        set.close_gaps(1);
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn few() -> impl Strategy<Value = Vec<PortRange>> {
        let port = prop_oneof![0..40u16, 65_500..=65_535u16];
        proptest::collection::vec(
            (port.clone(), port).prop_map(|(a, b)| PortRange::new(a, b)),
            0..6,
        )
    }

    fn holds(ranges: &[PortRange], port: u16) -> bool {
        ranges.iter().any(|r| r.contains(port))
    }

    proptest! {
        #[test]
        fn sets_agree_with_membership(a in few(), b in few()) {
            let (x, y): (Ranges, Ranges) = (a.iter().copied().collect(), b.iter().copied().collect());
            let rest = x.without(&y);
            for port in (0..60).chain(65_480..=65_535) {
                prop_assert_eq!(holds(x.as_slice(), port), holds(&a, port));
                prop_assert_eq!(holds(rest.as_slice(), port), holds(&a, port) && !holds(&b, port));
            }
            for set in [&x, &rest] {
                prop_assert!(set.smallest_gap().is_none_or(|gap| gap > 1), "{set:?} touches itself");
            }
        }
    }

    #[test]
    fn gaps_close_from_the_smallest() {
        let mut set: Ranges = [
            PortRange::new(1, 2),
            PortRange::new(5, 6),
            PortRange::new(20, 30),
        ]
        .into_iter()
        .collect();
        assert_eq!(set.smallest_gap(), Some(3));
        set.close_gaps(3);
        assert_eq!(
            set.as_slice(),
            [PortRange::new(1, 6), PortRange::new(20, 30)]
        );
    }
}
