//! Endpoints of real sockets, while the programs are attached.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt::socket_cookie;
use xdp_prog::Direction::Both;
use xdp_prog::{Endpoints, Mode, SocketWatch};

use crate::fixture::{CLIENT, FROM_STACK, NEIGHBOUR, OWN, UDP};
use crate::netns::isolated;
use crate::wires::{Lab, Tap, count, lab, wait_for};

const HERE: SocketAddrV4 = SocketAddrV4::new(OWN, 9500);

/// A socket of the neighbour.
fn client(lab: &Lab) -> UdpSocket {
    lab.neighbour.run(|| {
        let socket = UdpSocket::bind((CLIENT, 6000)).unwrap();
        let patience = Some(Duration::from_millis(300));
        socket.set_read_timeout(patience).unwrap();
        socket
    })
}

fn hears(socket: &UdpSocket) -> bool {
    socket.recv_from(&mut [0; 4096]).is_ok()
}

#[test]
fn an_endpoint_is_natively_served_before_and_after_and_diverted_between() {
    for mode in [Mode::Native, Mode::Generic] {
        isolated(move || {
            let lab = lab();
            let mut endpoints = Endpoints::create(4).unwrap();
            let mut watch = SocketWatch::attach(4).unwrap();
            let (port, _socket) = lab.port_with(mode, 2048, &endpoints.map(), &watch.maps());
            let server = UdpSocket::bind(HERE).unwrap();
            watch.add(socket_cookie(&server).unwrap(), false).unwrap();
            let patience = Some(Duration::from_millis(300));
            server.set_read_timeout(patience).unwrap();
            let client = client(&lab);
            let both = |native: bool| {
                let before = port.counters().unwrap();
                client.send_to(&[1; 8], HERE).unwrap();
                assert_eq!(hears(&server), native);
                server.send_to(&[1; 8], (CLIENT, 6000)).unwrap();
                assert_eq!(hears(&client), native);
                let after = port.counters().unwrap();
                for name in ["divert_taken", "egress_diverted"] {
                    let moved = count(&after, name) - count(&before, name);
                    assert_eq!(moved, u64::from(!native), "{name}");
                }
            };
            both(true);
            endpoints.divert(UDP, HERE, Both).unwrap();
            both(false);
            endpoints.release(UDP, HERE, Both).unwrap();
            both(true);
        });
    }
}

#[test]
fn no_fragment_of_what_an_endpoint_sends_leaves() {
    isolated(|| {
        let lab = lab();
        let mut endpoints = Endpoints::create(4).unwrap();
        let mut watch = SocketWatch::attach(4).unwrap();
        let (port, _socket) = lab.port_with(Mode::Native, 2048, &endpoints.map(), &watch.maps());
        endpoints.divert(UDP, HERE, Both).unwrap();
        let at_client = lab.neighbour.run(Tap::open);
        let tap = Tap::open();
        let server = UdpSocket::bind(HERE).unwrap();
        watch.add(socket_cookie(&server).unwrap(), true).unwrap();
        server.send_to(&[1; 4000], (CLIENT, 6000)).unwrap();
        wait_for(|| count(&port.counters().unwrap(), "egress_diverted") == 3);
        let frame = tap.ipv4_at("xtp0-dp").expect("diverted");
        assert_eq!(
            (&frame[..6], &frame[6..12]),
            (&NEIGHBOUR[..], &FROM_STACK[..])
        );
        let leaked = lab.neighbour.run(move || at_client.ipv4_at("far"));
        assert_eq!(leaked, None);
    });
}
