//! Packets of real sockets through attached programs: the slow lane, the way
//! out, and the way into the kernel.

mod fixture;
mod netns;
mod wires;

use std::net::UdpSocket;
use std::time::Duration;

use fixture::{CLIENT, FROM_STACK, FROM_WIRE, NEIGHBOUR, NIC, OWN, REINJECTED};
use netns::{Neighbour, ifindex, isolated, run};
use nix::sys::socket::{setsockopt, sockopt};
use wires::{Tap, count, lab, wait_for};
use xdp_prog::{Delivery, HostConfig, HostProgram, Mode, PortHook, PortProgram};

const SERVER: &str = "203.0.113.5";
const TO_STACK: [u8; 5] = [2, 0xd, 1, 2, 3];
const PORT: u8 = 7;

#[test]
fn a_frame_too_long_for_a_chunk_reaches_the_host_port_marked() {
    isolated(|| {
        let lab = lab();
        let (port, _socket) = lab.port(Mode::Generic, 600);
        let tap = Tap::open();
        lab.send("203.0.113.5:7000", 1000, None);
        let frame = tap
            .ipv4_at("xtp0-dp")
            .expect("the slow lane leads to xtp0-dp");
        assert_eq!(frame[..6], FROM_WIRE);
        assert_eq!(frame[6..12], NEIGHBOUR);
        assert_eq!(
            frame[30..34],
            SERVER.parse::<std::net::Ipv4Addr>().unwrap().octets()
        );
        assert_eq!(frame.len(), 14 + 20 + 8 + 1000);
        assert_slow_lane_took_one(&port);
        lab.send("203.0.113.5:7000", 100, None);
        wait_for(|| count(&port.counters().unwrap(), "divert_transit") == 1);
        assert_slow_lane_took_one(&port);
    });
}

#[test]
fn a_super_packet_reaches_the_host_port_in_segments() {
    isolated(|| {
        let lab = lab();
        let (port, _socket) = lab.port(Mode::Generic, 1514);
        let host = HostProgram::load(&HostConfig {
            queues: 1,
            to_stack: TO_STACK,
        })
        .unwrap();
        host.attach(lab.host, ifindex("xtp0-dp")).unwrap();
        lab.send("203.0.113.5:7000", 10_000, Some(1000));
        // No worker is there to take them: each segment is counted as it is dropped.
        wait_for(|| count(&host.counters().unwrap(), "host_no_socket") == 10);
        assert_slow_lane_took_one(&port);
        host.detach(lab.host, ifindex("xtp0-dp")).unwrap();
    });
}

fn assert_slow_lane_took_one(port: &PortProgram) {
    let counters = port.counters().unwrap();
    let pair = ["slow_lane", "slow_lane_sent"].map(|name| count(&counters, name));
    assert_eq!(pair, [1, 1]);
}

#[test]
fn nothing_takes_the_slow_lane_once_the_socket_is_closed() {
    isolated(|| {
        let lab = lab();
        let (port, socket) = lab.port(Mode::Generic, 600);
        drop(socket);
        // A child that another test is just starting may hold it for a moment more.
        let probe = fixture::tcp_to(SERVER.parse().unwrap(), 80);
        wait_for(|| port.dry_run(PortHook::Steer, &probe).unwrap().verdict == fixture::XDP_DROP);
        let before = count(&port.counters().unwrap(), "no_socket_dropped");
        let (at_host, at_nic) = (Tap::open(), Tap::open());
        lab.send("203.0.113.5:7000", 1000, None);
        lab.send("203.0.113.5:7000", 100, None);
        wait_for(|| count(&port.counters().unwrap(), "no_socket_dropped") == before + 2);
        assert_eq!(count(&port.counters().unwrap(), "slow_lane"), 0);
        // Neither to xtp0 nor past the program to the kernel.
        assert_eq!(at_host.ipv4_at("xtp0-dp"), None);
        assert_eq!(at_nic.ipv4_at("nic"), None);
    });
}

#[test]
fn answers_of_a_taken_endpoint_turn_to_the_host_port_others_leave() {
    for mode in [Mode::Native, Mode::Generic] {
        isolated(move || {
            let lab = lab();
            let (port, _socket) = lab.port(mode, 2048);
            let tap = Tap::open();
            let (heard, listening) = std::sync::mpsc::channel();
            let client = lab.neighbour.run(|| {
                let socket = UdpSocket::bind((CLIENT, 6000)).unwrap();
                socket
                    .set_read_timeout(Some(Duration::from_secs(2)))
                    .unwrap();
                socket
            });
            let listener = std::thread::spawn(move || {
                let mut buffer = [0; 64];
                heard
                    .send(client.recv_from(&mut buffer).map(|(_, from)| from.port()))
                    .unwrap();
            });
            UdpSocket::bind((OWN, 9000))
                .unwrap()
                .send_to(&[1; 8], (CLIENT, 6000))
                .unwrap();
            let frame = tap.ipv4_at("xtp0-dp").expect("diverted");
            assert_eq!(
                (&frame[..6], &frame[6..12]),
                (&NEIGHBOUR[..], &FROM_STACK[..])
            );
            assert_eq!(count(&port.counters().unwrap(), "egress_diverted"), 1);
            UdpSocket::bind((OWN, 9001))
                .unwrap()
                .send_to(&[1; 8], (CLIENT, 6000))
                .unwrap();
            // The first thing that the client hears is the second message.
            assert_eq!(listening.recv().unwrap().unwrap(), 9001);
            listener.join().unwrap();
        });
    }
}

#[test]
fn without_the_host_port_an_answer_of_a_taken_endpoint_is_lost_not_leaked() {
    isolated(|| {
        let lab = lab();
        let (port, _socket) = lab.port(Mode::Native, 2048);
        let client = lab.neighbour.run(|| {
            let socket = UdpSocket::bind((CLIENT, 6000)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            socket
        });
        run("ip link del xtp0");
        let answer = UdpSocket::bind((OWN, 9000)).unwrap();
        // The kernel may or may not tell the sender.
        drop(answer.send_to(&[1; 8], (CLIENT, 6000)));
        client
            .recv_from(&mut [0; 64])
            .expect_err("it must not leave untranslated");
        assert_eq!(count(&port.counters().unwrap(), "egress_diverted"), 1);
    });
}

/// A third namespace plays the worker: it owns xtp0-dp and sends to the mark.
#[test]
fn a_delivery_arrives_at_the_nic_it_names_and_passes_its_program() {
    for mode in [Mode::Native, Mode::Generic] {
        isolated(move || {
            let lab = lab();
            std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
            let (port, _socket) = lab.port(mode, 2048);
            let host = HostProgram::load(&HostConfig {
                queues: 1,
                to_stack: TO_STACK,
            })
            .unwrap();
            let reinjected = (mode == Mode::Generic).then_some(REINJECTED);
            host.set_port(
                PORT,
                &Delivery {
                    ifindex: lab.nic,
                    mac: NIC,
                    reinjected,
                },
            )
            .unwrap();
            host.attach(lab.host, ifindex("xtp0-dp")).unwrap();

            let server = UdpSocket::bind((OWN, 9000)).unwrap();
            setsockopt(&server, sockopt::BindToDevice, &"nic".into()).unwrap();
            server
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();

            let worker = Neighbour::start();
            worker.take("xtp0-dp");
            worker.commands(&[
                "ip addr add 192.168.1.10/24 dev xtp0-dp",
                "ip link set xtp0-dp up",
                "ip neigh add 192.168.1.1 lladdr 02:0d:01:02:03:07 dev xtp0-dp",
            ]);
            worker.run(|| {
                UdpSocket::bind((CLIENT, 5000))
                    .unwrap()
                    .send_to(b"delivered", (OWN, 9000))
                    .unwrap()
            });
            let mut buffer = [0; 64];
            let (len, from) = server.recv_from(&mut buffer).expect("delivered on nic");
            assert_eq!(
                (&buffer[..len], from.ip()),
                (&b"delivered"[..], CLIENT.into())
            );
            assert_eq!(count(&host.counters().unwrap(), "delivered"), 1);
            let counters = port.counters().unwrap();
            assert_eq!(
                count(&counters, "pass_reinjected"),
                u64::from(mode == Mode::Generic)
            );
            assert_eq!(count(&counters, "divert_taken"), 0);
        });
    }
}
