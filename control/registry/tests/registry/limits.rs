//! What one user can take from others, and what is not granted by the way.

use registry::{Client, Grant, Socket, flags::*};
use shm::{Access, Operation, Request};
use tables::{Kind, Side};

use crate::lab::*;
use crate::steps::*;

/// How long this thread has had a processor, in milliseconds: others may want it too.
fn busy_ms() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// A box where two users may use every address.
fn shared(registrations: usize) -> Lab {
    let grant = |uid| Grant {
        uid: Some(uid),
        gid: None,
        foreign: vec!["0.0.0.0/0".parse().unwrap()],
    };
    let sizes = Sizes {
        registrations,
        ..Sizes::default()
    };
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let grants = vec![grant(13), grant(14)];
    Lab::open(&sizes, dir, std::sync::Arc::default(), grants, SECOND).unwrap()
}

/// Registers as this user until it is refused.
fn fill(lab: &mut Lab, uid: u32, first_port: u16) -> (Vec<Socket>, i32) {
    as_user(lab, uid, &[]);
    let mut made = Vec::new();
    for port in first_port..first_port + 1000 {
        let socket = lab.socket(TCP, port);
        match lab.assign(&socket, F0) {
            0 => made.push(socket),
            errno => return (made, errno),
        }
    }
    panic!("no end");
}

#[test]
fn no_user_can_fill_the_table() {
    let mut lab = shared(64);
    let (first, errno) = fill(&mut lab, 13, 1000);
    assert_eq!((first.len(), errno), (32, ENOBUFS), "half for one");
    let (second, errno) = fill(&mut lab, 14, 3000);
    assert_eq!((second.len(), errno), (28, ENOBUFS), "a sixteenth for root");
    // What ends makes room for either.
    assert_eq!(lab.unassign(&second[0]), 0);
    lab.close(&first[0]);
    assert_eq!(fill(&mut lab, 13, 5000).0.len(), 1);
    assert_eq!(fill(&mut lab, 14, 6000).0.len(), 1);
    let (roots, errno) = fill(&mut lab, 0, 7000);
    assert_eq!((roots.len(), errno), (4, ENOBUFS));
}

#[test]
fn adopted_ones_count() {
    let mut lab = Lab::new();
    let user = |lab: &mut Lab, port| {
        as_user(lab, 13, &[]);
        let socket = lab.socket(TCP, port);
        lab.assign(&socket, F0)
    };
    for port in 1000..1128 {
        assert_eq!(user(&mut lab, port), 0);
    }
    assert_eq!(user(&mut lab, 2000), ENOBUFS);
    let mut lab = lab.restart(grants());
    assert_eq!(lab.adopted.kept, 128);
    assert_eq!(user(&mut lab, 2001), ENOBUFS);
}

#[test]
fn an_address_of_the_box_is_not_granted_with_a_network() {
    const OWN_FOREIGN: &str = "10.0.0.2:2121";
    let named = |net: &str| {
        vec![Grant {
            uid: Some(13),
            gid: None,
            foreign: vec![net.parse().unwrap()],
        }]
    };
    let play = |net: &str, request: Request| {
        let mut lab = Lab::new().restart(named(net));
        lab.client = Client {
            uid: 13,
            ..lab.client.clone()
        };
        let socket = lab.socket(TCP, 5);
        lab.set(&socket, request)
    };
    for request in [assign(OWN_FOREIGN), assign_flags(OWN_FOREIGN, None, LISTEN)] {
        for net in ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.2/31"] {
            assert_eq!(play(net, request), EPERM, "{net}");
        }
        assert_eq!(play("10.0.0.2/32", request), 0);
        assert_eq!(play("10.0.0.3/32", request), EPERM);
    }
    // Nor is it kept by a daemon whose grants say less.
    let mut lab = Lab::new().restart(named("10.0.0.2/32"));
    as_user(&mut lab, 13, &[]);
    let socket = lab.socket(TCP, 5);
    assert_eq!(lab.set(&socket, assign_flags(OWN_FOREIGN, None, LISTEN)), 0);
    let lab = lab.restart(named("10.0.0.0/8"));
    assert_eq!((lab.adopted.kept, lab.adopted.gone), (0, 1));
}

#[test]
fn alloc_looks_at_few_ports_however_many_are_taken() {
    let sizes = Sizes {
        registrations: 32_768,
        flows: 65_536,
        owners: 65_536,
        ports: 32_768..=60_999,
    };
    let mut lab = Lab::sized(&sizes);
    for n in 0..28_232_u32 {
        let addr = if n < 20_000 { LOCAL } else { OWN[1] };
        let local = std::net::SocketAddrV4::new(addr, 1000 + (n % 20_000) as u16);
        let socket = lab.bound(TCP, local);
        let foreign = format!("203.0.113.5:{}", 32_768 + n);
        assert_eq!(lab.at_once(&socket, &assign(&foreign)), 0);
    }
    let alloc = Request::new(Operation::Alloc, Access::Set, 3);
    let late = lab.socket(TCP, 30_000);
    assert_eq!(lab.at_once(&late, &assign(F0)), 0);
    let start = busy_ms();
    for _ in 0..1000 {
        assert_eq!(lab.at_once(&late, &alloc), EFAULT);
    }
    let took = busy_ms() - start;
    assert!(took < 2000, "{took} ms for a thousand refusals");

    // Connections to the one peer hold all ports.
    for n in 0..28_232_u32 {
        let foreign = format!("203.0.113.6:{}", 32_768 + n);
        let local = format!("10.0.0.2:{}", 32_768 + n);
        let ways = [
            Way4(Side::Host, &local, PEER),
            Way4(Side::Wire, PEER, &foreign),
        ];
        lab.flow(Kind::Connect, tables::OwnerId::NOBODY, TCP, ways);
    }
    let busy = lab.socket(TCP, 30_001);
    let request = assign_flags("203.0.113.6:0", Some(PEER), CONNECT);
    assert_eq!(lab.at_once(&busy, &request), 0);
    let start = busy_ms();
    for _ in 0..100 {
        assert_eq!(lab.at_once(&busy, &alloc), EFAULT);
    }
    let took = busy_ms() - start;
    assert!(took < 2000, "{took} ms for a hundred refusals");
}
