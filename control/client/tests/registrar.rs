//! The registrar against a daemon that answers by script.

mod scripted;

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use scripted::{Daemon, Say, errno, eventually, stranger};
use tempfile::TempDir;
use xtproxy_client::{Access, Error, Flags, Operation, Registrar, Reply, Request, Result};

const EAGAIN: i32 = 11;
const EPROTO: i32 = 71;
const ENOPROTOOPT: i32 = 92;

fn v4(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// A daemon of this script, and a registrar of it.
fn registrar(script: impl FnMut(&Request) -> Say + Send + 'static) -> (TempDir, Daemon, Registrar) {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), script);
    let registrar = Registrar::connect_to(dir.path()).unwrap();
    (dir, daemon, registrar)
}

/// A reply with something in every field that a method tells.
fn full() -> Reply {
    Reply {
        flags: 0x8_0002,
        version: 0x0200_0006,
        foreign: Some(v4("203.0.113.5:2121").into()),
        peer: Some(v4("198.51.100.7:4000").into()),
        ..Reply::default()
    }
}

fn done((): ()) -> String {
    String::new()
}

/// Every operation: what it sends, apart from the socket, and its outcome in words.
type Case = (
    fn(&Registrar, &UdpSocket) -> Result<String>,
    Request,
    &'static str,
);

fn cases() -> Vec<Case> {
    use Access::{Get, Set};
    let plain = |operation, access| Request::new(operation, access, 0);
    let foreign = Some(SocketAddr::from(v4("203.0.113.5:80")));
    let peer = Some(SocketAddr::from(v4("198.51.100.7:443")));
    vec![
        (
            |r, s| r.version(s).map(|version| format!("{version:#x}")),
            plain(Operation::Version, Get),
            "0x2000006",
        ),
        (
            |r, s| r.check_version(s, 0x0200_0000).map(done),
            Request {
                version: 0x0200_0000,
                ..plain(Operation::Version, Set)
            },
            "",
        ),
        (
            |r, s| r.assign(s, v4("203.0.113.5:80")).map(done),
            Request {
                foreign,
                ..plain(Operation::Assign, Set)
            },
            "",
        ),
        (
            |r, s| {
                let (foreign, peer) = (v4("203.0.113.5:80"), Some(v4("198.51.100.7:443")));
                let flags = Flags::CONNECT | Flags::ONCE;
                r.assign_with(s, foreign, peer, flags).map(done)
            },
            Request {
                foreign,
                peer,
                flags: 0x1_0001,
                ..plain(Operation::AssignFlags, Set)
            },
            "",
        ),
        (
            |r, s| {
                let foreign = v4("203.0.113.5:80");
                r.assign_with(s, foreign, None, Flags::LISTEN).map(done)
            },
            Request {
                foreign,
                flags: 2,
                ..plain(Operation::AssignFlags, Set)
            },
            "",
        ),
        (
            |r, s| r.unassign(s).map(done),
            plain(Operation::Unassign, Set),
            "",
        ),
        (
            |r, s| r.query(s).map(|foreign| foreign.to_string()),
            plain(Operation::Query, Get),
            "203.0.113.5:2121",
        ),
        (
            |r, s| r.set_flags(s, Flags::ESTABLISHED).map(done),
            Request {
                flags: 4,
                ..plain(Operation::Flags, Set)
            },
            "",
        ),
        (
            |r, s| r.flags(s).map(|flags| flags.to_string()),
            plain(Operation::Flags, Get),
            "listen,unidir",
        ),
        (
            |r, s| r.alloc(s).map(done),
            plain(Operation::Alloc, Set),
            "",
        ),
        (
            |r, s| r.set_peer(s, v4("198.51.100.7:443")).map(done),
            Request {
                peer,
                ..plain(Operation::Connect, Set)
            },
            "",
        ),
        (
            |r, s| r.original_destination(s, None).map(|o| format!("{o:?}")),
            plain(Operation::OriginalDestination, Get),
            "Original { source: 198.51.100.7:4000, destination: 203.0.113.5:2121, \
             fresh_for: 524.29s }",
        ),
        (
            |r, s| {
                let shown = Some(v4("198.51.100.7:443"));
                let original = r.original_destination(s, shown)?;
                Ok(original.source.to_string())
            },
            Request {
                peer,
                ..plain(Operation::OriginalDestination, Get)
            },
            "198.51.100.7:4000",
        ),
    ]
}

#[test]
fn every_method_sends_its_request_and_reads_its_reply() {
    let (_dir, daemon, registrar) = registrar(|_| full().into());
    let socket = socket();
    for (method, expected, outcome) in cases() {
        assert_eq!(method(&registrar, &socket).unwrap(), outcome);
        let expected = Request {
            fd: socket.as_raw_fd(),
            ..expected
        };
        assert_eq!(daemon.asked(), [expected]);
    }
    assert_eq!(daemon.channels(), 1);
}

#[test]
fn every_errno_comes_out_of_every_method() {
    let next = Arc::new(AtomicU32::new(0));
    let said = Arc::clone(&next);
    let (_dir, _daemon, registrar) =
        registrar(move |_| errno(said.load(Ordering::SeqCst).cast_signed()));
    let socket = socket();
    let local = socket.local_addr().unwrap().to_string();
    for (method, request, _) in cases() {
        for errno in [1, 2, 9, 14, 17, 22, 88, 92, 98, 105] {
            next.store(errno, Ordering::SeqCst);
            let errno = errno.cast_signed();
            let error = method(&registrar, &socket).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{error}");
            assert_eq!(error.errno(), errno);
            let line = error.to_string();
            assert!(line.starts_with("cannot ") && !line.contains('\n'));
            let is_named = request.operation == Operation::Version || line.contains(&local);
            assert!(is_named, "{line}");
            assert_eq!(io::Error::from(error).raw_os_error(), Some(errno));
            assert_eq!(registrar.call(&request), Err(errno));
        }
    }
}

#[test]
fn a_refusal_tells_endpoints_cause_and_cure() {
    let (_dir, _daemon, registrar) = registrar(|_| errno(1));
    let socket = socket();
    let (foreign, peer) = (v4("203.0.113.5:80"), Some(v4("198.51.100.7:443")));
    let error = registrar
        .assign_with(&socket, foreign, peer, Flags::CONNECT)
        .unwrap_err();
    let expected = format!(
        "cannot assign 203.0.113.5:80 to {} for connect with 198.51.100.7:443: this user has no \
         grant for the address, or does not own the socket: add a [[grant]] to the daemon's \
         configuration",
        socket.local_addr().unwrap()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn replies_that_no_daemon_gives_are_errors() {
    let mapped = SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1], 7));
    let foreign = Arc::new(Mutex::new(None));
    let said = Arc::clone(&foreign);
    let (_dir, _daemon, registrar) = registrar(move |_| {
        Say::Reply(Reply {
            foreign: *said.lock().unwrap(),
            ..Reply::default()
        })
    });
    let socket = socket();
    let error = registrar.query(&socket).unwrap_err();
    assert!(matches!(error, Error::Nonsense(_)), "{error}");
    assert_eq!(error.errno(), EPROTO);
    *foreign.lock().unwrap() = Some("[2001:db8::1]:80".parse().unwrap());
    assert!(matches!(registrar.query(&socket), Err(Error::Nonsense(_))));
    *foreign.lock().unwrap() = Some(mapped);
    assert_eq!(registrar.query(&socket).unwrap(), v4("10.0.0.1:7"));
}

#[test]
fn without_a_daemon_it_is_as_a_kernel_without_tproxy() {
    let dir = tempfile::tempdir().unwrap();
    let error = Registrar::connect_to(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NoDaemon { .. }), "{error}");
    assert_eq!(error.errno(), ENOPROTOOPT);
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
}

#[test]
fn what_opens_no_channel_is_told() {
    let refused = b"{\"reply\":\"error\",\"kind\":\"busy\",\"message\":\"too many connections\"}\n";
    let cases: [(&'static [u8], i32, &str); 5] = [
        (refused, EAGAIN, "the daemon refuses: too many connections"),
        (
            b"{\"reply\":\"error\",\"kind\":\"unknown_request\",\"message\":\"channel?\"}\n",
            ENOPROTOOPT,
            "the daemon refuses: channel?",
        ),
        (
            b"{\"reply\":\"rules\"}\n",
            EPROTO,
            "the daemon's answer makes no sense",
        ),
        (
            b"xtproxy\0 and no descriptors",
            EPROTO,
            "the daemon's answer makes no sense",
        ),
        (b"", ENOPROTOOPT, "closed the connection"),
    ];
    for (said, errno, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let daemon = stranger(dir.path(), said);
        let error = Registrar::connect_to(dir.path()).unwrap_err();
        daemon.join().unwrap();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.errno(), errno, "{error}");
    }
}

#[test]
fn the_descriptors_are_those_of_the_channel() {
    let (_dir, _daemon, registrar) = registrar(|_| full().into());
    let links: Vec<_> = registrar
        .descriptors()
        .iter()
        .map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    assert_eq!(links[0], "anon_inode:[eventfd]");
    assert!(links[1].starts_with("socket:"), "{links:?}");
    assert_eq!(links.len(), 3, "{links:?}");
}

// Threads.

#[test]
fn calls_of_many_threads_are_under_way_at_once() {
    const THREADS: usize = 16;
    let waiting = AtomicUsize::new(0);
    let mut seen = std::collections::HashSet::new();
    // Nobody is answered before everybody has asked.
    let (_dir, _daemon, registrar) = registrar(move |request| {
        if seen.insert(request.version) {
            waiting.fetch_add(1, Ordering::SeqCst);
        }
        if waiting.load(Ordering::SeqCst) < THREADS {
            return Say::Later;
        }
        Say::Reply(full())
    });
    let socket = socket();
    let start = Instant::now();
    thread::scope(|scope| {
        for number in 0..THREADS as u32 {
            let (registrar, socket) = (&registrar, &socket);
            scope.spawn(move || registrar.check_version(socket, number).unwrap());
        }
    });
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn every_thread_gets_its_own_answers() {
    let (_dir, daemon, registrar) = registrar(|request| {
        Say::Reply(Reply {
            flags: request.flags,
            foreign: request.foreign,
            peer: request.foreign,
            ..Reply::default()
        })
    });
    thread::scope(|scope| {
        for thread in 0..16_u32 {
            let registrar = &registrar;
            scope.spawn(move || {
                for number in 0..500 {
                    let flags = thread << 16 | number;
                    let mut request = Request::new(Operation::Flags, Access::Set, 0);
                    request.flags = flags;
                    assert_eq!(registrar.call(&request).unwrap().flags, flags);
                }
            });
        }
    });
    assert_eq!(daemon.channels(), 1);
}

#[test]
fn threads_go_on_over_restarts() {
    let answer = |_: &Request| Say::Reply(full());
    let (dir, daemon, registrar) = registrar(answer);
    let done = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (registrar, done, stop) = (registrar.clone(), done.clone(), stop.clone());
            thread::spawn(move || {
                let socket = socket();
                while !stop.load(Ordering::SeqCst) {
                    match registrar.query(&socket) {
                        Ok(foreign) => assert_eq!(foreign, v4("203.0.113.5:2121")),
                        Err(e) => assert_eq!(e.errno(), ENOPROTOOPT, "{e}"),
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut daemon = Some(daemon);
    for _ in 0..5 {
        let before = done.load(Ordering::SeqCst);
        eventually("calls", || done.load(Ordering::SeqCst) > before + 50);
        drop(daemon.take());
        daemon = Some(Daemon::start(dir.path(), answer));
    }
    let daemon = daemon.unwrap();
    let before = done.load(Ordering::SeqCst);
    eventually("calls", || done.load(Ordering::SeqCst) > before + 500);
    // Threads that opened one at the same time have closed it: one is left.
    daemon.await_open(1);
    stop.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().unwrap();
    }
    registrar.alloc(&socket()).unwrap();
}
