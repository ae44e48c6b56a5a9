//! Where a diverted frame goes: the socket, the slow lane, nowhere.

use std::os::fd::AsFd;

use xdp_prog::{Mode, PortConfig, PortHook};

use crate::fixture::*;
use crate::{bench, v6_to, with_addresses};

#[test]
fn without_a_socket_the_setting_decides() {
    for (open, want) in [
        (false, ("no_socket_dropped", XDP_DROP)),
        (true, ("no_socket_passed", XDP_PASS)),
    ] {
        for mode in [Mode::Native, Mode::Generic] {
            let config = PortConfig {
                open,
                mode,
                max_frame_bytes: 100,
                ..config()
            };
            let bench = with_addresses(Bench::without_socket(&config));
            let oversize = arriving(&ipv4(CLIENT, SERVER, TCP, 0, &[0; 400]));
            for frame in [
                tcp_to(SERVER, 80),
                tcp_to(OWN, 3128),
                v6_to("2001:db8::2"),
                oversize,
            ] {
                let outcome = bench.run(PortHook::Steer, &frame);
                assert_eq!((outcome.counter, outcome.verdict), want);
                assert_eq!(outcome.frame, frame, "no tag for the slow lane");
            }
            assert_eq!(bench.steer(&tcp_to(OWN, 22)), ("pass_own", XDP_PASS));
        }
    }
}

#[test]
fn a_closed_socket_counts_as_none() {
    let mut bench = bench();
    assert_eq!(
        bench.steer(&tcp_to(SERVER, 80)),
        ("divert_transit", XDP_REDIRECT)
    );
    bench.close_socket();
    assert_eq!(
        bench.steer(&tcp_to(SERVER, 80)),
        ("no_socket_dropped", XDP_DROP)
    );
}

#[test]
fn frames_too_long_for_a_chunk_are_dropped_or_take_the_slow_lane() {
    let frame = |len: usize| arriving(&ipv4(CLIENT, SERVER, TCP, 0, &vec![7; len - 34]));
    let native = with_addresses(Bench::with_socket(&PortConfig {
        max_frame_bytes: 1514,
        ..config()
    }));
    assert_eq!(native.steer(&frame(1514)), ("divert_transit", XDP_REDIRECT));
    assert_eq!(native.steer(&frame(1515)), ("oversize", XDP_DROP));

    let config = PortConfig {
        max_frame_bytes: 1514,
        mode: Mode::Generic,
        ..config()
    };
    let generic = with_addresses(Bench::with_socket(&config));
    assert_eq!(
        generic.steer(&frame(1514)),
        ("divert_transit", XDP_REDIRECT)
    );
    let outcome = generic.run(PortHook::Steer, &frame(1515));
    assert_eq!((outcome.counter, outcome.verdict), ("slow_lane", XDP_PASS));
    let tag = 0x7874_7031u32.to_ne_bytes();
    assert_eq!(
        outcome.frame,
        [&tag[..], &frame(1515)].concat(),
        "the tag stands before the frame"
    );
    let own = arriving(&ipv4(CLIENT, OWN, UDP, 0, &[0; 2000]));
    assert_eq!(
        generic.run(PortHook::Steer, &own).frame,
        own,
        "what is the kernel's has no tag"
    );
}

#[test]
fn the_slow_lane_leaves_untagged_frames_alone() {
    let generic = Bench::with_socket(&PortConfig {
        mode: Mode::Generic,
        ..config()
    });
    let mut lookalike = 0x7874_7031u32.to_ne_bytes().to_vec();
    lookalike.extend_from_slice(&tcp_to(SERVER, 80));
    for frame in [tcp_to(SERVER, 80), lookalike] {
        let run = generic.program.dry_run(PortHook::SlowLane, &frame).unwrap();
        assert_eq!((run.verdict, run.frame), (TC_UNSPEC, frame));
    }
}

#[test]
fn reinjected_frames_pass_in_generic_mode_only() {
    let frame = eth(
        NIC,
        REINJECTED,
        0x0800,
        &ipv4(CLIENT, OWN, TCP, 0, &ports(1, 3128)),
    );
    let generic = with_addresses(Bench::with_socket(&PortConfig {
        mode: Mode::Generic,
        ..config()
    }));
    assert_eq!(generic.steer(&frame), ("pass_reinjected", XDP_PASS));
    assert_eq!(bench().steer(&frame), ("divert_taken", XDP_REDIRECT));
    for byte in 6..12 {
        let mut guess = frame.clone();
        guess[byte] ^= 1;
        assert_eq!(
            generic.steer(&guess),
            ("divert_taken", XDP_REDIRECT),
            "byte {byte} is part of the secret"
        );
    }
}

#[test]
fn sockets_have_a_queue_that_exists() {
    let bench = bench();
    let socket = xsk();
    let error = bench
        .program
        .set_socket(1, socket.as_fd())
        .unwrap_err()
        .to_string();
    assert!(error.contains("queue 1"), "{error}");
}
