//! Connections to and from the endpoints themselves where proxies listen.

use pipeline::{DropReason, Event, Verdict};
use policy::{Rule, RuleId};
use tables::{FlowState, Kind};
use wire::Endpoint;

use crate::fixture::*;

/// An endpoint of the box where no proxy listens.
const SHELL: Endpoint = Endpoint::new(OWN_INTRA, 22);

#[test]
fn a_connection_to_the_proxy_itself_is_delivered_and_answered_as_it_is() {
    let mut fw = Firewall::new();
    let seen = fw.open(CLIENT, PROXY, 1000);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
    assert_eq!(seen.mac_dst, MARKS.to_stack(INTRA));
    assert_eq!(fw.flow().flow.kind, Kind::Local);
    let seen = fw
        .stack(INTRA, syn_ack(PROXY, CLIENT, 2000, 1001))
        .to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(PROXY, CLIENT));
    assert_eq!(seen.mac_src, PORT_MACS[0]);
    fw.wire(INTRA, ack(CLIENT, PROXY, b"x")).to_stack();
    assert_eq!(fw.flow().state, FlowState::Established);
    assert_eq!(fw.counters.events(Event::Local), 1);
    assert_eq!(fw.counters.events(Event::Redirected), 0);
}

#[test]
fn a_direct_connection_beside_a_redirected_one_of_the_same_name_is_told_apart() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    let direct = fw.open(CLIENT, PROXY, 5000);
    assert_eq!(direct.tuple.dst, PROXY);
    let shown = direct.tuple.src;
    assert_ne!(shown.port, CLIENT.port);
    let seen = fw
        .stack(INTRA, syn_ack(PROXY, shown, 1, 5001))
        .to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(PROXY, CLIENT));
    let seen = fw
        .stack(INTRA, syn_ack(PROXY, CLIENT, 1, 1001))
        .to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(SERVER, CLIENT));
}

#[test]
fn a_connection_older_than_the_daemon_is_picked_up() {
    let mut fw = Firewall::new();
    let seen = fw.wire(INTRA, ack(CLIENT, PROXY, b"go on")).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
    assert_eq!(seen.payload, b"go on");
    let flow = fw.flow();
    assert_eq!(
        (flow.flow.kind, flow.state),
        (Kind::Local, FlowState::PickedUp)
    );
    let seen = fw.stack(INTRA, ack(PROXY, CLIENT, b"yes")).to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(PROXY, CLIENT));
}

#[test]
fn a_reset_picks_up_nothing() {
    let mut fw = Firewall::new();
    for flags in [RST, RST | ACK] {
        let frame = tcp(&tcp_tuple(CLIENT, PROXY), flags, 1, 1, b"");
        let outcome = fw.wire(INTRA, frame);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlow));
    }
    assert_eq!(fw.flows.counts().live, 0);
}

#[test]
fn what_is_for_the_box_and_no_proxy_is_delivered_without_a_flow() {
    let mut fw = Firewall::new();
    let ping = echo(CLIENT.addr, OWN_INTRA);
    let frames = [
        syn(CLIENT, SHELL, 1),
        ack(CLIENT, SHELL, b"ls\n"),
        tcp(&tcp_tuple(CLIENT, SHELL), FIN | ACK, 1, 1, b""),
        tcp(&tcp_tuple(CLIENT, SHELL), RST, 1, 0, b""),
        udp(&udp_tuple(CLIENT, SHELL), b"x"),
        // The proxy's port, but another protocol.
        udp(&udp_tuple(CLIENT, PROXY), b"x"),
        ping.clone(),
        icmp_error(CLIENT.addr, OWN_INTRA, &ping, usize::MAX),
        icmp_error(
            CLIENT.addr,
            OWN_INTRA,
            &ack(SHELL, CLIENT, b"$"),
            usize::MAX,
        ),
    ];
    for frame in frames {
        let mut sent = read(&frame);
        (sent.mac_src, sent.mac_dst) = (NEIGHBOUR, MARKS.to_stack(INTRA));
        assert_eq!(fw.wire(INTRA, frame).to_stack(), sent);
    }
    assert_eq!(fw.flows.counts().live, 0);
    assert_eq!(fw.counters.events(Event::Local), 0);
}

#[test]
fn rules_may_take_what_is_for_the_box_itself() {
    let mut fw = Firewall::with_rules(vec![drop_to(OWN_INTER), redirect(22, PROXY)]);
    let seen = fw.open(CLIENT, SHELL, 1);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
    let seen = fw.stack(INTRA, syn_ack(PROXY, CLIENT, 1, 2)).to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(SHELL, CLIENT));
    let outcome = fw.wire(INTRA, syn(CLIENT, PROXY2, 1));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::RuleDrop));
    assert_eq!(fw.view().rule_hits.read(RuleId(0)), (1, 40));
}

#[test]
fn a_proxy_endpoint_of_every_protocol_is_one() {
    let everything = Rule {
        proto: policy::Test::Any,
        ..redirect(80, PROXY)
    };
    // What the rules lead to is told without a protocol then.
    let mut fw = Firewall::with_rules(vec![everything]);
    assert_eq!(fw.view().proxies[0].proto, wire::Protocol(0));
    fw.open(CLIENT, PROXY, 1);
    let seen = fw.stack(INTRA, syn_ack(PROXY, CLIENT, 1, 2)).to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(PROXY, CLIENT));
}

#[test]
fn a_connection_that_a_proxy_endpoint_opens_leaves_as_it_is() {
    let mut fw = Firewall::new();
    let out = Endpoint::new(SERVER.addr, 443);
    let seen = fw.stack(INTER, syn(PROXY, out, 50)).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(PROXY, out));
    assert_eq!(seen.mac_src, PORT_MACS[1]);
    assert_eq!(seen.mac_dst, NEIGHBOUR);
    assert_eq!(fw.flow().flow.kind, Kind::Local);
    let seen = fw.wire(INTER, syn_ack(out, PROXY, 60, 51)).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(out, PROXY));
    assert_eq!(seen.mac_dst, MARKS.to_stack(INTER));
    fw.stack(INTER, ack(PROXY, out, b"x")).to_wire(INTER);
    let flow = fw.flow();
    assert_eq!(flow.state, FlowState::Established);
    assert_eq!((flow.orig.packets, flow.reply.packets), (2, 1));
    assert_eq!(fw.counters.events(Event::Local), 1);
    assert_eq!(fw.view().rule_hits.read(RuleId(0)), (0, 0));
}

#[test]
fn what_the_stack_says_without_a_flow_never_leaves() {
    let mut fw = Firewall::new();
    let tuple = tcp_tuple(PROXY, CLIENT);
    let mut frames = vec![
        udp(&udp_tuple(PROXY, CLIENT), b"x"),
        echo(OWN_INTRA, CLIENT.addr),
        icmp_error(
            OWN_INTRA,
            CLIENT.addr,
            &ack(CLIENT, PROXY, b"x"),
            usize::MAX,
        ),
    ];
    for flags in [0, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK] {
        frames.push(tcp(&tuple, flags, 1, 1, b""));
    }
    let count = frames.len() as u64;
    for frame in frames {
        let outcome = fw.stack(INTRA, frame);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
    }
    assert_eq!(fw.counters.drops(DropReason::NoFlowFromStack), count);
    assert_eq!(fw.flows.counts().live, 0);
}

#[test]
fn answers_to_a_flow_that_has_gone_never_leave_untranslated() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    let flow = fw.flow();
    fw.flows.remove(flow.id, fw.now_ns);
    let outcome = fw.stack(INTRA, syn_ack(PROXY, CLIENT, 1, 1001));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
}
