//! A worker's rounds on real interfaces: frames go where their verdicts say and none is lost,
//! whatever the links do.

mod firewall;
mod network;

use std::collections::HashSet;
use std::time::Duration;

use firewall::{
    CLIENT, Firewall, MARKS, NEIGHBOUR, NIC_MAC, PATIENCE, PORT, PROXY, SERVER, datagram, read,
    read_refusal, syn, syn_ack,
};
use network::{HOST, NIC, ip, isolated};
use pipeline::Ingress;
use wire::Endpoint;

/// The fewest frames with which two lanes have rings of 64.
const FEW: u32 = 192;
/// Entries of those rings.
const RING: u64 = 64;
/// A sleeping worker looks ten times a second whether it shall stop.
const FEW_ROUNDS: std::ops::RangeInclusive<u64> = 5..=25;
const SECOND: Duration = Duration::from_secs(1);

/// Sends a SYN and its answer through.
fn converse(fw: &Firewall, port: u16) {
    fw.wire.send(&syn(port));
    let client = Endpoint::new(CLIENT.addr, port);
    let frame = fw.stack.receive(PATIENCE).expect("the stack gets a SYN");
    let (tuple, macs) = read(&frame);
    assert_eq!(tuple, (client, PROXY));
    assert_eq!(macs, (NEIGHBOUR, MARKS.to_stack(PORT)));
    fw.stack.send(&syn_ack(port));
    let frame = fw.wire.receive(PATIENCE).expect("the wire gets an answer");
    let (tuple, macs) = read(&frame);
    assert_eq!(tuple, (SERVER, client));
    assert_eq!(macs, (NIC_MAC, NEIGHBOUR));
}

#[test]
fn frames_go_both_ways_and_none_is_lost() {
    isolated(|| {
        let mut fw = Firewall::start(FEW, false);
        // Each chunk of the region is used many times over.
        for port in 1000..1600 {
            converse(&fw, port);
            fw.assert_conserved();
        }
        for ingress in [Ingress::Port(PORT), Ingress::HostPort] {
            let lane = fw.lane(ingress);
            assert_eq!((lane.received, lane.sent), (600, 600));
        }
        fw.wait_until("all is sent", |fw| fw.stats.ledger().sending == 0);
        fw.stop();
        fw.assert_conserved();
        let ledger = fw.stats.ledger();
        assert_eq!((ledger.total, ledger.filled), (FEW, 128));
        assert_eq!(fw.tx_full(), 0);
    });
}

/// The answer is longer than the packet: it takes room in the chunk that the packet came in.
#[test]
fn a_refused_datagram_is_quoted_to_its_sender() {
    isolated(|| {
        let mut fw = Firewall::start(FEW, false);
        for payload in [0, 1, 18, 500, 1400] {
            let sent = datagram(payload);
            fw.wire.send(&sent);
            let frame = fw.wire.receive(PATIENCE).expect("the sender is told");
            let (source, quoted) = read_refusal(&frame);
            assert_eq!(source, PROXY.addr);
            let whole = sent.len() - 14;
            assert_eq!(quoted, &sent[14..14 + whole.min(548)], "{payload}");
        }
        converse(&fw, 1000);
        fw.wait_until("all is sent", |fw| fw.stats.ledger().sending == 0);
        fw.stop();
        fw.assert_conserved();
    });
}

/// The consumer is down: what finds no room in the transmit ring is dropped under its name, and
/// what is in the ring leaves when the consumer is back.
#[test]
fn a_full_transmit_ring_drops_counts_and_recovers() {
    isolated(|| {
        let fw = Firewall::start(FEW, false);
        ip(&format!("link set {HOST} down"));
        const SENT: u64 = 300;
        for number in 0..SENT {
            fw.wire.send(&syn(2000 + number as u16));
            let received = |fw: &Firewall| fw.lane(Ingress::Port(PORT)).received;
            fw.wait_until("it is received", |fw| received(fw) > number);
        }
        fw.wait_until("the ring is full", |fw| fw.tx_full() == SENT - RING);
        let ledger = fw.stats.ledger();
        assert_eq!(u64::from(ledger.sending), RING);
        assert_eq!(fw.lane(Ingress::HostPort).sent, RING);
        assert_eq!(fw.stack.receive(Duration::ZERO), None);

        ip(&format!("link set {HOST} up"));
        let came: HashSet<u16> = (0..RING)
            .map(|_| fw.stack.receive(PATIENCE).expect("the ring empties"))
            .map(|frame| read(&frame).0.0.port)
            .collect();
        // The first ones, in other words those that were not counted as dropped.
        assert_eq!(came, (2000..2000 + RING as u16).collect());
        fw.wait_until("the chunks are back", |fw| fw.stats.ledger().sending == 0);
        // The kernel takes a moment to let the stack's end of a link send again.
        let answered = (0..PATIENCE.as_millis() / 100).any(|_| {
            fw.stack.send(&syn_ack(2000));
            fw.wire.receive(Duration::from_millis(100)).is_some()
        });
        assert!(answered, "no frame comes from the stack any more");
        assert_eq!(fw.tx_full(), SENT - RING);
    });
}

#[test]
fn an_idle_worker_sleeps_and_wakes() {
    isolated(|| {
        let fw = Firewall::start(FEW, false);
        converse(&fw, 1000);
        fw.wait_until("all is sent", |fw| fw.stats.ledger().sending == 0);
        let (rounds, waits) = fw.rounds_in(SECOND);
        assert!(FEW_ROUNDS.contains(&rounds), "{rounds} rounds of sleep");
        assert!(waits.abs_diff(rounds) <= 1, "{waits} of {rounds}");
        // A frame does not wait for the sleep's end.
        let start = std::time::Instant::now();
        for port in 1001..1051 {
            converse(&fw, port);
        }
        let took = start.elapsed();
        assert!(
            took < Duration::from_millis(50 * 50),
            "slept over: {took:?}"
        );
    });
}

#[test]
fn a_busy_worker_never_sleeps() {
    isolated(|| {
        let fw = Firewall::start(FEW, true);
        converse(&fw, 1000);
        let (rounds, waits) = fw.rounds_in(SECOND);
        assert!(rounds > 1000, "{rounds} rounds of work");
        assert_eq!(waits, 0);
    });
}

#[test]
fn stop_ends_it_soon_and_frees_the_queues() {
    isolated(|| {
        for busy in [false, true] {
            let mut fw = Firewall::start(FEW, busy);
            converse(&fw, 1000);
            assert!(fw.is_running());
            let took = fw.stop();
            assert!(took < SECOND, "{took:?}");
            drop(fw);
            // Otherwise the next worker could not have them.
            for interface in [NIC, HOST] {
                ip(&format!("link set {interface} xdpdrv off"));
            }
        }
    });
}

/// Whichever interface goes, the worker neither spins nor hangs, and what it would send there is
/// dropped.
#[test]
fn a_lost_interface_is_left_alone() {
    for (lost, ingress) in [(NIC, Ingress::Port(PORT)), (HOST, Ingress::HostPort)] {
        isolated(move || {
            let mut fw = Firewall::start(FEW, false);
            converse(&fw, 1000);
            ip(&format!("link del {lost}"));
            std::thread::sleep(Duration::from_millis(300));
            let (rounds, _) = fw.rounds_in(SECOND);
            assert!(FEW_ROUNDS.contains(&rounds), "{rounds} rounds after a loss");
            let sent = fw.lane(ingress).sent;
            for number in 0..2 * RING {
                match ingress {
                    Ingress::Port(_) => fw.stack.send(&syn_ack(1000)),
                    Ingress::HostPort => fw.wire.send(&syn(2000 + number as u16)),
                }
                let other = match ingress {
                    Ingress::Port(_) => Ingress::HostPort,
                    Ingress::HostPort => Ingress::Port(PORT),
                };
                let came = |fw: &Firewall| fw.lane(other).received;
                fw.wait_until("it is received", |fw| came(fw) > number + 1);
            }
            // The lane takes what its ring would have held, and then no more.
            fw.wait_until("the rest is dropped", |fw| {
                let staged = fw.lane(ingress).sent - sent;
                staged <= RING && fw.tx_full() == 2 * RING - staged
            });
            let (rounds, _) = fw.rounds_in(SECOND);
            assert!(
                FEW_ROUNDS.contains(&rounds),
                "{rounds} rounds with frames stuck"
            );
            assert!(fw.is_running());
            assert!(fw.stop() < SECOND);
            fw.assert_conserved();
        });
    }
}
