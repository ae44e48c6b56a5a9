//! Who flows belong to: how many each owner has, and whether it has been withdrawn.
//!
//! Invariant: a word changes under the flow table's writer lock alone; readers take no lock.

use crate::sync::{AtomicU32, Ordering};

/// Marks an owner whose registration has gone.
const WITHDRAWN: u32 = 1 << 31;
/// Marks an owner that has, or has had, a flow.
const HAS_HAD: u32 = 1 << 30;

/// Names who a flow or a registration belongs to: 1 to [`Self::MAX`], or nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct OwnerId(pub u32);

impl OwnerId {
    /// No owner: what came from a rule, or from a packet to a proxy itself.
    pub const NOBODY: Self = Self(0);
    /// The highest: three bytes of a flow's record hold it.
    pub const MAX: u32 = 0xff_ffff;
}

/// A word for each owner: live flows in the low bits, the marks on top.
pub(crate) struct Owners(Box<[AtomicU32]>);

impl Owners {
    /// Words for the owners 1 to `most`.
    pub(crate) fn new(most: u32) -> Self {
        let words = most.min(OwnerId::MAX) as usize + 1;
        let word = || AtomicU32::new(0);
        Self(std::iter::repeat_with(word).take(words).collect())
    }

    /// The word of an owner; nobody has none, nor has a stranger.
    fn word(&self, owner: OwnerId) -> Option<&AtomicU32> {
        let word = self.0.get(owner.0 as usize);
        word.filter(|_| owner != OwnerId::NOBODY)
    }

    fn load(&self, owner: OwnerId) -> u32 {
        self.word(owner)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    pub(crate) fn flows(&self, owner: OwnerId) -> u32 {
        self.load(owner) & !(WITHDRAWN | HAS_HAD)
    }

    pub(crate) fn has_had(&self, owner: OwnerId) -> bool {
        self.load(owner) & HAS_HAD != 0
    }

    pub(crate) fn is_withdrawn(&self, owner: OwnerId) -> bool {
        self.load(owner) & WITHDRAWN != 0
    }

    /// Whether a flow may be made for it: nobody always has leave, a stranger never.
    pub(crate) fn may_own(&self, owner: OwnerId) -> bool {
        owner == OwnerId::NOBODY || (self.word(owner).is_some() && !self.is_withdrawn(owner))
    }

    /// Changes a word. The caller holds the writer lock.
    pub(crate) fn change(&self, owner: OwnerId, change: Change) {
        let Some(word) = self.word(owner) else {
            return;
        };
        let before = word.load(Ordering::Relaxed);
        let after = match change {
            // There are fewer flows than 2^30.
            Change::FlowMade => (before + 1) | HAS_HAD,
            Change::FlowGone => before - 1,
            Change::Withdraw => before | WITHDRAWN,
            Change::Reinstate if before & !HAS_HAD == WITHDRAWN => 0,
            Change::Reinstate => before,
        };
        word.store(after, Ordering::Release);
    }
}

/// What happens to an owner.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    FlowMade,
    FlowGone,
    Withdraw,
    /// Nothing while flows of its old life are there.
    Reinstate,
}
