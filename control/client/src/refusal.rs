//! What a refusal means, in one line.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::getsockname;
use shm::{Access, Operation, Request};

use crate::{Error, Flags};

/// The refusal of a request about this socket.
pub(crate) fn explain(request: &Request, fd: BorrowedFd<'_>, errno: i32) -> Error {
    Error::Refused {
        what: what(request, &socket_name(fd)),
        cause: cause(request, errno),
        errno,
    }
}

/// The operation and its endpoints.
fn what(request: &Request, socket: &str) -> String {
    let shown = |endpoint: Option<SocketAddr>| match endpoint {
        Some(endpoint) => endpoint.to_string(),
        None => "nothing".into(),
    };
    let foreign = shown(request.foreign);
    let flags = Flags::from_bits_retain(request.flags);
    match (request.operation, request.access) {
        (Operation::Version, Access::Get) => "ask for the version".into(),
        (Operation::Version, Access::Set) => {
            format!("use version {:#010x} of the interface", request.version)
        }
        (Operation::Assign, _) => format!("assign {foreign} to {socket}"),
        (Operation::AssignFlags, _) => match request.peer {
            None => format!("assign {foreign} to {socket} for {flags}"),
            Some(peer) => format!("assign {foreign} to {socket} for {flags} with {peer}"),
        },
        (Operation::Unassign, _) => format!("take the foreign address from {socket}"),
        (Operation::Query, _) => format!("tell the foreign address of {socket}"),
        (Operation::Flags, Access::Get) => format!("tell the flags of {socket}"),
        (Operation::Flags, Access::Set) => format!("set the flags {flags} for {socket}"),
        (Operation::Alloc, _) => format!("choose a foreign port for {socket}"),
        (Operation::Connect, _) => {
            format!("record the peer {} for {socket}", shown(request.peer))
        }
        (Operation::OriginalDestination, _) => match request.peer {
            None => format!("tell the original destination of {socket}"),
            Some(peer) => format!("tell where {peer} sent its datagram to {socket}"),
        },
    }
}

/// The socket by its local address, or else by its number.
fn socket_name(fd: BorrowedFd<'_>) -> String {
    let local = getsockname(fd).ok().map(SocketAddr::try_from);
    match local {
        Some(Ok(local)) => SocketAddr::new(local.ip().to_canonical(), local.port()).to_string(),
        _ => format!("descriptor {}", fd.as_raw_fd()),
    }
}

/// Why, and what to do.
fn cause(request: &Request, errno: i32) -> String {
    use Operation::{Alloc, Assign, AssignFlags, Connect, Flags, OriginalDestination, Version};
    let known = match (request.operation, Errno::from_raw_os_error(errno)) {
        (_, Errno::PERM) => {
            "this user has no grant for the address, or does not own the socket: \
             add a [[grant]] to the daemon's configuration"
        }
        (_, Errno::NOTSOCK | Errno::BADF) => "it is no open socket of this process",
        (_, Errno::NOPROTOOPT) => {
            "the daemon does not know the operation: install one version of xtproxyd and its \
             libraries"
        }
        (_, Errno::NOBUFS) => {
            "the table of registrations is full: raise `registrations` in [limits] of the \
             daemon's configuration"
        }
        (Version, Errno::INVAL) => "the daemon serves another version: ask which",
        (Assign | AssignFlags, Errno::INVAL) => {
            "the socket must be a TCP or UDP socket of IPv4 in the daemon's network namespace, \
             bound to an address of the box and to a port that no [[management]] entry covers, \
             and not connected; the foreign address must be one that packets can have, and the \
             flags must fit"
        }
        (Assign | AssignFlags, Errno::EXIST) => {
            "the socket, or another with the same local address, port and peer, has a foreign \
             address already"
        }
        (Assign | AssignFlags | Flags, Errno::ADDRINUSE) => {
            "the foreign address is taken: set SO_REUSEADDR to share it for connecting to \
             different peers, or see `xtproxy registrations` for who has it"
        }
        (Flags, Errno::INVAL) => {
            "an entry that shares its foreign address can only connect, `established` needs UDP \
             and a peer, and `unidir` needs UDP"
        }
        (Alloc, Errno::INVAL) => "its foreign port is chosen already",
        (Alloc, Errno::FAULT) => "no port of the foreign address is free",
        (Connect, Errno::INVAL) => "the peer must be an address and port of IPv4",
        (Connect, Errno::EXIST) => "another socket with the same local address has this peer",
        (OriginalDestination, Errno::NOENT) => {
            "it was meant for this socket's own address, or its flow has ended"
        }
        (_, Errno::NOENT) => "it has no foreign address: assign one first",
        _ => return io::Error::from_raw_os_error(errno).to_string(),
    };
    known.into()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn every_operation_names_itself_and_its_socket() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap().to_string();
        for operation in Operation::ALL {
            for access in [Access::Set, Access::Get] {
                for errno in 1..134 {
                    let mut request = Request::new(operation, access, 3);
                    request.flags = 3;
                    let line = explain(&request, socket.as_fd(), errno).to_string();
                    assert!(line.starts_with("cannot "), "{line}");
                    assert!(!line.contains('\n') && !line.contains("  "), "{line}");
                    let is_about_socket = operation != Operation::Version;
                    assert_eq!(line.contains(&local), is_about_socket, "{line}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_socket_is_named_by_its_number() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let request = Request::new(Operation::Query, Access::Get, file.as_raw_fd());
        let line = explain(&request, file.as_fd(), 2).to_string();
        let expected = format!(
            "cannot tell the foreign address of descriptor {}: it has no foreign address: \
             assign one first",
            file.as_raw_fd()
        );
        assert_eq!(line, expected);
    }
}
