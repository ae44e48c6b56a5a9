//! First packets from the stack: connections that the box itself begins.

use policy::{ConnState, Packet as Question};
use tables::{Kind, Registration};
use wire::{Protocol, Transport};

use crate::batch::{Packet, Stage};
use crate::drops::DropReason;
use crate::first::{Outcome, whole};
use crate::mapping::Cause;
use crate::refusing::Refusal;
use crate::registered::has_ports;

impl Stage<'_> {
    /// What a registered socket begins carries its foreign endpoint, or leaves as it is if it
    /// shows none. So does a stranger's; and a connection that a rule's proxy opens. A socket
    /// that was registered a moment ago tries again as what it is by then. Any other packet of
    /// a taken endpoint, and any datagram from where a rule's proxy takes them, may answer a
    /// flow that has gone, and must not leave untranslated. What comes from elsewhere is the
    /// box's own.
    pub(crate) fn first_from_stack(
        &mut self,
        frame: &[u8],
        packet: &Packet,
    ) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        let own = &self.view.own;
        if packet.is_box && self.view.is_group(tuple.dst.addr) {
            return self.box_to_group(frame, packet);
        }
        if !own.contains(&tuple.src.addr) || own.contains(&tuple.dst.addr) {
            return Err(Refusal::drop(DropReason::NoFlowFromStack));
        }
        if self.is_plain(packet)? {
            return self.box_begins(frame, packet);
        }
        // A registered socket's packets do not come this way. What was sent before it was
        // registered, it sends again.
        if packet.is_box
            && self
                .registered_at(tuple.proto, tuple.src, tuple.dst)?
                .is_some()
        {
            return Err(Refusal::drop(DropReason::Stranger));
        }
        let sender = self.sender(packet)?;
        let is_proxy = self.view.is_proxy(tuple.proto, tuple.src);
        let is_datagram = tuple.proto == Protocol::UDP;
        let opens = packet.opens();
        let begins = opens || (is_datagram && !is_proxy);
        let hit = match sender {
            Some(own) if own.shows_foreign() && (opens || is_datagram) => {
                whole(packet)?;
                self.ask_begins(frame, packet, Some(&own))?;
                self.connect(&own, tuple)
            }
            Some(own) if opens || (begins && own.is_mark_only()) => {
                self.ask_begins(frame, packet, Some(&own))?;
                self.let_out(Cause::owned(Kind::Local, &own), tuple)
            }
            None if begins && (packet.is_stranger || is_proxy) => {
                self.ask_begins(frame, packet, None)?;
                self.let_out(Cause::of(Kind::Local), tuple)
            }
            None if opens => Err(Refusal::drop(DropReason::OwnerGone)),
            Some(_) | None => Err(Refusal::drop(DropReason::NoFlowFromStack)),
        };
        hit.map(Outcome::Flow)
    }

    /// Asks OUTPUT about what a taken endpoint begins. No rule can take that out of tracking.
    fn ask_begins(
        &self,
        frame: &[u8],
        packet: &Packet,
        own: Option<&Registration>,
    ) -> Result<(), Refusal> {
        let is_foreign = own.is_some_and(Registration::shows_foreign);
        let mut question = Question {
            is_tproxy: is_foreign || own.is_some_and(Registration::is_mark_only),
            is_snat: is_foreign,
            ..self.question(packet, ConnState::New)
        };
        self.ask_leave(frame, &mut question)
    }

    /// Whether a packet comes from no endpoint that could have flows which are translated. The
    /// programs at the NICs may know less than the view, and so may the view than they.
    fn is_plain(&self, packet: &Packet) -> Result<bool, DropReason> {
        let tuple = packet.flow_key().tuple();
        if !has_ports(tuple.proto) {
            return Ok(packet.is_box || self.guards);
        }
        Ok(packet.is_box
            && !self.is_endpoint_of_rules(tuple.proto, tuple.src)
            && self
                .registered_at(tuple.proto, tuple.src, tuple.dst)?
                .is_none())
    }

    /// What the box itself says to one host.
    fn box_begins(&mut self, frame: &[u8], packet: &Packet) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        let state = self.fresh_state(packet, true);
        let mut question = self.question(packet, state);
        self.ask_leave(frame, &mut question)?;
        // Rules that do not ask about the box's own packets need no flows of them.
        let is_error = matches!(packet.headers.transport, Transport::Icmp(icmp) if icmp.is_error());
        if question.state != ConnState::New || !self.guards || is_error {
            return Ok(Outcome::Passes);
        }
        self.let_out(Cause::of(Kind::Local), tuple)
            .map(Outcome::Flow)
    }

    /// What the box itself says to a group of hosts.
    fn box_to_group(&self, frame: &[u8], packet: &Packet) -> Result<Outcome, Refusal> {
        let source = packet.headers.tuple.src;
        // It may not have an address yet.
        if !source.addr.is_unspecified() && !self.view.own.contains(&source.addr) {
            return Err(Refusal::drop(DropReason::NoFlowFromStack));
        }
        if !self.is_plain(packet)? {
            return Err(Refusal::drop(DropReason::NoFlowFromStack));
        }
        let mut question = self.question(packet, ConnState::New);
        self.ask_leave(frame, &mut question)?;
        Ok(Outcome::Passes)
    }
}
