//! Flow keys: a tuple and the side it came in by, packed into words.

use std::net::Ipv4Addr;

use wire::{Endpoint, Protocol, Tuple};

/// Which side a packet came in by. Part of the key, so that a packet from the wire
/// can never be taken for one that the box itself sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// From a NIC.
    Wire,
    /// From the box's own stack, by the host port.
    Host,
    /// From a NIC too, but to a socket that takes datagrams one by one. A name of its own, so
    /// that the same source and destination can be a connection as well, which goes first.
    OneWay,
}

/// A direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// That of the first packet.
    Original,
    /// That of the answers.
    Reply,
}

/// A packed key of `K` words: 2 for IPv4; a family with wider addresses takes more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey<const K: usize = 2>(pub(crate) [u64; K]);

const SIDE_WIRE: u64 = 1;
const SIDE_HOST: u64 = 2;
const SIDE_ONE_WAY: u64 = 3;

impl FlowKey<2> {
    /// The key of packets with this tuple that come in by this side.
    #[must_use]
    pub fn new(side: Side, tuple: &Tuple) -> Self {
        let addrs = u64::from(tuple.src.addr.to_bits()) << 32 | u64::from(tuple.dst.addr.to_bits());
        let side = match side {
            Side::Wire => SIDE_WIRE,
            Side::Host => SIDE_HOST,
            Side::OneWay => SIDE_ONE_WAY,
        };
        let rest = u64::from(tuple.src.port) << 48
            | u64::from(tuple.dst.port) << 32
            | u64::from(tuple.proto.0) << 8
            | side;
        Self([addrs, rest])
    }

    /// The tuple in the key.
    #[must_use]
    pub const fn tuple(&self) -> Tuple {
        let [addrs, rest] = self.0;
        Tuple {
            proto: Protocol((rest >> 8) as u8),
            src: Endpoint::new(
                Ipv4Addr::from_bits((addrs >> 32) as u32),
                (rest >> 48) as u16,
            ),
            dst: Endpoint::new(Ipv4Addr::from_bits(addrs as u32), (rest >> 32) as u16),
        }
    }
}

impl<const K: usize> FlowKey<K> {
    /// The last word of every key ends in protocol and side.
    fn last(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }

    /// The side in the key.
    #[must_use]
    pub fn side(&self) -> Side {
        match self.last() & 0xff {
            SIDE_HOST => Side::Host,
            SIDE_ONE_WAY => Side::OneWay,
            _ => Side::Wire,
        }
    }

    pub(crate) fn proto(&self) -> Protocol {
        Protocol((self.last() >> 8) as u8)
    }
}

/// A keyed hash: an outsider who cannot know the seed cannot choose tuples that collide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hasher {
    seed: [u64; 2],
}

impl Hasher {
    pub(crate) fn new(seed: u64) -> Self {
        // Odd constants without structure (digits of pi) keep a seed of 0 usable.
        Self {
            seed: [
                seed ^ 0x243f_6a88_85a3_08d3,
                seed.rotate_left(32) ^ 0x1319_8a2e_0370_7345,
            ],
        }
    }

    /// Folds the 128-bit product of two words: every input bit reaches every output bit.
    fn mix(a: u64, b: u64) -> u64 {
        let wide = u128::from(a) * u128::from(b);
        (wide >> 64) as u64 ^ wide as u64
    }

    pub(crate) fn hash<const K: usize>(&self, key: &FlowKey<K>) -> u64 {
        let [s0, s1] = self.seed;
        let state = key.0.iter().fold(s0, |state, &word| {
            Self::mix(state ^ word, s1 ^ state.rotate_left(29))
        });
        Self::mix(state ^ s1, s0 | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_gives_back_its_tuple_and_side(src: u32, dst: u32, sport: u16, dport: u16, proto: u8, side in 0..3_usize) {
            let tuple = Tuple {
                proto: Protocol(proto),
                src: Endpoint::new(Ipv4Addr::from_bits(src), sport),
                dst: Endpoint::new(Ipv4Addr::from_bits(dst), dport),
            };
            let side = [Side::Wire, Side::Host, Side::OneWay][side];
            let key = FlowKey::new(side, &tuple);
            prop_assert_eq!(key.tuple(), tuple);
            prop_assert_eq!(key.side(), side);
        }
    }

    #[test]
    fn the_hash_spreads_neighbouring_keys_and_depends_on_the_seed() {
        let key = |port: u64| FlowKey([0x0a00_0001_0a00_0002, port << 48 | 0x0050_0000_0601]);
        let buckets = |seed| {
            let hasher = Hasher::new(seed);
            let mut load = [0_u32; 64];
            for port in 0..6400 {
                load[(hasher.hash(&key(port)) & 63) as usize] += 1;
            }
            load
        };
        for seed in [0, 1, u64::MAX] {
            let load = buckets(seed);
            // 100 expected, standard deviation 10: six of them either way.
            assert!(load.iter().all(|&n| (40..=160).contains(&n)), "{load:?}");
        }
        assert_ne!(buckets(1), buckets(2));
    }
}
