//! Who listens, who holds it, and whose a connection is.

use std::collections::HashSet;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use sockets::{Listener, alive, cookie_of, facts, holders, listening};

use crate::namespace::inside;

const BOTH: &[u8] = &[6, 17];

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(v4) => v4,
        SocketAddr::V6(v6) => SocketAddrV4::new(v6.ip().to_ipv4_mapped().unwrap(), v6.port()),
    }
}

/// Protocol and place of all listeners, in order.
fn places(protos: &[u8]) -> Vec<(u8, String)> {
    let found = listening(protos).unwrap();
    let mut places: Vec<_> = found
        .iter()
        .map(|one| (one.proto, one.local.to_string()))
        .collect();
    places.sort();
    places
}

fn bound(domain: Domain, kind: Type, at: &str, only_six: bool) -> Socket {
    let socket = Socket::new(domain, kind, None).unwrap();
    if domain == Domain::IPV6 {
        socket.set_only_v6(only_six).unwrap();
    }
    let at: SocketAddr = at.parse().unwrap();
    socket.bind(&at.into()).unwrap();
    socket
}

#[test]
fn tells_who_waits_for_anybody_and_nobody_else() {
    inside(|| {
        assert!(places(BOTH).is_empty());
        let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
        let _connected = TcpStream::connect("127.0.0.1:4000").unwrap();
        let _accepted = listener.accept().unwrap();
        // Bound, and does not listen.
        let _bound = bound(Domain::IPV4, Type::STREAM, "127.0.0.1:4001", false);
        let udp = UdpSocket::bind("0.0.0.0:53").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:54").unwrap();
        connected.connect("127.0.0.2:5353").unwrap();
        // Neither: it has no port.
        let _unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let want = |proto, at: &str| (proto, at.to_owned());
        let all = [want(6, "127.0.0.1:4000"), want(17, "0.0.0.0:53")];
        assert_eq!(places(BOTH), all);
        assert_eq!(places(&[6]), all[..1]);
        assert_eq!(places(&[17]), all[1..]);
        for (socket, proto) in [(listener.as_fd(), 6), (udp.as_fd(), 17)] {
            let told = listening(&[proto]).unwrap();
            let facts = facts(socket).unwrap();
            let inode = rustix::fs::fstat(socket).unwrap().st_ino;
            let want = Listener {
                proto,
                local: facts.local,
                inode: inode.try_into().unwrap(),
                cookie: facts.cookie,
            };
            assert_eq!(told, [want]);
        }
        drop(listener);
        assert_eq!(places(BOTH), all[1..]);
    });
}

#[test]
fn ipv6_sockets_count_if_they_take_ipv4() {
    inside(|| {
        let mut held = Vec::new();
        for (kind, port) in [(Type::STREAM, 4000), (Type::DGRAM, 5000)] {
            let at = |host: &str, n| format!("[{host}]:{}", port + n);
            held.extend([
                bound(Domain::IPV6, kind, &at("::", 0), false),
                bound(Domain::IPV6, kind, &at("::", 1), true),
                bound(Domain::IPV6, kind, &at("::ffff:127.0.0.1", 2), false),
                bound(Domain::IPV6, kind, &at("::1", 3), false),
            ]);
        }
        for socket in held.iter().take(4) {
            socket.listen(1).unwrap();
        }
        let want = |proto, at: &str| (proto, at.to_owned());
        assert_eq!(
            places(BOTH),
            [
                want(6, "0.0.0.0:4000"),
                want(6, "127.0.0.1:4002"),
                want(17, "0.0.0.0:5000"),
                want(17, "127.0.0.1:5002"),
            ]
        );
    });
}

#[test]
fn a_connection_is_its_own_sockets() {
    inside(|| {
        for at in ["127.0.0.1:4000", "[::ffff:127.0.0.1]:4001"] {
            let listener = TcpListener::bind(at).unwrap();
            let client = TcpStream::connect(at).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let (from, to) = (
                v4(client.local_addr().unwrap()),
                v4(client.peer_addr().unwrap()),
            );
            let cookie = |fd| facts(fd).unwrap().cookie;
            let ours = Some(cookie(client.as_fd()));
            assert_eq!(cookie_of(from, to).unwrap(), ours);
            assert_eq!(cookie_of(to, from).unwrap(), Some(cookie(accepted.as_fd())));
            // No connection, though a listener would take it; and none at all.
            let elsewhere = SocketAddrV4::new([127, 0, 0, 9].into(), from.port());
            assert_eq!(cookie_of(to, elsewhere).unwrap(), None);
            assert_eq!(cookie_of(elsewhere, to).unwrap(), None);
            // Closed, and the other end has not.
            drop(client);
            assert_eq!(cookie_of(from, to).unwrap(), ours);
            drop(accepted);
            assert_eq!(cookie_of(from, to).unwrap(), None, "TIME_WAIT is nobody's");
        }
    });
}

#[test]
fn another_namespaces_connection_is_not_seen() {
    let (from, to, held) = inside(|| {
        let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
        let client = TcpStream::connect("127.0.0.1:4000").unwrap();
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert!(cookie_of(v4(from), v4(to)).unwrap().is_some());
        (from, to, (listener, client))
    });
    inside(|| {
        assert_eq!(cookie_of(v4(from), v4(to)).unwrap(), None);
        assert!(places(BOTH).is_empty());
    });
    drop(held);
}

/// A process that does nothing but hold a descriptor, as its standard input and output.
struct Holder(Child);

impl Holder {
    fn start(held: OwnedFd) -> Self {
        let twice = held.try_clone().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60").stdin(held).stdout(twice);
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn holders_are_all_processes_that_have_it_open_each_once() {
    inside(|| {
        let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
        let other = TcpListener::bind("127.0.0.1:4001").unwrap();
        let inode_at = |port| {
            let found = listening(&[6]).unwrap();
            let one = found.iter().find(|one| one.local.port() == port);
            one.unwrap().inode
        };
        let (inode, others) = (inode_at(4000), inode_at(4001));
        let pid = std::process::id();
        let holder = Holder::start(listener.as_fd().try_clone_to_owned().unwrap());
        let asked: HashSet<u32> = [inode].into();
        let mut found = holders(&asked);
        assert_eq!(found.len(), 1, "nobody asked about {others}");
        let pids: HashSet<u32> = found[&inode].iter().copied().collect();
        assert_eq!(pids, [pid, holder.0.id()].into());
        assert_eq!(found[&inode].len(), 2, "each once");
        drop(listener);
        found = holders(&[inode, others].into());
        assert_eq!(found[&inode], [holder.0.id()]);
        assert_eq!(found[&others], [pid]);
        drop(holder);
        assert_eq!(holders(&asked).len(), 0);
        assert!(holders(&HashSet::new()).is_empty());
        drop(other);
    });
}

/// The shortest of a few times that `work` takes.
fn shortest(work: impl Fn()) -> Duration {
    let time = |_| {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    (0..5).map(time).min().unwrap()
}

/// Listeners, each with so many connections that nobody has accepted: no process needs
/// descriptors for them.
fn crowded(listeners: u16, connections: u16) -> Vec<Socket> {
    let crowd = |n| {
        let at = format!("127.0.0.1:{}", 4000 + n);
        let listener = bound(Domain::IPV4, Type::STREAM, &at, false);
        listener.listen(i32::from(connections)).unwrap();
        for _ in 0..connections {
            drop(TcpStream::connect(&at).unwrap());
        }
        listener
    };
    (0..listeners).map(crowd).collect()
}

#[test]
fn sixty_thousand_connections_cost_nothing() {
    inside(|| {
        let _crowd = crowded(15, 4000);
        let listener = TcpListener::bind("127.0.0.1:80").unwrap();
        let client = TcpStream::connect("127.0.0.1:80").unwrap();
        let (from, to) = (
            v4(client.local_addr().unwrap()),
            v4(client.peer_addr().unwrap()),
        );
        let in_use = sockets::in_use().unwrap();
        assert!(in_use.contains(&(6, from)));
        let all = shortest(|| assert!(alive().unwrap().len() > 16));
        let few = shortest(|| assert_eq!(listening(BOTH).unwrap().len(), 16));
        let one = shortest(|| assert!(cookie_of(from, to).unwrap().is_some()));
        assert!(few < all / 10, "listeners: {few:?}, all sockets: {all:?}");
        assert!(one < all / 10, "one: {one:?}, all sockets: {all:?}");
        drop(listener);
    });
}
