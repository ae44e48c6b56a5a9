//! One connection of a namespace.

use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;

use sockets::{is_here, probe};

use crate::namespace::inside;

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(v4) => v4,
        SocketAddr::V6(_) => panic!("{address}"),
    }
}

/// A connection from a fixed port, the same in each namespace.
fn connection() -> (TcpListener, TcpStream, TcpStream, u64) {
    let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    client
        .bind(&"127.0.0.1:4001".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    client
        .connect(&listener.local_addr().unwrap().into())
        .unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let cookie = rustix::net::sockopt::socket_cookie(accepted.as_fd()).unwrap();
    (listener, client.into(), accepted, cookie)
}

#[test]
fn it_is_told_by_its_cookie() {
    let (_kept, abroad) = inside(|| {
        let (_, client, accepted, cookie) = connection();
        ((client, accepted), cookie)
    });
    inside(|| {
        probe().unwrap();
        let (listener, client, accepted, cookie) = connection();
        let ends = |stream: &TcpStream| {
            let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            (v4(local), v4(peer))
        };
        let (local, peer) = ends(&accepted);
        assert!(is_here(local, peer, cookie).unwrap());
        assert!(!is_here(local, peer, abroad).unwrap());
        assert!(!is_here(peer, local, cookie).unwrap());
        drop(listener);
        rustix::net::sockopt::set_socket_linger(&client, Some(Default::default())).unwrap();
        drop(client);
        assert!(!is_here(local, peer, cookie).unwrap(), "it was reset");
    });
}
