//! Checksums that their sender left to a NIC are completed, not patched.

use wire::Protocol;

use crate::fixture::*;

#[test]
fn a_partial_tcp_checksum_is_completed_before_it_is_changed() {
    let mut fw = Firewall::new();
    let partial = |frame| with_partial_checksum(frame);
    // Reading checks it.
    let seen = fw
        .wire(INTRA, partial(syn(CLIENT, SERVER, 1000)))
        .to_stack();
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
    let seen = fw
        .stack(INTRA, partial(syn_ack(PROXY, CLIENT, 2000, 1001)))
        .to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(SERVER, CLIENT));
    let seen = fw
        .slow(INTRA, partial(ack(CLIENT, SERVER, b"odd")))
        .to_stack();
    assert_eq!(seen.payload, b"odd");
    let mut padded = partial(ack(CLIENT, SERVER, b"x"));
    padded.resize(60, 0xee);
    assert_eq!(fw.wire(INTRA, padded).to_stack().payload, b"x");
}

#[test]
fn a_partial_udp_checksum_is_completed_and_none_stays_none() {
    let mut rule = redirect(53, PROXY);
    rule.proto = policy::Test::Is(Protocol::UDP);
    let mut fw = Firewall::with_rules(vec![rule]);
    let dns = wire::Endpoint::new(SERVER.addr, 53);
    let question = || udp(&udp_tuple(CLIENT, dns), b"?");
    let seen = fw.wire(INTRA, with_partial_checksum(question()));
    assert_eq!(seen.to_stack().tuple, udp_tuple(CLIENT, PROXY));
    assert_ne!(seen.frame[40..42], [0, 0]);
    let mut none = question();
    none[40..42].fill(0);
    let seen = fw.wire(INTRA, none);
    assert_eq!(seen.to_stack().tuple, udp_tuple(CLIENT, PROXY));
    assert_eq!(seen.frame[40..42], [0, 0]);
}

#[test]
fn what_is_delivered_without_a_flow_is_completed_too() {
    let mut fw = Firewall::new();
    let shell = wire::Endpoint::new(OWN_INTRA, 22);
    let seen = fw.wire(INTRA, with_partial_checksum(syn(CLIENT, shell, 1)));
    assert_eq!(seen.to_stack().tuple, tcp_tuple(CLIENT, shell));
}
