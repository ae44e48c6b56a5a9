//! A client that writes what it likes, when it likes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::{any, prop_oneof};
use proptest::{prop_assert, proptest};
use rustix::io::pwrite;

use crate::mailbox::{Posted, turn};
use crate::memory::Memory;
use crate::{
    Access, CallError, ClientEnd, Handover, Malformed, Operation, Reply, Request, SLOTS, ServerEnd,
    TOTAL_BYTES, Violation,
};

const POSTED_AT: usize = 64;
const SLOTS_AT: usize = 1024;
const SLOT_BYTES: usize = 320;

/// A server's end, and the memory in the hands of somebody who need not keep to any rule.
fn channel() -> (ServerEnd, Memory) {
    let (server, handover) = ServerEnd::create().unwrap();
    let memory = Memory::open(handover.memory.as_fd()).unwrap();
    (server, memory)
}

fn post(memory: &Memory, slot: usize, request: &Request) {
    let last = memory.slots[slot].idle().unwrap();
    memory.slots[slot].write(last, &request.words());
    assert_eq!(memory.post(slot), Posted::Quiet);
}

fn query() -> Request {
    Request::new(Operation::Query, Access::Get, 3)
}

#[test]
fn a_slot_posted_twice_is_a_violation() {
    let (mut server, memory) = channel();
    post(&memory, 5, &query());
    assert_eq!(server.collect(), Ok(1));
    let call = server.take().unwrap().unwrap();
    memory.post(5);
    assert_eq!(server.collect(), Ok(1));
    let twice = server.take().map(|_| ());
    assert_eq!(twice, Err(Violation::PostedTwice { slot: 5 }));
    server.reply(call.ticket, &Reply::default());
}

#[test]
fn a_count_that_jumps_is_a_violation() {
    for count in [0, 2, 3, u32::MAX >> 2] {
        for kind in [turn::ANSWERED, turn::POSTED, turn::CLOSED, turn::SLEEPING] {
            let (mut server, memory) = channel();
            let state = count << 2 | kind;
            memory.slots[7].state.store(state, Ordering::Relaxed);
            memory.post(7);
            assert_eq!(server.collect(), Ok(1));
            let jumped = server.take().map(|_| ());
            assert_eq!(jumped, Err(Violation::OutOfTurn { slot: 7 }));
        }
    }
}

#[test]
fn a_bit_without_a_slot_is_a_violation() {
    for bit in SLOTS..63 {
        let (mut server, memory) = channel();
        memory.posted.store(1 << bit, Ordering::Relaxed);
        assert!(!server.rest());
        assert_eq!(
            server.collect(),
            Err(Violation::NoSuchSlot { bits: 1 << bit })
        );
    }
}

#[test]
fn a_malformed_request_gets_its_errno_and_harms_no_other() {
    let (mut server, memory) = channel();
    let mut words = query().words();
    words[0] = 1234;
    let last = memory.slots[0].idle().unwrap();
    memory.slots[0].write(last, &words);
    memory.post(0);
    post(&memory, 1, &query());
    assert_eq!(server.serve(|_| Reply::default()), Ok(2));
    let errno = |slot: usize| Reply::parse(memory.slots[slot].reply()).unwrap().errno;
    assert_eq!(errno(0), Malformed::Operation(1234).errno());
    assert_eq!(errno(1), 0);
}

proptest! {
    /// Any contents at all, changed between the steps of a round.
    #[test]
    fn any_contents_cost_a_bounded_round(
        seed in any::<u64>(),
        posted in prop_oneof![any::<u64>(), (0..1_u64 << SLOTS)],
        rounds in 1..4_usize,
    ) {
        let (mut server, handover) = ServerEnd::create().unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..rounds {
            let mut contents = vec![0; TOTAL_BYTES];
            random.fill(&mut contents);
            pwrite(&handover.memory, &contents, 0).unwrap();
            pwrite(&handover.memory, &posted.to_ne_bytes(), POSTED_AT as u64).unwrap();
            let mut steps = 0;
            let mut tickets = Vec::new();
            let _ = server.collect();
            while let Ok(Some(call)) = server.take() {
                tickets.push(call.ticket);
                scribble(handover.memory.as_fd(), &mut random);
                steps += 1;
                prop_assert!(steps <= SLOTS);
            }
            for ticket in tickets {
                scribble(handover.memory.as_fd(), &mut random);
                server.reply(ticket, &Reply::default());
            }
            let _ = server.rest();
        }
    }
}

/// One write of a client that wants to hurt: anything anywhere, or what is nearly right.
fn scribble(memory: BorrowedFd<'_>, random: &mut fastrand::Rng) {
    let slot = SLOTS_AT + random.usize(..SLOTS) * SLOT_BYTES;
    let write = |at: usize, bytes: &[u8]| {
        pwrite(memory, bytes, at as u64).unwrap();
    };
    match random.u8(..5) {
        0 => write(
            random.usize(..TOTAL_BYTES / 8) * 8,
            &random.u64(..).to_ne_bytes(),
        ),
        1 => write(POSTED_AT, &random.u64(..1 << SLOTS).to_ne_bytes()),
        2 => write(POSTED_AT, &(random.u64(..) & random.u64(..)).to_ne_bytes()),
        3 => write(slot, &random.u32(..64).to_ne_bytes()),
        _ => {
            let mut request = query();
            request.operation = Operation::ALL[random.usize(..Operation::ALL.len())];
            let mut words = request.words();
            if random.bool() {
                words[random.usize(..words.len())] = random.u64(..);
            }
            write(slot + 64, bytemuck::cast_slice(&words));
        }
    }
}

fn pair() -> (ServerEnd, ClientEnd, OwnedFd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (server, handover) = ServerEnd::create().unwrap();
    let memory = handover.memory.try_clone().unwrap();
    let client = ClientEnd::map(handover, theirs.into()).unwrap();
    (server, client, memory, ours)
}

/// One thread serves a client that scribbles and one that does not.
#[test]
fn a_client_that_scribbles_hurts_only_itself() {
    let (mut bad, handover) = ServerEnd::create().unwrap();
    let (mut good, client, _memory, _socket) = pair();
    let stop = AtomicBool::new(false);
    let (mut violations, mut requests, mut longest) = (0, 0, Duration::ZERO);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(7);
            while !stop.load(Ordering::Relaxed) {
                scribble(handover.memory.as_fd(), &mut random);
            }
        });
        let calls = scope.spawn(|| {
            let mut calls = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let mut request = query();
                request.tag = calls;
                assert_eq!(client.call(&request).unwrap().tag, calls);
                calls += 1;
            }
            calls
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            let before = Instant::now();
            match bad.serve(|_| Reply::default()) {
                Ok(served) => assert!(served <= SLOTS),
                Err(_) => violations += 1,
            }
            longest = longest.max(before.elapsed());
            let _ = bad.rest();
            requests += good.serve(|_| Reply::default()).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        while !calls.is_finished() {
            good.serve(|_| Reply::default()).unwrap();
            thread::yield_now();
        }
        assert!(calls.join().unwrap() > 100, "the good client was served");
    });
    assert!(violations > 100, "{violations} violations seen");
    assert!(requests > 100, "{requests} requests of the good client");
    assert!(longest < Duration::from_secs(1), "a round took {longest:?}");
}

/// A library whose own process scribbles over its channel returns, with whatever.
#[test]
fn a_scribbled_client_returns() {
    let (mut server, client, memory, _socket) = pair();
    let stop = AtomicBool::new(false);
    let mut failed = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(11);
            while !stop.load(Ordering::Relaxed) {
                scribble(memory.as_fd(), &mut random);
                thread::yield_now();
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = server.serve(|_| Reply::default());
                thread::yield_now();
            }
        });
        for _ in 0..50 {
            let start = Instant::now();
            let soon = Duration::from_millis(20);
            match client.call_within(&query(), soon) {
                Ok(_) => {}
                Err(CallError::Forked | CallError::System(_)) => panic!("neither happened"),
                Err(_) => failed += 1,
            }
            assert!(start.elapsed() < Duration::from_secs(5));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(failed > 0, "it was scribbled over");
}

#[test]
fn a_handover_of_a_closed_server_is_refused_at_the_first_call() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (server, handover) = ServerEnd::create().unwrap();
    handover.send(&ours).unwrap();
    drop(server);
    let handover = Handover::receive(&theirs).unwrap();
    let client = ClientEnd::map(handover, theirs.into()).unwrap();
    let closed = client.call(&query());
    assert!(matches!(closed, Err(CallError::Closed)), "{closed:?}");
}
