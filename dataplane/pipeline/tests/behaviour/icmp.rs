//! ICMP errors about packets of a flow.

use pipeline::{DropReason, Event, Verdict};
use wire::Endpoint;

use crate::fixture::*;

/// Whole packets, and the eight bytes of transport header that old routers send.
const KEPT: [usize; 2] = [usize::MAX, 28];

/// Counters that an error must leave alone.
fn counted(fw: &Firewall) -> [u64; 6] {
    let flow = fw.flow();
    let lanes = [flow.orig, flow.reply].map(|lane| (lane.packets, lane.bytes, lane.last_seen_ns));
    let [(a, b, c), (d, e, f)] = lanes;
    [a, b, c, d, e, f]
}

#[test]
fn an_error_about_an_answer_reaches_the_proxy_in_its_own_terms() {
    for kept in KEPT {
        let mut fw = Firewall::new();
        fw.open(CLIENT, SERVER, 1000);
        let answer = fw.stack(INTRA, syn_ack(PROXY, CLIENT, 2000, 1001)).frame;
        let before = (counted(&fw), fw.flow().state);
        fw.now_ns += SECOND;
        for router in [CLIENT.addr, [192, 168, 1, 254].into()] {
            let seen = fw
                .wire(INTRA, icmp_error(router, SERVER.addr, &answer, kept))
                .to_stack();
            assert_eq!(seen.tuple.src.addr, router);
            assert_eq!(seen.tuple.dst.addr, PROXY.addr);
            assert_eq!(seen.embedded, Some(tcp_tuple(PROXY, CLIENT)));
            assert_eq!(seen.mac_dst, MARKS.to_stack(INTRA));
        }
        assert_eq!((counted(&fw), fw.flow().state), before);
        assert_eq!(fw.counters.events(Event::IcmpTranslated), 2);
    }
}

#[test]
fn an_error_of_the_box_reaches_the_client_as_the_servers() {
    for kept in KEPT {
        let mut fw = Firewall::new();
        let got = fw.wire(INTRA, syn(CLIENT, SERVER, 1000)).frame;
        let before = counted(&fw);
        fw.now_ns += SECOND;
        let seen = fw
            .stack(INTRA, icmp_error(OWN_INTRA, CLIENT.addr, &got, kept))
            .to_wire(INTRA);
        assert_eq!(seen.tuple.src.addr, SERVER.addr);
        assert_eq!(seen.tuple.dst.addr, CLIENT.addr);
        assert_eq!(seen.embedded, Some(tcp_tuple(CLIENT, SERVER)));
        assert_eq!(seen.mac_src, PORT_MACS[0]);
        assert_eq!(counted(&fw), before);
        assert_eq!(fw.counters.events(Event::IcmpTranslated), 1);
    }
}

#[test]
fn a_changed_port_is_changed_back_inside_an_error() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    let second = fw.wire(INTRA, syn(CLIENT, SERVER2, 1000));
    assert_ne!(second.to_stack().tuple.src, CLIENT);
    let error = icmp_error(OWN_INTRA, CLIENT.addr, &second.frame, usize::MAX);
    let seen = fw.stack(INTRA, error).to_wire(INTRA);
    assert_eq!(seen.embedded, Some(tcp_tuple(CLIENT, SERVER2)));
    assert_eq!(seen.tuple.src.addr, SERVER2.addr);
}

#[test]
fn errors_about_local_connections_pass_as_they_are() {
    let mut fw = Firewall::new();
    let out = Endpoint::new(SERVER.addr, 443);
    let sent = fw.stack(INTER, syn(PROXY, out, 1)).frame;
    let error = icmp_error(SERVER.addr, PROXY.addr, &sent, usize::MAX);
    let seen = fw.wire(INTER, error).to_stack();
    assert_eq!(seen.tuple.src.addr, SERVER.addr);
    assert_eq!(seen.tuple.dst.addr, PROXY.addr);
    assert_eq!(seen.embedded, Some(tcp_tuple(PROXY, out)));
}

#[test]
fn an_error_about_no_flow_is_not_forwarded() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    let unknown = [
        syn_ack(SERVER2, CLIENT, 1, 1),
        // The wrong way round, and what only the stack may say.
        syn(CLIENT, SERVER, 1000),
        syn(CLIENT, PROXY, 1000),
    ];
    for about in unknown {
        let error = icmp_error(CLIENT.addr, SERVER.addr, &about, usize::MAX);
        let outcome = fw.wire(INTRA, error);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::IcmpNoFlow));
    }
    assert_eq!(fw.counters.events(Event::IcmpTranslated), 0);
    assert_eq!(fw.counters.drops(DropReason::IcmpNoFlow), 3);
}
