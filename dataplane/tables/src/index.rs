//! From a key's hash to the entry that may hold it: buckets of one cache line, two
//! candidate buckets a key, signatures in line. Slots are single words, so a reader
//! sees a slot as it was before or after a change, never between.

use crate::key::Direction;
use crate::sync::{AtomicU64, Ordering};

/// Slots in a bucket: one cache line. Few under loom, which explores every load.
pub(crate) const SLOTS: usize = if cfg!(loom) { 1 } else { 8 };

#[repr(align(64))]
struct Bucket {
    slots: [AtomicU64; SLOTS],
}

/// Points to one direction of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) idx: u32,
    pub(crate) direction: Direction,
}

/// A slot: signature in the upper half; in the lower the entry's index and direction, plus one.
fn pack(signature: u32, place: Place) -> u64 {
    let reply = u64::from(place.direction == Direction::Reply);
    u64::from(signature) << 32 | ((u64::from(place.idx) << 1 | reply) + 1)
}

fn unpack(slot: u64) -> (u32, Place) {
    let low = (slot as u32).wrapping_sub(1);
    let direction = if low & 1 == 1 {
        Direction::Reply
    } else {
        Direction::Original
    };
    (
        (slot >> 32) as u32,
        Place {
            idx: low >> 1,
            direction,
        },
    )
}

pub(crate) struct Index {
    buckets: Box<[Bucket]>,
    mask: usize,
}

impl Index {
    /// An index for `flows` flows, two slots each, at most 40 % full: at that load two
    /// buckets of eight have room for every key but with a negligible chance.
    pub(crate) fn new(flows: usize) -> Self {
        let buckets = (flows * 5).div_ceil(SLOTS).next_power_of_two();
        let bucket = || Bucket {
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        Self {
            buckets: std::iter::repeat_with(bucket).take(buckets).collect(),
            mask: buckets - 1,
        }
    }

    /// The two buckets and the signature of a hash.
    fn home(&self, hash: u64) -> ([&Bucket; 2], u32) {
        let signature = (hash >> 32) as u32;
        let first = hash as usize & self.mask;
        // The distance is odd, so the two differ.
        let distance = (signature as usize).wrapping_mul(0x5bd1_e995) | 1;
        let second = (first ^ distance) & self.mask;
        ([&self.buckets[first], &self.buckets[second]], signature)
    }

    /// Where a key of this hash may be.
    pub(crate) fn candidates(&self, hash: u64) -> impl Iterator<Item = Place> + '_ {
        let (buckets, signature) = self.home(hash);
        buckets
            .into_iter()
            .flat_map(|bucket| bucket.slots.iter())
            .filter_map(move |slot| {
                let value = slot.load(Ordering::Acquire);
                let (found, place) = unpack(value);
                (value != 0 && found == signature).then_some(place)
            })
    }

    /// Takes a slot; `false` if both buckets are full. The caller holds the writer lock.
    #[must_use]
    pub(crate) fn put(&self, hash: u64, place: Place) -> bool {
        let (buckets, signature) = self.home(hash);
        let load = |bucket: &Bucket| {
            bucket
                .slots
                .iter()
                .filter(|slot| slot.load(Ordering::Relaxed) != 0)
                .count()
        };
        let [a, b] = buckets;
        let bucket = if load(b) < load(a) { b } else { a };
        match bucket
            .slots
            .iter()
            .find(|slot| slot.load(Ordering::Relaxed) == 0)
        {
            Some(slot) => {
                slot.store(pack(signature, place), Ordering::Release);
                true
            }
            None => false,
        }
    }

    /// Gives a slot back; `false` if there was none. The caller holds the writer lock.
    pub(crate) fn take(&self, hash: u64, place: Place) -> bool {
        let (buckets, signature) = self.home(hash);
        let wanted = pack(signature, place);
        let mut slots = buckets.into_iter().flat_map(|bucket| bucket.slots.iter());
        match slots.find(|slot| slot.load(Ordering::Relaxed) == wanted) {
            Some(slot) => {
                slot.store(0, Ordering::Release);
                true
            }
            None => false,
        }
    }
}
