//! The facts of one socket.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::GetSockOpt;
use nix::sys::socket::sockopt::GetStruct;
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketFlags, SocketType, getpeername, getsockname, ipproto,
    socket_with, sockopt,
};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

/// The cookie of an `AF_INET` socket's network namespace; since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Tells network namespaces apart.
#[derive(Clone, Copy)]
struct NetnsCookie;

nix::getsockopt_impl!(
    NetnsCookie,
    libc::SOL_SOCKET,
    SO_NETNS_COOKIE,
    u64,
    GetStruct<u64>
);

thread_local! {
    /// The namespace that this thread stands in; 0: not asked yet.
    static HERE: Cell<u64> = const { Cell::new(0) };
}

/// What the kernel says of a TCP or UDP socket over IPv4, be it in an IPv6 socket's clothes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Tells it from every other socket for as long as the kernel runs.
    pub cookie: u64,
    /// 6 or 17.
    pub proto: u8,
    /// Where it is bound; 0.0.0.0:0 if it is not.
    pub local: SocketAddrV4,
    /// Whom it is connected to.
    pub peer: Option<SocketAddrV4>,
    /// Whether it has `SO_REUSEADDR`.
    pub reuse: bool,
    /// Whose it is.
    pub uid: u32,
}

/// Why there are no facts of a socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The process has no open file of this number.
    #[error("no open file has this descriptor number")]
    BadFd,
    /// It has, and that is something else.
    #[error("the descriptor is no socket")]
    NotASocket,
    /// Neither TCP nor UDP, or over IPv6.
    #[error("the socket is none of TCP or UDP over IPv4")]
    NotIpv4,
    /// What it is bound to means nothing here.
    #[error("the socket belongs to another network namespace than the daemon")]
    OtherNamespace,
    /// The process may not be looked at, or is gone.
    #[error("the process is gone, or may not be looked at (the daemon needs CAP_SYS_PTRACE)")]
    Denied,
    /// Something that should not happen.
    #[error("reading the socket: {0}")]
    System(io::Error),
}

impl FetchError {
    /// The number to answer with.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::BadFd => Errno::BADF,
            Self::NotASocket => Errno::NOTSOCK,
            Self::NotIpv4 | Self::OtherNamespace => Errno::INVAL,
            Self::Denied => Errno::PERM,
            // Out of descriptors or memory: it may pass.
            Self::System(_) => Errno::NOBUFS,
        };
        errno.raw_os_error()
    }
}

impl From<Errno> for FetchError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::BADF => Self::BadFd,
            Errno::NOTSOCK => Self::NotASocket,
            Errno::PERM | Errno::SRCH => Self::Denied,
            other => Self::System(other.into()),
        }
    }
}

/// A copy of what has the number `fd` in the process of `pidfd`, to be held while the process
/// might close its own: as long as there is a copy, the socket is not closed. Dropping it can
/// block.
///
/// # Errors
/// See [`FetchError`].
pub fn copy(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd, FetchError> {
    // rustix takes a negative number for a mistake of ours.
    if fd < 0 {
        return Err(FetchError::BadFd);
    }
    Ok(pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty())?)
}

/// The facts of a socket at hand.
///
/// # Errors
/// See [`FetchError`].
pub fn facts(fd: BorrowedFd<'_>) -> Result<Facts, FetchError> {
    let local = ipv4(getsockname(fd)?)?;
    let proto = protocol(fd)?;
    if netns_cookie(fd)? != here()? {
        return Err(FetchError::OtherNamespace);
    }
    Ok(Facts {
        cookie: sockopt::socket_cookie(fd)?,
        proto,
        local,
        peer: peer(fd)?,
        reuse: sockopt::socket_reuseaddr(fd)?,
        // Not SO_PEERCRED, which is of Unix sockets: the owner is the inode's.
        uid: fstat(fd)?.st_uid,
    })
}

/// TCP or UDP. The protocol alone does not tell: raw sockets have one too.
fn protocol(fd: BorrowedFd<'_>) -> Result<u8, FetchError> {
    let kind = sockopt::socket_type(fd)?;
    match (kind, sockopt::socket_protocol(fd)?) {
        (SocketType::STREAM, Some(ipproto::TCP)) => Ok(6),
        (SocketType::DGRAM, Some(ipproto::UDP)) => Ok(17),
        _ => Err(FetchError::NotIpv4),
    }
}

fn peer(fd: BorrowedFd<'_>) -> Result<Option<SocketAddrV4>, FetchError> {
    match getpeername(fd) {
        Ok(Some(peer)) => ipv4(peer).map(Some),
        // A connection that its peer has reset says EINVAL.
        Ok(None) | Err(Errno::NOTCONN | Errno::INVAL) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

/// The IPv4 address. An IPv6 socket that is bound to no address may speak IPv4.
fn ipv4(address: SocketAddrAny) -> Result<SocketAddrV4, FetchError> {
    match SocketAddr::try_from(address) {
        Ok(SocketAddr::V4(v4)) => Ok(v4),
        Ok(SocketAddr::V6(v6)) if v6.ip().is_unspecified() => {
            Ok(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, v6.port()))
        }
        Ok(SocketAddr::V6(v6)) => {
            let ip = v6.ip().to_ipv4_mapped().ok_or(FetchError::NotIpv4)?;
            Ok(SocketAddrV4::new(ip, v6.port()))
        }
        Err(_) => Err(FetchError::NotIpv4),
    }
}

fn netns_cookie(fd: BorrowedFd<'_>) -> Result<u64, FetchError> {
    let cookie = NetnsCookie.get(&fd);
    cookie.map_err(|errno| FetchError::System(errno.into()))
}

/// The cookie of this thread's namespace.
fn here() -> Result<u64, FetchError> {
    let known = HERE.get();
    if known != 0 {
        return Ok(known);
    }
    let (inet, datagram) = (AddressFamily::INET, SocketType::DGRAM);
    let own = socket_with(inet, datagram, SocketFlags::CLOEXEC, None)
        .map_err(|errno| FetchError::System(errno.into()))?;
    let cookie = netns_cookie(own.as_fd())?;
    HERE.set(cookie);
    Ok(cookie)
}
