//! The stages of a batch: parse and key all, look all up, then carry each.

use std::cell::Cell;
use std::sync::Arc;

use arc_swap::Cache;
use policy::{Policy, PortId};
use tables::{Direction, FlowKey, FlowTable, Hit, Registrations, Side};
use wire::{Fragment, Headers, TcpHeader, Transport, Tuple};

use crate::counters::{Counters, Event};
use crate::drops::{DropExample, DropReason, ExampleClock, Examples};
use crate::judging::{Judgement, settled};
use crate::logs::Logs;
use crate::marks::{Mark, Owners};
use crate::refusing::Allowance;
use crate::view::{SharedView, View};

/// Frames that a batch can hold.
pub const BATCH: usize = 64;

/// The queue that a frame came in by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ingress {
    /// A NIC.
    Port(PortId),
    /// The host port.
    HostPort,
}

impl Ingress {
    /// The side that most of its frames come from.
    const fn side(self) -> Side {
        match self {
            Self::Port(_) => Side::Wire,
            Self::HostPort => Side::Host,
        }
    }
}

/// What becomes of a frame. The frame has been changed as it needs to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// Send it by this NIC.
    Wire(PortId),
    /// Hand it to the stack by the host port.
    Host,
    /// Give the frame back; it is counted already.
    Drop(DropReason),
}

/// A batch of received frames, wherever they live.
pub trait Frames {
    /// How many there are; those past [`BATCH`] are not looked at.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The bytes of one frame; nothing if there is no such frame.
    fn bytes(&mut self, at: usize) -> &mut [u8];
    /// Cuts a frame to `len` bytes, which is at most what it has.
    fn shorten(&mut self, at: usize, len: usize);
    /// Makes a frame `len` bytes long, or as long as its buffer lets it be; what is in the
    /// new bytes does not matter. Called with a little more than the frame has, for an answer
    /// that quotes it. Frames that cannot get longer stay as they are.
    fn lengthen(&mut self, at: usize, len: usize);
}

/// A frame that has been read.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) port: PortId,
    pub(crate) side: Side,
    /// Whether the stack's socket that sent it is known not to be registered.
    pub(crate) is_stranger: bool,
    /// Whether the stack sent it from an endpoint that nobody has taken, as far as the program
    /// at the NIC knew.
    pub(crate) is_box: bool,
    /// Which owner tests of the rules hold for its sender.
    pub(crate) owners: u8,
    pub(crate) headers: Headers,
}

impl Packet {
    pub(crate) const fn tcp(&self) -> Option<&TcpHeader> {
        match &self.headers.transport {
            Transport::Tcp(header) => Some(header),
            Transport::Udp | Transport::Icmp(_) | Transport::Other => None,
        }
    }

    /// Whether it is a SYN that opens a connection.
    pub(crate) fn opens(&self) -> bool {
        self.tcp().is_some_and(|tcp| tcp.flags.opens())
    }

    pub(crate) const fn is_icmp_error(&self) -> bool {
        matches!(self.headers.transport, Transport::Icmp(icmp) if icmp.is_error())
    }

    /// The tuple whose flow decides: the packet's own, or for an ICMP error that of a
    /// packet which would answer the one that it is about.
    pub(crate) fn flow_key(&self) -> FlowKey {
        let tuple = match self.headers.transport {
            Transport::Icmp(icmp) => icmp.embedded.map(Tuple::reversed),
            Transport::Tcp(_) | Transport::Udp | Transport::Other => None,
        };
        FlowKey::new(self.side, &tuple.unwrap_or(self.headers.tuple))
    }

    /// Where an ICMP error about a packet of the flow goes, and as whose. From a router on the
    /// way it keeps its source; from the box itself, which answers for the address that the
    /// client believes in, it takes that one.
    pub(crate) fn error_for(&self, hit: &Hit) -> Tuple {
        let (mut outer, about) = (self.headers.tuple, hit.translated());
        if self.side == Side::Host {
            outer.src.addr = about.src.addr;
        }
        outer.dst.addr = about.dst.addr;
        outer
    }
}

/// What the rules of one generation are asked about at all.
#[derive(Clone, Copy)]
struct Scope {
    generation: u32,
    judges: bool,
    guards: bool,
    /// Whether its answers depend on who sends.
    tells_owners: bool,
    /// The same of the sender's address on the link.
    tells_macs: bool,
}

impl Scope {
    fn of(policy: &Policy) -> Self {
        Self {
            generation: policy.generation(),
            judges: policy.judges(),
            guards: policy.guards(),
            tells_owners: !policy.owners().is_empty(),
            tells_macs: policy.tells_macs(),
        }
    }
}

/// One worker's pipeline.
pub struct Pipeline {
    flows: Arc<FlowTable>,
    registrations: Arc<Registrations>,
    view: Cache<SharedView, Arc<View>>,
    counters: Arc<Counters>,
    examples: Arc<Examples>,
    example_clock: ExampleClock,
    logs: Arc<Logs>,
    allowance: Allowance,
    scope: Scope,
    /// Which worker this is: the index of its rule counters.
    worker: usize,
    /// Feeds the choice of ports; stepped, never drawn from the system.
    port_seed: u64,
}

/// What the last stage works on: the pipeline's parts, borrowed apart.
pub(crate) struct Stage<'a> {
    pub(crate) flows: &'a FlowTable,
    pub(crate) registrations: &'a Registrations,
    pub(crate) view: &'a View,
    pub(crate) counters: &'a Counters,
    pub(crate) worker: usize,
    pub(crate) port_seed: &'a mut u64,
    pub(crate) now_ns: u64,
    pub(crate) logs: &'a Logs,
    pub(crate) allowance: &'a mut Allowance,
    /// Whether the rules can say anything but where connections are led.
    pub(crate) judges: bool,
    /// Whether the rules want to know all that the box itself does.
    pub(crate) guards: bool,
    /// Whether the rules' answers depend on who sends on the link.
    pub(crate) tells_macs: bool,
    /// The word of a flow's direction that the rules need not be asked about, but for who sends.
    pub(crate) settled: u64,
    /// Whether the rules have asked a limit since this was cleared.
    pub(crate) asked_limit: Cell<bool>,
    examples: &'a Examples,
    example_clock: &'a mut ExampleClock,
    /// Whether this batch has made or removed a flow: what was looked up before may be wrong then.
    pub(crate) flows_changed: bool,
}

impl Pipeline {
    /// The counters, for the one who moves the frames and may have to drop one.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The pipeline of worker number `worker`; `port_seed` must be unpredictable (RFC 6056).
    #[must_use]
    #[expect(
        clippy::too_many_arguments,
        reason = "what it shares, each of a type of its own"
    )]
    pub fn new(
        flows: Arc<FlowTable>,
        registrations: Arc<Registrations>,
        view: SharedView,
        counters: Arc<Counters>,
        examples: Arc<Examples>,
        logs: Arc<Logs>,
        worker: usize,
        port_seed: u64,
    ) -> Self {
        let scope = Scope::of(&view.load().policy);
        let view = Cache::new(view);
        Self {
            worker,
            flows,
            registrations,
            view,
            counters,
            examples,
            example_clock: ExampleClock::new(),
            logs,
            allowance: Allowance::default(),
            scope,
            port_seed,
        }
    }

    /// Judges a batch that came in by one queue. `verdicts` gets one verdict per frame, in order.
    pub fn process(
        &mut self,
        frames: &mut impl Frames,
        ingress: Ingress,
        now_ns: u64,
        verdicts: &mut [Verdict; BATCH],
    ) {
        let count = frames.len().min(BATCH);
        let view = self.view.load();
        if self.scope.generation != view.policy.generation() {
            self.scope = Scope::of(&view.policy);
        }
        let scope = self.scope;
        let mut packets = [const { None }; BATCH];
        let mut keys = [const { None }; BATCH];
        let mut hits = [const { None }; BATCH];

        for (at, (packet, (key, verdict))) in packets
            .iter_mut()
            .zip(keys.iter_mut().zip(verdicts.iter_mut()))
            .take(count)
            .enumerate()
        {
            match read(view, scope, frames.bytes(at), ingress) {
                Ok(read) => {
                    *key = Some(read.flow_key());
                    *packet = Some(read);
                }
                Err(reason) => *verdict = Verdict::Drop(reason),
            }
        }

        let (Some(some_keys), Some(some_hits)) = (keys.get(..count), hits.get_mut(..count)) else {
            return;
        };
        self.flows.lookup_batch(some_keys, some_hits);

        let mut stage = Stage {
            flows: &self.flows,
            registrations: &self.registrations,
            view,
            counters: &self.counters,
            worker: self.worker,
            port_seed: &mut self.port_seed,
            now_ns,
            logs: &self.logs,
            allowance: &mut self.allowance,
            judges: scope.judges,
            guards: scope.guards,
            tells_macs: scope.tells_macs,
            settled: settled(scope.generation),
            asked_limit: Cell::new(false),
            examples: &self.examples,
            example_clock: &mut self.example_clock,
            flows_changed: false,
        };
        for (at, ((packet, hit), verdict)) in packets
            .iter()
            .zip(&hits)
            .zip(verdicts.iter_mut())
            .take(count)
            .enumerate()
        {
            if let Some(packet) = packet {
                *verdict = stage.judge(frames, at, packet, *hit);
            }
            match *verdict {
                Verdict::Wire(_) => self.counters.count(Event::ToWire),
                Verdict::Host => self.counters.count(Event::ToStack),
                Verdict::Drop(reason) => {
                    let example = || DropExample::new(reason, now_ns, frames.bytes(at));
                    stage.count_drop(reason, example);
                }
            }
            // Where an unreadable frame came from, only its queue can tell.
            let side = packet.map_or(ingress.side(), |packet| packet.side);
            self.counters.count(match side {
                Side::Host => Event::FromStack,
                Side::Wire | Side::OneWay => Event::FromWire,
            });
        }
    }
}

/// Finds out what a frame is and where it came from.
fn read(
    view: &View,
    scope: Scope,
    frame: &mut [u8],
    ingress: Ingress,
) -> Result<Packet, DropReason> {
    let mark = match ingress {
        Ingress::Port(port) => Mark::FromWire(port),
        Ingress::HostPort => view.marks.read(frame).ok_or(DropReason::Unmarked)?,
    };
    let (side, port, owners) = match mark {
        Mark::FromWire(port) => (Side::Wire, port, Owners::default()),
        Mark::FromStack { port, owners }
        | Mark::FromStranger { port, owners }
        | Mark::FromBox { port, owners } => (Side::Host, port, owners),
    };
    if view.port(port).is_none() {
        return Err(DropReason::NoPortThere);
    }
    if side == Side::Host && scope.tells_owners && owners.epoch != view.epoch {
        return Err(DropReason::RulesChanging);
    }
    let headers = Headers::parse(frame).map_err(DropReason::of)?;
    match headers.fragment {
        Fragment::Whole => {}
        // Its other parts do not come here where the rules want to know of all that the box does.
        Fragment::First if scope.guards => {}
        Fragment::First | Fragment::Later => return Err(DropReason::Fragment),
    }
    wire::complete_partial_checksum(frame, &headers);
    Ok(Packet {
        port,
        side,
        is_stranger: matches!(mark, Mark::FromStranger { .. }),
        is_box: matches!(mark, Mark::FromBox { .. }),
        owners: owners.bits,
        headers,
    })
}

impl Stage<'_> {
    fn judge(
        &mut self,
        frames: &mut impl Frames,
        at: usize,
        packet: &Packet,
        hit: Option<Hit>,
    ) -> Verdict {
        let hit = if self.flows_changed {
            self.flows.lookup(&packet.flow_key())
        } else {
            hit
        };
        let hit = match self.standing(packet, hit) {
            Ok(Some(hit)) => hit,
            Ok(None) => return self.first(frames, at, packet),
            Err(reason) => return Verdict::Drop(reason),
        };
        match self.judge_known(frames.bytes(at), packet, &hit) {
            // An ICMP error is no packet of the flow that it is about: never counted.
            Ok(Judgement::Goes) if packet.is_icmp_error() => {
                self.carry_icmp_error(frames.bytes(at), packet, &hit)
            }
            Ok(Judgement::Goes) => self.carry(frames.bytes(at), packet, &hit),
            Ok(Judgement::Revoked) => self.first(frames, at, packet),
            Err(refusal) => self.refuse(frames, at, packet, refusal),
        }
    }

    /// Counts a dropped frame, and keeps it as an example if one is due.
    pub(crate) fn count_drop(&mut self, reason: DropReason, example: impl FnOnce() -> DropExample) {
        self.counters.count_drop(reason);
        if self.example_clock.due(reason, self.now_ns) {
            self.examples.put(example());
        }
    }

    /// Carries a packet of a known flow: counted, rewritten, sent where its other side is.
    pub(crate) fn carry(&self, frame: &mut [u8], packet: &Packet, hit: &Hit) -> Verdict {
        let bytes = u64::from(packet.headers.packet_bytes());
        self.flows.record(hit, self.now_ns, bytes, packet.tcp());
        wire::rewrite(frame, &packet.headers, &hit.translated());
        self.send(frame, packet.port, hit.leaves_by())
    }

    /// Translates an ICMP error about a packet of a flow (RFC 5508 REQ-4, REQ-5). It neither
    /// refreshes nor ends the flow (REQ-6).
    fn carry_icmp_error(&self, frame: &mut [u8], packet: &Packet, hit: &Hit) -> Verdict {
        let embedded = match hit.direction {
            Direction::Original => hit.flow.reply.tuple(),
            Direction::Reply => hit.flow.orig.tuple(),
        };
        let outer = packet.error_for(hit);
        wire::rewrite_icmp_error(frame, &packet.headers, &outer, &embedded);
        self.counters.count(Event::IcmpTranslated);
        self.send(frame, packet.port, hit.leaves_by())
    }

    /// Addresses a finished frame to the stack or to the wire.
    pub(crate) fn send(&self, frame: &mut [u8], port: PortId, by: Side) -> Verdict {
        match (by, self.view.port(port)) {
            (Side::Host, Some(_)) => {
                wire::set_destination(frame, self.view.marks.to_stack(port));
                Verdict::Host
            }
            (Side::Wire | Side::OneWay, Some(view)) => {
                wire::set_source(frame, view.mac);
                Verdict::Wire(port)
            }
            (_, None) => Verdict::Drop(DropReason::NoPortThere),
        }
    }
}
