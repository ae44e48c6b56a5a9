//! Which of a client's slots are free: private to the process, shared by its threads.
//!
//! Invariants: a slot belongs to one call at a time; a slot whose call was given up stays away
//! until the server has answered it; a thread that waits for a slot is woken when one is free.
//! Never here: shared memory.

use crate::mailbox::SLOT_BITS;
use crate::sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering};

/// Bit of `free`: threads wait for a slot.
const WANTED: u64 = 1 << 63;

/// The slots of one channel.
#[derive(Debug)]
pub(crate) struct Slots {
    /// A bit for each free slot, and `WANTED`.
    free: AtomicU64,
    /// A bit for each slot whose call was given up.
    abandoned: AtomicU64,
    gate: Mutex<()>,
    freed: Condvar,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            free: AtomicU64::new(SLOT_BITS),
            abandoned: AtomicU64::new(0),
            gate: Mutex::new(()),
            freed: Condvar::new(),
        }
    }

    /// Takes a free slot, if there is one.
    pub(crate) fn claim(&self) -> Option<usize> {
        let mut free = self.free.load(Ordering::Relaxed);
        while free & SLOT_BITS != 0 {
            let idx = (free & SLOT_BITS).trailing_zeros() as usize;
            let rest = free & !(1 << idx);
            // Acquire: the reply of the slot's call before was read before it was put back.
            let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
            match (self.free).compare_exchange_weak(free, rest, success, failure) {
                Ok(_) => return Some(idx),
                Err(found) => free = found,
            }
        }
        None
    }

    /// Puts a slot back.
    pub(crate) fn release(&self, idx: usize) {
        let found = self.free.fetch_or(1 << idx, Ordering::Release);
        if found & WANTED != 0 {
            // Who waits holds the gate from its last look until it sleeps.
            let gate = self.gate();
            self.free.fetch_and(!WANTED, Ordering::Relaxed);
            self.freed.notify_all();
            drop(gate);
        }
    }

    /// Takes a slot, and calls `sleep` with the gate and the signal while there is none, until
    /// it says no by returning nothing.
    pub(crate) fn claim_or_sleep<'a>(
        &'a self,
        mut sleep: impl FnMut(&'a Condvar, MutexGuard<'a, ()>) -> Option<MutexGuard<'a, ()>>,
    ) -> Option<usize> {
        let mut gate = self.gate();
        loop {
            let found = self.free.fetch_or(WANTED, Ordering::Relaxed);
            if found & SLOT_BITS == 0 {
                gate = sleep(&self.freed, gate)?;
            }
            if let Some(idx) = self.claim() {
                return Some(idx);
            }
        }
    }

    /// Keeps a slot away whose call was given up.
    pub(crate) fn abandon(&self, idx: usize) {
        self.abandoned.fetch_or(1 << idx, Ordering::Release);
    }

    /// Puts those given up slots back whose calls were answered after all.
    pub(crate) fn recover(&self, answered: impl Fn(usize) -> bool) {
        let mut left = self.abandoned.load(Ordering::Acquire) & SLOT_BITS;
        while left != 0 {
            let idx = left.trailing_zeros() as usize;
            left &= left - 1;
            let bit = 1 << idx;
            if answered(idx) && self.abandoned.fetch_and(!bit, Ordering::AcqRel) & bit != 0 {
                self.release(idx);
            }
        }
    }

    fn gate(&self) -> MutexGuard<'_, ()> {
        // It guards no data, so a panic of another holder left nothing half done.
        self.gate.lock().unwrap_or_else(|held| held.into_inner())
    }
}
