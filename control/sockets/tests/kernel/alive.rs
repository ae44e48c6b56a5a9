//! All sockets of a namespace.

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use sockets::{Alive, alive, facts, in_use};

use crate::namespace::inside;

fn expect(socket: impl AsFd) {
    let facts = facts(socket.as_fd()).unwrap();
    let alive = alive().unwrap();
    let (proto, uid, local) = (facts.proto, facts.uid, facts.local);
    let expected = Alive { proto, uid, local };
    assert_eq!(alive.get(&facts.cookie), Some(&expected), "{facts:?}");
}

fn address(text: &str) -> socket2::SockAddr {
    text.parse::<std::net::SocketAddr>().unwrap().into()
}

#[test]
fn finds_each_state() {
    inside(|| {
        assert!(alive().unwrap().is_empty());
        nix::unistd::setfsuid(1234.into());
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        nix::unistd::setfsuid(0.into());
        bound.bind(&address("127.0.0.1:4001")).unwrap();
        expect(&bound);
        let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
        expect(&listener);
        let connected = TcpStream::connect("127.0.0.1:4000").unwrap();
        expect(&connected);
        // In the queue, nobody holds it.
        assert_eq!(alive().unwrap().len(), 3);
        let (accepted, _) = listener.accept().unwrap();
        expect(&accepted);
        let udp = UdpSocket::bind("127.0.0.1:53").unwrap();
        expect(&udp);
        udp.connect("127.0.0.2:5353").unwrap();
        expect(&udp);
        for (kind, port) in [(Type::STREAM, 4002), (Type::DGRAM, 4003)] {
            for bind in [
                format!("[::ffff:127.0.0.1]:{port}"),
                format!("[::]:{port}0"),
            ] {
                let socket = Socket::new(Domain::IPV6, kind, None).unwrap();
                socket.bind(&address(&bind)).unwrap();
                expect(&socket);
            }
        }
        let six = UdpSocket::bind("[::1]:4004").unwrap();
        // What was closed a moment ago may still be told.
        let deadline = Instant::now() + Duration::from_secs(5);
        while alive().unwrap().len() != 5 {
            assert!(
                Instant::now() < deadline,
                "no IPv6, and what was closed has gone: {:?}",
                alive()
            );
        }
        drop(six);
    });
}

#[test]
fn what_is_closed_and_lingers_is_not_alive() {
    inside(|| {
        let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
        let mut connected = TcpStream::connect("127.0.0.1:4000").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let cookie = facts(connected.as_fd()).unwrap().cookie;
        assert!(alive().unwrap().contains_key(&cookie));
        connected.write_all(b"unread").unwrap();
        drop(connected);
        // The kernel still has it, in FIN_WAIT2.
        let alive = alive().unwrap();
        assert!(!alive.contains_key(&cookie));
        assert!(alive.contains_key(&facts(accepted.as_fd()).unwrap().cookie));
    });
}

#[test]
fn finds_very_many_and_none_of_another_namespace() {
    let (cookie, abroad) = inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
        (facts(socket.as_fd()).unwrap().cookie, socket)
    });
    inside(|| {
        // More than one answer can tell.
        let bind = |n: u32| UdpSocket::bind(("127.0.0.1", 10_000 + n as u16)).unwrap();
        let listen = |n: u32| TcpListener::bind(("127.0.0.1", 10_000 + n as u16)).unwrap();
        let (udp, tcp): (Vec<_>, Vec<_>) = (0..400).map(|n| (bind(n), listen(n))).unzip();
        let alive = alive().unwrap();
        assert_eq!(alive.len(), 800);
        let cookies = udp.iter().map(|one| facts(one.as_fd()));
        for facts in cookies.chain(tcp.iter().map(|one| facts(one.as_fd()))) {
            assert!(alive.contains_key(&facts.unwrap().cookie));
        }
        assert!(!alive.contains_key(&cookie));
    });
    drop(abroad);
}

#[test]
fn who_may_still_send_is_in_use() {
    inside(|| {
        let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind(&address("127.0.0.1:4001")).unwrap();
        assert!(in_use().unwrap().is_empty(), "nobody is connected");
        let connected = TcpStream::connect("127.0.0.1:4000").unwrap();
        let local = |port| (6, format!("127.0.0.1:{port}").parse().unwrap());
        let from = connected.local_addr().unwrap().port();
        assert_eq!(
            in_use().unwrap(),
            [local(4000), local(from)].into(),
            "one of them not accepted yet"
        );
        // Closed by its process, and it waits for the other end: FIN_WAIT2, nobody's.
        drop(connected);
        assert!(
            alive()
                .unwrap()
                .values()
                .all(|one| one.local.port() != from)
        );
        assert!(in_use().unwrap().contains(&local(from)));
        let (accepted, _) = listener.accept().unwrap();
        drop(accepted);
        assert!(
            in_use().unwrap().is_empty(),
            "TIME_WAIT says nothing by itself"
        );
    });
}
