//! From an accepted socket to what its client wanted.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;

use protocol::{ErrorKind, Failure, Reply};
use sockets::FetchError;
use tables::FlowTable;
use wire::{Endpoint, Protocol};

/// Answers for the socket behind `fd`. What its client says of it counts nothing.
pub(crate) fn answer(flows: &FlowTable, fd: BorrowedFd<'_>) -> Result<Reply, Failure> {
    let facts = sockets::facts(fd).map_err(not_told)?;
    if Protocol(facts.proto) != Protocol::TCP {
        return Err(bad("not a TCP socket"));
    }
    let peer = facts
        .peer
        .ok_or_else(|| bad("not connected: ask about an accepted connection that is open"))?;
    let hit = registry::taken(flows, Protocol::TCP, endpoint(facts.local), endpoint(peer))
        .ok_or_else(|| {
            let message = format!("no redirected flow ends at {} from {peer}", facts.local);
            Failure::new(ErrorKind::NotRedirected, message)
        })?;
    let orig = hit.flow.orig.tuple();
    let address = |end: Endpoint| SocketAddr::from((end.addr, end.port));
    Ok(Reply::OriginalDestination {
        source: address(orig.src),
        destination: address(orig.dst),
    })
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
