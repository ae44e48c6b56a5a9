//! A change of mode while a neighbour sends and the kernel would forward.

mod fixture;
mod netns;

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fixture::{CLIENT, NIC, OWN, SERVER};
use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::{Program, TC_INGRESS, TcHookBuilder};
use netns::{Neighbour, ifindex, isolated, mac, run};
use xdp_prog::{Error, Mode, PortConfig, PortProgram, detach_stale, stale};

const VETH: [&str; 1] =
    ["ip link add nic address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02"];
/// A bridge has no native XDP.
const BRIDGE: [&str; 4] = [
    "ip link add nic address 02:00:00:00:00:01 type bridge",
    "ip link add member type veth peer name far address 02:00:00:00:00:02",
    "ip link set member master nic",
    "ip link set member up",
];

/// A box that forwards from `nic` to `out`, and a neighbour at `nic` that never stops sending.
struct Lab {
    nic: u32,
    stop: Arc<AtomicBool>,
    sender: Option<thread::JoinHandle<()>>,
    _neighbour: Neighbour,
}

impl Lab {
    fn new(links: &[&str]) -> Self {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let neighbour = Neighbour::start();
        let common = [
            "ip addr add 192.168.1.1/24 dev nic",
            "ip link set nic up",
            "ip link add out type veth peer name sink",
            "ip addr add 203.0.113.1/24 dev out",
            "ip link set out up",
            "ip link set sink up",
            "ip neigh add 203.0.113.5 lladdr 02:00:00:00:00:05 dev out",
        ];
        for command in links.iter().chain(&common) {
            run(command);
        }
        neighbour.take("far");
        neighbour.commands(&[
            "ip addr add 192.168.1.10/24 dev far",
            "ip link set far up",
            "ip neigh add 192.168.1.1 lladdr 02:00:00:00:00:01 dev far",
            "ip route add default via 192.168.1.1",
        ]);
        assert_eq!(mac("nic"), NIC);
        let socket = neighbour.run(|| UdpSocket::bind((CLIENT, 0)).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                drop(socket.send_to(&[7; 64], (SERVER, 7000)));
                thread::sleep(Duration::from_micros(20));
            }
        });
        let lab = Self {
            nic: ifindex("nic"),
            stop,
            sender: Some(sender),
            _neighbour: neighbour,
        };
        wait_for(|| forwarded() > 100);
        lab
    }

    fn load(&self, mode: Mode) -> PortProgram {
        let mut program = PortProgram::load(
            &PortConfig {
                interface: "nic".into(),
                ifindex: self.nic,
                mode,
                host_ifindex: self.nic,
                ..fixture::config()
            },
            &fixture::no_endpoints(),
            &fixture::no_sockets(),
        )
        .unwrap();
        program.set_addresses(&[(OWN, vec![])], &[]).unwrap();
        program
    }

    /// The first attachment: what is on its way then may still get through.
    fn close(&self, mode: Mode) -> PortProgram {
        let mut program = self.load(mode);
        program.attach().unwrap();
        let mut before = forwarded();
        wait_for(|| {
            thread::sleep(Duration::from_millis(100));
            std::mem::replace(&mut before, forwarded()) == before
        });
        program
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            drop(sender.join());
        }
    }
}

/// Packets that this namespace's kernel has forwarded.
fn forwarded() -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut ip = table.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (ip.next().unwrap(), ip.next().unwrap());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs.find(|(name, _)| *name == "ForwDatagrams").unwrap();
    value.parse().unwrap()
}

fn wait_for(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain");
        thread::sleep(Duration::from_millis(5));
    }
}

fn held_back(program: &PortProgram) -> u64 {
    let counters = program.counters().unwrap();
    let counter = counters.iter().find(|(name, _)| *name == "gap_dropped");
    counter.unwrap().1
}

#[test]
fn nothing_is_forwarded_while_the_mode_changes() {
    isolated(|| {
        let lab = Lab::new(&VETH);
        lab.close(Mode::Native);
        let (before, mut held) = (forwarded(), 0);
        for _ in 0..4 {
            for mode in [Mode::Generic, Mode::Native] {
                let mut program = lab.load(mode);
                program.attach().unwrap();
                held += held_back(&program);
            }
        }
        thread::sleep(Duration::from_millis(100));
        assert_eq!(forwarded() - before, 0);
        assert!(held > 0, "nobody tried");
        let left = stale(lab.nic).unwrap();
        assert!(left.tc_gap.is_none() && left.tc_ingress.is_none());
        detach_stale(lab.nic).unwrap();
        wait_for(|| forwarded() > before);
    });
}

#[test]
fn nothing_is_forwarded_while_a_mode_is_tried_in_vain() {
    isolated(|| {
        let lab = Lab::new(&BRIDGE);
        lab.close(Mode::Generic);
        let found = stale(lab.nic).unwrap();
        let (before, mut held) = (forwarded(), 0);
        for _ in 0..8 {
            let mut program = lab.load(Mode::Native);
            let error = program.attach().unwrap_err();
            assert!(matches!(error, Error::ModeRefused { .. }), "{error:?}");
            held += held_back(&program);
        }
        thread::sleep(Duration::from_millis(100));
        assert_eq!(forwarded() - before, 0);
        assert!(held > 0, "nobody tried");
        assert_eq!(stale(lab.nic).unwrap(), found, "what was there came back");
        detach_stale(lab.nic).unwrap();
        wait_for(|| forwarded() > before);
    });
}

/// What a start leaves that is killed while the gap is open.
fn leave_a_gap(nic: u32) {
    let gap = ProgInfoIter::default()
        .filter(|program| program.name.to_bytes() == b"xtp_gap")
        .find_map(|program| Program::fd_from_id(program.id).ok())
        .expect("a port is loaded");
    TcHookBuilder::new(gap.as_fd())
        .ifindex(nic as i32)
        .priority(1)
        .handle(0x78_7471)
        .hook(TC_INGRESS)
        .attach()
        .unwrap();
    let left = stale(nic).unwrap().tc_gap.expect("left behind");
    assert_eq!(left.name, "xtp_gap");
}

#[test]
fn a_gap_that_was_left_open_is_closed_by_the_next() {
    isolated(|| {
        let lab = Lab::new(&VETH);
        for mode in [Mode::Native, Mode::Generic] {
            let _killed = lab.close(Mode::Native);
            leave_a_gap(lab.nic);
            let before = forwarded();
            let mut program = lab.load(mode);
            program.attach().unwrap();
            assert!(stale(lab.nic).unwrap().tc_gap.is_none());
            thread::sleep(Duration::from_millis(100));
            assert_eq!(forwarded() - before, 0);
            leave_a_gap(lab.nic);
            assert!(detach_stale(lab.nic).unwrap().tc_gap.is_some());
            assert!(stale(lab.nic).unwrap().is_empty());
            assert!(!run("tc qdisc show dev nic").contains("clsact"));
        }
    });
}
