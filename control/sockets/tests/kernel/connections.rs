//! The connections that a box has.

use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};

use sockets::{Connection, connections};

use crate::namespace::inside;

fn v4(at: SocketAddr) -> SocketAddrV4 {
    match at {
        SocketAddr::V4(at) => at,
        SocketAddr::V6(at) => panic!("{at}"),
    }
}

#[test]
fn open_ones_are_told_with_both_ends_and_no_others() {
    inside(|| {
        let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
        let opened = TcpStream::connect("127.0.0.1:4000").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let talking = UdpSocket::bind("127.0.0.1:4001").unwrap();
        talking.connect("127.0.0.1:4002").unwrap();
        let _waiting = UdpSocket::bind("127.0.0.1:4003").unwrap();
        let found = connections().unwrap();
        let one = |proto, local: SocketAddr, peer: SocketAddr| Connection {
            proto,
            local: v4(local),
            peer: v4(peer),
        };
        for expected in [
            one(6, opened.local_addr().unwrap(), opened.peer_addr().unwrap()),
            one(
                6,
                accepted.local_addr().unwrap(),
                accepted.peer_addr().unwrap(),
            ),
            one(
                17,
                talking.local_addr().unwrap(),
                talking.peer_addr().unwrap(),
            ),
        ] {
            assert!(found.contains(&expected), "{expected:?} in {found:?}");
        }
        assert_eq!(found.len(), 3, "{found:?}");
    });
}
