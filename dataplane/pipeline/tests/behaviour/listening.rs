//! Foreign listen: connections and datagrams to a registered foreign endpoint.

use pipeline::{DropReason, Event, Verdict};
use policy::RuleId;
use tables::{FlowKey, FlowState, Kind, OwnerId, Registration, Side, Uses};
use wire::Endpoint;

use crate::fixture::*;

#[test]
fn a_connection_to_a_foreign_endpoint_reaches_the_listener() {
    for port in [INTRA, INTER] {
        let mut fw = Firewall::new();
        fw.register(&listener());
        let seen = fw.wire(port, syn(CLIENT, FOREIGN, 1000)).to_stack();
        assert_eq!(seen.tuple, tcp_tuple(CLIENT, LISTENER));
        assert_eq!(seen.mac_dst, MARKS.to_stack(port));
        let seen = fw
            .stack(port, syn_ack(LISTENER, CLIENT, 2000, 1001))
            .to_wire(port);
        assert_eq!(seen.tuple, tcp_tuple(FOREIGN, CLIENT));
        fw.wire(port, ack(CLIENT, FOREIGN, b"x")).to_stack();
        let flow = fw.flow();
        assert_eq!(flow.state, FlowState::Established);
        assert_eq!((flow.flow.kind, flow.flow.owner), (Kind::Listen, OWNER));
        let orig = FlowKey::new(Side::Wire, &tcp_tuple(CLIENT, FOREIGN));
        assert_eq!(flow.flow.orig, orig);
        assert_eq!(fw.flows.owned_by(OWNER), 1);
        assert_eq!(fw.counters.events(Event::Listened), 1);
        assert_eq!(fw.counters.events(Event::Local), 0);
    }
}

#[test]
fn a_datagram_to_a_foreign_endpoint_reaches_the_listener() {
    let mut fw = Firewall::new();
    fw.register(&over_udp(listener()));
    let seen = fw
        .wire(INTRA, udp(&udp_tuple(CLIENT, FOREIGN), b"?"))
        .to_stack();
    assert_eq!(seen.tuple, udp_tuple(CLIENT, LISTENER));
    let seen = fw
        .stack(INTRA, udp(&udp_tuple(LISTENER, CLIENT), b"!"))
        .to_wire(INTRA);
    assert_eq!(seen.tuple, udp_tuple(FOREIGN, CLIENT));
    assert_eq!(fw.flow().flow.kind, Kind::Listen);
    // The other protocol is not registered.
    let outcome = fw.wire(INTRA, syn(CLIENT, FOREIGN, 1));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForwardDenied));
}

#[test]
fn a_registration_wins_over_rules() {
    let to_server = Registration {
        foreign: SERVER,
        ..listener()
    };
    for rule in [redirect(80, PROXY), drop_to(SERVER.addr)] {
        let mut fw = Firewall::with_rules(vec![rule]);
        let id = fw.register(&to_server);
        assert_eq!(fw.open(CLIENT, SERVER, 1).tuple.dst, LISTENER);
        assert_eq!(fw.view().rule_hits.read(RuleId(0)), (0, 0));
        fw.withdraw(id);
        let other = Endpoint::new(CLIENT.addr, 41_000);
        let outcome = fw.wire(INTRA, syn(other, SERVER, 1));
        assert_eq!(fw.view().rule_hits.read(RuleId(0)), (1, 40));
        match outcome.verdict {
            Verdict::Host => assert_eq!(outcome.to_stack().tuple.dst, PROXY),
            verdict => assert_eq!(verdict, Verdict::Drop(DropReason::RuleDrop)),
        }
    }
}

/// A foreign endpoint may be at an address of the box, where something else listens.
#[test]
fn an_address_of_the_box_may_be_foreign() {
    let mut fw = Firewall::new();
    let own = Endpoint::new(OWN_INTER, 21);
    fw.register(&Registration {
        foreign: own,
        ..listener()
    });
    assert_eq!(fw.open(CLIENT, own, 1).tuple.dst, LISTENER);
    let seen = fw
        .stack(INTRA, syn_ack(LISTENER, CLIENT, 1, 2))
        .to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(own, CLIENT));
}

#[test]
fn the_exact_peer_comes_before_everybody() {
    let mut fw = Firewall::new();
    let special = Endpoint::new(OWN_INTRA, 50_031);
    fw.register(&listener());
    fw.register(&Registration {
        local: special,
        peer: Some(CLIENT),
        owner: OTHER,
        ..listener()
    });
    assert_eq!(fw.open(CLIENT, FOREIGN, 1).tuple.dst, special);
    let neighbour = Endpoint::new(CLIENT.addr, CLIENT.port + 1);
    assert_eq!(fw.open(neighbour, FOREIGN, 1).tuple.dst, LISTENER);
    assert_eq!((fw.flows.owned_by(OWNER), fw.flows.owned_by(OTHER)), (1, 1));
}

#[test]
fn only_a_syn_opens_a_connection_to_a_foreign_endpoint() {
    let mut fw = Firewall::with_rules(vec![redirect(2121, PROXY)]);
    fw.register(&listener());
    for flags in [0, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, SYN | FIN] {
        let frame = tcp(&tcp_tuple(CLIENT, FOREIGN), flags, 1, 1, b"");
        let outcome = fw.wire(INTRA, frame);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoFlow));
    }
    assert_eq!(fw.flows.counts().live, 0);
}

#[test]
fn what_does_not_listen_takes_nothing() {
    let mut fw = Firewall::new();
    for (n, uses) in [Uses::default(), Uses::CONNECT, Uses::ESTABLISHED]
        .into_iter()
        .enumerate()
    {
        let local = Endpoint::new(OWN_INTRA, 50_040 + n as u16);
        let foreign = Endpoint::new(FOREIGN.addr, 3000 + n as u16);
        fw.register(&registration(wire::Protocol::TCP, local, foreign, uses));
        let outcome = fw.wire(INTRA, syn(CLIENT, foreign, 1));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForwardDenied));
    }
}

#[test]
fn sources_that_no_host_may_have_reach_no_listener() {
    let mut fw = Firewall::new();
    fw.register(&listener());
    let sources = [[224, 0, 0, 1], [127, 0, 0, 1], [0, 0, 0, 0], [255; 4]];
    for source in sources {
        let from = Endpoint::new(source.into(), 40_000);
        let outcome = fw.wire(INTRA, syn(from, FOREIGN, 1));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::BadSource));
    }
    // Nor does what claims to come from the box, the listener itself included.
    for from in [LISTENER, Endpoint::new(OWN_INTER, 1)] {
        let outcome = fw.wire(INTRA, syn(from, FOREIGN, 1));
        assert_eq!(outcome.to_wire(INTRA).flags, RST | ACK);
    }
    assert_eq!(fw.counters.drops(DropReason::Loop), 2);
    assert_eq!(fw.flows.counts().live, 0);
}

#[test]
fn a_listener_at_a_lost_address_is_not_fed() {
    let mut fw = Firewall::of(Setting {
        own: vec![OWN_INTER],
        ..Setting::default()
    });
    fw.register(&listener());
    let outcome = fw.wire(INTRA, syn(CLIENT, FOREIGN, 1));
    assert_eq!(outcome.to_wire(INTRA).flags, RST | ACK);
    assert_eq!(fw.counters.drops(DropReason::ProxyNotLocal), 1);
    assert_eq!(fw.flows.counts().live, 0);
}

#[test]
fn two_foreign_endpoints_of_one_listener_are_told_apart() {
    let mut fw = Firewall::new();
    fw.register(&listener());
    let second = Endpoint::new(FOREIGN.addr, 2122);
    fw.register(&Registration {
        foreign: second,
        peer: Some(CLIENT),
        ..listener()
    });
    let first = fw.open(CLIENT, FOREIGN, 1).tuple.src;
    let other = fw.open(CLIENT, second, 1).tuple.src;
    assert_eq!(first, CLIENT);
    assert_ne!(other, CLIENT);
    for (shown, foreign) in [(first, FOREIGN), (other, second)] {
        let seen = fw
            .stack(INTRA, syn_ack(LISTENER, shown, 1, 2))
            .to_wire(INTRA);
        assert_eq!(seen.tuple, tcp_tuple(foreign, CLIENT));
    }
}

#[test]
fn nothing_is_taken_while_registrations_are_being_changed() {
    let mut fw = Firewall::new();
    fw.register(&listener());
    let registrations = std::sync::Arc::clone(&fw.registrations);
    let hold = registrations.hold();
    let outcome = fw.wire(INTRA, syn(CLIENT, FOREIGN, 1));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::RegistrationBusy));
    // What has no ports cannot be registered.
    fw.wire(INTRA, echo(CLIENT.addr, OWN_INTRA)).to_stack();
    drop(hold);
    assert_eq!(fw.open(CLIENT, FOREIGN, 1).tuple.dst, LISTENER);
    assert_eq!(fw.flow().flow.owner, OWNER);
    assert_ne!(OWNER, OwnerId::NOBODY);
}
