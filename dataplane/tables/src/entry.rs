//! Two keys and what belongs to them, read under a sequence lock on word atomics.

use crate::key::FlowKey;
use crate::sync::{AtomicU64, Ordering, fence};

/// What an entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record<const K: usize> {
    pub(crate) first: FlowKey<K>,
    pub(crate) second: FlowKey<K>,
    /// Not 0: that is an empty entry.
    pub(crate) meta: u64,
    pub(crate) stamp: u64,
}

/// A place for a record, one cache line for IPv4.
#[repr(align(64))]
pub(crate) struct Entry<const K: usize> {
    /// Odd while a writer is at work. Half of it names the record for good.
    version: AtomicU64,
    first: [AtomicU64; K],
    second: [AtomicU64; K],
    meta: AtomicU64,
    stamp: AtomicU64,
}

impl<const K: usize> Entry<K> {
    pub(crate) fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            first: std::array::from_fn(|_| AtomicU64::new(0)),
            second: std::array::from_fn(|_| AtomicU64::new(0)),
            meta: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
        }
    }

    /// Reads the record, or nothing if there is none or a writer is at work on it.
    ///
    /// A reader never waits: an entry being written is not the record that was looked for.
    pub(crate) fn read(&self) -> Option<(u32, Record<K>)> {
        let before = self.version.load(Ordering::Acquire);
        if before & 1 == 1 {
            return None;
        }
        let load = |words: &[AtomicU64; K]| {
            FlowKey(std::array::from_fn(|i| words[i].load(Ordering::Relaxed)))
        };
        let record = Record {
            first: load(&self.first),
            second: load(&self.second),
            meta: self.meta.load(Ordering::Relaxed),
            stamp: self.stamp.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        if self.version.load(Ordering::Relaxed) != before || record.meta == 0 {
            return None;
        }
        Some(((before >> 1) as u32, record))
    }

    /// Writes a record, or clears the place. The caller holds the table's writer lock.
    /// Returns the version that names the record from now on.
    pub(crate) fn write(&self, record: Option<&Record<K>>) -> u32 {
        let before = self.version.load(Ordering::Relaxed);
        self.version
            .store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let store = |words: &[AtomicU64; K], key: Option<FlowKey<K>>| {
            for (i, word) in words.iter().enumerate() {
                word.store(key.map_or(0, |key| key.0[i]), Ordering::Relaxed);
            }
        };
        store(&self.first, record.map(|r| r.first));
        store(&self.second, record.map(|r| r.second));
        self.meta
            .store(record.map_or(0, |r| r.meta), Ordering::Relaxed);
        self.stamp
            .store(record.map_or(0, |r| r.stamp), Ordering::Relaxed);
        let after = before.wrapping_add(2);
        self.version.store(after, Ordering::Release);
        (after >> 1) as u32
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    fn record(n: u64) -> Record<1> {
        Record {
            first: FlowKey([n]),
            second: FlowKey([n + 100]),
            meta: n,
            stamp: n,
        }
    }

    /// Fails if either fence is removed.
    #[test]
    fn a_reader_sees_one_record_or_none_never_a_mix() {
        loom::model(|| {
            let entry = Arc::new(Entry::<1>::new());
            entry.write(Some(&record(1)));
            let writer = {
                let entry = Arc::clone(&entry);
                thread::spawn(move || entry.write(Some(&record(2))))
            };
            if let Some((version, seen)) = entry.read() {
                assert_eq!(seen, record(u64::from(version)));
            }
            writer.join().unwrap();
            assert_eq!(entry.read(), Some((2, record(2))));
        });
    }
}
