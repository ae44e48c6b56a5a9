//! Whether the flow that a packet's key leads to is that packet's own, or one of somebody who
//! had the tuple before. Invariant: a socket's packets never leave by another socket's mapping.

use tables::{Direction, FlowKey, Hit, Kind, OwnerId, Side};
use wire::{Protocol, Transport};

use crate::batch::{Packet, Stage};
use crate::counters::Event;
use crate::drops::DropReason;

/// Whether an ICMP request or reply goes the way that its flow has for it: an identifier that
/// equals a type would let one be taken for the other.
const fn is_that_way(packet: &Packet, hit: &Hit) -> bool {
    match packet.headers.transport {
        Transport::Icmp(icmp) if icmp.is_request() => {
            matches!(hit.direction, Direction::Original)
        }
        Transport::Icmp(icmp) if icmp.is_reply() => matches!(hit.direction, Direction::Reply),
        Transport::Tcp(_) | Transport::Udp | Transport::Icmp(_) | Transport::Other => true,
    }
}

impl Stage<'_> {
    /// The flow of a packet whose key led to `hit`; none if it is a first packet.
    pub(crate) fn standing(
        &mut self,
        packet: &Packet,
        hit: Option<Hit>,
    ) -> Result<Option<Hit>, DropReason> {
        if packet.is_stray_copy(self.view) {
            return Err(DropReason::BadDestination);
        }
        let hit = hit.filter(|hit| is_that_way(packet, hit));
        let Some(hit) = hit.and_then(|hit| self.unless_orphan(hit)) else {
            return self.one_way(packet);
        };
        // What came from an endpoint that nobody had taken is no registered socket's either.
        let is_strange = packet.is_stranger || packet.is_box;
        if is_strange && hit.flow.owner != OwnerId::NOBODY {
            return self.unless_strange(packet, hit);
        }
        let gives_way = match packet.headers.transport {
            Transport::Tcp(tcp) if tcp.flags.opens() => self.is_reopened(packet, &hit, tcp.seq)?,
            Transport::Udp if packet.side == Side::Host && hit.flow.kind == Kind::Local => {
                // Its flow may be older than the registration.
                self.sender(packet)?.is_some_and(|own| own.shows_foreign())
            }
            Transport::Tcp(_) | Transport::Udp | Transport::Icmp(_) | Transport::Other => false,
        };
        if gives_way {
            self.replace(&hit);
            return Ok(None);
        }
        Ok(Some(hit))
    }

    /// What a socket that is not registered has of the flow of a registered one: a new
    /// connection in its place. A SYN sent again is no stranger's: its socket was registered
    /// when it first sent it, and what it began goes on under the name it had.
    fn unless_strange(&mut self, packet: &Packet, hit: Hit) -> Result<Option<Hit>, DropReason> {
        match packet.headers.transport {
            Transport::Tcp(tcp) if tcp.flags.opens() => {
                if self.flows.began_with(&hit, tcp.seq) {
                    return Ok(Some(hit));
                }
                self.replace(&hit);
                Ok(None)
            }
            Transport::Tcp(_) | Transport::Udp | Transport::Icmp(_) | Transport::Other => {
                Err(DropReason::Stranger)
            }
        }
    }

    /// The flow that a datagram has where no connection of the same name claims it.
    /// Each datagram is for itself: it goes to the registration that is nearest now.
    fn one_way(&mut self, packet: &Packet) -> Result<Option<Hit>, DropReason> {
        let tuple = packet.flow_key().tuple();
        if packet.side == Side::Host || tuple.proto != Protocol::UDP {
            return Ok(None);
        }
        let hit = self.flows.lookup(&FlowKey::new(Side::OneWay, &tuple));
        let Some(hit) = hit.and_then(|hit| self.unless_orphan(hit)) else {
            return Ok(None);
        };
        if !matches!(packet.headers.transport, Transport::Udp) {
            return Ok(Some(hit));
        }
        match self.reached(&tuple)? {
            Some(nearest) if nearest.owner != hit.flow.owner => {
                // What the farther one has been given, it may still ask about and answer.
                if nearest.is_one_way() {
                    self.replace(&hit);
                }
                Ok(None)
            }
            Some(_) | None => Ok(Some(hit)),
        }
    }

    fn unless_orphan(&mut self, hit: Hit) -> Option<Hit> {
        if self.flows.is_orphan(&hit.flow) {
            self.flows.remove(hit.id, self.now_ns);
            self.flows_changed = true;
            return None;
        }
        Some(hit)
    }

    /// Whether a SYN begins another connection than that of the flow which has its tuple.
    ///
    /// The stack sends a new SYN only where it has no connection. If its socket is registered
    /// otherwise than that which the flow was made for, the flow is an earlier socket's; if it
    /// is registered to show a foreign endpoint, a flow without one came of a packet that
    /// somebody sent to the local endpoint itself.
    fn is_reopened(&self, packet: &Packet, hit: &Hit, isn: u32) -> Result<bool, DropReason> {
        if packet.side == Side::Host && !self.flows.began_with(hit, isn) {
            let own = self.sender(packet)?;
            let owner = own.map_or(OwnerId::NOBODY, |own| own.owner);
            let is_foreign = own.is_some_and(|own| own.shows_foreign());
            if hit.flow.owner != owner || (is_foreign && hit.flow.kind == Kind::Local) {
                return Ok(true);
            }
        }
        Ok(self.flows.is_reopened_by(hit, isn))
    }

    /// Removes a flow that gives way to another.
    pub(crate) fn replace(&mut self, hit: &Hit) {
        self.flows.remove(hit.id, self.now_ns);
        self.flows_changed = true;
        self.counters.count(Event::Reopened);
    }
}
