//! Sockets that are not registered, on endpoints that are: they share them, or have them after
//! another. Nothing of theirs shows a foreign address.

use pipeline::{DropReason, Event, Ingress, Mark, Verdict};
use policy::{Rule, Test};
use tables::{Kind, OwnerId, Registration, Uses};
use wire::{Endpoint, Protocol};

use crate::fixture::firewall::{by_stranger, on_stack};
use crate::fixture::*;

const STRANGER: Verdict = Verdict::Drop(DropReason::Stranger);
const NO_FLOW: Verdict = Verdict::Drop(DropReason::NoFlowFromStack);

fn datagram(from: Endpoint, to: Endpoint) -> Vec<u8> {
    udp(&udp_tuple(from, to), b"x")
}

/// Datagrams to port 53 go to the proxy.
fn names() -> Vec<Rule> {
    vec![Rule {
        proto: Test::Is(Protocol::UDP),
        ..redirect(53, PROXY)
    }]
}

#[test]
fn each_mark_says_one_thing() {
    let frame = || syn(CALLER, SERVER, 1);
    let read = |frame: Vec<u8>| MARKS.read(&frame);
    assert_eq!(
        read(by_stranger(INTER, frame())),
        Some(Mark::FromStranger {
            port: INTER,
            owners: pipeline::Owners::default()
        })
    );
    assert_eq!(
        read(on_stack(INTER, frame())),
        Some(Mark::FromStack {
            port: INTER,
            owners: pipeline::Owners::default()
        })
    );
}

#[test]
fn a_strangers_connection_leaves_as_itself() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    let seen = fw.stranger(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(CALLER, SERVER));
    assert_eq!((seen.mac_src, seen.mac_dst), (PORT_MACS[1], NEIGHBOUR));
    let flow = fw.flow().flow;
    assert_eq!((flow.kind, flow.owner), (Kind::Local, OwnerId::NOBODY));
    let seen = fw.wire(INTER, syn_ack(SERVER, CALLER, 1, 1001)).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(SERVER, CALLER));
    // What follows is asked no more whose it is.
    let seen = fw.stack(INTER, ack(CALLER, SERVER, b"x")).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(CALLER, SERVER));
    // The registered socket, towards another server.
    let seen = fw.stack(INTER, syn(CALLER, SERVER2, 1)).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, SERVER2));
    assert_eq!(fw.counters.events(Event::Reopened), 0);
}

/// Flows of a registered socket that a stranger's SYN may meet, by what its endpoint and the
/// other end are.
fn owned_flows() -> Vec<(Firewall, Endpoint, Endpoint)> {
    let mut connects = Firewall::new();
    connects.register(&caller());
    connects
        .stack(INTER, syn(CALLER, SERVER, 1000))
        .to_wire(INTER);
    let mut marked = Firewall::new();
    marked.register(&Registration {
        uses: Uses::default(),
        ..caller()
    });
    marked
        .stack(INTER, syn(CALLER, SERVER, 1000))
        .to_wire(INTER);
    let mut listens = Firewall::new();
    listens.register(&listener());
    listens.open(CLIENT, FOREIGN, 1000);
    let mut direct = Firewall::new();
    direct.register(&listener());
    direct.open(CLIENT, LISTENER, 1000);
    vec![
        (connects, CALLER, SERVER),
        (marked, CALLER, SERVER),
        (listens, LISTENER, CLIENT),
        (direct, LISTENER, CLIENT),
    ]
}

#[test]
fn a_strangers_syn_takes_no_owned_flow() {
    for (mut fw, own, other) in owned_flows() {
        let old = fw.flow();
        assert_eq!(old.flow.owner, OWNER);
        let seen = fw.stranger(INTER, syn(own, other, 5000)).to_wire(INTER);
        assert_eq!(seen.tuple, tcp_tuple(own, other));
        let flow = fw.flow();
        assert_ne!(flow.id, old.id);
        assert_eq!(
            (flow.flow.kind, flow.flow.owner),
            (Kind::Local, OwnerId::NOBODY)
        );
        assert_eq!(fw.flows.owned_by(OWNER), 0);
        assert_eq!(fw.counters.events(Event::Reopened), 1);
    }
}

/// Steering asks only what begins something; should it ever say this, it is not believed to
/// be the flow's own.
#[test]
fn nothing_else_of_a_stranger_passes_by_an_owned_flow() {
    for (mut fw, own, other) in owned_flows() {
        let sent = tcp(&tcp_tuple(other, own), ACK, 1, 1, b"x");
        let mut frames = vec![icmp_error(own.addr, other.addr, &sent, usize::MAX)];
        for flags in [0, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK] {
            frames.push(tcp(&tcp_tuple(own, other), flags, 1, 1, b""));
        }
        let before = fw.flow();
        for frame in frames {
            assert_eq!(fw.stranger(INTER, frame).verdict, STRANGER);
        }
        let after = fw.flow();
        assert_eq!(
            (after.id, after.state, after.reply.packets),
            (before.id, before.state, before.reply.packets)
        );
    }
}

/// A socket that was unregistered while it connects is a stranger from then on; its SYN is
/// sent again under the name it had.
#[test]
fn a_syn_sent_again_is_no_strangers() {
    let mut fw = Firewall::new();
    let id = fw.register(&caller());
    fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    fw.withdraw(id);
    let seen = fw.stranger(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, SERVER));
    assert_eq!(fw.flow().orig.packets, 2);
}

#[test]
fn a_strangers_datagram_leaves_as_itself() {
    for own in [over_udp(caller()), over_udp(listener())] {
        let mut fw = Firewall::new();
        fw.register(&own);
        let frame = || datagram(own.local, SERVER);
        for _ in 0..2 {
            let seen = fw.stranger(INTER, frame()).to_wire(INTER);
            assert_eq!(seen.tuple, udp_tuple(own.local, SERVER));
        }
        let flow = fw.flow();
        assert_eq!(
            (flow.flow.kind, flow.flow.owner),
            (Kind::Local, OwnerId::NOBODY)
        );
        assert_eq!(flow.orig.packets, 2);
        let seen = fw.wire(INTER, datagram(SERVER, own.local)).to_stack();
        assert_eq!(seen.tuple, udp_tuple(SERVER, own.local));
    }
}

#[test]
fn a_strangers_datagram_takes_no_owned_flow() {
    let mut fw = Firewall::new();
    fw.register(&over_udp(caller()));
    fw.register(&over_udp(listener()));
    fw.stack(INTER, datagram(CALLER, SERVER)).to_wire(INTER);
    fw.wire(INTRA, datagram(CLIENT, FOREIGN)).to_stack();
    for (own, other) in [(CALLER, SERVER), (LISTENER, CLIENT)] {
        let outcome = fw.stranger(INTER, datagram(own, other));
        assert_eq!(outcome.verdict, STRANGER);
    }
    // The owner's go on as before.
    for (own, other, shown) in [(CALLER, SERVER, CLIENT), (LISTENER, CLIENT, FOREIGN)] {
        let seen = fw.stack(INTER, datagram(own, other)).to_wire(INTER);
        assert_eq!(seen.tuple, udp_tuple(shown, other));
    }
    assert_eq!(fw.flows.counts().live, 2);
    // Nor one of those that were taken one by one.
    let mut fw = Firewall::new();
    fw.register(&Registration {
        uses: UNIDIR,
        ..over_udp(listener())
    });
    fw.wire(INTRA, datagram(CLIENT, FOREIGN)).to_stack();
    let outcome = fw.stranger(INTRA, datagram(LISTENER, CLIENT));
    assert_eq!(outcome.verdict, STRANGER);
}

#[test]
fn a_registered_sender_takes_back_what_a_stranger_began() {
    for proto in [Protocol::TCP, Protocol::UDP] {
        let mut fw = Firewall::new();
        fw.register(&Registration { proto, ..caller() });
        let frame = |isn| match proto {
            Protocol::TCP => syn(CALLER, SERVER, isn),
            _ => datagram(CALLER, SERVER),
        };
        // In one batch as well as one by one.
        let frames = vec![
            by_stranger(INTER, frame(1)),
            on_stack(INTER, frame(2)),
            on_stack(INTER, frame(2)),
            by_stranger(INTER, frame(3)),
            on_stack(INTER, frame(4)),
        ];
        let mut left = Vec::new();
        for outcome in fw.batch(Ingress::HostPort, frames) {
            left.push(match outcome.verdict {
                Verdict::Drop(reason) => Err(reason),
                _ => Ok(outcome.to_wire(INTER).tuple.src),
            });
        }
        let of_stranger = match proto {
            Protocol::TCP => Ok(CALLER),
            _ => Err(DropReason::Stranger),
        };
        assert_eq!(
            left,
            [Ok(CALLER), Ok(CLIENT), Ok(CLIENT), of_stranger, Ok(CLIENT)]
        );
        assert_eq!(fw.flow().flow.kind, Kind::Connect);
    }
}

#[test]
fn a_withdrawn_owners_datagrams_leave_nothing_to_a_stranger() {
    let mut fw = Firewall::new();
    let id = fw.register(&over_udp(caller()));
    fw.stack(INTER, datagram(CALLER, SERVER)).to_wire(INTER);
    fw.withdraw(id);
    let seen = fw.stranger(INTER, datagram(CALLER, SERVER)).to_wire(INTER);
    assert_eq!(seen.tuple, udp_tuple(CALLER, SERVER));
    assert_eq!(fw.flow().flow.owner, OwnerId::NOBODY);
}

/// A rule's proxy needs no registration; its endpoint may have one that is another's.
#[test]
fn a_rules_proxy_answers_though_it_is_a_stranger() {
    let client = Endpoint::new(CLIENT.addr, 5353);
    let name_server = Endpoint::new(SERVER.addr, 53);
    let mut fw = Firewall::with_rules(names());
    fw.wire(INTRA, datagram(client, name_server)).to_stack();
    fw.register(&registration(Protocol::UDP, PROXY, FOREIGN, Uses::CONNECT));
    let seen = fw.stranger(INTRA, datagram(PROXY, client)).to_wire(INTRA);
    assert_eq!(seen.tuple, udp_tuple(name_server, client));
    // What answers no flow that there is may answer one that has gone.
    let outcome = fw.stranger(INTRA, datagram(PROXY, SERVER2));
    assert_eq!(outcome.verdict, NO_FLOW);
    // A redirected datagram's flow belongs to the registration.
    let second = Endpoint::new(CLIENT.addr, 5354);
    fw.wire(INTRA, datagram(second, name_server)).to_stack();
    let outcome = fw.stranger(INTRA, datagram(PROXY, second));
    assert_eq!(outcome.verdict, STRANGER);
    let seen = fw.stack(INTRA, datagram(PROXY, second)).to_wire(INTRA);
    assert_eq!(seen.tuple, udp_tuple(name_server, second));
}

#[test]
fn a_stranger_that_begins_nothing_goes_nowhere() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    let mut frames = vec![
        echo(CALLER.addr, SERVER.addr),
        syn(CALLER, PROXY, 1),
        syn(CLIENT, SERVER, 1),
        datagram(CALLER, PROXY),
        datagram(CLIENT, SERVER),
    ];
    for flags in [0, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK] {
        frames.push(tcp(&tcp_tuple(CALLER, SERVER), flags, 1, 1, b""));
    }
    for frame in frames {
        assert_eq!(fw.stranger(INTER, frame).verdict, NO_FLOW);
    }
    assert_eq!(fw.flows.counts().live, 0);
}

#[test]
fn a_stranger_need_not_wait_for_registrations_of_others() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    let registrations = std::sync::Arc::clone(&fw.registrations);
    let hold = registrations.hold();
    for frame in [syn(CALLER, SERVER, 1), datagram(CALLER, SERVER)] {
        let seen = fw.stranger(INTER, frame).to_wire(INTER);
        assert_eq!(seen.tuple.src, CALLER);
    }
    drop(hold);
}
