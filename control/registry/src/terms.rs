//! What a registration says: the foreign endpoint, the peer and the flags.

use std::net::Ipv4Addr;

use tables::Uses;
use wire::{Endpoint, Protocol};

use crate::refusal::Refusal;
use crate::world::World;

/// The bits of `TPROXY_FLAGS`.
pub mod flags {
    /// Connections from the socket carry the foreign address.
    pub const CONNECT: u32 = 0x1;
    /// Connections to the foreign address reach the socket.
    pub const LISTEN: u32 = 0x2;
    /// A connected UDP socket: both.
    pub const ESTABLISHED: u32 = 0x4;
    /// Stored, without effect.
    pub const ONCE: u32 = 0x1_0000;
    /// Get only: the socket is only marked.
    pub const MARK: u32 = 0x2_0000;
    /// Get only: it has, or had, a flow.
    pub const APPLIED: u32 = 0x4_0000;
    /// Listening UDP: each datagram's destination is rewritten, none of the answers' sources.
    pub const UNIDIR: u32 = 0x8_0000;
    /// Those that make packets change.
    pub(crate) const ACTIVE: u32 = CONNECT | LISTEN | ESTABLISHED;
    /// Those that are kept.
    pub(crate) const STORED: u32 = ACTIVE | ONCE | UNIDIR;
}

/// What a registration says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    /// What others see. Address 0: the socket is only marked. Port 0: chosen at connect.
    pub(crate) foreign: Endpoint,
    pub(crate) peer: Option<Endpoint>,
    pub(crate) flags: u32,
    /// Another had the foreign endpoint when this came: it may not listen there.
    pub(crate) is_connect_only: bool,
}

impl Terms {
    pub(crate) const fn new(foreign: Endpoint) -> Self {
        Self {
            foreign,
            peer: None,
            flags: 0,
            is_connect_only: false,
        }
    }

    pub(crate) const fn has(&self, any_of: u32) -> bool {
        self.flags & any_of != 0
    }

    pub(crate) fn is_mark(&self) -> bool {
        self.foreign.addr.is_unspecified()
    }

    /// Whether it holds a foreign endpoint, and not just an address.
    pub(crate) fn is_fixed(&self) -> bool {
        !self.is_mark() && self.foreign.port != 0
    }

    /// Whether what its socket opens carries the foreign address.
    pub(crate) fn shows(&self) -> bool {
        !self.is_mark() && self.has(flags::CONNECT | flags::ESTABLISHED)
    }

    pub(crate) fn diverts_local(&self) -> bool {
        !self.is_mark() && self.has(flags::ACTIVE)
    }

    /// In case the foreign address is the box's own.
    pub(crate) fn diverts_foreign(&self) -> bool {
        self.is_fixed() && self.has(flags::LISTEN)
    }

    /// The foreign endpoint and the peer that are its alone.
    pub(crate) fn pair(&self) -> Option<(Endpoint, Endpoint)> {
        let peer = self.peer?;
        (self.is_fixed() && self.has(flags::ACTIVE)).then_some((self.foreign, peer))
    }

    /// The pair, if the socket sends with it.
    pub(crate) fn outgoing(&self) -> Option<(Endpoint, Endpoint)> {
        self.pair()
            .filter(|_| self.has(flags::CONNECT | flags::ESTABLISHED))
    }

    pub(crate) const fn uses(&self) -> Uses {
        Uses(self.flags & (flags::ACTIVE | flags::UNIDIR))
    }

    /// The flags as a client gives them, without those that it can only get.
    pub(crate) const fn settable(given: u32) -> Result<u32, Refusal> {
        let wanted = given & !(flags::MARK | flags::APPLIED);
        if wanted & !flags::STORED != 0 {
            return Err(Refusal::Invalid);
        }
        Ok(wanted)
    }

    /// Whether it makes sense by itself.
    pub(crate) fn check(&self, proto: Protocol, world: &dyn World) -> Result<(), Refusal> {
        let is_right = self.is_foreign_usable()
            && self.peer.is_none_or(is_peer_usable)
            && !(proto == Protocol::TCP && self.has(flags::ESTABLISHED | flags::UNIDIR))
            && !(self.has(flags::ESTABLISHED) && self.peer.is_none())
            && !(self.has(flags::LISTEN) && self.is_connect_only)
            && !self.is_for_nothing(proto, world);
        is_right.then_some(()).ok_or(Refusal::Invalid)
    }

    fn is_foreign_usable(&self) -> bool {
        let Endpoint { addr, port } = self.foreign;
        if self.is_mark() {
            return port == 0;
        }
        !addr.is_multicast()
            && addr != Ipv4Addr::BROADCAST
            && !addr.is_loopback()
            && addr.octets()[0] != 0
    }

    /// Whether the packets would pass the workers by: answers to the box's own addresses are
    /// the kernel's, and a management entry's packets too.
    fn is_for_nothing(&self, proto: Protocol, world: &dyn World) -> bool {
        let Endpoint { addr, port } = self.foreign;
        self.has(flags::ACTIVE)
            && world.is_own(addr)
            && (self.has(flags::CONNECT | flags::ESTABLISHED)
                || port != 0 && world.is_management(proto, port))
    }
}

fn is_peer_usable(peer: Endpoint) -> bool {
    !peer.addr.is_unspecified() && peer.port != 0
}
