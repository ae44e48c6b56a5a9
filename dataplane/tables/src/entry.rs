//! One flow in the table, read under a sequence lock on word atomics.

use crate::key::FlowKey;
use crate::lane::Lane;
use crate::sync::{AtomicU64, Ordering, fence};

/// What made a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A rule took the connection to a local proxy.
    Redirect = 1,
    /// A connection to a taken endpoint itself, delivered as it is.
    Local = 2,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Redirect, Self::Local];

    /// The name that people and JSON see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Local => "local",
        }
    }

    const fn from_bits(bits: u8) -> Self {
        if bits == Self::Local as u8 {
            Self::Local
        } else {
            Self::Redirect
        }
    }
}

/// Who rewrites a flow's packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Path {
    /// The AF_XDP worker.
    Worker,
}

impl Path {
    /// The name that people and JSON see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
        }
    }
}

/// Names one flow for good: an id of a flow that is gone never names a later one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowId {
    pub(crate) idx: u32,
    pub(crate) version: u32,
}

impl FlowId {
    /// The id as one number.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.version as u64) << 32 | self.idx as u64
    }

    /// The id from its number.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            idx: bits as u32,
            version: (bits >> 32) as u32,
        }
    }
}

/// What never changes in a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow<const K: usize = 2> {
    /// The key of the original direction's packets, as they arrive.
    pub orig: FlowKey<K>,
    /// The key of the reply direction's packets, as they arrive.
    pub reply: FlowKey<K>,
    /// What made it.
    pub kind: Kind,
    /// The policy that judged it.
    pub generation: u32,
    /// When it was made.
    pub created_ns: u64,
}

impl<const K: usize> Flow<K> {
    /// Who rewrites this flow's packets.
    #[must_use]
    pub const fn path(&self) -> Path {
        Path::Worker
    }
}

/// A place for a flow: a line of keys under `version`, and a lane for each direction.
#[repr(align(64))]
pub(crate) struct Entry<const K: usize> {
    /// Odd while a writer is at work. Half of it is the [`FlowId`]'s version.
    version: AtomicU64,
    orig: [AtomicU64; K],
    reply: [AtomicU64; K],
    /// Kind in the low byte, generation in the upper half. 0: no flow here.
    meta: AtomicU64,
    created_ns: AtomicU64,
    pub(crate) orig_lane: Lane,
    pub(crate) reply_lane: Lane,
}

impl<const K: usize> Entry<K> {
    pub(crate) fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            orig: std::array::from_fn(|_| AtomicU64::new(0)),
            reply: std::array::from_fn(|_| AtomicU64::new(0)),
            meta: AtomicU64::new(0),
            created_ns: AtomicU64::new(0),
            orig_lane: Lane::new(),
            reply_lane: Lane::new(),
        }
    }

    /// Reads the flow, or nothing if there is none or a writer is at work on it.
    ///
    /// A reader never waits: an entry being written is not the flow that was looked for.
    pub(crate) fn read(&self) -> Option<(u32, Flow<K>)> {
        let before = self.version.load(Ordering::Acquire);
        if before & 1 == 1 {
            return None;
        }
        let load = |words: &[AtomicU64; K]| {
            FlowKey(std::array::from_fn(|i| words[i].load(Ordering::Relaxed)))
        };
        let (orig, reply) = (load(&self.orig), load(&self.reply));
        let meta = self.meta.load(Ordering::Relaxed);
        let created_ns = self.created_ns.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if self.version.load(Ordering::Relaxed) != before || meta == 0 {
            return None;
        }
        let flow = Flow {
            orig,
            reply,
            kind: Kind::from_bits(meta as u8),
            generation: (meta >> 32) as u32,
            created_ns,
        };
        Some(((before >> 1) as u32, flow))
    }

    /// Writes a flow, or clears the place. The caller holds the table's writer lock.
    /// Returns the version that names the entry from now on.
    pub(crate) fn write(&self, flow: Option<&Flow<K>>) -> u32 {
        let before = self.version.load(Ordering::Relaxed);
        self.version
            .store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let store = |words: &[AtomicU64; K], key: Option<FlowKey<K>>| {
            for (i, word) in words.iter().enumerate() {
                word.store(key.map_or(0, |key| key.0[i]), Ordering::Relaxed);
            }
        };
        store(&self.orig, flow.map(|f| f.orig));
        store(&self.reply, flow.map(|f| f.reply));
        let meta = flow.map_or(0, |f| u64::from(f.generation) << 32 | f.kind as u64);
        self.meta.store(meta, Ordering::Relaxed);
        self.created_ns
            .store(flow.map_or(0, |f| f.created_ns), Ordering::Relaxed);
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

    fn flow(n: u64) -> Flow<1> {
        Flow {
            orig: FlowKey([n]),
            reply: FlowKey([n + 100]),
            kind: Kind::Redirect,
            generation: n as u32,
            created_ns: n,
        }
    }

    /// Fails if either fence is removed.
    #[test]
    fn a_reader_sees_one_flow_or_none_never_a_mix() {
        loom::model(|| {
            let entry = Arc::new(Entry::<1>::new());
            entry.write(Some(&flow(1)));
            let writer = {
                let entry = Arc::clone(&entry);
                thread::spawn(move || entry.write(Some(&flow(2))))
            };
            if let Some((version, seen)) = entry.read() {
                assert_eq!(seen, flow(u64::from(version)));
            }
            writer.join().unwrap();
            assert_eq!(entry.read(), Some((2, flow(2))));
        });
    }
}
