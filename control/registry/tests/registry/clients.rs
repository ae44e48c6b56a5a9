//! The sequences of real clients.

use registry::{Socket, Way, flags::*};
use tables::{Kind, Side};

use crate::lab::*;
use crate::steps::*;

#[test]
fn haproxy_connects_with_the_clients_address() {
    let mut lab = Lab::new();
    let first = reusing(&mut lab, TCP, 41_000);
    assert_eq!(lab.set(&first, version(0x0200_0000)), 0);
    assert_eq!(lab.assign(&first, "192.0.2.9:5555"), 0);
    assert!(
        lab.state().diverted.is_empty(),
        "nothing changes its packets yet"
    );
    assert_eq!(lab.flags(&first, CONNECT | ONCE), 0);
    assert_eq!(
        diverted(&lab),
        [("10.0.0.1:41000".to_owned(), Way::Both, 1)]
    );
    // The same client's next connection, to another server, while the first lives.
    let second = reusing(&mut lab, TCP, 41_001);
    assert_eq!(lab.assign(&second, "192.0.2.9:5555"), 0);
    assert_eq!(lab.flags(&second, CONNECT | ONCE), 0);
}

#[test]
fn squid_learns_the_port_that_its_connection_got() {
    let mut lab = Lab::new();
    let socket = lab.socket(TCP, 41_000);
    assert_eq!(lab.assign(&socket, "192.0.2.9:0"), 0);
    assert_eq!(lab.flags(&socket, CONNECT), 0);
    assert_eq!(lab.query(&socket), Ok(at("192.0.2.9:0")));
    let ways = [
        Way4(Side::Host, "10.0.0.1:41000", PEER),
        Way4(Side::Wire, PEER, "192.0.2.9:41000"),
    ];
    lab.flow(Kind::Connect, lab.owner(&socket), TCP, ways);
    let connected = Socket {
        peer: Some(at(PEER)),
        ..socket
    };
    assert_eq!(lab.query(&connected), Ok(at("192.0.2.9:41000")));
    let elsewhere = Socket {
        peer: Some(at(OTHER_PEER)),
        ..socket
    };
    assert_eq!(lab.query(&elsewhere), Ok(at("192.0.2.9:0")), "no such flow");
}

#[test]
fn zorp_listens_and_connects() {
    let mut lab = Lab::new();
    let listener = lab.socket(TCP, 50_000);
    assert_eq!(lab.assign(&listener, F0), 0);
    assert_eq!(lab.query(&listener), Ok(at(F0)));
    assert_eq!(lab.alloc(&listener), 0);
    let foreign = lab.query(&listener).unwrap();
    let flags = lab.get_flags(&listener).unwrap();
    assert_eq!(lab.flags(&listener, flags | LISTEN), 0);
    let want = [
        ("10.0.0.1:50000".to_owned(), Way::Both, 1),
        (foreign.to_string(), Way::Inbound, 1),
    ];
    assert_eq!(diverted(&lab), want);
    // FLAGS before ALLOC works too.
    let early = lab.socket(TCP, 50_001);
    assert_eq!(
        (
            lab.assign(&early, F0),
            lab.flags(&early, LISTEN),
            lab.alloc(&early)
        ),
        (0, 0, 0)
    );
    let foreign = lab.query(&early).unwrap();
    let found = lab
        .table
        .reached(wire::Protocol::TCP, end(at(PEER)), end(foreign));
    assert!(matches!(found, tables::Lookup::Found(one) if one.local.port == 50_001));

    let out = lab.socket(TCP, 50_002);
    assert_eq!(lab.assign(&out, "192.0.2.9:20"), 0);
    assert_eq!(lab.query(&out), Ok(at("192.0.2.9:20")));
    assert_eq!((lab.connect(&out, PEER), lab.flags(&out, CONNECT)), (0, 0));

    // UDP: bind, ASSIGN, connect, CONNECT, FLAGS; the socket is connected by then.
    let udp = lab.socket(UDP, 50_003);
    assert_eq!(lab.assign(&udp, F), 0);
    let udp = Socket {
        peer: Some(at(PEER)),
        ..udp
    };
    assert_eq!(
        (lab.connect(&udp, PEER), lab.flags(&udp, ESTABLISHED)),
        (0, 0)
    );
    let many = lab.socket(UDP, 50_004);
    assert_eq!(
        (
            lab.assign(&many, "203.0.113.5:22"),
            lab.flags(&many, LISTEN | UNIDIR)
        ),
        (0, 0)
    );
}
