//! First packets from the wire: asked of the registrations, then of the rules.

use std::net::Ipv4Addr;

use policy::{Arrival, ConnState, NoListener, Packet as Question};
use tables::{Kind, Registration, Side};
use wire::{Endpoint, MacAddr, Protocol, TcpFlags, Tuple};

use crate::batch::{Packet, Stage};
use crate::drops::DropReason;
use crate::first::{Outcome, whole};
use crate::mapping::Cause;
use crate::refusing::Refusal;
use crate::registered::has_ports;
use crate::view::View;

impl Stage<'_> {
    pub(crate) fn first_from_wire(
        &mut self,
        frame: &[u8],
        packet: &Packet,
    ) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        let is_own = self.view.own.contains(&tuple.dst.addr);
        if self.guards && self.view.is_group(tuple.dst.addr) {
            return self.to_group(frame, packet);
        }
        self.check_ends(tuple)?;
        if let Some(registration) = self.reached(tuple)? {
            return self.listen(frame, packet, &registration);
        }
        let local = if is_own {
            self.registered_at(tuple.proto, tuple.dst, tuple.src)?
        } else {
            None
        };
        let state = self.fresh_state(packet, is_own);
        let is_proxys =
            is_own && (local.is_some() || self.is_endpoint_of_rules(tuple.proto, tuple.dst));
        let is_mid_stream = packet.tcp().is_some_and(|tcp| !tcp.flags.opens());
        if is_mid_stream && is_own && !self.may_pick_up(packet, local.as_ref(), is_proxys) {
            return Err(Refusal::drop(DropReason::NoFlow));
        }
        // What is out of place must not reach a proxy, whatever rules say.
        if state == ConnState::Invalid && is_proxys {
            return Err(Refusal::drop(DropReason::NoFlow));
        }
        if !is_own && (is_mid_stream || packet.is_icmp_error()) {
            return Err(self.stray(frame, packet, state));
        }

        let mut question = self.question(packet, state);
        let arrival = self.ask_arrival(frame, &mut question, false);
        if is_proxys {
            question.state = state;
        }
        match arrival {
            // A proxy can answer only what has ports.
            Arrival::Redirect { .. } | Arrival::NoLocalAddress if !has_ports(tuple.proto) => {}
            Arrival::Redirect { .. } | Arrival::NoLocalAddress if is_mid_stream => {
                return Err(Refusal::drop(DropReason::NoFlow));
            }
            Arrival::Redirect { to, otherwise } => {
                if self.is_led(tuple.proto, to, otherwise)? {
                    return self.redirect(frame, packet, &mut question, to);
                }
            }
            Arrival::NoLocalAddress => return Err(Refusal::reset(DropReason::NoLocalAddress)),
            Arrival::Stop(stop) => {
                let source = tuple.dst.addr;
                return Err(Refusal::stopped(stop, DropReason::RuleDrop, source));
            }
            Arrival::Goes => {}
        }
        if !is_own {
            let otherwise = DropReason::NotForwarded;
            return Err(self.ask_forward(frame, packet, &mut question, otherwise));
        }
        question.is_tproxy = local.is_some_and(|own| own.is_mark_only());
        self.ask_input(frame, &mut question, tuple)?;
        self.deliver(packet, question.state, local)
    }

    /// Transit that belongs to no flow and can begin none. It is dropped; the rules that look
    /// for such packets hear of it first.
    fn stray(&self, frame: &[u8], packet: &Packet, state: ConnState) -> Refusal {
        let reason = if packet.is_icmp_error() {
            DropReason::IcmpNoFlow
        } else {
            DropReason::NoFlow
        };
        if !self.judges {
            return Refusal::drop(reason);
        }
        let mut question = self.question(packet, state);
        match self.pass_arrival(frame, &mut question) {
            Ok(()) => self.ask_forward(frame, packet, &mut question, reason),
            Err(refusal) => refusal,
        }
    }

    /// What is for a group of hosts, the box among them: no flow, for its answers, if there are
    /// any, come from hosts.
    fn to_group(&self, frame: &[u8], packet: &Packet) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        let source = tuple.src.addr;
        // A host that has no address yet asks for one.
        if !source.is_unspecified() && is_nobody(source) {
            return Err(Refusal::drop(DropReason::BadSource));
        }
        if self.view.own.contains(&source) {
            return Err(Refusal::drop(DropReason::Loop));
        }
        let mut question = self.question(packet, ConnState::New);
        self.pass_arrival(frame, &mut question)?;
        self.ask_input(frame, &mut question, tuple)?;
        Ok(Outcome::Passes)
    }

    /// Refuses what comes from where, or goes to where, no packet of the wire's may.
    fn check_ends(&self, tuple: &Tuple) -> Result<(), Refusal> {
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
    fn may_pick_up(&self, packet: &Packet, local: Option<&Registration>, is_proxys: bool) -> bool {
        let is_reset = packet.tcp().is_some_and(|tcp| tcp.flags.any(TcpFlags::RST));
        local.is_none_or(Registration::is_mark_only) && !(is_reset && is_proxys)
    }

    /// Whether proxies that rules name listen at an endpoint.
    pub(crate) fn is_endpoint_of_rules(&self, proto: Protocol, at: Endpoint) -> bool {
        has_ports(proto) && self.view.is_proxy(proto, at)
    }

    /// Takes a connection to a registered foreign endpoint.
    fn listen(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        to: &Registration,
    ) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        if packet.tcp().is_some_and(|tcp| !tcp.flags.opens()) {
            return Err(Refusal::drop(DropReason::NoFlow));
        }
        whole(packet)?;
        if !self.view.own.contains(&to.local.addr) {
            return Err(Refusal::reset(DropReason::ProxyNotLocal));
        }
        let mut question = self.question(packet, ConnState::New);
        self.pass_arrival(frame, &mut question)?;
        self.ask_proxys_input(frame, &mut question, to.local)?;
        let cause = Cause::taken(Kind::Listen, to);
        self.lead_to(cause, tuple, to.local).map(Outcome::Flow)
    }

    /// Whether a connection is led to a proxy, of which its rule says what to do `otherwise`.
    fn is_led(
        &self,
        proto: Protocol,
        to: Endpoint,
        otherwise: NoListener,
    ) -> Result<bool, Refusal> {
        match otherwise {
            // There the kernel says that nobody listens.
            NoListener::Reject => Ok(true),
            NoListener::Accept => Ok(self.view.is_listening(proto, to)),
            NoListener::Drop if self.view.is_listening(proto, to) => Ok(true),
            NoListener::Drop => Err(Refusal::drop(DropReason::NoListener)),
        }
    }

    /// Takes a connection that a rule leads to a proxy. A datagram's flow belongs to the proxy's
    /// registration, if there is one, and goes with it.
    fn redirect(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        question: &mut Question,
        to: Endpoint,
    ) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        whole(packet)?;
        if !self.view.own.contains(&to.addr) {
            return Err(Refusal::reset(DropReason::ProxyNotLocal));
        }
        self.ask_zones(frame, question, tuple, to)?;
        self.ask_proxys_input(frame, question, to)?;
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

    /// Asks INPUT about a packet that a rule or a registration has taken.
    fn ask_proxys_input(
        &self,
        frame: &[u8],
        question: &mut Question,
        proxy: Endpoint,
    ) -> Result<(), Refusal> {
        // No rule can take it out of tracking: its answers have to be translated.
        question.state = ConnState::New;
        question.is_tproxy = true;
        question.is_dnat = true;
        let to = Tuple {
            dst: proxy,
            ..question.tuple
        };
        self.ask_input(frame, question, &to)
    }
}

impl Packet {
    /// Whether a packet for one host came to all, or many, of a link. A host must not take it
    /// for its own (RFC 1122 3.3.6), far less answer it.
    pub(crate) fn is_stray_copy(&self, view: &View) -> bool {
        self.side != Side::Host
            && is_for_many(self.headers.mac_dst)
            && !view.is_group(self.headers.tuple.dst.addr)
    }
}

/// Whether a frame is addressed to a group of stations.
const fn is_for_many(mac: MacAddr) -> bool {
    let MacAddr([first, ..]) = mac;
    first & 1 != 0
}

/// An address that no single host has.
fn is_nobody(addr: Ipv4Addr) -> bool {
    addr.is_multicast() || addr.is_broadcast() || addr.is_loopback() || addr.is_unspecified()
}
