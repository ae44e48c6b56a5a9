//! Random batches in random surroundings.

mod allowed;
mod sockets;

use std::collections::HashSet;
use std::net::Ipv4Addr;

use pipeline::{DropReason, Event, Ingress, PortId, Verdict};
use policy::{Rule, RuleId};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tables::{Flow, FlowKey, FlowSnapshot, Kind, Lookup, OwnerId, Side, Uses};
use wire::{Endpoint, Headers, Protocol, Transport, Tuple};

use crate::fixture::firewall::{by_box, by_stranger, on_slow_lane, on_stack, on_wire};
use crate::fixture::*;

use sockets::{OWNERS, Sockets, registrations, uses};

/// By which way a frame comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Wire,
    Slow,
    Stack,
    /// From the stack, of a socket that is not registered.
    Stranger,
    /// From the stack, from an endpoint that nobody has taken.
    Box,
    Unmarked,
}

impl Way {
    fn is_from_stack(self) -> bool {
        matches!(self, Self::Stack | Self::Stranger | Self::Box)
    }
}

#[derive(Clone, Debug)]
struct Made {
    way: Way,
    port: PortId,
    frame: Vec<u8>,
    /// Whether something was done to it that may break it.
    mutated: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Batch(bool, Vec<Made>),
    Commit(usize),
    Register(usize),
    Flags(usize, Uses),
    Withdraw(usize),
    Wait(u64),
    Expire,
}

/// Few endpoints, so that frames meet the flows of others.
fn endpoint() -> impl Strategy<Value = Endpoint> {
    let addrs = [CLIENT.addr, SERVER.addr, SERVER2.addr, OWN_INTRA, OWN_INTER];
    let ports = [80, 3128, 8080, 40_000];
    (select(addrs.to_vec()), select(ports.to_vec())).prop_map(|(a, p)| Endpoint::new(a, p))
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let usual = select(vec![
        (CLIENT, SERVER),
        (CLIENT, SERVER2),
        (CLIENT, PROXY),
        (PROXY, CLIENT),
        (PROXY2, CLIENT),
        (PROXY, SERVER),
        (SERVER, PROXY),
        (CLIENT, FOREIGN),
        (CLIENT, LISTENER),
        (LISTENER, CLIENT),
        (CALLER, SERVER),
        (CALLER, SERVER2),
        (SERVER, CALLER),
        (SERVER, CLIENT),
        (CALLER, CLIENT),
    ]);
    prop_oneof![3 => usual, 1 => (endpoint(), endpoint())]
        .prop_map(|(src, dst)| tcp_tuple(src, dst))
}

/// A stranger's connections have sequence numbers of their own: a SYN that another socket has
/// sent would be that one's.
fn segment(strange: bool) -> impl Strategy<Value = Vec<u8>> {
    let flags = select(vec![
        SYN,
        SYN,
        SYN | ACK,
        ACK,
        FIN | ACK,
        RST,
        RST | ACK,
        0,
        0xff,
    ]);
    let numbers = if strange {
        vec![50, 60_000, 60_001]
    } else {
        vec![0, 1000, 1001, 7000, u32::MAX]
    };
    let seqs = select(numbers);
    let payload = select(vec![&b""[..], b"x", b"some more payload"]);
    (tuple(), flags, seqs.clone(), seqs, payload)
        .prop_map(|(tuple, flags, seq, ack, payload)| tcp(&tuple, flags, seq, ack, payload))
}

fn packet(strange: bool) -> impl Strategy<Value = Vec<u8>> {
    let datagram = tuple().prop_map(|t| udp(&udp_tuple(t.src, t.dst), b"datagram"));
    let ping = tuple().prop_map(|t| echo(t.src.addr, t.dst.addr));
    let error = (tuple(), segment(strange), 20..60_usize)
        .prop_map(|(t, about, kept)| icmp_error(t.src.addr, t.dst.addr, &about, kept));
    prop_oneof![8 => segment(strange), 4 => datagram, 1 => ping, 2 => error]
}

fn made(host_port: bool) -> impl Strategy<Value = Made> {
    let ways = if host_port {
        vec![
            Way::Stack,
            Way::Stack,
            Way::Stack,
            Way::Stranger,
            Way::Stranger,
            Way::Box,
            Way::Box,
            Way::Slow,
            Way::Unmarked,
        ]
    } else {
        vec![Way::Wire]
    };
    let sent = select(ways).prop_flat_map(|way| (Just(way), packet(way == Way::Stranger)));
    let ports = vec![INTRA, INTRA, INTRA, INTER, INTER, NOWHERE];
    let dressing = (any::<bool>(), proptest::option::weighted(0.1, 1_u16..4095));
    let bites = proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4);
    let cut = proptest::option::weighted(0.3, any::<Index>());
    let mutation = proptest::option::weighted(0.2, (bites, cut));
    (sent, select(ports), dressing, mutation).prop_map(
        |((way, packet), port, (partial, vlan), mutation)| {
            let is_icmp = packet[23] == Protocol::ICMP.0;
            let mut frame = packet;
            if partial && !is_icmp {
                frame = with_partial_checksum(frame);
            }
            if let Some(id) = vlan {
                frame = tagged(frame, id);
            }
            let mutated = mutation.is_some();
            if let Some((bites, cut)) = mutation {
                for (at, value) in bites {
                    let at = at.index(frame.len());
                    frame[at] = value;
                }
                // The MAC addresses stay: they are filled in below.
                frame.truncate(cut.map_or(frame.len(), |cut| 12 + cut.index(frame.len() - 12)));
            }
            let frame = match way {
                Way::Wire => on_wire(port, frame),
                Way::Slow => on_slow_lane(port, frame),
                Way::Stack => on_stack(port, frame),
                Way::Stranger => by_stranger(port, frame),
                Way::Box => by_box(port, frame),
                Way::Unmarked => frame,
            };
            Made {
                way,
                port,
                frame,
                mutated,
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let batch = any::<bool>().prop_flat_map(|host_port| {
        proptest::collection::vec(made(host_port), 0..12)
            .prop_map(move |frames| Step::Batch(host_port, frames))
    });
    prop_oneof![
        12 => batch,
        2 => (0..rulesets().len()).prop_map(Step::Commit),
        4 => (0..registrations().len()).prop_map(Step::Register),
        2 => (any::<usize>(), uses()).prop_map(|(nth, uses)| Step::Flags(nth, uses)),
        2 => any::<usize>().prop_map(Step::Withdraw),
        1 => (0..200 * SECOND).prop_map(Step::Wait),
        1 => Just(Step::Expire),
    ]
}

fn rulesets() -> Vec<Vec<Rule>> {
    vec![
        vec![redirect_from_port(INTRA, 80, PROXY)],
        vec![redirect(80, PROXY2), redirect(40_000, PROXY)],
        vec![drop_to(SERVER.addr), redirect(80, PROXY)],
        vec![redirect(80, SERVER2)],
        vec![Rule {
            proto: policy::Test::Any,
            destination_ports: policy::Test::Any,
            ..redirect(80, PROXY)
        }],
        Vec::new(),
    ]
}

/// Frames that the stack had better send translated: not the SYN, sent again, of a connection
/// that it began as itself.
fn must_show_foreign(fw: &Firewall, made: &Made) -> bool {
    let Ok(headers) = Headers::parse(&made.frame) else {
        return false;
    };
    let begins = match headers.transport {
        Transport::Tcp(tcp) => tcp.flags.opens(),
        Transport::Udp => true,
        Transport::Icmp(_) | Transport::Other => return false,
    };
    let tuple = headers.tuple;
    let registered = fw.registrations.owner(tuple.proto, tuple.src, tuple.dst);
    let Lookup::Found(own) = registered else {
        return false;
    };
    let key = FlowKey::new(Side::Host, &tuple);
    let began_as_itself = fw.flows.lookup(&key).is_some_and(|hit| {
        let Transport::Tcp(tcp) = headers.transport else {
            return false;
        };
        hit.flow.kind == Kind::Local && fw.flows.began_with(&hit, tcp.seq)
    });
    made.way == Way::Stack && begins && own.shows_foreign() && !began_as_itself
}

fn is_own(addr: Ipv4Addr) -> bool {
    [OWN_INTRA, OWN_INTER].contains(&addr)
}

/// What the stack may send, as what it leaves, and whether by a flow that is nobody's.
type Exits = HashSet<(FlowKey, Tuple, bool)>;

fn exits(fw: &Firewall) -> Exits {
    let ways = |seen: FlowSnapshot| {
        let Flow { orig, reply, .. } = seen.flow;
        let is_free = seen.flow.owner == OwnerId::NOBODY;
        [(orig, reply, is_free), (reply, orig, is_free)]
    };
    fw.flows
        .iter()
        .flat_map(ways)
        .filter(|(own, ..)| own.side() == Side::Host)
        .map(|(own, other, is_free)| (own, other.tuple().reversed(), is_free))
        .collect()
}

/// Whether a packet may leave so: a stranger's only by what is nobody's.
fn may_leave(exits: &Exits, way: Way, own: FlowKey, as_what: Tuple) -> bool {
    let is_exit = |is_free| exits.contains(&(own, as_what, is_free));
    is_exit(true) || (way == Way::Stack && is_exit(false))
}

fn flows_made(fw: &Firewall) -> u64 {
    let made = [
        Event::Local,
        Event::Redirected,
        Event::Listened,
        Event::Connected,
    ];
    made.into_iter()
        .map(|event| fw.counters.events(event))
        .sum()
}

fn run_batch(fw: &mut Firewall, host_port: bool, frames: &[Made]) -> Result<(), TestCaseError> {
    // A NIC's batch comes by one port: that of its first frame.
    let port = frames.first().map_or(INTRA, |made| made.port);
    let ingress = if host_port {
        Ingress::HostPort
    } else {
        Ingress::Port(port)
    };
    let old: HashSet<_> = fw.flows.iter().map(|seen| seen.id).collect();
    let foreign: Vec<bool> = frames.iter().map(|m| must_show_foreign(fw, m)).collect();
    let (mut exits_seen, made_before) = (exits(fw), flows_made(fw));
    let outcomes = fw.batch(ingress, frames.iter().map(|m| m.frame.clone()).collect());
    exits_seen.extend(exits(fw));
    let new = fw.flows.iter().filter(|seen| !old.contains(&seen.id));
    // A flow that came and went within the batch is in neither reading.
    let exits = (flows_made(fw) - made_before == new.count() as u64).then_some(exits_seen);

    for ((made, outcome), must) in frames.iter().zip(&outcomes).zip(foreign) {
        if let (Verdict::Wire(_), true) = (outcome.verdict, must) {
            let sent = Headers::parse(&made.frame).unwrap().tuple;
            let left = Headers::parse(&outcome.frame).unwrap().tuple;
            prop_assert_ne!(left.src, sent.src, "untranslated: {}", left);
        }
    }
    for (made, outcome) in std::iter::zip(frames, &outcomes) {
        check(
            made,
            outcome,
            exits.as_ref().filter(|_| !is_plain(fw, made)),
        )?;
        // A refused mutation may have had a bad checksum all along.
        if !made.mutated && !matches!(outcome.verdict, Verdict::Drop(_)) {
            read(&outcome.frame);
        }
    }
    check_flows(fw)
}

/// Whether a frame is the box's own business: from an endpoint that nobody has taken, or without
/// any. It may leave without a flow, as it is.
fn is_plain(fw: &Firewall, made: &Made) -> bool {
    let Ok(headers) = Headers::parse(&made.frame) else {
        return false;
    };
    let tuple = match headers.transport {
        Transport::Icmp(icmp) => icmp.embedded.map(Tuple::reversed),
        Transport::Tcp(_) | Transport::Udp | Transport::Other => None,
    };
    let Tuple { proto, src, dst } = tuple.unwrap_or(headers.tuple);
    let has_ports = [Protocol::TCP, Protocol::UDP].contains(&proto);
    let is_proxy = |at: Endpoint| {
        let view = fw.view();
        let mut sets = view.proxies.iter();
        sets.any(|set| {
            [proto, Protocol(0)].contains(&set.proto)
                && set.addr == at.addr
                && set.ports.contains(&at.port)
        })
    };
    let is_free = |at| fw.registrations.owner(proto, at, dst) == Lookup::None && !is_proxy(at);
    if has_ports {
        made.way == Way::Box && is_free(src)
    } else {
        made.way == Way::Box || (made.way.is_from_stack() && fw.view().policy.guards())
    }
}

fn check(made: &Made, outcome: &Outcome, exits: Option<&Exits>) -> Result<(), TestCaseError> {
    let headers = || Headers::parse(&outcome.frame).unwrap();
    let from_stack = made.way.is_from_stack();
    match outcome.verdict {
        Verdict::Drop(reason) => {
            prop_assert_ne!(reason, DropReason::TxFull);
            prop_assert_eq!(outcome.frame.len(), made.frame.len());
        }
        Verdict::Host if from_stack => {
            // Only a refusal goes back to the stack.
            let sent = Headers::parse(&made.frame).unwrap().tuple;
            is_refusal(&headers(), &sent)?;
        }
        Verdict::Host => {
            prop_assert!(is_own(headers().tuple.dst.addr), "{:?}", headers().tuple);
            prop_assert!(
                !is_own(headers().tuple.src.addr) || headers().tuple.proto == Protocol::ICMP
            );
            prop_assert_eq!(outcome.frame.len(), made.frame.len());
        }
        Verdict::Wire(_) if from_stack => {
            prop_assert_eq!(outcome.frame.len(), made.frame.len());
            let mut sent = Headers::parse(&made.frame).unwrap();
            let mut leaves = headers().tuple;
            if let Transport::Icmp(icmp) = sent.transport
                && let Some(embedded) = icmp.embedded
            {
                // An error's own addresses have no ports: what it is about tells.
                sent.tuple = embedded.reversed();
                let Transport::Icmp(icmp) = headers().transport else {
                    return Err(TestCaseError::fail("another protocol"));
                };
                leaves = icmp.embedded.unwrap().reversed();
            }
            let key = FlowKey::new(Side::Host, &sent.tuple);
            prop_assert!(
                exits.is_none_or(|exits| may_leave(exits, made.way, key, leaves)),
                "{:?}: {} left as {leaves}",
                made.way,
                sent.tuple
            );
        }
        Verdict::Wire(_) => {
            // Only a refusal goes back to the wire.
            prop_assert!(made.way == Way::Wire || made.way == Way::Slow);
            let sent = Headers::parse(&made.frame).unwrap().tuple;
            is_refusal(&headers(), &sent)?;
        }
    }
    Ok(())
}

/// A reset, or an ICMP error that quotes what it is about, back to where that came from.
fn is_refusal(told: &Headers, sent: &Tuple) -> Result<(), TestCaseError> {
    match told.transport {
        Transport::Tcp(tcp) => {
            prop_assert!(tcp.flags.any(RST));
            prop_assert_eq!(told.tuple, sent.reversed());
        }
        Transport::Icmp(icmp) => {
            prop_assert_eq!((icmp.kind, icmp.embedded), (3, Some(*sent)));
            prop_assert_eq!(told.tuple.dst.addr, sent.src.addr);
        }
        Transport::Udp | Transport::Other => prop_assert!(false, "no refusal: {told:?}"),
    }
    Ok(())
}

/// No key has two flows, and every flow is found by both.
fn check_flows(fw: &Firewall) -> Result<(), TestCaseError> {
    let mut keys = HashSet::new();
    for seen in fw.flows.iter() {
        for key in [seen.flow.orig, seen.flow.reply] {
            prop_assert!(keys.insert(key), "{key:?} twice");
            prop_assert_eq!(fw.flows.lookup(&key).map(|hit| hit.id), Some(seen.id));
        }
        // Only a local flow's packets pass as they are.
        let (from, to) = (seen.flow.orig.tuple(), seen.flow.reply.tuple().reversed());
        match seen.flow.kind {
            Kind::Local => prop_assert_eq!(from.dst, to.dst),
            Kind::Listen => {
                prop_assert!(!is_own(from.dst.addr) && is_own(to.dst.addr));
                prop_assert_ne!(seen.flow.owner, OwnerId::NOBODY);
            }
            Kind::Connect => {
                prop_assert!(is_own(from.src.addr) && !is_own(to.src.addr));
                prop_assert_eq!(from.dst, to.dst);
                prop_assert_ne!(seen.flow.owner, OwnerId::NOBODY);
            }
            Kind::Redirect => prop_assert_ne!(from.dst, to.dst),
        }
        let proto = from.proto;
        let has_ports = matches!(proto, Protocol::TCP | Protocol::UDP);
        prop_assert!(has_ports || seen.flow.kind == Kind::Local);
    }
    prop_assert_eq!(keys.len(), 2 * fw.flows.counts().live);
    for owner in (1..=OWNERS).map(OwnerId) {
        let own = fw.flows.iter().filter(|seen| seen.flow.owner == owner);
        prop_assert_eq!(fw.flows.owned_by(owner) as usize, own.count());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_leaves_untranslated_and_no_frame_is_lost(steps in proptest::collection::vec(step(), 1..32)) {
        let mut fw = Firewall::of(Setting { capacity: 24, ..Setting::default() });
        let mut sockets = Sockets::default();
        for step in &steps {
            match step {
                // The fixture holds the verdicts against the counters.
                Step::Batch(host_port, frames) => run_batch(&mut fw, *host_port, frames)?,
                Step::Commit(at) => fw.commit(rulesets().swap_remove(*at)),
                Step::Register(at) => sockets.register(&fw, registrations().swap_remove(*at)),
                Step::Flags(nth, uses) => sockets.flags(&fw, *nth, *uses),
                Step::Withdraw(nth) => sockets.withdraw(&fw, *nth),
                Step::Wait(ns) => fw.now_ns += ns,
                Step::Expire => {
                    let mut cursor = 0;
                    fw.flows.expire(&mut cursor, 24, fw.now_ns, &tables::Timeouts::default(), |_| {});
                }
            }
        }
    }

    #[test]
    fn bytes_from_nowhere_are_survived(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..64),
        host_port: bool,
    ) {
        let mut fw = Firewall::new();
        let ingress = if host_port { Ingress::HostPort } else { Ingress::Port(INTER) };
        for outcome in fw.batch(ingress, frames) {
            prop_assert!(matches!(outcome.verdict, Verdict::Drop(_)));
        }
        prop_assert_eq!(fw.view().rule_hits.read(RuleId(0)), (0, 0));
    }
}
