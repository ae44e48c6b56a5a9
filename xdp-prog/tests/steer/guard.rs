//! The guard: what arrives for the box itself, while rules about that stand and while none do.

use std::net::Ipv4Addr;

use xdp_prog::{Error, Guard, Mode, PortConfig, PortHook};

use crate::around::{GROUPS, OFFERED, dhcp, gap_drops, offer, ssh};
use crate::fixture::*;
use crate::{OWN6, bench, udp_to, v6_to, with_addresses};

const TAIL: u16 = 185;
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const SUBNET: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 255);
const GUARDED: (&str, u32) = ("divert_guarded", XDP_REDIRECT);
const TO_GROUP: (&str, u32) = ("divert_group", XDP_REDIRECT);

type Row = (Vec<u8>, (&'static str, u32), (&'static str, u32));

fn on(is_on: bool) -> Guard {
    Guard {
        on: is_on,
        owners: Vec::new(),
        epoch: false,
    }
}

/// Each frame with the guard off, on, and off again.
fn see(bench: &Bench, rows: &[Row]) {
    for is_on in [false, true, false] {
        bench.program.set_guard(&on(is_on)).unwrap();
        for (frame, off, guarded) in rows {
            let want = if is_on { guarded } else { off };
            assert_eq!(bench.steer(frame), *want, "{is_on} {frame:02x?}");
        }
    }
}

/// What the guard does not change.
fn same(frame: Vec<u8>, want: (&'static str, u32)) -> Row {
    (frame, want, want)
}

fn to(dst: Ipv4Addr, proto: u8, port: u16, fragment: u16) -> Vec<u8> {
    ipv4(CLIENT, dst, proto, fragment, &ports(40_000, port))
}

fn to_mac(mac: [u8; 6], packet: &[u8]) -> Vec<u8> {
    eth(mac, NEIGHBOUR, 0x0800, packet)
}

#[test]
fn until_it_is_told_there_is_no_guard() {
    let bench = bench();
    assert_eq!(bench.steer(&tcp_to(OWN, 22)), ("pass_own", XDP_PASS));
    assert!(!Guard::default().on);
}

#[test]
fn what_is_for_the_box_is_diverted_but_management_and_tails() {
    let bench = bench();
    bench.program.set_management(&[ssh()]).unwrap();
    let own = ("pass_own", XDP_PASS);
    let ping = arriving(&ipv4(CLIENT, OWN, ICMP, 0, &[8, 0, 0, 0, 0, 0, 0, 0]));
    let tagged = vlan(5, 0x0800, &udp_to(OWN, 53)[14..]);
    let rows = [
        same(tcp_to(OWN, 22), ("pass_management", XDP_PASS)),
        same(tcp_to(OWN, 3128), ("divert_taken", XDP_REDIRECT)),
        (tcp_to(OWN, 80), own, GUARDED),
        (udp_to(OWN, 22), own, GUARDED),
        (ping, own, GUARDED),
        (arriving(&to(OWN, 50, 0, 0)), own, GUARDED),
        (eth(NIC, NEIGHBOUR, 0x8100, &tagged), own, GUARDED),
        // The first fragment has its ports, and one that is cut may have any.
        (arriving(&to(OWN, UDP, 53, 0x2000)), own, GUARDED),
        (arriving(&to(OWN, UDP, 53, 0))[..36].to_vec(), own, GUARDED),
        same(arriving(&to(OWN, UDP, 53, TAIL)), own),
        same(arriving(&to(OWN, UDP, 53, 0x2000 | TAIL)), own),
        same(
            arriving(&to(OWN, TCP, 53, TAIL)),
            ("pass_management", XDP_PASS),
        ),
    ];
    see(&bench, &rows);
    bench.program.set_management(&[]).unwrap();
    see(
        &bench,
        &[same(
            arriving(&to(OWN, TCP, 53, TAIL)),
            ("divert_taken", XDP_REDIRECT),
        )],
    );
}

#[test]
fn what_is_for_others_and_what_is_not_ipv4_goes_as_ever() {
    let rows = [
        same(tcp_to(SERVER, 80), ("divert_transit", XDP_REDIRECT)),
        same(udp_to(SUBNET, 137), ("divert_transit", XDP_REDIRECT)),
        same(v6_to(OWN6), ("pass_ipv6_own", XDP_PASS)),
        same(v6_to("ff02::1"), ("pass_ipv6_multicast", XDP_PASS)),
        same(v6_to("2001:db8::2"), ("divert_ipv6", XDP_REDIRECT)),
        same(
            eth(NIC, NEIGHBOUR, 0x0806, &[0; 46]),
            ("pass_non_ip", XDP_PASS),
        ),
        same(
            eth([0xff; 6], NEIGHBOUR, 0x0806, &[0; 46]),
            ("pass_multicast", XDP_PASS),
        ),
        same(
            eth([0xff; 6], NEIGHBOUR, 0x86dd, &v6_to("ff02::1")[14..]),
            ("pass_multicast", XDP_PASS),
        ),
    ];
    see(&bench(), &rows);
}

#[test]
fn what_is_for_a_group_is_diverted() {
    let bench = bench();
    bench.program.set_management(&[ssh()]).unwrap();
    let multicast = ("pass_multicast", XDP_PASS);
    let mut rows = Vec::new();
    for mac in GROUPS {
        for dst in [GROUP, SUBNET, Ipv4Addr::BROADCAST, OWN] {
            rows.push((to_mac(mac, &to(dst, UDP, 5353, 0)), multicast, TO_GROUP));
            rows.push(same(to_mac(mac, &to(dst, UDP, 5353, TAIL)), multicast));
        }
        rows.push((to_mac(mac, &to(GROUP, 2, 0, 0)), multicast, TO_GROUP));
        let taken = to_mac(mac, &to(OWN, TCP, 3128, 0));
        rows.push(same(taken, ("drop_group_mac", XDP_DROP)));
        rows.push(same(to_mac(mac, &to(OWN, TCP, 22, 0)), multicast));
        // The kernel throws it away.
        let cut = to_mac(mac, &to(GROUP, UDP, 5353, 0))[..30].to_vec();
        rows.push(same(cut, multicast));
    }
    // Only the address above is a group's.
    for dst in [GROUP, Ipv4Addr::BROADCAST] {
        rows.push((udp_to(dst, 5353), multicast, TO_GROUP));
        rows.push(same(arriving(&to(dst, UDP, 5353, TAIL)), multicast));
    }
    see(&bench, &rows);
}

#[test]
fn a_dhcp_reply_passes_wherever_it_goes() {
    let mut bench = bench();
    let pass = ("pass_dhcp", XDP_PASS);
    let (own, multicast) = (("pass_own", XDP_PASS), ("pass_multicast", XDP_PASS));
    let reply = |dst| dhcp(dst, 67, 68, &offer());
    let broadcast = |frame: &[u8]| to_mac([0xff; 6], &frame[14..]);
    let request = dhcp(Ipv4Addr::BROADCAST, 68, 67, &offer());
    let mut tcp = reply(OWN);
    tcp[14 + 9] = TCP;
    let mut rows = vec![
        same(reply(OFFERED), pass),
        (reply(OWN), own, pass),
        (reply(Ipv4Addr::BROADCAST), multicast, pass),
        (broadcast(&reply(Ipv4Addr::BROADCAST)), multicast, pass),
        (broadcast(&reply(OFFERED)), multicast, pass),
        (broadcast(&request), multicast, TO_GROUP),
        (dhcp(OWN, 68, 68, &offer()), own, GUARDED),
        (dhcp(OWN, 67, 67, &offer()), own, GUARDED),
        (tcp, own, GUARDED),
        same(
            dhcp(SERVER, 67, 68, &offer()),
            ("divert_transit", XDP_REDIRECT),
        ),
    ];
    see(&bench, &rows);
    bench.close_socket();
    rows.truncate(5);
    see(&bench, &rows);
}

/// The kernel takes a frame to a MAC address that the port has just got.
#[test]
fn another_hosts_mac_is_no_way_around() {
    let open = PortConfig {
        open: true,
        ..config()
    };
    let (pass, drop) = (("pass_other_host", XDP_PASS), ("drop_other_host", XDP_DROP));
    for (bench, guarded) in [
        (bench(), drop),
        (with_addresses(Bench::with_socket(&open)), pass),
    ] {
        bench.program.set_management(&[ssh()]).unwrap();
        let rows = [
            (to_mac(STRANGER, &to(OWN, TCP, 80, 0)), pass, guarded),
            (to_mac(STRANGER, &to(GROUP, UDP, 5, 0)), pass, guarded),
            same(to_mac(STRANGER, &to(OWN, TCP, 22, 0)), pass),
            same(to_mac(STRANGER, &to(OWN, TCP, 3128, 0)), drop),
            same(eth(STRANGER, NEIGHBOUR, 0x0806, &[0; 28]), pass),
        ];
        see(&bench, &rows);
    }
}

#[test]
fn without_a_socket_the_setting_decides() {
    for (open, want) in [
        (false, ("no_socket_dropped", XDP_DROP)),
        (true, ("no_socket_passed", XDP_PASS)),
    ] {
        let mut bench = with_addresses(Bench::with_socket(&PortConfig { open, ..config() }));
        bench.program.set_management(&[ssh()]).unwrap();
        bench.close_socket();
        let own = ("pass_own", XDP_PASS);
        let multicast = ("pass_multicast", XDP_PASS);
        let rows = [
            (tcp_to(OWN, 80), own, want),
            (udp_to(GROUP, 5353), multicast, want),
            (to_mac([0xff; 6], &to(SUBNET, UDP, 1, 0)), multicast, want),
            same(tcp_to(OWN, 22), ("pass_management", XDP_PASS)),
            same(arriving(&to(OWN, UDP, 1, TAIL)), own),
        ];
        see(&bench, &rows);
    }
}

#[test]
fn what_fits_no_chunk_is_dropped_or_takes_the_slow_lane() {
    let own = arriving(&ipv4(CLIENT, OWN, UDP, 0, &[0; 2000]));
    let group = to_mac([0xff; 6], &ipv4(CLIENT, GROUP, UDP, 0, &[0; 2000]));
    for (mode, want) in [
        (Mode::Native, ("oversize", XDP_DROP)),
        (Mode::Generic, ("slow_lane", XDP_PASS)),
    ] {
        let bench = with_addresses(Bench::with_socket(&PortConfig {
            max_frame_bytes: 1514,
            mode,
            ..config()
        }));
        bench.program.set_guard(&on(true)).unwrap();
        for frame in [&own, &group] {
            let outcome = bench.run(PortHook::Steer, frame);
            assert_eq!((outcome.counter, outcome.verdict), want);
            let is_tagged = outcome.frame.len() == frame.len() + 4;
            assert_eq!(is_tagged, mode == Mode::Generic);
        }
        bench.program.set_guard(&on(false)).unwrap();
        assert_eq!(bench.run(PortHook::Steer, &own).frame, own);
    }
}

#[test]
fn the_gap_lets_nothing_by_that_the_guard_diverts() {
    let mut bench = bench();
    bench.program.set_management(&[ssh()]).unwrap();
    let arp = eth([0xff; 6], NEIGHBOUR, 0x0806, &[0; 46]);
    let guarded = [
        tcp_to(OWN, 80),
        udp_to(GROUP, 5353),
        to_mac([0xff; 6], &to(Ipv4Addr::BROADCAST, UDP, 1, 0)),
        to_mac([0xff; 6], &to(OWN, UDP, 1, 0)),
    ];
    let free = [
        tcp_to(OWN, 22),
        arriving(&to(OWN, UDP, 1, TAIL)),
        dhcp(OWN, 67, 68, &offer()),
        to_mac(
            [0xff; 6],
            &dhcp(Ipv4Addr::BROADCAST, 67, 68, &offer())[14..],
        ),
        v6_to(OWN6),
        arp,
    ];
    for is_on in [true, false] {
        bench.program.set_guard(&on(is_on)).unwrap();
        for frame in &guarded {
            assert_eq!(gap_drops(&bench, frame), is_on, "{frame:02x?}");
        }
        for frame in &free {
            assert!(!gap_drops(&bench, frame), "{is_on} {frame:02x?}");
        }
        assert!(gap_drops(&bench, &tcp_to(SERVER, 80)));
    }
    // Nobody knows whether the daemon is there: `open` is for a queue without a socket.
    bench.close_socket();
    bench.program.set_guard(&on(true)).unwrap();
    assert!(gap_drops(&bench, &tcp_to(OWN, 80)));
}

#[test]
fn an_eighth_owner_is_refused_and_changes_nothing() {
    let bench = bench();
    let owners = |count: u32| (0..count).map(|uid| uid..=uid).collect();
    let guard = |count| Guard {
        on: true,
        owners: owners(count),
        epoch: false,
    };
    let error = bench.program.set_guard(&guard(8)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooMany {
                asked: 8,
                most: 7,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("-m owner"), "{error}");
    assert_eq!(bench.steer(&tcp_to(OWN, 80)), ("pass_own", XDP_PASS));
    bench.program.set_guard(&guard(7)).unwrap();
    assert_eq!(bench.steer(&tcp_to(OWN, 80)), GUARDED);
}
