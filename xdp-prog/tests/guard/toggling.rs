//! The guard goes on and off while packets come and go.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use xdp_prog::{Mode, PortProgram};

use crate::fixture::{CLIENT, OWN};
use crate::netns::isolated;
use crate::wires::{count, lab, wait_for};
use crate::{guard, guarded};

const ROUNDS: u64 = 40;
/// What has been judged before a change may take so long to reach its socket.
const SETTLE: Duration = Duration::from_millis(20);

/// A socket that never stops sending, until it is dropped.
struct Sender {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    fn start(socket: UdpSocket, to: (std::net::Ipv4Addr, u16)) -> Self {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<AtomicU64>::default(),
        );
        let (stopped, counted) = (stop.clone(), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                socket.send_to(&[1; 8], to).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(100));
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// How many it has sent.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How much a socket hears until nothing more is there.
fn drain(socket: &UdpSocket) -> u64 {
    let mut heard = 0;
    while socket.recv_from(&mut [0; 64]).is_ok() {
        heard += 1;
    }
    heard
}

fn quiet(socket: UdpSocket) -> UdpSocket {
    socket.set_nonblocking(true).unwrap();
    socket
}

fn two(port: &PortProgram, names: [&str; 2]) -> [u64; 2] {
    let counters = port.counters().unwrap();
    names.map(|name| count(&counters, name))
}

const IN: [&str; 2] = ["pass_own", "divert_guarded"];
const OUT: [&str; 2] = ["egress_native", "egress_guarded"];

#[test]
fn each_packet_goes_one_of_two_ways_and_none_passes_a_guard() {
    isolated(|| {
        let lab = lab();
        // Native, as then the socket of the queue refuses nothing that a counter does not see.
        let (port, _socket) = guarded(&lab, Mode::Native, false);
        let service = quiet(UdpSocket::bind((OWN, 7000)).unwrap());
        let client = lab
            .neighbour
            .run(|| UdpSocket::bind((CLIENT, 6000)).unwrap());
        let client = quiet(client);
        let comes = lab.neighbour.run(|| UdpSocket::bind((CLIENT, 0)).unwrap());
        let comes = Sender::start(comes, (OWN, 7000));
        let goes = UdpSocket::bind((OWN, 0)).unwrap();
        let goes = Sender::start(goes, (CLIENT, 6000));
        let (mut at_service, mut at_client) = (0, 0);
        for round in 0..ROUNDS {
            let before = [two(&port, IN)[1], two(&port, OUT)[1]];
            wait_for(|| two(&port, IN)[1] > before[0] && two(&port, OUT)[1] > before[1]);
            thread::sleep(SETTLE);
            at_service += drain(&service);
            at_client += drain(&client);
            let passed = [two(&port, IN)[0], two(&port, OUT)[0]];
            thread::sleep(SETTLE);
            assert_eq!(drain(&service) + drain(&client), 0, "round {round}");
            assert_eq!([two(&port, IN)[0], two(&port, OUT)[0]], passed);

            port.set_guard(&guard(false)).unwrap();
            wait_for(|| two(&port, IN)[0] > passed[0] && two(&port, OUT)[0] > passed[1]);
            at_service += drain(&service);
            at_client += drain(&client);
            port.set_guard(&guard(true)).unwrap();
        }
        let sent = [comes.end(), goes.end()];
        let sum = |names| two(&port, names).iter().sum::<u64>();
        wait_for(|| [sum(IN), sum(OUT)] == sent);
        thread::sleep(SETTLE);
        at_service += drain(&service);
        at_client += drain(&client);
        assert_eq!(
            [at_service, at_client],
            [two(&port, IN)[0], two(&port, OUT)[0]]
        );
    });
}

/// The programs of the next start know of the guard before they are attached.
#[test]
fn nothing_gets_in_while_the_mode_changes() {
    isolated(|| {
        let lab = lab();
        let (first, _socket) = guarded(&lab, Mode::Native, false);
        let service = quiet(UdpSocket::bind((OWN, 7000)).unwrap());
        let client = lab.neighbour.run(|| UdpSocket::bind((CLIENT, 0)).unwrap());
        let comes = Sender::start(client, (OWN, 7000));
        wait_for(|| two(&first, IN)[1] > 10);
        drain(&service);
        let mut held = 0;
        for mode in [Mode::Generic, Mode::Native, Mode::Generic, Mode::Native] {
            let (port, _socket) = guarded(&lab, mode, false);
            wait_for(|| two(&port, IN)[1] > 10);
            held += count(&port.counters().unwrap(), "gap_dropped");
        }
        comes.end();
        thread::sleep(SETTLE);
        assert_eq!(drain(&service), 0);
        assert!(held > 0, "nobody tried");
    });
}
