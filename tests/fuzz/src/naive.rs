//! What a server must do in a round, said once more and plainly: which calls it takes, in which
//! order, what it cuts a client off for, and what stands in the memory afterwards.

use shm::{Reply, Request, Violation};

use crate::mailbox::{self, Mailbox, SLOTS};

const ANSWERED: u32 = 0;
const POSTED: u32 = 1;
const CLOSED: u32 = 2;
const SLEEPING: u32 = 3;
/// The next call's count is this much higher.
pub(crate) const STEP: u32 = 4;
const RESTS: u64 = 1 << 63;
const LEFT: u64 = 1 << 62;

/// A call with its slot and the count in the slot's state.
struct Call {
    slot: usize,
    count: u32,
    tag: u64,
}

/// A server's view of a channel, foretold from the memory alone.
pub(crate) struct Naive {
    pub(crate) memory: Mailbox,
    /// The count of each slot's last call.
    calls: [u32; SLOTS],
    /// Slots of this round that are not taken yet.
    left: u64,
    /// The call that the server will ask about next.
    next: Option<(Call, Request)>,
    /// Answered calls that were not looked at yet.
    answered: Vec<(Call, Reply)>,
    fault: Option<Violation>,
    taken: usize,
}

impl Naive {
    pub(crate) const fn new(memory: Mailbox) -> Self {
        Self {
            memory,
            calls: [0; SLOTS],
            left: 0,
            next: None,
            answered: Vec::new(),
            fault: None,
            taken: 0,
        }
    }

    /// The state of a slot's next call.
    pub(crate) fn posted_state(&self, slot: usize, is_asleep: bool) -> u32 {
        let turn = if is_asleep { SLEEPING } else { POSTED };
        self.last(slot).wrapping_add(STEP) | turn
    }

    /// The count of the slot's last call.
    pub(crate) fn last(&self, slot: usize) -> u32 {
        self.calls.get(slot).copied().unwrap_or_default()
    }

    /// A round begins.
    pub(crate) fn begin(&mut self) {
        let found = self.memory.posted() & !RESTS;
        let bits = found >> SLOTS << SLOTS;
        self.taken = 0;
        self.left = 0;
        if bits != 0 {
            self.fault = Some(Violation::NoSuchSlot { bits });
            return;
        }
        self.left = found;
        self.advance();
    }

    /// Up to the next request that is one.
    fn advance(&mut self) {
        while self.left != 0 {
            let slot = self.left.trailing_zeros() as usize;
            self.left &= self.left - 1;
            let count = self.last(slot).wrapping_add(STEP);
            if ![count | POSTED, count | SLEEPING].contains(&self.memory.state(slot)) {
                self.fault = Some(Violation::OutOfTurn { slot });
                return;
            }
            if let Some(last) = self.calls.get_mut(slot) {
                *last = count;
            }
            self.taken += 1;
            let (tag, request) = mailbox::read_request(&self.memory.request(slot));
            let call = Call { slot, count, tag };
            match request {
                Ok(request) => {
                    self.next = Some((call, request));
                    return;
                }
                Err(errno) => self.answered.push((call, Reply::refused(errno))),
            }
        }
    }

    /// The server asks what to answer. What stood in the memory then is what it was asked.
    pub(crate) fn is_asked(&mut self, request: &Request, answer: impl FnOnce() -> Reply) -> Reply {
        self.look();
        let Some((call, posted)) = self.next.take() else {
            panic!("nobody has posted {request:?}");
        };
        assert_eq!(*request, posted);
        let reply = answer();
        self.answered.push((call, reply));
        reply
    }

    /// The memory has changed since the server asked.
    pub(crate) fn goes_on(&mut self) {
        self.advance();
    }

    /// Every answer stands where its call was.
    fn look(&mut self) {
        for (call, reply) in self.answered.drain(..) {
            let Call { slot, count, tag } = call;
            assert_eq!(self.memory.state(slot), count | ANSWERED, "slot {slot}");
            let wanted = mailbox::write_reply(&Reply { tag, ..reply });
            assert_eq!(self.memory.reply(slot), wanted, "slot {slot}: {reply:?}");
        }
    }

    /// The round is over. Whether the client is still served.
    pub(crate) fn end(&mut self, served: Result<usize, Violation>) -> bool {
        self.look();
        assert!(self.next.is_none(), "a call was not answered");
        match self.fault {
            None => {
                assert_eq!(served, Ok(self.taken));
                assert!(self.taken <= SLOTS);
            }
            Some(fault) => assert_eq!(served, Err(fault)),
        }
        self.fault.is_none()
    }

    /// Whether the server may sleep now.
    pub(crate) fn may_rest(&self) -> bool {
        [0, RESTS].contains(&self.memory.posted())
    }

    /// It sleeps, so whoever posts has to ring.
    pub(crate) fn rests(&self) {
        assert_eq!(self.memory.posted(), RESTS);
    }

    /// Which slots' threads must learn that the server leaves: those posted, and those of a
    /// round that it broke off.
    pub(crate) fn waiting(&self) -> u64 {
        self.left | (self.memory.posted() & !(u64::MAX << SLOTS))
    }

    /// The server has left.
    pub(crate) fn has_left(&self, waiting: u64) {
        assert_eq!(self.memory.posted(), LEFT);
        for slot in (0..SLOTS).filter(|slot| waiting >> slot & 1 != 0) {
            assert_eq!(
                self.memory.state(slot),
                CLOSED,
                "slot {slot} waits for ever"
            );
        }
    }
}
