//! Every descriptor that a client sends is closed. Alone in its process, because it
//! counts the process's descriptors.

mod conversation;
mod fixture;

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use conversation::{QUESTION, assert_closed, connect, failure, send_fds, try_send_fds};
use fixture::server;
use protocol::{CLIENT_SOCKET, ErrorKind};

/// How many descriptors of this process are open, once the server is done closing.
fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn every_fd_that_is_sent_is_closed() {
    let (dir, _running) = server();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let stream = connect(dir.path(), CLIENT_SOCKET);
    // The first answer shows that the server has opened all that it needs itself.
    send_fds(&stream, QUESTION, &[ours.as_fd()]);
    assert_eq!(failure(&stream).0, ErrorKind::NotRedirected);
    let before = open_fds();
    for _ in 0..50 {
        send_fds(&stream, QUESTION, &[ours.as_fd()]);
        assert_eq!(failure(&stream).0, ErrorKind::NotRedirected);
    }
    // Two in one message, two before one request, and one without a request.
    let fds = [ours.as_fd(), ours.as_fd(), ours.as_fd()];
    for (first, second) in [
        (&fds[..2], &fds[..1]),
        (&fds[..3], &fds[..1]),
        (&fds[..1], &fds[..1]),
    ] {
        let stream = connect(dir.path(), CLIENT_SOCKET);
        send_fds(&stream, b" ", first);
        // The server may have cut the connection off already.
        let _ = try_send_fds(&stream, QUESTION, second);
        assert_eq!(failure(&stream).0, ErrorKind::BadSocket);
        assert_closed(&stream);
    }
    let idle = connect(dir.path(), CLIENT_SOCKET);
    send_fds(&idle, b" ", &[ours.as_fd()]);
    drop(idle);
    let deadline = Instant::now() + Duration::from_secs(5);
    while open_fds() > before {
        assert!(
            Instant::now() < deadline,
            "{} descriptors stay open",
            open_fds() - before
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
