//! Batches of frames go through a pipeline that redirects the web to a proxy and where
//! proxies' sockets are registered, without rules that judge and with such rules, which come
//! and go.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pipeline::{
    BATCH, Counters, DropReason, Event, Frames, Ingress, Mark, Marks, Pipeline, PortId, PortView,
    RuleHits, SharedView, Verdict, View,
};
use policy::{
    Action, ChainId, Condition, ConnState, Entry, Hook, LocalPort, NoListener, Policy, PortRange,
    Program, Quality, RejectWith, Rule, StateSet, Test,
};
use tables::{FlowTable, Lookup, Registrations};
use wire::{Endpoint, Headers, MacAddr, Protocol, Transport, Tuple};

use crate::frames::{Input, repair};
use crate::sockets::{self, CALLER, LISTENER, Sockets};

pub(crate) const OWN: [Ipv4Addr; 2] = [
    Ipv4Addr::new(192, 168, 1, 1),
    Ipv4Addr::new(198, 51, 100, 1),
];
const PROXY: Endpoint = Endpoint::new(OWN[0], 3128);
const PORTS: [MacAddr; 2] = [
    MacAddr([2, 0, 0, 0, 0, 0x10]),
    MacAddr([2, 0, 0, 0, 0, 0x11]),
];
const MARKS: Marks = Marks::new([0xa1, 0xb2, 0xc3]);
const FLOWS: usize = 64;

/// The input: frames, each with a byte that says where it comes from, whether its sender is
/// registered or from no taken endpoint, and whether a socket is registered or goes before it, or
/// other rules come, one for the time since the last one, and two for its length.
///
/// # Panics
/// If a frame gets no verdict, a counter does not agree, or a frame would leave by a way that
/// it must not take.
pub fn batches(bytes: &[u8]) {
    let flows = Arc::new(FlowTable::new(FLOWS, sockets::OWNERS, 7));
    let registrations = Arc::new(Registrations::new(8, 7));
    let mut registered = Sockets::open(&flows, &registrations);
    let counters = Arc::<Counters>::default();
    let views: SharedView = Arc::new(ArcSwap::from_pointee(view(1)));
    let mut pipeline = Pipeline::new(
        Arc::clone(&flows),
        Arc::clone(&registrations),
        Arc::clone(&views),
        Arc::clone(&counters),
        Arc::default(),
        Arc::default(),
        0,
        42,
    );
    let mut input = Input(bytes);
    let mut now_ns = 1_000_000_000;
    let mut batch = Batch::default();
    let mut senders = Senders {
        registrations: &registrations,
        begun: HashSet::new(),
    };
    let mut came = 0;
    while !input.is_empty() {
        let [from, time, hi, lo] = input.take();
        let ingress = ingress(from);
        let is_change = from & 0x40 != 0;
        let is_full = batch.frames.len() == BATCH;
        if ingress != batch.ingress || is_full || time > 0 || is_change {
            came += batch.frames.len() as u64;
            batch.carry(&mut pipeline, now_ns, &flows, &mut senders);
            batch.ingress = ingress;
        }
        if is_change && from & 0x80 != 0 {
            let generation = views.load().policy.generation() + 1;
            views.store(Arc::new(view(generation)));
        } else if is_change {
            registered.toggle(usize::from(from >> 3 & 3), &flows, &registrations);
            registrations.set_diverted(registrations.counts().0);
        }
        now_ns += u64::from(time) * 100_000_000;
        let mut frame = input
            .rest(usize::from(u16::from_be_bytes([hi, lo])))
            .to_vec();
        dress(&mut frame, from);
        batch.frames.push(frame);
    }
    came += batch.frames.len() as u64;
    batch.carry(&mut pipeline, now_ns, &flows, &mut senders);
    balance(&counters, came);
}

fn ingress(from: u8) -> Ingress {
    match from & 3 {
        0 | 1 => Ingress::Port(PortId(from & 1)),
        _ => Ingress::HostPort,
    }
}

/// Gives a frame the MAC addresses that it would have there, and the right IPv4 checksum;
/// unless the byte says that it comes as it is.
fn dress(frame: &mut [u8], from: u8) {
    if from & 0x80 != 0 {
        return;
    }
    let port = PortId(from >> 2 & 1);
    if let Some(macs) = frame.first_chunk_mut::<12>() {
        let (dst, src) = match from & 3 {
            2 if from & 0x30 == 0x30 => (MacAddr([2; 6]), MARKS.from_box(port)),
            2 if from & 0x20 != 0 => (MacAddr([2; 6]), MARKS.from_stranger(port)),
            2 => (MacAddr([2; 6]), MARKS.from_stack(port)),
            3 => (MARKS.from_wire(port), MacAddr([2; 6])),
            port => (PORTS[usize::from(port)], MacAddr([2; 6])),
        };
        let [a, b] = [dst.0, src.0];
        macs.copy_from_slice(&[a, b].concat());
    }
    repair(frame);
}

struct Batch {
    ingress: Ingress,
    frames: Vec<Vec<u8>>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            ingress: Ingress::HostPort,
            frames: Vec::new(),
        }
    }
}

impl Frames for Batch {
    fn len(&self) -> usize {
        self.frames.len()
    }

    fn bytes(&mut self, at: usize) -> &mut [u8] {
        self.frames.get_mut(at).map_or(&mut [], |frame| frame)
    }

    fn shorten(&mut self, at: usize, len: usize) {
        assert!(len <= self.frames[at].len(), "a frame only gets shorter");
        self.frames[at].truncate(len);
    }

    fn lengthen(&mut self, at: usize, len: usize) {
        let frame = &mut self.frames[at];
        frame.resize(len.min(CHUNK_BYTES).max(frame.len()), 0xaa);
    }
}

/// How long a frame may get.
const CHUNK_BYTES: usize = 3840;

impl Batch {
    /// Takes the frames through and empties the batch.
    fn carry(
        &mut self,
        pipeline: &mut Pipeline,
        now_ns: u64,
        flows: &FlowTable,
        senders: &mut Senders<'_>,
    ) {
        // A verdict that the pipeline never gives shows which frame got none.
        let mut verdicts = [Verdict::Drop(DropReason::TxFull); BATCH];
        let before = self.frames.clone();
        let ingress = self.ingress;
        pipeline.process(self, ingress, now_ns, &mut verdicts);
        for (verdict, (before, after)) in verdicts.iter().zip(before.iter().zip(&self.frames)) {
            assert_ne!(*verdict, Verdict::Drop(DropReason::TxFull), "no verdict");
            let mark = mark(ingress, before);
            let passes = check(*verdict, mark, after, pipeline.counters());
            let verdict = if passes { verdict } else { &REFUSED };
            senders.check(*verdict, mark, before, after);
        }
        sockets::balance(flows);
        let counts = flows.counts();
        assert_eq!(counts.live + counts.resting + counts.free, counts.capacity);
        self.frames.clear();
    }
}

/// What became of a frame whose place an answer to it has taken.
const REFUSED: Verdict = Verdict::Drop(DropReason::RuleReject);

/// Where a frame on the host port came from.
fn mark(ingress: Ingress, frame: &[u8]) -> Option<Mark> {
    MARKS.read(frame).filter(|_| ingress == Ingress::HostPort)
}

const fn is_from_stack(mark: Option<Mark>) -> bool {
    matches!(
        mark,
        Some(Mark::FromStack { .. } | Mark::FromStranger { .. } | Mark::FromBox { .. })
    )
}

/// What registered sockets have sent, and who they are.
struct Senders<'a> {
    registrations: &'a Registrations,
    /// The SYNs: one that is sent again is still that socket's.
    begun: HashSet<(Tuple, u32)>,
}

impl Senders<'_> {
    /// No stranger's packet shows a foreign endpoint, and a registered datagram nothing else.
    fn check(&mut self, verdict: Verdict, mark: Option<Mark>, before: &[u8], after: &[u8]) {
        let Ok(sent) = Headers::parse(before) else {
            return;
        };
        let left = Headers::parse(after).ok().map(|headers| headers.tuple);
        let left = left.filter(|_| matches!(verdict, Verdict::Wire(_)));
        let syn = match sent.transport {
            Transport::Tcp(tcp) if tcp.flags.opens() => Some((sent.tuple, tcp.seq)),
            Transport::Tcp(_) | Transport::Udp | Transport::Icmp(_) | Transport::Other => None,
        };
        match (mark, left) {
            (Some(Mark::FromStranger { .. } | Mark::FromBox { .. }), Some(left)) => {
                let is_again = syn.is_some_and(|syn| self.begun.contains(&syn));
                assert!(
                    is_again || !sockets::SHOWN.contains(&left.src),
                    "a stranger shows {left}"
                );
            }
            (Some(Mark::FromStack { .. }), Some(left)) => {
                let Tuple { proto, src, dst } = sent.tuple;
                let owner = self.registrations.owner(proto, src, dst);
                let is_shown =
                    matches!(owner, Lookup::Found(own) if own.shows_foreign() && left.src == src);
                assert!(proto != Protocol::UDP || !is_shown, "untranslated: {left}");
            }
            _ => {}
        }
        if let (Some(Mark::FromStack { .. }), Some(syn)) = (mark, syn) {
            self.begun.insert(syn);
        }
    }
}

/// Whether it is the frame itself that goes on, and not an answer to it.
fn check(verdict: Verdict, mark: Option<Mark>, after: &[u8], counters: &Counters) -> bool {
    let parsed = || match Headers::parse(after) {
        Ok(headers) => headers,
        Err(error) => panic!("it leaves and does not parse: {error:?}"),
    };
    let port = match verdict {
        Verdict::Drop(_) => return false,
        Verdict::Host => {
            let to = after.first_chunk::<6>().copied().map(MacAddr);
            assert!((0..2).any(|port| to == Some(MARKS.to_stack(PortId(port)))));
            if is_from_stack(mark) {
                assert_refusal(&parsed(), counters);
            }
            return !is_from_stack(mark);
        }
        Verdict::Wire(port) => port,
    };
    let headers = parsed();
    assert_eq!(headers.mac_src, PORTS[usize::from(port.0)]);
    assert_eq!(MARKS.read(after), None, "a mark on the wire");
    if is_from_stack(mark) {
        let is_box = matches!(mark, Some(Mark::FromBox { .. }));
        assert_translated(&headers.tuple, is_box, counters);
        true
    } else {
        // Transit is not forwarded: what came from the wire goes back as a refusal, or stays.
        assert_refusal(&headers, counters);
        false
    }
}

/// What goes back where it came from is a reset, or an ICMP error by a rule.
fn assert_refusal(headers: &Headers, counters: &Counters) {
    match headers.transport {
        Transport::Tcp(tcp) => assert!(tcp.flags.any(wire::TcpFlags::RST)),
        Transport::Icmp(icmp) => {
            assert_eq!(icmp.kind, 3, "{headers:?}");
            assert_ne!(counters.events(Event::Rejected), 0);
        }
        Transport::Udp | Transport::Other => panic!("no refusal: {headers:?}"),
    }
}

/// Of a taken endpoint only what was addressed to it, or what it began when it was not
/// registered or a stranger there, may show on the wire; of an endpoint that nobody has taken,
/// whatever the box says.
fn assert_translated(leaves: &Tuple, is_box: bool, counters: &Counters) {
    let is_taken = match leaves.proto {
        Protocol::TCP if leaves.src == PROXY => true,
        Protocol::TCP | Protocol::UDP => !is_box && [LISTENER, CALLER].contains(&leaves.src),
        _ => false,
    };
    let has_local_flows = counters.events(Event::Local) > 0;
    assert!(!is_taken || has_local_flows, "untranslated: {leaves}");
}

/// Every frame is counted once on its way in, and once on its way out or as dropped; a refused
/// one as both.
fn balance(counters: &Counters, came: u64) {
    let event = |event| counters.events(event);
    assert_eq!(event(Event::FromWire) + event(Event::FromStack), came);
    let drops: u64 = DropReason::ALL.iter().map(|r| counters.drops(*r)).sum();
    let left = event(Event::ToWire) + event(Event::ToStack) + drops;
    assert_eq!(left, came + event(Event::Refused) + event(Event::Rejected));
}

/// Rules that lead the web and names to a proxy; in every other generation with rules that judge.
fn view(generation: u32) -> View {
    let web = Rule {
        proto: Test::Is(Protocol::TCP),
        destination_ports: Test::Is(PortRange::new(80, 80)),
        action: Action::Redirect {
            addr: Some(PROXY.addr),
            port: Some(PROXY.port),
            otherwise: NoListener::Reject,
        },
        ..Rule::default()
    };
    let names = Rule {
        proto: Test::Is(Protocol::UDP),
        destination_ports: Test::Is(PortRange::new(53, 53)),
        ..web.clone()
    };
    let mut chains = vec![vec![web, names]];
    let mut entries = vec![entry(Hook::TproxyPrerouting, 0)];
    if generation.is_multiple_of(2) {
        chains.extend(judging());
        entries.extend([
            entry(Hook::FilterInput, 1),
            entry(Hook::FilterOutput, 2),
            entry(Hook::FilterForward, 3),
            entry(Hook::RawPrerouting, 4),
        ]);
    }
    let policy = Policy::new(Program {
        generation,
        chains,
        entries,
        ports: std::iter::zip([PortId(0), PortId(1)], OWN)
            .map(|(port, addr)| LocalPort {
                port,
                first_address: Some(addr),
            })
            .collect(),
        ..Program::default()
    });
    let policy = policy.unwrap_or_else(|error| panic!("the rules: {error:?}"));
    View {
        rule_hits: Arc::new(RuleHits::new(1, policy.rule_count())),
        own: OWN.into_iter().collect(),
        proxies: policy.proxies(),
        policy: policy.into(),
        ports: std::iter::zip(PORTS, OWN)
            .map(|(mac, addr)| PortView {
                mac,
                first_address: Some(addr),
            })
            .collect(),
        marks: MARKS,
        broadcasts: [Ipv4Addr::new(192, 168, 1, 255)].into_iter().collect(),
        listening: Default::default(),
        epoch: false,
        keep_established: false,
    }
}

fn entry(hook: Hook, chain: u32) -> Entry {
    Entry {
        hook,
        chain: ChainId(chain),
        policy: policy::Verdict::Accept,
    }
}

/// INPUT, OUTPUT, FORWARD and raw PREROUTING: each of what rules can say, of some packets.
fn judging() -> [Vec<Rule>; 4] {
    let only = |test, action| Rule {
        more: vec![Condition {
            negated: false,
            test,
        }],
        action,
        ..Rule::default()
    };
    let states = |states: &[ConnState]| {
        let set = states.iter().fold(StateSet::default(), |set, &state| {
            set.or(StateSet::of(state))
        });
        Quality::State(set)
    };
    let all = |action| Rule {
        action,
        ..Rule::default()
    };
    let refuse = || all(Action::Reject(RejectWith::PortUnreachable));
    let reset = Rule {
        proto: Test::Is(Protocol::TCP),
        ..all(Action::Reject(RejectWith::TcpReset))
    };
    let known = || states(&[ConnState::Established, ConnState::Related]);
    let to_port = |port| Rule {
        proto: Test::Is(Protocol::UDP),
        destination_ports: Test::Is(PortRange::new(port, port)),
        ..all(Action::NoTrack)
    };
    [
        vec![
            only(Quality::Tproxy, Action::Accept),
            all(Action::Log),
            only(known(), Action::Accept),
            only(states(&[ConnState::Untracked]), Action::Accept),
            only(
                Quality::Icmp {
                    kind: 8,
                    codes: 0..=255,
                },
                Action::Accept,
            ),
            reset.clone(),
            refuse(),
        ],
        vec![
            only(known(), Action::Accept),
            only(states(&[ConnState::New]), Action::Accept),
            reset,
            refuse(),
        ],
        vec![refuse()],
        vec![to_port(123)],
    ]
}
