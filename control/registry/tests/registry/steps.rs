//! Steps that many cases share.

use registry::{Client, Socket, flags::*};
use shm::{Access, Operation, Request};
use tables::{Kind, OwnerId, Side};

use crate::lab::*;

pub fn version(version: u32) -> Request {
    Request {
        version,
        ..Request::new(Operation::Version, Access::Set, 3)
    }
}

pub fn with(operation: Operation, access: Access) -> Request {
    Request {
        foreign: Some(F.parse().unwrap()),
        ..Request::new(operation, access, 3)
    }
}

pub const F: &str = "203.0.113.5:21";
pub const F0: &str = "203.0.113.5:0";
pub const PEER: &str = "198.51.100.7:80";
pub const OTHER_PEER: &str = "198.51.100.8:80";

/// A socket with SO_REUSEADDR.
pub fn reusing(lab: &mut Lab, proto: u8, port: u16) -> Socket {
    Socket {
        reuse: true,
        ..lab.socket(proto, port)
    }
}

/// A socket that is assigned already.
pub fn assigned(lab: &mut Lab, proto: u8, port: u16, foreign: &str) -> Socket {
    let socket = reusing(lab, proto, port);
    assert_eq!(lab.assign(&socket, foreign), 0);
    socket
}

pub fn as_user(lab: &mut Lab, uid: u32, gids: &[u32]) {
    lab.client = Client {
        uid,
        gids: gids.to_vec(),
        ..lab.client.clone()
    };
}

/// Makes a flow that holds the tuple of a connection from `F` to `PEER`.
pub fn holding(lab: &Lab, owner: OwnerId) -> tables::Hit {
    let ways = [
        Way4(Side::Host, "10.0.0.1:5", PEER),
        Way4(Side::Wire, PEER, F),
    ];
    lab.flow(Kind::Connect, owner, TCP, ways)
}

/// A socket that shares `F` with one that has a flow to `PEER`.
pub fn beside_a_flow(lab: &mut Lab) -> (Socket, tables::Hit, Socket) {
    let first = assigned(lab, TCP, 5, F);
    assert_eq!(lab.flags(&first, CONNECT), 0);
    let flow = holding(lab, lab.owner(&first));
    let second = assigned(lab, TCP, 6, F);
    assert_eq!(lab.connect(&second, PEER), 0);
    (first, flow, second)
}
