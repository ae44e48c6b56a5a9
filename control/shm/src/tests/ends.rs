//! Both ends in one process.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, memfd_create};
use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_setfl, ftruncate};
use rustix::io::{FdFlags, fcntl_getfd, pwrite, read, write};

use crate::{
    Access, Call, CallError, ClientEnd, Handover, MapError, Operation, Reply, Request, SLOTS,
    ServerEnd, TOTAL_BYTES,
};

/// A channel, and the server's end of the socket.
fn channel() -> (ServerEnd, ClientEnd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (server, handover) = ServerEnd::create().unwrap();
    handover.send(&ours).unwrap();
    let handover = Handover::receive(&theirs).unwrap();
    let client = ClientEnd::map(handover, theirs.into()).unwrap();
    (server, client, ours)
}

fn request(tag: u64) -> Request {
    let mut request = Request::new(Operation::Connect, Access::Set, tag as i32);
    request.tag = tag;
    request.cookie = !tag;
    request
}

/// What the echo answers.
fn echo(request: &Request) -> Reply {
    Reply {
        cookie: request.cookie.wrapping_add(1),
        errno: request.fd,
        ..Reply::default()
    }
}

/// Waits until the descriptor is readable, and says whether it is.
fn readable(fd: impl AsFd, within: Duration) -> bool {
    let within = Timespec::try_from(within).unwrap();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&within)).unwrap() == 1
}

/// Serves as a server should until it is told to stop.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<ServerEnd>,
}

impl Echo {
    fn start(mut end: ServerEnd) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                end.serve(echo).unwrap();
                if end.rest() {
                    readable(&end, Duration::from_millis(20));
                }
            }
            end
        });
        Self { stop, thread }
    }

    fn stop(self) -> ServerEnd {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn calls_from(threads: u64, calls: u64) {
    let (server, client, _socket) = channel();
    let echo = Echo::start(server);
    let client = &client;
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for call in 0..calls {
                    let tag = thread << 32 | call;
                    let reply = client.call(&request(tag)).unwrap();
                    assert_eq!(reply.tag, tag);
                    assert_eq!(reply.cookie, (!tag).wrapping_add(1));
                    assert_eq!(reply.errno, tag as i32);
                }
            });
        }
    });
    echo.stop();
}

#[test]
fn eight_threads_get_their_own_replies() {
    calls_from(8, 100_000);
}

#[test]
fn more_threads_than_slots_take_turns() {
    calls_from(2 * SLOTS as u64, 300);
}

#[test]
fn counts_wrap() {
    let (mut server, client, _socket) = channel();
    let near = !3_u32;
    for slot in 0..SLOTS {
        server.start_at(slot, near - 8);
    }
    let echo = Echo::start(server);
    for tag in 0..10 {
        assert_eq!(client.call(&request(tag)).unwrap().tag, tag);
    }
    echo.stop();
}

#[test]
fn the_bell_is_silent_while_the_server_is_awake_or_idle() {
    let (mut server, client, _socket) = channel();
    assert!(server.rest());
    assert!(!readable(&server, Duration::from_millis(30)), "idle");
    thread::scope(|scope| {
        scope.spawn(|| client.call(&request(1)).unwrap());
        assert!(readable(&server, Duration::from_secs(5)), "rung");
        while server.serve(echo).unwrap() == 0 {}
        assert!(!readable(&server, Duration::ZERO), "silenced");
        scope.spawn(|| client.call(&request(2)).unwrap());
        while server.serve(echo).unwrap() == 0 {
            thread::yield_now();
        }
        assert!(
            !readable(&server, Duration::ZERO),
            "nobody rings who need not"
        );
    });
    assert!(server.rest(), "nothing is left");
}

#[test]
fn a_server_may_not_rest_on_a_posted_call() {
    let (mut server, client, _socket) = channel();
    thread::scope(|scope| {
        scope.spawn(|| client.call(&request(1)).unwrap());
        while server.rest() {
            thread::yield_now();
        }
        assert_eq!(server.collect().unwrap(), 1);
        assert!(!server.rest(), "one is to be taken");
        let call = server.take().unwrap().unwrap();
        server.reply(call.ticket, &echo(&call.request.unwrap()));
        assert!(server.take().unwrap().is_none());
    });
}

#[test]
fn a_call_that_is_given_up_gives_its_slot_back_when_answered() {
    let (mut server, client, _socket) = channel();
    let soon = Duration::from_millis(60);
    let mut held = Vec::new();
    for tag in 0..SLOTS as u64 {
        thread::scope(|scope| {
            let calling = scope.spawn(|| client.call_within(&request(tag), Duration::ZERO));
            while server.collect().unwrap() == 0 {
                thread::yield_now();
            }
            held.push(server.take().unwrap().unwrap());
            let given_up = calling.join().unwrap();
            assert!(matches!(given_up, Err(CallError::TimedOut)), "{given_up:?}");
        });
    }
    let full = client.call_within(&request(99), soon);
    assert!(matches!(full, Err(CallError::TimedOut)), "{full:?}");
    assert_eq!(server.collect().unwrap(), 0, "no slot, no call");
    for Call { ticket, request } in held {
        server.reply(ticket, &echo(&request.unwrap()));
    }
    let echo = Echo::start(server);
    for tag in 100..100 + 2 * SLOTS as u64 {
        assert_eq!(client.call(&request(tag)).unwrap().tag, tag);
    }
    echo.stop();
}

#[test]
fn a_server_that_leaves_wakes_who_waits() {
    let (mut server, client, _socket) = channel();
    thread::scope(|scope| {
        let waiting = [1, 2, 3].map(|tag| {
            let client = &client;
            scope.spawn(move || client.call(&request(tag)))
        });
        // One is posted, taken and asleep, the others anywhere.
        while server.collect().unwrap() == 0 {}
        let _held = server.take().unwrap().unwrap();
        thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        drop(server);
        for thread in waiting {
            let closed = thread.join().unwrap();
            assert!(matches!(closed, Err(CallError::Closed)), "{closed:?}");
        }
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "by waking, not by patience"
        );
    });
    let closed = client.call(&request(4));
    assert!(matches!(closed, Err(CallError::Closed)), "{closed:?}");
}

#[test]
fn a_hang_up_ends_a_call() {
    let (_server, client, socket) = channel();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.call(&request(1)));
        thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        drop(socket);
        let closed = waiting.join().unwrap();
        assert!(matches!(closed, Err(CallError::Closed)), "{closed:?}");
        assert!(start.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn what_is_handed_over_is_sealed_and_closed_on_exec() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (server, made) = ServerEnd::create().unwrap();
    made.send(&ours).unwrap();
    let received = Handover::receive(&theirs).unwrap();
    for fd in [
        server.as_fd(),
        made.memory.as_fd(),
        made.doorbell.as_fd(),
        received.memory.as_fd(),
        received.doorbell.as_fd(),
    ] {
        assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    }
    assert!(ftruncate(&received.memory, 0).is_err());
    assert!(ftruncate(&received.memory, 2 * TOTAL_BYTES as u64).is_err());
    assert!(fcntl_add_seals(&received.memory, SealFlags::WRITE).is_err());
}

#[test]
fn only_a_channel_is_mapped() {
    let map = |memory: OwnedFd| {
        let (_server, handover) = ServerEnd::create().unwrap();
        let handover = Handover { memory, ..handover };
        let socket = UnixStream::pair().unwrap().0;
        ClientEnd::map(handover, socket.into()).unwrap_err()
    };
    let file = tempfile::tempfile().unwrap();
    assert!(matches!(map(file.into()), MapError::Unsealed));
    let memfd = |length: u64| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create(c"x", flags).unwrap();
        ftruncate(&memory, length).unwrap();
        memory
    };
    assert!(matches!(map(memfd(TOTAL_BYTES as u64)), MapError::Unsealed));
    let sealed = |length: u64| {
        let memory = memfd(length);
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        memory
    };
    assert!(matches!(
        map(sealed(4096)),
        MapError::Length { found: 4096 }
    ));
    assert!(matches!(map(sealed(TOTAL_BYTES as u64)), MapError::Magic));
    let changed = |at: u64| {
        let (_server, handover) = ServerEnd::create().unwrap();
        pwrite(&handover.memory, &[77], at).unwrap();
        handover.memory
    };
    assert!(matches!(map(changed(8)), MapError::Version { found: 77 }));
    assert!(matches!(map(changed(20)), MapError::Sizes));
}

#[test]
fn only_a_handover_is_received() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    write(&ours, b"hello, world").unwrap();
    let error = Handover::receive(&theirs).unwrap_err();
    assert!(matches!(error, MapError::Greeting), "{error}");
    write(&ours, b"xtproxy\0\x09\0\0\0").unwrap();
    let error = Handover::receive(&theirs).unwrap_err();
    assert!(matches!(error, MapError::Version { .. }), "{error}");
    write(&ours, b"xtproxy\0\x01\0\0\0").unwrap();
    let error = Handover::receive(&theirs).unwrap_err();
    assert!(
        matches!(error, MapError::Greeting),
        "no descriptors: {error}"
    );
    drop(ours);
    let error = Handover::receive(&theirs).unwrap_err();
    assert!(matches!(error, MapError::HungUp), "{error}");
}

/// The open file is shared: the client can empty it, fill it, and make it block.
#[test]
fn no_state_of_the_bell_blocks_the_server() {
    let (mut server, handover) = ServerEnd::create().unwrap();
    let bell = &handover.doorbell;
    write(bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert!(server.rest());
    assert!(readable(&server, Duration::ZERO));
    crate::doorbell::ring(bell).unwrap();
    let flags = fcntl_getfl(bell).unwrap();
    fcntl_setfl(bell, flags - OFlags::NONBLOCK).unwrap();
    read(bell, &mut [0; 8]).unwrap();
    assert_eq!(
        server.collect(),
        Ok(0),
        "it is empty, and a plain read would block"
    );
    assert!(server.rest());
}

#[test]
fn a_task_is_told_of_calls() {
    let (mut server, client, _socket) = channel();
    let calls: u64 = 2_000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let serving = async {
        let bell = server.bell().unwrap();
        let mut served = 0;
        while served < calls {
            served += server.serve(echo).unwrap() as u64;
            if served < calls && server.rest() {
                bell.rung().await.unwrap();
            }
        }
        drop(server);
    };
    thread::scope(|scope| {
        for thread in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for call in 0..calls / 4 {
                    let tag = thread << 32 | call;
                    assert_eq!(client.call(&request(tag)).unwrap().tag, tag);
                }
            });
        }
        runtime.block_on(serving);
    });
}
