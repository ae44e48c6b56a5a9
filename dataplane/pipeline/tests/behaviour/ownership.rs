//! Flows and the sockets that they belong to: none outlives its socket in another's hands.

use pipeline::{DropReason, Event, Ingress, Verdict};
use tables::{Kind, OwnerId, Registration, Timeouts};
use wire::Endpoint;

use crate::fixture::firewall::on_wire;
use crate::fixture::*;

fn as_foreign(own: Registration) -> Registration {
    Registration {
        foreign: FOREIGN,
        owner: OTHER,
        ..own
    }
}

#[test]
fn a_reused_local_port_never_gets_the_old_foreign_address() {
    let mut fw = Firewall::new();
    let old = fw.register(&caller());
    fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    fw.wire(INTER, syn_ack(SERVER, CLIENT, 1, 1001)).to_stack();
    fw.stack(INTER, tcp(&tcp_tuple(CALLER, SERVER), ACK, 1001, 2, b""))
        .to_wire(INTER);
    // Open, as far as can be seen, when its socket goes.
    fw.withdraw(old);
    fw.register(&as_foreign(caller()));
    let seen = fw.stack(INTER, syn(CALLER, SERVER, 5000)).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(FOREIGN, SERVER));
    assert_eq!(fw.flow().flow.owner, OTHER);
    assert_eq!(fw.counters.events(Event::Reopened), 1);
    // The server's late words to the old name reach nobody.
    let late = fw.wire(INTER, ack(SERVER, CLIENT, b"late"));
    assert_eq!(late.verdict, Verdict::Drop(DropReason::NoFlow));
}

#[test]
fn a_reused_local_port_without_a_registration_leaves_as_itself() {
    let mut fw = Firewall::new();
    let old = fw.register(&caller());
    fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    fw.withdraw(old);
    let seen = fw.stranger(INTER, syn(CALLER, SERVER, 5000)).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(CALLER, SERVER));
    let flow = fw.flow().flow;
    assert_eq!((flow.kind, flow.owner), (Kind::Local, OwnerId::NOBODY));
}

/// A socket unregistered while it connects: its SYN is sent again under the name it had.
#[test]
fn a_syn_sent_again_keeps_its_name_whatever_is_registered_by_then() {
    for next in [None, Some(as_foreign(caller()))] {
        let mut fw = Firewall::new();
        let old = fw.register(&caller());
        fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
        fw.withdraw(old);
        if let Some(next) = &next {
            fw.register(next);
        }
        let seen = fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
        assert_eq!(seen.tuple, tcp_tuple(CLIENT, SERVER));
        assert_eq!(fw.flow().orig.packets, 2);
    }
}

#[test]
fn a_new_connection_waits_until_its_registration_is_known() {
    let mut fw = Firewall::new();
    fw.register(&caller());
    fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    let registrations = std::sync::Arc::clone(&fw.registrations);
    let hold = registrations.hold();
    // A known flow needs no answer; a new connection does.
    fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    let outcome = fw.stack(INTER, syn(CALLER, SERVER, 9000));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::RegistrationBusy));
    drop(hold);
    fw.stack(INTER, syn(CALLER, SERVER, 9000)).to_wire(INTER);
    assert_eq!(fw.flow().orig.packets, 1);
}

#[test]
fn a_withdrawn_owners_connections_live_on() {
    let mut fw = Firewall::new();
    let ids = [
        fw.register(&listener()),
        fw.register(&Registration {
            owner: OTHER,
            ..caller()
        }),
    ];
    fw.open(CLIENT, FOREIGN, 1000);
    fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    for id in ids {
        fw.withdraw(id);
    }
    let seen = fw
        .stack(INTRA, syn_ack(LISTENER, CLIENT, 1, 1001))
        .to_wire(INTRA);
    assert_eq!(seen.tuple, tcp_tuple(FOREIGN, CLIENT));
    let seen = fw.wire(INTER, syn_ack(SERVER, CLIENT, 1, 1001)).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(SERVER, CALLER));
    assert_eq!(fw.flows.counts().live, 2);
    // But there are no new ones.
    let other = Endpoint::new(CLIENT.addr, 41_000);
    let outcome = fw.wire(INTRA, syn(other, FOREIGN, 1));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForwardDenied));
}

#[test]
fn a_withdrawn_owners_datagrams_are_first_packets_again() {
    let mut fw = Firewall::new();
    let id = fw.register(&over_udp(listener()));
    let frame = || udp(&udp_tuple(CLIENT, FOREIGN), b"?");
    fw.wire(INTRA, frame()).to_stack();
    fw.withdraw(id);
    let outcome = fw.wire(INTRA, frame());
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForwardDenied));
    assert_eq!(fw.flows.owned_by(OWNER), 0);

    // So are those that were taken one by one.
    let mut fw = Firewall::new();
    let id = fw.register(&Registration {
        uses: UNIDIR,
        ..over_udp(listener())
    });
    fw.wire(INTRA, frame()).to_stack();
    fw.withdraw(id);
    let outcome = fw.wire(INTRA, frame());
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForwardDenied));

    // And the stack's, for a new owner at once.
    let mut fw = Firewall::new();
    let id = fw.register(&over_udp(caller()));
    let frame = || udp(&udp_tuple(CALLER, SERVER), b"x");
    fw.stack(INTER, frame()).to_wire(INTER);
    fw.withdraw(id);
    fw.register(&as_foreign(over_udp(caller())));
    let seen = fw.stack(INTER, frame()).to_wire(INTER);
    assert_eq!(seen.tuple, udp_tuple(FOREIGN, SERVER));
    assert_eq!(fw.flow().flow.owner, OTHER);
}

#[test]
fn a_batch_sees_no_flow_that_it_has_found_withdrawn() {
    let mut fw = Firewall::new();
    let id = fw.register(&over_udp(listener()));
    let frame = on_wire(INTRA, udp(&udp_tuple(CLIENT, FOREIGN), b"?"));
    for outcome in fw.batch(Ingress::Port(INTRA), vec![frame.clone(); 3]) {
        outcome.to_stack();
    }
    fw.withdraw(id);
    for outcome in fw.batch(Ingress::Port(INTRA), vec![frame; 3]) {
        assert_eq!(
            outcome.verdict,
            Verdict::Drop(DropReason::ForwardDenied),
            "a flow that has gone"
        );
    }
}

#[test]
fn an_error_about_a_withdrawn_owners_datagram_is_about_no_flow() {
    let mut fw = Firewall::new();
    let id = fw.register(&over_udp(caller()));
    let sent = fw.stack(INTER, udp(&udp_tuple(CALLER, SERVER), b"x")).frame;
    fw.withdraw(id);
    let error = icmp_error(SERVER.addr, CLIENT.addr, &sent, usize::MAX);
    let outcome = fw.wire(INTER, error);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::IcmpNoFlow));
}

/// A SYN that was on its way to the worker when its registration ended.
#[test]
fn a_connection_does_not_begin_as_its_registration_ends() {
    for has_flow in [false, true] {
        let mut fw = Firewall::new();
        let id = fw.register(&caller());
        if has_flow {
            fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
        }
        fw.withdraw(id);
        let outcome = fw.stack(INTER, syn(CALLER, SERVER, 5000));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::OwnerGone));
    }
}

/// What is registered for one peer says nothing of others: its socket has no name for them.
#[test]
fn a_connection_past_the_registered_peer_goes_nowhere() {
    let mut fw = Firewall::new();
    fw.register(&Registration {
        peer: Some(SERVER),
        ..caller()
    });
    let outcome = fw.stack(INTER, syn(CALLER, SERVER2, 1));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::OwnerGone));
    fw.stack(INTER, syn(CALLER, SERVER, 1)).to_wire(INTER);
}

/// Another socket that would show the same foreign endpoint.
fn second() -> Registration {
    Registration {
        local: Endpoint::new(OWN_INTER, 50_023),
        owner: OTHER,
        ..caller()
    }
}

#[test]
fn a_withdrawn_owners_datagrams_give_their_foreign_endpoint_free() {
    let mut fw = Firewall::new();
    let old = fw.register(&over_udp(caller()));
    fw.register(&over_udp(second()));
    let frame = |from| udp(&udp_tuple(from, SERVER), b"x");
    fw.stack(INTER, frame(CALLER)).to_wire(INTER);
    fw.withdraw(old);
    let seen = fw.stack(INTER, frame(second().local)).to_wire(INTER);
    assert_eq!(seen.tuple.src, CLIENT);
    assert_eq!(fw.flow().flow.owner, OTHER);
}

/// An accepted socket outlives its listener.
#[test]
fn a_closed_listeners_connection_keeps_its_name() {
    let mut fw = Firewall::new();
    let id = fw.register(&listener());
    fw.open(CLIENT, FOREIGN, 1000);
    fw.stack(INTRA, syn_ack(LISTENER, CLIENT, 2000, 1001))
        .to_wire(INTRA);
    fw.withdraw(id);
    fw.register(&as_foreign(second()));
    let outcome = fw.stack(INTRA, syn(second().local, CLIENT, 77));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForeignTaken));
    let seen = fw.wire(INTRA, ack(CLIENT, FOREIGN, b"x")).to_stack();
    assert_eq!(seen.tuple.dst, LISTENER);
}

/// The server never answered, and the socket is gone.
#[test]
fn a_connection_that_was_given_up_gives_its_foreign_endpoint_free() {
    let mut fw = Firewall::new();
    let old = fw.register(&caller());
    fw.register(&second());
    fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    let open = || syn(second().local, SERVER, 1);
    let outcome = fw.stack(INTER, open());
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ForeignTaken));
    fw.withdraw(old);
    fw.stack(INTER, open()).to_wire(INTER);
    assert_eq!(fw.flow().flow.owner, OTHER);
}

/// A socket may be unregistered while it is connected: it goes on talking.
#[test]
fn a_withdrawn_owners_connection_keeps_its_foreign_endpoint_until_it_is_over() {
    let mut fw = Firewall::new();
    let old = fw.register(&caller());
    fw.register(&second());
    fw.stack(INTER, syn(CALLER, SERVER, 1000)).to_wire(INTER);
    fw.withdraw(old);
    let open = || syn(second().local, SERVER, 1);
    let taken = Verdict::Drop(DropReason::ForeignTaken);
    fw.wire(INTER, syn_ack(SERVER, CLIENT, 1, 1001)).to_stack();
    assert_eq!(fw.stack(INTER, open()).verdict, taken);
    let seen = fw.stack(INTER, ack(CALLER, SERVER, b"x")).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, SERVER));
    assert_eq!(fw.flow().flow.owner, OWNER);
    fw.stack(INTER, tcp(&tcp_tuple(CALLER, SERVER), RST, 1002, 0, b""))
        .to_wire(INTER);
    let seen = fw.stack(INTER, open()).to_wire(INTER);
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, SERVER));
    assert_eq!(fw.flow().flow.owner, OTHER);
}

#[test]
fn a_registration_withdrawn_at_this_moment_makes_no_flow() {
    let mut fw = Firewall::new();
    fw.register(&listener());
    fw.register(&over_udp(caller()));
    fw.flows.withdraw(OWNER);
    let outcomes = [
        fw.wire(INTRA, syn(CLIENT, FOREIGN, 1)),
        fw.wire(INTRA, syn(CLIENT, LISTENER, 1)),
        fw.stack(INTER, syn(LISTENER, SERVER, 1)),
        fw.stack(INTER, udp(&udp_tuple(CALLER, SERVER), b"x")),
    ];
    for outcome in outcomes {
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::OwnerGone));
    }
    assert_eq!(fw.counters.drops(DropReason::OwnerGone), 4);
}

#[test]
fn what_is_withdrawn_goes_with_the_next_sweep() {
    let mut fw = Firewall::new();
    let id = fw.register(&over_udp(listener()));
    fw.wire(INTRA, udp(&udp_tuple(CLIENT, FOREIGN), b"?"))
        .to_stack();
    fw.withdraw(id);
    let mut cursor = 0;
    let gone = fw
        .flows
        .expire(&mut cursor, 10, fw.now_ns, &Timeouts::default(), |_| {});
    assert_eq!((gone, fw.flows.owned_by(OWNER)), (1, 0));
}

#[test]
fn a_listener_registered_over_live_flows_takes_only_new_ones() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1000);
    fw.register(&Registration {
        foreign: SERVER,
        ..listener()
    });
    let seen = fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
    let other = Endpoint::new(CLIENT.addr, 41_000);
    assert_eq!(fw.open(other, SERVER, 1).tuple.dst, LISTENER);
    // The old one's tuple, used again after its end.
    fw.stack(
        INTRA,
        tcp(&tcp_tuple(PROXY, CLIENT), RST | ACK, 0, 1001, b""),
    )
    .to_wire(INTRA);
    assert_eq!(fw.open(CLIENT, SERVER, 9000).tuple.dst, LISTENER);
}
