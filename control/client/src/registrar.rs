//! The interface of TProxy 2.0: what a socket's foreign address is and what is done with it.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use shm::{Access, Operation, Reply, Request};

use crate::channel::{Answer, Channel};
use crate::error::unexpected;
use crate::{Error, Flags, Result, refusal, runtime_dir};

/// Registers foreign addresses for this process's sockets.
///
/// There is one channel to the daemon; any number of threads may ask over it at once, and clones
/// share it. When the daemon was restarted, or this is a forked child, the next call opens a new
/// one: after `chroot` too, because the runtime directory is held open, as long as it is not
/// removed. Whoever opens a channel is asked for a grant of its own: a child that has become
/// another user needs one for that user.
///
/// What is registered belongs to the socket and not to this value: it ends with
/// [`unassign`](Self::unassign) or with the socket.
///
/// A call takes microseconds; one to a daemon that hangs takes [`PATIENCE`](shm::PATIENCE). While
/// a daemon is being restarted, calls wait for the next one: three seconds from the first that
/// found none, and then not at all until there is one again.
///
/// The daemon takes sockets from the descriptor table of the process's first thread. In a program
/// whose first thread has ended, or in a thread with a table of its own, every call says `EBADF`.
#[derive(Clone, Debug)]
pub struct Registrar {
    channel: Arc<Channel>,
}

/// Where a connection or datagram comes from and where it was meant to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Original {
    /// The client's true address and port.
    pub source: SocketAddrV4,
    /// The address and port that the client wanted to reach.
    pub destination: SocketAddrV4,
    /// How long this holds for further datagrams from the same shown source; zero: not at all.
    pub fresh_for: Duration,
}

impl Registrar {
    /// Connects to the daemon of the directory that the environment variable
    /// `XTPROXY_RUNTIME_DIR` names, or of `/run/xtproxy`.
    ///
    /// # Errors
    /// When no daemon answers there.
    pub fn connect() -> Result<Self> {
        Self::connect_to(runtime_dir())
    }

    /// Connects to the daemon of this runtime directory.
    ///
    /// # Errors
    /// When no daemon answers there.
    pub fn connect_to(dir: impl AsRef<Path>) -> Result<Self> {
        let channel = Channel::open(dir.as_ref())?;
        Ok(Self {
            channel: Arc::new(channel),
        })
    }

    /// Asks the daemon of this runtime directory, from the first call on. The directory is held
    /// from now on, so that the call may come after `chroot`.
    #[must_use]
    pub fn lazy(dir: impl AsRef<Path>) -> Self {
        let channel = Channel::new(dir.as_ref());
        Self {
            channel: Arc::new(channel),
        }
    }

    /// Opens the channel, if it has never been opened: to learn early, or why, that there is no
    /// daemon.
    ///
    /// # Errors
    /// When no daemon answers.
    pub fn ready(&self) -> Result<()> {
        self.channel.ready()
    }

    /// Which version of the interface is served: major, minor and patch from the top byte down,
    /// two bytes for the patch.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn version(&self, socket: &impl AsFd) -> Result<u32> {
        let reply = self.ask(socket, Operation::Version, Access::Get, |_| {})?;
        Ok(reply.version)
    }

    /// Checks that this version of the interface is served.
    ///
    /// # Errors
    /// `EINVAL` if not.
    pub fn check_version(&self, socket: &impl AsFd, version: u32) -> Result<()> {
        self.set(socket, Operation::Version, |request| {
            request.version = version;
        })
    }

    /// Gives the socket, which must be bound, a foreign address. Port 0: chosen when it
    /// connects, or by [`alloc`](Self::alloc). `0.0.0.0:0`: marks it only.
    ///
    /// # Errors
    /// `EPERM` without a grant for this address; `EINVAL` if the socket is not bound to an
    /// address of the box, or connected; `EEXIST` if it has a foreign address already;
    /// `EADDRINUSE` if the foreign address is taken and the socket has no `SO_REUSEADDR`.
    pub fn assign(&self, socket: &impl AsFd, foreign: SocketAddrV4) -> Result<()> {
        self.set(socket, Operation::Assign, |request| {
            request.foreign = Some(foreign.into());
        })
    }

    /// [`assign`](Self::assign), [`set_peer`](Self::set_peer) if there is one, and
    /// [`set_flags`](Self::set_flags) in one round trip: all or nothing.
    ///
    /// # Errors
    /// As each of them.
    pub fn assign_with(
        &self,
        socket: &impl AsFd,
        foreign: SocketAddrV4,
        peer: Option<SocketAddrV4>,
        flags: Flags,
    ) -> Result<()> {
        self.set(socket, Operation::AssignFlags, |request| {
            request.foreign = Some(foreign.into());
            request.peer = peer.map(Into::into);
            request.flags = flags.bits();
        })
    }

    /// Takes the socket's foreign address away. Closing the socket does it too.
    ///
    /// # Errors
    /// `ENOENT` if it has none.
    pub fn unassign(&self, socket: &impl AsFd) -> Result<()> {
        self.set(socket, Operation::Unassign, |_| {})
    }

    /// The socket's foreign address; of an accepted socket, its listener's. A port that is
    /// chosen at connect is told from then on.
    ///
    /// # Errors
    /// `ENOENT` if it has none.
    pub fn query(&self, socket: &impl AsFd) -> Result<SocketAddrV4> {
        let reply = self.ask(socket, Operation::Query, Access::Get, |_| {})?;
        ipv4(reply.foreign)
    }

    /// Says what to do with the foreign address, in place of what was said before.
    ///
    /// # Errors
    /// `ENOENT` if the socket has none; `EINVAL` for flags that the entry cannot have.
    pub fn set_flags(&self, socket: &impl AsFd, flags: Flags) -> Result<()> {
        self.set(socket, Operation::Flags, |request| {
            request.flags = flags.bits();
        })
    }

    /// What is done with the foreign address.
    ///
    /// # Errors
    /// `ENOENT` if the socket has none.
    pub fn flags(&self, socket: &impl AsFd) -> Result<Flags> {
        let reply = self.ask(socket, Operation::Flags, Access::Get, |_| {})?;
        Ok(Flags::from_bits_retain(reply.flags))
    }

    /// Chooses a free foreign port; [`query`](Self::query) tells which.
    ///
    /// # Errors
    /// `ENOENT` if the socket has no foreign address; `EINVAL` if its port is chosen already;
    /// `EFAULT` if none is free.
    pub fn alloc(&self, socket: &impl AsFd) -> Result<()> {
        self.set(socket, Operation::Alloc, |_| {})
    }

    /// Records the only peer that the entry is for, so that many can share a foreign address.
    ///
    /// # Errors
    /// `ENOENT` if the socket has no foreign address.
    pub fn set_peer(&self, socket: &impl AsFd, peer: SocketAddrV4) -> Result<()> {
        self.set(socket, Operation::Connect, |request| {
            request.peer = Some(peer.into());
        })
    }

    /// Where did the peer of this socket want to go, and who is it? For a UDP socket that is
    /// not connected, `shown` is the source that came with the datagram.
    ///
    /// # Errors
    /// `ENOENT` if it wanted the socket's own address.
    pub fn original_destination(
        &self,
        socket: &impl AsFd,
        shown: Option<SocketAddrV4>,
    ) -> Result<Original> {
        let operation = Operation::OriginalDestination;
        let reply = self.ask(socket, operation, Access::Get, |request| {
            request.peer = shown.map(Into::into);
        })?;
        Ok(Original {
            source: ipv4(reply.peer)?,
            destination: ipv4(reply.foreign)?,
            fresh_for: Duration::from_millis(reply.flags.into()),
        })
    }

    /// The descriptors of the channel and of the daemon's folder, for programs that close all that
    /// they do not know. They change when a channel is opened anew.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.channel.descriptors()
    }

    /// Any operation, with the socket named by its number in this process: for the edges to
    /// other languages.
    ///
    /// # Errors
    /// The errno. `ENOPROTOOPT` when no daemon answers, as from a kernel without TProxy.
    pub fn call(&self, request: &Request) -> std::result::Result<Reply, i32> {
        let reply = self.post(request).map_err(|error| error.errno())?;
        match reply.errno {
            0 => Ok(reply),
            errno => Err(errno),
        }
    }

    fn set(
        &self,
        socket: &impl AsFd,
        operation: Operation,
        fill: impl FnOnce(&mut Request),
    ) -> Result<()> {
        self.ask(socket, operation, Access::Set, fill).map(drop)
    }

    fn ask(
        &self,
        socket: &impl AsFd,
        operation: Operation,
        access: Access,
        fill: impl FnOnce(&mut Request),
    ) -> Result<Reply> {
        let fd = socket.as_fd();
        let mut request = Request::new(operation, access, fd.as_raw_fd());
        fill(&mut request);
        let reply = self.post(&request)?;
        match reply.errno {
            0 => Ok(reply),
            errno => Err(refusal::explain(&request, fd, errno)),
        }
    }

    /// Asks, and knows what was done already when a call had to be asked twice.
    fn post(&self, request: &Request) -> Result<Reply> {
        let Answer { reply, asked_twice } = self.channel.ask(request)?;
        if asked_twice && self.was_done(request, reply.errno)? {
            return Ok(Reply { errno: 0, ..reply });
        }
        Ok(reply)
    }

    /// Whether the refusal of a call that was asked twice says that it was done the first time:
    /// a daemon that ends may not come to answering, and the next one adopts what is registered.
    fn was_done(&self, request: &Request, errno: i32) -> Result<bool> {
        let is = |expected: Errno| errno == expected.raw_os_error();
        match request.operation {
            Operation::Assign | Operation::AssignFlags if is(Errno::EXIST) => {
                self.is_assigned(request)
            }
            Operation::Alloc if is(Errno::INVAL) => {
                let foreign = self.again(request, Operation::Query)?.foreign;
                Ok(foreign.is_some_and(|foreign| foreign.port() != 0))
            }
            Operation::Unassign => Ok(is(Errno::NOENT)),
            _ => Ok(false),
        }
    }

    /// Whether the socket has what this request would give it.
    fn is_assigned(&self, request: &Request) -> Result<bool> {
        let entry = self.again(request, Operation::Query)?;
        if entry.errno != 0 || entry.foreign != request.foreign {
            return Ok(false);
        }
        let has = self.again(request, Operation::Flags)?;
        let flags = |bits| Flags::from_bits_retain(bits) - TOLD;
        if has.errno != 0 || flags(has.flags) != flags(request.flags) {
            return Ok(false);
        }
        match (entry.peer, request.peer) {
            (told, wanted) if told == wanted => Ok(true),
            // A daemon that does not tell the peer: recording it once more changes nothing.
            (None, Some(_)) => {
                let mut record = Request::new(Operation::Connect, Access::Set, request.fd);
                record.cookie = request.cookie;
                record.peer = request.peer;
                Ok(self.channel.ask(&record)?.reply.errno == 0)
            }
            _ => Ok(false),
        }
    }

    /// Asks for something else about the socket of a request.
    fn again(&self, about: &Request, operation: Operation) -> Result<Reply> {
        let mut request = Request::new(operation, Access::Get, about.fd);
        request.cookie = about.cookie;
        Ok(self.channel.ask(&request)?.reply)
    }
}

/// Flags that say what an entry is, not what the client asked for.
const TOLD: Flags = Flags::MARK.union(Flags::APPLIED);

/// An address of a reply, which is IPv4.
fn ipv4(address: Option<SocketAddr>) -> Result<SocketAddrV4> {
    match address {
        Some(SocketAddr::V4(address)) => Ok(address),
        Some(SocketAddr::V6(address)) => match address.ip().to_ipv4_mapped() {
            Some(ip) => Ok(SocketAddrV4::new(ip, address.port())),
            None => Err(Error::Nonsense(format!("{address} is not of IPv4"))),
        },
        None => Err(unexpected()),
    }
}
