//! Whose packets are diverted: bits of the mark, by real sockets of several users.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::{Uid, setfsuid};
use xdp_prog::{Direction, Guard, Mode, PortProgram, Taken};

use crate::fixture::{CLIENT, FROM_BOX, FROM_STACK, OWN, SERVER, TCP};
use crate::guarded;
use crate::netns::{isolated, run};
use crate::wires::{Lab, Tap, count, lab, wait_for};

const ALICE: u32 = 1000;
const NOBODY: u32 = 65_534;

struct Scene {
    lab: Lab,
    port: PortProgram,
    _socket: OwnedFd,
}

impl Scene {
    fn new(mode: Mode) -> Self {
        let lab = lab();
        let (port, socket) = guarded(&lab, mode, false);
        Self {
            lab,
            port,
            _socket: socket,
        }
    }

    fn tell_apart(&self, is_on: bool, owners: Vec<RangeInclusive<u32>>) {
        self.tell_apart_by(false, is_on, owners);
    }

    fn tell_apart_by(&self, epoch: bool, is_on: bool, owners: Vec<RangeInclusive<u32>>) {
        let guard = Guard {
            on: is_on,
            owners,
            epoch,
        };
        self.port.set_guard(&guard).unwrap();
    }

    /// Does something that sends: the mark of the first packet that is diverted.
    fn mark_of(&self, what: impl FnOnce()) -> [u8; 6] {
        let tap = Tap::open();
        what();
        let frame = tap.ipv4_at("xtp0-dp").expect("diverted");
        assert_eq!(frame[26..30], OWN.octets());
        frame[6..12].try_into().unwrap()
    }
}

/// A user's socket; the thread's own user is not changed for others.
fn socket_of<T: Send>(uid: u32, open: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let opened = scope.spawn(|| {
            setfsuid(Uid::from_raw(uid));
            open()
        });
        opened.join().unwrap()
    })
}

fn udp_of(uid: u32, port: u16) -> UdpSocket {
    socket_of(uid, || UdpSocket::bind((OWN, port)).unwrap())
}

fn with(mark: [u8; 6], owners: u8) -> [u8; 6] {
    let [a, b, c, d, e, _] = mark;
    [a, b, c, d, e, owners]
}

#[test]
fn a_mark_says_of_which_owners_the_sender_is() {
    for mode in [Mode::Native, Mode::Generic] {
        isolated(move || {
            let scene = Scene::new(mode);
            let sends = |socket: &UdpSocket| {
                let send = || assert_eq!(socket.send_to(&[1; 8], (CLIENT, 6000)).unwrap(), 8);
                scene.mark_of(send)
            };
            let (root, alice) = (udp_of(0, 7000), udp_of(ALICE, 7001));
            let (nobody, taken) = (udp_of(NOBODY, 7002), udp_of(ALICE, 9000));
            assert_eq!(sends(&alice), FROM_BOX);
            let owners = vec![
                0..=0,
                ALICE..=ALICE,
                0..=ALICE,
                ALICE + 1..=u32::MAX,
                // Nobody is in it.
                RangeInclusive::new(2, 1),
                0..=ALICE - 1,
                NOBODY..=NOBODY,
            ];
            scene.tell_apart(true, owners.clone());
            assert_eq!(sends(&root), with(FROM_BOX, 0b0010_0101));
            assert_eq!(sends(&alice), with(FROM_BOX, 0b0000_0110));
            assert_eq!(sends(&nobody), with(FROM_BOX, 0b0100_1000));
            assert_eq!(sends(&taken), with(FROM_STACK, 0b0000_0110));
            scene.tell_apart(false, owners[..2].to_vec());
            assert_eq!(sends(&taken), with(FROM_STACK, 0b10));
            // Whoever reads the mark is told by which tests.
            scene.tell_apart_by(true, true, owners[..2].to_vec());
            assert_eq!(sends(&alice), with(FROM_BOX, 0b1000_0010));
            assert_eq!(sends(&nobody), with(FROM_BOX, 0b1000_0000));
            // Unused places are nobody's, and not user 0's.
            scene.tell_apart(true, vec![ALICE..=ALICE]);
            assert_eq!(sends(&root), FROM_BOX);
            scene.tell_apart(true, vec![]);
            assert_eq!(sends(&alice), FROM_BOX);
        });
    }
}

/// What comes in is let through, what goes out is diverted.
fn take_what_leaves(scene: &mut Scene, ports: RangeInclusive<u16>) {
    let out = Taken {
        proto: TCP,
        ports,
        direction: Direction::Outbound,
    };
    scene.tell_apart(false, vec![0..=u32::MAX, ALICE..=ALICE]);
    scene.port.set_addresses(&[(OWN, vec![out])], &[]).unwrap();
}

#[test]
fn a_listeners_answers_are_its_own_and_the_kernels_are_nobodys() {
    isolated(|| {
        let mut scene = Scene::new(Mode::Native);
        take_what_leaves(&mut scene, 80..=82);
        let listener = socket_of(ALICE, || TcpListener::bind((OWN, 80)).unwrap());
        let knock = |port: u16| {
            scene.lab.neighbour.run(move || {
                let to = SocketAddr::from((OWN, port));
                TcpStream::connect_timeout(&to, Duration::from_millis(100)).unwrap_err();
            });
        };
        // A SYN with its ACK belongs to no accepted connection yet.
        assert_eq!(scene.mark_of(|| knock(80)), with(FROM_STACK, 0b11));
        drop(listener);
        // A reset of the kernel's own.
        assert_eq!(scene.mark_of(|| knock(81)), FROM_STACK);
    });
}

#[test]
fn what_only_waits_for_its_end_is_nobodys() {
    isolated(|| {
        let mut scene = Scene::new(Mode::Native);
        scene.tell_apart(false, vec![]);
        let listener = socket_of(ALICE, || TcpListener::bind((OWN, 80)).unwrap());
        let connect = || TcpStream::connect((OWN, 80)).unwrap();
        let client = scene.lab.neighbour.run(connect);
        let (mut server, _) = socket_of(ALICE, || listener.accept().unwrap());
        server.write_all(b"bye").unwrap();
        drop(server);
        // The client has heard of the end; but its own it has not said.
        let mut client = scene.lab.neighbour.run(move || {
            let mut client = client;
            client.read_to_end(&mut Vec::new()).unwrap();
            client
        });
        // Nor has the box a whole socket for it any more.
        wait_for(|| {
            let stat = std::fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
            stat.contains(" tw 1 ")
        });
        take_what_leaves(&mut scene, 80..=80);
        let ends = || client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(scene.mark_of(ends), FROM_STACK);
        drop(client.write(b"too late").unwrap_err());
    });
}

/// A GSO packet: xtp0 segments it, and each segment has the mark.
#[test]
fn a_super_packet_reaches_the_host_port_in_marked_segments() {
    isolated(|| {
        let scene = Scene::new(Mode::Native);
        scene.tell_apart(true, vec![ALICE..=ALICE]);
        run("ip route add 203.0.113.0/24 via 192.168.1.10");
        let tap = Tap::open();
        let socket = udp_of(ALICE, 7000);
        setsockopt(&socket, sockopt::UdpGsoSegment, &1000).unwrap();
        socket.send_to(&[7; 10_000], (SERVER, 7000)).unwrap();
        // The frames are seen as they arrive at xtp0-dp, in whatever pieces veth takes them.
        let mut bytes = 0;
        while bytes < 10_000 {
            let frame = tap.ipv4_at("xtp0-dp").expect("ten segments");
            assert_eq!(frame[6..12], with(FROM_BOX, 1));
            bytes += frame.len() - 14 - 20 - 8;
        }
        assert_eq!(bytes, 10_000);
        let counters = scene.port.counters().unwrap();
        assert_eq!(count(&counters, "egress_guarded"), 1);
    });
}
