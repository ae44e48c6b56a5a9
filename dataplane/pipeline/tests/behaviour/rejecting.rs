//! REJECT and LOG.

use std::net::Ipv4Addr;

use pipeline::{DropReason, Event, LogKind, Verdict};
use policy::{ConnState, Hook, RejectWith, Rule, RuleId, Verdict as Policy};
use wire::{Endpoint, Protocol};

use crate::fixture::*;

const SHELL: Endpoint = Endpoint::new(OWN_INTRA, 22);

fn standing(hook: Hook, rules: Vec<Rule>) -> Firewall {
    Firewall::of(Setting {
        chains: vec![(hook, rules, Policy::Accept)],
        ..Setting::default()
    })
}

/// What an ICMP error says: its source, destination, type and code, and what it quotes.
fn told(outcome: &Outcome, frame: &[u8]) -> (Ipv4Addr, Ipv4Addr, (u8, u8)) {
    let seen = read(&outcome.frame);
    assert_eq!(seen.tuple.proto, Protocol::ICMP);
    let quoted = frame.len().min(14 + 548);
    assert_eq!(seen.payload, frame[14..quoted]);
    (
        seen.tuple.src.addr,
        seen.tuple.dst.addr,
        icmp(&outcome.frame),
    )
}

#[test]
fn every_reason_has_its_code() {
    let codes = [
        (RejectWith::NetUnreachable, 0),
        (RejectWith::HostUnreachable, 1),
        (RejectWith::ProtoUnreachable, 2),
        (RejectWith::PortUnreachable, 3),
        (RejectWith::NetProhibited, 9),
        (RejectWith::HostProhibited, 10),
        (RejectWith::AdminProhibited, 13),
    ];
    for (with, code) in codes {
        let mut fw = standing(Hook::FilterInput, vec![reject(with)]);
        let frame = udp(&udp_tuple(CLIENT, SHELL), b"x");
        let outcome = fw.wire(INTRA, frame.clone());
        assert_eq!(outcome.verdict, Verdict::Wire(INTRA));
        assert_eq!(
            told(&outcome, &frame),
            (SHELL.addr, CLIENT.addr, (3, code)),
            "{with:?}"
        );
        let macs = read(&outcome.frame);
        assert_eq!((macs.mac_src, macs.mac_dst), (PORT_MACS[0], NEIGHBOUR));
        assert_eq!(fw.counters.events(Event::Rejected), 1);
        assert_eq!(fw.counters.drops(DropReason::RuleReject), 1);
        assert_eq!(fw.flows.counts().live, 0);
    }
}

#[test]
fn whom_the_client_wrote_to_speaks_or_the_box_about_transit() {
    // A redirected connection: the client knows the server alone.
    let mut fw = standing(Hook::FilterInput, vec![reject(RejectWith::PortUnreachable)]);
    let frame = syn(CLIENT, SERVER, 1);
    let outcome = fw.wire(INTRA, frame.clone());
    assert_eq!(told(&outcome, &frame), (SERVER.addr, CLIENT.addr, (3, 3)));
    let transit = udp(&udp_tuple(CLIENT, SERVER), &[7; 1400]);
    let mut fw = standing(
        Hook::FilterForward,
        vec![reject(RejectWith::AdminProhibited)],
    );
    let outcome = fw.wire(INTRA, transit.clone());
    assert_eq!(told(&outcome, &transit), (OWN_INTRA, CLIENT.addr, (3, 13)));
    let mut fw = Firewall::of(Setting {
        chains: vec![(
            Hook::FilterForward,
            vec![reject(RejectWith::HostUnreachable)],
            Policy::Drop,
        )],
        first_address: None,
        ..Setting::default()
    });
    let outcome = fw.wire(INTRA, transit.clone());
    assert_eq!(told(&outcome, &transit), (SERVER.addr, CLIENT.addr, (3, 1)));
}

#[test]
fn what_the_box_sends_is_refused_towards_the_stack() {
    let mut fw = standing(
        Hook::FilterOutput,
        vec![reject(RejectWith::PortUnreachable)],
    );
    let frame = udp(&udp_tuple(OWN_CLIENT, SERVER), b"x");
    let outcome = fw.host(INTER, frame.clone());
    assert_eq!(outcome.verdict, Verdict::Host);
    assert_eq!(
        told(&outcome, &frame),
        (SERVER.addr, OWN_CLIENT.addr, (3, 3))
    );
    let macs = read(&outcome.frame);
    assert_eq!(macs.mac_dst, MARKS.to_stack(INTER));

    let mut fw = standing(Hook::FilterOutput, vec![reject(RejectWith::TcpReset)]);
    let seen = fw.host(INTER, syn(OWN_CLIENT, SERVER, 5)).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(SERVER, OWN_CLIENT));
    assert_eq!((seen.flags, seen.ack), (RST | ACK, 6));
    // A proxy's answer: the client refuses it, as far as the proxy can see.
    fw.open(CLIENT, SERVER, 1);
    let seen = fw.stack(INTRA, syn_ack(PROXY, CLIENT, 5, 2)).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
}

#[test]
fn a_reset_refuses_tcp_alone() {
    let mut fw = standing(Hook::FilterInput, vec![reject(RejectWith::TcpReset)]);
    let seen = fw.wire(INTRA, syn(CLIENT, SERVER, 5)).to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(SERVER, CLIENT));
    assert_eq!(fw.counters.events(Event::Rejected), 1);
    assert_eq!(fw.counters.events(Event::Refused), 0);
    let silent = Verdict::Drop(DropReason::RuleReject);
    let datagram = udp(&udp_tuple(CLIENT, SHELL), b"x");
    assert_eq!(fw.wire(INTRA, datagram).verdict, silent);
    let reset = tcp(&tcp_tuple(CLIENT, SHELL), RST, 1, 0, b"");
    assert_eq!(fw.wire(INTRA, reset).verdict, silent);
    assert_eq!(fw.counters.drops(DropReason::RuleReject), 3);
}

#[test]
fn some_are_never_told() {
    let mut fw = standing(Hook::FilterInput, vec![reject(RejectWith::PortUnreachable)]);
    let group = Endpoint::new([224, 0, 0, 5].into(), 1);
    let subnet = Endpoint::new(BROADCAST, 137);
    let about = udp(&udp_tuple(SHELL, CLIENT), b"x");
    let frames = [
        udp(&udp_tuple(CLIENT, group), b"x"),
        udp(&udp_tuple(CLIENT, subnet), b"x"),
        icmp_error(CLIENT.addr, OWN_INTRA, &about, usize::MAX),
    ];
    for frame in frames {
        let outcome = fw.wire(INTRA, frame.clone());
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::RuleReject));
        assert_eq!(outcome.frame[12..], frame[12..]);
    }
    assert_eq!(fw.counters.events(Event::Rejected), 0);
}

#[test]
fn a_flood_is_not_answered_in_full() {
    let mut fw = standing(Hook::FilterInput, vec![reject(RejectWith::PortUnreachable)]);
    let mut answered = 0;
    for number in 0..4000_u64 {
        fw.now_ns = SECOND + number * 250_000;
        let outcome = fw.wire(INTRA, udp(&udp_tuple(CLIENT, SHELL), b"x"));
        match outcome.verdict {
            Verdict::Wire(_) => answered += 1,
            verdict => assert_eq!(verdict, Verdict::Drop(DropReason::RuleReject)),
        }
    }
    assert!((900..=1000).contains(&answered), "{answered}");
    assert_eq!(fw.counters.events(Event::Rejected), answered);
    assert_eq!(fw.counters.events(Event::RejectsLimited), 4000 - answered);
    assert_eq!(fw.counters.drops(DropReason::RuleReject), 4000);
}

#[test]
fn a_logged_packet_is_written_down_with_its_way() {
    let mut fw = Firewall::of(Setting {
        chains: vec![input(vec![log_all()]), output(vec![log_all()])],
        ..Setting::default()
    });
    let frame = udp(&udp_tuple(CLIENT, SHELL), &[7; 200]);
    let _ = fw.slow(INTRA, frame.clone());
    let record = fw.logs.take().unwrap();
    assert_eq!(record.what, LogKind::Rule(RuleId(1)));
    assert_eq!(record.generation, 1);
    assert_eq!(record.hook, Some(Hook::FilterInput));
    assert_eq!((record.in_port, record.out_port), (Some(INTRA), None));
    assert_eq!(record.at_ns, fw.now_ns);
    assert_eq!(record.frame_bytes as usize, frame.len());
    assert_eq!(record.head[12..], frame[12..record.head.len()]);
    let _ = fw.host(INTER, syn(OWN_CLIENT, SERVER, 1));
    let record = fw.logs.take().unwrap();
    assert_eq!(record.what, LogKind::Rule(RuleId(2)));
    assert_eq!(record.hook, Some(Hook::FilterOutput));
    assert_eq!((record.in_port, record.out_port), (None, Some(INTER)));
    assert!(fw.logs.take().is_none());
    assert_eq!(fw.counters.events(Event::LogsLost), 0);
}

#[test]
fn records_without_room_are_counted() {
    let mut fw = Firewall::of(Setting {
        chains: vec![input(vec![log_all()])],
        ..Setting::default()
    });
    for number in 0..3000 {
        let from = Endpoint::new(CLIENT.addr, number);
        let _ = fw.wire(INTRA, udp(&udp_tuple(from, SHELL), b"x"));
    }
    let kept: Vec<_> = std::iter::from_fn(|| fw.logs.take()).collect();
    assert_eq!(
        kept.len() as u64 + fw.counters.events(Event::LogsLost),
        3000
    );
    assert!(!kept.is_empty() && kept.len() < 3000);
    // The beginning of the flood.
    assert_eq!(kept[0].head[34..36], [0, 0]);
}

#[test]
fn denied_packets_are_logged_each_time() {
    let mut fw = Firewall::of(Setting {
        chains: vec![input(vec![accept_state(&[ConnState::New]), log_all()])],
        ..Setting::default()
    });
    fw.open(CLIENT, SERVER, 1);
    fw.stack(INTRA, syn_ack(PROXY, CLIENT, 5, 2)).to_wire(INTRA);
    for _ in 0..3 {
        let _ = fw.wire(INTRA, ack(CLIENT, SERVER, b"x"));
    }
    assert_eq!(std::iter::from_fn(|| fw.logs.take()).count(), 3);
}
