//! Foreign connect: a registered socket's connections carry its foreign endpoint.

use std::collections::HashSet;

use pipeline::{DropReason, Event, Verdict};
use tables::{FlowKey, FlowState, Kind, Registration, Side, Uses};
use wire::{Endpoint, Protocol, Tuple};

use crate::fixture::*;

/// Another socket of the proxy's.
const SECOND_CALLER: Endpoint = Endpoint::new(OWN_INTER, 50_023);

fn second_caller() -> Registration {
    Registration {
        local: SECOND_CALLER,
        owner: OTHER,
        ..caller()
    }
}

/// The foreign port was chosen.
fn any_port() -> Registration {
    Registration {
        foreign: Endpoint::new(FOREIGN.addr, 0),
        ..caller()
    }
}

fn connect(fw: &mut Firewall, from: Endpoint, to: Endpoint, isn: u32) -> Tuple {
    fw.stack(INTER, syn(from, to, isn)).to_wire(INTER).tuple
}

#[test]
fn a_connection_carries_the_foreign_endpoint_and_its_answers_come_back() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    let seen = fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, SERVER));
    assert_eq!((seen.mac_src, seen.mac_dst), (PORT_MACS[1], NEIGHBOUR));
    let seen = fw
        .wire(INTER, syn_ack(SERVER, CLIENT, 2000, 1001))
        .to_stack();
    assert_eq!(seen.tuple, tcp_tuple(SERVER, CALLER));
    assert_eq!(seen.mac_dst, MARKS.to_stack(INTER));
    let seen = fw.stack(INTER, ack(CALLER, SERVER, b"x")).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, SERVER));
    let flow = fw.flow();
    assert_eq!(flow.state, FlowState::Established);
    assert_eq!((flow.flow.kind, flow.flow.owner), (Kind::Connect, OWNER));
    let keys = [
        FlowKey::new(Side::Host, &tcp_tuple(CALLER, SERVER)),
        FlowKey::new(Side::Wire, &tcp_tuple(SERVER, CLIENT)),
    ];
    assert_eq!([flow.flow.orig, flow.flow.reply], keys);
    assert_eq!(fw.counters.events(Event::Connected), 1);
    assert_eq!(fw.counters.events(Event::Local), 0);
}

#[test]
fn a_datagram_carries_the_foreign_endpoint_too() {
    let mut fw = Firewall::new();
    fw.register(&over_udp(caller()));
    let seen = fw
        .stack(INTER, udp(&udp_tuple(CALLER, SERVER), b"?"))
        .to_wire(INTER);
    assert_eq!(seen.tuple, udp_tuple(CLIENT, SERVER));
    let seen = fw
        .wire(INTER, udp(&udp_tuple(SERVER, CLIENT), b"!"))
        .to_stack();
    assert_eq!(seen.tuple, udp_tuple(SERVER, CALLER));
    assert_eq!(fw.flow().flow.kind, Kind::Connect);
}

/// The client's own address and port towards the server that it believes to talk to: the
/// tuple of one leg is that of the other, and both live at once.
#[test]
fn the_clients_own_endpoint_works_beside_its_redirected_connection() {
    for connect_first in [false, true] {
        let mut fw = Firewall::new();
        fw.register(&caller());
        if connect_first {
            assert_eq!(
                connect(&mut fw, CALLER, SERVER, 7000),
                tcp_tuple(CLIENT, SERVER)
            );
        }
        assert_eq!(
            fw.open(CLIENT, SERVER, 1000).tuple,
            tcp_tuple(CLIENT, PROXY)
        );
        if !connect_first {
            assert_eq!(
                connect(&mut fw, CALLER, SERVER, 7000),
                tcp_tuple(CLIENT, SERVER)
            );
        }
        let seen = fw.wire(INTER, syn_ack(SERVER, CLIENT, 1, 7001)).to_stack();
        assert_eq!(seen.tuple, tcp_tuple(SERVER, CALLER));
        let seen = fw
            .stack(INTRA, syn_ack(PROXY, CLIENT, 1, 1001))
            .to_wire(INTRA);
        assert_eq!(seen.tuple, tcp_tuple(SERVER, CLIENT));
        let seen = fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
        assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
        let kinds: HashSet<_> = fw.flows.iter().map(|f| f.flow.kind).collect();
        assert_eq!(kinds, [Kind::Redirect, Kind::Connect].into());
    }
}

#[test]
fn many_share_one_foreign_endpoint_towards_different_servers() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    fw.register(&second_caller());
    assert_eq!(
        connect(&mut fw, CALLER, SERVER, 1),
        tcp_tuple(CLIENT, SERVER)
    );
    let seen = connect(&mut fw, SECOND_CALLER, SERVER2, 1);
    assert_eq!(seen, tcp_tuple(CLIENT, SERVER2));
    for (server, local) in [(SERVER, CALLER), (SERVER2, SECOND_CALLER)] {
        let seen = fw.wire(INTER, syn_ack(server, CLIENT, 1, 2)).to_stack();
        assert_eq!(seen.tuple, tcp_tuple(server, local));
    }
}

#[test]
fn the_exact_peer_comes_before_everybody() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    fw.register(&Registration {
        foreign: FOREIGN,
        peer: Some(SERVER),
        owner: OTHER,
        ..caller()
    });
    assert_eq!(
        connect(&mut fw, CALLER, SERVER, 1),
        tcp_tuple(FOREIGN, SERVER)
    );
    assert_eq!(
        connect(&mut fw, CALLER, SERVER2, 1),
        tcp_tuple(CLIENT, SERVER2)
    );
}

#[test]
fn a_foreign_port_of_0_is_the_local_one_if_that_is_free() {
    let mut fw = Firewall::new();
    fw.register(&any_port());
    let local_port = Endpoint::new(FOREIGN.addr, CALLER.port);
    assert_eq!(
        connect(&mut fw, CALLER, SERVER, 1),
        tcp_tuple(local_port, SERVER)
    );
    assert_eq!(fw.counters.events(Event::PortChanged), 0);

    // Another address of the box with the same port.
    let twin = Endpoint::new(OWN_INTRA, CALLER.port);
    fw.register(&Registration {
        local: twin,
        owner: OTHER,
        ..any_port()
    });
    let chosen = connect(&mut fw, twin, SERVER, 1).src;
    assert_eq!(chosen.addr, FOREIGN.addr);
    assert_ne!(chosen.port, CALLER.port);
    assert!(chosen.port >= 1024);
    assert_eq!(fw.counters.events(Event::PortChanged), 1);
    for (foreign, local) in [(local_port, CALLER), (chosen, twin)] {
        let seen = fw.wire(INTER, syn_ack(SERVER, foreign, 1, 2)).to_stack();
        assert_eq!(seen.tuple, tcp_tuple(SERVER, local));
    }
    // Towards another server it is free again.
    assert_eq!(connect(&mut fw, twin, SERVER2, 1).src, local_port);
}

#[test]
fn no_port_is_free_when_all_are_taken() {
    let fw = Firewall::of(Setting {
        capacity: 1 << 17,
        ..Setting::default()
    });
    for port in 1024..=u16::MAX {
        let local = Endpoint::new(CLIENT.addr, port);
        let flow = tables::NewFlow {
            orig: FlowKey::new(Side::Host, &tcp_tuple(local, SERVER)),
            reply: FlowKey::new(
                Side::Wire,
                &tcp_tuple(SERVER, Endpoint::new(FOREIGN.addr, port)),
            ),
            kind: Kind::Connect,
            generation: 1,
            owner: OTHER,
        };
        fw.flows.insert(&flow, fw.now_ns).unwrap();
    }
    let mut fw = fw;
    fw.register(&any_port());
    let outcome = fw.stack(INTER, syn(CALLER, SERVER, 1));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoPort));
}

#[test]
fn a_taken_foreign_endpoint_is_not_shared() {
    for proto in [Protocol::TCP, Protocol::UDP] {
        let mut fw = Firewall::new();
        for own in [caller(), second_caller()] {
            fw.register(&Registration { proto, ..own });
        }
        let frame = |from| match proto {
            Protocol::TCP => syn(from, SERVER, 1),
            _ => udp(&udp_tuple(from, SERVER), b"x"),
        };
        fw.stack(INTER, frame(CALLER)).to_wire(INTER);
        let outcome = fw.stack(INTER, frame(SECOND_CALLER));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForeignTaken));
        assert_eq!(fw.flow().flow.owner, OWNER);
    }
}

/// Somebody at the server's address and port has opened a connection to the foreign endpoint.
#[test]
fn a_foreign_endpoint_that_a_connection_from_the_wire_holds_is_taken() {
    for is_answered in [true, false] {
        let mut fw = Firewall::with_rules(vec![redirect(CLIENT.port, PROXY)]);
        fw.register(&caller());
        fw.wire(INTER, syn(SERVER, CLIENT, 1)).to_stack();
        if is_answered {
            fw.stack(INTER, syn_ack(PROXY, SERVER, 1, 2)).to_wire(INTER);
        }
        let outcome = fw.stack(INTER, syn(CALLER, SERVER, 1));
        if is_answered {
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForeignTaken));
        } else {
            // Anybody can send a SYN.
            assert_eq!(outcome.to_wire(INTER).tuple, tcp_tuple(CLIENT, SERVER));
            assert_eq!(fw.flow().flow.kind, Kind::Connect);
        }
    }
}

/// A listener for one peer does not hide who connects from its endpoint; a marked socket that
/// connects to that peer is itself.
#[test]
fn a_listener_for_the_peer_hides_no_connection() {
    let nothing = Endpoint::new([0, 0, 0, 0].into(), 0);
    for (uses, foreign, leaves_as) in [
        (Uses::LISTEN, FOREIGN, CLIENT),
        (Uses::default(), FOREIGN, CALLER),
        (Uses::CONNECT, nothing, CALLER),
        (Uses::CONNECT.with(Uses::LISTEN), FOREIGN, FOREIGN),
    ] {
        let mut fw = Firewall::new();
        fw.register(&caller());
        fw.register(&Registration {
            peer: Some(SERVER),
            uses,
            foreign,
            owner: OTHER,
            ..caller()
        });
        assert_eq!(
            connect(&mut fw, CALLER, SERVER, 1),
            tcp_tuple(leaves_as, SERVER)
        );
    }
    // Without one that connects, the listener's word stands.
    let for_peer = Registration {
        peer: Some(SERVER),
        uses: Uses::LISTEN,
        ..caller()
    };
    for is_alone in [true, false] {
        let mut fw = Firewall::new();
        fw.register(&for_peer);
        if !is_alone {
            fw.register(&Registration {
                peer: None,
                owner: OTHER,
                ..for_peer
            });
        }
        assert_eq!(connect(&mut fw, CALLER, SERVER, 1).src, CALLER);
        assert_eq!(fw.flow().flow.owner, OWNER);
    }
}

#[test]
fn a_foreign_endpoint_is_free_when_its_connection_is_over() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    fw.register(&second_caller());
    connect(&mut fw, CALLER, SERVER, 1);
    let old = fw.flow().id;
    // The proxy's own reset.
    fw.stack(INTER, tcp(&tcp_tuple(CALLER, SERVER), RST, 2, 0, b""))
        .to_wire(INTER);
    assert_eq!(
        connect(&mut fw, SECOND_CALLER, SERVER, 1),
        tcp_tuple(CLIENT, SERVER)
    );
    let flow = fw.flow();
    assert_ne!(flow.id, old);
    assert_eq!(flow.flow.owner, OTHER);
    let late = fw.stack(INTER, ack(CALLER, SERVER, b"late"));
    assert_eq!(late.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
}

#[test]
fn only_a_syn_begins_a_connection() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    for flags in [0, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK] {
        let frame = tcp(&tcp_tuple(CALLER, SERVER), flags, 1, 1, b"");
        let outcome = fw.stack(INTER, frame);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
    }
    assert_eq!(fw.flows.counts().live, 0);
}

#[test]
fn what_does_not_connect_leaves_as_it_is_and_a_datagram_not_at_all() {
    let marked = Registration {
        foreign: Endpoint::new([0, 0, 0, 0].into(), 0),
        ..caller()
    };
    let listens = Registration {
        uses: Uses::LISTEN,
        ..caller()
    };
    for own in [marked, listens] {
        let mut fw = Firewall::new();
        fw.register(&own);
        assert_eq!(
            connect(&mut fw, CALLER, SERVER, 1),
            tcp_tuple(CALLER, SERVER)
        );
        let flow = fw.flow().flow;
        assert_eq!((flow.kind, flow.owner), (Kind::Local, OWNER));
        assert_eq!(fw.counters.events(Event::Local), 1);
    }
    let mut fw = Firewall::new();
    fw.register(&over_udp(listens));
    let outcome = fw.stack(INTER, udp(&udp_tuple(CALLER, SERVER), b"x"));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
    // Only marked: nothing of it is ever translated.
    let mut fw = Firewall::new();
    fw.register(&over_udp(marked));
    let seen = fw
        .stack(INTER, udp(&udp_tuple(CALLER, SERVER), b"x"))
        .to_wire(INTER);
    assert_eq!(seen.tuple, udp_tuple(CALLER, SERVER));
    let seen = fw
        .wire(INTER, udp(&udp_tuple(SERVER, CALLER), b"y"))
        .to_stack();
    assert_eq!(seen.tuple, udp_tuple(SERVER, CALLER));
}

/// A rule's datagrams are answered from a marked endpoint: what answers a flow that has gone
/// must still not leave as it is.
#[test]
fn a_marked_proxy_answers_no_datagram_without_its_flow() {
    let rule = policy::Rule {
        proto: policy::Test::Is(Protocol::UDP),
        ..redirect(53, PROXY)
    };
    let mut fw = Firewall::with_rules(vec![rule]);
    let nowhere = Endpoint::new([0, 0, 0, 0].into(), 0);
    fw.register(&registration(
        Protocol::UDP,
        PROXY,
        nowhere,
        Uses::default(),
    ));
    let outcome = fw.stack(INTRA, udp(&udp_tuple(PROXY, CLIENT), b"x"));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
}

#[test]
fn nothing_leaves_while_registrations_are_being_changed() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    fw.register(&over_udp(caller()));
    let registrations = std::sync::Arc::clone(&fw.registrations);
    let hold = registrations.hold();
    for frame in [
        syn(CALLER, SERVER, 1),
        udp(&udp_tuple(CALLER, SERVER), b"x"),
    ] {
        let outcome = fw.stack(INTER, frame);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::RegistrationBusy));
    }
    drop(hold);
    assert_eq!(
        connect(&mut fw, CALLER, SERVER, 1),
        tcp_tuple(CLIENT, SERVER)
    );
}

/// A connection stays inside or outside; one of the box to itself never gets here.
#[test]
fn a_connection_to_the_box_itself_or_from_elsewhere_goes_nowhere() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    for (src, dst) in [(CALLER, PROXY), (CLIENT, SERVER)] {
        let outcome = fw.stack(INTER, syn(src, dst, 1));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlowFromStack));
    }
}
