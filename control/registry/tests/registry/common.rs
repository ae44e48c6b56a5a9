//! What concerns every operation: version, the socket meant, set and get, grants.

use registry::flags::*;
use shm::{Access, Operation, Request};

use crate::lab::*;
use crate::steps::*;

#[test]
fn version_and_what_concerns_every_operation() {
    cases! {
        "version 2.0.0" => |l| { let s = l.socket(TCP, 1); l.set(&s, version(0x0200_0000)) } => 0,
        "version 2.0.6" => |l| { let s = l.socket(TCP, 1); l.set(&s, version(0x0200_0006)) } => 0,
        "version 2.0.99" => |l| { let s = l.socket(TCP, 1); l.set(&s, version(0x0200_0063)) } => 0,
        "version 2.1" => |l| { let s = l.socket(TCP, 1); l.set(&s, version(0x0201_0000)) } => EINVAL,
        "version 1.0" => |l| { let s = l.socket(TCP, 1); l.set(&s, version(0x0100_0000)) } => EINVAL,
        "version 3.0" => |l| { let s = l.socket(TCP, 1); l.set(&s, version(0x0300_0000)) } => EINVAL,
        "version 0" => |l| { let s = l.socket(TCP, 1); l.set(&s, version(0)) } => EINVAL,
        "version needs no privilege" => |l| {
            as_user(l, 99, &[99]);
            let s = l.socket(TCP, 1);
            l.set(&s, version(0x0200_0000))
        } => 0,
        "version of an unbound socket" => |l| {
            let s = l.bound(UDP, at("0.0.0.0:0"));
            l.set(&s, version(0x0200_0000))
        } => 0,
        "neither TCP nor UDP" => |l| { let s = l.socket(1, 1); l.set(&s, version(0x0200_0000)) } => EINVAL,
        "neither TCP nor UDP: assign" => |l| { let s = l.socket(132, 1); l.assign(&s, F) } => EINVAL,
        "another socket's cookie" => |l| {
            let s = l.socket(TCP, 5);
            l.set(&s, Request { cookie: 1, ..assign(F) })
        } => EBADF,
        "its own cookie" => |l| {
            let s = l.socket(TCP, 5);
            l.set(&s, Request { cookie: s.cookie, proto: TCP, local: Some(s.local.into()), ..assign(F) })
        } => 0,
        "another protocol" => |l| { let s = l.socket(TCP, 5); l.set(&s, Request { proto: UDP, ..assign(F) }) } => EINVAL,
        "another local address" => |l| {
            let s = l.socket(TCP, 5);
            l.set(&s, Request { local: Some("10.0.0.1:6".parse().unwrap()), ..assign(F) })
        } => EINVAL,
    }
    let mut lab = Lab::new();
    let socket = lab.socket(TCP, 1);
    assert_eq!(lab.get(&socket, Operation::Version).version, 0x0200_0006);
}

#[test]
fn set_and_get_are_told_apart() {
    use Access::{Get, Set};
    use Operation as O;
    let cases = [
        (O::Query, Set),
        (O::OriginalDestination, Set),
        (O::Assign, Get),
        (O::AssignFlags, Get),
        (O::Unassign, Get),
        (O::Alloc, Get),
        (O::Connect, Get),
    ];
    for (operation, access) in cases {
        let mut lab = Lab::new();
        let socket = assigned(&mut lab, TCP, 5, F0);
        let reply = lab.ask(&socket, &with(operation, access));
        assert_eq!(reply.errno, ENOPROTOOPT, "{operation:?} {access:?}");
    }
}

#[test]
fn who_is_granted_what() {
    cases! {
        "root" => |l| { let s = l.socket(TCP, 5); l.assign(&s, "8.8.8.8:53") } => 0,
        "a user's grant" => |l| { as_user(l, 13, &[1]); let s = l.socket(TCP, 5); l.assign(&s, F) } => 0,
        "outside it" => |l| { as_user(l, 13, &[1]); let s = l.socket(TCP, 5); l.assign(&s, PEER) } => EPERM,
        "a group's grant" => |l| { as_user(l, 99, &[1, 50]); let s = l.socket(TCP, 5); l.assign(&s, PEER) } => 0,
        "no grant" => |l| { as_user(l, 99, &[99]); let s = l.socket(TCP, 5); l.assign(&s, F) } => EPERM,
        "no grant: both at once" => |l| {
            as_user(l, 99, &[99]);
            let s = l.socket(TCP, 5);
            l.set(&s, assign_flags(F, None, CONNECT))
        } => EPERM,
        "mark only with some grant" => |l| {
            as_user(l, 13, &[1]);
            let s = l.socket(TCP, 5);
            l.assign(&s, "0.0.0.0:0")
        } => 0,
        "mark only without" => |l| { as_user(l, 99, &[99]); let s = l.socket(TCP, 5); l.assign(&s, "0.0.0.0:0") } => EPERM,
        "not at assign alone: flags" => |l| {
            let s = assigned(l, TCP, 5, F);
            as_user(l, 99, &[99]);
            l.flags(&s, CONNECT)
        } => EPERM,
        "not at assign alone: alloc" => |l| { let s = assigned(l, TCP, 5, F0); as_user(l, 99, &[99]); l.alloc(&s) } => EPERM,
        "not at assign alone: connect" => |l| {
            let s = assigned(l, TCP, 5, F);
            as_user(l, 99, &[99]);
            l.connect(&s, PEER)
        } => EPERM,
        "who holds the socket may always let go" => |l| {
            let s = assigned(l, TCP, 5, F);
            as_user(l, 99, &[99]);
            l.unassign(&s)
        } => 0,
    }
}
