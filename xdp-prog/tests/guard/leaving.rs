//! xtp_egress under the guard, frame by frame by BPF_PROG_TEST_RUN.

use std::net::Ipv4Addr;

use xdp_prog::{Management, PortConfig};

use crate::fixture::*;
use crate::guard;

const TAIL: u16 = 185;
const NATIVE: (&str, u32) = ("egress_native", TC_UNSPEC);
const MANAGEMENT: (&str, u32) = ("egress_management", TC_UNSPEC);
const TAKEN: (&str, u32) = ("egress_diverted", TC_REDIRECT);
const GUARDED: (&str, u32) = ("egress_guarded", TC_REDIRECT);

type Row = (Vec<u8>, (&'static str, u32), (&'static str, u32));

/// TCP 3128 is taken; TCP up to 22 and ICMP to 10.0.0.0/8 are management.
fn bench() -> Bench {
    let mut bench = Bench::with_socket(&config());
    let ranges = vec![taken(TCP, 3128..=3128), taken(UDP, 10..=10)];
    bench.program.set_addresses(&[(OWN, ranges)], &[]).unwrap();
    let of = |network, proto| Management {
        network,
        prefix_len: 8,
        proto,
        ports: 0..=22,
    };
    let entries = [of(CLIENT, TCP), of(FAR, ICMP)];
    bench.program.set_management(&entries).unwrap();
    bench
}

const FAR: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);

fn see(bench: &Bench, rows: &[Row]) {
    for is_on in [false, true, false] {
        bench.program.set_guard(&guard(is_on)).unwrap();
        for (frame, off, on) in rows {
            let want = if is_on { on } else { off };
            let outcome = bench.egress(frame);
            let got = (outcome.counter, outcome.verdict);
            assert_eq!(got, *want, "{is_on} {frame:02x?}");
            let mark = match outcome.counter {
                "egress_guarded" => FROM_BOX,
                "egress_diverted" => FROM_STACK,
                _ => frame[6..12].try_into().unwrap(),
            };
            assert_eq!(outcome.frame[..6], frame[..6]);
            assert_eq!(outcome.frame[6..12], mark);
            assert_eq!(outcome.frame[12..], frame[12..]);
        }
    }
}

fn same(frame: Vec<u8>, want: (&'static str, u32)) -> Row {
    (frame, want, want)
}

fn from_own(dst: Ipv4Addr, proto: u8, sport: u16, dport: u16) -> Vec<u8> {
    let packet = ipv4(OWN, dst, proto, 0, &ports(sport, dport));
    eth(NEIGHBOUR, NIC, 0x0800, &packet)
}

#[test]
fn what_the_box_sends_is_diverted_but_management_and_tails() {
    let bench = bench();
    let tagged = vlan(5, 0x0800, &leaving(OWN, TCP, 80, 0)[14..]);
    let rows = [
        (leaving(OWN, TCP, 80, 0), NATIVE, GUARDED),
        (leaving(OWN, UDP, 53, 0), NATIVE, GUARDED),
        (leaving(OWN, UDP, 53, 0x2000), NATIVE, GUARDED),
        (leaving(OWN, UDP, 53, 0x4000), NATIVE, GUARDED),
        (leaving(OWN, 50, 0, 0), NATIVE, GUARDED),
        (eth(NEIGHBOUR, NIC, 0x8100, &tagged), NATIVE, GUARDED),
        // Of nothing that is taken, management is not asked for.
        (leaving(OWN, TCP, 22, 0), NATIVE, MANAGEMENT),
        (from_own(SERVER, TCP, 22, 40_000), NATIVE, GUARDED),
        same(leaving(OWN, TCP, 3128, 0), TAKEN),
        same(leaving(OWN, 50, 0, TAIL), NATIVE),
        same(leaving(OWN, TCP, 80, TAIL), TAKEN),
    ];
    see(&bench, &rows);
}

#[test]
fn what_has_no_own_source_leaves() {
    let broadcast = |src| {
        let packet = ipv4(src, Ipv4Addr::BROADCAST, UDP, 0, &ports(68, 67));
        eth([0xff; 6], NIC, 0x0800, &packet)
    };
    let v6 = ipv6("2001:db8::2".parse().unwrap());
    let rows = [
        same(leaving(SERVER, TCP, 80, 0), NATIVE),
        same(leaving(Ipv4Addr::UNSPECIFIED, UDP, 68, 0), NATIVE),
        same(broadcast(Ipv4Addr::UNSPECIFIED), NATIVE),
        same(eth([0xff; 6], NIC, 0x0806, &[0; 46]), NATIVE),
        same(eth(NEIGHBOUR, NIC, 0x86dd, &v6), NATIVE),
    ];
    see(&bench(), &rows);
}

/// What is broadcast to keep a lease leaves, and nothing that resembles it.
#[test]
fn groups_are_asked_about_but_for_a_lease() {
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let rows = [
        same(from_own(Ipv4Addr::BROADCAST, UDP, 68, 67), NATIVE),
        (from_own(Ipv4Addr::BROADCAST, UDP, 67, 68), NATIVE, GUARDED),
        (from_own(Ipv4Addr::BROADCAST, UDP, 68, 68), NATIVE, GUARDED),
        (from_own(Ipv4Addr::BROADCAST, TCP, 68, 67), NATIVE, GUARDED),
        (from_own(CLIENT, UDP, 68, 67), NATIVE, GUARDED),
        (from_own(group, UDP, 5353, 5353), NATIVE, GUARDED),
        (from_own(group, 2, 0, 0), NATIVE, GUARDED),
    ];
    see(&bench(), &rows);
}

fn error_to(to: Ipv4Addr, about: &[u8]) -> Vec<u8> {
    let icmp = [&[3, 3, 0, 0, 0, 0, 0, 0][..], about].concat();
    eth(NEIGHBOUR, NIC, 0x0800, &ipv4(OWN, to, ICMP, 0, &icmp))
}

#[test]
fn an_error_is_asked_about_itself_unless_what_is_inside_is_settled() {
    let about = |src, dst, proto, port| ipv4(src, dst, proto, 0, &ports(40_000, port));
    let to_own = |port| error_to(CLIENT, &about(CLIENT, OWN, TCP, port));
    let mut other_source = to_own(80);
    other_source[26..30].copy_from_slice(&SERVER.octets());
    let rows = [
        (to_own(80), NATIVE, GUARDED),
        (to_own(22), NATIVE, MANAGEMENT),
        same(to_own(3128), TAKEN),
        // About transit, say.
        (
            error_to(CLIENT, &about(CLIENT, SERVER, UDP, 80)),
            NATIVE,
            GUARDED,
        ),
        (
            error_to(CLIENT, &about(CLIENT, OWN, UDP, 80)[..12]),
            NATIVE,
            GUARDED,
        ),
        // ICMP to there is management, but not what is inside.
        (error_to(FAR, &about(FAR, OWN, UDP, 80)), NATIVE, MANAGEMENT),
        same(error_to(FAR, &about(FAR, OWN, UDP, 10)), TAKEN),
        // No source of the box.
        same(other_source, NATIVE),
    ];
    see(&bench(), &rows);
}

/// `open` opens both ways, or what it lets in would get no answer.
#[test]
fn without_a_socket_the_setting_decides() {
    for open in [false, true] {
        let mut bench = Bench::with_socket(&PortConfig { open, ..config() });
        let ranges = vec![taken(TCP, 3128..=3128)];
        bench.program.set_addresses(&[(OWN, ranges)], &[]).unwrap();
        let rows = [
            (leaving(OWN, TCP, 80, 0), NATIVE, GUARDED),
            same(leaving(OWN, TCP, 3128, 0), TAKEN),
        ];
        see(&bench, &rows);
        bench.close_socket();
        let left = if open { NATIVE } else { GUARDED };
        let [(answer, ..), taken] = rows;
        see(&bench, &[(answer, NATIVE, left), taken]);
    }
}
