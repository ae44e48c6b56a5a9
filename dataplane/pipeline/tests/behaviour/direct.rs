//! Packets to a registered local endpoint itself.

use pipeline::{DropReason, Verdict};
use tables::{FlowState, Kind, Registration, Uses};
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

/// The socket has gone, its endpoint is still taken: what comes to it is delivered to whoever
/// has it now, and no answer leaves.
#[test]
fn an_endpoint_without_its_registration_makes_no_flow() {
    let mut fw = Firewall::new();
    let id = fw.register(&listener());
    fw.withdraw(id);
    fw.wire(INTRA, syn(CLIENT, LISTENER, 1)).to_stack();
    assert_eq!(fw.flows.counts().live, 0);
    let outcome = fw.stack(INTRA, syn_ack(LISTENER, CLIENT, 1, 2));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
}
