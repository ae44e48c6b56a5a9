//! What a worker shows of itself. One writer; relaxed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;
use pipeline::Ingress;
use xsk::{BindMode, Ledger, RingCounts};

/// Bits of each of the three counts that share a word, so that they are read as one.
const COUNT_BITS: u32 = 21;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// The most frames that a worker may have, by the width of those counts.
pub(crate) const MAX_FRAMES: u32 = COUNT_MASK as u32;

/// The figures of one lane.
#[derive(Debug, Default)]
struct LaneCells {
    received: AtomicU64,
    sent: AtomicU64,
    ring: [AtomicU64; 4],
}

/// What one worker shows of itself.
#[derive(Debug)]
pub struct WorkerStats {
    core: Option<usize>,
    total_frames: u32,
    lanes: Vec<(LaneName, CachePadded<LaneCells>)>,
    ledger: CachePadded<AtomicU64>,
    rounds: AtomicU64,
    waits: AtomicU64,
}

/// Which lane.
#[derive(Clone, Debug)]
struct LaneName {
    ingress: Ingress,
    queue: u32,
    mode: BindMode,
}

/// A reading of one lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneReading {
    /// The port.
    pub ingress: Ingress,
    /// Its queue.
    pub queue: u32,
    /// How it is bound.
    pub mode: BindMode,
    /// Frames received.
    pub received: u64,
    /// Frames given to the ring to be sent.
    pub sent: u64,
    /// What the kernel counts, a second old at most while there is traffic.
    pub ring: RingCounts,
}

impl WorkerStats {
    pub(crate) fn new(
        core: Option<usize>,
        total_frames: u32,
        lanes: impl Iterator<Item = (Ingress, u32, BindMode)>,
    ) -> Self {
        let lanes = lanes
            .map(|(ingress, queue, mode)| {
                (
                    LaneName {
                        ingress,
                        queue,
                        mode,
                    },
                    CachePadded::default(),
                )
            })
            .collect();
        Self {
            core,
            total_frames,
            lanes,
            ledger: CachePadded::default(),
            rounds: AtomicU64::new(0),
            waits: AtomicU64::new(0),
        }
    }

    /// The core that the worker is pinned to.
    #[must_use]
    pub fn core(&self) -> Option<usize> {
        self.core
    }

    /// Rounds of the loop, and how many of them ended in waiting for traffic.
    #[must_use]
    pub fn rounds(&self) -> (u64, u64) {
        (self.rounds.load(Relaxed), self.waits.load(Relaxed))
    }

    /// Where the worker's frames were after its last round.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let word = self.ledger.load(Relaxed);
        let count = |at: u32| (word >> (at * COUNT_BITS) & COUNT_MASK) as u32;
        Ledger {
            total: self.total_frames,
            free: count(0),
            filled: count(1),
            sending: count(2),
        }
    }

    /// The figures of each lane.
    pub fn lanes(&self) -> impl Iterator<Item = LaneReading> + '_ {
        self.lanes.iter().map(|(name, cells)| {
            let [rx_dropped, rx_ring_full, rx_fill_empty, invalid_descs] =
                cells.ring.each_ref().map(|cell| cell.load(Relaxed));
            LaneReading {
                ingress: name.ingress,
                queue: name.queue,
                mode: name.mode,
                received: cells.received.load(Relaxed),
                sent: cells.sent.load(Relaxed),
                ring: RingCounts {
                    rx_dropped,
                    rx_ring_full,
                    rx_fill_empty,
                    invalid_descs,
                },
            }
        })
    }

    pub(crate) fn publish_ledger(&self, ledger: Ledger) {
        let word = u64::from(ledger.free)
            | u64::from(ledger.filled) << COUNT_BITS
            | u64::from(ledger.sending) << (2 * COUNT_BITS);
        self.ledger.store(word, Relaxed);
    }

    pub(crate) fn count_round(&self, waited: bool) {
        add(&self.rounds, 1);
        if waited {
            add(&self.waits, 1);
        }
    }

    pub(crate) fn count_received(&self, lane: usize, frames: usize) {
        if let Some((_, cells)) = self.lanes.get(lane) {
            add(&cells.received, frames as u64);
        }
    }

    pub(crate) fn count_sent(&self, lane: usize) {
        if let Some((_, cells)) = self.lanes.get(lane) {
            add(&cells.sent, 1);
        }
    }

    pub(crate) fn publish_ring(&self, lane: usize, counts: RingCounts) {
        if let Some((_, cells)) = self.lanes.get(lane) {
            let values = [
                counts.rx_dropped,
                counts.rx_ring_full,
                counts.rx_fill_empty,
                counts.invalid_descs,
            ];
            for (cell, value) in cells.ring.iter().zip(values) {
                cell.store(value, Relaxed);
            }
        }
    }
}

fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}
