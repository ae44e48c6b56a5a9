//! UDP: listeners that take datagrams one by one, and sockets that talk both ways.

use std::collections::HashSet;

use pipeline::{DropReason, Verdict};
use policy::{Rule, Test};
use tables::{FlowKey, Kind, Registration, Side, Uses};
use wire::{Endpoint, Protocol};

use crate::fixture::*;

const DNS: Endpoint = Endpoint::new(SERVER.addr, 53);

fn one_by_one() -> Registration {
    registration(Protocol::UDP, LISTENER, DNS, UNIDIR)
}

/// The session's socket: it talks to the client as the server.
fn back() -> Registration {
    Registration {
        owner: OTHER,
        ..registration(Protocol::UDP, CALLER, DNS, Uses::CONNECT)
    }
}

fn asks(fw: &mut Firewall) -> wire::Tuple {
    let frame = udp(&udp_tuple(CLIENT, DNS), b"?");
    fw.wire(INTRA, frame).to_stack().tuple
}

fn calls_back(fw: &mut Firewall) -> wire::Tuple {
    let frame = udp(&udp_tuple(CALLER, CLIENT), b"!");
    fw.stack(INTRA, frame).to_wire(INTRA).tuple
}

fn to_proxy(port: u16) -> Rule {
    Rule {
        proto: Test::Is(Protocol::UDP),
        ..redirect(port, PROXY)
    }
}

/// By its foreign endpoint, and by the rule that leads to it.
fn firewalls() -> [(Firewall, Endpoint, Kind); 2] {
    let by_foreign = Firewall::new();
    by_foreign.register(&one_by_one());
    let by_rule = Firewall::with_rules(vec![to_proxy(53)]);
    by_rule.register(&Registration {
        local: PROXY,
        foreign: FOREIGN,
        ..one_by_one()
    });
    [
        (by_foreign, LISTENER, Kind::Listen),
        (by_rule, PROXY, Kind::Redirect),
    ]
}

#[test]
fn one_source_to_many_destinations_keeps_them_apart() {
    let mut fw = Firewall::with_rules(vec![to_proxy(53)]);
    fw.register(&Registration {
        local: PROXY,
        ..one_by_one()
    });
    let mut shown = HashSet::new();
    for n in 1..=20 {
        let dst = Endpoint::new([198, 51, 100, n].into(), 53);
        for _ in 0..2 {
            let seen = fw
                .wire(INTRA, udp(&udp_tuple(CLIENT, dst), b"?"))
                .to_stack();
            assert_eq!(seen.tuple.dst, PROXY);
            shown.insert(seen.tuple.src);
            let key = FlowKey::new(Side::Host, &seen.tuple.reversed());
            let hit = fw.flows.lookup(&key).unwrap();
            assert_eq!(hit.flow.orig.tuple(), udp_tuple(CLIENT, dst));
            assert_eq!(hit.flow.orig.side(), Side::OneWay);
        }
    }
    assert_eq!(shown.len(), 20);
    assert_eq!(fw.flows.owned_by(OWNER), 20);
}

#[test]
fn a_connection_back_lives_beside_the_listeners_datagrams() {
    for (mut fw, local, kind) in firewalls() {
        fw.register(&back());
        assert_eq!(asks(&mut fw), udp_tuple(CLIENT, local));
        assert_eq!(calls_back(&mut fw), udp_tuple(DNS, CLIENT));
        assert_eq!(fw.flows.counts().live, 2);
        let kinds: HashSet<_> = fw.flows.iter().map(|f| f.flow.kind).collect();
        assert_eq!(kinds, [kind, Kind::Connect].into());
        // From now on the client talks to the session's socket.
        assert_eq!(asks(&mut fw), udp_tuple(CLIENT, CALLER));
        assert_eq!(calls_back(&mut fw), udp_tuple(DNS, CLIENT));
        // What the listener itself says reaches the client under the same name.
        let seen = fw
            .stack(INTRA, udp(&udp_tuple(local, CLIENT), b"!"))
            .to_wire(INTRA);
        assert_eq!(seen.tuple, udp_tuple(DNS, CLIENT));
    }
}

#[test]
fn the_listener_takes_over_again_when_the_connection_back_is_withdrawn() {
    for (mut fw, local, _) in firewalls() {
        let session = fw.register(&back());
        assert_eq!(calls_back(&mut fw), udp_tuple(DNS, CLIENT));
        assert_eq!(asks(&mut fw), udp_tuple(CLIENT, CALLER));
        assert_eq!(fw.flows.counts().live, 1);
        fw.withdraw(session);
        assert_eq!(asks(&mut fw), udp_tuple(CLIENT, local));
        assert_eq!(fw.flow().flow.owner, OWNER);
        let frame = udp(&udp_tuple(CALLER, CLIENT), b"late");
        let late = fw.stack(INTRA, frame);
        assert_eq!(late.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
    }
}

/// Without UNIDIR the listener's flow is a connection, and the way back is taken.
#[test]
fn a_plain_listener_holds_the_way_back() {
    let mut fw = Firewall::new();
    fw.register(&Registration {
        uses: Uses::LISTEN,
        ..one_by_one()
    });
    fw.register(&back());
    asks(&mut fw);
    let outcome = fw.stack(INTRA, udp(&udp_tuple(CALLER, CLIENT), b"!"));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForeignTaken));
}

#[test]
fn datagrams_and_the_connection_back_in_one_batch_find_their_flows() {
    let (mut fw, local, _) = firewalls().into_iter().next().unwrap();
    let frame = crate::fixture::firewall::on_wire(INTRA, udp(&udp_tuple(CLIENT, DNS), b"?"));
    for outcome in fw.batch(pipeline::Ingress::Port(INTRA), vec![frame; 5]) {
        assert_eq!(outcome.to_stack().tuple, udp_tuple(CLIENT, local));
    }
    assert_eq!(fw.flow().orig.packets, 5);
}

#[test]
fn a_connected_socket_talks_both_ways_whoever_begins() {
    let both = Registration {
        peer: Some(SERVER),
        uses: Uses::ESTABLISHED,
        ..over_udp(caller())
    };
    for box_begins in [true, false] {
        let mut fw = Firewall::new();
        fw.register(&both);
        for step in 0..4 {
            if (step % 2 == 0) == box_begins {
                let seen = fw
                    .stack(INTER, udp(&udp_tuple(CALLER, SERVER), b"x"))
                    .to_wire(INTER);
                assert_eq!(seen.tuple, udp_tuple(CLIENT, SERVER));
            } else {
                let seen = fw
                    .wire(INTER, udp(&udp_tuple(SERVER, CLIENT), b"y"))
                    .to_stack();
                assert_eq!(seen.tuple, udp_tuple(SERVER, CALLER));
            }
        }
        let flow = fw.flow();
        assert_eq!((flow.orig.packets, flow.reply.packets), (2, 2));
        // Nobody but the peer reaches it, and it reaches nobody else.
        let outcome = fw.wire(INTER, udp(&udp_tuple(SERVER2, CLIENT), b"z"));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForwardDenied));
        let outcome = fw.stack(INTER, udp(&udp_tuple(CALLER, SERVER2), b"z"));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
    }
}

/// Taken one by one, they have no connection that could keep them from the nearest socket.
#[test]
fn the_next_datagram_goes_to_the_nearest_registration() {
    let nearer = [
        Registration {
            peer: Some(CLIENT),
            owner: OTHER,
            ..registration(Protocol::UDP, CALLER, FOREIGN, Uses::ESTABLISHED)
        },
        Registration {
            peer: Some(CLIENT),
            owner: OTHER,
            ..registration(Protocol::UDP, CALLER, FOREIGN, UNIDIR)
        },
    ];
    for near in nearer {
        let mut fw = Firewall::new();
        fw.register(&registration(Protocol::UDP, LISTENER, FOREIGN, UNIDIR));
        let ask = || udp(&udp_tuple(CLIENT, FOREIGN), b"?");
        for _ in 0..2 {
            assert_eq!(fw.wire(INTRA, ask()).to_stack().tuple.dst, LISTENER);
        }
        let id = fw.register(&near);
        let seen = fw.wire(INTRA, ask()).to_stack().tuple;
        assert_eq!(seen.dst, CALLER);
        let answer = udp(&udp_tuple(CALLER, seen.src), b"!");
        let left = fw.stack(INTRA, answer).to_wire(INTRA).tuple;
        assert_eq!(left, udp_tuple(FOREIGN, CLIENT));
        if !near.is_one_way() {
            // What the farther one got before, it may still answer.
            let answer = udp(&udp_tuple(LISTENER, CLIENT), b"!");
            let left = fw.stack(INTRA, answer).to_wire(INTRA).tuple;
            assert_eq!(left, udp_tuple(FOREIGN, CLIENT));
        }
        fw.withdraw(id);
        assert_eq!(fw.wire(INTRA, ask()).to_stack().tuple.dst, LISTENER);
    }
}

/// A rule has led a datagram for the box itself to a registered socket: its answer comes from
/// where the client has sent to, whatever the socket shows to others by then.
#[test]
fn an_answer_comes_from_where_the_rule_took_the_datagram() {
    let everything = Rule {
        proto: Test::Any,
        destination_ports: Test::Any,
        ..redirect(80, PROXY)
    };
    let mut fw = Firewall::with_rules(vec![everything]);
    let proxy = registration(Protocol::UDP, PROXY, SERVER, UNIDIR);
    let id = fw.register(&proxy);
    let frame = udp(&udp_tuple(CLIENT, LISTENER), b"?");
    assert_eq!(fw.wire(INTRA, frame).to_stack().tuple.dst, PROXY);
    let connects = Registration {
        uses: Uses::CONNECT,
        ..proxy
    };
    fw.registrations.replace(id, &connects).unwrap();
    let answer = udp(&udp_tuple(PROXY, CLIENT), b"!");
    let seen = fw.stack(INTRA, answer).to_wire(INTRA);
    assert_eq!(seen.tuple, udp_tuple(LISTENER, CLIENT));
}
