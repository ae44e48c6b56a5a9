//! What the kernel says of a socket of the program's, asked without the C library.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::Errno;
use rustix::net::sockopt::{socket_cookie, socket_domain, socket_protocol};
use rustix::net::{AddressFamily, getpeername, ipproto};

/// The two that can have a foreign address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a descriptor is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An IP socket.
    Ip {
        /// Nothing if it is neither TCP nor UDP.
        transport: Option<Transport>,
        /// Whether it is an IPv6 socket, which can carry IPv4.
        is_v6: bool,
    },
    /// Another socket.
    Other,
}

/// What it is. The kernel's errno if it is no socket.
pub fn kind(fd: RawFd) -> Result<Kind, Errno> {
    let fd = borrow(fd)?;
    let is_v6 = match socket_domain(fd)? {
        AddressFamily::INET => false,
        AddressFamily::INET6 => true,
        _ => return Ok(Kind::Other),
    };
    let transport = match socket_protocol(fd)? {
        Some(ipproto::TCP) => Some(Transport::Tcp),
        Some(ipproto::UDP) => Some(Transport::Udp),
        _ => None,
    };
    Ok(Kind::Ip { transport, is_v6 })
}

/// A number that is never given to another socket.
pub fn cookie(fd: RawFd) -> Result<u64, Errno> {
    socket_cookie(borrow(fd)?)
}

/// The IPv4 address that it is connected to.
pub fn peer(fd: RawFd) -> Result<SocketAddrV4, Errno> {
    let peer = getpeername(borrow(fd)?)?.ok_or(Errno::NOTCONN)?;
    let peer = SocketAddr::try_from(peer)?;
    v4(peer).ok_or(Errno::AFNOSUPPORT)
}

/// An IPv4 address, also one that an IPv6 socket shows.
pub fn v4(addr: SocketAddr) -> Option<SocketAddrV4> {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, addr.port())),
        IpAddr::V6(_) => None,
    }
}

fn borrow<'a>(fd: RawFd) -> Result<BorrowedFd<'a>, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: not -1. That it is open, the kernel checks with each question; the program holds it
    // while it is in the call that we answer.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}
