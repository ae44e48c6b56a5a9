//! The client's end of a channel.
//!
//! Invariant: a thread in a call owns its slot until it has read the reply or given the call
//! up; it never sleeps longer than a slice without a look at whether there is a server.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::thread::futex;

use crate::doorbell;
use crate::error::{CallError, MapError};
use crate::handover::Handover;
use crate::home::Home;
use crate::layout::Slot;
use crate::mailbox::{Posted, Wait};
use crate::memory::Memory;
use crate::reply::Reply;
use crate::request::Request;
use crate::slots::Slots;
use crate::spin::Spin;

/// How long [`ClientEnd::call`] waits.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a thread sleeps before it looks whether there is still a server. One that leaves in
/// order wakes its clients; one that was killed cannot.
const SLICE: Duration = Duration::from_millis(50);

/// The client's end: of one process, for all of its threads.
#[derive(Debug)]
pub struct ClientEnd {
    memory: Memory,
    bell: OwnedFd,
    socket: OwnedFd,
    slots: Slots,
    spin: Spin,
    home: Home,
    /// The server is gone, or the memory cannot be relied on.
    dead: AtomicBool,
}

impl ClientEnd {
    /// Maps what was handed over. The socket by which it came is the sign of life of both ends:
    /// each takes its hang-up for the other's death, so this keeps it.
    ///
    /// # Errors
    /// What was handed over is no channel of this version, or the system's answer.
    pub fn map(handover: Handover, socket: OwnedFd) -> Result<Self, MapError> {
        Ok(Self {
            memory: Memory::open(handover.memory.as_fd())?,
            bell: handover.doorbell,
            socket,
            slots: Slots::new(),
            spin: Spin::new(),
            home: Home::new()?,
            dead: AtomicBool::new(false),
        })
    }

    /// The descriptors that it needs, doorbell and socket, for programs that close all that they
    /// do not know: a number used again for something else would be written to.
    #[must_use]
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.bell.as_raw_fd(), self.socket.as_raw_fd()]
    }

    /// Asks, and waits for the reply at most [`PATIENCE`].
    ///
    /// # Errors
    /// See [`CallError`]. That the server refuses is no error here, but the reply's errno.
    pub fn call(&self, request: &Request) -> Result<Reply, CallError> {
        self.call_within(request, PATIENCE)
    }

    /// Asks, and waits for the reply at most as long as said.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_within(&self, request: &Request, most: Duration) -> Result<Reply, CallError> {
        if !self.home.is_here() {
            return Err(CallError::Forked);
        }
        if self.dead.load(Ordering::Relaxed) {
            return Err(CallError::Closed);
        }
        let mut limit = Limit::new(most);
        let (idx, last) = self.claim(&mut limit)?;
        let slot = &self.memory.slots[idx];
        let call = slot.write(last, &request.words());
        match self
            .post(idx)
            .and_then(|()| self.wait(slot, call, &mut limit))
        {
            Ok(()) => {}
            Err(error @ (CallError::Closed | CallError::Garbled)) => {
                self.dead.store(true, Ordering::Relaxed);
                return Err(error);
            }
            Err(error) => {
                self.slots.abandon(idx);
                return Err(error);
            }
        }
        let words = slot.reply();
        self.slots.release(idx);
        Reply::parse(words).ok_or(CallError::Garbled)
    }

    /// Takes a slot for a call; says too which count it comes with.
    fn claim(&self, limit: &mut Limit) -> Result<(usize, u32), CallError> {
        loop {
            let idle = |idx: usize| self.memory.slots[idx].idle();
            self.slots.recover(|idx| idle(idx).is_some());
            if let Some(idx) = self.slots.claim().or_else(|| self.await_slot()) {
                if let Some(last) = idle(idx) {
                    return Ok((idx, last));
                }
                // Its call was given up twice, or the server has left.
                self.slots.abandon(idx);
                self.check_alive()?;
            } else {
                self.check_alive()?;
            }
            limit.check()?;
        }
    }

    /// Waits a slice for another thread to put a slot back.
    fn await_slot(&self) -> Option<usize> {
        self.slots.claim_or_sleep(|freed, gate| {
            let woken = freed.wait_timeout(gate, SLICE);
            let (gate, slept) = woken.unwrap_or_else(|held| held.into_inner());
            (!slept.timed_out()).then_some(gate)
        })
    }

    fn post(&self, idx: usize) -> Result<(), CallError> {
        match self.memory.post(idx) {
            Posted::Quiet => Ok(()),
            Posted::Ring => Ok(doorbell::ring(&self.bell)?),
            Posted::Closed => Err(CallError::Closed),
        }
    }

    /// Waits until the reply to a call is there.
    fn wait(&self, slot: &Slot, call: u32, limit: &mut Limit) -> Result<(), CallError> {
        let seen = self.spin.until(|| match slot.look(call) {
            Wait::Sleep(_) => None,
            other => Some(other),
        });
        let mut found = seen.unwrap_or_else(|| slot.doze(call));
        loop {
            match found {
                Wait::Answered => return Ok(()),
                Wait::Closed => return Err(CallError::Closed),
                Wait::Garbled => return Err(CallError::Garbled),
                Wait::Sleep(state) => {
                    let overdue = limit.check();
                    let dead = self.sleep(slot, state);
                    found = slot.doze(call);
                    // A reply that came in the meantime counts.
                    if matches!(found, Wait::Sleep(_)) {
                        dead?;
                        overdue?;
                    }
                }
            }
        }
    }

    /// Sleeps while a slot's state is this, at most a slice.
    fn sleep(&self, slot: &Slot, state: u32) -> Result<(), CallError> {
        let slice = Timespec {
            tv_sec: 0,
            tv_nsec: SLICE.subsec_nanos().into(),
        };
        match futex::wait(&slot.state, futex::Flags::empty(), state, Some(&slice)) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(Errno::TIMEDOUT) => self.check_alive(),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether the server still holds its end of the socket.
    fn check_alive(&self) -> Result<(), CallError> {
        if self.memory.is_closed() {
            return Err(CallError::Closed);
        }
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        let mut socket = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut socket, Some(&now)) {
            Ok(_) if socket[0].revents().intersects(gone) => Err(CallError::Closed),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// When to give a call up. The clock is first read when there is something to wait for.
struct Limit {
    most: Duration,
    start: Option<Instant>,
}

impl Limit {
    fn new(most: Duration) -> Self {
        Self { most, start: None }
    }

    fn check(&mut self) -> Result<(), CallError> {
        let start = *self.start.get_or_insert_with(Instant::now);
        if start.elapsed() > self.most {
            return Err(CallError::TimedOut);
        }
        Ok(())
    }
}
