//! FLAGS, and which foreign tuples are taken.

use registry::{Way, flags::*};
use shm::Operation;
use tables::{Kind, OwnerId, Side};

use crate::lab::*;
use crate::steps::*;

#[test]
fn setting_flags() {
    cases! {
        "none assigned" => |l| { let s = l.socket(TCP, 5); l.flags(&s, CONNECT) } => ENOENT,
        "get, none assigned" => |l| { let s = l.socket(TCP, 5); l.get(&s, Operation::Flags).errno } => ENOENT,
        "connect" => |l| { let s = assigned(l, TCP, 5, F); l.flags(&s, CONNECT) } => 0,
        "connect once" => |l| { let s = assigned(l, TCP, 5, F); l.flags(&s, CONNECT | ONCE) } => 0,
        "listen" => |l| { let s = assigned(l, TCP, 5, F); l.flags(&s, LISTEN) } => 0,
        "what can only be got is ignored" => |l| {
            let s = assigned(l, TCP, 5, F);
            l.flags(&s, LISTEN | MARK | APPLIED)
        } => 0,
        "an unknown flag" => |l| { let s = assigned(l, TCP, 5, F); l.flags(&s, CONNECT | 8) } => EINVAL,
        "listen, connect-only" => |l| {
            assigned(l, TCP, 5, F);
            let s = assigned(l, TCP, 6, F);
            l.flags(&s, LISTEN)
        } => EINVAL,
        "connect, connect-only" => |l| { assigned(l, TCP, 5, F); let s = assigned(l, TCP, 6, F); l.flags(&s, CONNECT) } => 0,
        "connect-only stays so" => |l| {
            let first = assigned(l, TCP, 5, F);
            let s = assigned(l, TCP, 6, F);
            assert_eq!(l.unassign(&first), 0);
            l.flags(&s, LISTEN)
        } => EINVAL,
        "established, tcp" => |l| {
            let s = assigned(l, TCP, 5, F);
            assert_eq!(l.connect(&s, PEER), 0);
            l.flags(&s, ESTABLISHED)
        } => EINVAL,
        "established without a peer" => |l| { let s = assigned(l, UDP, 5, F); l.flags(&s, ESTABLISHED) } => EINVAL,
        "established" => |l| {
            let s = assigned(l, UDP, 5, F);
            assert_eq!(l.connect(&s, PEER), 0);
            l.flags(&s, ESTABLISHED)
        } => 0,
        "unidir, tcp" => |l| { let s = assigned(l, TCP, 5, F); l.flags(&s, LISTEN | UNIDIR) } => EINVAL,
        "unidir" => |l| { let s = assigned(l, UDP, 5, F); l.flags(&s, LISTEN | UNIDIR) } => 0,
        "connect from an address of the box" => |l| {
            let s = assigned(l, TCP, 5, "10.0.0.2:99");
            l.flags(&s, CONNECT)
        } => EINVAL,
        "established from an address of the box" => |l| {
            let s = assigned(l, UDP, 5, "10.0.0.2:99");
            assert_eq!(l.connect(&s, PEER), 0);
            l.flags(&s, ESTABLISHED)
        } => EINVAL,
        "listen on an address of the box" => |l| { let s = assigned(l, TCP, 5, "10.0.0.2:99"); l.flags(&s, LISTEN) } => 0,
        "listen where management passes" => |l| {
            let s = assigned(l, TCP, 5, "10.0.0.2:22");
            l.flags(&s, LISTEN)
        } => EINVAL,
        "connect, the same pair" => |l| {
            let first = assigned(l, TCP, 5, F);
            assert_eq!((l.connect(&first, PEER), l.flags(&first, CONNECT)), (0, 0));
            let s = assigned(l, TCP, 6, F);
            assert_eq!(l.connect(&s, PEER), 0);
            l.flags(&s, CONNECT)
        } => EADDRINUSE,
        "connect, the same foreign endpoint and another peer" => |l| {
            let first = assigned(l, TCP, 5, F);
            assert_eq!((l.connect(&first, PEER), l.flags(&first, CONNECT)), (0, 0));
            let s = assigned(l, TCP, 6, F);
            assert_eq!(l.connect(&s, OTHER_PEER), 0);
            l.flags(&s, CONNECT)
        } => 0,
        "established, the same pair" => |l| {
            let first = assigned(l, UDP, 5, F);
            assert_eq!((l.connect(&first, PEER), l.flags(&first, ESTABLISHED)), (0, 0));
            let s = assigned(l, UDP, 6, F);
            assert_eq!(l.connect(&s, PEER), 0);
            l.flags(&s, ESTABLISHED)
        } => EADDRINUSE,
        "listen for a peer that another connects to" => |l| {
            let first = assigned(l, TCP, 5, F);
            let s = assigned(l, TCP, 6, F);
            assert_eq!((l.connect(&s, PEER), l.flags(&s, CONNECT)), (0, 0));
            assert_eq!(l.connect(&first, PEER), 0);
            l.flags(&first, LISTEN)
        } => EINVAL,
        "changing to a pair that is taken" => |l| {
            let first = assigned(l, TCP, 5, F);
            assert_eq!((l.connect(&first, PEER), l.flags(&first, CONNECT)), (0, 0));
            let s = assigned(l, TCP, 6, F);
            assert_eq!((l.connect(&s, OTHER_PEER), l.flags(&s, CONNECT)), (0, 0));
            l.connect(&s, PEER)
        } => EADDRINUSE,
        "no room in steering" => |l| {
            let s = assigned(l, TCP, 5, F);
            l.state().refuses_divert = Some(Way::Both);
            l.flags(&s, CONNECT)
        } => ENOBUFS,
        "no room in steering for the second" => |l| {
            let s = assigned(l, TCP, 5, F);
            l.state().refuses_divert = Some(Way::Inbound);
            l.flags(&s, CONNECT | LISTEN)
        } => ENOBUFS,
    }
}

#[test]
fn flags_are_kept_and_shown() {
    let mut lab = Lab::new();
    let socket = assigned(&mut lab, UDP, 5, F);
    assert_eq!(lab.get_flags(&socket), Ok(0));
    for set in [CONNECT | ONCE, LISTEN | UNIDIR, 0, ONCE] {
        assert_eq!(lab.flags(&socket, set | MARK | APPLIED), 0);
        assert_eq!(lab.get_flags(&socket), Ok(set));
    }
    let marked = assigned(&mut lab, TCP, 6, "0.0.0.0:0");
    assert_eq!(lab.flags(&marked, LISTEN), 0);
    assert_eq!(lab.get_flags(&marked), Ok(LISTEN | MARK));
    let ways = [
        Way4(Side::Wire, PEER, F),
        Way4(Side::Host, "10.0.0.1:5", PEER),
    ];
    let flow = lab.flow(Kind::Listen, lab.owner(&socket), UDP, ways);
    assert_eq!(lab.get_flags(&socket), Ok(ONCE | APPLIED));
    lab.flows.remove(flow.id, lab.now);
    assert_eq!(lab.get_flags(&socket), Ok(ONCE | APPLIED), "it had one");
}

#[test]
fn steering_knows_who_shows_a_foreign_address_before_workers_do() {
    let mut lab = Lab::new();
    let shows = |lab: &Lab, socket: &registry::Socket| lab.state().watched[&socket.cookie];
    let socket = assigned(&mut lab, UDP, 5, F);
    assert!(!shows(&lab, &socket));
    for (flags, want) in [
        (LISTEN, false),
        (CONNECT, true),
        (LISTEN, false),
        (ONCE, false),
    ] {
        assert_eq!(lab.flags(&socket, flags), 0);
        assert_eq!(shows(&lab, &socket), want, "{flags:x}");
    }
    assert_eq!(
        (lab.connect(&socket, PEER), lab.flags(&socket, ESTABLISHED)),
        (0, 0)
    );
    assert!(shows(&lab, &socket));
    let marked = assigned(&mut lab, UDP, 6, "0.0.0.0:0");
    assert_eq!(lab.flags(&marked, CONNECT), 0);
    assert!(!shows(&lab, &marked), "its packets stay as they are");
    let at_once = lab.socket(TCP, 7);
    assert_eq!(lab.set(&at_once, assign_flags(F, None, CONNECT)), 0);
    assert!(shows(&lab, &at_once));
    let log = lab.state().log.clone();
    let watched = format!("watch {} true", at_once.cookie);
    assert_eq!(
        &log[log.len() - 2..],
        [watched, "divert 10.0.0.1:7 Both found false".to_owned()]
    );
    // Adopted as it was.
    let lab = lab.restart(grants());
    assert!(shows(&lab, &at_once) && shows(&lab, &socket) && !shows(&lab, &marked));
}

#[test]
fn what_steering_was_told_is_taken_back_when_the_change_fails() {
    cases! {
        "no room in the watch" => |l| {
            let s = assigned(l, TCP, 5, F);
            l.state().refuses_watch = true;
            l.flags(&s, CONNECT)
        } => ENOBUFS,
        "no room in steering" => |l| {
            let s = assigned(l, TCP, 5, F);
            l.state().refuses_divert = Some(Way::Both);
            l.flags(&s, CONNECT)
        } => ENOBUFS,
    }
}

#[test]
fn a_live_connection_holds_its_tuple() {
    cases! {
        "another's connection" => |l| { let (_, _, s) = beside_a_flow(l); l.flags(&s, CONNECT) } => EADDRINUSE,
        "another's connection, towards another peer" => |l| {
            let (_, _, s) = beside_a_flow(l);
            assert_eq!(l.connect(&s, OTHER_PEER), 0);
            l.flags(&s, CONNECT)
        } => 0,
        "its own" => |l| {
            let s = assigned(l, TCP, 5, F);
            holding(l, l.owner(&s));
            assert_eq!(l.connect(&s, PEER), 0);
            l.flags(&s, CONNECT)
        } => 0,
        "a rule's" => |l| {
            holding(l, OwnerId::NOBODY);
            let s = assigned(l, TCP, 6, F);
            l.set(&s, set_flags(0));
            assert_eq!(l.connect(&s, PEER), 0);
            l.flags(&s, CONNECT)
        } => EADDRINUSE,
        "one that is over" => |l| {
            let (_, flow, s) = beside_a_flow(l);
            let reset = wire::TcpHeader { flags: wire::TcpFlags(wire::TcpFlags::RST), seq: 1, ack: 0, payload_bytes: 0 };
            l.flows.record(&flow, l.now, 40, Some(&reset));
            l.flags(&s, CONNECT)
        } => 0,
        "one whose socket has closed, and which still ends" => |l| {
            let (first, _, s) = beside_a_flow(l);
            l.close(&first);
            l.flags(&s, CONNECT)
        } => EADDRINUSE,
        "one that lives on after unassign" => |l| {
            let (first, _, s) = beside_a_flow(l);
            assert_eq!(l.unassign(&first), 0);
            l.flags(&s, CONNECT)
        } => EADDRINUSE,
        "one that was unassigned, and has gone" => |l| {
            let (first, flow, s) = beside_a_flow(l);
            assert_eq!(l.unassign(&first), 0);
            l.flows.remove(flow.id, l.now);
            l.flags(&s, CONNECT)
        } => 0,
        "datagrams of a socket that has closed" => |l| {
            let first = assigned(l, UDP, 5, F);
            assert_eq!(l.flags(&first, CONNECT), 0);
            let ways = [Way4(Side::Host, "10.0.0.1:5", PEER), Way4(Side::Wire, PEER, F)];
            l.flow(Kind::Connect, l.owner(&first), UDP, ways);
            let s = assigned(l, UDP, 6, F);
            assert_eq!(l.connect(&s, PEER), 0);
            assert_eq!(l.flags(&s, CONNECT), EADDRINUSE);
            l.close(&first);
            l.flags(&s, CONNECT)
        } => 0,
    }
}

#[test]
fn what_is_only_marked_is_found_and_not_diverted() {
    let mut lab = Lab::new();
    let socket = assigned(&mut lab, UDP, 5, "0.0.0.0:0");
    assert_eq!(lab.flags(&socket, LISTEN | UNIDIR), 0);
    assert!(lab.state().diverted.is_empty());
    let found = lab
        .table
        .owner(wire::Protocol::UDP, end(socket.local), end(at(PEER)));
    let tables::Lookup::Found(found) = found else {
        panic!("{found:?}")
    };
    assert!(found.uses.any(tables::Uses::UNIDIR) && found.uses.any(tables::Uses::LISTEN));
    assert_eq!(found.owner, lab.owner(&socket));
}
