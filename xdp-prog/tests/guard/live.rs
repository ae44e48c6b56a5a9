//! Guarded and without the daemon: what gets in and out.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use xdp_prog::{Management, Mode, PortHook, PortProgram};

use crate::fixture::{CLIENT, OWN, SERVER, TCP, UDP, XDP_REDIRECT, tcp_to};
use crate::guarded;
use crate::netns::{isolated, run};
use crate::wires::{Lab, Tap, count, lab, wait_for};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const SUBNET: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 255);
/// Each way to address the box.
const WAYS: [Ipv4Addr; 4] = [OWN, SUBNET, Ipv4Addr::BROADCAST, GROUP];

/// A box with services, whose daemon has just died.
struct Scene {
    lab: Lab,
    port: PortProgram,
    service: UdpSocket,
    dhcp: UdpSocket,
}

fn service(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    socket.join_multicast_v4(&GROUP, &OWN).unwrap();
    let patience = Duration::from_millis(300);
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

fn hears(socket: &UdpSocket) -> bool {
    match socket.recv_from(&mut [0; 64]) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

impl Scene {
    fn new(mode: Mode, open: bool) -> Self {
        let lab = lab();
        let (port, socket) = guarded(&lab, mode, open);
        port.set_management(&[Management {
            network: CLIENT,
            prefix_len: 24,
            proto: TCP,
            ports: 22..=22,
        }])
        .unwrap();
        drop(socket);
        // A child that another test is just starting may hold it for a moment more.
        let transit = tcp_to(SERVER, 80);
        wait_for(|| port.dry_run(PortHook::Steer, &transit).unwrap().verdict != XDP_REDIRECT);
        Self {
            lab,
            port,
            service: service(7000),
            dhcp: service(68),
        }
    }

    /// The neighbour's socket. Kept by who sends more than once: a child that another test is
    /// just starting may hold the port of a closed one.
    fn client(&self, port: u16) -> UdpSocket {
        let bound = move || UdpSocket::bind((CLIENT, port)).unwrap();
        let socket = self.lab.neighbour.run(bound);
        socket.set_broadcast(true).unwrap();
        socket
    }

    fn count(&self, name: &str) -> u64 {
        count(&self.port.counters().unwrap(), name)
    }

    fn connects(&self, port: u16) -> bool {
        self.lab.neighbour.run(move || {
            let to = SocketAddr::from((OWN, port));
            TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok()
        })
    }
}

fn each(test: fn(Mode, bool)) {
    for mode in [Mode::Native, Mode::Generic] {
        for open in [false, true] {
            isolated(move || test(mode, open));
        }
    }
}

#[test]
fn nothing_gets_in_but_management_arp_and_dhcp_replies() {
    each(|mode, open| {
        let scene = Scene::new(mode, open);
        let told = if open {
            "no_socket_passed"
        } else {
            "no_socket_dropped"
        };
        let (client, server) = (scene.client(5000), scene.client(67));
        for to in WAYS {
            let before = scene.count(told);
            client.send_to(&[1; 8], (to, 7000)).unwrap();
            wait_for(|| scene.count(told) == before + 1);
            assert_eq!(hears(&scene.service), open, "{to}");
            server.send_to(&[1; 8], (to, 68)).unwrap();
            assert!(hears(&scene.dhcp), "{to}");
        }
        assert_eq!(scene.count("pass_dhcp"), WAYS.len() as u64);
        let listeners = [22, 80].map(|port| TcpListener::bind((OWN, port)).unwrap());
        // The neighbour has to ask for the box's MAC address.
        let arp_before = scene.count("pass_multicast");
        scene
            .lab
            .neighbour
            .commands(&["ip neigh del 192.168.1.1 dev far"]);
        assert!(scene.connects(22), "management");
        assert!(scene.count("pass_multicast") > arp_before, "ARP");
        assert_eq!(scene.connects(80), open);
        drop(listeners);
    });
}

#[test]
fn nothing_gets_out_but_what_keeps_a_lease() {
    each(|mode, open| {
        let scene = Scene::new(mode, open);
        run("ip route add default via 192.168.1.10");
        let leaves = |socket: &UdpSocket, to: Ipv4Addr, port: u16, patience_ms| {
            let at_client = scene.lab.neighbour.run(Tap::open);
            socket.set_broadcast(true).unwrap();
            socket.send_to(&[1; 8], (to, port)).unwrap();
            let from = socket.local_addr().unwrap().port();
            let patience = Duration::from_millis(patience_ms);
            // The kernel says as well which groups it is in.
            let is_it = move |frame: &[u8]| frame[23] == UDP && frame[34..36] == from.to_be_bytes();
            let seen = move || at_client.find_ipv4(patience, "far", is_it);
            scene.lab.neighbour.run(seen).is_some()
        };
        for to in [CLIENT, SUBNET, Ipv4Addr::BROADCAST, GROUP] {
            let patience_ms = if open { 2000 } else { 300 };
            let left = leaves(&scene.service, to, 6000, patience_ms);
            assert_eq!(left, open, "{to}");
        }
        assert!(leaves(&scene.dhcp, Ipv4Addr::BROADCAST, 67, 2000));
        // What is taken stays closed, open or not.
        let proxy = UdpSocket::bind((OWN, 9000)).unwrap();
        assert!(!leaves(&proxy, CLIENT, 6000, 300));
        let counters = scene.port.counters().unwrap();
        assert_eq!(count(&counters, "egress_diverted"), 1);
        let lost = count(&counters, "egress_guarded");
        assert_eq!(lost >= 4, !open, "{lost}");
    });
}
