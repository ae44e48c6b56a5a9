//! Listening on and connecting from foreign addresses, against a daemon that answers by script.
//! It translates nothing, so clients connect to the listener's own address.

mod scripted;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use scripted::{Daemon, SOON, Say, errno, local_of, socket_of};
use tempfile::TempDir;
use xtproxy_client::{
    Error, Flags, ForeignListener, Operation, Registrar, Reply, Request, foreign_connect,
    local_towards,
};

const ENOENT: i32 = 2;
const EPERM: i32 = 1;
const EEXIST: i32 = 17;
const ENOPROTOOPT: i32 = 92;
const EADDRINUSE: i32 = 98;
const ECONNREFUSED: i32 = 111;

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn v4(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

/// The foreign address of these tests.
fn foreign() -> SocketAddrV4 {
    v4("203.0.113.5:2121")
}

/// The true address of the client of these tests.
fn client() -> SocketAddrV4 {
    v4("198.51.100.7:4000")
}

/// What a daemon with a flow for it answers about an accepted socket.
fn original() -> Say {
    Say::Reply(Reply {
        foreign: Some(foreign().into()),
        peer: Some(client().into()),
        ..Reply::default()
    })
}

fn registrar(script: impl FnMut(&Request) -> Say + Send + 'static) -> (TempDir, Daemon, Registrar) {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), script);
    let registrar = Registrar::connect_to(dir.path()).unwrap();
    (dir, daemon, registrar)
}

/// Agrees to everything, once its own look at a registration is satisfied.
fn agree(look: impl Fn(&Request) + Send + 'static) -> impl FnMut(&Request) -> Say + Send {
    move |request| {
        if request.operation != Operation::OriginalDestination {
            look(request);
        }
        original()
    }
}

/// Answers about accepted sockets: the first wanted the listener itself, the second something
/// else, the others what is listened on.
fn strangers_first() -> impl FnMut(&Request) -> Say + Send {
    let mut accepted = 0;
    move |request| {
        if request.operation != Operation::OriginalDestination {
            return Say::Reply(Reply::default());
        }
        accepted += 1;
        match accepted {
            1 => errno(ENOENT),
            2 => Say::Reply(Reply {
                foreign: Some(v4("203.0.113.5:2122").into()),
                peer: Some(client().into()),
                ..Reply::default()
            }),
            _ => original(),
        }
    }
}

/// Reads a closed connection's end.
fn assert_closed(mut stream: TcpStream) {
    stream.set_read_timeout(Some(SOON)).unwrap();
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("it is open: {other:?}"),
    }
}

// Listening.

#[test]
fn a_listener_is_registered_while_it_listens() {
    let seen = Arc::new(Mutex::new(None));
    let told = Arc::clone(&seen);
    let (_dir, daemon, registrar) = registrar(agree(move |request| {
        let socket = socket_of(request);
        assert!(sockopt::socket_acceptconn(&socket).unwrap());
        *told.lock().unwrap() = Some(local_of(request));
    }));
    let listener = ForeignListener::bind(&registrar, foreign(), LOCALHOST).unwrap();
    assert_eq!(Some(listener.local_addr()), *seen.lock().unwrap());
    assert_eq!(*listener.local_addr().ip(), LOCALHOST);
    assert_eq!(listener.foreign_addr(), foreign());
    let [asked] = daemon.asked().try_into().unwrap();
    assert_eq!(asked.operation, Operation::AssignFlags);
    assert_eq!(asked.foreign, Some(foreign().into()));
    assert_eq!(asked.peer, None);
    assert_eq!(asked.flags, Flags::LISTEN.bits());
}

#[test]
fn who_did_not_want_the_foreign_address_is_not_accepted() {
    let (_dir, _daemon, registrar) = registrar(strangers_first());
    let listener = ForeignListener::bind(&registrar, foreign(), LOCALHOST).unwrap();
    let local = listener.local_addr();
    let [first, second, mut third] = [(); 3].map(|()| TcpStream::connect(local).unwrap());
    let (mut accepted, source) = listener.accept().unwrap();
    assert_eq!(source, client());
    assert_eq!(accepted.peer_addr().unwrap(), third.local_addr().unwrap());
    // It blocks, as streams of the standard library do.
    third.write_all(b"hello").unwrap();
    let mut said = [0; 5];
    accepted.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
    assert_closed(first);
    assert_closed(second);
}

/// A daemon that dies with every question about an accepted socket until it is told to live.
fn failing_first() -> (TempDir, Daemon, Registrar, Arc<AtomicBool>) {
    let lives = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&lives);
    let (dir, daemon, registrar) = registrar(move |request| {
        let is_about_accepted = request.operation == Operation::OriginalDestination;
        if is_about_accepted && !told.load(Ordering::SeqCst) {
            return Say::Die;
        }
        original()
    });
    (dir, daemon, registrar, lives)
}

/// It has one end of this connection.
fn assert_served((mut accepted, source): (TcpStream, SocketAddrV4), mut ours: TcpStream) {
    assert_eq!(source, client());
    ours.write_all(b"x").unwrap();
    accepted.set_read_timeout(Some(SOON)).unwrap();
    accepted.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_daemon_that_fails_costs_no_connection() {
    let (_dir, _daemon, registrar, lives) = failing_first();
    let listener = ForeignListener::bind(&registrar, foreign(), LOCALHOST).unwrap();
    let ours = TcpStream::connect(listener.local_addr()).unwrap();
    for _ in 0..2 {
        let error = listener.accept_within(SOON).unwrap_err();
        assert_eq!(error.errno(), ENOPROTOOPT, "{error}");
        assert_eq!(listener.try_accept().unwrap_err().errno(), ENOPROTOOPT);
    }
    lives.store(true, Ordering::SeqCst);
    assert_served(listener.accept_within(SOON).unwrap(), ours);
    assert!(listener.try_accept().unwrap().is_none());
}

#[test]
fn a_connection_that_the_daemon_refuses_to_judge_holds_nobody_up() {
    let (_dir, _daemon, registrar) = registrar(|request| match request.operation {
        Operation::OriginalDestination => errno(EPERM),
        _ => original(),
    });
    let listener = ForeignListener::bind(&registrar, foreign(), LOCALHOST).unwrap();
    let ours = TcpStream::connect(listener.local_addr()).unwrap();
    let error = listener.accept_within(SOON).unwrap_err();
    assert_eq!(error.errno(), EPERM, "{error}");
    assert_closed(ours);
    assert!(listener.try_accept().unwrap().is_none());
}

#[tokio::test]
async fn a_daemon_that_fails_costs_no_task_its_connection() {
    let (_dir, _daemon, registrar, lives) = failing_first();
    let bound =
        xtproxy_client::asynchronous::ForeignListener::bind(&registrar, foreign(), LOCALHOST);
    let listener = bound.await.unwrap();
    let ours = TcpStream::connect(listener.local_addr()).unwrap();
    for _ in 0..2 {
        assert_eq!(listener.accept().await.unwrap_err().errno(), ENOPROTOOPT);
    }
    lives.store(true, Ordering::SeqCst);
    let accepted = tokio::time::timeout(SOON, listener.accept()).await;
    let (stream, source) = accepted.unwrap().unwrap();
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    assert_served((stream, source), ours);
}

#[test]
fn accepting_has_an_end() {
    let (_dir, _daemon, registrar) = registrar(agree(|_| {}));
    let listener = ForeignListener::bind(&registrar, foreign(), LOCALHOST).unwrap();
    assert!(listener.try_accept().unwrap().is_none());
    let start = Instant::now();
    let error = listener
        .accept_within(Duration::from_millis(100))
        .unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(start.elapsed() < SOON);
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    let _ours = TcpStream::connect(listener.local_addr()).unwrap();
    let (_, source) = listener.accept_within(SOON).unwrap();
    assert_eq!(source, client());
}

#[test]
fn strangers_do_not_extend_the_time() {
    let (_dir, _daemon, registrar) = registrar(|request| {
        if request.operation == Operation::OriginalDestination {
            return errno(ENOENT);
        }
        original()
    });
    let listener = ForeignListener::bind(&registrar, foreign(), LOCALHOST).unwrap();
    let local = listener.local_addr();
    let knocking = thread::spawn(move || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            drop(TcpStream::connect(local));
            thread::sleep(Duration::from_millis(10));
        }
    });
    let start = Instant::now();
    let outcome = listener.accept_within(Duration::from_millis(300));
    assert!(outcome.is_err());
    assert!(start.elapsed() < Duration::from_millis(900));
    knocking.join().unwrap();
}

#[test]
fn a_free_foreign_port_is_chosen_and_told() {
    let (_dir, daemon, registrar) = registrar(agree(|_| {}));
    let any = SocketAddrV4::new(*foreign().ip(), 0);
    let listener = ForeignListener::bind(&registrar, any, LOCALHOST).unwrap();
    assert_eq!(listener.foreign_addr(), foreign());
    use Operation::{Alloc, Assign, Connect, Query};
    let operations = |daemon: &Daemon| -> Vec<_> {
        let asked = daemon.asked();
        asked.iter().map(|request| request.operation).collect()
    };
    let expected = [Assign, Alloc, Operation::Flags, Query];
    assert_eq!(operations(&daemon), expected);
    ForeignListener::with_peer(&registrar, any, None, v4("127.0.0.1:9")).unwrap();
    let expected = [Assign, Alloc, Connect, Operation::Flags, Query];
    assert_eq!(operations(&daemon), expected);
}

#[test]
fn a_peer_tells_the_local_address() {
    let (_dir, daemon, registrar) = registrar(agree(|_| {}));
    let peer = v4("127.0.0.5:20");
    let listener = ForeignListener::with_peer(&registrar, foreign(), None, peer).unwrap();
    assert_eq!(*listener.local_addr().ip(), LOCALHOST);
    let [asked] = daemon.asked().try_into().unwrap();
    assert_eq!(asked.peer, Some(peer.into()));
    let local = SocketAddrV4::new([127, 0, 0, 9].into(), 0);
    let listener = ForeignListener::with_peer(&registrar, foreign(), Some(local), peer).unwrap();
    assert_eq!(listener.local_addr().ip(), local.ip());
}

#[test]
fn a_listener_ends_when_dropped_and_its_connections_do_not() {
    let (_dir, _daemon, registrar) = registrar(agree(|_| {}));
    let listener = ForeignListener::bind(&registrar, foreign(), LOCALHOST).unwrap();
    let local = listener.local_addr();
    let mut ours = TcpStream::connect(local).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    drop(listener);
    let refused = TcpStream::connect(local).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    ours.write_all(b"x").unwrap();
    accepted.read_exact(&mut [0]).unwrap();
    // The port can be listened on again beside them.
    let again = ForeignListener::bind_at(&registrar, foreign(), local).unwrap();
    assert_eq!(again.local_addr(), local);
}

#[test]
fn a_refused_listener_leaves_nothing() {
    let seen = Arc::new(Mutex::new(None));
    let told = Arc::clone(&seen);
    let (_dir, _daemon, registrar) = registrar(move |request| {
        *told.lock().unwrap() = Some(local_of(request));
        errno(EPERM)
    });
    let error = ForeignListener::bind(&registrar, foreign(), LOCALHOST).unwrap_err();
    assert_eq!(error.errno(), EPERM);
    let local = seen.lock().unwrap().unwrap();
    let refused = TcpStream::connect(local).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_local_address_must_be_the_own() {
    let (_dir, daemon, registrar) = registrar(agree(|_| {}));
    let elsewhere = Ipv4Addr::new(192, 0, 2, 1);
    let error = ForeignListener::bind(&registrar, foreign(), elsewhere).unwrap_err();
    let line = error.to_string();
    assert!(
        line.starts_with("cannot bind a socket to 192.0.2.1:0: "),
        "{line}"
    );
    assert!(daemon.asked().is_empty());
}

// Connecting.

#[test]
fn a_connection_is_registered_before_it_is_made() {
    let seen = Arc::new(Mutex::new(None));
    let told = Arc::clone(&seen);
    let (_dir, daemon, registrar) = registrar(agree(move |request| {
        let socket = socket_of(request);
        assert!(sockopt::socket_reuseaddr(&socket).unwrap());
        assert!(rustix::net::getpeername(&socket).is_err());
        *told.lock().unwrap() = Some(local_of(request));
    }));
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(to) = server.local_addr().unwrap() else {
        unreachable!()
    };
    for local in [None, Some(Ipv4Addr::new(127, 0, 0, 9))] {
        let stream = foreign_connect(&registrar, foreign(), to, local, SOON).unwrap();
        let (_, peer) = server.accept().unwrap();
        assert_eq!(stream.local_addr().unwrap(), peer);
        assert_eq!(peer.ip(), local.unwrap_or(LOCALHOST));
        assert_eq!(seen.lock().unwrap().map(SocketAddr::from), Some(peer));
        let [asked] = daemon.asked().try_into().unwrap();
        assert_eq!(asked.operation, Operation::AssignFlags);
        assert_eq!(asked.foreign, Some(foreign().into()));
        assert_eq!(asked.peer, Some(to.into()));
        assert_eq!(asked.flags, Flags::CONNECT.bits());
    }
}

#[test]
fn a_shared_local_port_is_tried_no_longer() {
    let mut left = 3;
    let (_dir, daemon, registrar) = registrar(move |_| {
        if left == 0 {
            return original();
        }
        left -= 1;
        errno(EEXIST)
    });
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = v4(&server.local_addr().unwrap().to_string());
    foreign_connect(&registrar, foreign(), to, None, SOON).unwrap();
    assert_eq!(daemon.asked().len(), 4);
}

#[test]
fn trying_has_an_end() {
    for (number, tries) in [(EEXIST, 16), (EADDRINUSE, 1), (EPERM, 1)] {
        let (_dir, daemon, registrar) = registrar(move |_| errno(number));
        let to = v4("127.0.0.1:9");
        let error = foreign_connect(&registrar, foreign(), to, None, SOON).unwrap_err();
        assert_eq!(error.errno(), number);
        assert_eq!(daemon.asked().len(), tries, "{error}");
    }
}

/// A server that answers no SYN any more.
fn full_server() -> (socket2::Socket, SocketAddrV4, Vec<TcpStream>) {
    let server = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )
    .unwrap();
    server.bind(&v4("127.0.0.1:0").into()).unwrap();
    server.listen(0).unwrap();
    let to = server.local_addr().unwrap().as_socket_ipv4().unwrap();
    let waiting = (0..4).map_while(|_| {
        let most = Duration::from_millis(100);
        TcpStream::connect_timeout(&to.into(), most).ok()
    });
    let waiting: Vec<_> = waiting.collect();
    assert!(waiting.len() < 4, "it is never full");
    (server, to, waiting)
}

#[test]
fn connecting_has_an_end() {
    let (_dir, _daemon, registrar) = registrar(agree(|_| {}));
    let (_server, to, _waiting) = full_server();
    let start = Instant::now();
    let most = Duration::from_millis(200);
    let error = foreign_connect(&registrar, foreign(), to, None, most).unwrap_err();
    // The system call counts whole milliseconds.
    assert!(start.elapsed() >= most / 2 && start.elapsed() < SOON);
    let line = error.to_string();
    assert!(
        line.starts_with(&format!("cannot connect from {} to {to}: ", foreign())),
        "{line}"
    );
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
}

#[test]
fn what_the_kernel_says_is_told() {
    let (_dir, _daemon, registrar) = registrar(agree(|_| {}));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = v4(&closed.local_addr().unwrap().to_string());
    drop(closed);
    let error = foreign_connect(&registrar, foreign(), to, None, SOON).unwrap_err();
    assert!(matches!(error, Error::Socket { .. }), "{error}");
    assert_eq!(io::Error::from(error).raw_os_error(), Some(ECONNREFUSED));
    let error = local_towards(v4("255.255.255.255:0")).unwrap_err();
    let line = error.to_string();
    assert!(
        line.starts_with("cannot find a route to 255.255.255.255: "),
        "{line}"
    );
    assert_eq!(local_towards(v4("127.8.8.8:0")).unwrap(), LOCALHOST);
}

mod tasks {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;
    use xtproxy_client::asynchronous::{ForeignListener, foreign_connect};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn who_did_not_want_the_foreign_address_is_not_accepted() {
        let (_dir, daemon, registrar) = registrar(strangers_first());
        let listener = ForeignListener::bind(&registrar, foreign(), LOCALHOST)
            .await
            .unwrap();
        let local = listener.local_addr();
        assert_eq!(local_addr_of(&listener), local);
        assert_eq!(listener.foreign_addr(), foreign());
        assert_eq!(daemon.asked()[0].flags, Flags::LISTEN.bits());
        let [first, second, mut third] = [(); 3].map(|()| TcpStream::connect(local).unwrap());
        let accepting = timeout(SOON, listener.accept()).await;
        let (mut accepted, source) = accepting.unwrap().unwrap();
        assert_eq!(source, client());
        accepted.write_all(b"hello").await.unwrap();
        let mut said = [0; 5];
        third.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
        assert_closed(first);
        assert_closed(second);
    }

    fn local_addr_of(listener: &ForeignListener) -> SocketAddrV4 {
        let local = rustix::net::getsockname(listener.as_fd()).unwrap();
        v4(&SocketAddr::try_from(local).unwrap().to_string())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn accepting_that_is_cancelled_loses_no_connection() {
        let cancelled = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&cancelled);
        // The answer about the accepted socket comes when nobody waits for it any more.
        let (_dir, _daemon, registrar) = registrar(move |request| {
            let is_about_accepted = request.operation == Operation::OriginalDestination;
            if is_about_accepted && seen.load(Ordering::SeqCst) < 5 {
                return Say::Later;
            }
            original()
        });
        let peer = v4("127.0.0.1:9");
        let listener = ForeignListener::with_peer(&registrar, foreign(), None, peer)
            .await
            .unwrap();
        let ours = TcpStream::connect(listener.local_addr()).unwrap();
        let start = Instant::now();
        let (accepted, _) = loop {
            match timeout(Duration::from_millis(2), listener.accept()).await {
                Ok(accepted) => break accepted.unwrap(),
                Err(_) => cancelled.fetch_add(1, Ordering::SeqCst),
            };
            assert!(start.elapsed() < SOON, "it never comes");
        };
        assert!(cancelled.load(Ordering::SeqCst) >= 5);
        assert_eq!(accepted.peer_addr().unwrap(), ours.local_addr().unwrap());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_task_connects_from_a_foreign_address() {
        let mut left = 2;
        let (_dir, daemon, registrar) = registrar(move |request| {
            assert!(sockopt::socket_reuseaddr(socket_of(request)).unwrap());
            if left == 0 {
                return original();
            }
            left -= 1;
            errno(EEXIST)
        });
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = v4(&server.local_addr().unwrap().to_string());
        let mut stream = foreign_connect(&registrar, foreign(), to, None, SOON)
            .await
            .unwrap();
        let (mut accepted, peer) = server.accept().unwrap();
        assert_eq!(stream.local_addr().unwrap(), peer);
        accepted.write_all(b"x").unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        let asked = daemon.asked();
        assert_eq!(asked.len(), 3);
        assert_eq!(asked[2].peer, Some(to.into()));
        assert_eq!(asked[2].flags, Flags::CONNECT.bits());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn connecting_has_an_end() {
        let (_dir, _daemon, registrar) = registrar(agree(|_| {}));
        let (_server, to, _waiting) = full_server();
        let start = Instant::now();
        let most = Duration::from_millis(200);
        let outcome = foreign_connect(&registrar, foreign(), to, None, most).await;
        assert!(start.elapsed() < SOON);
        let error = outcome.unwrap_err();
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    }
}
