//! What a registration is.

use wire::{Endpoint, Protocol, Tuple};

use crate::entry::Record;
use crate::key::{FlowKey, Side};
use crate::owners::OwnerId;

/// Marks an entry in use, whatever its uses are.
const LIVE: u64 = 1 << 63;
/// No peer: no host has this address.
const NOBODY: Endpoint = Endpoint::new(std::net::Ipv4Addr::UNSPECIFIED, 0);

/// What a registration is for: the bits of TPROXY_FLAGS that decide about packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Uses(pub u32);

impl Uses {
    /// `ITP_CONNECT`: connections from the local endpoint carry the foreign one.
    pub const CONNECT: Self = Self(1);
    /// `ITP_LISTEN`: connections to the foreign endpoint reach the local one.
    pub const LISTEN: Self = Self(2);
    /// `ITP_ESTABLISHED`: both, for a UDP socket that is connected to its peer.
    pub const ESTABLISHED: Self = Self(4);
    /// `ITP_UNIDIR`: a listening UDP socket that takes datagrams one by one.
    pub const UNIDIR: Self = Self(0x80000);

    /// Whether any of `other`'s bits is set.
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A local endpoint and the foreign one that stands for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Registration {
    /// The protocol.
    pub proto: Protocol,
    /// Where the proxy's socket is bound.
    pub local: Endpoint,
    /// What others see. Address 0.0.0.0: nothing, the socket is only marked. Port 0: chosen
    /// when the socket connects.
    pub foreign: Endpoint,
    /// The one host and port that this is about; none: everybody.
    pub peer: Option<Endpoint>,
    /// What it is for.
    pub uses: Uses,
    /// Whose flows come from it.
    pub owner: OwnerId,
}

impl Registration {
    /// Whether it changes nothing: the socket is only marked.
    #[must_use]
    pub fn is_mark_only(&self) -> bool {
        self.foreign.addr.is_unspecified()
    }

    /// Whether what its socket begins carries the foreign endpoint.
    #[must_use]
    pub fn shows_foreign(&self) -> bool {
        !self.is_mark_only() && self.uses.any(self.both_ways().with(Uses::CONNECT))
    }

    /// Whether what others begin towards the foreign endpoint reaches its socket.
    #[must_use]
    pub fn takes_foreign(&self) -> bool {
        !self.is_mark_only() && self.uses.any(self.both_ways().with(Uses::LISTEN))
    }

    /// Whether its socket takes datagrams one by one.
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        let asked = self.uses.any(Uses::LISTEN) && self.uses.any(Uses::UNIDIR);
        asked && self.proto == Protocol::UDP
    }

    /// The use that means both directions, for what knows no connections.
    fn both_ways(&self) -> Uses {
        if self.proto == Protocol::UDP {
            Uses::ESTABLISHED
        } else {
            Uses::default()
        }
    }

    pub(crate) fn by_local(&self) -> FlowKey {
        local_key(self.proto, self.local, self.peer)
    }

    pub(crate) fn by_foreign(&self) -> FlowKey {
        foreign_key(self.proto, self.foreign, self.peer)
    }

    /// Whether others can reach it by its foreign endpoint.
    pub(crate) const fn is_reached(&self) -> bool {
        self.uses.any(Uses::LISTEN.with(Uses::ESTABLISHED)) && self.foreign.port != 0
    }

    pub(crate) fn record(&self) -> Record<2> {
        Record {
            first: self.by_local(),
            second: self.by_foreign(),
            meta: LIVE | u64::from(self.uses.0),
            stamp: u64::from(self.owner.0),
        }
    }

    pub(crate) fn of(record: &Record<2>) -> Self {
        let (by_local, by_foreign) = (record.first.tuple(), record.second.tuple());
        Self {
            proto: by_local.proto,
            local: by_local.src,
            foreign: by_foreign.dst,
            peer: (by_local.dst != NOBODY).then_some(by_local.dst),
            uses: Uses(record.meta as u32),
            owner: OwnerId(record.stamp as u32),
        }
    }
}

pub(crate) fn local_key(proto: Protocol, local: Endpoint, peer: Option<Endpoint>) -> FlowKey {
    let tuple = Tuple {
        proto,
        src: local,
        dst: peer.unwrap_or(NOBODY),
    };
    FlowKey::new(Side::Host, &tuple)
}

pub(crate) fn foreign_key(proto: Protocol, foreign: Endpoint, peer: Option<Endpoint>) -> FlowKey {
    let tuple = Tuple {
        proto,
        src: peer.unwrap_or(NOBODY),
        dst: foreign,
    };
    FlowKey::new(Side::Wire, &tuple)
}
