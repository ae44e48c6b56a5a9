//! First packets: what no flow claims is asked of the registrations, then of the rules.

use policy::{Decision, FirstPacket};
use tables::{Hit, Kind, Registration, Side};
use wire::{Endpoint, Protocol, TcpFlags, Tuple};

use crate::batch::{Frames, Packet, Stage, Verdict};
use crate::counters::Event;
use crate::drops::{DropExample, DropReason};
use crate::mapping::Cause;
use crate::registered::has_ports;

impl Stage<'_> {
    /// Judges a packet that belongs to no flow.
    pub(crate) fn first(
        &mut self,
        frames: &mut impl Frames,
        at: usize,
        packet: &Packet,
    ) -> Verdict {
        let outcome = match packet.side {
            Side::Wire | Side::OneWay => self.first_from_wire(packet),
            Side::Host => self.first_from_stack(packet),
        };
        match outcome {
            Ok(Outcome::Flow(hit)) => self.carry(frames.bytes(at), packet, &hit),
            Ok(Outcome::Deliver) => self.send(frames.bytes(at), packet.port, Side::Host),
            Err(Refusal {
                reason,
                reset: false,
            }) => Verdict::Drop(reason),
            Err(Refusal {
                reason,
                reset: true,
            }) => self.refuse(frames, at, packet, reason),
        }
    }

    /// Sends a reset back to where the packet came from, if it may be answered so.
    fn refuse(
        &mut self,
        frames: &mut impl Frames,
        at: usize,
        packet: &Packet,
        reason: DropReason,
    ) -> Verdict {
        let frame = frames.bytes(at);
        // The reset takes the frame's place.
        let example = DropExample::new(reason, self.now_ns, frame);
        let Some(len) = wire::reset_for(frame, &packet.headers) else {
            return Verdict::Drop(reason);
        };
        let verdict = self.send(frame, packet.port, Side::Wire);
        frames.shorten(at, len);
        self.count_drop(reason, || example);
        self.counters.count(Event::Refused);
        verdict
    }

    fn first_from_wire(&mut self, packet: &Packet) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        let is_own = self.view.own.contains(&tuple.dst.addr);
        self.check_ends(tuple)?;
        let is_mid_stream = packet.tcp().is_some_and(|tcp| !tcp.flags.opens());
        if let Some(registration) = self.reached(tuple)? {
            return if is_mid_stream {
                Err(Refusal::drop(DropReason::NoFlow))
            } else {
                self.listen(&registration, tuple)
            };
        }
        let local = if is_own {
            self.registered_at(tuple.proto, tuple.dst, tuple.src)?
        } else {
            None
        };
        if is_mid_stream && !(is_own && self.may_pick_up(packet, local.as_ref())) {
            return Err(Refusal::drop(DropReason::NoFlow));
        }
        if packet.is_icmp_error() && !is_own {
            return Err(Refusal::drop(DropReason::IcmpNoFlow));
        }
        match self.decide(packet) {
            // A proxy can answer only what has ports.
            Decision::Redirect(_) | Decision::NoLocalAddress if !has_ports(tuple.proto) => {
                self.unclaimed(packet, is_own, None)
            }
            Decision::Redirect(_) | Decision::NoLocalAddress if is_mid_stream => {
                Err(Refusal::drop(DropReason::NoFlow))
            }
            Decision::Redirect(to) => self.redirect(tuple, to),
            Decision::NoLocalAddress => Err(Refusal::reset(DropReason::NoLocalAddress)),
            Decision::Drop => Err(Refusal::drop(DropReason::RuleDrop)),
            Decision::Unclaimed => self.unclaimed(packet, is_own, local),
        }
    }

    /// Refuses what comes from where, or goes to where, no packet of the wire's may.
    fn check_ends(&self, tuple: &Tuple) -> Result<(), Refusal> {
        let is_nobody = |addr: std::net::Ipv4Addr| {
            addr.is_multicast()
                || addr.is_broadcast()
                || addr.is_loopback()
                || addr.is_unspecified()
        };
        if is_nobody(tuple.src.addr) {
            Err(Refusal::drop(DropReason::BadSource))
        } else if self.view.own.contains(&tuple.src.addr) {
            Err(Refusal::reset(DropReason::Loop))
        } else if is_nobody(tuple.dst.addr) {
            Err(Refusal::drop(DropReason::BadDestination))
        } else {
            Ok(())
        }
    }

    /// Whether a mid-stream packet to the box itself may go on.
    ///
    /// A connection that is older than this daemon is picked up; transit cannot be, for which
    /// mapping it had is not known, nor what a registered endpoint has, for that may have been
    /// translated. A reset is not worth a flow, and without one must not reach a proxy: another
    /// connection may be shown there under this name.
    fn may_pick_up(&self, packet: &Packet, local: Option<&Registration>) -> bool {
        let tuple = &packet.headers.tuple;
        let is_reset = packet.tcp().is_some_and(|tcp| tcp.flags.any(TcpFlags::RST));
        let to_proxy = local.is_some() || self.view.is_proxy(tuple.proto, tuple.dst);
        local.is_none_or(Registration::is_mark_only) && !(is_reset && to_proxy)
    }

    /// What the rules say, each that is asked counting the packet.
    fn decide(&self, packet: &Packet) -> Decision {
        let first = FirstPacket {
            port: packet.port,
            tuple: packet.headers.tuple,
        };
        let bytes = u64::from(packet.headers.packet_bytes());
        let hits = &self.view.rule_hits;
        self.view
            .policy
            .decide(&first, |rule| hits.count(self.worker, rule, bytes))
    }

    /// Takes a connection to a registered foreign endpoint.
    fn listen(&mut self, to: &Registration, tuple: &Tuple) -> Result<Outcome, Refusal> {
        if !self.view.own.contains(&to.local.addr) {
            return Err(Refusal::reset(DropReason::ProxyNotLocal));
        }
        let cause = Cause::taken(Kind::Listen, to);
        self.lead_to(cause, tuple, to.local).map(Outcome::Flow)
    }

    /// Takes a connection that a rule leads to a proxy. A datagram's flow belongs to the proxy's
    /// registration, if there is one, and goes with it.
    fn redirect(&mut self, tuple: &Tuple, to: Endpoint) -> Result<Outcome, Refusal> {
        if !self.view.own.contains(&to.addr) {
            return Err(Refusal::reset(DropReason::ProxyNotLocal));
        }
        let proxy = if tuple.proto == Protocol::UDP {
            self.registered_at(tuple.proto, to, tuple.src)?
        } else {
            None
        };
        let cause = proxy.map_or(Cause::of(Kind::Redirect), |proxy| {
            Cause::taken(Kind::Redirect, &proxy)
        });
        self.lead_to(cause, tuple, to).map(Outcome::Flow)
    }

    fn unclaimed(
        &mut self,
        packet: &Packet,
        is_own: bool,
        local: Option<Registration>,
    ) -> Result<Outcome, Refusal> {
        if is_own {
            self.deliver(packet, local)
        } else {
            Err(Refusal::drop(DropReason::ForwardDenied))
        }
    }

    /// Delivers what is for the box itself. Where a proxy listens this makes a flow, since
    /// the answers come through the worker; so may those of a plain listener on an endpoint
    /// that was registered, until the old flows have gone.
    fn deliver(
        &mut self,
        packet: &Packet,
        local: Option<Registration>,
    ) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        let cause = match local {
            // By a flow its answers would leave as they are; they shall show the foreign endpoint.
            Some(own) if own.shows_foreign() && tuple.proto == Protocol::UDP => {
                return Ok(Outcome::Deliver);
            }
            Some(own) => Cause::owned(Kind::Local, &own),
            None if has_ports(tuple.proto) && self.view.is_proxy(tuple.proto, tuple.dst) => {
                Cause::of(Kind::Local)
            }
            None if packet.opens() && self.registrations.are_any() => Cause::of(Kind::Local),
            None => return Ok(Outcome::Deliver),
        };
        self.lead_to(cause, tuple, tuple.dst).map(Outcome::Flow)
    }

    /// What a registered socket begins carries its foreign endpoint, or leaves as it is if it
    /// shows none. So does a stranger's; and a connection that a rule's proxy opens. A socket
    /// that was registered a moment ago tries again as what it is by then. Any other packet,
    /// and any datagram from where a rule's proxy takes them, may answer a flow that has gone,
    /// and must not leave untranslated.
    fn first_from_stack(&mut self, packet: &Packet) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        let own = &self.view.own;
        if !own.contains(&tuple.src.addr) || own.contains(&tuple.dst.addr) {
            return Err(Refusal::drop(DropReason::NoFlowFromStack));
        }
        let sender = self.sender(packet)?;
        let is_proxy = self.view.is_proxy(tuple.proto, tuple.src);
        let is_datagram = tuple.proto == Protocol::UDP;
        let opens = packet.opens();
        let begins = opens || (is_datagram && !is_proxy);
        let hit = match sender {
            Some(own) if own.shows_foreign() && (opens || is_datagram) => self.connect(&own, tuple),
            Some(own) if opens || (begins && own.is_mark_only()) => {
                self.let_out(Cause::owned(Kind::Local, &own), tuple)
            }
            None if begins && (packet.is_stranger || is_proxy) => {
                self.let_out(Cause::of(Kind::Local), tuple)
            }
            None if opens => Err(Refusal::drop(DropReason::OwnerGone)),
            Some(_) | None => Err(Refusal::drop(DropReason::NoFlowFromStack)),
        };
        hit.map(Outcome::Flow)
    }
}

/// Where a first packet goes.
enum Outcome {
    /// Into a flow, made or found.
    Flow(Hit),
    /// To the stack, as it is, without a flow.
    Deliver,
}

/// A first packet that goes nowhere.
pub(crate) struct Refusal {
    reason: DropReason,
    /// Whether its sender is told by a reset.
    reset: bool,
}

impl Refusal {
    pub(crate) const fn drop(reason: DropReason) -> Self {
        Self {
            reason,
            reset: false,
        }
    }

    pub(crate) const fn reset(reason: DropReason) -> Self {
        Self {
            reason,
            reset: true,
        }
    }
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::drop(reason)
    }
}
