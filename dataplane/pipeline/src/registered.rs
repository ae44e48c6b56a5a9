//! What registrations say about a packet.

use tables::{Lookup, Registration};
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

impl Stage<'_> {
    /// The registration of the socket that sent a packet of the stack's.
    pub(crate) fn sender(&self, packet: &Packet) -> Result<Option<Registration>, DropReason> {
        let tuple = &packet.headers.tuple;
        self.registered_at(tuple.proto, tuple.src, tuple.dst)
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
