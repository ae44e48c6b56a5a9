//! How long a client looks for its reply before it sleeps.
//!
//! Invariant: bounded. Looking pays only where the server runs at this moment on another core;
//! where it did not lately, looking is rare.

use std::sync::atomic::{AtomicU32, Ordering};

/// Looks at most; some ten microseconds.
const MOST: u32 = 400;
/// One call of so many looks as long as it may, to notice that it pays again.
const PROBE: u32 = 32;

/// What was learned of one channel.
#[derive(Debug)]
pub(crate) struct Spin {
    most: u32,
    budget: AtomicU32,
    calls: AtomicU32,
}

impl Spin {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let most = if cores > 1 { MOST } else { 0 };
        Self {
            most,
            budget: AtomicU32::new(most),
            calls: AtomicU32::new(0),
        }
    }

    /// Looks until there is something or it has looked enough.
    pub(crate) fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let probes = call.is_multiple_of(PROBE);
        let budget = if probes {
            self.most
        } else {
            self.budget.load(Ordering::Relaxed)
        };
        for looks in 0..=budget {
            if let Some(found) = look() {
                let wanted = self.most.min(2 * looks + PROBE);
                self.budget.store(wanted, Ordering::Relaxed);
                return Some(found);
            }
            std::hint::spin_loop();
        }
        self.budget.store(budget / 2, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, PROBE, Spin};
    use std::sync::atomic::{AtomicU32, Ordering};

    fn spin() -> Spin {
        Spin {
            most: MOST,
            budget: AtomicU32::new(MOST),
            calls: AtomicU32::new(0),
        }
    }

    fn looks(spin: &Spin, until: u32) -> u32 {
        let mut looks = 0;
        spin.until(|| {
            looks += 1;
            (looks > until).then_some(())
        });
        looks
    }

    #[test]
    fn looking_in_vain_becomes_rare() {
        let spin = spin();
        let all: u32 = (0..PROBE * 10).map(|_| looks(&spin, u32::MAX)).sum();
        assert!(all < 10 * 3 * (MOST + PROBE), "{all}");
        assert!(all >= 10 * MOST, "a probe now and then: {all}");
    }

    #[test]
    fn looking_that_pays_is_kept_up() {
        let spin = spin();
        for _ in 0..PROBE {
            looks(&spin, u32::MAX);
        }
        looks(&spin, 100);
        assert!(spin.budget.load(Ordering::Relaxed) >= 200);
        assert_eq!(looks(&spin, 150), 151);
    }
}
