//! A limit for each of many keys: a table of fixed size.
//!
//! A slot is one word of 128 bits: who has it, and when its bucket is full again. Both
//! change together, so a bucket has one owner at any moment. A new key takes the slot of
//! its group that is full again the earliest, and that time only ever grows in a slot: so
//! two threads that bring the same key at once want the same slot, and one of them finds
//! the key there.
//!
//! Invariant: a key never gets more than its rate allows. Where a whole group is busy, a
//! new key goes on with what the least busy one has left.
//! Never here: locks, allocation after the start, clocks.

use std::hash::BuildHasher;
use std::sync::atomic::Ordering;

use hashbrown::DefaultHashBuilder;
use portable_atomic::AtomicU128;

use crate::limit::Pace;
use crate::{HashKey, HashLimit, Network, Packet};

/// How many slots a key may be in.
const GROUP: usize = 8;

/// Slots of a table that asks for no number, and the most that any gets.
const USUAL: u32 = 1 << 16;
const MOST: u32 = 1 << 20;

/// How often a draw may lose against others before it counts as refused. Each time
/// another one's draw succeeded, so all cannot fail.
const TRIES: usize = 64;

/// The buckets of all keys of one name.
#[derive(Debug)]
pub(crate) struct Table {
    groups: Box<[[AtomicU128; GROUP]]>,
    hasher: DefaultHashBuilder,
}

impl Table {
    pub(crate) fn new(most: u32) -> Self {
        let most = if most == 0 { USUAL } else { most.min(MOST) };
        let count = (most as usize).div_ceil(GROUP).next_power_of_two();
        Self {
            groups: std::iter::repeat_with(Default::default)
                .take(count)
                .collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Takes a token from the bucket of this key, if there is one.
    fn draw(&self, key: &Key, pace: Pace, now_ns: u64) -> bool {
        // The hash is seeded at random and nobody sees it, so nobody can make keys that share a tag.
        let tag = self.hasher.hash_one(key).max(1);
        // The low bits alone put neighbouring addresses into few groups.
        let spread = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let at = spread as usize & (self.groups.len() - 1);
        let Some(group) = self.groups.get(at) else {
            return false;
        };
        for _ in 0..TRIES {
            let (slot, held) = find(group, tag);
            let Some(full_ns) = pace.drawn(held as u64, now_ns) else {
                return false;
            };
            let word = u128::from(tag) << 64 | u128::from(full_ns);
            let swapped = slot.compare_exchange(held, word, Ordering::Relaxed, Ordering::Relaxed);
            if swapped.is_ok() {
                return true;
            }
        }
        false
    }
}

/// The slot that has this tag, or else the one that is full again the earliest.
#[inline]
fn find(group: &[AtomicU128; GROUP], tag: u64) -> (&AtomicU128, u128) {
    let [first, rest @ ..] = group;
    let mut best = (first, first.load(Ordering::Relaxed));
    for slot in rest {
        if (best.1 >> 64) as u64 == tag {
            break;
        }
        let held = slot.load(Ordering::Relaxed);
        if (held >> 64) as u64 == tag || (held as u64) < best.1 as u64 {
            best = (slot, held);
        }
    }
    best
}

/// What tells buckets apart: what a rule does not look at is 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Key {
    looked_at: u8,
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
}

/// A [`HashLimit`] as the walk asks it.
#[derive(Debug)]
pub(crate) struct Gauge {
    pace: Pace,
    looked_at: u8,
    source_mask: u32,
    destination_mask: u32,
    is_above: bool,
    /// Index of its table.
    table: u32,
}

impl Gauge {
    pub(crate) fn new(limit: &HashLimit, table: u32) -> Self {
        let mask = |key, bits: u8| {
            if limit.by.contains(&key) {
                Network::mask_of(bits.min(32))
            } else {
                0
            }
        };
        Self {
            pace: Pace::new(limit.rate),
            looked_at: limit.by.iter().fold(0, |set, key| set | 1 << *key as u8),
            source_mask: mask(HashKey::SourceIp, limit.source_bits),
            destination_mask: mask(HashKey::DestinationIp, limit.destination_bits),
            is_above: limit.above,
            table,
        }
    }

    /// Whether the packet passes: it keeps the limit, or goes beyond it if that is asked for.
    pub(crate) fn holds(&self, tables: &[Table], packet: &Packet) -> bool {
        if packet.is_rejudged {
            return !self.is_above;
        }
        let Some(table) = tables.get(self.table as usize) else {
            return false;
        };
        let looks_at = |key: HashKey| self.looked_at & 1 << key as u8 != 0;
        let (source_port, destination_port) = match packet.is_tail {
            true => (0, 0),
            false => packet.ports(),
        };
        let key = Key {
            looked_at: self.looked_at,
            source: packet.tuple.src.addr.to_bits() & self.source_mask,
            destination: packet.tuple.dst.addr.to_bits() & self.destination_mask,
            source_port: if looks_at(HashKey::SourcePort) {
                source_port
            } else {
                0
            },
            destination_port: if looks_at(HashKey::DestinationPort) {
                destination_port
            } else {
                0
            },
        };
        table.draw(&key, self.pace, packet.now_ns) != self.is_above
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::thread;

    use super::*;
    use crate::Rate;

    const SECOND: u64 = 1_000_000_000;

    fn key(source: u32) -> Key {
        Key {
            source,
            ..Key::default()
        }
    }

    fn pace(burst: u32) -> Pace {
        Pace::new(Rate {
            tokens: 1,
            per_ns: SECOND,
            burst,
        })
    }

    #[test]
    fn each_key_has_its_own_bucket() {
        let table = Table::new(4096);
        let mut got = HashMap::new();
        for now in 0..20 {
            for n in 0..100 {
                *got.entry(n).or_insert(0) +=
                    u32::from(table.draw(&key(n), pace(5), (100 + now / 10) * SECOND));
            }
        }
        assert!(got.values().all(|n| *n == 6), "{got:?}");
    }

    #[test]
    fn a_crowd_in_a_small_table_gets_no_more_than_its_share() {
        // One group: 8 buckets of 5 for a thousand keys that all come at one moment, again and again.
        let table = Table::new(1);
        let mut got = HashMap::new();
        for turn in 0..10 {
            for n in 0..1000 {
                let drawn = table.draw(&key((n * 7 + turn) % 1000), pace(5), SECOND);
                *got.entry((n * 7 + turn) % 1000).or_insert(0) += u32::from(drawn);
            }
        }
        assert!(got.values().all(|n| *n <= 5));
        assert_eq!(got.values().sum::<u32>(), 8 * 5);
        // Later its slots are free again for others.
        assert!((2000..2008).all(|n| table.draw(&key(n), pace(5), 100 * SECOND)));
    }

    #[test]
    fn threads_together_get_no_more_than_one_alone() {
        for round in 0..100u32 {
            // Few groups and changing crowds, so that keys are put, found and displaced at once.
            let table = Table::new(16);
            let keys = 12;
            let draw = |seed: u32| {
                let mut got = vec![0u32; keys as usize];
                let mut n = seed;
                for _ in 0..3000 {
                    n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let which = (n >> 16) % keys;
                    let drawn = table.draw(&key(round * 1000 + which), pace(20), 5 * SECOND);
                    got[which as usize] += u32::from(drawn);
                }
                got
            };
            let draw = &draw;
            let all: Vec<Vec<u32>> = thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|n| scope.spawn(move || draw(round * 4 + n)))
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            for which in 0..keys as usize {
                let got: u32 = all.iter().map(|got| got[which]).sum();
                assert!(got <= 20, "round {round}: key {which} got {got}");
            }
        }
    }
}
