//! Owner ids: given out, and given again after a rest.

use std::collections::VecDeque;

use tables::OwnerId;

/// How long an id rests before another registration gets it: far longer than a batch takes, so
/// that no worker which found the old registration makes a flow for the new one.
const REST_NS: u64 = 1_000_000_000;

/// The ids that are free.
#[derive(Debug)]
pub(crate) struct Owners {
    /// Never given out: all from here to `most`.
    fresh: u32,
    /// The last fresh one.
    most: u32,
    /// Given back before any worker could see them.
    unseen: Vec<OwnerId>,
    /// Given back, oldest first, with the time.
    resting: VecDeque<(OwnerId, u64)>,
}

impl Owners {
    pub(crate) fn new() -> Self {
        Self {
            fresh: 1,
            most: OwnerId::MAX,
            unseen: Vec::new(),
            resting: VecDeque::new(),
        }
    }

    pub(crate) fn take(&mut self, now_ns: u64) -> Option<OwnerId> {
        if let Some(owner) = self.unseen.pop() {
            return Some(owner);
        }
        let has_rested = |&(_, since): &(OwnerId, u64)| now_ns.saturating_sub(since) >= REST_NS;
        if self.resting.front().is_some_and(has_rested) {
            return self.resting.pop_front().map(|(owner, _)| owner);
        }
        let owner = (self.fresh <= self.most).then_some(OwnerId(self.fresh))?;
        self.fresh += 1;
        Some(owner)
    }

    /// The flow table knows neither this fresh id nor any above it.
    pub(crate) fn limit_below(&mut self, owner: OwnerId) {
        self.most = owner.0.saturating_sub(1);
    }

    /// For a registration that was not made after all: no worker has seen it.
    pub(crate) fn put_back(&mut self, owner: OwnerId) {
        self.unseen.push(owner);
    }

    pub(crate) fn put(&mut self, owner: OwnerId, now_ns: u64) {
        self.resting.push_back((owner, now_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_rests_before_it_is_given_again() {
        let mut owners = Owners::new();
        owners.limit_below(OwnerId(3));
        let first = owners.take(0).unwrap();
        owners.put(first, 5);
        assert_eq!(owners.take(REST_NS), Some(OwnerId(2)), "a fresh one first");
        assert_eq!(owners.take(REST_NS + 4), None, "not rested yet");
        assert_eq!(owners.take(REST_NS + 5), Some(first));
        assert_eq!(owners.take(u64::MAX), None, "all given out");
        owners.put_back(first);
        assert_eq!(owners.take(0), Some(first), "nobody has seen it");
    }
}
