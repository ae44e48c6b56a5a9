//! Whose packets an endpoint's are: real sockets that are registered, that share or reuse its
//! port, and that send from elsewhere.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_reuseaddr, socket_cookie};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, connect_unspec, getsockname,
    sendto, socket_with,
};
use xdp_prog::Direction::Both;
use xdp_prog::{Endpoints, Mode, PortProgram, SocketWatch};

use crate::fixture::{CLIENT, FROM_STACK, FROM_STRANGER, NEIGHBOUR, OWN, TCP, UDP};
use crate::netns::isolated;
use crate::wires::{Lab, Tap, count, lab, wait_for};

pub const HERE: SocketAddrV4 = SocketAddrV4::new(OWN, 9500);
const THERE: SocketAddrV4 = SocketAddrV4::new(CLIENT, 6000);
const EGRESS: [&str; 6] = [
    "egress_native",
    "egress_management",
    "egress_diverted",
    "egress_stranger",
    "egress_ended",
    "egress_astray",
];

/// A port with a watch, and what has left it.
pub struct Scene {
    pub lab: Lab,
    pub endpoints: Endpoints,
    pub watch: SocketWatch,
    pub port: PortProgram,
    _socket: OwnedFd,
}

impl Scene {
    pub fn new() -> Self {
        let lab = lab();
        let endpoints = Endpoints::create(8).unwrap();
        let watch = SocketWatch::attach(8).unwrap();
        let maps = (endpoints.map(), watch.maps());
        let (port, socket) = lab.port_with(Mode::Native, 2048, &maps.0, &maps.1);
        Self {
            lab,
            endpoints,
            watch,
            port,
            _socket: socket,
        }
    }

    /// Does something that sends one IPv4 packet: the counter that it moves, where the kernel's
    /// ARP moves none but that of what leaves natively.
    fn sends(&self, what: impl FnOnce()) -> &'static str {
        let before = self.port.counters().unwrap();
        what();
        let moved = || {
            let after = self.port.counters().unwrap();
            let moved = |name: &&str| count(&after, name) > count(&before, name);
            let mut moved: Vec<_> = EGRESS.into_iter().filter(moved).collect();
            moved.sort_by_key(|name| *name == "egress_native");
            moved.first().copied()
        };
        wait_for(|| moved().is_some());
        moved().unwrap()
    }

    /// The same of a packet that is diverted: the mark that it arrives with.
    fn mark_of(&self, what: impl FnOnce()) -> [u8; 6] {
        let tap = Tap::open();
        let counter = self.sends(what);
        let frame = tap.ipv4_at("xtp0-dp").expect("diverted");
        assert_eq!(frame[..6], NEIGHBOUR);
        assert_eq!(frame[26..30], OWN.octets());
        let mark = frame[6..12].try_into().unwrap();
        let counted = if mark == FROM_STACK {
            "egress_diverted"
        } else {
            "egress_stranger"
        };
        assert_eq!(counter, counted);
        mark
    }

    pub fn register(&mut self, socket: &OwnedFd, shows: bool) {
        let cookie = socket_cookie(socket).unwrap();
        self.watch.add(cookie, shows).unwrap();
    }

    /// Waits until the close of one socket is told.
    pub fn hear_of_a_close(&mut self) {
        let (mut told, end) = (0, Instant::now() + Duration::from_secs(5));
        while told == 0 {
            assert!(Instant::now() < end, "nobody tells of the close");
            let news = self.watch.closed(8, |_| told += 1).unwrap();
            assert!(!news.lost);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A socket of the box that may share its port.
pub fn sharing(proto: u8, at: SocketAddrV4) -> OwnedFd {
    let kind = if proto == TCP {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, kind, flags, None).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &at).unwrap();
    socket
}

/// The first packet of what a socket opens.
pub fn open(proto: u8, socket: &OwnedFd, to: SocketAddrV4) {
    if proto == TCP {
        assert_eq!(connect(socket, &to), Err(Errno::INPROGRESS));
    } else {
        sendto(socket, &[1; 8], SendFlags::empty(), &to).unwrap();
    }
}

fn port_of(socket: &OwnedFd) -> u16 {
    let name = SocketAddrV4::try_from(getsockname(socket).unwrap()).unwrap();
    assert_eq!(*name.ip(), OWN);
    name.port()
}

/// Another port of the same client, for a second connection.
fn port_there(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(CLIENT, port)
}

pub fn each_protocol(test: fn(u8)) {
    for proto in [TCP, UDP] {
        isolated(move || test(proto));
    }
}

#[test]
fn of_two_sockets_that_share_an_endpoint_one_is_a_stranger() {
    each_protocol(|proto| {
        let mut scene = Scene::new();
        let (registered, stranger) = (sharing(proto, HERE), sharing(proto, HERE));
        scene.endpoints.divert(proto, HERE, Both).unwrap();
        scene.register(&registered, true);
        let first = scene.mark_of(|| open(proto, &stranger, THERE));
        assert_eq!(first, FROM_STRANGER);
        let second = scene.mark_of(|| open(proto, &registered, port_there(6001)));
        assert_eq!(second, FROM_STACK);
    });
}

#[test]
fn who_has_the_port_right_after_a_close_is_a_stranger() {
    each_protocol(|proto| {
        let mut scene = Scene::new();
        let registered = sharing(proto, HERE);
        scene.endpoints.divert(proto, HERE, Both).unwrap();
        // Whether or not what it sends has to be translated, its endpoint is its own.
        scene.register(&registered, false);
        assert_eq!(
            scene.mark_of(|| open(proto, &registered, THERE)),
            FROM_STACK
        );
        drop(registered);
        let next = sharing(proto, HERE);
        let mark = scene.mark_of(|| open(proto, &next, port_there(6001)));
        assert_eq!(mark, FROM_STRANGER);
        // That it has become registered is seen at once.
        let later = sharing(proto, HERE);
        scene.register(&later, true);
        let mark = scene.mark_of(|| open(proto, &later, port_there(6002)));
        assert_eq!(mark, FROM_STACK);
    });
}

#[test]
fn a_registered_socket_that_connects_anew_after_a_refusal_does_not_leave() {
    isolated(|| {
        let mut scene = Scene::new();
        let socket = sharing(TCP, SocketAddrV4::new(OWN, 0));
        let registered = port_of(&socket);
        open(TCP, &socket, THERE);
        // Nobody listens there; the kernel gives the port back.
        wait_for(|| match connect(&socket, &THERE) {
            Err(Errno::ALREADY | Errno::INPROGRESS) => false,
            Err(Errno::CONNREFUSED) => true,
            other => panic!("{other:?}"),
        });
        let here = SocketAddrV4::new(OWN, registered);
        scene.endpoints.divert(TCP, here, Both).unwrap();
        scene.register(&socket, true);
        let at_client = scene.lab.neighbour.run(Tap::open);
        let counter = scene.sends(|| open(TCP, &socket, port_there(6001)));
        assert_ne!(port_of(&socket), registered);
        assert_eq!(counter, "egress_astray");
        let leaked = scene.lab.neighbour.run(move || at_client.ipv4_at("far"));
        assert_eq!(leaked, None);
    });
}

#[test]
fn a_registered_socket_that_is_disconnected_does_not_leave_from_another_port() {
    isolated(|| {
        let mut scene = Scene::new();
        let socket = sharing(UDP, SocketAddrV4::new(OWN, 0));
        let registered = port_of(&socket);
        let here = SocketAddrV4::new(OWN, registered);
        scene.endpoints.divert(UDP, here, Both).unwrap();
        scene.register(&socket, true);
        connect(&socket, &THERE).unwrap();
        assert_eq!(scene.mark_of(|| open(UDP, &socket, THERE)), FROM_STACK);
        connect_unspec(&socket).unwrap();
        let at_client = scene.lab.neighbour.run(Tap::open);
        let counter = scene.sends(|| open(UDP, &socket, THERE));
        assert_ne!(port_of(&socket), registered);
        assert_eq!(counter, "egress_astray");
        let leaked = scene.lab.neighbour.run(move || at_client.ipv4_at("far"));
        assert_eq!(leaked, None);
        // What it may send can change at any time.
        scene.register(&socket, false);
        let counter = scene.sends(|| open(UDP, &socket, THERE));
        assert_eq!(counter, "egress_native");
        scene.register(&socket, true);
        let counter = scene.sends(|| open(UDP, &socket, THERE));
        assert_eq!(counter, "egress_astray");
        scene.watch.remove(socket_cookie(&socket).unwrap());
        let counter = scene.sends(|| open(UDP, &socket, THERE));
        assert_eq!(counter, "egress_native");
    });
}

#[test]
fn management_is_no_way_around() {
    isolated(|| {
        let mut scene = Scene::new();
        scene
            .port
            .set_management(&[xdp_prog::Management {
                network: CLIENT,
                prefix_len: 24,
                proto: 0,
                ports: 9000..=9500,
            }])
            .unwrap();
        scene.endpoints.divert(UDP, HERE, Both).unwrap();
        let (plain, elsewhere) = (sharing(UDP, HERE), SocketAddrV4::new(OWN, 9000));
        let counter = scene.sends(|| open(UDP, &plain, THERE));
        assert_eq!(counter, "egress_management");
        let registered = sharing(UDP, elsewhere);
        scene.endpoints.divert(UDP, elsewhere, Both).unwrap();
        scene.register(&registered, true);
        let counter = scene.sends(|| open(UDP, &registered, THERE));
        assert_eq!(counter, "egress_astray");
    });
}

#[test]
fn sockets_of_other_endpoints_leave_as_ever() {
    each_protocol(|proto| {
        let mut scene = Scene::new();
        let registered = sharing(proto, HERE);
        scene.endpoints.divert(proto, HERE, Both).unwrap();
        scene.register(&registered, true);
        let at_client = scene.lab.neighbour.run(Tap::open);
        let native = sharing(proto, SocketAddrV4::new(OWN, 0));
        let counter = scene.sends(|| open(proto, &native, THERE));
        assert_eq!(counter, "egress_native");
        let frame = scene.lab.neighbour.run(move || at_client.ipv4_at("far"));
        let source = &frame.expect("it leaves")[34..36];
        assert_eq!(source, port_of(&native).to_be_bytes());
    });
}

/// What a proxy of the rules sends is the worker's to judge, whoever it is.
#[test]
fn a_taken_range_is_nobodys_own() {
    isolated(|| {
        let mut scene = Scene::new();
        let socket = sharing(UDP, SocketAddrV4::new(OWN, 9000));
        assert_eq!(scene.mark_of(|| open(UDP, &socket, THERE)), FROM_STACK);
        scene.register(&socket, true);
        assert_eq!(scene.mark_of(|| open(UDP, &socket, THERE)), FROM_STACK);
    });
}
