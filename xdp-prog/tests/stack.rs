//! xtp_egress and the programs of the host port, frame by frame, by
//! BPF_PROG_TEST_RUN; and what loading says without privilege.

mod fixture;

use std::os::fd::AsFd;
use std::thread;

use fixture::*;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use xdp_prog::{
    Delivery, Direction, Error, HostConfig, HostHook, HostProgram, Management, PortProgram, Taken,
};

const TO_STACK: [u8; 5] = [2, 0xd, 1, 2, 3];

fn bench() -> Bench {
    let mut bench = Bench::without_socket(&config());
    let inbound = Taken {
        proto: UDP,
        ports: 0..=65535,
        direction: Direction::Inbound,
    };
    bench
        .program
        .set_addresses(&[(OWN, vec![taken(TCP, 3128..=3130), inbound])], &[])
        .unwrap();
    bench
}

fn assert_native(bench: &Bench, frame: &[u8], counter: &str) {
    let outcome = bench.egress(frame);
    assert_eq!(
        (outcome.counter, outcome.verdict),
        (counter, TC_UNSPEC),
        "{frame:02x?}"
    );
    assert_eq!(outcome.frame, frame);
}

fn assert_diverted(bench: &Bench, frame: &[u8]) {
    let outcome = bench.egress(frame);
    assert_eq!(
        (outcome.counter, outcome.verdict),
        ("egress_diverted", TC_REDIRECT),
        "{frame:02x?}"
    );
    assert_eq!(outcome.frame[..6], frame[..6], "the next hop stays");
    assert_eq!(outcome.frame[6..12], FROM_STACK);
    assert_eq!(outcome.frame[12..], frame[12..]);
}

#[test]
fn answers_of_taken_endpoints_are_diverted_marked() {
    let bench = bench();
    assert_diverted(&bench, &leaving(OWN, TCP, 3128, 0));
    assert_diverted(&bench, &leaving(OWN, TCP, 3130, 0x4000));
    let tagged = eth(
        NEIGHBOUR,
        NIC,
        0x8100,
        &vlan(5, 0x0800, &leaving(OWN, TCP, 3128, 0)[14..]),
    );
    assert_diverted(&bench, &tagged);
}

#[test]
fn everything_else_leaves_natively() {
    let bench = bench();
    assert_native(&bench, &leaving(OWN, TCP, 3127, 0), "egress_native");
    assert_native(&bench, &leaving(OWN, TCP, 3131, 0), "egress_native");
    assert_native(&bench, &leaving(OWN, UDP, 3128, 0), "egress_native");
    assert_native(&bench, &leaving(SERVER, TCP, 3128, 0), "egress_native");
    assert_native(
        &bench,
        &eth([0xff; 6], NIC, 0x0806, &[0; 46]),
        "egress_native",
    );
    assert_native(
        &bench,
        &eth(
            NEIGHBOUR,
            NIC,
            0x86dd,
            &ipv6("2001:db8::2".parse().unwrap()),
        ),
        "egress_native",
    );
    // The kernel runs no program on a cut IPv4 packet, unless a tag hides it.
    let tagged = eth(
        NEIGHBOUR,
        NIC,
        0x8100,
        &vlan(5, 0x0800, &leaving(OWN, TCP, 3128, 0)[14..]),
    );
    for cut in 15..38 {
        assert_native(&bench, &tagged[..cut], "egress_native");
    }
}

#[test]
fn in_doubt_about_its_port_a_packet_of_a_taken_protocol_is_diverted() {
    let bench = bench();
    assert_diverted(&bench, &leaving(OWN, TCP, 22, 185));
    assert_native(&bench, &leaving(OWN, UDP, 22, 185), "egress_native");
    let whole = leaving(OWN, TCP, 22, 0);
    for cut in 34..38 {
        assert_diverted(&bench, &whole[..cut]);
    }
    assert_native(&bench, &whole[..38], "egress_native");
}

#[test]
fn management_leaves_natively_even_from_a_taken_port() {
    let mut bench = bench();
    bench
        .program
        .set_addresses(&[(OWN, vec![taken(0, 0..=65535)])], &[])
        .unwrap();
    let lan = Management {
        network: CLIENT,
        prefix_len: 24,
        proto: TCP,
        ports: 22..=22,
    };
    bench
        .program
        .set_management(std::slice::from_ref(&lan))
        .unwrap();
    assert_native(&bench, &leaving(OWN, TCP, 22, 0), "egress_management");
    assert_diverted(&bench, &leaving(OWN, TCP, 23, 0));
    assert_diverted(&bench, &leaving(OWN, TCP, 22, 185));
    let elsewhere = Management {
        network: SERVER,
        ..lan
    };
    bench.program.set_management(&[elsewhere]).unwrap();
    assert_diverted(&bench, &leaving(OWN, TCP, 22, 0));
}

fn counter(counters: &[(&str, u64)], name: &str) -> u64 {
    counters
        .iter()
        .find(|(n, _)| *n == name)
        .unwrap_or_else(|| panic!("no counter {name}"))
        .1
}

fn host() -> HostProgram {
    let host = HostProgram::load(&HostConfig {
        queues: 1,
        to_stack: TO_STACK,
    })
    .unwrap();
    host.set_port(
        7,
        &Delivery {
            ifindex: 1,
            mac: NIC,
            reinjected: None,
        },
    )
    .unwrap();
    host.set_port(
        255,
        &Delivery {
            ifindex: 1,
            mac: STRANGER,
            reinjected: Some(REINJECTED),
        },
    )
    .unwrap();
    host
}

fn to_stack(port: u8) -> Vec<u8> {
    let mut dst = [0; 6];
    dst[..5].copy_from_slice(&TO_STACK);
    dst[5] = port;
    eth(
        dst,
        NEIGHBOUR,
        0x0800,
        &ipv4(CLIENT, OWN, TCP, 0, &ports(1, 3128)),
    )
}

fn deliver(host: &HostProgram, frame: &[u8], name: &str) -> (u32, Vec<u8>) {
    let before = counter(&host.counters().unwrap(), name);
    let run = host.dry_run(HostHook::Deliver, frame).unwrap();
    assert_eq!(counter(&host.counters().unwrap(), name), before + 1);
    (run.verdict, run.frame)
}

#[test]
fn a_delivery_carries_the_macs_of_its_nic() {
    let host = host();
    let rest = &to_stack(0)[12..];
    let (verdict, frame) = deliver(&host, &to_stack(7), "delivered");
    assert_eq!(
        (verdict, frame),
        (TC_REDIRECT, [&NIC[..], &NEIGHBOUR, rest].concat())
    );
    let (verdict, frame) = deliver(&host, &to_stack(255), "delivered");
    assert_eq!(
        (verdict, frame),
        (TC_REDIRECT, [&STRANGER[..], &REINJECTED, rest].concat())
    );
}

#[test]
fn what_has_no_mark_or_no_port_is_not_delivered() {
    let host = host();
    assert_eq!(deliver(&host, &to_stack(8), "deliver_no_port").0, TC_SHOT);
    let unmarked = eth([0x33, 0x33, 0, 0, 0, 2], NEIGHBOUR, 0x86dd, &[0; 40]);
    assert_eq!(deliver(&host, &unmarked, "deliver_unmarked").0, TC_SHOT);
    for byte in 0..5 {
        let mut guess = to_stack(7);
        guess[byte] ^= 1;
        assert_eq!(deliver(&host, &guess, "deliver_unmarked").0, TC_SHOT);
    }
}

#[test]
fn the_host_port_hands_over_to_its_socket_or_drops() {
    let host = host();
    let verdict = || host.dry_run(HostHook::Host, &to_stack(7)).unwrap().verdict;
    assert_eq!(verdict(), XDP_DROP);
    assert_eq!(counter(&host.counters().unwrap(), "host_no_socket"), 1);
    let socket = xsk();
    host.set_socket(0, socket.as_fd()).unwrap();
    assert_eq!(verdict(), XDP_REDIRECT);
    assert_eq!(counter(&host.counters().unwrap(), "host_diverted"), 1);
}

#[test]
fn without_privilege_loading_says_what_is_missing() {
    let error = thread::spawn(|| {
        let sets = capabilities(None).unwrap();
        let effective = sets.effective - (CapabilitySet::SYS_ADMIN | CapabilitySet::BPF);
        // Of this thread only.
        set_capabilities(None, CapabilitySets { effective, ..sets }).unwrap();
        PortProgram::load(&config())
            .err()
            .expect("loading needs privilege")
    })
    .join()
    .unwrap();
    assert!(matches!(error, Error::Permission { .. }), "{error:?}");
    assert!(error.to_string().contains("run as root"), "{error}");
}
