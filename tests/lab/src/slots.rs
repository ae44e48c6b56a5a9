//! How many labs may work at once: each wants a core for its dataplane.

use std::sync::{Condvar, Mutex, PoisonError};

/// Labs at once in one process.
const SLOTS: usize = 2;

static FREE: Mutex<usize> = Mutex::new(SLOTS);
static LEFT: Condvar = Condvar::new();

/// The right to run a lab; given back on drop.
#[derive(Debug)]
pub struct Slot(());

impl Slot {
    /// Waits until a lab may run.
    pub fn take() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = LEFT
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Slot(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        LEFT.notify_one();
    }
}
