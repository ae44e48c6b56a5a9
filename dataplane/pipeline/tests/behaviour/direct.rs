//! Packets to a registered local endpoint itself.

use pipeline::{DropReason, Verdict};
use tables::{FlowState, Kind, OwnerId, Registration, Uses};
use wire::{Endpoint, Protocol};

use crate::fixture::*;

#[test]
fn a_direct_connection_is_delivered_and_answered_as_it_is() {
    for own in [
        listener(),
        Registration {
            local: LISTENER,
            ..caller()
        },
    ] {
        let mut fw = Firewall::new();
        fw.register(&own);
        let seen = fw.open(CLIENT, LISTENER, 1000);
        assert_eq!(seen.tuple, tcp_tuple(CLIENT, LISTENER));
        let seen = fw
            .stack(INTRA, syn_ack(LISTENER, CLIENT, 2000, 1001))
            .to_wire(INTRA);
        assert_eq!(seen.tuple, tcp_tuple(LISTENER, CLIENT));
        let flow = fw.flow().flow;
        assert_eq!((flow.kind, flow.owner), (Kind::Local, OWNER));
    }
}

#[test]
fn a_direct_datagram_to_a_listener_is_answered_as_it_is() {
    for uses in [Uses::LISTEN, UNIDIR] {
        let mut fw = Firewall::new();
        fw.register(&Registration {
            uses,
            ..over_udp(listener())
        });
        let seen = fw
            .wire(INTRA, udp(&udp_tuple(CLIENT, LISTENER), b"?"))
            .to_stack();
        assert_eq!(seen.tuple, udp_tuple(CLIENT, LISTENER));
        let seen = fw
            .stack(INTRA, udp(&udp_tuple(LISTENER, CLIENT), b"!"))
            .to_wire(INTRA);
        assert_eq!(seen.tuple, udp_tuple(LISTENER, CLIENT));
        assert_eq!(fw.flow().flow.kind, Kind::Local);
    }
}

/// Anybody can send a packet to the local endpoint, with the server's address as its source.
/// It must not become the flow by which the socket's own packets leave untranslated.
#[test]
fn a_direct_datagram_opens_no_way_out_past_the_foreign_endpoint() {
    let established = Registration {
        peer: Some(SERVER),
        uses: Uses::ESTABLISHED,
        ..caller()
    };
    for own in [caller(), established] {
        let mut fw = Firewall::new();
        fw.register(&over_udp(own));
        let seen = fw
            .wire(INTER, udp(&udp_tuple(SERVER, CALLER), b"forged"))
            .to_stack();
        assert_eq!(seen.tuple, udp_tuple(SERVER, CALLER));
        assert_eq!(fw.flows.counts().live, 0);
        let seen = fw
            .stack(INTER, udp(&udp_tuple(CALLER, SERVER), b"x"))
            .to_wire(INTER);
        assert_eq!(seen.tuple, udp_tuple(CLIENT, SERVER));
    }
}

#[test]
fn a_flow_older_than_the_flags_opens_no_way_out_either() {
    let mut fw = Firewall::new();
    let id = fw.register(&Registration {
        uses: Uses::default(),
        ..over_udp(caller())
    });
    fw.wire(INTER, udp(&udp_tuple(SERVER, CALLER), b"?"))
        .to_stack();
    assert_eq!(fw.flow().flow.kind, Kind::Local);
    fw.registrations.replace(id, &over_udp(caller())).unwrap();
    let seen = fw
        .stack(INTER, udp(&udp_tuple(CALLER, SERVER), b"x"))
        .to_wire(INTER);
    assert_eq!(seen.tuple, udp_tuple(CLIENT, SERVER));
    assert_eq!(fw.flow().flow.kind, Kind::Connect);
}

#[test]
fn a_direct_syn_opens_no_way_out_past_the_foreign_endpoint() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    fw.wire(INTER, syn(SERVER, CALLER, 1)).to_stack();
    assert_eq!(fw.flow().flow.kind, Kind::Local);
    let seen = fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, SERVER));
    assert_eq!(fw.flow().flow.kind, Kind::Connect);
}

#[test]
fn mid_stream_packets_to_a_registered_endpoint_are_not_picked_up() {
    for own in [
        Registration {
            local: PROXY,
            ..listener()
        },
        Registration {
            local: PROXY,
            ..caller()
        },
    ] {
        // A rule's proxy too; without the registration it would be picked up.
        let mut fw = Firewall::new();
        fw.register(&own);
        for flags in [ACK, SYN | ACK, FIN | ACK, RST, 0] {
            let frame = tcp(&tcp_tuple(SERVER, PROXY), flags, 1, 1, b"");
            let outcome = fw.wire(INTER, frame);
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlow));
        }
        let outcome = fw.stack(INTER, ack(PROXY, SERVER, b"x"));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
        assert_eq!(fw.flows.counts().live, 0);
    }
}

#[test]
fn a_marked_endpoints_connection_is_picked_up_but_not_by_a_reset() {
    let mut fw = Firewall::new();
    let nowhere = Endpoint::new([0, 0, 0, 0].into(), 0);
    fw.register(&registration(
        Protocol::TCP,
        LISTENER,
        nowhere,
        Uses::LISTEN,
    ));
    let outcome = fw.wire(INTRA, tcp(&tcp_tuple(CLIENT, LISTENER), RST, 1, 0, b""));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlow));
    fw.wire(INTRA, ack(CLIENT, LISTENER, b"x")).to_stack();
    let flow = fw.flow();
    assert_eq!(flow.state, FlowState::PickedUp);
    assert_eq!(flow.flow.owner, OWNER);
}

/// The socket has gone, its endpoint is still taken: a plain listener that has it now is
/// reached, and answers as it is.
#[test]
fn a_plain_listener_has_an_endpoint_after_its_registration() {
    let mut fw = Firewall::new();
    let id = fw.register(&listener());
    fw.open(CLIENT, FOREIGN, 1000);
    fw.withdraw(id);
    // The old connection has the client's name, as long as it lives.
    let seen = fw.wire(INTRA, syn(CLIENT, LISTENER, 1)).to_stack().tuple;
    assert_eq!(seen.dst, LISTENER);
    assert_eq!(seen.src.addr, CLIENT.addr);
    assert_ne!(seen.src.port, CLIENT.port);
    let answer = fw
        .stack(INTRA, syn_ack(LISTENER, seen.src, 1, 2))
        .to_wire(INTRA);
    assert_eq!(answer.tuple, tcp_tuple(LISTENER, CLIENT));
    let other = Endpoint::new(CLIENT.addr, 41_000);
    assert_eq!(
        fw.open(other, LISTENER, 1).tuple,
        tcp_tuple(other, LISTENER)
    );
    let owners: Vec<_> = fw
        .flows
        .iter()
        .filter(|seen| seen.flow.kind == Kind::Local)
        .map(|seen| seen.flow.owner)
        .collect();
    assert_eq!(owners, [OwnerId::NOBODY; 2]);
    assert_eq!(fw.flows.owned_by(OWNER), 1);
}

/// Only what begins a connection makes such a flow, and only as long as there is a reason.
#[test]
fn nothing_else_makes_a_flow_to_a_plain_socket() {
    let frames = [
        ack(CLIENT, LISTENER, b"x"),
        syn_ack(CLIENT, LISTENER, 1, 2),
        udp(&udp_tuple(CLIENT, LISTENER), b"x"),
    ];
    for (diverted, frame) in [0, 1]
        .into_iter()
        .flat_map(|diverted| frames.iter().map(move |frame| (diverted, frame)))
        .chain([(0, &syn(CLIENT, LISTENER, 1))])
    {
        let mut fw = Firewall::new();
        fw.registrations.set_diverted(diverted);
        fw.wire(INTRA, frame.clone()).to_stack();
        assert_eq!(fw.flows.counts().live, 0);
    }
    // What is not the box's own is not delivered, whatever is registered.
    let mut fw = Firewall::new();
    fw.registrations.set_diverted(1);
    let outcome = fw.wire(INTRA, syn(CLIENT, FOREIGN, 1));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForwardDenied));
}
