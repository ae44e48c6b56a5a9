//! The policy that workers read while the control thread replaces it.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::Policy;

/// The current policy. Readers keep an `Arc` of their own and refresh it once per batch.
#[derive(Debug)]
pub struct Shared {
    current: ArcSwap<Policy>,
}

impl Shared {
    /// Starts with `policy`.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            current: ArcSwap::from_pointee(policy),
        }
    }

    /// Publishes a new policy. Readers see it at their next refresh.
    pub fn replace(&self, policy: Policy) {
        self.current.store(Arc::new(policy));
    }

    /// The current policy, to keep.
    #[must_use]
    pub fn load_full(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// The generation of the current policy.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.current.load().generation()
    }

    /// Makes `cached` the current policy; true if it was another. Compares identity, so
    /// that no generation given twice can hide a change.
    #[inline]
    pub fn refresh(&self, cached: &mut Arc<Policy>) -> bool {
        let current = self.current.load();
        if Arc::ptr_eq(&current, cached) {
            return false;
        }
        *cached = Guard::into_inner(current);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_a_replacement_at_its_next_refresh_and_only_once() {
        let shared = Shared::new(Policy::empty(1));
        let mut cached = shared.load_full();
        assert!(!shared.refresh(&mut cached));
        shared.replace(Policy::empty(2));
        assert_eq!((cached.generation(), shared.generation()), (1, 2));
        assert!(shared.refresh(&mut cached));
        assert_eq!(cached.generation(), 2);
        assert!(!shared.refresh(&mut cached));
    }

    #[test]
    fn a_generation_given_twice_does_not_hide_a_replacement() {
        let shared = Shared::new(Policy::empty(7));
        let mut cached = shared.load_full();
        shared.replace(Policy::empty(7));
        assert!(shared.refresh(&mut cached));
        assert!(Arc::ptr_eq(&cached, &shared.load_full()));
    }

    #[test]
    fn readers_on_other_threads_end_with_the_last_policy() {
        let shared = Shared::new(Policy::empty(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut cached = shared.load_full();
                    let mut last = cached.generation();
                    while last < 1000 {
                        if shared.refresh(&mut cached) {
                            assert!(cached.generation() > last, "went back");
                            last = cached.generation();
                        }
                    }
                });
            }
            (1..=1000).for_each(|generation| shared.replace(Policy::empty(generation)));
        });
    }
}
