//! What comes in by the sockets is hostile.

mod conversation;
mod fixture;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conversation::{QUESTION, assert_closed, connect, failure, reply, send_fds};
use fixture::{Running, crowd, server, some_flows};
use protocol::{CLIENT_SOCKET, CONTROL_SOCKET, ErrorKind, Reply, Request};

#[test]
fn sockets_have_their_modes_and_replace_stale_ones() {
    let dir = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(dir.path().join(CONTROL_SOCKET)).unwrap());
    std::fs::write(dir.path().join("client.new"), "left over").unwrap();
    let mut running = Running::start(dir.path(), Arc::new(some_flows()));
    for (name, mode) in [(CONTROL_SOCKET, 0o600), (CLIENT_SOCKET, 0o666)] {
        let file = std::fs::symlink_metadata(dir.path().join(name)).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, mode, "{name}");
    }
    running.stop();
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing stays behind"
    );
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CLIENT_SOCKET);
    std::fs::write(&path, "precious").unwrap();
    let kept = tempfile::tempdir().unwrap();
    let flows = Arc::new(some_flows());
    let table = Arc::new(tables::Registrations::new(1, 1));
    let sources = server::Sources {
        registry: fixture::registry(kept.path(), &flows, &table),
        flows,
        timeouts: tables::Timeouts::default(),
        workers: Vec::new(),
        machine: Arc::new(fixture::StillMachine::default()),
    };
    let error = server::Server::bind(dir.path(), sources)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("client.sock: is no socket"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn garbage_gets_one_error_line_and_is_cut_off() {
    let (dir, _running) = server();
    for socket in [CONTROL_SOCKET, CLIENT_SOCKET] {
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\n",
            b"\xff\xfe\0\n",
            b"{}\n",
            b"[[[[\n",
        ] {
            let mut stream = connect(dir.path(), socket);
            stream.write_all(garbage).unwrap();
            assert_eq!(
                failure(&stream).0,
                ErrorKind::Malformed,
                "{socket} {garbage:?}"
            );
            assert_closed(&stream);
        }
        let mut stream = connect(dir.path(), socket);
        stream
            .write_all(&vec![b'['; protocol::REQUEST_MAX_BYTES])
            .unwrap();
        assert_eq!(failure(&stream).0, ErrorKind::TooLong);
        assert_closed(&stream);
    }
}

#[test]
fn a_well_formed_mistake_does_not_end_the_conversation() {
    let (dir, _running) = server();
    let mut stream = connect(dir.path(), CONTROL_SOCKET);
    for (line, kind) in [
        (r#"{"version":9,"request":"status"}"#, ErrorKind::Version),
        (
            r#"{"version":1,"request":"sing"}"#,
            ErrorKind::UnknownRequest,
        ),
        (
            r#"{"version":1,"request":"flows_kill","filter":{}}"#,
            ErrorKind::Refused,
        ),
        (
            r#"{"version":1,"request":"original_destination"}"#,
            ErrorKind::Refused,
        ),
        (r#"{"version":1,"request":"channel"}"#, ErrorKind::Refused),
    ] {
        writeln!(stream, "{line}").unwrap();
        assert_eq!(failure(&stream).0, kind, "{line}");
    }
    writeln!(stream, r#"{{"version":1,"request":"flows_count"}}"#).unwrap();
    assert_eq!(reply(&stream), Reply::Count { count: 6 });
}

/// What requests need: those that do not, ignore it.
const FIELDS: &str =
    r#""ruleset":"/r","ticket":77,"packet":{"src":"10.0.0.1","dst":"10.0.0.2","proto":"tcp"}"#;

#[test]
fn the_client_socket_answers_nothing_else() {
    let (dir, running) = server();
    for name in Request::NAMES
        .iter()
        .filter(|name| !["original_destination", "channel"].contains(name))
    {
        let mut stream = connect(dir.path(), CLIENT_SOCKET);
        let line = format!(r#"{{"version":1,"request":"{name}","filter":{{"id":1}},{FIELDS}}}"#);
        writeln!(stream, "{line}").unwrap();
        assert_eq!(failure(&stream).0, ErrorKind::Forbidden, "{name}");
        assert_closed(&stream);
    }
    assert_eq!(running.flows.counts().live, 6);
    assert!(running.machine.calls().is_empty());
}

#[test]
fn no_fd_and_the_wrong_fd_are_told_apart() {
    let (dir, _running) = server();
    let stream = connect(dir.path(), CLIENT_SOCKET);
    (&stream).write_all(QUESTION).unwrap();
    let (kind, message) = failure(&stream);
    assert_eq!(kind, ErrorKind::BadSocket);
    assert!(message.contains("no file descriptor"), "{message}");

    let pipe = std::io::pipe().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect("127.0.0.1:9").unwrap();
    let unix = UnixStream::pair().unwrap();
    let netlink = rustix::net::socket(
        rustix::net::AddressFamily::NETLINK,
        rustix::net::SocketType::RAW,
        None,
    );
    let tcp = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    );
    let wrong = [
        (pipe.0.as_fd(), "is no socket"),
        (file.as_fd(), "is no socket"),
        (listening.as_fd(), "not connected"),
        (udp.as_fd(), "not a TCP socket"),
        (unix.0.as_fd(), "none of TCP or UDP over IPv4"),
        (
            netlink.as_ref().unwrap().as_fd(),
            "none of TCP or UDP over IPv4",
        ),
        (tcp.as_ref().unwrap().as_fd(), "not connected"),
    ];
    for (fd, words) in wrong {
        send_fds(&stream, QUESTION, &[fd]);
        let (kind, message) = failure(&stream);
        assert_eq!(kind, ErrorKind::BadSocket, "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_closed_connection_is_no_proof() {
    let (dir, _running) = server();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&ours, Some(Duration::ZERO)).unwrap();
    drop(ours);
    let stream = connect(dir.path(), CLIENT_SOCKET);
    send_fds(&stream, QUESTION, &[accepted.as_fd()]);
    assert_eq!(failure(&stream).0, ErrorKind::BadSocket);
}

#[test]
fn a_line_that_never_ends_is_cut_off() {
    let (dir, _running) = server();
    for socket in [CONTROL_SOCKET, CLIENT_SOCKET] {
        let mut stream = connect(dir.path(), socket);
        stream.write_all(b"{\"version\":1,").unwrap();
        assert_eq!(failure(&stream).0, ErrorKind::Timeout);
        assert_closed(&stream);
    }
}

#[test]
fn who_does_not_read_is_cut_off_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let _running = Running::start(dir.path(), Arc::new(crowd(20_000)));
    let mut deaf = connect(dir.path(), CONTROL_SOCKET);
    deaf.write_all(b"{\"version\":1,\"request\":\"flows_list\"}\n")
        .unwrap();
    let begun = Instant::now();
    let mut other = connect(dir.path(), CONTROL_SOCKET);
    writeln!(other, r#"{{"version":1,"request":"flows_count"}}"#).unwrap();
    assert_eq!(reply(&other), Reply::Count { count: 20_000 });
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    std::thread::sleep(Duration::from_secs(7));
    let mut rest = Vec::new();
    let _ = deaf.read_to_end(&mut rest);
    assert!(
        rest.len() < 4_000_000,
        "{} bytes came to one that did not read",
        rest.len()
    );
}

#[test]
fn connections_are_limited() {
    let (dir, _running) = server();
    for (socket, most) in [(CONTROL_SOCKET, 32), (CLIENT_SOCKET, 1024)] {
        let mut held = Vec::new();
        let refused = loop {
            let mut stream = connect(dir.path(), socket);
            let _ = stream.write_all(b"{\"version\":9,\"request\":\"x\"}\n");
            match failure(&stream).0 {
                ErrorKind::Version => held.push(stream),
                kind => break kind,
            }
            assert!(held.len() <= most, "{socket}");
        };
        assert_eq!((refused, held.len()), (ErrorKind::Busy, most), "{socket}");
        drop(held);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut stream = connect(dir.path(), socket);
            let _ = stream.write_all(b"{\"version\":9,\"request\":\"x\"}\n");
            if failure(&stream).0 == ErrorKind::Version {
                break;
            }
            assert!(Instant::now() < deadline, "places are not given back");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn flows_whose_time_is_over_go() {
    let (_dir, running) = server();
    assert_eq!(running.flows.counts().live, 6);
    let orig = wire::Tuple {
        proto: wire::Protocol::UDP,
        src: wire::Endpoint::new([10, 9, 9, 9].into(), 1),
        dst: wire::Endpoint::new([10, 9, 9, 8].into(), 2),
    };
    let old = fixture::put(
        &running.flows,
        tables::Kind::Redirect,
        orig,
        orig.reversed(),
        fixture::NOW_NS,
    );
    let deadline = Instant::now() + Duration::from_secs(5);
    while running.flows.snapshot(old.id).is_some() {
        assert!(Instant::now() < deadline, "it does not go");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(running.flows.counts().live, 6, "and no other went");
}

#[test]
fn the_end_of_the_server_ends_every_conversation() {
    let (dir, mut running) = server();
    let control = connect(dir.path(), CONTROL_SOCKET);
    let client = connect(dir.path(), CLIENT_SOCKET);
    send_fds(&client, QUESTION, &[client.as_fd()]);
    assert_eq!(failure(&client).0, ErrorKind::BadSocket);
    let begun = Instant::now();
    running.stop();
    assert_closed(&control);
    assert_closed(&client);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}
