//! Connecting from a foreign address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Error, Flags, Registrar, Result};

/// How often to try another local port. Sockets may share one, and then not the peer too.
pub(crate) const TRIES: u32 = 16;

/// Connects to `to` so that it sees `foreign` as the client. Foreign port 0: one that is free
/// is chosen, and `query` tells which.
///
/// The socket's own address is `local`, or else that which the kernel would send from. It must
/// be the box's own, and `to` must not be. The registration ends with the stream.
///
/// # Errors
/// When the registration is refused, or `to` does; [`Error::Socket`] with
/// [`io::ErrorKind::TimedOut`] if it does not answer in time.
pub fn foreign_connect(
    registrar: &Registrar,
    foreign: SocketAddrV4,
    to: SocketAddrV4,
    local: Option<Ipv4Addr>,
    timeout: Duration,
) -> Result<TcpStream> {
    let start = Instant::now();
    let local = local.map_or_else(|| local_towards(to), Ok)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let outcome = register(registrar, foreign, to, local).and_then(|socket| {
            let rest = timeout.saturating_sub(start.elapsed());
            let connected = socket.connect_timeout(&SocketAddr::from(to).into(), rest);
            connected.map_err(|e| cannot_connect(foreign, to, e))?;
            Ok(socket.into())
        });
        let is_over = tries == TRIES || start.elapsed() >= timeout;
        match outcome {
            Err(error) if !is_over && is_port_shared(&error) => {}
            outcome => return outcome,
        }
    }
}

/// The box's own address from which the kernel would send to `to`.
///
/// # Errors
/// When there is no route.
pub fn local_towards(to: SocketAddrV4) -> Result<Ipv4Addr> {
    // Connecting sends nothing. Port 0 is no peer, and any other has the same route.
    let to = SocketAddrV4::new(*to.ip(), to.port().max(1));
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    match found {
        Ok(SocketAddr::V4(local)) => Ok(*local.ip()),
        Ok(SocketAddr::V6(_)) => Err(Error::socket("route", io::ErrorKind::Unsupported)),
        Err(e) => Err(Error::socket(format!("find a route to {}", to.ip()), e)),
    }
}

/// A socket that is ready to connect.
pub(crate) fn register(
    registrar: &Registrar,
    foreign: SocketAddrV4,
    to: SocketAddrV4,
    local: Ipv4Addr,
) -> Result<Socket> {
    let socket = bound(SocketAddrV4::new(local, 0))?;
    registrar.assign_with(&socket, foreign, Some(to), Flags::CONNECT)?;
    Ok(socket)
}

/// A TCP socket with this local address. `SO_REUSEADDR`: others may have the same foreign
/// address, and as many local ports as there are peers.
pub(crate) fn bound(local: SocketAddrV4) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    let socket = socket.map_err(|e| Error::socket("open a socket", e))?;
    socket
        .set_reuse_address(true)
        .and_then(|()| socket.bind(&SocketAddr::from(local).into()))
        .map_err(|e| Error::socket(format!("bind a socket to {local}"), e))?;
    Ok(socket)
}

pub(crate) fn cannot_connect(foreign: SocketAddrV4, to: SocketAddrV4, source: io::Error) -> Error {
    Error::socket(format!("connect from {foreign} to {to}"), source)
}

/// Whether another socket with the same local port has the same peer, which another port cures.
pub(crate) fn is_port_shared(error: &Error) -> bool {
    let errno = Errno::from_raw_os_error(error.errno());
    match error {
        Error::Refused { .. } => errno == Errno::EXIST,
        Error::Socket { .. } => errno == Errno::ADDRNOTAVAIL,
        _ => false,
    }
}
