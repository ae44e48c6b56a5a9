//! Which packets open something, so that their socket is asked for. The socket of a dry run is
//! one that nobody watches.

use xdp_prog::Direction::Outbound;
use xdp_prog::Endpoints;

use crate::fixture::*;
use crate::{at, of};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// TCP from the endpoint, with so many bytes of IPv4 options before it.
fn segment(flags: u8, options: usize) -> Vec<u8> {
    let mut tcp = ports(5000, 80);
    tcp[13] = flags;
    let mut packet = ipv4(OWN, CLIENT, TCP, 0, &[&vec![1; options], &tcp[..]].concat());
    packet[0] = 0x45 + u8::try_from(options / 4).unwrap();
    eth(NEIGHBOUR, NIC, 0x0800, &packet)
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    let inner = vlan(5, 0x0800, &frame[14..]);
    eth(NEIGHBOUR, NIC, 0x88a8, &vlan(6, 0x8100, &inner))
}

/// What says whether its socket was asked for.
fn counter(bench: &Bench, frame: &[u8]) -> &'static str {
    let outcome = bench.egress(frame);
    assert_eq!(outcome.verdict, TC_REDIRECT, "{frame:02x?}");
    let mark = match outcome.counter {
        "egress_stranger" => FROM_STRANGER,
        _ => FROM_STACK,
    };
    assert_eq!(outcome.frame[6..12], mark);
    outcome.counter
}

#[test]
fn of_tcp_the_first_segment_opens() {
    let (_endpoints, bench) = of(TCP, 5000, Outbound);
    for options in [0, 4, 40] {
        // With congestion notification, too.
        for flags in [SYN, SYN | 0xc0] {
            let syn = segment(flags, options);
            assert_eq!(counter(&bench, &syn), "egress_stranger");
            assert_eq!(counter(&bench, &tagged(&syn)), "egress_stranger");
        }
        for flags in [0, ACK, SYN | ACK, ACK | 0x08, ACK | 0x01, 0x04] {
            let other = segment(flags, options);
            assert_eq!(counter(&bench, &other), "egress_diverted", "{flags:#x}");
            assert_eq!(counter(&bench, &tagged(&other)), "egress_diverted");
        }
    }
}

#[test]
fn what_is_cut_between_ports_and_flags_may_open() {
    let (_endpoints, bench) = of(TCP, 5000, Outbound);
    let whole = segment(ACK, 0);
    for cut in 38..48 {
        assert_eq!(counter(&bench, &whole[..cut]), "egress_stranger", "{cut}");
    }
    assert_eq!(counter(&bench, &whole[..48]), "egress_diverted");
}

#[test]
fn of_udp_all_but_a_tail_opens() {
    let (_endpoints, bench) = of(UDP, 5000, Outbound);
    let of_fragment = |fragment| counter(&bench, &leaving(OWN, UDP, 5000, fragment));
    assert_eq!(of_fragment(0), "egress_stranger");
    assert_eq!(of_fragment(0x2000), "egress_stranger");
    assert_eq!(of_fragment(0x2000 | 185), "egress_diverted");
    assert_eq!(of_fragment(185), "egress_diverted");
}

#[test]
fn a_proxys_range_asks_for_nobody_unless_an_endpoint_fits_as_well() {
    let mut endpoints = Endpoints::create(4).unwrap();
    let mut bench = Bench::sharing(&config(), &endpoints.map());
    let range = vec![taken(0, 5000..=5001)];
    bench.program.set_addresses(&[(OWN, range)], &[]).unwrap();
    let both = |port| {
        let syn = {
            let mut syn = segment(SYN, 0);
            syn[34..36].copy_from_slice(&u16::to_be_bytes(port));
            syn
        };
        let datagram = leaving(OWN, UDP, port, 0);
        [counter(&bench, &syn), counter(&bench, &datagram)]
    };
    assert_eq!(both(5000), ["egress_diverted"; 2]);
    for proto in [TCP, UDP] {
        endpoints.divert(proto, at(5000), Outbound).unwrap();
    }
    assert_eq!(both(5000), ["egress_stranger"; 2]);
    assert_eq!(both(5001), ["egress_diverted"; 2]);
}
