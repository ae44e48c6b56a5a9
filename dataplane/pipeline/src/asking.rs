//! Asking the rules about a packet, and hearing what they have matched.

use std::cell::Cell;

use policy::{Arrival, ConnState, Hook, Packet as Question, RuleId, Sink};
use tables::{Hit, Kind, OwnerId, Side};
use wire::{Endpoint, TcpFlags, Transport, Tuple};

use crate::batch::{Packet, Stage};
use crate::counters::{Counters, Event, RuleHits};
use crate::drops::{DropReason, head_of};
use crate::logs::{LogKind, LogRecord, Logs};
use crate::refusing::Refusal;

/// Counts what rules match and keeps what they want logged.
pub(crate) struct Hearing<'a> {
    hits: &'a RuleHits,
    worker: usize,
    logs: &'a Logs,
    counters: &'a Counters,
    generation: u32,
    hook: Option<Hook>,
    frame: &'a [u8],
    asked_limit: &'a Cell<bool>,
}

impl Sink for Hearing<'_> {
    fn matched(&mut self, rule: RuleId, packet: &Question) {
        self.hits.count(self.worker, rule, u64::from(packet.bytes));
    }

    fn log(&mut self, rule: RuleId, packet: &Question) {
        self.record(LogKind::Rule(rule), packet);
    }

    fn asked_limit(&mut self) {
        self.asked_limit.set(true);
    }
}

impl Hearing<'_> {
    pub(crate) fn record(&self, what: LogKind, packet: &Question) {
        let has_room = self.logs.put(LogRecord {
            what,
            generation: self.generation,
            hook: self.hook,
            at_ns: packet.now_ns,
            in_port: packet.in_port,
            out_port: packet.out_port,
            mark: packet.mark,
            frame_bytes: self.frame.len() as u32,
            head: head_of(self.frame),
        });
        if !has_room {
            self.counters.count(Event::LogsLost);
        }
    }
}

impl Stage<'_> {
    pub(crate) fn hearing<'b>(&'b self, hook: Option<Hook>, frame: &'b [u8]) -> Hearing<'b> {
        Hearing {
            hits: &self.view.rule_hits,
            worker: self.worker,
            logs: self.logs,
            counters: self.counters,
            generation: self.view.policy.generation(),
            hook,
            frame,
            asked_limit: &self.asked_limit,
        }
    }

    /// The packet as the rules see it where it comes in.
    pub(crate) fn question(&self, packet: &Packet, state: ConnState) -> Question {
        let headers = &packet.headers;
        let is_from_wire = packet.side != Side::Host;
        let mut question = Question {
            out_port: (!is_from_wire).then_some(packet.port),
            source_mac: is_from_wire.then_some(headers.mac_src.0),
            state,
            owners: packet.owners,
            bytes: u32::from(headers.packet_bytes()),
            now_ns: self.now_ns,
            ..Question::first(packet.port, headers.tuple)
        };
        if !is_from_wire {
            question.in_port = None;
        }
        match headers.transport {
            Transport::Tcp(tcp) => question.tcp_flags = Some(tcp.flags.0),
            Transport::Icmp(icmp) => question.icmp = Some((icmp.kind, icmp.code)),
            Transport::Udp | Transport::Other => {}
        }
        question
    }

    /// The same of a packet that has a flow, or is an error about one.
    pub(crate) fn question_of(&self, packet: &Packet, hit: &Hit, state: ConnState) -> Question {
        let kind = hit.flow.kind;
        Question {
            is_tproxy: kind != Kind::Local || self.is_marked(hit),
            is_dnat: matches!(kind, Kind::Redirect | Kind::Listen),
            is_snat: kind == Kind::Connect,
            ..self.question(packet, state)
        }
    }

    /// Whether a flow that changes nothing is that of a socket which is registered for this:
    /// to be marked. What goes to or from a registered socket besides is nothing special.
    fn is_marked(&self, hit: &Hit) -> bool {
        let orig = hit.flow.orig;
        let own = if orig.side() == Side::Host {
            orig.tuple()
        } else {
            hit.flow.reply.tuple()
        };
        // A table that is being changed marks nothing.
        hit.flow.owner != OwnerId::NOBODY
            && self
                .registered_at(own.proto, own.src, own.dst)
                .is_ok_and(|found| found.is_some_and(|own| own.is_mark_only()))
    }

    /// How a packet stands that has no flow. `may_begin_anywhere`: a connection of the box's own
    /// may be older than the flows and is picked up in mid-stream; transit cannot be.
    pub(crate) fn fresh_state(&self, packet: &Packet, may_begin_anywhere: bool) -> ConnState {
        let is_new = match packet.headers.transport {
            Transport::Tcp(tcp) => {
                let goes_on = tcp.flags.any(TcpFlags::ACK)
                    && !tcp.flags.any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST);
                tcp.flags.opens() || (goes_on && may_begin_anywhere)
            }
            Transport::Icmp(icmp) => icmp.is_request(),
            Transport::Udp | Transport::Other => true,
        };
        // Without rules that tell states apart there is one.
        if is_new || !self.judges {
            ConnState::New
        } else {
            ConnState::Invalid
        }
    }

    /// Asks what comes before the packet's way is known.
    pub(crate) fn ask_arrival(
        &self,
        frame: &[u8],
        question: &mut Question,
        is_taken: bool,
    ) -> Arrival {
        let mut hearing = self.hearing(None, frame);
        self.view.policy.arrive(question, is_taken, &mut hearing)
    }

    /// The same, where nothing but a stop matters.
    pub(crate) fn pass_arrival(
        &self,
        frame: &[u8],
        question: &mut Question,
    ) -> Result<(), Refusal> {
        if !self.judges {
            return Ok(());
        }
        let source = question.tuple.dst.addr;
        match self.ask_arrival(frame, question, true) {
            Arrival::Stop(stop) => Err(Refusal::stopped(stop, DropReason::RuleDrop, source)),
            Arrival::Goes | Arrival::Redirect { .. } | Arrival::NoLocalAddress => Ok(()),
        }
    }

    /// Asks INPUT about a packet that would reach the box as `to`. To its sender the one that it
    /// wrote to speaks.
    pub(crate) fn ask_input(
        &self,
        frame: &[u8],
        question: &mut Question,
        to: &Tuple,
    ) -> Result<(), Refusal> {
        if !self.judges {
            return Ok(());
        }
        let source = question.tuple.dst.addr;
        question.tuple = *to;
        let mut hearing = self.hearing(Some(Hook::FilterInput), frame);
        self.view
            .policy
            .input(question, &mut hearing)
            .map_err(|stop| Refusal::stopped(stop, DropReason::InputDenied, source))
    }

    /// Asks FORWARD about transit, which goes nowhere in any case: if FORWARD would let it,
    /// `otherwise` says why.
    pub(crate) fn ask_forward(
        &self,
        frame: &[u8],
        packet: &Packet,
        question: &mut Question,
        otherwise: DropReason,
    ) -> Refusal {
        let port = self.view.port(packet.port);
        let source = port
            .and_then(|port| port.first_address)
            .unwrap_or(question.tuple.dst.addr);
        let mut hearing = self.hearing(Some(Hook::FilterForward), frame);
        match self.view.policy.forward(question, &mut hearing) {
            Ok(()) => Refusal::drop(otherwise),
            Err(stop) => Refusal::stopped(stop, DropReason::ForwardDenied, source),
        }
    }

    /// Asks OUTPUT and what follows about a packet of the box's.
    pub(crate) fn ask_leave(&self, frame: &[u8], question: &mut Question) -> Result<(), Refusal> {
        if !self.judges {
            return Ok(());
        }
        let source = question.tuple.dst.addr;
        let mut hearing = self.hearing(Some(Hook::FilterOutput), frame);
        self.view
            .policy
            .leave(question, &mut hearing)
            .map_err(|stop| Refusal::stopped(stop, DropReason::OutputDenied, source))
    }

    /// Asks the zones whether a connection may be led to this proxy.
    pub(crate) fn ask_zones(
        &self,
        frame: &[u8],
        question: &Question,
        client: &Tuple,
        proxy: Endpoint,
    ) -> Result<(), Refusal> {
        let (src, dst) = (client.src.addr, client.dst.addr);
        let zones = self.view.policy.zones();
        zones
            .judge(src, question.in_port, dst, proxy)
            .map_err(|denial| {
                let hearing = self.hearing(Some(Hook::TproxyPrerouting), frame);
                hearing.record(LogKind::Zone(denial), question);
                Refusal::reset(DropReason::ZoneDenied)
            })
    }
}
