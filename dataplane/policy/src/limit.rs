//! How often something may happen.
//!
//! Invariant: over any stretch of time a bucket gives out no more than its burst and what
//! its rate brings meanwhile, whoever draws at the same time.
//! Never here: locks, clocks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Rate;

/// A [`Rate`] in the units of its buckets. A bucket is one number: the time at which it
/// is full again, which each token moves on by its cost. 0 is a full bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    cost_ns: u64,
    depth_ns: u64,
}

impl Pace {
    pub(crate) fn new(rate: Rate) -> Self {
        // Rounded up: rather a little less than more.
        let cost_ns = rate.per_ns.div_ceil(u64::from(rate.tokens.max(1))).max(1);
        let depth_ns = cost_ns.saturating_mul(u64::from(rate.burst.max(1)));
        Self { cost_ns, depth_ns }
    }

    /// When the bucket is full again after one token more; none if it has none left.
    #[inline]
    pub(crate) const fn drawn(self, full_ns: u64, now_ns: u64) -> Option<u64> {
        let from = if full_ns > now_ns { full_ns } else { now_ns };
        let full_ns = from.saturating_add(self.cost_ns);
        if full_ns <= now_ns.saturating_add(self.depth_ns) {
            Some(full_ns)
        } else {
            None
        }
    }
}

/// One bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    pace: Pace,
    full_ns: AtomicU64,
}

impl Bucket {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            pace: Pace::new(rate),
            full_ns: AtomicU64::new(0),
        }
    }

    /// Takes a token, if there is one.
    pub(crate) fn draw(&self, now_ns: u64) -> bool {
        let draw = |full_ns| self.pace.drawn(full_ns, now_ns);
        self.full_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, draw)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    const fn rate(tokens: u32, per_ns: u64, burst: u32) -> Rate {
        Rate {
            tokens,
            per_ns,
            burst,
        }
    }

    #[test]
    fn a_bucket_starts_full_and_fills_with_time() {
        let bucket = Bucket::new(rate(3, 60 * SECOND, 5));
        let taken = |now| (0..100).filter(|_| bucket.draw(now)).count();
        let start = 1000 * SECOND;
        assert_eq!(taken(start), 5);
        assert_eq!(taken(start + 19 * SECOND), 0);
        assert_eq!(taken(start + 20 * SECOND), 1);
        assert_eq!(taken(start + 65 * SECOND), 2);
        assert_eq!(taken(start + 9999 * SECOND), 5);
    }

    #[test]
    fn what_no_rate_is_still_gives_something_and_never_everything() {
        for odd in [
            rate(0, 0, 0),
            rate(u32::MAX, 1, u32::MAX),
            rate(1, u64::MAX, u32::MAX),
        ] {
            let bucket = Bucket::new(odd);
            assert!(bucket.draw(0), "{odd:?}");
            assert!(bucket.draw(u64::MAX - 1), "{odd:?}");
        }
        let bucket = Bucket::new(rate(0, SECOND, 0));
        assert!(bucket.draw(5) && !bucket.draw(5));
    }

    proptest! {
        /// The bucket that textbooks have: so many tokens, more with time, never above the brim.
        #[test]
        fn it_gives_what_a_bucket_of_tokens_gives(
            tokens in 1..50u32,
            burst in 1..20u32,
            steps in proptest::collection::vec(0..200u64, 1..200),
        ) {
            let cost = 60_000u64.div_ceil(u64::from(tokens));
            let bucket = Bucket::new(rate(tokens, 60_000, burst));
            let (mut now, mut held) = (1_000_000u64, u64::from(burst) * cost);
            for step in steps {
                now += step * 10;
                held = (held + step * 10).min(u64::from(burst) * cost);
                let expected = held >= cost;
                if expected {
                    held -= cost;
                }
                prop_assert_eq!(bucket.draw(now), expected);
            }
        }
    }

    #[test]
    fn threads_together_get_no_more_than_one_alone() {
        for round in 0..50 {
            let bucket = Bucket::new(rate(1, SECOND, 1000));
            let draw = || (0..1000u64).filter(|n| bucket.draw(SECOND + n % 7)).count();
            let got: usize = thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
                threads.into_iter().map(|t| t.join().unwrap()).sum()
            });
            assert_eq!(got, 1000, "round {round}");
        }
    }
}
