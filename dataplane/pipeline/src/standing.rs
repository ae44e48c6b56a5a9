//! Whether the flow that a packet's key leads to is that packet's own, or one of somebody who
//! had the tuple before. Invariant: a socket's packets never leave by another socket's mapping.

use tables::{FlowKey, Hit, Kind, OwnerId, Side};
use wire::{Protocol, Transport};

use crate::batch::{Packet, Stage};
use crate::counters::Event;
use crate::drops::DropReason;

impl Stage<'_> {
    /// The flow of a packet whose key led to `hit`; none if it is a first packet.
    pub(crate) fn standing(
        &mut self,
        packet: &Packet,
        hit: Option<Hit>,
    ) -> Result<Option<Hit>, DropReason> {
        let Some(hit) = hit.and_then(|hit| self.unless_orphan(hit)) else {
            return Ok(self.one_way(packet));
        };
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

    /// The flow that a datagram has where no connection of the same name claims it.
    fn one_way(&mut self, packet: &Packet) -> Option<Hit> {
        let tuple = packet.flow_key().tuple();
        if packet.side == Side::Host || tuple.proto != Protocol::UDP {
            return None;
        }
        let hit = self.flows.lookup(&FlowKey::new(Side::OneWay, &tuple))?;
        self.unless_orphan(hit)
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
