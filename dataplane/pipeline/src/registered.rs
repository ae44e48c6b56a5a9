//! What registrations say about a packet.

use std::net::Ipv4Addr;

use tables::{Lookup, Registration, Uses};
use wire::{Endpoint, Protocol, Tuple};

use crate::batch::{Packet, Stage};
use crate::drops::DropReason;

/// What a lookup has found; a table that is being changed says nothing, and a packet of which
/// nothing is known goes nowhere.
fn found(lookup: Lookup) -> Result<Option<Registration>, DropReason> {
    match lookup {
        Lookup::Found(registration) => Ok(Some(registration)),
        Lookup::None => Ok(None),
        Lookup::Busy => Err(DropReason::RegistrationBusy),
    }
}

/// Finds what is registered without a peer: no host has this address.
const EVERYBODY: Endpoint = Endpoint::new(Ipv4Addr::UNSPECIFIED, 0);

/// Whether a registration's socket opens no connections: what comes from its endpoint is
/// another's, which is registered there for everybody.
fn only_listens(own: &Registration) -> bool {
    own.proto == Protocol::TCP && own.uses.any(Uses::LISTEN) && !own.uses.any(Uses::CONNECT)
}

impl Stage<'_> {
    /// The registration of the socket that sent a packet of the stack's: none for a stranger,
    /// whoever has registered the endpoint.
    pub(crate) fn sender(&self, packet: &Packet) -> Result<Option<Registration>, DropReason> {
        if packet.is_stranger {
            return Ok(None);
        }
        let Tuple { proto, src, dst } = packet.headers.tuple;
        let own = self.registered_at(proto, src, dst)?;
        if own.is_some_and(|own| own.peer.is_some() && only_listens(&own)) {
            let wider = self.registered_at(proto, src, EVERYBODY)?;
            return Ok(wider.filter(Registration::shows_foreign).or(own));
        }
        Ok(own)
    }

    /// The registration whose local endpoint is `at`, about packets to and from `other`.
    pub(crate) fn registered_at(
        &self,
        proto: Protocol,
        at: Endpoint,
        other: Endpoint,
    ) -> Result<Option<Registration>, DropReason> {
        if !has_ports(proto) {
            return Ok(None);
        }
        found(self.registrations.owner(proto, at, other))
    }

    /// The registration whose foreign endpoint a packet from the wire is for.
    pub(crate) fn reached(&self, tuple: &Tuple) -> Result<Option<Registration>, DropReason> {
        if !has_ports(tuple.proto) {
            return Ok(None);
        }
        let reached = self
            .registrations
            .reached(tuple.proto, tuple.src, tuple.dst);
        Ok(found(reached)?.filter(Registration::takes_foreign))
    }
}

pub(crate) const fn has_ports(proto: Protocol) -> bool {
    matches!(proto, Protocol::TCP | Protocol::UDP)
}
