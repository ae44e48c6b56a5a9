//! Which ports of which foreign addresses are held, so that a free one is found without asking
//! for each.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use wire::{Endpoint, Protocol};

/// Ports in a block.
const BLOCK: u32 = 64;

/// A bit for each held port, in blocks of 64 ports of one address.
#[derive(Debug, Default)]
pub(crate) struct Ports(HashMap<(Protocol, u32, u16), u64>);

impl Ports {
    pub(crate) fn add(&mut self, proto: Protocol, at: Endpoint) {
        let (key, bit) = place(proto, at);
        *self.0.entry(key).or_insert(0) |= bit;
    }

    pub(crate) fn remove(&mut self, proto: Protocol, at: Endpoint) {
        let (key, bit) = place(proto, at);
        if let Some(block) = self.0.get_mut(&key) {
            *block &= !bit;
            if *block == 0 {
                self.0.remove(&key);
            }
        }
    }

    /// The ports in `range` of the address that nobody holds, from `start` on and around. A
    /// full block costs as much as a port.
    pub(crate) fn free(
        &self,
        proto: Protocol,
        addr: std::net::Ipv4Addr,
        range: &RangeInclusive<u16>,
        start: u32,
    ) -> impl Iterator<Item = u16> {
        let (first, end) = (u32::from(*range.start()), u32::from(*range.end()) + 1);
        let start = first + start % end.saturating_sub(first).max(1);
        let spans = [(start, end), (first, start)];
        spans.into_iter().flat_map(move |(from, to)| {
            let blocks = from / BLOCK..to.div_ceil(BLOCK);
            blocks.flat_map(move |block| self.free_of(proto, addr, block, from..to))
        })
    }

    /// The free ports of a block that are in `span`.
    fn free_of(
        &self,
        proto: Protocol,
        addr: std::net::Ipv4Addr,
        block: u32,
        span: std::ops::Range<u32>,
    ) -> impl Iterator<Item = u16> {
        let base = block * BLOCK;
        let held = u16::try_from(block)
            .ok()
            .and_then(|block| self.0.get(&(proto, addr.to_bits(), block)));
        let mut free = !held.copied().unwrap_or(0);
        std::iter::from_fn(move || {
            let bit = free.trailing_zeros();
            // Clears the lowest bit that is set, if there is one.
            free &= free.wrapping_sub(1);
            (bit < BLOCK).then_some(base + bit)
        })
        .filter(move |port| *port != 0 && span.contains(port))
        .filter_map(|port| u16::try_from(port).ok())
    }
}

fn place(proto: Protocol, at: Endpoint) -> ((Protocol, u32, u16), u64) {
    let (block, bit) = (u32::from(at.port) / BLOCK, u32::from(at.port) % BLOCK);
    ((proto, at.addr.to_bits(), block as u16), 1 << bit)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_free_ones_are_those_that_a_plain_walk_finds(
            held in proptest::collection::vec(prop_oneof![100_u16..300, any::<u16>()], 0..300),
            given_back in proptest::collection::vec(any::<prop::sample::Index>(), 0..50),
            first in prop_oneof![90_u16..310, Just(0)],
            size in prop_oneof![0_u16..300, Just(u16::MAX)],
            start in any::<u32>(),
        ) {
            let addr = [203, 0, 113, 5].into();
            let at = |port| Endpoint::new(addr, port);
            let mut ports = Ports::default();
            let mut plain: BTreeSet<u16> = held.iter().copied().collect();
            held.iter().for_each(|port| ports.add(Protocol::TCP, at(*port)));
            if !held.is_empty() {
                for one in given_back {
                    let port = *one.get(&held);
                    ports.remove(Protocol::TCP, at(port));
                    plain.remove(&port);
                }
            }
            let last = first.saturating_add(size);
            let around = u32::from(last - first) + 1;
            let walk = (0..around).map(|n| first + ((start % around + n) % around) as u16);
            let want: Vec<u16> = walk.filter(|port| *port != 0 && !plain.contains(port)).collect();
            let got: Vec<u16> = ports.free(Protocol::TCP, addr, &(first..=last), start).collect();
            prop_assert_eq!(got, want);
            let other: Vec<u16> = ports.free(Protocol::UDP, addr, &(100..=110), 0).collect();
            prop_assert_eq!(other.len(), 11);
            plain.iter().for_each(|port| ports.remove(Protocol::TCP, at(*port)));
            prop_assert!(ports.0.is_empty());
        }
    }
}
