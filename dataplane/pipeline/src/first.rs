//! First packets: what no flow claims is asked of the rules.

use policy::{Decision, FirstPacket};
use tables::{FlowKey, Hit, InsertError, Kind, NewFlow, Side};
use wire::{Endpoint, Protocol, TcpFlags, Tuple};

use crate::batch::{Frames, Packet, Stage, Verdict};
use crate::counters::Event;
use crate::drops::{DropExample, DropReason};

/// How many source ports are tried to tell two connections apart. With half of all ports
/// taken, all of them fail once in 2^64 connections.
const PORT_TRIES: u32 = 64;
/// The first port that a changed source port may get (RFC 6056 3.2).
const FIRST_FREE_PORT: u16 = 1024;

impl Stage<'_> {
    /// Judges a packet that belongs to no flow.
    pub(crate) fn first(
        &mut self,
        frames: &mut impl Frames,
        at: usize,
        packet: &Packet,
    ) -> Verdict {
        let outcome = match packet.side {
            Side::Wire => self.first_from_wire(packet),
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
        let src = tuple.src.addr;
        if src.is_multicast() || src.is_broadcast() || src.is_loopback() || src.is_unspecified() {
            return Err(Refusal::drop(DropReason::BadSource));
        }
        if self.view.own.contains(&src) {
            return Err(Refusal::reset(DropReason::Loop));
        }
        let (is_own, dst) = (self.view.own.contains(&tuple.dst.addr), tuple.dst.addr);
        if dst.is_multicast() || dst.is_broadcast() || dst.is_loopback() || dst.is_unspecified() {
            return Err(Refusal::drop(DropReason::BadDestination));
        }
        // A connection to the box itself that is older than this daemon is picked up; transit in
        // mid-stream cannot be: which mapping it had is not known. A reset is not worth a flow,
        // and without one must not reach a proxy: another connection may be shown there under
        // this name.
        let is_mid_stream = packet.tcp().is_some_and(|tcp| !tcp.flags.opens());
        let is_reset = packet.tcp().is_some_and(|tcp| tcp.flags.any(TcpFlags::RST));
        let to_proxy = self.view.is_proxy(tuple.proto, tuple.dst);
        if is_mid_stream && (!is_own || (is_reset && to_proxy)) {
            return Err(Refusal::drop(DropReason::NoFlow));
        }
        if packet.is_icmp_error() && !is_own {
            return Err(Refusal::drop(DropReason::IcmpNoFlow));
        }
        let first = FirstPacket {
            port: packet.port,
            tuple: *tuple,
        };
        let bytes = u64::from(packet.headers.packet_bytes());
        let hits = &self.view.rule_hits;
        let decision = self
            .view
            .policy
            .decide(&first, |rule| hits.count(self.worker, rule, bytes));
        match decision {
            // A proxy can answer only what has ports.
            Decision::Redirect(_) | Decision::NoLocalAddress if !has_ports(tuple.proto) => {
                self.unclaimed(tuple, is_own)
            }
            Decision::Redirect(_) | Decision::NoLocalAddress if is_mid_stream => {
                Err(Refusal::drop(DropReason::NoFlow))
            }
            Decision::Redirect(to) if self.view.own.contains(&to.addr) => self.redirect(tuple, to),
            Decision::Redirect(_) => Err(Refusal::reset(DropReason::ProxyNotLocal)),
            Decision::NoLocalAddress => Err(Refusal::reset(DropReason::NoLocalAddress)),
            Decision::Drop => Err(Refusal::drop(DropReason::RuleDrop)),
            Decision::Unclaimed => self.unclaimed(tuple, is_own),
        }
    }

    fn unclaimed(&mut self, tuple: &Tuple, is_own: bool) -> Result<Outcome, Refusal> {
        if is_own {
            self.deliver(tuple)
        } else {
            Err(Refusal::drop(DropReason::ForwardDenied))
        }
    }

    /// A connection that the box opens from a taken endpoint to elsewhere is let out as it
    /// is. Any other packet from there answers a flow that has gone, and must not leave
    /// untranslated.
    fn first_from_stack(&mut self, packet: &Packet) -> Result<Outcome, Refusal> {
        let tuple = &packet.headers.tuple;
        let opens = packet.tcp().is_some_and(|tcp| tcp.flags.opens());
        let goes_out =
            self.view.own.contains(&tuple.src.addr) && !self.view.own.contains(&tuple.dst.addr);
        if !opens || !goes_out {
            return Err(Refusal::drop(DropReason::NoFlowFromStack));
        }
        let orig = FlowKey::new(Side::Host, tuple);
        let reply = FlowKey::new(Side::Wire, &tuple.reversed());
        self.insert(Kind::Local, orig, reply).map(Outcome::Flow)
    }

    fn redirect(&mut self, tuple: &Tuple, to: Endpoint) -> Result<Outcome, Refusal> {
        self.insert_distinct(Kind::Redirect, tuple, to)
            .map(Outcome::Flow)
    }

    /// Delivers what is for the box itself. Where a proxy listens this makes a flow, since
    /// the answers come through the worker.
    fn deliver(&mut self, tuple: &Tuple) -> Result<Outcome, Refusal> {
        let has_flow = has_ports(tuple.proto) && self.view.is_proxy(tuple.proto, tuple.dst);
        if !has_flow {
            return Ok(Outcome::Deliver);
        }
        self.insert_distinct(Kind::Local, tuple, tuple.dst)
            .map(Outcome::Flow)
    }

    /// Makes the flow of `tuple` to the local endpoint `to`. The endpoint sees the true
    /// source port, or another one where that would be a second connection of one name.
    fn insert_distinct(&mut self, kind: Kind, tuple: &Tuple, to: Endpoint) -> Result<Hit, Refusal> {
        let orig = FlowKey::new(Side::Wire, tuple);
        let mut shown = tuple.src;
        for tried in 0..=PORT_TRIES {
            let reply = Tuple {
                proto: tuple.proto,
                src: to,
                dst: shown,
            };
            match self.insert(kind, orig, FlowKey::new(Side::Host, &reply)) {
                Err(Refusal {
                    reason: DropReason::NoPort,
                    ..
                }) => shown.port = self.next_port(),
                Ok(hit) => {
                    if tried > 0 {
                        self.counters.count(Event::PortChanged);
                    }
                    return Ok(hit);
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::drop(DropReason::NoPort))
    }

    fn insert(&mut self, kind: Kind, orig: FlowKey, reply: FlowKey) -> Result<Hit, Refusal> {
        let new = NewFlow {
            orig,
            reply,
            kind,
            generation: self.view.policy.generation(),
        };
        match self.flows.insert(&new, self.now_ns) {
            Ok(hit) => {
                self.flows_changed = true;
                self.counters.count(match kind {
                    Kind::Redirect => Event::Redirected,
                    Kind::Local => Event::Local,
                });
                Ok(hit)
            }
            // Another worker was first.
            Err(InsertError::Exists(hit)) => Ok(hit),
            Err(InsertError::ReplyTaken) => Err(Refusal::drop(DropReason::NoPort)),
            Err(InsertError::Full) => Err(Refusal::drop(DropReason::TableFull)),
        }
    }

    /// An unpredictable port of the dynamic class (splitmix64 over a secret seed).
    fn next_port(&mut self) -> u16 {
        *self.port_seed = self.port_seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *self.port_seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let span = u64::from(u16::MAX - FIRST_FREE_PORT) + 1;
        FIRST_FREE_PORT + (z % span) as u16
    }
}

const fn has_ports(proto: Protocol) -> bool {
    matches!(proto, Protocol::TCP | Protocol::UDP)
}

/// Where a first packet goes.
enum Outcome {
    /// Into a flow, made or found.
    Flow(Hit),
    /// To the stack, as it is, without a flow.
    Deliver,
}

/// A first packet that goes nowhere.
struct Refusal {
    reason: DropReason,
    /// Whether its sender is told by a reset.
    reset: bool,
}

impl Refusal {
    const fn drop(reason: DropReason) -> Self {
        Self {
            reason,
            reset: false,
        }
    }

    const fn reset(reason: DropReason) -> Self {
        Self {
            reason,
            reset: true,
        }
    }
}
