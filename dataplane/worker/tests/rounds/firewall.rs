//! A worker in its thread, with rules that redirect the web to a proxy.

use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use pipeline::{
    Counters, DropReason, Ingress, Marks, Pipeline, PortId, PortView, RuleHits, SharedView, View,
};
use policy::{
    Action, ChainId, Entry, Hook, NoListener, Policy, PortRange, Program, RejectWith, Rule, Test,
    Verdict,
};
use tables::{FlowTable, Registrations};
use wire::{Endpoint, MacAddr, Protocol};
use worker::{LaneReading, LaneSpec, Worker, WorkerConfig, WorkerStats};

use crate::network::{End, HOST, NIC, STACK, Steering, WIRE};

pub const PORT: PortId = PortId(0);
pub const CLIENT: Endpoint = Endpoint::new(Ipv4Addr::new(192, 168, 1, 10), 40_000);
pub const SERVER: Endpoint = Endpoint::new(Ipv4Addr::new(198, 51, 100, 10), 80);
pub const PROXY: Endpoint = Endpoint::new(Ipv4Addr::new(192, 168, 1, 1), 3128);
pub const NIC_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x10]);
pub const NEIGHBOUR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x99]);
pub const MARKS: Marks = Marks::new([0xa1, 0xb2, 0xc3]);

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running worker, and the far ends of its wires.
pub struct Firewall {
    pub wire: End,
    pub stack: End,
    pub counters: Arc<Counters>,
    pub stats: Arc<WorkerStats>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _steering: Steering,
}

impl Firewall {
    /// A worker with this many frames; `busy` means that it never sleeps.
    pub fn start(frames: u32, busy: bool) -> Self {
        let counters = Arc::<Counters>::default();
        let pipeline = Pipeline::new(
            Arc::new(FlowTable::new(1024, 1, 7)),
            Arc::new(Registrations::new(1, 7)),
            view(),
            Arc::clone(&counters),
            Arc::default(),
            Arc::default(),
            0,
            42,
        );
        let worker = Worker::open(&config(frames, busy), pipeline).unwrap();
        let steering = Steering::attach(&worker);
        let stats = worker.stats();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || worker.run(&stop))
        };
        Self {
            wire: End::open(WIRE),
            stack: End::open(STACK),
            counters,
            stats,
            stop,
            thread: Some(thread),
            _steering: steering,
        }
    }

    pub fn tx_full(&self) -> u64 {
        self.counters.drops(DropReason::TxFull)
    }

    pub fn lane(&self, ingress: Ingress) -> LaneReading {
        let mut lanes = self.stats.lanes();
        lanes.find(|lane| lane.ingress == ingress).unwrap()
    }

    /// Rounds of the loop, and waits, while `time` passes.
    pub fn rounds_in(&self, time: Duration) -> (u64, u64) {
        let before = self.stats.rounds();
        std::thread::sleep(time);
        let after = self.stats.rounds();
        (after.0 - before.0, after.1 - before.1)
    }

    /// Ends the worker, and returns how long that took.
    pub fn stop(&mut self) -> Duration {
        let start = Instant::now();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        start.elapsed()
    }

    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// No frame may be lost, at any moment that can be seen.
    pub fn assert_conserved(&self) {
        let ledger = self.stats.ledger();
        assert!(ledger.is_conserved(), "{ledger:?}");
    }

    /// Waits for something, while every frame must be accounted for.
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(self) {
            self.assert_conserved();
            assert!(Instant::now() < until, "in vain waited until {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.assert_conserved();
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the worker has been told of already.
            drop(thread.join());
        }
    }
}

pub fn config(frames: u32, busy: bool) -> WorkerConfig {
    let lane = |ingress, interface: &str| LaneSpec {
        ingress,
        interface: interface.to_owned(),
        queue: 0,
        zero_copy: false,
    };
    WorkerConfig {
        core: None,
        busy,
        frames: NonZeroU32::new(frames).unwrap(),
        lanes: vec![
            lane(Ingress::Port(PORT), NIC),
            lane(Ingress::HostPort, HOST),
        ],
    }
}

fn view() -> SharedView {
    let rule = Rule {
        proto: Test::Is(Protocol::TCP),
        destination_ports: Test::Is(PortRange::new(80, 80)),
        action: Action::Redirect {
            addr: Some(PROXY.addr),
            port: Some(PROXY.port),
            otherwise: NoListener::Reject,
        },
        ..Rule::default()
    };
    let refused = Rule {
        proto: Test::Is(Protocol::UDP),
        action: Action::Reject(RejectWith::PortUnreachable),
        ..Rule::default()
    };
    let entry = |hook, chain, policy| Entry {
        hook,
        chain: ChainId(chain),
        policy,
    };
    let policy = Policy::new(Program {
        generation: 1,
        chains: vec![vec![rule], vec![refused]],
        entries: vec![
            entry(Hook::TproxyPrerouting, 0, Verdict::Accept),
            entry(Hook::FilterForward, 1, Verdict::Drop),
        ],
        ..Program::default()
    })
    .unwrap();
    Arc::new(ArcSwap::from_pointee(View {
        rule_hits: Arc::new(RuleHits::new(1, policy.rule_count())),
        own: [PROXY.addr].into_iter().collect(),
        proxies: policy.proxies(),
        policy: policy.into(),
        ports: vec![PortView {
            mac: NIC_MAC,
            first_address: Some(PROXY.addr),
        }],
        marks: MARKS,
        broadcasts: Default::default(),
        listening: Default::default(),
        epoch: false,
        keep_established: false,
    }))
}

/// The SYN of a client, from one of its ports.
pub fn syn(port: u16) -> Vec<u8> {
    let from = Endpoint::new(CLIENT.addr, port);
    segment((NEIGHBOUR, NIC_MAC), from, SERVER, false)
}

/// The stack's answer to it, marked by the program at the NIC's way out.
pub fn syn_ack(port: u16) -> Vec<u8> {
    let to = Endpoint::new(CLIENT.addr, port);
    segment((MARKS.from_stack(PORT), NEIGHBOUR), PROXY, to, true)
}

fn segment(macs: (MacAddr, MacAddr), from: Endpoint, to: Endpoint, answers: bool) -> Vec<u8> {
    let mut tcp = etherparse::TcpHeader::new(from.port, to.port, 1000, 0xffff);
    (tcp.syn, tcp.ack) = (true, answers);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0.0, macs.1.0)
        .ipv4(from.addr.octets(), to.addr.octets(), 64)
        .tcp_header(tcp)
        .write(&mut frame, &[])
        .unwrap();
    frame
}

/// A datagram that the rules refuse.
pub fn datagram(payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(NEIGHBOUR.0, NIC_MAC.0)
        .ipv4(CLIENT.addr.octets(), SERVER.addr.octets(), 64)
        .udp(CLIENT.port, 53)
        .write(&mut frame, &vec![7; payload])
        .unwrap();
    frame
}

/// What an ICMP "port unreachable" quotes, and who sends it.
pub fn read_refusal(frame: &[u8]) -> (Ipv4Addr, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Icmpv4(icmp))) =
        (&packet.net, &packet.transport)
    else {
        panic!("not ICMP: {frame:02x?}");
    };
    assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 3));
    assert_eq!(
        icmp.icmp_type().calc_checksum(icmp.payload()),
        icmp.checksum()
    );
    (ip.header().source_addr(), icmp.payload().to_vec())
}

/// Where a TCP frame comes from and goes to, and its MAC addresses: source, destination.
pub fn read(frame: &[u8]) -> ((Endpoint, Endpoint), (MacAddr, MacAddr)) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
        (&packet.net, &packet.transport)
    else {
        panic!("not TCP: {frame:02x?}");
    };
    let mac = |at: usize| MacAddr(frame[at..at + 6].try_into().unwrap());
    let from = Endpoint::new(ip.header().source_addr(), tcp.source_port());
    let to = Endpoint::new(ip.header().destination_addr(), tcp.destination_port());
    ((from, to), (mac(6), mac(0)))
}
