//! First packets: what no flow claims.

use policy::ConnState;
use tables::{Hit, Kind, Registration, Side};
use wire::{Fragment, Protocol};

use crate::batch::{Frames, Packet, Stage, Verdict};
use crate::drops::DropReason;
use crate::mapping::Cause;
use crate::refusing::Refusal;

/// Where a first packet goes.
pub(crate) enum Outcome {
    /// Into a flow, made or found.
    Flow(Hit),
    /// On, as it is, without a flow: to the stack from the wire, to the wire from the stack.
    Passes,
}

impl Stage<'_> {
    /// Judges a packet that belongs to no flow.
    pub(crate) fn first(
        &mut self,
        frames: &mut impl Frames,
        at: usize,
        packet: &Packet,
    ) -> Verdict {
        let frame = frames.bytes(at);
        self.asked_limit.set(false);
        let outcome = match packet.side {
            Side::Wire | Side::OneWay => self.first_from_wire(frame, packet),
            Side::Host => self.first_from_stack(frame, packet),
        };
        match outcome {
            Ok(Outcome::Flow(hit)) => {
                self.note_first(packet, &hit);
                if is_cut(packet) && hit.translated() != packet.headers.tuple {
                    return Verdict::Drop(DropReason::Fragment);
                }
                self.carry(frame, packet, &hit)
            }
            Ok(Outcome::Passes) => {
                let by = match packet.side {
                    Side::Wire | Side::OneWay => Side::Host,
                    Side::Host => Side::Wire,
                };
                self.send(frame, packet.port, by)
            }
            Err(refusal) => self.refuse(frames, at, packet, refusal),
        }
    }

    /// Makes the flow of what is for the box itself, where there has to be one: where a proxy
    /// listens, since the answers come through the worker; on an endpoint that was registered,
    /// until its old flows have gone; and where the rules want to know all that the box does.
    pub(crate) fn deliver(
        &mut self,
        packet: &Packet,
        state: ConnState,
        local: Option<Registration>,
    ) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        let cause = match local {
            // By a flow its answers would leave as they are; they shall show the foreign endpoint.
            Some(own) if own.shows_foreign() && tuple.proto == Protocol::UDP => {
                return Ok(Outcome::Passes);
            }
            Some(own) => Cause::owned(Kind::Local, &own),
            None if self.is_endpoint_of_rules(tuple.proto, tuple.dst) => Cause::of(Kind::Local),
            None if self.guards && state == ConnState::New => Cause::of(Kind::Local),
            None if packet.opens() && self.registrations.are_any() => Cause::of(Kind::Local),
            None => return Ok(Outcome::Passes),
        };
        self.lead_to(cause, tuple, tuple.dst).map(Outcome::Flow)
    }
}

/// Whether a packet is the first part of a datagram, whose other parts say nothing.
pub(crate) fn is_cut(packet: &Packet) -> bool {
    packet.headers.fragment != Fragment::Whole
}

/// Refuses to translate one part of a datagram.
pub(crate) fn whole(packet: &Packet) -> Result<(), Refusal> {
    if is_cut(packet) {
        return Err(Refusal::drop(DropReason::Fragment));
    }
    Ok(())
}
