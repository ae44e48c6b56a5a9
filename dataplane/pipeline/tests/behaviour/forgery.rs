//! What the wire cannot make the firewall believe.

use pipeline::{DropReason, Ingress, Verdict};

use crate::fixture::*;

#[test]
fn a_reply_forged_on_the_wire_is_not_translated() {
    for port in [INTRA, INTER] {
        let mut fw = Firewall::new();
        fw.open(CLIENT, SERVER, 1000);
        let forged = [
            syn_ack(PROXY, CLIENT, 6000, 1001),
            ack(PROXY, CLIENT, b"forged"),
            tcp(&tcp_tuple(PROXY, CLIENT), FIN | ACK, 1, 1, b""),
        ];
        for (at, frame) in forged.into_iter().enumerate() {
            // Answered by a reset for what it claims to be; nothing goes to the client.
            let outcome = match at {
                0 | 1 => fw.wire(port, frame),
                _ => fw.slow(port, frame),
            };
            let seen = outcome.to_wire(port);
            assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
            assert_eq!(seen.flags & RST, RST);
            assert_eq!(seen.payload, b"");
        }
        let rst = fw.wire(port, tcp(&tcp_tuple(PROXY, CLIENT), RST, 1, 0, b""));
        assert_eq!(rst.verdict, Verdict::Drop(DropReason::Loop));
        assert_eq!(fw.counters.drops(DropReason::Loop), 4);
        assert_eq!(fw.flow().reply.packets, 0);
        assert_eq!(fw.flow().state, tables::FlowState::SynSent);
    }
}

#[test]
fn a_mark_on_a_nic_means_nothing() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    // As if from the stack, but it came in by a NIC.
    let mut frame = syn_ack(PROXY, CLIENT, 6000, 1001);
    frame[..6].copy_from_slice(&NEIGHBOUR.0);
    frame[6..12].copy_from_slice(&MARKS.from_stack(INTRA).0);
    let outcome = fw.one(Ingress::Port(INTRA), frame);
    assert_eq!(outcome.to_wire(INTRA).tuple, tcp_tuple(CLIENT, PROXY));
    assert_eq!(fw.counters.drops(DropReason::Loop), 1);
    assert_eq!(fw.flow().reply.packets, 0);
}

#[test]
fn marks_of_another_run_are_none() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    let old = pipeline::Marks::new([1, 2, 3]);
    for mac in [
        old.from_stack(INTRA),
        old.to_stack(INTRA),
        MARKS.to_stack(INTRA),
    ] {
        let mut frame = syn_ack(PROXY, CLIENT, 6000, 1001);
        frame[6..12].copy_from_slice(&mac.0);
        let outcome = fw.one(Ingress::HostPort, frame);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::Unmarked));
    }
    assert_eq!(fw.flow().reply.packets, 0);
}

#[test]
fn the_stack_cannot_speak_for_a_client() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    let outcome = fw.stack(INTRA, ack(CLIENT, SERVER, b"x"));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
    assert_eq!(fw.flow().orig.packets, 1);
}

#[test]
fn a_connection_from_the_stack_starts_at_the_box_and_leads_away_from_it() {
    let mut fw = Firewall::new();
    for (src, dst) in [(CLIENT, SERVER), (CLIENT, PROXY), (PROXY, PROXY2)] {
        let outcome = fw.stack(INTER, syn(src, dst, 1));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
    }
    assert_eq!(fw.flows.counts().live, 0);
}
