//! Connections that would look the same to the proxy are told apart by the source port shown.

use pipeline::{DropReason, Event, Verdict};
use wire::Endpoint;

use crate::fixture::*;

#[test]
fn one_client_port_to_two_servers_shows_two_ports_and_each_answer_finds_its_way() {
    let mut fw = Firewall::new();
    let first = fw.open(CLIENT, SERVER, 1000);
    let second = fw.open(CLIENT, SERVER2, 5000);
    assert_eq!(first.tuple, tcp_tuple(CLIENT, PROXY));
    assert_eq!(second.tuple.dst, PROXY);
    assert_eq!(second.tuple.src.addr, CLIENT.addr);
    let shown = second.tuple.src.port;
    assert!(shown != CLIENT.port && shown >= 1024, "{shown}");
    assert_eq!(fw.counters.events(Event::PortChanged), 1);
    assert_eq!(fw.counters.events(Event::Redirected), 2);

    let answer = |to, isn| syn_ack(PROXY, to, 9000, isn);
    let to_first = fw.stack(INTRA, answer(CLIENT, 1001)).to_wire(INTRA);
    assert_eq!(to_first.tuple, tcp_tuple(SERVER, CLIENT));
    let to_second = fw
        .stack(INTRA, answer(second.tuple.src, 5001))
        .to_wire(INTRA);
    assert_eq!(to_second.tuple, tcp_tuple(SERVER2, CLIENT));

    // The choice stays for the life of the flow.
    let next = fw.wire(INTRA, ack(CLIENT, SERVER2, b"x")).to_stack();
    assert_eq!(next.tuple.src.port, shown);
    let next = fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
    assert_eq!(next.tuple.src.port, CLIENT.port);
}

#[test]
fn changed_ports_are_hard_to_guess() {
    let mut fw = Firewall::new();
    let mut shown = Vec::new();
    for last in 0..64 {
        let server = Endpoint::new([198, 51, 100, 100 + last].into(), 80);
        shown.push(fw.open(CLIENT, server, 1).tuple.src.port);
    }
    let changed = &shown[1..];
    let near = std::iter::zip(changed, &changed[1..])
        .filter(|(a, b)| a.abs_diff(**b) < 16)
        .count();
    assert!(near < 4, "neighbours follow each other: {changed:?}");
    let distinct: std::collections::BTreeSet<_> = shown.iter().collect();
    assert_eq!(distinct.len(), 64, "two connections share a name");
}

#[test]
fn with_every_port_taken_the_connection_is_refused_and_the_others_live() {
    let other = Endpoint::new(SERVER.addr, 443);
    let mut fw = Firewall::with_ports_taken(other, (1024..=u16::MAX).chain([80]));
    let live = fw.flows.counts().live;
    for source in [CLIENT, Endpoint::new(CLIENT.addr, 80)] {
        let refused = fw.wire(INTRA, syn(source, SERVER, 1));
        assert_eq!(refused.verdict, Verdict::Drop(DropReason::NoPort));
    }
    assert_eq!(fw.counters.drops(DropReason::NoPort), 2);
    assert_eq!(fw.flows.counts().live, live);
    assert_eq!(fw.counters.events(Event::PortChanged), 0);
    // A client whose own port is free needs no other.
    let lucky = Endpoint::new(CLIENT.addr, 81);
    assert_eq!(fw.open(lucky, SERVER, 1).tuple.src, lucky);
    // And who has a flow keeps it.
    let seen = fw.wire(INTRA, ack(CLIENT, other, b"x")).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
}
