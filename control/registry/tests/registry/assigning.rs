//! ASSIGN, alone and with FLAGS.

use registry::{Socket, Way, flags::*};
use shm::{Access, Operation, Request};

use crate::lab::*;
use crate::steps::*;

#[test]
fn assigning() {
    cases! {
        "assign" => |l| { let s = l.socket(TCP, 5); l.assign(&s, F) } => 0,
        "udp" => |l| { let s = l.socket(UDP, 5); l.assign(&s, F) } => 0,
        "port 0: chosen at connect" => |l| { let s = l.socket(TCP, 5); l.assign(&s, F0) } => 0,
        "mark only" => |l| { let s = l.socket(TCP, 5); l.assign(&s, "0.0.0.0:0") } => 0,
        "v4-mapped" => |l| { let s = l.socket(TCP, 5); l.assign(&s, "[::ffff:203.0.113.5]:21") } => 0,
        "no foreign address" => |l| {
            let s = l.socket(TCP, 5);
            l.set(&s, Request::new(Operation::Assign, Access::Set, 3))
        } => EINVAL,
        "ipv6" => |l| { let s = l.socket(TCP, 5); l.assign(&s, "[2001:db8::1]:21") } => EINVAL,
        "mark with a port" => |l| { let s = l.socket(TCP, 5); l.assign(&s, "0.0.0.0:21") } => EINVAL,
        "foreign 0.x" => |l| { let s = l.socket(TCP, 5); l.assign(&s, "0.1.2.3:21") } => EINVAL,
        "foreign loopback" => |l| { let s = l.socket(TCP, 5); l.assign(&s, "127.0.0.9:21") } => EINVAL,
        "foreign multicast" => |l| { let s = l.socket(UDP, 5); l.assign(&s, "224.0.0.5:21") } => EINVAL,
        "foreign broadcast" => |l| { let s = l.socket(UDP, 5); l.assign(&s, "255.255.255.255:21") } => EINVAL,
        "connected already" => |l| {
            let s = Socket { peer: Some(at(PEER)), ..l.socket(TCP, 5) };
            l.assign(&s, F)
        } => EINVAL,
        "not bound" => |l| { let s = l.bound(TCP, at("0.0.0.0:0")); l.assign(&s, F) } => EINVAL,
        "bound to no address" => |l| { let s = l.bound(TCP, at("0.0.0.0:5")); l.assign(&s, F) } => EINVAL,
        "bound to no port" => |l| { let s = l.bound(TCP, at("10.0.0.1:0")); l.assign(&s, F) } => EINVAL,
        "bound to loopback" => |l| { let s = l.bound(TCP, at("127.0.0.1:5")); l.assign(&s, F) } => EINVAL,
        "bound to what is not the box's" => |l| { let s = l.bound(TCP, at("10.9.9.9:5")); l.assign(&s, F) } => EINVAL,
        "bound to a management port" => |l| { let s = l.socket(TCP, MANAGED); l.assign(&s, F) } => EINVAL,
        "management is of TCP alone" => |l| { let s = l.socket(UDP, MANAGED); l.assign(&s, F) } => 0,
        "this socket is assigned already" => |l| { let s = assigned(l, TCP, 5, F); l.assign(&s, F) } => EEXIST,
        "another with the same local endpoint" => |l| {
            assigned(l, TCP, 5, F0);
            let s = reusing(l, TCP, 5);
            l.assign(&s, F)
        } => EEXIST,
        "the same local endpoint of the other protocol" => |l| {
            assigned(l, TCP, 5, F);
            let s = l.socket(UDP, 5);
            l.assign(&s, F)
        } => 0,
        "the same local endpoint and another peer" => |l| {
            let first = assigned(l, TCP, 5, F0);
            assert_eq!(l.connect(&first, PEER), 0);
            let s = reusing(l, TCP, 5);
            l.assign(&s, F0)
        } => 0,
        "foreign taken" => |l| { assigned(l, TCP, 5, F); let s = l.socket(TCP, 6); l.assign(&s, F) } => EADDRINUSE,
        "foreign taken, SO_REUSEADDR" => |l| { assigned(l, TCP, 5, F); let s = reusing(l, TCP, 6); l.assign(&s, F) } => 0,
        "foreign taken by one that may share" => |l| {
            let first = l.socket(TCP, 5);
            assert_eq!(l.assign(&first, F), 0);
            let s = reusing(l, TCP, 6);
            l.assign(&s, F)
        } => 0,
        "foreign free again after unassign" => |l| {
            let first = assigned(l, TCP, 5, F);
            assert_eq!(l.unassign(&first), 0);
            let s = l.socket(TCP, 6);
            l.assign(&s, F)
        } => 0,
        "one of two that shared is left" => |l| {
            let first = assigned(l, TCP, 5, F);
            assigned(l, TCP, 6, F);
            assert_eq!(l.unassign(&first), 0);
            let s = l.socket(TCP, 7);
            l.assign(&s, F)
        } => EADDRINUSE,
        "foreign address of any port is shared" => |l| {
            assigned(l, TCP, 5, F0);
            let s = l.socket(TCP, 6);
            l.assign(&s, F0)
        } => 0,
        "steering has no room" => |l| {
            l.state().refuses_divert = Some(Way::Both);
            let s = l.socket(TCP, 5);
            l.set(&s, assign_flags(F, None, CONNECT))
        } => ENOBUFS,
        "steering has room for one" => |l| {
            l.state().refuses_divert = Some(Way::Inbound);
            let s = l.socket(TCP, 5);
            l.set(&s, assign_flags(F, None, LISTEN))
        } => ENOBUFS,
        "the watch has no room" => |l| {
            l.state().refuses_watch = true;
            let s = l.socket(TCP, 5);
            l.assign(&s, F)
        } => ENOBUFS,
    }
}

#[test]
fn full_tables_say_so() {
    let cases = [
        (
            "registrations",
            Sizes {
                registrations: 2,
                ..Sizes::default()
            },
        ),
        (
            "owners",
            Sizes {
                owners: 2,
                ..Sizes::default()
            },
        ),
    ];
    for (name, sizes) in cases {
        let mut lab = Lab::sized(&sizes);
        let first = assigned(&mut lab, TCP, 5, F0);
        assigned(&mut lab, TCP, 6, F0);
        let third = lab.socket(TCP, 7);
        assert_eq!(lab.assign(&third, F0), ENOBUFS, "{name}");
        // A closed socket makes room, told of or not yet.
        lab.close(&first);
        lab.now += SECOND;
        lab.registry.upkeep(lab.now);
        lab.now += SECOND;
        assert_eq!(lab.assign(&third, F0), 0, "{name}");
    }
}

#[test]
fn both_at_once_or_neither() {
    cases! {
        "assign and flags" => |l| { let s = l.socket(TCP, 5); l.set(&s, assign_flags(F, None, CONNECT | ONCE)) } => 0,
        "with a peer" => |l| { let s = l.socket(UDP, 5); l.set(&s, assign_flags(F, Some(PEER), ESTABLISHED)) } => 0,
        "established without a peer" => |l| {
            let s = l.socket(UDP, 5);
            l.set(&s, assign_flags(F, None, ESTABLISHED))
        } => EINVAL,
        "unknown flags" => |l| { let s = l.socket(TCP, 5); l.set(&s, assign_flags(F, None, 0x10)) } => EINVAL,
        "assigned already" => |l| { let s = assigned(l, TCP, 5, F); l.set(&s, assign_flags(F, None, CONNECT)) } => EEXIST,
        "foreign taken" => |l| {
            assigned(l, TCP, 5, F);
            let s = l.socket(TCP, 6);
            l.set(&s, assign_flags(F, None, CONNECT))
        } => EADDRINUSE,
        "listen, foreign taken and shared" => |l| {
            assigned(l, TCP, 5, F);
            let s = reusing(l, TCP, 6);
            l.set(&s, assign_flags(F, None, LISTEN))
        } => EINVAL,
        "pair taken" => |l| {
            let first = reusing(l, TCP, 5);
            assert_eq!(l.set(&first, assign_flags(F, Some(PEER), CONNECT)), 0);
            let s = reusing(l, TCP, 6);
            l.set(&s, assign_flags(F, Some(PEER), CONNECT))
        } => EADDRINUSE,
        "another pair" => |l| {
            let first = reusing(l, TCP, 5);
            assert_eq!(l.set(&first, assign_flags(F, Some(PEER), CONNECT)), 0);
            let s = reusing(l, TCP, 6);
            l.set(&s, assign_flags(F, Some(OTHER_PEER), CONNECT))
        } => 0,
        "the same local endpoint and another peer" => |l| {
            let first = reusing(l, TCP, 5);
            assert_eq!(l.set(&first, assign_flags(F0, Some(PEER), CONNECT)), 0);
            let s = reusing(l, TCP, 5);
            l.set(&s, assign_flags(F0, Some(OTHER_PEER), CONNECT))
        } => 0,
    }
    let mut lab = Lab::new();
    let socket = lab.socket(TCP, 5);
    assert_eq!(
        lab.set(&socket, assign_flags(F, Some(PEER), CONNECT | ONCE)),
        0
    );
    let row = lab.registry.rows(lab.now).pop().unwrap();
    assert_eq!(
        (row.local, row.foreign, row.peer),
        (socket.local, at(F), Some(at(PEER)))
    );
    assert_eq!(
        (row.flags, row.pid, row.uid, row.is_orphan),
        (CONNECT | ONCE, 77, 0, false)
    );
    assert_eq!(row.command, "proxy");
}
