//! The registrar over restarts of a daemon that answers by script.

mod scripted;

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use scripted::{Daemon, Say, errno};
use tempfile::TempDir;
use xtproxy_client::{Access, Error, Flags, Operation, Registrar, Reply, Request};

/// How long a client looks for the next daemon.
const RESTART: Duration = Duration::from_secs(3);

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOPROTOOPT: i32 = 92;

const OWN: &str = "203.0.113.5:2121";
const APPLIED: u32 = 0x4_0000;

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

/// What agrees to everything.
fn full() -> Reply {
    Reply {
        foreign: Some(v4(OWN).into()),
        ..Reply::default()
    }
}

#[test]
fn a_restarted_daemon_is_found_again() {
    let (dir, daemon, registrar) = registrar(|_| full().into());
    let socket = socket();
    registrar.alloc(&socket).unwrap();
    drop(daemon);
    // The first waits for the next daemon.
    let start = Instant::now();
    let error = registrar.alloc(&socket).unwrap_err();
    assert_eq!(error.errno(), ENOPROTOOPT, "{error}");
    assert!(start.elapsed() >= RESTART && start.elapsed() < RESTART * 2);
    let start = Instant::now();
    for _ in 0..2 {
        let error = registrar.alloc(&socket).unwrap_err();
        assert!(matches!(error, Error::NoDaemon { .. }), "{error}");
        let request = Request::new(Operation::Alloc, Access::Set, socket.as_raw_fd());
        assert_eq!(registrar.call(&request), Err(ENOPROTOOPT));
    }
    assert!(start.elapsed() < RESTART / 2, "it was told already");
    let second = Daemon::start(dir.path(), |_| full().into());
    registrar.alloc(&socket).unwrap();
    registrar.clone().alloc(&socket).unwrap();
    assert_eq!(second.asked().len(), 2, "nothing is asked twice");
    assert_eq!(second.channels(), 1);
    // Restarted while nobody asks.
    drop(second);
    let third = Daemon::start(dir.path(), |_| full().into());
    registrar.alloc(&socket).unwrap();
    assert_eq!(third.channels(), 1);
    third.await_open(1);
    drop(registrar);
    third.await_open(0);
}

#[test]
fn calls_wait_for_the_next_daemon() {
    let (dir, daemon, registrar) = registrar(|_| full().into());
    let socket = socket();
    registrar.alloc(&socket).unwrap();
    drop(daemon);
    thread::scope(|scope| {
        let calls = [(); 4].map(|()| scope.spawn(|| registrar.query(&socket)));
        thread::sleep(Duration::from_millis(300));
        let second = Daemon::start(dir.path(), |_| full().into());
        for call in calls {
            call.join().unwrap().unwrap();
        }
        second.await_open(1);
        drop(second);
        // Each restart has its own time.
        let call = scope.spawn(|| registrar.query(&socket));
        thread::sleep(RESTART - Duration::from_secs(1));
        let _third = Daemon::start(dir.path(), |_| full().into());
        call.join().unwrap().unwrap();
    });
}

#[test]
fn the_first_contact_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let registrar = Registrar::lazy(dir.path());
    let error = registrar.alloc(&socket()).unwrap_err();
    assert!(matches!(error, Error::NoDaemon { .. }), "{error}");
    assert!(registrar.ready().is_err());
    assert!(start.elapsed() < RESTART / 2);
    let daemon = Daemon::start(dir.path(), |_| full().into());
    registrar.alloc(&socket()).unwrap();
    registrar.ready().unwrap();
    assert_eq!(daemon.channels(), 1);
}

#[test]
fn a_folder_that_the_path_leads_to_no_more_is_found() {
    let above = tempfile::tempdir().unwrap();
    let [path, moved] = ["run", "moved"].map(|name| above.path().join(name));
    std::fs::create_dir(&path).unwrap();
    let daemon = Daemon::start(&path, |_| full().into());
    let registrar = Registrar::connect_to(&path).unwrap();
    let socket = socket();
    registrar.alloc(&socket).unwrap();
    drop(daemon);
    std::fs::rename(&path, &moved).unwrap();
    let here = std::env::current_dir().unwrap();
    let second = Daemon::start(&moved, |_| full().into());
    registrar.alloc(&socket).unwrap();
    assert_eq!(second.channels(), 1);
    assert_eq!(std::env::current_dir().unwrap(), here);
    // What somebody puts at the path is not asked while the folder has a daemon.
    std::fs::create_dir(&path).unwrap();
    let stranger = Daemon::start(&path, |_| full().into());
    drop(second);
    let third = Daemon::start(&moved, |_| full().into());
    registrar.alloc(&socket).unwrap();
    assert_eq!((third.channels(), stranger.channels()), (1, 0));
}

#[test]
fn a_folder_that_was_made_anew_is_found_at_its_path() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("run");
    let anew = |path: &Path| {
        let _ = std::fs::remove_dir_all(path);
        std::fs::create_dir(path).unwrap();
        Daemon::start(path, |_| full().into())
    };
    let first = anew(&path);
    let registrar = Registrar::connect_to(&path).unwrap();
    let socket = socket();
    drop(first);
    let second = anew(&path);
    registrar.alloc(&socket).unwrap();
    assert_eq!(second.channels(), 1);
    // And held in the place of the old one.
    drop(second);
    let moved = above.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    let third = Daemon::start(&moved, |_| full().into());
    registrar.alloc(&socket).unwrap();
    assert_eq!(third.channels(), 1);
    assert_eq!(registrar.descriptors().len(), 3);
}

#[test]
fn a_folder_that_was_removed_is_told() {
    let (dir, daemon, registrar) = registrar(|_| full().into());
    drop(daemon);
    drop(dir);
    let error = registrar.alloc(&socket()).unwrap_err();
    assert!(matches!(error, Error::FolderGone { .. }), "{error}");
    assert_eq!(error.errno(), ENOPROTOOPT);
    let line = error.to_string();
    assert!(
        line.contains("its folder was removed") && !line.contains("  "),
        "{line}"
    );
}

/// Two daemons in turn: the first dies with the call, the second answers by `script`.
fn dies_once(script: impl Fn(&Request) -> Say + Send + 'static) -> (TempDir, Daemon, Registrar) {
    let mut has_died = false;
    registrar(move |request| {
        if std::mem::replace(&mut has_died, true) {
            script(request)
        } else {
            Say::Die
        }
    })
}

/// What the second daemon says, in whose books the socket has this: the first call was done.
fn adopted(foreign: &str, peer: Option<&str>, flags: u32) -> impl Fn(&Request) -> Say + use<> {
    let [foreign, peer] = [Some(foreign), peer].map(|at| at.map(|at| v4(at).into()));
    move |request| match (request.operation, request.access) {
        (Operation::Query, _) => Say::Reply(Reply {
            foreign,
            peer,
            ..Reply::default()
        }),
        (Operation::Flags, Access::Get) => Say::Reply(Reply {
            flags,
            ..Reply::default()
        }),
        (Operation::Connect, _) => Say::Reply(Reply::default()),
        (Operation::Unassign, _) => errno(ENOENT),
        (Operation::Alloc, _) => errno(EINVAL),
        _ => errno(EEXIST),
    }
}

#[test]
fn what_was_done_before_the_daemon_died_is_done() {
    let socket = socket();
    let (_dir, _daemon, registrar) = dies_once(adopted(OWN, None, APPLIED | 2));
    registrar
        .assign_with(&socket, v4(OWN), None, Flags::LISTEN)
        .unwrap();
    // Now it is a real refusal.
    let error = registrar.assign(&socket, v4(OWN)).unwrap_err();
    assert_eq!(error.errno(), EEXIST);
    let (_dir, _daemon, registrar) = dies_once(adopted(OWN, None, 0));
    registrar.assign(&socket, v4(OWN)).unwrap();
    let (_dir, _daemon, registrar) = dies_once(adopted(OWN, None, 0));
    registrar.unassign(&socket).unwrap();
    let absent = registrar.unassign(&socket).unwrap_err();
    assert_eq!(absent.errno(), ENOENT);
    let (_dir, _daemon, registrar) = dies_once(adopted(OWN, None, 0));
    registrar.alloc(&socket).unwrap();
    assert_eq!(registrar.alloc(&socket).unwrap_err().errno(), EINVAL);
    let peer = Some(v4("198.51.100.7:443"));
    let (_dir, daemon, registrar) = dies_once(adopted(OWN, Some("198.51.100.7:443"), 1));
    registrar
        .assign_with(&socket, v4(OWN), peer, Flags::CONNECT)
        .unwrap();
    assert!(
        daemon
            .asked()
            .iter()
            .all(|it| it.operation != Operation::Connect)
    );
    // From a daemon that does not tell the peer.
    let (_dir, daemon, registrar) = dies_once(adopted(OWN, None, 1));
    registrar
        .assign_with(&socket, v4(OWN), peer, Flags::CONNECT)
        .unwrap();
    let asked = daemon.asked();
    let last = asked.last().unwrap();
    assert_eq!(
        (last.operation, last.peer),
        (Operation::Connect, peer.map(Into::into))
    );
}

#[test]
fn what_somebody_else_did_before_is_not_done() {
    let socket = socket();
    let peer = Some(v4("198.51.100.7:443"));
    let cases = [
        // Another foreign address, other flags, another peer, one although none is wanted.
        (adopted("203.0.113.6:80", None, 1), None),
        (adopted(OWN, None, 2), None),
        (adopted(OWN, None, 0), None),
        (adopted(OWN, Some("198.51.100.8:443"), 1), peer),
        (adopted(OWN, Some("198.51.100.7:443"), 1), None),
    ];
    for (script, peer) in cases {
        let (_dir, _daemon, registrar) = dies_once(script);
        let outcome = registrar.assign_with(&socket, v4(OWN), peer, Flags::CONNECT);
        assert_eq!(outcome.unwrap_err().errno(), EEXIST);
    }
    let (_dir, _daemon, registrar) = dies_once(adopted(OWN, None, 1));
    let error = registrar.assign(&socket, v4(OWN)).unwrap_err();
    assert_eq!(error.errno(), EEXIST);
    let (_dir, _daemon, registrar) = dies_once(adopted("203.0.113.5:0", None, 1));
    assert_eq!(registrar.alloc(&socket).unwrap_err().errno(), EINVAL);
    let (_dir, _daemon, registrar) = dies_once(|_| errno(EINVAL));
    let error = registrar.assign(&socket, v4(OWN)).unwrap_err();
    assert_eq!(error.errno(), EINVAL);
}

#[test]
fn a_daemon_that_dies_twice_is_none() {
    let (_dir, daemon, registrar) = registrar(|_| Say::Die);
    let error = registrar.alloc(&socket()).unwrap_err();
    assert_eq!(error.errno(), ENOPROTOOPT, "{error}");
    assert_eq!(daemon.asked().len(), 2);
}
