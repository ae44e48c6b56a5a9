//! Every state that a socket can be in.

use std::fs::File;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use rustix::net::sockopt::socket_cookie;
use socket2::{Domain, Protocol, Socket, Type};
use sockets::{Facts, FetchError, facts};

use crate::namespace::inside;

const NOWHERE: &str = "0.0.0.0:0";

fn of(socket: impl AsFd) -> Facts {
    facts(socket.as_fd()).unwrap()
}

/// What is expected of a socket of this test's user, as (protocol, local, peer).
fn expect(socket: impl AsFd, proto: u8, local: impl ToString, peer: Option<SocketAddr>) {
    let found = of(&socket);
    let local: SocketAddrV4 = local.to_string().parse().unwrap();
    let peer = peer.map(|peer| match peer {
        SocketAddr::V4(v4) => v4,
        SocketAddr::V6(v6) => SocketAddrV4::new(v6.ip().to_ipv4_mapped().unwrap(), v6.port()),
    });
    let cookie = socket_cookie(&socket).unwrap();
    assert_ne!(cookie, 0);
    let expected = Facts {
        cookie,
        proto,
        local,
        peer,
        reuse: found.reuse,
        uid: rustix::process::geteuid().as_raw(),
    };
    assert_eq!(found, expected);
}

fn tcp(domain: Domain) -> Socket {
    Socket::new(domain, Type::STREAM, None).unwrap()
}

fn address(text: &str) -> socket2::SockAddr {
    text.parse::<SocketAddr>().unwrap().into()
}

/// Waits until the other side's reset is here: it may be handled by another core.
fn hung_up(socket: &TcpStream) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let most = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut fds, Some(&most)).unwrap(), 1, "no reset came");
}

#[test]
fn tcp_in_every_state() {
    inside(|| {
        let fresh = tcp(Domain::IPV4);
        expect(&fresh, 6, NOWHERE, None);
        fresh.bind(&address("127.0.0.9:4001")).unwrap();
        expect(&fresh, 6, "127.0.0.9:4001", None);

        let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
        expect(&listener, 6, "127.0.0.1:4000", None);
        let connected = TcpStream::connect("127.0.0.1:4000").unwrap();
        let (accepted, client) = listener.accept().unwrap();
        let own = connected.local_addr().unwrap();
        expect(&connected, 6, own, Some(listener.local_addr().unwrap()));
        expect(&accepted, 6, "127.0.0.1:4000", Some(client));

        // Reset: the addresses stay, the peer goes.
        rustix::net::sockopt::set_socket_linger(&connected, Some(Default::default())).unwrap();
        drop(connected);
        hung_up(&accepted);
        expect(&accepted, 6, "127.0.0.1:4000", None);
    });
}

#[test]
fn tcp_on_its_way_has_no_peer() {
    inside(|| {
        // The accept queue is full, so that the next connection hangs.
        let listener = tcp(Domain::IPV4);
        listener.bind(&address("127.0.0.1:4000")).unwrap();
        listener.listen(0).unwrap();
        let _first = TcpStream::connect("127.0.0.1:4000").unwrap();
        let hanging = tcp(Domain::IPV4);
        hanging.set_nonblocking(true).unwrap();
        let _ = hanging.connect(&address("127.0.0.1:4000"));
        let found = of(&hanging);
        assert_eq!(
            (found.peer, *found.local.ip()),
            (None, [127, 0, 0, 1].into())
        );
        assert_ne!(found.local.port(), 0);
    });
}

#[test]
fn udp_in_every_state() {
    inside(|| {
        let fresh = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        expect(&fresh, 17, NOWHERE, None);
        let bound = UdpSocket::bind("127.0.0.1:53").unwrap();
        expect(&bound, 17, "127.0.0.1:53", None);
        bound.connect("127.0.0.2:5353").unwrap();
        expect(
            &bound,
            17,
            "127.0.0.1:53",
            Some("127.0.0.2:5353".parse().unwrap()),
        );
    });
}

#[test]
fn ipv6_sockets_that_speak_ipv4() {
    inside(|| {
        let listener = tcp(Domain::IPV6);
        listener.set_only_v6(false).unwrap();
        expect(&listener, 6, NOWHERE, None);
        listener.bind(&address("[::]:4000")).unwrap();
        listener.listen(8).unwrap();
        expect(&listener, 6, "0.0.0.0:4000", None);
        let client = TcpStream::connect("127.0.0.1:4000").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let from = client.local_addr().unwrap();
        expect(&accepted, 6, "127.0.0.1:4000", Some(from));
        let mapped = tcp(Domain::IPV6);
        mapped.bind(&address("[::ffff:127.0.0.3]:4003")).unwrap();
        expect(&mapped, 6, "127.0.0.3:4003", None);
        mapped.connect(&address("[::ffff:127.0.0.1]:4000")).unwrap();
        expect(
            &mapped,
            6,
            "127.0.0.3:4003",
            Some("127.0.0.1:4000".parse().unwrap()),
        );
    });
}

#[test]
fn options_and_owner_are_the_sockets() {
    inside(|| {
        let socket = tcp(Domain::IPV4);
        assert!(!of(&socket).reuse);
        socket.set_reuse_address(true).unwrap();
        assert!(of(&socket).reuse);
        nix::unistd::setfsuid(1234.into());
        assert_eq!(of(tcp(Domain::IPV4)).uid, 1234);
        assert_eq!(of(&socket).uid, 0);
    });
}

#[test]
fn what_is_no_tcp_or_udp_socket_over_ipv4() {
    inside(|| {
        let six = tcp(Domain::IPV6);
        six.bind(&address("[::1]:4000")).unwrap();
        let raw = |protocol| Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).unwrap();
        let open = |path| OwnedFd::from(File::open(path).unwrap());
        let packet = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
        let mut only_a_path = File::options();
        only_a_path.read(true).custom_flags(libc::O_PATH);
        let others: [(OwnedFd, libc::c_int); 9] = [
            (six.into(), libc::EINVAL),
            (raw(Protocol::TCP).into(), libc::EINVAL),
            (raw(Protocol::UDP).into(), libc::EINVAL),
            (raw(Protocol::ICMPV4).into(), libc::EINVAL),
            (packet.into(), libc::EINVAL),
            (UnixStream::pair().unwrap().0.into(), libc::EINVAL),
            (open("/dev/null"), libc::ENOTSOCK),
            (std::io::pipe().unwrap().0.into(), libc::ENOTSOCK),
            (only_a_path.open("/etc").unwrap().into(), libc::EBADF),
        ];
        for (n, (fd, errno)) in others.iter().enumerate() {
            let error = facts(fd.as_fd()).unwrap_err();
            assert_eq!(error.errno(), *errno, "{n}: {error}");
        }
    });
}

#[test]
fn a_socket_of_another_namespace_is_refused() {
    let abroad = |bind: &'static str| {
        inside(move || {
            let tcp = OwnedFd::from(TcpListener::bind(bind).unwrap());
            let udp = OwnedFd::from(UdpSocket::bind(bind).unwrap());
            [tcp, udp]
        })
    };
    inside(|| {
        let here = TcpListener::bind("127.0.0.1:4000").unwrap();
        expect(&here, 6, "127.0.0.1:4000", None);
        for fd in abroad("127.0.0.1:4000") {
            let refused = facts(fd.as_fd());
            assert!(
                matches!(refused, Err(FetchError::OtherNamespace)),
                "{refused:?}"
            );
        }
    });
}
