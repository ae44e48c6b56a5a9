//! Whose turn it is: the words by which a call goes over and its answer comes back.
//!
//! Invariants, for a client that keeps to them:
//! - a slot's request is the client's to write while its state says `ANSWERED`, and the
//!   server's to read from the posting of its bit until it answers;
//! - posting and resting are read-modify-writes of one word, so one of them sees the other: a
//!   server that rests with something posted, or a client that posts and rings for nobody, is
//!   impossible, and no fence is needed;
//! - going to sleep and answering are read-modify-writes of the slot's state, so a thread that
//!   sleeps is seen by the answer, or sees it.
//!
//! For a client that does not, every function still ends and returns a value of its type.
//! Never here: system calls, what a record means.

use crate::layout::{Layout, SLOTS, Slot, Words};
use crate::sync::Ordering;

/// Bits of `posted` that stand for slots.
pub(crate) const SLOT_BITS: u64 = u64::MAX >> (64 - SLOTS);
/// Bit of `posted`: the server sleeps and wants the doorbell.
pub(crate) const RESTING: u64 = 1 << 63;
/// Bit of `posted`: the server has left for good.
pub(crate) const CLOSED: u64 = 1 << 62;

/// What the low bits of a slot's state say; the others count its calls.
pub(crate) mod turn {
    /// Nothing is asked, or the reply is there.
    pub(crate) const ANSWERED: u32 = 0;
    /// The request is there, its thread looks for the reply.
    pub(crate) const POSTED: u32 = 1;
    /// The server has left for good.
    pub(crate) const CLOSED: u32 = 2;
    /// The request is there, its thread sleeps on the state.
    pub(crate) const SLEEPING: u32 = 3;

    pub(crate) const MASK: u32 = 3;
    /// The next call's count is this much higher.
    pub(crate) const STEP: u32 = 4;
}

/// What a client that posted has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Posted {
    /// Nothing: the server is awake and will look.
    Quiet,
    /// Ring the doorbell.
    Ring,
    /// Give up: there is no server.
    Closed,
}

/// What a client that waits finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Nothing yet. Sleep as long as the state has this value.
    Sleep(u32),
    /// The reply is there.
    Answered,
    /// There is no server.
    Closed,
    /// Somebody wrote what neither end writes.
    Garbled,
}

/// What a server finds that wants to rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rest {
    /// It may: whoever posts will ring.
    Granted,
    /// Something is posted.
    Refused,
}

impl Slot {
    /// The count of the call that this slot carried last, if it is the client's.
    pub(crate) fn idle(&self) -> Option<u32> {
        let state = self.state.load(Ordering::Acquire);
        (state & turn::MASK == turn::ANSWERED).then_some(state)
    }

    /// Writes the request of the call after `last` and says its count. It is not posted yet.
    pub(crate) fn write(&self, last: u32, request: &Words) -> u32 {
        for (word, value) in self.request.iter().zip(request) {
            word.store(*value, Ordering::Relaxed);
        }
        let call = last.wrapping_add(turn::STEP);
        // Relaxed: posting the slot's bit publishes it together with the request.
        self.state.store(call | turn::POSTED, Ordering::Relaxed);
        call
    }

    /// Looks for the reply of a call.
    pub(crate) fn look(&self, call: u32) -> Wait {
        Self::judge(call, self.state.load(Ordering::Acquire))
    }

    /// Looks for the reply of a call, and says that its thread sleeps if there is none.
    pub(crate) fn doze(&self, call: u32) -> Wait {
        let posted = call | turn::POSTED;
        let sleeping = call | turn::SLEEPING;
        let (order, failure) = (Ordering::Relaxed, Ordering::Acquire);
        match (self.state).compare_exchange(posted, sleeping, order, failure) {
            Ok(_) => Wait::Sleep(sleeping),
            Err(found) => Self::judge(call, found),
        }
    }

    fn judge(call: u32, found: u32) -> Wait {
        match found & turn::MASK {
            turn::CLOSED => Wait::Closed,
            _ if (found ^ call) & !turn::MASK != 0 => Wait::Garbled,
            turn::ANSWERED => Wait::Answered,
            _ => Wait::Sleep(found),
        }
    }

    /// The reply; of use only after it was seen to be there.
    pub(crate) fn reply(&self) -> Words {
        std::array::from_fn(|n| self.reply[n].load(Ordering::Relaxed))
    }

    /// The request, if the slot's state is that of the call `call` under way.
    pub(crate) fn request(&self, call: u32) -> Option<Words> {
        let state = self.state.load(Ordering::Relaxed);
        if state != call | turn::POSTED && state != call | turn::SLEEPING {
            return None;
        }
        Some(std::array::from_fn(|n| {
            self.request[n].load(Ordering::Relaxed)
        }))
    }

    /// Hands the reply over, and says whether the thread has to be woken.
    #[must_use]
    pub(crate) fn answer(&self, call: u32, reply: &Words) -> bool {
        for (word, value) in self.reply.iter().zip(reply) {
            word.store(*value, Ordering::Relaxed);
        }
        // Release, for the reply, and for the server's own reading of the request before.
        let found = self.state.swap(call | turn::ANSWERED, Ordering::Release);
        found & turn::MASK == turn::SLEEPING
    }

    /// Says that no reply will come, and whether a thread has to be woken.
    #[must_use]
    pub(crate) fn close(&self) -> bool {
        let found = self.state.swap(turn::CLOSED, Ordering::Relaxed);
        found & turn::MASK == turn::SLEEPING
    }
}

impl Layout {
    /// Makes a slot that was written visible to the server.
    pub(crate) fn post(&self, idx: usize) -> Posted {
        // Every client that finds the server resting rings, not only the first: that one may
        // be held up between posting and ringing for as long as the scheduler likes.
        let found = self.posted.fetch_or(1 << idx, Ordering::Release);
        match found & (RESTING | CLOSED) {
            0 => Posted::Quiet,
            RESTING => Posted::Ring,
            _ => Posted::Closed,
        }
    }

    /// Takes all that was posted and ends the server's rest.
    pub(crate) fn collect(&self) -> u64 {
        // A server that looks again and again leaves the line to the clients.
        if self.posted.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.posted.swap(0, Ordering::Acquire)
    }

    /// Says that the server will sleep, unless something is posted.
    pub(crate) fn rest(&self) -> Rest {
        let order = Ordering::Relaxed;
        match self.posted.compare_exchange(0, RESTING, order, order) {
            Ok(_) | Err(RESTING) => Rest::Granted,
            Err(_) => Rest::Refused,
        }
    }

    /// Says that the server has left, and which slots were posted. Those have to be closed after
    /// this; a slot that was answered keeps its reply.
    #[must_use]
    pub(crate) fn close(&self) -> u64 {
        // Acquire: the state of a slot that was posted before this is overwritten after it
        // was written; one posted later meets the bit.
        self.posted.swap(CLOSED, Ordering::Acquire) & SLOT_BITS
    }

    /// Whether the server has left in order.
    pub(crate) fn is_closed(&self) -> bool {
        self.posted.load(Ordering::Relaxed) & CLOSED != 0
    }
}
