//! Ways around the worker, each closed or no wider than it must be: frames to a group of hosts,
//! DHCP, and the moment without an XDP program.

use std::net::Ipv4Addr;

use xdp_prog::{Management, PortHook};

use crate::fixture::*;
use crate::{OWN6, bench, udp_to, v6_to};

pub const GROUPS: [[u8; 6]; 2] = [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]];

pub fn ssh() -> Management {
    Management {
        network: CLIENT,
        prefix_len: 24,
        proto: TCP,
        ports: 22..=22,
    }
}

#[test]
fn a_taken_endpoint_is_not_reached_by_a_group_mac() {
    let mut bench = bench();
    let ranges = vec![taken(UDP, 3128..=3130), taken(TCP, 0..=65535)];
    bench.program.set_addresses(&[(OWN, ranges)], &[]).unwrap();
    bench.program.set_management(&[ssh()]).unwrap();
    let dropped = ("drop_group_mac", XDP_DROP);
    let passed = ("pass_multicast", XDP_PASS);
    for mac in GROUPS {
        let to = |proto, port, fragment| {
            let packet = ipv4(CLIENT, OWN, proto, fragment, &ports(40_000, port));
            eth(mac, NEIGHBOUR, 0x0800, &packet)
        };
        assert_eq!(bench.steer(&to(UDP, 3128, 0)), dropped);
        assert_eq!(bench.steer(&to(UDP, 3131, 0)), passed);
        assert_eq!(bench.steer(&to(UDP, 3131, 185)), dropped, "in doubt");
        assert_eq!(bench.steer(&to(TCP, 80, 0)), dropped);
        assert_eq!(bench.steer(&to(TCP, 22, 0)), passed, "management");
        let tagged = vlan(5, 0x0800, &to(UDP, 3128, 0)[14..]);
        assert_eq!(bench.steer(&eth(mac, NEIGHBOUR, 0x8100, &tagged)), dropped);
        // What the kernel throws away anyway.
        let cut = &to(UDP, 3128, 0)[..30];
        assert_eq!(bench.steer(cut), passed);
    }
    bench.close_socket();
    let packet = ipv4(CLIENT, OWN, UDP, 0, &ports(1, 3128));
    let frame = eth(GROUPS[0], NEIGHBOUR, 0x0800, &packet);
    assert_eq!(bench.steer(&frame), dropped, "daemon or not");
}

pub const OFFERED: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 200);

/// The fixed head of a DHCP offer of an address to the NIC.
pub fn offer() -> Vec<u8> {
    let mut message = vec![0; 236];
    message[..3].copy_from_slice(&[2, 1, 6]);
    message[16..20].copy_from_slice(&OFFERED.octets());
    message[28..34].copy_from_slice(&NIC);
    message
}

pub fn dhcp(dst: Ipv4Addr, sport: u16, dport: u16, message: &[u8]) -> Vec<u8> {
    let udp = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[0; 4]].concat();
    arriving(&ipv4(SERVER, dst, UDP, 0, &[&udp, message].concat()))
}

#[test]
fn an_offer_of_an_address_reaches_the_box_that_lacks_it() {
    let mut bench = bench();
    let frame = dhcp(OFFERED, 67, 68, &offer());
    assert_eq!(bench.steer(&frame), ("pass_dhcp", XDP_PASS));
    let tagged = eth(NIC, NEIGHBOUR, 0x8100, &vlan(5, 0x0800, &frame[14..]));
    assert_eq!(bench.steer(&tagged), ("pass_dhcp", XDP_PASS));
    let mut options = frame[..34].to_vec();
    options[14] = 0x46;
    options.extend([1; 4]);
    options.extend(&frame[34..]);
    assert_eq!(bench.steer(&options), ("pass_dhcp", XDP_PASS));
    // Without the daemon, too: an address may be needed before it can start.
    bench.close_socket();
    assert_eq!(bench.steer(&frame), ("pass_dhcp", XDP_PASS));
}

#[test]
fn nothing_but_an_offer_to_the_nic_passes_as_dhcp() {
    let bench = bench();
    let transit = ("divert_transit", XDP_REDIRECT);
    for (sport, dport) in [(68, 67), (67, 67), (68, 68), (67, 53)] {
        let frame = dhcp(OFFERED, sport, dport, &offer());
        assert_eq!(bench.steer(&frame), transit, "{sport} {dport}");
    }
    assert_eq!(bench.steer(&dhcp(SERVER, 67, 68, &offer())), transit);
    // Each byte that says what it is and for whom.
    for byte in [0, 1, 2, 16, 17, 18, 19, 28, 29, 30, 31, 32, 33] {
        let mut message = offer();
        message[byte] ^= 1;
        let frame = dhcp(OFFERED, 67, 68, &message);
        assert_eq!(bench.steer(&frame), transit, "byte {byte}");
    }
    for len in 0..36 {
        let frame = dhcp(OFFERED, 67, 68, &offer()[..len]);
        assert_eq!(bench.steer(&frame), transit, "{len} bytes");
    }
    assert_eq!(
        bench.steer(&dhcp(OFFERED, 67, 68, &offer()[..36])).0,
        "pass_dhcp"
    );
    let mut tcp = dhcp(OFFERED, 67, 68, &offer());
    tcp[14 + 9] = TCP;
    assert_eq!(bench.steer(&tcp), transit);
    let mut tail = dhcp(OFFERED, 67, 68, &offer());
    tail[14 + 7] = 185;
    assert_eq!(bench.steer(&tail), transit);
    let mut stranger = dhcp(OFFERED, 67, 68, &offer());
    stranger[..6].copy_from_slice(&STRANGER);
    assert_eq!(bench.steer(&stranger), ("drop_other_host", XDP_DROP));
}

pub fn gap_drops(bench: &Bench, frame: &[u8]) -> bool {
    let dropped = || {
        let counters = bench.program.counters().unwrap();
        let counter = counters.iter().find(|(name, _)| *name == "gap_dropped");
        counter.unwrap().1
    };
    let before = dropped();
    let run = bench.program.dry_run(PortHook::Gap, frame).unwrap();
    assert_eq!(run.frame, frame);
    let counted = dropped() - before;
    match run.verdict {
        TC_SHOT => assert_eq!(counted, 1),
        TC_UNSPEC => assert_eq!(counted, 0),
        other => panic!("{other} for {frame:02x?}"),
    }
    run.verdict == TC_SHOT
}

#[test]
fn the_gap_is_closed_to_what_is_not_for_the_kernel() {
    let bench = bench();
    bench.program.set_management(&[ssh()]).unwrap();
    let tagged = |packet: &[u8]| eth(NIC, NEIGHBOUR, 0x8100, &vlan(5, 0x0800, packet));
    let mut bad = tcp_to(OWN, 22);
    bad[14] = 0x44;
    for frame in [
        tcp_to(SERVER, 80),
        udp_to(SERVER, 53),
        tcp_to(OWN, 3128),
        v6_to("2001:db8::2"),
        tagged(&tcp_to(SERVER, 80)[14..]),
        dhcp(OFFERED, 67, 68, &offer()),
        bad,
    ] {
        assert!(gap_drops(&bench, &frame), "{frame:02x?}");
    }
    for frame in [
        tcp_to(OWN, 22),
        udp_to(OWN, 3128),
        udp_to(Ipv4Addr::new(224, 0, 0, 5), 5),
        udp_to(Ipv4Addr::BROADCAST, 67),
        v6_to(OWN6),
        v6_to("fe80::1"),
        v6_to("ff02::1"),
        tagged(&tcp_to(OWN, 22)[14..]),
        eth([0xff; 6], NEIGHBOUR, 0x0806, &[0; 46]),
    ] {
        assert!(!gap_drops(&bench, &frame), "{frame:02x?}");
    }
}
