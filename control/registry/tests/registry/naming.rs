//! ALLOC, CONNECT, UNASSIGN, QUERY.

use registry::{Socket, flags::CONNECT};
use shm::{Access, Operation, Request};

use crate::lab::*;
use crate::steps::*;

#[test]
fn alloc_connect_unassign() {
    cases! {
        "alloc, none assigned" => |l| { let s = l.socket(TCP, 5); l.alloc(&s) } => ENOENT,
        "alloc, port set already" => |l| { let s = assigned(l, TCP, 5, F); l.alloc(&s) } => EINVAL,
        "alloc, mark only" => |l| { let s = assigned(l, TCP, 5, "0.0.0.0:0"); l.alloc(&s) } => EINVAL,
        "alloc" => |l| { let s = assigned(l, TCP, 5, F0); l.alloc(&s) } => 0,
        "alloc twice" => |l| { let s = assigned(l, TCP, 5, F0); assert_eq!(l.alloc(&s), 0); l.alloc(&s) } => EINVAL,
        "connect, none assigned" => |l| { let s = l.socket(TCP, 5); l.connect(&s, PEER) } => ENOENT,
        "connect" => |l| { let s = assigned(l, TCP, 5, F); l.connect(&s, PEER) } => 0,
        "connect, no peer" => |l| {
            let s = assigned(l, TCP, 5, F);
            l.set(&s, Request::new(Operation::Connect, Access::Set, 3))
        } => EINVAL,
        "connect, peer without an address" => |l| { let s = assigned(l, TCP, 5, F); l.connect(&s, "0.0.0.0:80") } => EINVAL,
        "connect, peer without a port" => |l| { let s = assigned(l, TCP, 5, F); l.connect(&s, "198.51.100.7:0") } => EINVAL,
        "connect, ipv6" => |l| { let s = assigned(l, TCP, 5, F); l.connect(&s, "[2001:db8::1]:80") } => EINVAL,
        "connect again" => |l| {
            let s = assigned(l, TCP, 5, F);
            assert_eq!(l.connect(&s, PEER), 0);
            l.connect(&s, OTHER_PEER)
        } => 0,
        "connect, same local endpoint and peer" => |l| {
            let first = assigned(l, TCP, 5, F0);
            assert_eq!(l.connect(&first, PEER), 0);
            let s = assigned(l, TCP, 5, F0);
            l.connect(&s, PEER)
        } => EEXIST,
        "unassign, none assigned" => |l| { let s = l.socket(TCP, 5); l.unassign(&s) } => ENOENT,
        "unassign" => |l| { let s = assigned(l, TCP, 5, F); l.unassign(&s) } => 0,
        "unassign twice" => |l| { let s = assigned(l, TCP, 5, F); assert_eq!(l.unassign(&s), 0); l.unassign(&s) } => ENOENT,
        "assign again" => |l| { let s = assigned(l, TCP, 5, F); assert_eq!(l.unassign(&s), 0); l.assign(&s, F) } => 0,
        "query, none assigned" => |l| { let s = l.socket(TCP, 5); l.get(&s, Operation::Query).errno } => ENOENT,
        "query, connected, none assigned" => |l| {
            let s = Socket { peer: Some(at(PEER)), ..l.socket(TCP, 5) };
            l.get(&s, Operation::Query).errno
        } => ENOENT,
    }
}

#[test]
fn alloc_gives_every_port_once_and_says_when_none_is_left() {
    let mut lab = Lab::sized(&Sizes {
        ports: 30_000..=30_063,
        ..Sizes::default()
    });
    let mut given = std::collections::BTreeSet::new();
    let mut in_order = Vec::new();
    for port in 1000..1064 {
        let socket = assigned(&mut lab, TCP, port, F0);
        assert_eq!(lab.alloc(&socket), 0);
        let foreign = lab.query(&socket).unwrap();
        assert_eq!(*foreign.ip(), *at(F0).ip());
        assert!(given.insert(foreign.port()) && (30_000..=30_063).contains(&foreign.port()));
        in_order.push(foreign.port());
    }
    assert!(!in_order.is_sorted(), "an outsider could tell the next");
    let late = assigned(&mut lab, TCP, 2000, F0);
    assert_eq!(lab.alloc(&late), EFAULT);
    let other_protocol = assigned(&mut lab, UDP, 2000, F0);
    assert_eq!(lab.alloc(&other_protocol), 0);
    let other_address = assigned(&mut lab, TCP, 2001, "203.0.113.6:0");
    assert_eq!(lab.alloc(&other_address), 0);
    // One that has closed makes room at once.
    let closed = lab.socket(TCP, 1000);
    let closed = Socket {
        cookie: closed.cookie - 67,
        ..closed
    };
    lab.close(&closed);
    assert_eq!(lab.alloc(&late), 0);
}

#[test]
fn what_the_workers_table_refuses_changes_nothing() {
    let mut lab = Lab::new();
    let socket = assigned(&mut lab, TCP, 5, F);
    assert_eq!(lab.flags(&socket, CONNECT), 0);
    // The table and the registry are never at odds; if they were, the table would be right.
    let stranger = tables::Registration {
        proto: wire::Protocol::TCP,
        local: end(socket.local),
        foreign: end(at("192.0.2.9:9")),
        peer: Some(end(at(PEER))),
        uses: tables::Uses::CONNECT,
        owner: tables::OwnerId::NOBODY,
    };
    let id = lab.table.insert(&stranger).unwrap();
    assert_eq!(lab.connect(&socket, PEER), EEXIST);
    lab.table.remove(id);
    assert_eq!(lab.connect(&socket, PEER), 0);
}
