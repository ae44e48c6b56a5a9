//! ICMP errors about what management has sent, which it needs to find its path's MTU.

use std::net::Ipv4Addr;

use xdp_prog::Guard;

use crate::around::{gap_drops, ssh};
use crate::bench;
use crate::fixture::*;

const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PASS: (&str, u32) = ("pass_management", XDP_PASS);
const GUARDED: (&str, u32) = ("divert_guarded", XDP_REDIRECT);

fn guarded() -> Bench {
    let bench = bench();
    bench.program.set_management(&[ssh()]).unwrap();
    let guard = Guard {
        on: true,
        ..Guard::default()
    };
    bench.program.set_guard(&guard).unwrap();
    bench
}

/// What SSH sends to a client.
fn sent() -> Vec<u8> {
    ipv4(OWN, CLIENT, TCP, 0, &ports(22, 40_000))
}

/// From a router, to the box.
fn error(kind: u8, about: &[u8]) -> Vec<u8> {
    let head = [kind, 4, 0, 0, 0, 0, 5, 0];
    arriving(&ipv4(ROUTER, OWN, ICMP, 0, &[&head, about].concat()))
}

#[test]
fn errors_about_management_pass() {
    let mut bench = guarded();
    let tagged = eth(
        NIC,
        NEIGHBOUR,
        0x8100,
        &vlan(5, 0x0800, &error(3, &sent())[14..]),
    );
    let mut options = error(3, &sent());
    options[14] = 0x46;
    options.splice(34..34, [1; 4]);
    // A router may send no more than this of it.
    let short = error(3, &sent()[..28]);
    let passing = [3, 4, 5, 11, 12].map(|kind| error(kind, &sent()));
    for _ in 0..2 {
        for frame in passing.iter().chain([&tagged, &options, &short]) {
            assert_eq!(bench.steer(frame), PASS, "{frame:02x?}");
            assert!(!gap_drops(&bench, frame), "{frame:02x?}");
        }
        // With and without the daemon.
        bench.close_socket();
    }
}

#[test]
fn errors_about_management_pass_before_taken_ranges() {
    let mut bench = guarded();
    let all = vec![taken(0, 0..=65535)];
    bench.program.set_addresses(&[(OWN, all)], &[]).unwrap();
    assert_eq!(bench.steer(&error(3, &sent())), PASS);
    bench.program.set_management(&[]).unwrap();
    let diverted = ("divert_taken", XDP_REDIRECT);
    assert_eq!(bench.steer(&error(3, &sent())), diverted);
}

#[test]
fn nothing_else_gets_by_as_such_an_error() {
    let bench = guarded();
    let of = |src, dst, proto, fragment, sport| {
        error(3, &ipv4(src, dst, proto, fragment, &ports(sport, 40_000)))
    };
    for frame in [
        // Echoes, and what is no error.
        error(0, &sent()),
        error(8, &sent()),
        error(13, &sent()),
        // Another port, protocol, peer, sender.
        of(OWN, CLIENT, TCP, 0, 23),
        of(OWN, CLIENT, UDP, 0, 22),
        of(OWN, SERVER, TCP, 0, 22),
        of(SERVER, CLIENT, TCP, 0, 22),
        // The box is the peer inside, which nobody sends to it about.
        of(CLIENT, OWN, TCP, 0, 22),
        // No ports inside: a tail, and one that is cut.
        of(OWN, CLIENT, TCP, 185, 22),
        error(3, &sent()[..22]),
        error(3, &sent()[..12]),
        error(3, &[]),
    ] {
        assert_eq!(bench.steer(&frame), GUARDED, "{frame:02x?}");
        assert!(gap_drops(&bench, &frame), "{frame:02x?}");
    }
    // To somebody else: transit, whatever is inside.
    let head = [3, 4, 0, 0, 0, 0, 5, 0];
    let transit = ipv4(ROUTER, SERVER, ICMP, 0, &[&head[..], &sent()].concat());
    let transit = arriving(&transit);
    assert_eq!(bench.steer(&transit), ("divert_transit", XDP_REDIRECT));
    // The error's own tail passes as any tail does.
    let head = [3, 4, 0, 0, 0, 0, 5, 0];
    let tail = arriving(&ipv4(
        ROUTER,
        OWN,
        ICMP,
        185,
        &[&head[..], &sent()].concat(),
    ));
    assert_eq!(bench.steer(&tail), ("pass_own", XDP_PASS));
}
