//! A client that leaves what it likes in the shared memory of its channel, while another's
//! registrations stand.

use std::collections::VecDeque;

use shm::{Access, Operation, Request, ServerEnd};

use crate::frames::Input;
use crate::mailbox::{self, HEADER_BYTES, Mailbox, OPERATIONS, RECORD_BYTES, SLOTS, TOTAL_BYTES};
use crate::naive::{Naive, STEP};
use crate::strangers::{self, ENDS, Strangers};

/// A step that changes the memory takes place within the next round, between the server's
/// question and its answer.
const MEANWHILE: u8 = 0x80;

/// The input: steps, each a byte that says which, and what it needs. The low three bits:
///
/// | | step | needs |
/// |---|---|---|
/// | 0, 1 | a call by the rules | slot, operation, how, socket, flags, endpoints |
/// | 2 | bytes anywhere | where, two bytes; how many; they |
/// | 3 | a byte of a request | slot, place, value |
/// | 4 | the state of a slot | slot, how far ahead, turn |
/// | 5 | `posted`, or the whole memory | which; eight bytes, or value and step |
/// | 6 | the box | what, and about which |
/// | 7 | the server does a round | |
///
/// # Panics
/// If the server does anything else in a round than the protocol says, a refused operation
/// changes something, another's registrations change, or the box's books do not agree with
/// what is registered.
pub fn channel(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut play = Play::new();
    let mut is_served = true;
    while is_served && !input.is_empty() {
        is_served = play.step(&mut input);
    }
    if is_served {
        play.round();
    }
    play.leave();
}

/// What a client does to the memory.
enum Change {
    Call {
        slot: usize,
        record: [u8; RECORD_BYTES],
        is_asleep: bool,
    },
    Bytes {
        at: usize,
        bytes: Vec<u8>,
    },
    RequestByte {
        slot: usize,
        at: usize,
        value: u8,
    },
    State {
        slot: usize,
        ahead: u8,
        turn: u8,
    },
    Posted(u64),
    /// Everything, but for the header or the states if they are kept.
    Fill {
        keeps: u8,
        value: u8,
        step: u8,
    },
}

struct Play {
    strangers: Strangers,
    end: ServerEnd,
    naive: Naive,
    meanwhile: VecDeque<Change>,
    calls: u64,
}

impl Play {
    fn new() -> Self {
        let strangers = Strangers::open();
        let (end, handover) = match ServerEnd::create() {
            Ok(made) => made,
            Err(error) => panic!("no channel: {error}"),
        };
        Self {
            strangers,
            end,
            naive: Naive::new(Mailbox::new(handover.memory)),
            meanwhile: VecDeque::new(),
            calls: 0,
        }
    }

    /// One step of the input. Whether the client is still served.
    fn step(&mut self, input: &mut Input<'_>) -> bool {
        let [what] = input.take();
        let change = match what & 7 {
            0 | 1 => self.call(input.take()),
            2 => {
                let [hi, lo, len] = input.take();
                let at = usize::from(u16::from_be_bytes([hi, lo])) % TOTAL_BYTES;
                let bytes = input.rest(usize::from(len)).to_vec();
                Change::Bytes { at, bytes }
            }
            3 => {
                let [slot, at, value] = input.take();
                Change::RequestByte {
                    slot: usize::from(slot) % SLOTS,
                    at: usize::from(at) % RECORD_BYTES,
                    value,
                }
            }
            4 => {
                let [slot, ahead, turn] = input.take();
                let slot = usize::from(slot) % SLOTS;
                Change::State { slot, ahead, turn }
            }
            5 => match input.take() {
                [which] if which & 1 == 0 => Change::Posted(u64::from_ne_bytes(input.take())),
                [keeps] => {
                    let [value, step] = input.take();
                    Change::Fill { keeps, value, step }
                }
            },
            6 => {
                let [what, which] = input.take();
                self.strangers.change(what, which);
                return true;
            }
            _ => return self.round(),
        };
        if what & MEANWHILE == 0 {
            apply(&self.naive, change);
        } else {
            self.meanwhile.push_back(change);
        }
        true
    }

    /// A call as a client makes it, though perhaps of nonsense.
    fn call(&mut self, [slot, operation, how, fd, flags, ends]: [u8; 6]) -> Change {
        let number = if operation & 0x80 == 0 {
            OPERATIONS[usize::from(operation) % OPERATIONS.len()].0
        } else {
            u32::from(operation & 0x7f)
        };
        let access = if how & 1 == 0 {
            Access::Set
        } else {
            Access::Get
        };
        let pick = |which: u8| ENDS.get(usize::from(which)).copied().flatten();
        let spread = u32::from(flags & 0xf8) << 13;
        self.calls += 1;
        let request = Request {
            flags: u32::from(flags & 7) | spread,
            version: u32::from(flags ^ 2) << 24,
            proto: [0, 6, 17, 99][usize::from(how >> 2 & 3)],
            cookie: [0, 0, 1, strangers::FIRST_COOKIE][usize::from(how >> 4 & 3)],
            tag: self.calls << 32 | u64::from(slot),
            local: [None, None, pick(ends & 15), pick(1)][usize::from(how >> 6)],
            foreign: pick(ends & 15),
            peer: pick(ends >> 4),
            ..Request::new(Operation::Version, access, i32::from(fd.cast_signed()))
        };
        Change::Call {
            slot: usize::from(slot) % SLOTS,
            record: mailbox::write_request(number, &request),
            is_asleep: how & 2 != 0,
        }
    }

    /// The server does a round. Whether the client is still served.
    fn round(&mut self) -> bool {
        let Self {
            strangers,
            end,
            naive,
            meanwhile,
            ..
        } = self;
        naive.begin();
        let served = end.serve(|request| {
            let reply = naive.is_asked(request, || strangers.answer(request));
            if let Some(change) = meanwhile.pop_front() {
                apply(naive, change);
            }
            naive.goes_on();
            reply
        });
        let is_served = naive.end(served);
        if is_served {
            let may_rest = naive.may_rest();
            assert_eq!(end.rest(), may_rest);
            if may_rest {
                naive.rests();
            }
        }
        strangers.balance();
        is_served
    }

    /// The client is cut off, and its sockets close.
    fn leave(self) {
        let waiting = self.naive.waiting();
        drop(self.end);
        self.naive.has_left(waiting);
        self.strangers.leave();
    }
}

fn apply(naive: &Naive, change: Change) {
    let memory = &naive.memory;
    match change {
        Change::Call {
            slot,
            record,
            is_asleep,
        } => {
            memory.put_request(slot, 0, &record);
            memory.put_state(slot, naive.posted_state(slot, is_asleep));
            memory.put_posted(memory.posted() | 1 << slot);
        }
        Change::Bytes { at, bytes } => memory.put(at, &bytes),
        Change::RequestByte { slot, at, value } => memory.put_request(slot, at, &[value]),
        Change::State { slot, ahead, turn } => {
            let ahead = STEP.wrapping_mul(i32::from(ahead.cast_signed()).cast_unsigned());
            let count = naive.last(slot).wrapping_add(ahead);
            memory.put_state(slot, count | u32::from(turn & 3));
        }
        Change::Posted(bits) => memory.put_posted(bits),
        Change::Fill { keeps, value, step } => {
            let states: Vec<u32> = (0..SLOTS).map(|slot| memory.state(slot)).collect();
            let nth = |n: usize| value.wrapping_add(step.wrapping_mul(n as u8));
            let bytes: Vec<u8> = (0..TOTAL_BYTES).map(nth).collect();
            let from = if keeps & 2 == 0 { 0 } else { HEADER_BYTES };
            memory.put(from, &bytes[from..]);
            if keeps & 4 != 0 {
                for (slot, state) in states.into_iter().enumerate() {
                    memory.put_state(slot, state);
                }
            }
        }
    }
}
