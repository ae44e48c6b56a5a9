//! Listening on a foreign address.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use socket2::Socket;

use crate::connector::{bound, local_towards};
use crate::{Error, Flags, Registrar, Result};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A socket that whoever connects to a foreign address reaches.
///
/// It listens on an address and port of the box's own, which is where accepted sockets say that
/// they are. The registration ends when this is dropped; accepted connections live on.
#[derive(Debug)]
pub struct ForeignListener {
    socket: Socket,
    registrar: Registrar,
    local: SocketAddrV4,
    foreign: SocketAddrV4,
    /// Accepted, but nobody could say whose they are. Those of several threads at most.
    kept: Mutex<Vec<TcpStream>>,
}

impl ForeignListener {
    /// Listens on `foreign`, by a free port of the box's own address `local`. Foreign port 0:
    /// a free one is chosen.
    ///
    /// # Errors
    /// When the registration is refused, or `local` is not the box's own.
    pub fn bind(registrar: &Registrar, foreign: SocketAddrV4, local: Ipv4Addr) -> Result<Self> {
        Self::open(registrar, foreign, SocketAddrV4::new(local, 0), None)
    }

    /// Listens on `foreign`, by this port of the box.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and when the port is taken.
    pub fn bind_at(
        registrar: &Registrar,
        foreign: SocketAddrV4,
        local: SocketAddrV4,
    ) -> Result<Self> {
        Self::open(registrar, foreign, local, None)
    }

    /// Listens on `foreign` for this peer only. The local address may be left out: it is then
    /// the one from which the kernel would send to the peer.
    ///
    /// # Errors
    /// As [`bind_at`](Self::bind_at), and when there is no route to the peer.
    pub fn with_peer(
        registrar: &Registrar,
        foreign: SocketAddrV4,
        local: Option<SocketAddrV4>,
        peer: SocketAddrV4,
    ) -> Result<Self> {
        let local = match local {
            Some(local) => local,
            None => SocketAddrV4::new(local_towards(peer)?, 0),
        };
        Self::open(registrar, foreign, local, Some(peer))
    }

    fn open(
        registrar: &Registrar,
        foreign: SocketAddrV4,
        local: SocketAddrV4,
        peer: Option<SocketAddrV4>,
    ) -> Result<Self> {
        let socket = bound(local)?;
        // Before the registration: the first connection must find somebody listening.
        let listening = socket
            .set_nonblocking(true)
            .and_then(|()| socket.listen(BACKLOG));
        listening.map_err(|e| Error::socket(format!("listen on {local}"), e))?;
        let foreign = match foreign.port() {
            0 => choose(registrar, &socket, foreign, peer)?,
            _ => {
                registrar.assign_with(&socket, foreign, peer, Flags::LISTEN)?;
                foreign
            }
        };
        let local = own_address(&socket)?;
        Ok(Self {
            socket,
            registrar: registrar.clone(),
            local,
            foreign,
            kept: Mutex::default(),
        })
    }

    /// Waits for a connection; tells the client's true address, whose port can differ from what
    /// the stream says of its peer.
    ///
    /// Connections that were not made to the foreign address are closed and not told.
    ///
    /// # Errors
    /// When the kernel has no more descriptors or memory, or the daemon does not answer. Nothing is
    /// lost then: a connection that has been accepted is kept for the next call.
    pub fn accept(&self) -> Result<(TcpStream, SocketAddrV4)> {
        loop {
            self.wait(None)?;
            if let Some(accepted) = self.try_accept()? {
                return Ok(accepted);
            }
        }
    }

    /// As [`accept`](Self::accept), but for this long.
    ///
    /// # Errors
    /// As `accept`, and [`Error::Socket`] with [`std::io::ErrorKind::TimedOut`] if nobody came.
    pub fn accept_within(&self, timeout: Duration) -> Result<(TcpStream, SocketAddrV4)> {
        let start = Instant::now();
        loop {
            let rest = timeout.saturating_sub(start.elapsed());
            if !self.wait(Some(rest))? {
                return Err(self.cannot_accept(Errno::TIMEDOUT));
            }
            if let Some(accepted) = self.try_accept()? {
                return Ok(accepted);
            }
        }
    }

    /// Accepts a connection that is there already. [`AsFd`] is readable when one may be.
    ///
    /// # Errors
    /// As [`accept`](Self::accept). After an error try again some time later, readable or not:
    /// the connection that is kept is no longer in the socket's queue.
    pub fn try_accept(&self) -> Result<Option<(TcpStream, SocketAddrV4)>> {
        let next = match self.kept().pop() {
            Some(kept) => Some(kept),
            None => self.take()?,
        };
        let Some(stream) = next else { return Ok(None) };
        judge(&self.registrar, self.foreign, stream).map_err(|unjudged| {
            self.kept().extend(unjudged.stream);
            unjudged.error
        })
    }

    /// The box's own address and port by which it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.local
    }

    /// The foreign address and port.
    #[must_use]
    pub fn foreign_addr(&self) -> SocketAddrV4 {
        self.foreign
    }

    /// The next connection, whatever it was made to.
    fn take(&self) -> Result<Option<TcpStream>> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(stream) => return Ok(Some(stream.into())),
                Err(Errno::AGAIN) => return Ok(None),
                // A signal, or a client that has left already.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
                Err(errno) => return Err(self.cannot_accept(errno)),
            }
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there may be a connection; false if that takes too long.
    fn wait(&self, most: Option<Duration>) -> Result<bool> {
        if !self.kept().is_empty() {
            return Ok(true);
        }
        // What is too long for the kernel is for ever.
        let most = most.and_then(|most| Timespec::try_from(most).ok());
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, most.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(self.cannot_accept(errno)),
        }
    }

    fn cannot_accept(&self, errno: Errno) -> Error {
        let what = format!("accept a connection to {} at {}", self.foreign, self.local);
        Error::socket(what, std::io::Error::from(errno))
    }
}

impl AsFd for ForeignListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The socket, which does not block and stays registered as long as it is open.
impl From<ForeignListener> for OwnedFd {
    fn from(listener: ForeignListener) -> Self {
        listener.socket.into()
    }
}

/// A connection of which nobody could say whose it is.
#[derive(Debug)]
pub(crate) struct Unjudged {
    pub error: Error,
    /// To be judged later; nothing if the daemon refuses to.
    pub stream: Option<TcpStream>,
}

/// Tells whose connection it is. Nothing if it was made to another address than this one: the
/// listener's own, say.
pub(crate) fn judge(
    registrar: &Registrar,
    foreign: SocketAddrV4,
    stream: TcpStream,
) -> std::result::Result<Option<(TcpStream, SocketAddrV4)>, Unjudged> {
    let gone = Errno::NOENT.raw_os_error();
    match registrar.original_destination(&stream, None) {
        Ok(original) if original.destination == foreign => Ok(Some((stream, original.source))),
        Ok(_) => Ok(None),
        Err(Error::Refused { errno, .. }) if errno == gone => Ok(None),
        // About this connection: it would be the same the next time.
        Err(error @ Error::Refused { .. }) => Err(Unjudged {
            error,
            stream: None,
        }),
        Err(error) => Err(Unjudged {
            error,
            stream: Some(stream),
        }),
    }
}

/// Assigns a foreign address with a port that is free.
fn choose(
    registrar: &Registrar,
    socket: &Socket,
    foreign: SocketAddrV4,
    peer: Option<SocketAddrV4>,
) -> Result<SocketAddrV4> {
    registrar.assign(socket, foreign)?;
    registrar.alloc(socket)?;
    if let Some(peer) = peer {
        registrar.set_peer(socket, peer)?;
    }
    registrar.set_flags(socket, Flags::LISTEN)?;
    registrar.query(socket)
}

fn own_address(socket: &Socket) -> Result<SocketAddrV4> {
    let what = "tell a socket's own address";
    let local = socket.local_addr().map_err(|e| Error::socket(what, e))?;
    let local = local.as_socket_ipv4();
    local.ok_or_else(|| Error::socket(what, std::io::ErrorKind::Unsupported))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_address_of_somebody_else_is_named() {
        let error = bound("192.0.2.1:0".parse().unwrap()).unwrap_err();
        let line = error.to_string();
        assert!(
            line.starts_with("cannot bind a socket to 192.0.2.1:0: "),
            "{line}"
        );
        let listening = bound("127.0.0.1:0".parse().unwrap()).unwrap();
        let local = own_address(&listening).unwrap();
        assert_ne!(local.port(), 0);
        assert_eq!(*local.ip(), Ipv4Addr::LOCALHOST);
    }
}
