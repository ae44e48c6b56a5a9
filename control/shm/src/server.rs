//! The server's end of a channel.
//!
//! Invariant: nothing that this end relies on lies in the shared memory: which calls it holds,
//! and which count each slot comes with next, it keeps for itself. What a batch may cost is
//! bounded by the number of slots.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::futex;

use crate::doorbell;
use crate::error::Violation;
use crate::handover::Handover;
use crate::layout::{SLOTS, Slot};
use crate::mailbox::{RESTING, Rest, SLOT_BITS, turn};
use crate::memory::Memory;
use crate::reply::Reply;
use crate::request::{Malformed, Request};

/// The server's end. Dropping it cuts the client off: who waits for a reply learns at once.
///
/// Serve it in rounds: [`collect`](Self::collect), [`take`](Self::take) until there is none,
/// [`reply`](Self::reply) to each, and [`rest`](Self::rest); only if that says yes, wait until
/// the descriptor ([`AsFd`]) is readable. A client can keep posting for ever, so serve other
/// channels between two rounds. That the client has died is seen on the Unix socket by which it
/// came, or by its pidfd, not here.
#[derive(Debug)]
pub struct ServerEnd {
    memory: Memory,
    bell: OwnedFd,
    /// The count of each slot's call that was taken last.
    calls: [u32; SLOTS],
    /// Slots whose calls were taken and not answered.
    held: u64,
    /// Slots collected and not taken.
    batch: u64,
    /// Whether clients were told to ring.
    rests: bool,
}

/// A call that was taken.
#[derive(Debug)]
pub struct Call {
    /// What to answer it with.
    pub ticket: Ticket,
    /// What the client asks, copied out and checked.
    pub request: Result<Request, Malformed>,
}

/// The right and the duty to answer one call, at the end that it came from. While it is not
/// answered, its client waits.
#[derive(Debug)]
#[must_use = "its client waits for the reply"]
pub struct Ticket {
    slot: usize,
    call: u32,
    tag: u64,
}

impl ServerEnd {
    /// Makes a channel, and what its client needs of it.
    ///
    /// # Errors
    /// The system's answer.
    pub fn create() -> io::Result<(Self, Handover)> {
        let (memory, file) = Memory::create()?;
        let bell = doorbell::create()?;
        let doorbell = bell.try_clone()?;
        let end = Self {
            memory,
            bell,
            calls: [0; SLOTS],
            held: 0,
            batch: 0,
            rests: false,
        };
        let handover = Handover {
            memory: file,
            doorbell,
        };
        Ok((end, handover))
    }

    /// Starts a round: notes what is posted and ends the rest. Says how many calls there are to
    /// take; at most one for each slot.
    ///
    /// # Errors
    /// The client is to be cut off.
    pub fn collect(&mut self) -> Result<usize, Violation> {
        if self.rests {
            self.rests = false;
            // It can fail only if the descriptor were no eventfd. The worst that an unread bell
            // does is that the next wait ends at once.
            let _ = doorbell::silence(&self.bell);
        }
        let found = self.memory.collect();
        let bits = found & !(SLOT_BITS | RESTING);
        if bits != 0 {
            return Err(Violation::NoSuchSlot { bits });
        }
        self.batch |= found & SLOT_BITS;
        Ok(self.batch.count_ones() as usize)
    }

    /// Takes the next call of this round.
    ///
    /// # Errors
    /// The client is to be cut off.
    pub fn take(&mut self) -> Result<Option<Call>, Violation> {
        if self.batch == 0 {
            return Ok(None);
        }
        let slot = self.batch.trailing_zeros() as usize;
        let bit = 1 << slot;
        self.batch &= !bit;
        if self.held & bit != 0 {
            return Err(Violation::PostedTwice { slot });
        }
        let call = self.calls[slot].wrapping_add(turn::STEP);
        let words = self.memory.slots[slot].request(call);
        let words = words.ok_or(Violation::OutOfTurn { slot })?;
        self.calls[slot] = call;
        self.held |= bit;
        let (tag, request) = Request::parse(words);
        let ticket = Ticket { slot, call, tag };
        Ok(Some(Call { ticket, request }))
    }

    /// Answers a call and wakes the thread that waits for it. The reply gets the tag of the
    /// request.
    pub fn reply(&mut self, ticket: Ticket, reply: &Reply) {
        let Ticket { slot, call, tag } = ticket;
        self.held &= !(1 << slot);
        let words = Reply { tag, ..*reply }.words();
        let slot = &self.memory.slots[slot];
        if slot.answer(call, &words) {
            wake(slot);
        }
    }

    /// Serves one round: every call that is posted now is answered by what `answer` says. A
    /// request that is none is answered with its errno. Says how many calls there were.
    ///
    /// # Errors
    /// The client is to be cut off.
    pub fn serve(&mut self, mut answer: impl FnMut(&Request) -> Reply) -> Result<usize, Violation> {
        self.collect()?;
        let mut served = 0;
        while let Some(Call { ticket, request }) = self.take()? {
            let reply = match request {
                Ok(request) => answer(&request),
                Err(malformed) => Reply::refused(malformed.errno()),
            };
            self.reply(ticket, &reply);
            served += 1;
        }
        Ok(served)
    }

    /// The descriptor for tokio's tasks.
    ///
    /// # Errors
    /// The system's answer.
    ///
    /// # Panics
    /// Outside of a runtime that drives descriptors.
    #[cfg(feature = "tokio")]
    pub fn bell(&self) -> io::Result<crate::Bell> {
        crate::Bell::new(self.bell.try_clone()?)
    }

    /// Whether to wait for the descriptor: clients ring from now on. If not, something is
    /// posted: serve another round.
    #[must_use = "to wait without it is to sleep through calls"]
    pub fn rest(&mut self) -> bool {
        if self.batch != 0 || self.memory.rest() == Rest::Refused {
            return false;
        }
        self.rests = true;
        true
    }
}

/// Readable when a client has rung.
impl AsFd for ServerEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        let mut unanswered = self.memory.close() | self.batch | self.held;
        while unanswered != 0 {
            let slot = &self.memory.slots[unanswered.trailing_zeros() as usize];
            unanswered &= unanswered - 1;
            if slot.close() {
                wake(slot);
            }
        }
    }
}

/// Wakes the thread that sleeps on a slot.
fn wake(slot: &Slot) {
    // It can fail only for an address that is not mapped. A client that sleeps elsewhere than
    // on its own slot has itself to blame.
    let _ = futex::wake(&slot.state, futex::Flags::empty(), 1);
}

#[cfg(test)]
impl ServerEnd {
    /// Lets a slot's calls be counted from here, on both ends.
    pub(crate) fn start_at(&mut self, slot: usize, call: u32) {
        self.calls[slot] = call;
        let state = call | turn::ANSWERED;
        let order = std::sync::atomic::Ordering::Relaxed;
        self.memory.slots[slot].state.store(state, order);
    }
}
