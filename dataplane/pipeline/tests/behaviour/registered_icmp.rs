//! ICMP errors about packets of registered flows, from inside and outside.

use pipeline::{DropReason, Event, Verdict};
use tables::Registration;
use wire::{Endpoint, Protocol};

use crate::fixture::*;

const ROUTER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 51, 100, 254);
const KEPT: [usize; 2] = [usize::MAX, 28];

fn first_packet(proto: Protocol, src: Endpoint, dst: Endpoint) -> Vec<u8> {
    match proto {
        Protocol::TCP => syn(src, dst, 1000),
        _ => udp(&udp_tuple(src, dst), b"datagram"),
    }
}

fn tuple(proto: Protocol, src: Endpoint, dst: Endpoint) -> wire::Tuple {
    wire::Tuple { proto, src, dst }
}

#[test]
fn an_error_about_a_foreign_connection_reaches_its_socket_in_its_own_terms() {
    for proto in [Protocol::TCP, Protocol::UDP] {
        for kept in KEPT {
            let mut fw = Firewall::new();
            fw.register(&Registration { proto, ..caller() });
            let sent = fw.stack(INTER, first_packet(proto, CALLER, SERVER)).frame;
            let before = fw.flow();
            fw.now_ns += SECOND;
            let error = icmp_error(ROUTER, CLIENT.addr, &sent, kept);
            let seen = fw.wire(INTER, error).to_stack();
            assert_eq!(seen.tuple.src.addr, ROUTER);
            assert_eq!(seen.tuple.dst.addr, CALLER.addr);
            assert_eq!(seen.embedded, Some(tuple(proto, CALLER, SERVER)));
            assert_eq!(seen.mac_dst, MARKS.to_stack(INTER));
            assert_eq!(fw.flow(), before, "an error is no packet of the flow");
            assert_eq!(fw.counters.events(Event::IcmpTranslated), 1);
        }
    }
}

#[test]
fn fragmentation_needed_keeps_its_mtu() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    fw.stack(INTER, syn(CALLER, SERVER, 1)).to_wire(INTER);
    let big = fw.stack(INTER, ack(CALLER, SERVER, &[b'x'; 1400])).frame;
    let error = fw.wire(INTER, too_big(ROUTER, CLIENT.addr, &big, 1280));
    let seen = error.to_stack();
    assert_eq!(seen.embedded, Some(tcp_tuple(CALLER, SERVER)));
    assert_eq!(seen.tuple.dst.addr, CALLER.addr);
    // Type, code, checksum, two unused bytes, MTU.
    assert_eq!(error.frame[34..36], [3, 4]);
    assert_eq!(error.frame[40..42], 1280_u16.to_be_bytes());
}

#[test]
fn an_error_of_the_box_about_an_answer_reaches_the_server_as_the_foreign_hosts() {
    for proto in [Protocol::TCP, Protocol::UDP] {
        for kept in KEPT {
            let mut fw = Firewall::new();
            fw.register(&Registration { proto, ..caller() });
            fw.stack(INTER, first_packet(proto, CALLER, SERVER))
                .to_wire(INTER);
            let got = fw.wire(INTER, first_packet(proto, SERVER, CLIENT)).frame;
            let error = icmp_error(CALLER.addr, SERVER.addr, &got, kept);
            let seen = fw.stack(INTER, error).to_wire(INTER);
            assert_eq!(seen.tuple.src.addr, CLIENT.addr);
            assert_eq!(seen.tuple.dst.addr, SERVER.addr);
            assert_eq!(seen.embedded, Some(tuple(proto, SERVER, CLIENT)));
            assert_eq!(seen.mac_src, PORT_MACS[1]);
        }
    }
}

#[test]
fn errors_about_a_foreign_listeners_packets_are_translated_both_ways() {
    for proto in [Protocol::TCP, Protocol::UDP] {
        for kept in KEPT {
            let mut fw = Firewall::new();
            let uses = if proto == Protocol::UDP {
                UNIDIR
            } else {
                listener().uses
            };
            fw.register(&Registration {
                proto,
                uses,
                ..listener()
            });
            let got = fw.wire(INTRA, first_packet(proto, CLIENT, FOREIGN)).frame;
            let error = icmp_error(LISTENER.addr, CLIENT.addr, &got, kept);
            let seen = fw.stack(INTRA, error).to_wire(INTRA);
            assert_eq!(seen.tuple.src.addr, FOREIGN.addr);
            assert_eq!(seen.embedded, Some(tuple(proto, CLIENT, FOREIGN)));

            let answer = match proto {
                Protocol::TCP => syn_ack(LISTENER, CLIENT, 1, 1001),
                _ => udp(&udp_tuple(LISTENER, CLIENT), b"answer"),
            };
            let answer = fw.stack(INTRA, answer).frame;
            let error = icmp_error(CLIENT.addr, FOREIGN.addr, &answer, kept);
            let seen = fw.wire(INTRA, error).to_stack();
            assert_eq!(seen.tuple.dst.addr, LISTENER.addr);
            assert_eq!(seen.embedded, Some(tuple(proto, LISTENER, CLIENT)));
        }
    }
}

#[test]
fn an_error_that_knows_only_the_local_endpoint_is_believed_by_no_flow() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    fw.stack(INTER, syn(CALLER, SERVER, 1)).to_wire(INTER);
    // As the stack sent it: nobody on the wire has seen that.
    let about = syn(CALLER, SERVER, 1);
    let error = icmp_error(ROUTER, CLIENT.addr, &about, usize::MAX);
    let outcome = fw.wire(INTER, error);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::IcmpNoFlow));
    assert_eq!(fw.counters.events(Event::IcmpTranslated), 0);
}
