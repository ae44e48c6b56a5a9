//! What the registry needs of the box.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use wire::{Endpoint, Protocol};

/// Which packets of an endpoint are diverted to the workers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Way {
    /// What comes to it.
    Inbound,
    /// What comes to it and what the box sends from it.
    Both,
}

/// What the kernel says of a socket that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AliveSocket {
    /// The protocol's number.
    pub proto: u8,
    /// Who owns it.
    pub uid: u32,
    /// Where it is bound.
    pub local: SocketAddrV4,
}

/// What is known beside the cookies of closed sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct News {
    /// Some were lost: only [`World::alive`] knows.
    pub lost: bool,
    /// There are more: to be asked for again at once.
    pub more: bool,
}

/// What the registry needs of the box: steering, and news of sockets.
pub trait World: Send {
    /// Diverts an endpoint's packets to the workers. The same endpoint may be diverted several
    /// times; it is until each is released.
    ///
    /// # Errors
    /// No room, most likely; nothing is diverted then.
    fn divert(&mut self, proto: Protocol, at: Endpoint, way: Way) -> io::Result<()>;

    /// Takes one [`World::divert`] back.
    fn release(&mut self, proto: Protocol, at: Endpoint, way: Way);

    /// From now on the closing of this socket is told. `shows`: what it opens must be
    /// translated, wherever it is bound; else it may send as it is. A socket that is watched
    /// already gets another `shows`.
    ///
    /// # Errors
    /// No room, most likely; nothing has changed then.
    fn watch(&mut self, cookie: u64, shows: bool) -> io::Result<()>;

    /// Takes [`World::watch`] back; the socket may have gone.
    fn forget(&mut self, cookie: u64);

    /// Pushes the cookies of watched sockets that were closed since the last call, `most` of
    /// them at most.
    ///
    /// # Errors
    /// Nothing is known then, as if some were lost.
    fn closed(&mut self, gone: &mut Vec<u64>, most: usize) -> io::Result<News>;

    /// Every TCP and UDP socket of the network namespace, by cookie.
    ///
    /// # Errors
    /// The kernel did not answer.
    fn alive(&mut self) -> io::Result<HashMap<u64, AliveSocket>>;

    /// Protocol and local endpoint of every socket that has a connection, also of one that its
    /// process has closed: it may have more to say. The default takes all that are open.
    ///
    /// # Errors
    /// The kernel did not answer.
    fn in_use(&mut self) -> io::Result<HashSet<(u8, SocketAddrV4)>> {
        let alive = self.alive()?;
        let endpoint = |socket: &AliveSocket| (socket.proto, socket.local);
        Ok(alive.values().map(endpoint).collect())
    }

    /// Whether this is an address of the box itself.
    fn is_own(&self, addr: Ipv4Addr) -> bool;

    /// Whether a management entry covers this local port: its packets pass the workers by, so
    /// they would leave untranslated.
    fn is_management(&self, proto: Protocol, port: u16) -> bool;
}
