//! Asks the kernel by SOCK_DIAG about the sockets of this network namespace: that of the asking
//! thread.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
pub(crate) const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Bytes of the header and `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
/// Where a question has the connection's ports, its addresses, and the socket's cookie.
const PORTS_AT: usize = HEADER_BYTES + 8;
const SOURCE_AT: usize = PORTS_AT + 4;
const PEER_AT: usize = SOURCE_AT + 16;
const COOKIE_AT: usize = PEER_AT + 20;
/// The kernel fills its answers as far as there is room, up to this.
const ANSWER_BYTES: usize = 32 * 1024;
/// States that no descriptor stands for: TIME_WAIT and NEW_SYN_RECV. All others are asked for,
/// and among them 13, bound and no more (before Linux 6.8 such sockets are not told).
const STATES: u32 = !(1 << 6 | 1 << 12);

/// States in which a socket may send without being told to: all but TIME_WAIT, CLOSE, LISTEN, and
/// bound and no more.
const SENDING: u32 = !(1 << 6 | 1 << 7 | 1 << 10 | 1 << 13);
const KINDS: [(u8, u8); 4] = [
    (AF_INET, TCP),
    (AF_INET6, TCP),
    (AF_INET, UDP),
    (AF_INET6, UDP),
];

/// A socket that some process has open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alive {
    /// 6 or 17.
    pub proto: u8,
    /// Whose it is.
    pub uid: u32,
    /// Where it is bound.
    pub local: SocketAddrV4,
}

/// Whether the kernel answers such questions at all.
///
/// # Errors
/// The kernel's answer, if it does not.
pub fn probe() -> io::Result<()> {
    for proto in [TCP, UDP] {
        // A dump of no state at all: done at once.
        dump(AF_INET, proto, 0, |_| {})?;
    }
    Ok(())
}

/// Every TCP and UDP socket of this namespace that speaks IPv4 and that a process has open, by
/// cookie. What is closed and only lingers in the kernel is not among them. A socket that was
/// closed a moment ago may be; one that is open all the time is not missed.
///
/// # Errors
/// The kernel's answer.
pub fn alive() -> io::Result<HashMap<u64, Alive>> {
    let mut alive = HashMap::new();
    // A dump walks several tables, piece by piece, and a socket that moves among them meanwhile
    // (or sits behind one that goes) can slip through. Not twice.
    for _ in 0..2 {
        for (family, proto) in KINDS {
            dump(family, proto, STATES, |socket| {
                if let Some((cookie, found)) = parse(socket, proto) {
                    alive.insert(cookie, found);
                }
            })?;
        }
    }
    Ok(alive)
}

/// Protocol and local endpoint of every IPv4 socket of this namespace that has a connection and
/// may send in it by itself: open ones, those that were closed and go on with what is under
/// way, and those that nobody has accepted yet.
///
/// # Errors
/// The kernel's answer.
pub fn in_use() -> io::Result<HashSet<(u8, SocketAddrV4)>> {
    let mut used = HashSet::new();
    for _ in 0..2 {
        for (family, proto) in KINDS {
            dump(family, proto, SENDING, |socket| {
                used.extend(local(socket).map(|local| (proto, local)));
            })?;
        }
    }
    Ok(used)
}

/// Both ends of a connection, as one of them sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) local: SocketAddrV4,
    pub(crate) peer: SocketAddrV4,
}

/// Calls `each` with the record of the socket that takes what comes to these ends. That there is
/// none is an error of the kernel's, `ENOENT`.
pub(crate) fn lookup(proto: u8, ends: Ends, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut question = request(NLM_F_REQUEST, AF_INET, proto, 0);
    question[PORTS_AT..PORTS_AT + 2].copy_from_slice(&ends.local.port().to_be_bytes());
    question[PORTS_AT + 2..PORTS_AT + 4].copy_from_slice(&ends.peer.port().to_be_bytes());
    question[SOURCE_AT..SOURCE_AT + 4].copy_from_slice(&ends.local.ip().octets());
    question[PEER_AT..PEER_AT + 4].copy_from_slice(&ends.peer.ip().octets());
    // Any cookie.
    question[COOKIE_AT..COOKIE_AT + 8].copy_from_slice(&[0xff; 8]);
    let socket = ask(&question)?;
    let mut room = vec![0; ANSWER_BYTES];
    let told = walk(receive(&socket, &mut room)?, |kind, body| {
        if kind == SOCK_DIAG_BY_FAMILY {
            each(body);
        }
    });
    told.map(|_| ())
}

/// A connection of this box.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Connection {
    /// 6 or 17.
    pub proto: u8,
    /// The box's end.
    pub local: SocketAddrV4,
    /// The other end.
    pub peer: SocketAddrV4,
}

/// Every connection over IPv4 of this namespace that is not over; those of UDP are the sockets
/// that are connected.
///
/// # Errors
/// The kernel's answer.
pub fn connections() -> io::Result<HashSet<Connection>> {
    let mut found = HashSet::new();
    for _ in 0..2 {
        for (family, proto) in KINDS {
            dump(family, proto, SENDING, |socket| {
                let ends = local(socket).zip(peer(socket));
                let ends = ends.filter(|(_, peer)| peer.port() != 0);
                found.extend(ends.map(|(local, peer)| Connection { proto, local, peer }));
            })?;
        }
    }
    Ok(found)
}

/// Calls `each` with the record of every socket in one of these states.
pub(crate) fn dump(
    family: u8,
    proto: u8,
    states: u32,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let socket = ask(&request(NLM_F_REQUEST | NLM_F_DUMP, family, proto, states))?;
    let mut room = vec![0; ANSWER_BYTES];
    loop {
        let answer = receive(&socket, &mut room)?;
        let told = walk(answer, |kind, body| {
            if kind == SOCK_DIAG_BY_FAMILY {
                each(body);
            }
        })?;
        if told.is_break() {
            return Ok(());
        }
    }
}

/// Calls `each` with type and body of every message. Breaks at the one that says that it is the
/// last. An error is an error.
fn walk(mut bytes: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<ControlFlow<()>> {
    if bytes.is_empty() {
        return Err(nonsense());
    }
    while !bytes.is_empty() {
        let length = u32_at(bytes, 0).ok_or_else(nonsense)? as usize;
        let message = bytes.get(..length).ok_or_else(nonsense)?;
        let body = message.get(HEADER_BYTES..).ok_or_else(nonsense)?;
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        // The end of a dump carries an errno too, as an error does.
        if kind == NLMSG_ERROR || kind == NLMSG_DONE {
            return match u32_at(body, 0).unwrap_or(0).cast_signed() {
                0 => Ok(ControlFlow::Break(())),
                errno => Err(io::Error::from_raw_os_error(-errno)),
            };
        }
        each(kind, body);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(ControlFlow::Continue(()))
}

/// Cookie and facts of a `struct inet_diag_msg`; nothing if it is of IPv6, or no descriptor
/// stands for it.
fn parse(socket: &[u8], proto: u8) -> Option<(u64, Alive)> {
    inode(socket)?;
    let local = local(socket)?;
    let uid = u32_at(socket, 64)?;
    Some((cookie(socket)?, Alive { proto, uid, local }))
}

pub(crate) fn state(socket: &[u8]) -> Option<u8> {
    socket.get(1).copied()
}

/// The inode; none: closed by its process, or not accepted yet.
pub(crate) fn inode(socket: &[u8]) -> Option<u32> {
    u32_at(socket, 68).filter(|inode| *inode != 0)
}

pub(crate) fn cookie(socket: &[u8]) -> Option<u64> {
    Some(u64::from(u32_at(socket, 44)?) | u64::from(u32_at(socket, 48)?) << 32)
}

/// Where the socket of a `struct inet_diag_msg` is bound; nothing if it is of IPv6.
pub(crate) fn local(socket: &[u8]) -> Option<SocketAddrV4> {
    endpoint(socket, 4, 8)
}

/// Whom it is connected to; nothing if it is of IPv6.
pub(crate) fn peer(socket: &[u8]) -> Option<SocketAddrV4> {
    endpoint(socket, 6, 24)
}

fn endpoint(socket: &[u8], port_at: usize, address_at: usize) -> Option<SocketAddrV4> {
    let address: [u8; 16] = socket.get(address_at..address_at + 16)?.try_into().ok()?;
    let ip = if *socket.first()? == AF_INET {
        let [a, b, c, d, ..] = address;
        Ipv4Addr::new(a, b, c, d)
    } else {
        match Ipv6Addr::from(address) {
            Ipv6Addr::UNSPECIFIED => Ipv4Addr::UNSPECIFIED,
            other => other.to_ipv4_mapped()?,
        }
    };
    let port = [*socket.get(port_at)?, *socket.get(port_at + 1)?];
    Some(SocketAddrV4::new(ip, u16::from_be_bytes(port)))
}

/// A question about sockets of any address, port, interface and cookie.
fn request(flags: u16, family: u8, proto: u8, states: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(REQUEST_BYTES);
    out.extend((REQUEST_BYTES as u32).to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]); // sequence and sender: one question per socket
    out.extend([family, proto, 0, 0]);
    out.extend(states.to_ne_bytes());
    out.resize(REQUEST_BYTES, 0);
    out
}

/// Asks on a socket of its own, so that no answer can be one to another question.
fn ask(request: &[u8]) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&socket, request, SendFlags::empty())?;
    Ok(socket)
}

/// What the kernel has answered: it does so at once, or not at all.
fn receive<'a>(socket: &OwnedFd, room: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let (_, length) = recv(socket, &mut *room, RecvFlags::DONTWAIT)?;
    room.get(..length).ok_or_else(nonsense)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let half = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(half.try_into().ok()?))
}

fn nonsense() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "SOCK_DIAG: an answer that is none",
    )
}
