//! Every interleaving that loom can tell apart, of two ends that keep to the rules. Where a
//! wakeup could be lost, a model ends in a deadlock, which loom reports.

use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::layout::{Layout, SLOTS, Slot};
use crate::mailbox::{Posted, Rest, SLOT_BITS, Wait, turn};
use crate::slots::Slots;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A channel whose system calls are models too.
struct Channel {
    memory: Layout,
    /// The eventfd.
    rung: Mutex<bool>,
    bell: Condvar,
    /// The kernel's side of the futexes.
    sleepers: [(Mutex<()>, Condvar); SLOTS],
}

impl Channel {
    fn new() -> Arc<Self> {
        let memory = Layout {
            identity: [AtomicU32::new(0)],
            posted: AtomicU64::new(0),
            slots: std::array::from_fn(|_| Slot {
                state: AtomicU32::new(0),
                request: [AtomicU64::new(0)],
                reply: [AtomicU64::new(0)],
            }),
        };
        Arc::new(Self {
            memory,
            rung: Mutex::new(false),
            bell: Condvar::new(),
            sleepers: std::array::from_fn(|_| (Mutex::new(()), Condvar::new())),
        })
    }

    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.bell.notify_one();
    }

    fn await_bell(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.bell.wait(rung).unwrap();
        }
        *rung = false;
    }

    /// As the system's: sleeps only if the word has this value, looked at under its own lock.
    fn futex_wait(&self, idx: usize, value: u32) {
        let (lock, signal) = &self.sleepers[idx];
        let held = lock.lock().unwrap();
        if self.memory.slots[idx].state.load(Ordering::Relaxed) == value {
            drop(signal.wait(held).unwrap());
        }
    }

    fn futex_wake(&self, idx: usize) {
        let (lock, signal) = &self.sleepers[idx];
        drop(lock.lock().unwrap());
        signal.notify_one();
    }

    /// A client's call, without looking before it sleeps. Nothing if the server has left.
    fn call(&self, idx: usize, request: u64) -> Option<u64> {
        let slot = &self.memory.slots[idx];
        let call = slot.write(slot.idle()?, &[request]);
        match self.memory.post(idx) {
            Posted::Quiet => {}
            Posted::Ring => self.ring(),
            Posted::Closed => return None,
        }
        loop {
            match slot.doze(call) {
                Wait::Answered => return Some(slot.reply()[0]),
                Wait::Sleep(state) => self.futex_wait(idx, state),
                Wait::Closed => return None,
                Wait::Garbled => panic!("the state is of another call"),
            }
        }
    }

    /// A server that answers so many calls with the request plus 100, and then leaves.
    fn serve(&self, count: usize) {
        let mut calls = [0; SLOTS];
        let mut served = 0;
        while served < count {
            let batch = self.memory.collect() & SLOT_BITS;
            for idx in (0..SLOTS).filter(|idx| batch & (1 << idx) != 0) {
                let slot = &self.memory.slots[idx];
                calls[idx] += turn::STEP;
                let request = slot.request(calls[idx]).expect("out of turn");
                if slot.answer(calls[idx], &[request[0] + 100]) {
                    self.futex_wake(idx);
                }
                served += 1;
            }
            if served < count && self.memory.rest() == Rest::Granted {
                self.await_bell();
            }
        }
        let unanswered = self.memory.close();
        for idx in (0..SLOTS).filter(|idx| unanswered & (1 << idx) != 0) {
            if self.memory.slots[idx].close() {
                self.futex_wake(idx);
            }
        }
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn calls_follow_one_another_on_a_slot() {
    check(|| {
        let channel = Channel::new();
        let server = Arc::clone(&channel);
        let serving = thread::spawn(move || server.serve(2));
        assert_eq!(channel.call(0, 1), Some(101));
        assert_eq!(channel.call(0, 2), Some(102));
        serving.join().unwrap();
    });
}

#[test]
fn two_threads_get_their_own_replies() {
    check(|| {
        let channel = Channel::new();
        let server = Arc::clone(&channel);
        let serving = thread::spawn(move || server.serve(2));
        let other = Arc::clone(&channel);
        let calling = thread::spawn(move || other.call(1, 2));
        assert_eq!(channel.call(0, 1), Some(101));
        assert_eq!(calling.join().unwrap(), Some(102));
        serving.join().unwrap();
    });
}

/// Nobody may sleep on after the server has left, whenever it leaves.
#[test]
fn who_calls_a_server_that_leaves_learns_it() {
    check(|| {
        let channel = Channel::new();
        let server = Arc::clone(&channel);
        let leaving = thread::spawn(move || server.serve(0));
        assert_eq!(channel.call(0, 1), None);
        leaving.join().unwrap();
    });
}

/// What was answered stays answered; what was not is refused.
#[test]
fn a_server_that_leaves_takes_no_reply_back() {
    check(|| {
        let channel = Channel::new();
        let server = Arc::clone(&channel);
        let serving = thread::spawn(move || server.serve(1));
        assert_eq!(channel.call(0, 1), Some(101));
        assert_eq!(channel.call(0, 2), None);
        serving.join().unwrap();
    });
}

/// Three threads, two slots: who holds one has it alone, sees what the holder before wrote, and
/// leaves nobody waiting.
#[test]
fn slots_go_from_thread_to_thread() {
    check(|| {
        let slots = Arc::new(Slots::new());
        let cells = || loom::cell::UnsafeCell::new(0_u32);
        let held = Arc::new([cells(), cells()]);
        let turn = |slots: Arc<Slots>, held: Arc<[loom::cell::UnsafeCell<u32>; 2]>| {
            let sleep = |signal: &Condvar, gate| signal.wait(gate).ok();
            let idx = slots.claim().or_else(|| slots.claim_or_sleep(sleep));
            let idx = idx.unwrap();
            // SAFETY: loom checks that nobody else is in the cell, which is the test.
            held[idx].with_mut(|count| unsafe { *count += 1 });
            slots.release(idx);
        };
        let threads = [(); 2].map(|()| {
            let (slots, held) = (Arc::clone(&slots), Arc::clone(&held));
            thread::spawn(move || turn(slots, held))
        });
        turn(Arc::clone(&slots), Arc::clone(&held));
        for thread in threads {
            thread.join().unwrap();
        }
        // SAFETY: all others have ended; loom checks that.
        let sum: u32 = held
            .iter()
            .map(|cell| cell.with(|count| unsafe { *count }))
            .sum();
        assert_eq!(sum, 3);
    });
}
