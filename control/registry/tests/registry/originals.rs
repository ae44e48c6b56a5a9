//! What an accepted socket and a datagram tell of where they came from.

use std::net::SocketAddrV4;

use registry::{Socket, flags::*};
use shm::{Access, Operation, Request};
use tables::{Kind, OwnerId, Side};

use crate::lab::*;
use crate::steps::*;

#[test]
fn an_accepted_socket_tells_its_listeners_foreign_address() {
    let mut lab = Lab::new();
    let listener = assigned(&mut lab, TCP, 50_000, F);
    assert_eq!(lab.flags(&listener, LISTEN), 0);
    let shown = "198.51.100.7:1025";
    let ways = [
        Way4(Side::Wire, PEER, F),
        Way4(Side::Host, "10.0.0.1:50000", shown),
    ];
    lab.flow(Kind::Listen, lab.owner(&listener), TCP, ways);
    let accepted = Socket {
        peer: Some(at(shown)),
        ..lab.socket(TCP, 50_000)
    };
    assert_eq!(lab.query(&accepted), Ok(at(F)));
    let original = lab.get(&accepted, Operation::OriginalDestination);
    assert_eq!(
        (original.foreign, original.peer),
        (Some(at(F).into()), Some(at(PEER).into()))
    );
    assert_eq!(original.flags, 0, "a connection is asked about once");
    // The listener has gone; its connection goes on.
    lab.close(&listener);
    lab.upkeep();
    assert_eq!(lab.query(&accepted), Ok(at(F)));
    let stranger = Socket {
        peer: Some(at(OTHER_PEER)),
        ..lab.socket(TCP, 50_000)
    };
    assert_eq!(lab.query(&stranger), Err(ENOENT));
    assert_eq!(
        lab.get(&stranger, Operation::OriginalDestination).errno,
        ENOENT
    );
}

#[test]
fn original_destinations() {
    let shown = |peer: SocketAddrV4| Request {
        peer: Some(peer.into()),
        ..Request::new(Operation::OriginalDestination, Access::Get, 3)
    };
    let mut lab = Lab::new();
    let ways =
        |from, to, local, shown| [Way4(Side::OneWay, from, to), Way4(Side::Host, local, shown)];
    let (one, two) = ("192.0.2.1:53", "192.0.2.2:53");
    let nobody = OwnerId::NOBODY;
    lab.flow(
        Kind::Redirect,
        nobody,
        UDP,
        ways(PEER, one, "10.0.0.1:5353", PEER),
    );
    lab.flow(
        Kind::Redirect,
        nobody,
        UDP,
        ways(PEER, two, "10.0.0.1:5353", "198.51.100.7:1026"),
    );
    lab.flow(
        Kind::Local,
        nobody,
        UDP,
        [
            Way4(Side::Wire, OTHER_PEER, "10.0.0.1:5353"),
            Way4(Side::Host, "10.0.0.1:5353", OTHER_PEER),
        ],
    );
    let socket = lab.socket(UDP, 5353);
    let ask = |lab: &mut Lab, socket: &Socket, request: &Request| {
        let reply = lab.ask(socket, request);
        reply.foreign.zip(reply.peer).ok_or(reply.errno)
    };
    let (source, to): (std::net::SocketAddr, _) = (at(PEER).into(), |text| at(text).into());
    assert_eq!(
        ask(&mut lab, &socket, &shown(at(PEER))),
        Ok((to(one), source))
    );
    assert_eq!(
        ask(&mut lab, &socket, &shown(at("198.51.100.7:1026"))),
        Ok((to(two), source))
    );
    assert_eq!(
        ask(&mut lab, &socket, &shown(at("198.51.100.7:1027"))),
        Err(ENOENT)
    );
    assert_eq!(
        ask(&mut lab, &socket, &shown(at(OTHER_PEER))),
        Err(ENOENT),
        "came to the box itself"
    );
    let nothing = Request::new(Operation::OriginalDestination, Access::Get, 3);
    assert_eq!(ask(&mut lab, &socket, &nothing), Err(ENOENT), "whose?");
    // A socket bound to every address says which of them the datagram came to.
    let wide = lab.bound(UDP, at("0.0.0.0:5353"));
    assert_eq!(ask(&mut lab, &wide, &shown(at(PEER))), Err(ENOENT));
    let told = Request {
        local: Some(at("10.0.0.1:5353").into()),
        ..shown(at(PEER))
    };
    assert_eq!(ask(&mut lab, &wide, &told), Ok((to(one), source)));
    let other_port = lab.bound(UDP, at("0.0.0.0:5354"));
    assert_eq!(
        ask(&mut lab, &other_port, &told),
        Err(EINVAL),
        "not its datagram"
    );
    // A fresh flow's answer may be kept, one of a flow that may be about to go may not.
    assert_eq!(lab.ask(&socket, &shown(at(PEER))).flags, 1000);
    lab.now += SECOND;
    assert_eq!(lab.ask(&socket, &shown(at(PEER))).flags, 0);
    // A TCP socket that is not connected has no peer, whatever it says.
    let tcp = lab.socket(TCP, 5353);
    assert_eq!(ask(&mut lab, &tcp, &shown(at(PEER))), Err(ENOENT));
}
