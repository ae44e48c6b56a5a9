//! xtp_steer, frame by frame, by BPF_PROG_TEST_RUN: what passes and what is
//! diverted.

mod around;
mod errors;
#[path = "../fixture/mod.rs"]
mod fixture;
mod guard;
mod own;
mod parsing;
mod socket;

use std::net::{Ipv4Addr, Ipv6Addr};

use fixture::*;

const OWN6: &str = "2001:db8::1";

fn bench() -> Bench {
    with_addresses(Bench::with_socket(&config()))
}

/// The own address; TCP 3128..=3130 of it is taken.
fn with_addresses(mut bench: Bench) -> Bench {
    let own6: Ipv6Addr = OWN6.parse().unwrap();
    bench
        .program
        .set_addresses(&[(OWN, vec![taken(TCP, 3128..=3130)])], &[own6])
        .unwrap();
    bench
}

fn udp_to(dst: Ipv4Addr, dport: u16) -> Vec<u8> {
    arriving(&ipv4(CLIENT, dst, UDP, 0, &ports(40_000, dport)))
}

fn v6_to(dst: &str) -> Vec<u8> {
    eth(NIC, NEIGHBOUR, 0x86dd, &ipv6(dst.parse().unwrap()))
}

#[test]
fn transit_is_diverted() {
    let bench = bench();
    for frame in [
        tcp_to(SERVER, 80),
        udp_to(SERVER, 53),
        arriving(&ipv4(CLIENT, SERVER, ICMP, 0, &[8; 8])),
    ] {
        assert_eq!(bench.steer(&frame), ("divert_transit", XDP_REDIRECT));
    }
    assert_eq!(
        bench.steer(&v6_to("2001:db8::2")),
        ("divert_ipv6", XDP_REDIRECT)
    );
}

#[test]
fn what_is_for_the_box_passes() {
    let bench = bench();
    assert_eq!(bench.steer(&tcp_to(OWN, 22)), ("pass_own", XDP_PASS));
    assert_eq!(bench.steer(&udp_to(OWN, 3128)), ("pass_own", XDP_PASS));
    assert_eq!(bench.steer(&v6_to(OWN6)), ("pass_ipv6_own", XDP_PASS));
    let ping = arriving(&ipv4(CLIENT, OWN, ICMP, 0, &[8, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(bench.steer(&ping), ("pass_own", XDP_PASS));
}

#[test]
fn what_is_not_ip_passes() {
    let bench = bench();
    for ethertype in [0x0806, 0x88cc, 0x8863, 0x0100] {
        assert_eq!(
            bench.steer(&eth(NIC, NEIGHBOUR, ethertype, &[0; 46])),
            ("pass_non_ip", XDP_PASS)
        );
    }
    let arp_request = eth([0xff; 6], NEIGHBOUR, 0x0806, &[0; 46]);
    assert_eq!(bench.steer(&arp_request), ("pass_multicast", XDP_PASS));
}

#[test]
fn group_addresses_pass() {
    let bench = bench();
    let packet = ipv4(CLIENT, SERVER, UDP, 0, &ports(68, 67));
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        assert_eq!(
            bench.steer(&eth(mac, NEIGHBOUR, 0x0800, &packet)),
            ("pass_multicast", XDP_PASS)
        );
    }
    for dst in ["224.0.0.5", "239.255.255.250", "255.255.255.255"] {
        assert_eq!(
            bench.steer(&udp_to(dst.parse().unwrap(), 67)),
            ("pass_multicast", XDP_PASS),
            "{dst}"
        );
    }
    for dst in ["223.255.255.255", "240.0.0.1"] {
        assert_eq!(
            bench.steer(&udp_to(dst.parse().unwrap(), 67)),
            ("divert_transit", XDP_REDIRECT),
            "{dst}"
        );
    }
    // Neighbour discovery: to the solicited-node group, and to a link-local address.
    assert_eq!(
        bench.steer(&v6_to("ff02::1:ff00:1")),
        ("pass_ipv6_multicast", XDP_PASS)
    );
    assert_eq!(
        bench.steer(&v6_to("fe80::1")),
        ("pass_ipv6_link_local", XDP_PASS)
    );
    assert_eq!(
        bench.steer(&v6_to("febf::1")),
        ("pass_ipv6_link_local", XDP_PASS)
    );
    assert_eq!(
        bench.steer(&v6_to("fec0::1")),
        ("divert_ipv6", XDP_REDIRECT)
    );
}

/// The kernel drops what is for another host; but a port that has just got a new MAC address
/// is not yet another host, and the kernel would forward.
#[test]
fn frames_of_other_hosts_pass_unless_they_are_transit() {
    let mut near = NIC;
    near[0] ^= 0x40;
    for mac in [STRANGER, near] {
        let transit = ipv4(CLIENT, SERVER, TCP, 0, &ports(1, 2));
        let transit = eth(mac, NEIGHBOUR, 0x0800, &transit);
        assert_eq!(bench().steer(&transit), ("drop_other_host", XDP_DROP));
        let open = xdp_prog::PortConfig {
            open: true,
            ..config()
        };
        let open = with_addresses(Bench::with_socket(&open));
        assert_eq!(open.steer(&transit), ("pass_other_host", XDP_PASS));
        for to in [OWN, Ipv4Addr::new(224, 0, 0, 5), Ipv4Addr::BROADCAST] {
            let own = ipv4(CLIENT, to, TCP, 0, &ports(1, 2));
            let own = eth(mac, NEIGHBOUR, 0x0800, &own);
            assert_eq!(bench().steer(&own), ("pass_other_host", XDP_PASS));
        }
        let arp = eth(mac, NEIGHBOUR, 0x0806, &[0; 28]);
        assert_eq!(bench().steer(&arp), ("pass_other_host", XDP_PASS));
        let taken = ipv4(CLIENT, OWN, TCP, 0, &ports(1, 3128));
        let taken = eth(mac, NEIGHBOUR, 0x0800, &taken);
        for bench in [bench(), open] {
            assert_eq!(bench.steer(&taken), ("drop_other_host", XDP_DROP));
        }
    }
}
