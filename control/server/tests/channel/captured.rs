//! Connections of programs on the box that were captured when they connected.

use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;

use protocol::{CLIENT_SOCKET, ErrorKind, Reply};
use shm::{Access, Operation};

use crate::conversation::{QUESTION, connect, failure, reply, send_fds};
use crate::fixture::server;
use crate::namespace::inside;
use crate::proxy::Proxy;

const MEANT: &str = "192.0.2.80:80";

#[test]
fn the_proxy_hears_where_its_client_meant_to_go() {
    inside(|| {
        let (dir, running) = server();
        let listener = TcpListener::bind("10.1.0.1:3128").unwrap();
        let client = TcpStream::connect("10.1.0.1:3128").unwrap();
        let other = TcpStream::connect("10.1.0.1:3128").unwrap();
        let accepted: Vec<TcpStream> = (0..2).map(|_| listener.accept().unwrap().0).collect();
        let of = |stream: &TcpStream| {
            let peer = stream.local_addr().unwrap();
            let mut found = accepted.iter();
            let one = found.find(|one| one.peer_addr().unwrap() == peer);
            one.unwrap()
        };
        let meant: SocketAddrV4 = MEANT.parse().unwrap();
        let cookie = sockets::facts(client.as_fd()).unwrap().cookie;
        running
            .machine
            .captured
            .lock()
            .unwrap()
            .insert(cookie, meant);

        let stream = connect(dir.path(), CLIENT_SOCKET);
        send_fds(&stream, QUESTION, &[of(&client).as_fd()]);
        let source = client.local_addr().unwrap();
        let want = Reply::OriginalDestination {
            source,
            destination: meant.into(),
        };
        assert_eq!(reply(&stream), want);
        // Neither a client that was not captured, nor the captured socket itself.
        for socket in [of(&other).as_fd(), client.as_fd()] {
            send_fds(&stream, QUESTION, &[socket]);
            assert_eq!(failure(&stream).0, ErrorKind::NotRedirected);
        }

        let proxy = Proxy::new(dir.path());
        let ask = |socket: &TcpStream| {
            let told = proxy.ask(Operation::OriginalDestination, Access::Get, socket, |_| {});
            told.map(|told| (told.peer, told.foreign))
        };
        assert_eq!(
            ask(of(&client)),
            Ok((Some(source), Some(SocketAddr::V4(meant))))
        );
        assert_eq!(ask(of(&other)), Err(libc::ENOENT));
        let query = proxy
            .get(Operation::Query, of(&client))
            .map(|told| told.foreign);
        assert_eq!(query, Err(libc::ENOENT), "nobody has registered anything");
    });
}
