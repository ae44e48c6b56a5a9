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

/// An ICMP error of the box about a packet from the client.
fn error_about(kind: u8, about: &[u8]) -> Vec<u8> {
    let icmp = [&[kind, 3, 0, 0, 0, 0, 0, 0][..], about].concat();
    eth(NEIGHBOUR, NIC, 0x0800, &ipv4(OWN, CLIENT, ICMP, 0, &icmp))
}

fn from_client(proto: u8, dport: u16, fragment: u16) -> Vec<u8> {
    ipv4(CLIENT, OWN, proto, fragment, &ports(40_000, dport))
}

#[test]
fn errors_about_packets_to_taken_endpoints_are_diverted() {
    let bench = bench();
    let about = from_client(TCP, 3128, 0);
    for kind in [3, 4, 5, 11, 12] {
        assert_diverted(&bench, &error_about(kind, &about));
    }
    // As little of the packet as an error may carry, and options before and inside.
    assert_diverted(&bench, &error_about(3, &about[..28]));
    let tagged = eth(
        NEIGHBOUR,
        NIC,
        0x8100,
        &vlan(5, 0x0800, &error_about(3, &about)[14..]),
    );
    assert_diverted(&bench, &tagged);
    let mut options = about[..20].to_vec();
    options[0] = 0x4f;
    options.extend([1; 40]);
    options.extend(&about[20..]);
    let error = error_about(3, &options);
    assert_diverted(&bench, &error);
    let mut long = error[..34].to_vec();
    long[14] = 0x4f;
    long.extend([1; 40]);
    long.extend(&error[34..]);
    assert_diverted(&bench, &long);
    // In doubt about the port.
    assert_diverted(&bench, &error_about(11, &from_client(TCP, 22, 185)));
    for cut in 20..24 {
        assert_diverted(&bench, &error_about(3, &about[..cut]));
    }
}

#[test]
fn other_icmp_leaves_natively() {
    let bench = bench();
    let about = from_client(TCP, 3128, 0);
    for kind in [0, 8, 13, 14] {
        assert_native(&bench, &error_about(kind, &about), "egress_native");
    }
    let elsewhere = [
        from_client(TCP, 3127, 0),
        // Taken on its way in only.
        from_client(UDP, 3128, 0),
        // An answer of the endpoint, not a packet to it.
        ipv4(OWN, CLIENT, TCP, 0, &ports(3128, 40_000)),
        ipv4(CLIENT, SERVER, TCP, 0, &ports(40_000, 3128)),
    ];
    for about in elsewhere {
        assert_native(&bench, &error_about(3, &about), "egress_native");
    }
    for cut in 0..20 {
        assert_native(&bench, &error_about(3, &about[..cut]), "egress_native");
    }
    let mut unreadable = about.clone();
    for version_ihl in [0x65, 0x44] {
        unreadable[0] = version_ihl;
        assert_native(&bench, &error_about(3, &unreadable), "egress_native");
    }
    // The second fragment of an error has no header inside.
    let tail = eth(
        NEIGHBOUR,
        NIC,
        0x0800,
        &ipv4(OWN, CLIENT, ICMP, 185, &error_about(3, &about)[34..]),
    );
    assert_native(&bench, &tail, "egress_native");
}

#[test]
fn errors_about_management_leave_natively() {
    let mut bench = bench();
    let lan = |proto| Management {
        network: CLIENT,
        prefix_len: 24,
        proto,
        ports: 0..=3128,
    };
    bench.program.set_management(&[lan(TCP)]).unwrap();
    let error = |port| error_about(3, &from_client(TCP, port, 0));
    assert_native(&bench, &error(3128), "egress_management");
    assert_diverted(&bench, &error(3129));
    // ICMP as management does not let out what is inside.
    bench
        .program
        .set_addresses(&[(OWN, vec![taken(0, 0..=65535)])], &[])
        .unwrap();
    bench.program.set_management(&[lan(ICMP)]).unwrap();
    assert_diverted(&bench, &error(3128));
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
    let (endpoints, sockets) = (no_endpoints(), no_sockets());
    let error = thread::spawn(move || {
        let sets = capabilities(None).unwrap();
        let effective = sets.effective - (CapabilitySet::SYS_ADMIN | CapabilitySet::BPF);
        // Of this thread only.
        set_capabilities(None, CapabilitySets { effective, ..sets }).unwrap();
        PortProgram::load(&config(), &endpoints, &sockets)
            .err()
            .expect("loading needs privilege")
    })
    .join()
    .unwrap();
    assert!(matches!(error, Error::Permission { .. }), "{error:?}");
    assert!(error.to_string().contains("run as root"), "{error}");
}
