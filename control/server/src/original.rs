//! From an accepted socket to what its client wanted.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;

use protocol::{ErrorKind, Failure, Reply};
use sockets::{Facts, FetchError};
use wire::{Endpoint, Protocol};

use crate::Sources;
use crate::machine::Machine;

/// Answers for the socket behind `fd`. What its client says of it counts nothing.
pub(crate) fn answer(sources: &Sources, fd: BorrowedFd<'_>) -> Result<Reply, Failure> {
    let facts = sockets::facts(fd).map_err(not_told)?;
    if Protocol(facts.proto) != Protocol::TCP {
        return Err(bad("not a TCP socket"));
    }
    let peer = facts
        .peer
        .ok_or_else(|| bad("not connected: ask about an accepted connection that is open"))?;
    let (local, remote) = (endpoint(facts.local), endpoint(peer));
    if let Some(hit) = registry::taken(&sources.flows, Protocol::TCP, local, remote) {
        let orig = hit.flow.orig.tuple();
        let address = |end: Endpoint| SocketAddr::from((end.addr, end.port));
        return Ok(Reply::OriginalDestination {
            source: address(orig.src),
            destination: address(orig.dst),
        });
    }
    let found = captured(&*sources.machine, &facts)
        .map_err(|error| Failure::new(ErrorKind::Internal, format!("looking for it: {error}")))?;
    let destination = found.ok_or_else(|| {
        let message = format!("no redirected flow ends at {} from {peer}", facts.local);
        Failure::new(ErrorKind::NotRedirected, message)
    })?;
    Ok(Reply::OriginalDestination {
        source: peer.into(),
        destination: destination.into(),
    })
}

/// Where the client of an accepted socket meant to go, if it is a program on this box that was
/// captured when it connected. No packet of such a connection is ever seen: the kernel is asked
/// for the socket at its other end.
pub(crate) fn captured(machine: &dyn Machine, facts: &Facts) -> io::Result<Option<SocketAddrV4>> {
    let (Some(peer), Protocol::TCP) = (facts.peer, Protocol(facts.proto)) else {
        return Ok(None);
    };
    let client = sockets::cookie_of(peer, facts.local)?;
    Ok(client.and_then(|cookie| machine.captured(cookie)))
}

fn endpoint(address: SocketAddrV4) -> Endpoint {
    Endpoint::new(*address.ip(), address.port())
}

fn not_told(error: FetchError) -> Failure {
    let kind = match error {
        FetchError::System(_) => ErrorKind::Internal,
        _ => ErrorKind::BadSocket,
    };
    Failure::new(kind, error.to_string())
}

fn bad(message: &str) -> Failure {
    Failure::new(ErrorKind::BadSocket, message)
}
