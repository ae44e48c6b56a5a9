//! Where else an endpoint counts: management before it, no way around it, its
//! address gone.

use std::net::Ipv4Addr;

use xdp_prog::Direction::{Both, Inbound, Outbound};
use xdp_prog::Management;

use crate::fixture::*;
use crate::{DIVERT, PASS, at, gap_passes, leaves, of, to};

fn lan(ports: std::ops::RangeInclusive<u16>) -> Management {
    Management {
        network: CLIENT,
        prefix_len: 24,
        proto: TCP,
        ports,
    }
}

#[test]
fn management_comes_before_endpoints() {
    let (mut endpoints, bench) = of(TCP, 22, Both);
    endpoints.divert(TCP, at(23), Both).unwrap();
    bench.program.set_management(&[lan(22..=22)]).unwrap();
    let inbound = |port, fragment| bench.steer(&to(OWN, TCP, port, fragment));
    assert_eq!(inbound(22, 0), ("pass_management", XDP_PASS));
    assert_eq!(inbound(23, 0), DIVERT);
    assert_eq!(inbound(1, 185), ("pass_management", XDP_PASS));
    let native = bench.egress(&leaving(OWN, TCP, 22, 0));
    assert_eq!(
        (native.counter, native.verdict),
        ("egress_management", TC_UNSPEC)
    );
    assert!(!leaves(&bench, &leaving(OWN, TCP, 23, 0)));
    assert!(!leaves(&bench, &leaving(OWN, TCP, 1, 185)));
}

#[test]
fn taken_ranges_and_endpoints_stand_side_by_side() {
    let (mut endpoints, mut bench) = of(TCP, 5000, Both);
    bench
        .program
        .set_addresses(&[(OWN, vec![taken(TCP, 3128..=3130)])], &[])
        .unwrap();
    endpoints.divert(TCP, at(3129), Both).unwrap();
    for port in [3128, 3129, 3130, 5000] {
        assert_eq!(bench.steer(&to(OWN, TCP, port, 0)), DIVERT, "{port}");
        assert!(!leaves(&bench, &leaving(OWN, TCP, port, 0)), "{port}");
    }
    endpoints.release(TCP, at(3129), Both).unwrap();
    assert_eq!(bench.steer(&to(OWN, TCP, 3129, 0)), DIVERT);
    assert!(!leaves(&bench, &leaving(OWN, TCP, 3129, 0)));
}

/// UDP listens to a group's frames, and the kernel to another host's after a change of address.
#[test]
fn no_other_hardware_address_leads_around_the_worker() {
    for (direction, guarded) in [(Inbound, true), (Outbound, false)] {
        let (_endpoints, bench) = of(UDP, 5000, direction);
        for port in [5000, 5001] {
            let packet = ipv4(CLIENT, OWN, UDP, 0, &ports(1, port));
            let to_group = bench.steer(&eth([0xff; 6], NEIGHBOUR, 0x0800, &packet));
            let to_other = bench.steer(&eth(STRANGER, NEIGHBOUR, 0x0800, &packet));
            if guarded && port == 5000 {
                assert_eq!(to_group, ("drop_group_mac", XDP_DROP));
                assert_eq!(to_other, ("drop_other_host", XDP_DROP));
            } else {
                assert_eq!(to_group, ("pass_multicast", XDP_PASS));
                assert_eq!(to_other, ("pass_other_host", XDP_PASS));
            }
        }
    }
}

#[test]
fn the_gap_is_closed_to_what_comes_to_an_endpoint() {
    let (_endpoints, bench) = of(UDP, 5000, Inbound);
    assert!(!gap_passes(&bench, &to(OWN, UDP, 5000, 0)));
    assert!(!gap_passes(&bench, &to(OWN, UDP, 1, 185)));
    assert!(gap_passes(&bench, &to(OWN, UDP, 5001, 0)));
    assert!(gap_passes(&bench, &to(OWN, TCP, 5000, 0)));
}

/// The ports hear of addresses later than the sockets that are bound to them.
#[test]
fn an_endpoint_counts_while_its_address_is_not_the_boxs() {
    let (_endpoints, mut bench) = of(UDP, 5000, Both);
    let elsewhere = Ipv4Addr::new(10, 9, 9, 9);
    bench
        .program
        .set_addresses(&[(elsewhere, vec![])], &[])
        .unwrap();
    let transit = ("divert_transit", XDP_REDIRECT);
    assert_eq!(bench.steer(&to(OWN, UDP, 5000, 0)), transit);
    assert!(!leaves(&bench, &leaving(OWN, UDP, 5000, 0)));
    assert!(!leaves(&bench, &leaving(OWN, UDP, 1, 185)));
    assert!(leaves(&bench, &leaving(OWN, UDP, 5001, 0)));
    let packet = ipv4(CLIENT, OWN, UDP, 0, &ports(1, 5000));
    let to_group = eth([0xff; 6], NEIGHBOUR, 0x0800, &packet);
    assert_eq!(bench.steer(&to_group), ("drop_group_mac", XDP_DROP));
    assert_eq!(bench.steer(&to(elsewhere, UDP, 5000, 0)), PASS);
}

#[test]
fn without_the_daemon_nothing_comes_or_leaves_by_another_way() {
    let (endpoints, mut bench) = of(TCP, 5000, Both);
    drop(endpoints);
    bench.close_socket();
    let verdict = bench.steer(&to(OWN, TCP, 5000, 0));
    assert_eq!(verdict, ("no_socket_dropped", XDP_DROP));
    assert_eq!(bench.steer(&to(OWN, TCP, 5001, 0)), PASS);
    assert!(!leaves(&bench, &leaving(OWN, TCP, 5000, 0)));
}
