//! The box's own addresses: taken ranges, management, fragments.

use std::net::Ipv4Addr;

use xdp_prog::{Direction, Management, Taken};

use crate::fixture::*;
use crate::{OWN6, bench, udp_to, v6_to};

#[test]
fn taken_ranges_have_edges_protocols_and_directions() {
    let mut bench = bench();
    for (port, want) in [
        (3127, "pass_own"),
        (3128, "divert_taken"),
        (3130, "divert_taken"),
        (3131, "pass_own"),
    ] {
        assert_eq!(bench.steer(&tcp_to(OWN, port)).0, want, "{port}");
    }
    let icmp_error = arriving(&ipv4(SERVER, OWN, ICMP, 0, &[3, 1, 0, 0, 0, 0, 0, 0]));
    let outbound = Taken {
        proto: UDP,
        ports: 0..=65535,
        direction: Direction::Outbound,
    };
    bench
        .program
        .set_addresses(&[(OWN, vec![outbound, taken(ICMP, 0..=0)])], &[])
        .unwrap();
    assert_eq!(bench.steer(&udp_to(OWN, 5)), ("pass_own", XDP_PASS));
    assert_eq!(bench.steer(&icmp_error), ("divert_taken", XDP_REDIRECT));
    bench
        .program
        .set_addresses(&[(OWN, vec![taken(0, 0..=65535)])], &[])
        .unwrap();
    for frame in [udp_to(OWN, 5), tcp_to(OWN, 22), icmp_error] {
        assert_eq!(bench.steer(&frame), ("divert_taken", XDP_REDIRECT));
    }
}

#[test]
fn the_last_of_32_ranges_counts_and_a_33rd_is_refused() {
    let mut bench = bench();
    let mut ranges: Vec<Taken> = (0..32).map(|n| taken(TCP, 1000 + n..=1000 + n)).collect();
    bench
        .program
        .set_addresses(&[(OWN, ranges.clone())], &[])
        .unwrap();
    assert_eq!(
        bench.steer(&tcp_to(OWN, 1031)),
        ("divert_taken", XDP_REDIRECT)
    );
    assert_eq!(bench.steer(&tcp_to(OWN, 1032)), ("pass_own", XDP_PASS));
    ranges.push(taken(TCP, 1032..=1032));
    let error = bench
        .program
        .set_addresses(&[(OWN, ranges)], &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("192.168.1.1") && error.contains("33") && error.contains("32"),
        "{error}"
    );
    assert_eq!(
        bench.steer(&tcp_to(OWN, 1032)),
        ("pass_own", XDP_PASS),
        "a refusal changes nothing"
    );
}

#[test]
fn addresses_come_change_and_go() {
    let mut bench = bench();
    let other = Ipv4Addr::new(10, 0, 0, 1);
    bench
        .program
        .set_addresses(
            &[(OWN, vec![]), (other, vec![])],
            &["2001:db8::2".parse().unwrap()],
        )
        .unwrap();
    assert_eq!(bench.steer(&tcp_to(OWN, 3128)).0, "pass_own");
    assert_eq!(bench.steer(&tcp_to(other, 1)).0, "pass_own");
    assert_eq!(bench.steer(&v6_to("2001:db8::2")).0, "pass_ipv6_own");
    assert_eq!(bench.steer(&v6_to(OWN6)).0, "divert_ipv6");
    bench
        .program
        .set_addresses(&[(other, vec![taken(TCP, 1..=1)])], &[])
        .unwrap();
    assert_eq!(bench.steer(&tcp_to(OWN, 3128)).0, "divert_transit");
    assert_eq!(bench.steer(&tcp_to(other, 1)).0, "divert_taken");
    assert_eq!(bench.steer(&v6_to("2001:db8::2")).0, "divert_ipv6");
}

#[test]
fn a_full_set_of_addresses_can_be_exchanged_at_once() {
    let mut bench = bench();
    let set = |net: u8, count: u16| -> Vec<(Ipv4Addr, Vec<Taken>)> {
        (0..count)
            .map(|n| (Ipv4Addr::new(10, net, (n >> 8) as u8, n as u8), vec![]))
            .collect()
    };
    bench.program.set_addresses(&set(1, 1024), &[]).unwrap();
    bench.program.set_addresses(&set(2, 1024), &[]).unwrap();
    assert_eq!(
        bench.steer(&tcp_to("10.2.3.255".parse().unwrap(), 1)).0,
        "pass_own"
    );
    assert_eq!(
        bench.steer(&tcp_to("10.1.3.255".parse().unwrap(), 1)).0,
        "divert_transit"
    );
    bench.program.set_addresses(&set(3, 1025), &[]).unwrap_err();
}

fn ssh_from_the_lan() -> Management {
    Management {
        network: Ipv4Addr::new(192, 168, 1, 77),
        prefix_len: 24,
        proto: TCP,
        ports: 22..=22,
    }
}

#[test]
fn management_comes_before_taken_ranges() {
    let mut bench = bench();
    bench
        .program
        .set_addresses(&[(OWN, vec![taken(0, 0..=65535)])], &[])
        .unwrap();
    assert_eq!(
        bench.steer(&tcp_to(OWN, 22)),
        ("divert_taken", XDP_REDIRECT)
    );
    bench.program.set_management(&[ssh_from_the_lan()]).unwrap();
    assert_eq!(bench.steer(&tcp_to(OWN, 22)), ("pass_management", XDP_PASS));
    assert_eq!(
        bench.steer(&tcp_to(OWN, 23)),
        ("divert_taken", XDP_REDIRECT)
    );
    assert_eq!(
        bench.steer(&udp_to(OWN, 22)),
        ("divert_taken", XDP_REDIRECT)
    );
    let abroad = arriving(&ipv4(
        "192.168.2.1".parse().unwrap(),
        OWN,
        TCP,
        0,
        &ports(1, 22),
    ));
    assert_eq!(bench.steer(&abroad), ("divert_taken", XDP_REDIRECT));
    assert_eq!(
        bench.steer(&tcp_to(SERVER, 22)),
        ("divert_transit", XDP_REDIRECT),
        "only to the box itself"
    );
    bench.close_socket();
    assert_eq!(
        bench.steer(&tcp_to(OWN, 22)),
        ("pass_management", XDP_PASS),
        "daemon or not"
    );
    bench.program.set_management(&[]).unwrap();
    assert_eq!(
        bench.steer(&tcp_to(OWN, 22)),
        ("no_socket_dropped", XDP_DROP)
    );
}

#[test]
fn management_takes_64_entries_and_any_network() {
    let bench = bench();
    let mut entries: Vec<Management> = (0..63)
        .map(|n| Management {
            network: Ipv4Addr::new(10, n, 0, 0),
            prefix_len: 16,
            proto: TCP,
            ports: 22..=22,
        })
        .collect();
    entries.push(Management {
        network: Ipv4Addr::UNSPECIFIED,
        prefix_len: 0,
        proto: 0,
        ports: 443..=444,
    });
    bench.program.set_management(&entries).unwrap();
    assert_eq!(
        bench.steer(&udp_to(OWN, 444)),
        ("pass_management", XDP_PASS)
    );
    assert_eq!(bench.steer(&udp_to(OWN, 445)), ("pass_own", XDP_PASS));
    let narrow = |prefix_len| Management {
        network: CLIENT,
        prefix_len,
        proto: TCP,
        ports: 22..=22,
    };
    bench.program.set_management(&[narrow(32)]).unwrap();
    assert_eq!(bench.steer(&tcp_to(OWN, 22)), ("pass_management", XDP_PASS));
    let error = bench
        .program
        .set_management(&[narrow(33)])
        .unwrap_err()
        .to_string();
    assert!(error.contains("192.168.1.10/33"), "{error}");
    entries.push(ssh_from_the_lan());
    bench.program.set_management(&entries).unwrap_err();
}

#[test]
fn fragments_follow_their_protocol() {
    let bench = bench();
    let fragment = |dst, proto, word| arriving(&ipv4(CLIENT, dst, proto, word, &ports(1, 22)));
    const MORE: u16 = 0x2000;
    assert_eq!(
        bench.steer(&fragment(SERVER, TCP, 185)),
        ("divert_transit", XDP_REDIRECT)
    );
    assert_eq!(
        bench.steer(&fragment(OWN, TCP, MORE)),
        ("pass_own", XDP_PASS),
        "the first has its ports"
    );
    assert_eq!(
        bench.steer(&fragment(OWN, TCP, MORE | 185)),
        ("divert_taken", XDP_REDIRECT)
    );
    assert_eq!(
        bench.steer(&fragment(OWN, TCP, 185)),
        ("divert_taken", XDP_REDIRECT)
    );
    assert_eq!(
        bench.steer(&fragment(OWN, UDP, 185)),
        ("pass_own", XDP_PASS),
        "no UDP is taken"
    );
    bench.program.set_management(&[ssh_from_the_lan()]).unwrap();
    assert_eq!(
        bench.steer(&fragment(OWN, TCP, 185)),
        ("pass_management", XDP_PASS)
    );
}
