//! Asks the kernel whether a TCP socket is one of this network namespace.
//!
//! A socket's addresses say nothing alone: in a namespace of its own anybody can make a
//! connection with any addresses. The kernel's SOCK_DIAG looks up one connection in the
//! asking process's namespace, and the socket's cookie tells whether it is the same.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Bytes of the header and `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = HEADER_BYTES + 56;

/// Whether the kernel answers such questions at all.
pub(crate) fn probe() -> io::Result<()> {
    // A dump of no state at all: done at once.
    let any = SocketAddrV4::new([0, 0, 0, 0].into(), 0);
    match ask(&request(NLM_F_DUMP, 0, any, any, 0))? {
        (NLMSG_DONE, _) => Ok(()),
        (NLMSG_ERROR, errno) => Err(Errno::from_raw_os_error(-errno).into()),
        (kind, _) => Err(io::Error::other(format!("an answer of type {kind}"))),
    }
}

/// Whether the TCP connection of these addresses in this namespace is the socket with
/// this cookie.
pub(crate) fn is_here(local: SocketAddrV4, peer: SocketAddrV4, cookie: u64) -> io::Result<bool> {
    match ask(&request(0, u32::MAX, local, peer, cookie))? {
        (SOCK_DIAG_BY_FAMILY, _) => Ok(true),
        (NLMSG_ERROR, errno) => match Errno::from_raw_os_error(-errno) {
            Errno::NOENT | Errno::STALE => Ok(false),
            other => Err(other.into()),
        },
        (kind, _) => Err(io::Error::other(format!("an answer of type {kind}"))),
    }
}

fn request(
    flags: u16,
    states: u32,
    local: SocketAddrV4,
    peer: SocketAddrV4,
    cookie: u64,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(REQUEST_BYTES);
    out.extend((REQUEST_BYTES as u32).to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    out.extend([0; 8]); // sequence and sender: one question per socket
    out.extend([AF_INET, IPPROTO_TCP, 0, 0]);
    out.extend(states.to_ne_bytes());
    out.extend(local.port().to_be_bytes());
    out.extend(peer.port().to_be_bytes());
    for address in [local, peer] {
        out.extend(address.ip().octets());
        out.extend([0; 12]);
    }
    out.extend([0; 4]); // any interface
    out.extend((cookie as u32).to_ne_bytes());
    out.extend(((cookie >> 32) as u32).to_ne_bytes());
    out
}

/// Asks on a socket of its own, so that no answer can be one to another question.
/// Returns the answer's type and its first word, which in an error is the errno.
fn ask(request: &[u8]) -> io::Result<(u16, i32)> {
    let socket: OwnedFd = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&socket, request, SendFlags::empty())?;
    let mut answer = [0_u8; 4096];
    let (_, length) = recv(&socket, &mut answer, RecvFlags::empty())?;
    let answer = answer.get(..length).unwrap_or_default();
    let short = || io::Error::other("an answer that is too short");
    let kind = answer
        .get(4..6)
        .and_then(|b| b.try_into().ok())
        .ok_or_else(short)?;
    let word = answer
        .get(HEADER_BYTES..HEADER_BYTES + 4)
        .and_then(|b| b.try_into().ok());
    Ok((
        u16::from_ne_bytes(kind),
        i32::from_ne_bytes(word.ok_or_else(short)?),
    ))
}
