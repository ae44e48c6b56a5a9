//! A tuple used again never gets the mapping of the connection before.

use pipeline::{DropReason, Event, Ingress, Verdict};
use policy::RuleId;
use tables::FlowState;

use crate::fixture::firewall::{on_stack, on_wire};
use crate::fixture::*;

/// A connection that was opened with ISN 1000 and then reset by the client.
fn closed() -> Firewall {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    fw.stack(INTRA, syn_ack(PROXY, CLIENT, 2000, 1001))
        .to_wire(INTRA);
    fw.wire(INTRA, tcp(&tcp_tuple(CLIENT, SERVER), RST, 1001, 0, b""))
        .to_stack();
    assert_eq!(fw.flow().state, FlowState::Closed);
    fw
}

#[test]
fn a_new_connection_on_a_closed_tuple_asks_the_rules_again() {
    let mut fw = closed();
    let old = fw.flow().id;
    fw.commit(vec![redirect(80, PROXY2)]);
    let seen = fw.open(CLIENT, SERVER, 7000);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY2));
    let flow = fw.flow();
    assert_ne!(flow.id, old);
    assert_eq!((flow.flow.generation, flow.state), (2, FlowState::SynSent));
    assert_eq!(flow.orig.packets, 1);
    assert_eq!(fw.counters.events(Event::Reopened), 1);
    assert_eq!(fw.view().rule_hits.read(RuleId(0)), (1, 40));
    // The old proxy's late words find no flow any more.
    let late = fw.stack(INTRA, ack(PROXY, CLIENT, b"late"));
    assert_eq!(late.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
}

#[test]
fn a_new_connection_that_the_new_rules_forbid_leaves_no_flow() {
    let mut fw = closed();
    fw.commit(vec![drop_to(SERVER.addr)]);
    let outcome = fw.wire(INTRA, syn(CLIENT, SERVER, 7000));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::RuleDrop));
    assert_eq!(fw.flows.counts().live, 0);
    let outcome = fw.wire(INTRA, ack(CLIENT, SERVER, b"x"));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlow));
}

#[test]
fn nothing_behind_a_reopening_syn_in_one_batch_uses_the_old_mapping() {
    let mut fw = closed();
    fw.commit(vec![drop_to(SERVER.addr)]);
    let frames = vec![
        on_wire(INTRA, syn(CLIENT, SERVER, 7000)),
        on_wire(INTRA, ack(CLIENT, SERVER, b"x")),
    ];
    let outcomes = fw.batch(Ingress::Port(INTRA), frames);
    assert_eq!(outcomes[0].verdict, Verdict::Drop(DropReason::RuleDrop));
    assert_eq!(outcomes[1].verdict, Verdict::Drop(DropReason::NoFlow));

    let mut fw = closed();
    fw.commit(vec![redirect(80, PROXY2)]);
    let frames = vec![
        on_wire(INTRA, syn(CLIENT, SERVER, 7000)),
        on_wire(INTRA, syn(CLIENT, SERVER, 7000)),
        on_wire(INTRA, tcp(&tcp_tuple(CLIENT, SERVER), RST, 7001, 0, b"")),
    ];
    for outcome in fw.batch(Ingress::Port(INTRA), frames) {
        assert_eq!(outcome.to_stack().tuple, tcp_tuple(CLIENT, PROXY2));
    }
    assert_eq!(fw.counters.events(Event::Reopened), 1);
    assert_eq!(fw.flow().orig.packets, 3);
    // Nothing of the box has been seen, so anybody could have sent this reset.
    assert_eq!(fw.flow().state, FlowState::SynSent);
}

#[test]
fn what_follows_a_first_syn_in_one_batch_is_carried() {
    let mut fw = Firewall::new();
    let frames = vec![
        on_wire(INTRA, syn(CLIENT, SERVER, 7000)),
        on_wire(INTRA, tcp(&tcp_tuple(CLIENT, SERVER), RST, 7001, 0, b"")),
    ];
    for outcome in fw.batch(Ingress::Port(INTRA), frames) {
        assert_eq!(outcome.to_stack().tuple, tcp_tuple(CLIENT, PROXY));
    }
    assert_eq!(fw.flow().orig.packets, 2);
}

#[test]
fn a_syn_sent_again_keeps_its_flow() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    let id = fw.flow().id;
    fw.commit(vec![redirect(80, PROXY2)]);
    let seen = fw.open(CLIENT, SERVER, 1000);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
    // And after the answer, for that may be lost.
    fw.stack(INTRA, syn_ack(PROXY, CLIENT, 2000, 1001))
        .to_wire(INTRA);
    fw.open(CLIENT, SERVER, 1000);
    let flow = fw.flow();
    assert_eq!((flow.id, flow.orig.packets), (id, 3));
    assert_eq!(fw.counters.events(Event::Reopened), 0);
}

#[test]
fn an_unanswered_attempt_gives_way_to_the_next_and_an_open_connection_does_not() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    fw.commit(vec![redirect(80, PROXY2)]);
    let seen = fw.open(CLIENT, SERVER, 7000);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY2));
    assert_eq!(fw.counters.events(Event::Reopened), 1);

    fw.stack(INTRA, syn_ack(PROXY2, CLIENT, 2000, 7001))
        .to_wire(INTRA);
    fw.wire(INTRA, tcp(&tcp_tuple(CLIENT, SERVER), ACK, 7001, 2001, b""))
        .to_stack();
    fw.commit(vec![redirect(80, PROXY)]);
    // Whether that SYN is one is for the proxy's stack to say (RFC 5961 4).
    let seen = fw.open(CLIENT, SERVER, 9000);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY2));
    assert_eq!(fw.counters.events(Event::Reopened), 1);
}

#[test]
fn two_equal_syns_in_one_batch_make_one_flow() {
    let mut fw = Firewall::new();
    let frame = on_wire(INTRA, syn(CLIENT, SERVER, 1000));
    for outcome in fw.batch(Ingress::Port(INTRA), vec![frame; 2]) {
        assert_eq!(outcome.to_stack().tuple, tcp_tuple(CLIENT, PROXY));
    }
    assert_eq!(fw.flow().orig.packets, 2);
    assert_eq!(fw.counters.events(Event::Redirected), 1);
    assert_eq!(fw.counters.events(Event::PortChanged), 0);
    // The second is no first packet.
    assert_eq!(fw.view().rule_hits.read(RuleId(0)), (1, 40));
}

#[test]
fn a_port_shown_is_free_again_when_its_flow_has_gone() {
    let mut fw = closed();
    fw.flows.remove(fw.flow().id, fw.now_ns);
    assert_eq!(fw.open(CLIENT, SERVER2, 1).tuple.src, CLIENT);
}

#[test]
fn a_proxy_endpoint_may_call_back_once_the_connection_is_over() {
    let mut fw = closed();
    let frame = on_stack(INTRA, syn(PROXY, CLIENT, 4000));
    let seen = fw.one(Ingress::HostPort, frame).to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(PROXY, CLIENT));
    assert_eq!(fw.flow().flow.kind, tables::Kind::Local);
    // The client's answer does not go through the old mapping.
    let seen = fw.wire(INTRA, syn_ack(CLIENT, PROXY, 1, 4001)).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
    let outcome = fw.wire(INTRA, ack(CLIENT, SERVER, b"x"));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlow));
}
