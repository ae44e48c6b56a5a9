//! Who waits for connections, and whose one connection is.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddrV4;

use rustix::io::Errno;

use crate::diag::{
    AF_INET, AF_INET6, Ends, TCP, cookie, dump, inode, local, lookup, peer, state, u16_at,
};

const TIME_WAIT: u8 = 6;
/// `TCP_CLOSE`: a datagram socket that is bound and not connected.
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// Bytes of `struct inet_diag_msg`; attributes follow.
const MESSAGE_BYTES: usize = 72;
/// The attribute that says that an IPv6 socket takes no IPv4.
const INET_DIAG_SKV6ONLY: u16 = 11;

/// A socket to which anybody can send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// 6: it listens. 17: it is bound and not connected.
    pub proto: u8,
    /// Where. 0.0.0.0: at every address.
    pub local: SocketAddrV4,
    /// What `/proc/PID/fd` knows it by.
    pub inode: u32,
    /// Tells it from every other socket for as long as the kernel runs.
    pub cookie: u64,
}

/// The sockets of this namespace that wait for anybody over IPv4, of these protocols (6, 17).
///
/// The kernel picks them out by their state: connections cost nothing here, however many.
///
/// # Errors
/// The kernel's answer.
pub fn listening(protos: &[u8]) -> io::Result<Vec<Listener>> {
    let mut found = HashMap::new();
    // A dump can miss what sits behind a socket that goes meanwhile. Not twice.
    for _ in 0..2 {
        for proto in protos {
            let waiting = if *proto == TCP { LISTEN } else { CLOSE };
            for family in [AF_INET, AF_INET6] {
                dump(family, *proto, 1 << waiting, |socket| {
                    found.extend(listener(socket, *proto).map(|one| (one.cookie, one)));
                })?;
            }
        }
    }
    Ok(found.into_values().collect())
}

fn listener(socket: &[u8], proto: u8) -> Option<Listener> {
    let local = local(socket).filter(|local| local.port() != 0)?;
    if local.ip().is_unspecified() && takes_ipv6_only(socket) {
        return None;
    }
    Some(Listener {
        proto,
        local,
        inode: inode(socket)?,
        cookie: cookie(socket)?,
    })
}

fn takes_ipv6_only(socket: &[u8]) -> bool {
    let mut rest = socket.get(MESSAGE_BYTES..).unwrap_or_default();
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        if kind == INET_DIAG_SKV6ONLY {
            return rest.get(4).is_some_and(|only| *only != 0);
        }
        // At least its own header, or the walk would not end.
        let next = length.max(4).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
    }
    false
}

/// The cookie of the TCP socket of this namespace that has this connection, if one has: open, or
/// closed and not yet done. Not found is one that is bound to an interface by `SO_BINDTODEVICE`.
///
/// # Errors
/// The kernel's answer.
pub fn cookie_of(local: SocketAddrV4, peer: SocketAddrV4) -> io::Result<Option<u64>> {
    let ends = Ends { local, peer };
    let mut found = None;
    match lookup(TCP, ends, |socket| found = connected(socket, ends)) {
        Ok(()) => Ok(found),
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The cookie, if the socket has this very connection: where none has, the kernel tells of a
/// listener that would take it.
fn connected(socket: &[u8], ends: Ends) -> Option<u64> {
    let is_it = local(socket)? == ends.local && peer(socket)? == ends.peer;
    (is_it && state(socket)? != TIME_WAIT)
        .then(|| cookie(socket))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end() {
        let message = |attributes: &[u8]| [&[0; MESSAGE_BYTES][..], attributes].concat();
        for (attributes, want) in [
            (&[][..], false),
            (&[5, 0, 11, 0, 1, 0, 0, 0], true),
            (&[5, 0, 11, 0, 0, 0, 0, 0], false),
            (&[5, 0, 8, 0, 3, 0, 0, 0, 5, 0, 11, 0, 1, 0, 0, 0], true),
            // Lengths that are none.
            (&[0, 0, 8, 0, 5, 0, 11, 0, 1], true),
            (&[0xff, 0xff, 8, 0, 5, 0, 11, 0, 1], false),
            (&[5, 0, 11, 0], false),
        ] {
            assert_eq!(
                takes_ipv6_only(&message(attributes)),
                want,
                "{attributes:?}"
            );
        }
        assert!(!takes_ipv6_only(&[]));
    }
}
