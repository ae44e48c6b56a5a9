//! Single endpoints: what is diverted on every port, frame by frame by
//! BPF_PROG_TEST_RUN, and with real sockets.

#[path = "../fixture/mod.rs"]
mod fixture;
mod guard;
mod live;
#[path = "../netns/mod.rs"]
mod netns;
mod opening;
mod senders;
mod users;
mod waiting;
#[path = "../wires/mod.rs"]
mod wires;

use std::net::{Ipv4Addr, SocketAddrV4};

use fixture::*;
use xdp_prog::Direction::{self, Both, Inbound, Outbound};
use xdp_prog::{Endpoints, PortHook};

const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 1);
const PASS: (&str, u32) = ("pass_own", XDP_PASS);
const DIVERT: (&str, u32) = ("divert_taken", XDP_REDIRECT);

fn at(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(OWN, port)
}

/// A port with two own addresses of which nothing is taken.
fn bench(endpoints: &Endpoints) -> Bench {
    let mut bench = Bench::sharing(&config(), &endpoints.map()).opened();
    bench
        .program
        .set_addresses(&[(OWN, vec![]), (OTHER, vec![])], &[])
        .unwrap();
    bench
}

fn of(proto: u8, port: u16, direction: Direction) -> (Endpoints, Bench) {
    let mut endpoints = Endpoints::create(16).unwrap();
    let bench = bench(&endpoints);
    endpoints.divert(proto, at(port), direction).unwrap();
    (endpoints, bench)
}

fn to(dst: Ipv4Addr, proto: u8, port: u16, fragment: u16) -> Vec<u8> {
    arriving(&ipv4(CLIENT, dst, proto, fragment, &ports(40_000, port)))
}

/// A datagram or its first fragment: the TCP of the fixture has no flags.
fn may_open(frame: &[u8]) -> bool {
    frame[23] == UDP && frame[20..22] == [0, 0] && frame.len() >= 38
}

fn leaves(bench: &Bench, frame: &[u8]) -> bool {
    let outcome = bench.egress(frame);
    match (outcome.counter, outcome.verdict) {
        ("egress_native", TC_UNSPEC) => {
            assert_eq!(outcome.frame, frame);
            true
        }
        ("egress_diverted" | "egress_stranger", TC_REDIRECT) => {
            // The socket of a dry run is not a watched one.
            let marked = outcome.counter == "egress_stranger";
            assert_eq!(marked, may_open(frame), "{frame:02x?}");
            let mark = if marked { FROM_STRANGER } else { FROM_STACK };
            assert_eq!(outcome.frame[6..12], mark);
            assert_eq!(outcome.frame[12..], frame[12..]);
            false
        }
        other => panic!("{other:?} for {frame:02x?}"),
    }
}

#[test]
fn what_comes_to_an_endpoint_is_diverted_and_nothing_else() {
    for (direction, want) in [(Inbound, DIVERT), (Outbound, PASS), (Both, DIVERT)] {
        for (proto, other) in [(TCP, UDP), (UDP, TCP)] {
            let (_endpoints, bench) = of(proto, 5000, direction);
            assert_eq!(bench.steer(&to(OWN, proto, 5000, 0)), want, "{direction:?}");
            for elsewhere in [
                to(OWN, proto, 4999, 0),
                to(OWN, proto, 5001, 0),
                to(OWN, proto, 0x8813, 0),
                to(OWN, other, 5000, 0),
                to(OTHER, proto, 5000, 0),
                arriving(&ipv4(CLIENT, OWN, ICMP, 0, &[8, 0, 0, 0, 0, 0, 0, 0])),
            ] {
                assert_eq!(bench.steer(&elsewhere), PASS, "{direction:?}");
            }
            let from_its_port = ipv4(CLIENT, OWN, proto, 0, &ports(5000, 9));
            assert_eq!(bench.steer(&arriving(&from_its_port)), PASS);
        }
    }
}

#[test]
fn what_an_endpoint_sends_is_diverted_and_nothing_else() {
    for (direction, native) in [(Inbound, true), (Outbound, false), (Both, false)] {
        for (proto, other) in [(TCP, UDP), (UDP, TCP)] {
            let (_endpoints, bench) = of(proto, 5000, direction);
            let frame = leaving(OWN, proto, 5000, 0);
            assert_eq!(leaves(&bench, &frame), native, "{direction:?}");
            for elsewhere in [
                leaving(OWN, proto, 4999, 0),
                leaving(OWN, proto, 5001, 0),
                leaving(OWN, other, 5000, 0),
                leaving(OTHER, proto, 5000, 0),
                eth([0xff; 6], NIC, 0x0806, &[0; 46]),
            ] {
                assert!(leaves(&bench, &elsewhere), "{direction:?}");
            }
        }
    }
}

/// An ICMP error of the box about a packet.
fn error_about(about: &[u8]) -> Vec<u8> {
    let icmp = [&[3, 3, 0, 0, 0, 0, 0, 0][..], about].concat();
    eth(NEIGHBOUR, NIC, 0x0800, &ipv4(OWN, CLIENT, ICMP, 0, &icmp))
}

#[test]
fn errors_about_packets_to_an_endpoint_are_diverted() {
    let (_inbound, bench_in) = of(UDP, 5000, Inbound);
    let (_outbound, bench) = of(UDP, 5000, Outbound);
    let about = |port, fragment| ipv4(CLIENT, OWN, UDP, fragment, &ports(40_000, port));
    let error = error_about(&about(5000, 0));
    assert!(!leaves(&bench, &error));
    assert!(leaves(&bench_in, &error));
    assert!(leaves(&bench, &error_about(&about(5001, 0))));
    let answer = ipv4(OWN, CLIENT, UDP, 0, &ports(5000, 40_000));
    assert!(leaves(&bench, &error_about(&answer)));
    // In doubt about the port.
    assert!(!leaves(&bench, &error_about(&about(1, 185))));
    assert!(!leaves(&bench, &error_about(&about(1, 0)[..22])));
    assert!(leaves(&bench_in, &error_about(&about(1, 185))));
}

#[test]
fn in_doubt_about_its_port_a_packet_is_diverted_while_an_endpoint_is_there() {
    let (mut endpoints, bench) = of(TCP, 5000, Inbound);
    endpoints.divert(UDP, at(6000), Outbound).unwrap();
    endpoints.divert(UDP, at(6001), Both).unwrap();
    const TAIL: u16 = 185;
    assert_eq!(bench.steer(&to(OWN, TCP, 1, TAIL)), DIVERT);
    assert_eq!(bench.steer(&to(OWN, UDP, 1, TAIL)), DIVERT);
    assert_eq!(bench.steer(&to(OTHER, TCP, 1, TAIL)), PASS);
    assert!(leaves(&bench, &leaving(OWN, TCP, 1, TAIL)));
    assert!(!leaves(&bench, &leaving(OWN, UDP, 1, TAIL)));
    assert!(leaves(&bench, &leaving(OTHER, UDP, 1, TAIL)));
    for cut in 34..38 {
        assert_eq!(bench.steer(&to(OWN, TCP, 1, 0)[..cut]), DIVERT);
        assert!(!leaves(&bench, &leaving(OWN, UDP, 1, 0)[..cut]));
    }
    // The last with a direction takes it along, the others stay.
    endpoints.release(UDP, at(6001), Both).unwrap();
    assert_eq!(bench.steer(&to(OWN, UDP, 1, TAIL)), PASS);
    assert!(!leaves(&bench, &leaving(OWN, UDP, 1, TAIL)));
    endpoints.release(UDP, at(6000), Outbound).unwrap();
    assert!(leaves(&bench, &leaving(OWN, UDP, 1, TAIL)));
    assert_eq!(bench.steer(&to(OWN, TCP, 1, TAIL)), DIVERT);
    endpoints.release(TCP, at(5000), Inbound).unwrap();
    assert_eq!(bench.steer(&to(OWN, TCP, 1, TAIL)), PASS);
}

#[test]
fn a_packet_that_says_port_0_is_no_tail() {
    let (_endpoints, bench) = of(UDP, 5000, Both);
    assert_eq!(bench.steer(&to(OWN, UDP, 0, 0)), PASS);
    assert!(leaves(&bench, &leaving(OWN, UDP, 0, 0)));
}

#[test]
fn every_port_sees_a_change_at_once() {
    let mut endpoints = Endpoints::create(16).unwrap();
    let benches = [bench(&endpoints), bench(&endpoints)];
    let stranger = bench(&Endpoints::create(16).unwrap());
    let see = |want| {
        for bench in &benches {
            assert_eq!(bench.steer(&to(OWN, UDP, 5000, 0)), want);
            assert_eq!(leaves(bench, &leaving(OWN, UDP, 5000, 0)), want == PASS);
        }
        assert_eq!(stranger.steer(&to(OWN, UDP, 5000, 0)), PASS);
    };
    see(PASS);
    endpoints.divert(UDP, at(5000), Both).unwrap();
    see(DIVERT);
    endpoints.release(UDP, at(5000), Both).unwrap();
    see(PASS);
    endpoints.divert(UDP, at(5000), Both).unwrap();
    see(DIVERT);
    // Loaded later, it sees the same; and nothing changes when the loader goes.
    let late = bench(&endpoints);
    assert_eq!(late.steer(&to(OWN, UDP, 5000, 0)), DIVERT);
    drop(endpoints);
    see(DIVERT);
}

/// The hook of a moment without XDP has no counter for what it lets pass.
fn gap_passes(bench: &Bench, frame: &[u8]) -> bool {
    let verdict = bench.program.dry_run(PortHook::Gap, frame).unwrap().verdict;
    assert!(verdict == TC_SHOT || verdict == TC_UNSPEC, "{verdict}");
    verdict == TC_UNSPEC
}
