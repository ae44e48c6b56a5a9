//! From an accepted socket to what its client wanted.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use protocol::{ErrorKind, Failure, Reply};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, getpeername, getsockname, ipproto, sockopt};
use tables::{Direction, FlowKey, FlowTable, Kind, Side};
use wire::{Endpoint, Protocol, Tuple};

/// The two ends of a connected TCP socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ends {
    local: SocketAddrV4,
    peer: SocketAddrV4,
}

/// Answers for the socket behind `fd`.
pub(crate) fn answer(flows: &FlowTable, fd: BorrowedFd<'_>) -> Result<Reply, Failure> {
    let ends = ends_of(fd)?;
    let endpoint = |address: SocketAddrV4| Endpoint::new(*address.ip(), address.port());
    let tuple = Tuple {
        proto: Protocol::TCP,
        src: endpoint(ends.local),
        dst: endpoint(ends.peer),
    };
    let hit = flows
        .lookup(&FlowKey::new(Side::Host, &tuple))
        .filter(|hit| hit.direction == Direction::Reply && is_taken(hit.flow.kind));
    let Some(hit) = hit else {
        return Err(Failure::new(
            ErrorKind::NotRedirected,
            format!(
                "no redirected flow ends at {} from {}",
                ends.local, ends.peer
            ),
        ));
    };
    let orig = hit.flow.orig.tuple();
    let address = |end: Endpoint| SocketAddr::from((end.addr, end.port));
    Ok(Reply::OriginalDestination {
        source: address(orig.src),
        destination: address(orig.dst),
    })
}

/// Whether such a flow was meant for somebody else than the proxy that has it.
const fn is_taken(kind: Kind) -> bool {
    match kind {
        Kind::Redirect | Kind::Listen => true,
        Kind::Local | Kind::Connect => false,
    }
}

/// Reads the ends from the kernel: what the client says of its socket counts nothing.
fn ends_of(fd: BorrowedFd<'_>) -> Result<Ends, Failure> {
    let domain = sockopt::socket_domain(fd).map_err(|e| match e {
        Errno::NOTSOCK | Errno::BADF => bad("what came is not a socket"),
        other => internal(other),
    })?;
    if domain != AddressFamily::INET && domain != AddressFamily::INET6 {
        return Err(bad("not an Internet socket"));
    }
    if sockopt::socket_type(fd).map_err(internal)? != SocketType::STREAM {
        return Err(bad("not a TCP socket"));
    }
    if sockopt::socket_protocol(fd).map_err(internal)? != Some(ipproto::TCP) {
        return Err(bad("a stream socket of another protocol than TCP"));
    }
    if sockopt::socket_acceptconn(fd).map_err(internal)? {
        return Err(bad("a listening socket; ask about an accepted connection"));
    }
    let address = |found: Result<rustix::net::SocketAddrAny, Errno>| match found {
        Ok(any) => SocketAddr::try_from(any).map_err(internal),
        Err(Errno::NOTCONN) => Err(bad("the socket is not connected, or no longer")),
        Err(other) => Err(internal(other)),
    };
    let peer = ipv4(address(
        getpeername(fd.as_fd()).and_then(|peer| peer.ok_or(Errno::NOTCONN)),
    )?)?;
    let local = ipv4(address(getsockname(fd.as_fd()))?)?;
    let cookie = sockopt::socket_cookie(fd).map_err(internal)?;
    if !sockets::is_here(local, peer, cookie).map_err(internal)? {
        return Err(bad(
            "no open connection of the network namespace that the daemon runs in has this socket",
        ));
    }
    Ok(Ends { local, peer })
}

/// The IPv4 address, be it in an IPv6 socket's clothes.
fn ipv4(address: SocketAddr) -> Result<SocketAddrV4, Failure> {
    match address {
        SocketAddr::V4(v4) => Some(v4),
        SocketAddr::V6(v6) => v6
            .ip()
            .to_ipv4_mapped()
            .map(|ip| SocketAddrV4::new(ip, v6.port())),
    }
    .ok_or_else(|| bad("an IPv6 connection, and those are not redirected yet"))
}

fn bad(message: &str) -> Failure {
    Failure::new(ErrorKind::BadSocket, message)
}

fn internal(error: impl Into<io::Error>) -> Failure {
    Failure::new(
        ErrorKind::Internal,
        format!("reading the socket: {}", error.into()),
    )
}
