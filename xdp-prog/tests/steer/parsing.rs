//! Headers that are tagged, cut, bad or random.

use std::net::Ipv4Addr;

use xdp_prog::{Mode, PortConfig, PortHook};

use crate::fixture::*;
use crate::{bench, v6_to, with_addresses};

#[test]
fn vlan_tags_are_looked_through() {
    let bench = bench();
    let own = ipv4(CLIENT, OWN, TCP, 0, &ports(1, 22));
    let transit = ipv4(CLIENT, SERVER, TCP, 0, &ports(1, 22));
    for (packet, want) in [
        (own, ("pass_own", XDP_PASS)),
        (transit, ("divert_transit", XDP_REDIRECT)),
    ] {
        let one = vlan(100, 0x0800, &packet);
        assert_eq!(bench.steer(&eth(NIC, NEIGHBOUR, 0x8100, &one)), want);
        let two = vlan(200, 0x8100, &one);
        assert_eq!(bench.steer(&eth(NIC, NEIGHBOUR, 0x88a8, &two)), want);
        // A third tag is nothing that the kernel would route without being told to.
        let three = vlan(300, 0x8100, &two);
        assert_eq!(
            bench.steer(&eth(NIC, NEIGHBOUR, 0x8100, &three)),
            ("pass_non_ip", XDP_PASS)
        );
    }
    let arp = vlan(100, 0x0806, &[0; 28]);
    assert_eq!(
        bench.steer(&eth(NIC, NEIGHBOUR, 0x8100, &arp)),
        ("pass_non_ip", XDP_PASS)
    );
    for cut in 14..18 {
        let tag = eth(NIC, NEIGHBOUR, 0x8100, &vlan(100, 0x0800, &[]));
        assert_eq!(
            bench.steer(&tag[..cut]),
            ("malformed", XDP_DROP),
            "cut at {cut}"
        );
    }
}

#[test]
fn a_cut_frame_is_dropped_until_its_ip_header_is_whole() {
    let bench = bench();
    let frames = [
        (tcp_to(SERVER, 80), "divert_transit", XDP_REDIRECT),
        (tcp_to(OWN, 80), "pass_own", XDP_PASS),
    ];
    for (frame, whole, verdict) in frames {
        for cut in 0..=frame.len() {
            match cut {
                // Shorter than Ethernet: the kernel runs no program on it.
                0..14 => assert!(
                    bench
                        .program
                        .dry_run(PortHook::Steer, &frame[..cut])
                        .is_err(),
                    "{cut}"
                ),
                14..34 => assert_eq!(bench.steer(&frame[..cut]), ("malformed", XDP_DROP), "{cut}"),
                // The taken range may be meant, as long as the ports are cut off.
                34..38 if whole == "pass_own" => {
                    assert_eq!(
                        bench.steer(&frame[..cut]),
                        ("divert_taken", XDP_REDIRECT),
                        "{cut}"
                    );
                }
                _ => assert_eq!(bench.steer(&frame[..cut]), (whole, verdict), "{cut}"),
            }
        }
    }
    let v6 = v6_to("2001:db8::2");
    for cut in 14..54 {
        assert_eq!(
            bench.steer(&v6[..cut]),
            ("malformed", XDP_DROP),
            "IPv6 cut at {cut}"
        );
    }
    assert_eq!(bench.steer(&v6[..54]), ("divert_ipv6", XDP_REDIRECT));
}

#[test]
fn bad_ip_headers_are_dropped() {
    let bench = bench();
    for first in [0x00, 0x35, 0x44, 0x40, 0x55, 0x65] {
        let mut frame = tcp_to(SERVER, 80);
        frame[14] = first;
        assert_eq!(bench.steer(&frame), ("malformed", XDP_DROP), "{first:#x}");
    }
    // Options that reach beyond the frame.
    let mut frame = tcp_to(SERVER, 80);
    frame[14] = 0x4f;
    assert_eq!(bench.steer(&frame), ("malformed", XDP_DROP));
    let mut frame = v6_to("2001:db8::2");
    frame[14] = 0x40;
    assert_eq!(bench.steer(&frame), ("malformed", XDP_DROP));
}

#[test]
fn ports_are_found_behind_ip_options() {
    let bench = bench();
    let mut packet = ipv4(CLIENT, OWN, TCP, 0, &[]);
    packet[0] = 0x4f;
    packet.extend_from_slice(&[1; 40]);
    packet.extend_from_slice(&ports(1, 3128));
    assert_eq!(
        bench.steer(&arriving(&packet)),
        ("divert_taken", XDP_REDIRECT)
    );
    let at = packet.len() - 20 + 2;
    packet[at..at + 2].copy_from_slice(&22u16.to_be_bytes());
    assert_eq!(bench.steer(&arriving(&packet)), ("pass_own", XDP_PASS));
}

/// Every frame has exactly one fate, and transit never passes.
#[test]
fn mutated_frames_have_one_fate_each() {
    let bench = with_addresses(Bench::with_socket(&PortConfig {
        mode: Mode::Generic,
        ..config()
    }));
    let seeds = [
        tcp_to(SERVER, 80),
        tcp_to(OWN, 3128),
        v6_to("2001:db8::2"),
        eth(
            NIC,
            NEIGHBOUR,
            0x8100,
            &vlan(1, 0x0800, &ipv4(CLIENT, SERVER, UDP, 0, &ports(1, 2))),
        ),
        eth([0xff; 6], NEIGHBOUR, 0x0806, &[0; 46]),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    let mut transit = 0;
    for _ in 0..20_000 {
        let mut frame = seeds[next(seeds.len())].clone();
        for _ in 0..next(4) {
            let at = next(frame.len());
            frame[at] = next(256) as u8;
        }
        frame.truncate(14 + next(frame.len() - 13));
        let (counter, verdict) = bench.steer(&frame);
        if is_plain_transit(&frame) {
            assert_eq!(
                (counter, verdict),
                ("divert_transit", XDP_REDIRECT),
                "{frame:02x?}"
            );
            transit += 1;
        }
        let want = match counter.split('_').next().unwrap() {
            "pass" => XDP_PASS,
            "divert" => XDP_REDIRECT,
            "malformed" | "drop" => XDP_DROP,
            _ => panic!("{counter} for {frame:02x?}"),
        };
        assert_eq!(verdict, want, "{counter} for {frame:02x?}");
    }
    assert!(transit > 1000, "only {transit} frames were transit");
}

/// By another way than the program's: untagged, whole IPv4 that the kernel would forward.
fn is_plain_transit(frame: &[u8]) -> bool {
    let Some((ip, eth)) = frame.get(14..34).zip(frame.get(..14)) else {
        return false;
    };
    let header_len = usize::from(ip[0] & 0xf) * 4;
    let dst = Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]);
    eth[..6] == NIC
        && eth[6..12] != REINJECTED
        && eth[12..] == [8, 0]
        && (0x45..=0x4f).contains(&ip[0])
        && frame.len() >= 14 + header_len
        && !(dst == OWN || dst.is_multicast() || dst.is_broadcast())
}
